-- Reads limits that are in use: one by its name, or all in the order of names.
-- KEYS[1] tag
-- ARGV[1] name
-- ARGV[2] after
-- ARGV[3] limit
-- Returns {{name, n, period, set, set_period, waiting, holders, promised}, ...}.
local SHOWN = 99
local names = { ARGV[1] }
if ARGV[1] == '' then
  local from = ARGV[2] == '' and '-' or '(' .. ARGV[2]
  names = redis.call('ZRANGEBYLEX', index('keys'), from, '+', 'LIMIT', 0, ARGV[3])
end
local found = {}
for i, name in ipairs(names) do
  local n, period, set, set_period =
    unpack(redis.call('HMGET', key('limit', name), 'n', 'period', 'set', 'set_period'))
  found[i] = {
    name, n or '', period or '', set or '', set_period or '',
    redis.call('ZCARD', key('wait', name)),
    redis.call('ZRANGE', key('held', name), 0, SHOWN),
    redis.call('ZRANGE', key('promised', name), 0, SHOWN),
  }
end
return found
