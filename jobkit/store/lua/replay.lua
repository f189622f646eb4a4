-- Gives a dead job fresh budgets and another run.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] mode
-- ARGV[3] actor
-- ARGV[4] reason
-- ARGV[5] death
-- Returns {'done' | 'refused' | 'newer_schema', state}, {'held', by which job}, or {'unknown'}.
local id, mode = ARGV[1], ARGV[2]
local state, replays, schema = read(id, 'state', 'replays', 'schema')
if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
-- Whoever names a death means no other, and nothing that came after it.
if ARGV[5] ~= '' and (state ~= 'DEAD' or death(id) ~= ARGV[5]) then
  return { 'refused', state }
end
if state ~= 'DEAD' then
  local before = tonumber(replays or '0') > 0 and not FINISHED[state]
  return { before and 'done' or 'refused', state }
end
local holder = replay_dead(id, mode, now(), said(mode, ARGV[3], ARGV[4]))
if holder then
  return { 'held', holder }
end
return { 'done', 'QUEUED' }
