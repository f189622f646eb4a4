-- Takes jobs from owners whose lease has ended.
-- KEYS[1] tag
-- ARGV[1] limit
-- ARGV[2] error
-- Returns {{id, task, state}, ...}.
local at = now()
local ended = redis.call(
  'ZRANGEBYSCORE', index('leases'), '-inf', int(at), 'LIMIT', 0, ARGV[1]
)
local released = {}
for _, id in ipairs(ended) do
  local state, task = read(id, 'state', 'task')
  if state == 'RUNNING' then
    released[#released + 1] = { id, task, lost_owner(id, at, 'RUNNING', ARGV[2]) }
  else
    redis.call('ZREM', index('leases'), id)
  end
end
return released
