-- Notes that something was done about a death; a later death is another one.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] kind
-- ARGV[3] death
-- Returns how many notes that took away, 0 or 1.
local id = ARGV[1]
if read(id, 'state') ~= 'DEAD' or death(id) ~= ARGV[3] then
  return 0
end
return redis.call('ZREM', index(ARGV[2]), id)
