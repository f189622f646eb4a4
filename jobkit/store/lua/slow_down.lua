-- Closes rates until some time from now: nobody starts before.
-- KEYS[1] tag
-- ARGV[1] claims
-- ARGV[2] delay
-- Returns 'ok'.
local till = now() + tonumber(ARGV[2])
for _, claim in ipairs(cjson.decode(ARGV[1])) do
  if claim[3] > 0 then
    wind(claim[1], 'closed', math.max(clocks(claim).closed, till))
    if awaited(claim[1]) then
      redis.call('ZADD', index('later'), int(math.ceil(clocks(claim).may_go)), claim[1])
    end
  end
end
return 'ok'
