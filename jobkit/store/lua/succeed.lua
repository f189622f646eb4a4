-- Ends a run that did all it had to do, with failed items or without.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] position
-- ARGV[4] checkpoint
-- ARGV[5] progress
-- ARGV[6] reason
-- ARGV[7] tell
-- ARGV[8] result_key
-- ARGV[9] result
-- ARGV[10] result_seconds
-- ARGV[11] result_database
-- ARGV[12] database
-- Without a result the last five are left out.
-- Returns the state after it, or 'lost'.
local id = ARGV[1]

local function keep_result()
  if not ARGV[8] then
    return
  end
  if ARGV[11] ~= ARGV[12] then
    redis.call('SELECT', ARGV[11])
  end
  if ARGV[10] ~= '0' then
    redis.call('SETEX', ARGV[8], ARGV[10], ARGV[9])
  else
    redis.call('SET', ARGV[8], ARGV[9])
  end
  redis.call('PUBLISH', ARGV[8], ARGV[9])
  if ARGV[11] ~= ARGV[12] then
    redis.call('SELECT', ARGV[12])
  end
end

local run, state, held = owned(id, ARGV[2])
if not run then
  if not state then
    keep_result() -- with the record gone nobody else will store one
  end
  local done = state == 'SUCCEEDED' or state == 'PARTIAL'
  return done and held == ARGV[2] and state or 'lost'
end
keep_result() -- first, as nothing is undone where the server refuses it
local at = now()
local to = run.open > 0 and ARGV[6] ~= REPLACED and 'PARTIAL' or 'SUCCEEDED'
finish(
  id, 'RUNNING', to, at, 'checkpoint', ARGV[4], 'progress', ARGV[5],
  'position', int(math.max(run.position, tonumber(ARGV[3]))), 'reason', ARGV[6]
)
if ARGV[7] == '1' then
  leave_unheard(id, at)
end
event(id, string.lower(to), at, to, ARGV[6], ARGV[5])
return to
