-- Removes finished jobs whose retention has passed.
-- KEYS[1] tag
-- ARGV[1] limit
-- Returns how many it were.
local old = redis.call(
  'ZRANGEBYSCORE', index('expire'), '-inf', int(now()), 'LIMIT', 0, ARGV[1]
)
for _, id in ipairs(old) do
  forget(id)
end
return #old
