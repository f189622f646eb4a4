-- Lists jobs that ended some time ago and of whose end nobody told Celery.
-- KEYS[1] tag
-- ARGV[1] age
-- ARGV[2] limit
-- Returns {{id, task, state}, ...}.
local at = now()
local ended = redis.call(
  'ZRANGEBYSCORE', index('untold'), '-inf', int(at - tonumber(ARGV[1])),
  'LIMIT', 0, ARGV[2]
)
local waiting = {}
for _, id in ipairs(ended) do
  local task, state = read(id, 'task', 'state')
  if state == 'DEAD' or state == 'CANCELLED' then
    -- Behind the others, as it may be one that nobody can tell of.
    redis.call('ZADD', index('untold'), int(at), id)
    waiting[#waiting + 1] = { id, task, state }
  else
    redis.call('ZREM', index('untold'), id)
  end
end
return waiting
