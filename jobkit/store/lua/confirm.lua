-- Notes that jobs that were let go are on their way.
-- KEYS[1] tag
-- ARGV[1] ids
-- Returns how many were not known to be.
local count = 0
for _, id in ipairs(cjson.decode(ARGV[1])) do
  count = count + redis.call('ZREM', index('outbox'), id)
end
return count
