-- Takes jobs whose time has come, so that their messages are published.
-- KEYS[1] tag
-- ARGV[1] limit
-- ARGV[2] grace
-- Returns {{id, message, hints, fence}, ...}.
local at = now()
local due = redis.call(
  'ZRANGEBYSCORE', index('due'), '-inf', int(at), 'LIMIT', 0, ARGV[1]
)
local claimed = {}
for _, id in ipairs(due) do
  local state, message, hints, fence = read(id, 'state', 'message', 'hints', 'fence')
  if state and DUE_STATES[state] then
    if state == 'QUEUED' then
      write(id, 'updated_at', int(at))
      due_at(id, at + tonumber(ARGV[2]))
    else
      move(id, state, 'QUEUED', at, at + tonumber(ARGV[2]))
      event(id, 'queued', at, 'QUEUED')
    end
    claimed[#claimed + 1] = { id, message, tonumber(hints or '0'), tonumber(fence) }
  else
    redis.call('ZREM', index('due'), id)
  end
end
return claimed
