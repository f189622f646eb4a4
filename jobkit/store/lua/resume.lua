-- Lets a paused job go on, or takes back a pause that was asked for.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] actor
-- Returns {'done' | 'refused' | 'newer_schema', state}, or {'unknown'}.
local id = ARGV[1]
local state, request, schema = read(id, 'state', 'request', 'schema')
if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
local at = now()
if state == 'PAUSED' then
  redis.call('HDEL', key('job', id), 'reason')
  move(id, 'PAUSED', 'QUEUED', at, at)
  event(id, 'resumed', at, 'QUEUED', ARGV[2])
  return { 'done', 'QUEUED' }
end
if state == 'RUNNING' and string.match(request or '', '^pause\n') then
  redis.call('HDEL', key('job', id), 'request')
  write(id, 'updated_at', int(at))
  event(id, 'resumed', at, 'RUNNING', ARGV[2])
end
if state == 'RUNNING' or state == 'QUEUED' then
  return { 'done', state }
end
return { 'refused', state }
