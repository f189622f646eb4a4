-- Notes that a queued job's message was published, or could not be.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] hint
-- ARGV[3] ok
-- Returns 'ok', or 'ignored' for a job that is not queued.
local id = ARGV[1]
local state, hints = read(id, 'state', 'hints')
if state ~= 'QUEUED' then
  return 'ignored'
end
local at = now()
if ARGV[3] == '1' then
  hints = tonumber(hints or '0') + 1
  write(id, 'hints', int(hints), 'published_at', int(at), 'updated_at', int(at))
  due_at(id, at + math.min(tonumber(ARGV[2]) * 2 ^ (hints - 1), HINT_CAP))
else
  write(id, 'updated_at', int(at))
  due_at(id, at)
end
return 'ok'
