-- Notes that a queued job's message was published, or is to be after the hint.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] hint
-- ARGV[3] ok
-- ARGV[4] hints
-- ARGV[5] fence
-- Returns 'ok', or 'ignored' for a job that is not queued and for a late word.
local id = ARGV[1]
local state, hints, fence, due, foreign =
  read(id, 'state', 'hints', 'fence', 'due_at', 'foreign')
local at = now()

-- Of a job that was claimed: it has run since, somebody else told of it, or it
-- is due again (resumed, or the grace has passed) for another message.
local function comes_late()
  if ARGV[4] == '' and ARGV[5] == '' then
    return false
  end
  return (ARGV[4] ~= '' and tonumber(ARGV[4]) ~= tonumber(hints or '0'))
    or (ARGV[5] ~= '' and ARGV[5] ~= fence)
    or tonumber(due or '0') <= at
end

if state ~= 'QUEUED' or comes_late() then
  return 'ignored'
end
if ARGV[3] == '1' and foreign then
  -- The broker has it again, and nobody would tell how it goes on.
  forget(id)
elseif ARGV[3] == '1' then
  hints = tonumber(hints or '0') + 1
  write(id, 'hints', int(hints), 'published_at', int(at), 'updated_at', int(at))
  due_at(id, at + math.min(tonumber(ARGV[2]) * 2 ^ (hints - 1), HINT_CAP))
else
  write(id, 'updated_at', int(at))
  due_at(id, at + tonumber(ARGV[2]))
end
return 'ok'
