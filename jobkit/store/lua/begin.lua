-- Starts a run of a queued job under the next fence.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] token
-- ARGV[3] worker
-- ARGV[4] lease
-- ARGV[5] task
-- ARGV[6] generation
-- Returns {'run', record, the message if another one was delivered}, or {why not}.

-- Every job passes here and through succeed.lua. A server builds the functions of a
-- script anew at each call, so these two use none of the prelude's but now(): that is
-- worth a tenth of the time of a short job.
local call, tag, id, token, worker = redis.call, KEYS[1], ARGV[1], ARGV[2], ARGV[3]
local job = tag .. ':job:' .. id
local state, held, schema, position, started, fence, starts, task, generation, unique, span, foreign =
  unpack(call(
    'HMGET', job, 'state', 'token', 'schema', 'position', 'started_at', 'fence', 'starts', 'task',
    'generation', 'unique_key', 'unique_until', 'foreign'
  ))
local again = state == 'RUNNING' and held == token

if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
if state ~= 'QUEUED' and not again then
  local refusals = {
    RUNNING = 'duplicate', CANCELLED = 'cancelled', PAUSED = 'paused',
    SUCCEEDED = 'finished', PARTIAL = 'finished', DEAD = 'finished',
  }
  return { refusals[state] or 'not_due' }
end
if not again and ARGV[5] ~= '' and ARGV[5] ~= task then
  return { 'another_task' }
end

local moment = now()
local at, till = string.format('%d', moment), string.format('%d', moment + ARGV[4])
call('ZADD', tag .. ':leases', till, id)
if again then
  -- Its owner counts the lease from when it sent this last.
  call('HSET', job, 'lease_until', till, 'updated_at', at)
else
  call(
    'HSET', job, 'state', 'RUNNING', 'updated_at', at, 'due_at', '',
    'token', token, 'worker', worker, 'fence', fence + 1, 'starts', (starts or 0) + 1,
    'save_seq', 0, 'hints', 0, 'position_at_begin', position or '0',
    'started_at', started or at, 'lease_until', till
  )
  call('ZREM', tag .. ':due', id)
  call('ZREM', tag .. ':state:QUEUED', id)
  call('ZADD', tag .. ':state:RUNNING', at, id)
  if foreign then
    call('HDEL', job, 'foreign') -- its task has become one of ours
  end
  if span == 'start' and call('GET', tag .. ':unique:' .. unique) == id then
    call('DEL', tag .. ':unique:' .. unique)
  end
  call(
    'XADD', tag .. ':events:' .. id, 'MAXLEN', EVENTS_KEPT, '*', 'name', 'started',
    'at', at, 'state', 'RUNNING', 'detail', worker, 'progress', ''
  )
end
local newer = ARGV[5] ~= '' and generation and generation ~= ARGV[6]
return { 'run', call('HMGET', job, FIELDS), newer and call('HGET', job, 'message') or '' }
