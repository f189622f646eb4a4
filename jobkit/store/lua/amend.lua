-- Gives a job that has not begun another message; the one that is out begins it still.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] token
-- ARGV[3] unique_key
-- ARGV[4] message
-- Returns 'ok', 'begun', or 'gone' for a job that does not have the key any more.
local id = ARGV[1]
local state, starts, generation, till = read(id, 'state', 'starts', 'generation', 'unique_till')
local at = now()
if generation == ARGV[2] then
  return 'ok'
end
local over = not state or (till and at >= tonumber(till))
if over or redis.call('GET', key('unique', ARGV[3])) ~= id then
  return 'gone'
end
if tonumber(starts or '0') > 0 then
  return 'begun'
end
write(id, 'message', ARGV[4], 'generation', ARGV[2], 'updated_at', int(at))
event(id, 'amended', at, state)
return 'ok'
