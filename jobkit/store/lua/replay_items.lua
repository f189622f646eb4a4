-- Makes a job over the failed items of one that has ended, in the same partition.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] child
-- ARGV[3] message
-- ARGV[4] checkpoint
-- ARGV[5] actor
-- ARGV[6] reason
-- Returns {'done', child}, {'refused' | 'newer_schema', state}, {'held', by which job}, or {'unknown'}.
local id, child = ARGV[1], ARGV[2]
local state, open, before, schema = read(id, 'state', 'open_failures', 'replayed_by', 'schema')
if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
local going_on = before and read(before, 'state')
if going_on and (not FINISHED[going_on] or before == child) then
  return { 'done', before }
end
if state ~= 'PARTIAL' or tonumber(open or '0') == 0 then
  return { 'refused', state }
end
local at = now()
local task, queue_name, priority, dead_letter_queue, owner, stages, crash_limit, root, unique, span = read(
  id, 'task', 'queue', 'priority', 'dead_letter_queue', 'owner', 'stages', 'crash_limit',
  'replay_root', 'unique_key', 'unique_until'
)
if unique then
  local holder = holder_of(unique, id, at)
  if holder then
    return { 'held', holder }
  end
  write(child, 'unique_key', unique, 'unique_until', span)
  take_key(child, unique, span, at)
end
-- Of what was filed or restored some fields are not there.
write(
  child, 'id', child, 'schema', SCHEMA, 'state', 'QUEUED', 'enqueue_token', child,
  'task', task, 'message', ARGV[3], 'queue', queue_name or '', 'priority', priority or '',
  'dead_letter_queue', dead_letter_queue or '', 'owner', owner or '',
  'stages', stages or '[]', 'crash_limit', crash_limit or '3', 'fence', 0, 'checkpoint', ARGV[4], 'replay_of', id,
  'replay_root', root or id,
  'created_at', int(at), 'updated_at', int(at)
)
enter(child, 'QUEUED', at, task, queue_name or '', owner or '')
due_at(child, at)
event(child, 'queued', at, 'QUEUED')
redis.call('HINCRBY', key('job', id), 'replays', 1)
write(id, 'replayed_by', child, 'updated_at', int(at))
event(id, 'replayed', at, state, said('failed_items', ARGV[5], ARGV[6]))
return { 'done', child }
