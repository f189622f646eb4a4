-- Makes a run that met an error wait before its next start.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] attempt
-- ARGV[4] rate_limited
-- ARGV[5] budgets
-- ARGV[6] error
-- ARGV[7] delay
-- ARGV[8] message
-- Returns the state after it, or 'lost'.
local AFTER = { RETRYING = true, CANCELLED = true, PAUSED = true }
local id = ARGV[1]
local run, state, held = owned(id, ARGV[2])
if not run then
  return AFTER[state] and held == ARGV[2] and state or 'lost'
end
local at = now()
count_error(id, ARGV[3], ARGV[4], ARGV[5], ARGV[6])
if ARGV[8] ~= '' then
  write(id, 'message', ARGV[8])
end
state = honour(id, 'RUNNING', at, run.request)
if state then
  return state
end
move(id, 'RUNNING', 'RETRYING', at, at + tonumber(ARGV[7]))
event(id, 'retrying', at, 'RETRYING', ARGV[7])
return 'RETRYING'
