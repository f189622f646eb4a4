-- Records a job that is about to be published, or that has a time to start.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] token
-- ARGV[3] task
-- ARGV[4] message
-- ARGV[5] queue
-- ARGV[6] priority
-- ARGV[7] dead_letter_queue
-- ARGV[8] owner
-- ARGV[9] stages
-- ARGV[10] crash_limit
-- ARGV[11] delay
-- ARGV[12] hint
-- ARGV[13] again
-- ARGV[14] unique_key
-- ARGV[15] unique_until
-- ARGV[16] on_held
-- ARGV[17] blocked
-- Returns {'ok' | 'existing' | 'held', the id of the job that is there}.
local id, token, delay = ARGV[1], ARGV[2], tonumber(ARGV[11])
local unique, at = ARGV[14], now()
local taken, first, reason, fence, ceded, twin, had, till = read(
  id, 'state', 'enqueue_token', 'reason', 'fence', 'ceded', 'duplicate_of',
  'unique_key', 'unique_till'
)
if taken then
  -- A person may give any reason for a pause or a cancel, this one too.
  local replaced = ceded or (taken == 'SUCCEEDED' and reason == REPLACED)
  local has_key = had == unique and till and DONE[taken] and at < tonumber(till)
  local free = replaced or (ARGV[13] == '1' and FINISHED[taken] and not has_key)
  if first == token then
    return { twin and 'held' or 'ok', twin or id }
  elseif not free then
    return { 'existing', id }
  end
end
local holder = unique ~= '' and holder_of(unique, id, at)
if holder and ARGV[16] ~= 'cancel' then
  return { 'held', holder }
end
if taken then
  forget(id)
end
local state, wait = 'QUEUED', tonumber(ARGV[12])
if delay > 0 then
  state, wait = 'SCHEDULED', delay
elseif ARGV[17] == '1' then
  state, wait = 'BLOCKED', BLOCKED_FOR
end
write(
  id, 'id', id, 'schema', SCHEMA, 'state', state, 'enqueue_token', token,
  'task', ARGV[3], 'message', ARGV[4], 'queue', ARGV[5], 'priority', ARGV[6],
  'dead_letter_queue', ARGV[7], 'owner', ARGV[8], 'stages', ARGV[9],
  'crash_limit', ARGV[10], 'fence', fence or '0', 'created_at', int(at), 'updated_at', int(at)
)
enter(id, state, at, ARGV[3], ARGV[5], ARGV[8])
due_at(id, at + wait)
event(id, string.lower(state), at, state)
if unique ~= '' then
  write(id, 'unique_key', unique, 'unique_until', ARGV[15])
  if holder then
    yield_to(holder, id, state, at)
    return { 'held', holder }
  end
  take_key(id, unique, ARGV[15], at)
end
return { 'ok', id }
