-- Ends a run for good after an error: the job is a dead letter.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] attempt
-- ARGV[4] rate_limited
-- ARGV[5] budgets
-- ARGV[6] error
-- ARGV[7] reason
-- ARGV[8] tell
-- Returns 'ok' or 'lost'.
local id = ARGV[1]
local run, state, held = owned(id, ARGV[2])
if not run then
  return state == 'DEAD' and held == ARGV[2] and 'ok' or 'lost'
end
local at = now()
count_error(id, ARGV[3], ARGV[4], ARGV[5], ARGV[6])
die(id, 'RUNNING', at, 'reason', ARGV[7])
if ARGV[8] == '1' then
  leave_unheard(id, at)
end
event(id, 'dead', at, 'DEAD', ARGV[7], read(id, 'progress') or '')
return 'ok'
