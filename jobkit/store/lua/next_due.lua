-- Tells how long it is until the next job is due.
-- KEYS[1] tag
-- Returns milliseconds as text, or '' if none is due ever.
local first = redis.call('ZRANGE', index('due'), 0, 0, 'WITHSCORES')
if #first == 0 then
  return ''
end
return int(tonumber(first[2]) - now())
