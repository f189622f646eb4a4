-- Makes a run's job another one under the same id, from its beginning.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] task
-- ARGV[4] message
-- ARGV[5] queue
-- ARGV[6] priority
-- ARGV[7] dead_letter_queue
-- ARGV[8] stages
-- ARGV[9] crash_limit
-- ARGV[10] grace
-- ARGV[11] unique_key
-- ARGV[12] unique_until
-- Returns the state after it, or 'lost'.
local id = ARGV[1]
local run, state, held = owned(id, ARGV[2])
if not run then
  return held == ARGV[2] and state or 'lost'
end
local at = now()
local old_task, old_queue, created, unique = read(id, 'task', 'queue', 'created_at', 'unique_key')
redis.call('ZREM', index('task:' .. old_task), id)
redis.call('ZADD', index('task:' .. ARGV[3]), created, id)
if old_queue and old_queue ~= '' then
  redis.call('ZREM', index('queue:' .. old_queue), id)
end
if ARGV[5] ~= '' then
  redis.call('ZADD', index('queue:' .. ARGV[5]), created, id)
end
write(
  id, 'task', ARGV[3], 'message', ARGV[4], 'queue', ARGV[5], 'priority', ARGV[6],
  'dead_letter_queue', ARGV[7], 'stages', ARGV[8], 'crash_limit', ARGV[9],
  'position', 0, 'attempts', 0, 'crashes_without_progress', 0
)
redis.call(
  'HDEL', key('job', id), 'checkpoint', 'progress', 'budgets', 'error', 'generation',
  'unique_key', 'unique_until', 'unique_till'
)
forget_failures(id)
if unique then
  drop_key(id, unique)
end
if ARGV[11] ~= '' then
  local holder = holder_of(ARGV[11], id, at)
  write(id, 'unique_key', ARGV[11], 'unique_until', ARGV[12])
  if holder then
    yield_to(holder, id, 'RUNNING', at)
    return 'CANCELLED'
  end
  take_key(id, ARGV[11], ARGV[12], at)
end
move(id, 'RUNNING', 'QUEUED', at, at + tonumber(ARGV[10]))
event(id, 'replaced', at, 'QUEUED', ARGV[3])
return honour(id, 'QUEUED', at, run.request) or 'QUEUED'
