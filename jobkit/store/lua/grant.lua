-- Lets go whoever is next, and names those of whom nobody has said that they are gone.
-- KEYS[1] tag
-- ARGV[1] limit
-- ARGV[2] span
-- Returns {milliseconds until a rate lets the next one go, or '', ids, ...}.
local at = now()
local gone = serve(at, tonumber(ARGV[2]), tonumber(ARGV[1]))
local left = redis.call('ZRANGEBYSCORE', index('outbox'), '-inf', int(at), 'LIMIT', 0, ARGV[1])
for _, id in ipairs(left) do
  redis.call('ZADD', index('outbox'), int(at + LOOK_AGAIN), id)
  gone[#gone + 1] = id
end
local first = redis.call('ZRANGE', index('later'), 0, 0, 'WITHSCORES')
local wait = first[2] and int(math.max(0, tonumber(first[2]) - at)) or ''
if redis.call('EXISTS', index('ready')) == 1 then
  wait = '0'
end
return { wait, unpack(gone) }
