-- Changes a limit while its jobs run, or takes the change back.
-- KEYS[1] tag
-- ARGV[1] name
-- ARGV[2] n
-- ARGV[3] period
-- Returns 'ok'.
local name = ARGV[1]
local limit = key('limit', name)
if ARGV[2] == '' then
  redis.call('HDEL', limit, 'set', 'set_period')
  keep_clocks(name)
else
  redis.call('HSET', limit, 'set', ARGV[2], 'set_period', ARGV[3])
  redis.call('PERSIST', limit)
  if tonumber(ARGV[3]) > 0 then
    -- What was spent at the old rate is not waited for at the new one.
    local clock, at = clocks({ name }), now()
    for _, which in ipairs({ 'issued', 'started' }) do
      if clock[which] > at + clock.interval then
        wind(name, which, at + clock.interval)
      end
    end
  end
  redis.call('ZADD', index('keys'), 0, name)
end
touch({ { name } })
tidy(name)
return 'ok'
