-- Files a message that the broker gave up, or has its job published again.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] dropped
-- ARGV[3] task
-- ARGV[4] message
-- ARGV[5] queue
-- ARGV[6] priority
-- ARGV[7] dead_letter_queue
-- ARGV[8] stages
-- ARGV[9] crash_limit
-- ARGV[10] reason
-- ARGV[11] error
-- ARGV[12] foreign
-- ARGV[13] tell
-- Returns {'filed' | 'queued' | 'known' | 'newer_schema', state or schema}.
local id = ARGV[1]
local state, schema, dropped, foreign, hints, fence, replays =
  read(id, 'state', 'schema', 'dropped', 'foreign', 'hints', 'fence', 'replays')
local at = now()
if state and tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
if state and (dropped == ARGV[2] or not (foreign or state == 'QUEUED')) then
  return { 'known', state }
end
if state and not foreign then
  -- It was only a hint. One that is given up again and again comes ever later.
  local wait = 1000 * (2 ^ math.max(tonumber(hints or '0') - 1, 0) - 1)
  write(id, 'dropped', ARGV[2], 'updated_at', int(at))
  due_at(id, at + math.min(wait, HINT_CAP))
  event(id, 'dropped', at, state, ARGV[10])
  return { 'queued', state }
end
if state then
  forget(id)
end
write(
  id, 'id', id, 'schema', SCHEMA, 'state', 'DEAD', 'dropped', ARGV[2], 'task', ARGV[3],
  'message', ARGV[4], 'queue', ARGV[5], 'priority', ARGV[6], 'dead_letter_queue', ARGV[7],
  'stages', ARGV[8], 'crash_limit', ARGV[9], 'error', ARGV[11], 'fence', fence or '0',
  'replays', replays or '0', 'created_at', int(at)
)
if ARGV[12] == '1' then
  write(id, 'foreign', '1')
end
enter(id, 'DEAD', at, ARGV[3], ARGV[5], '')
-- Before the end, which gives all that there is its expiry.
event(id, 'dead', at, 'DEAD', ARGV[10])
die(id, 'DEAD', at, 'reason', ARGV[10])
if ARGV[13] == '1' then
  leave_untold(id, at)
else
  leave_unheard(id, at)
end
return { 'filed', 'DEAD' }
