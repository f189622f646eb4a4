-- Gives a dead job up.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] actor
-- ARGV[3] reason
-- Returns {'done' | 'refused' | 'newer_schema', state}, or {'unknown'}.
local id = ARGV[1]
local state, schema = read(id, 'state', 'schema')
if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
if state == 'CANCELLED' then
  return { 'done', state }
end
if state ~= 'DEAD' then
  return { 'refused', state }
end
discard_dead(id, now(), ARGV[3], said('', ARGV[2], ARGV[3]))
return { 'done', 'CANCELLED' }
