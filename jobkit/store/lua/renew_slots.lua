-- Keeps the slots of a run.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] lease
-- Returns 'ok' or 'lost'.
local place, till = place_of(ARGV[1]), int(now() + tonumber(ARGV[3]))
if not place or place.stage ~= 'held' or place.fence ~= tonumber(ARGV[2]) then
  return 'lost'
end
for _, claim in ipairs(place.claims) do
  redis.call('ZADD', key('held', claim[1]), 'XX', till, ARGV[1])
end
redis.call('ZADD', index('ends'), till, ARGV[1])
return 'ok'
