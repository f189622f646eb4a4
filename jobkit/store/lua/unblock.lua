-- Lets a job go that waited for a limit: its message is to be published now.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] grace
-- Returns {state after it, message, hints, fence} (only the state if it was not blocked), or {}.
local id, at = ARGV[1], now()
local state, message, hints, fence = read(id, 'state', 'message', 'hints', 'fence')
if state ~= 'BLOCKED' then
  return { state or nil }
end
move(id, 'BLOCKED', 'QUEUED', at, at + tonumber(ARGV[2]))
event(id, 'queued', at, 'QUEUED')
return { 'QUEUED', message, tonumber(hints or '0'), tonumber(fence) }
