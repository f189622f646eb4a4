-- Ends a run that did all it had to do, with failed items or without.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] position
-- ARGV[4] checkpoint
-- ARGV[5] progress
-- ARGV[6] reason
-- ARGV[7] tell
-- Returns the state after it, or 'lost'.
local id = ARGV[1]
local run, state, held = owned(id, ARGV[2])
if not run then
  local done = state == 'SUCCEEDED' or state == 'PARTIAL'
  return done and held == ARGV[2] and state or 'lost'
end
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
