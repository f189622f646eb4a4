-- Starts a run of a queued job under the next fence.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] token
-- ARGV[3] worker
-- ARGV[4] lease
-- ARGV[5] task
-- ARGV[6] generation
-- Returns {'run', record, the message if another one was delivered}, or {why not}.
local id, token = ARGV[1], ARGV[2]
local state, held, schema, position, started, fence, starts, task, generation, unique, span, foreign =
  read(
    id, 'state', 'token', 'schema', 'position', 'started_at', 'fence', 'starts', 'task',
    'generation', 'unique_key', 'unique_until', 'foreign'
  )

local function run()
  local newer = ARGV[5] ~= '' and generation and generation ~= ARGV[6]
  return { 'run', record(id), newer and read(id, 'message') or '' }
end

if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
if state == 'RUNNING' then
  if held == token then
    -- Its owner counts the lease from when it sent this last.
    keep_lease(id, now(), ARGV[4])
    return run()
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
if ARGV[5] ~= '' and ARGV[5] ~= task then
  return { 'another_task' }
end
local at = now()
local till = int(at + tonumber(ARGV[4]))
move(
  id, 'QUEUED', 'RUNNING', at, nil, 'token', token, 'worker', ARGV[3],
  'fence', int(tonumber(fence) + 1), 'starts', int(tonumber(starts or '0') + 1),
  'save_seq', 0, 'hints', 0, 'position_at_begin', position or '0',
  'started_at', started or int(at), 'lease_until', till, 'reason', ''
)
redis.call('ZADD', index('leases'), till, id)
if foreign then
  redis.call('HDEL', key('job', id), 'foreign') -- its task has become one of ours
end
if span == 'start' then
  drop_key(id, unique)
end
event(id, 'started', at, 'RUNNING', ARGV[3])
return run()
