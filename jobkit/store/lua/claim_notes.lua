-- Takes ends of which something is still to be done, the oldest first.
-- KEYS[1] tag
-- ARGV[1] kind
-- ARGV[2] age
-- ARGV[3] limit
-- ARGV[4] grace
-- Returns {{id, end}, ...}.
local at, notes = now(), index(ARGV[1])
local latest = at - tonumber(ARGV[2])
local claimed = {}
for _, id in ipairs(
  redis.call('ZRANGEBYSCORE', notes, '-inf', int(latest), 'LIMIT', 0, ARGV[3])
) do
  local state = read(id, 'state')
  if state == 'DEAD' or (ARGV[1] == 'unheard' and FINISHED[state]) then
    redis.call('ZADD', notes, int(latest + tonumber(ARGV[4])), id)
    if ARGV[1] == 'uncopied' then
      -- From now on there may be a copy, whether anybody says so or not.
      write(id, 'copied', '1')
    end
    claimed[#claimed + 1] = { id, death(id) }
  else
    redis.call('ZREM', notes, id)
  end
end
return claimed
