-- Notes that something was done about an end; a later end is another one.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] kind
-- ARGV[3] death
-- Returns how many notes that took away, 0 or 1.
local id = ARGV[1]
if not FINISHED[read(id, 'state') or ''] or death(id) ~= ARGV[3] then
  return 0
end
return redis.call('ZREM', index(ARGV[2]), id)
