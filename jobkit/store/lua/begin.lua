-- Starts a run of a queued job under the next fence.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] token
-- ARGV[3] worker
-- ARGV[4] lease
-- Returns {'run', record}, or {why not}.
local id, token = ARGV[1], ARGV[2]
local state, held, schema, position, started =
  read(id, 'state', 'token', 'schema', 'position', 'started_at')
if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
if state == 'RUNNING' then
  if held == token then
    return { 'run', record(id) }
  end
  return { 'duplicate' }
end
if state == 'CANCELLED' then
  return { 'cancelled' }
end
if FINISHED[state] then
  return { 'finished' }
end
if state == 'PAUSED' then
  return { 'paused' }
end
if state ~= 'QUEUED' then
  return { 'not_due' }
end
local at = now()
local job = key('job', id)
move(id, 'QUEUED', 'RUNNING', at)
not_due(id)
redis.call('HDEL', job, 'request', 'reason')
redis.call('HINCRBY', job, 'fence', 1)
redis.call('HINCRBY', job, 'starts', 1)
write(
  id, 'token', token, 'worker', ARGV[3], 'save_seq', 0, 'hints', 0,
  'position_at_begin', position or '0'
)
if not started then
  write(id, 'started_at', int(at))
end
keep_lease(id, at, ARGV[4])
event(id, 'started', at, 'RUNNING', ARGV[3])
return { 'run', record(id) }
