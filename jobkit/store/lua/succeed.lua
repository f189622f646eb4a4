-- Ends a run that did all it had to do.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] position
-- ARGV[4] checkpoint
-- ARGV[5] progress
-- ARGV[6] reason
-- Returns 'ok' or 'lost'.
local id = ARGV[1]
local run, state, held = owned(id, ARGV[2])
if not run then
  return state == 'SUCCEEDED' and held == ARGV[2] and 'ok' or 'lost'
end
local at = now()
finish(
  id, 'RUNNING', 'SUCCEEDED', at, 'checkpoint', ARGV[4], 'progress', ARGV[5],
  'position', int(math.max(run.position, tonumber(ARGV[3]))), 'reason', ARGV[6]
)
event(id, 'succeeded', at, 'SUCCEEDED', ARGV[6], ARGV[5])
return 'ok'
