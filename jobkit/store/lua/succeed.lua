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

-- As begin.lua it is written without functions: this is what finish() does for others.
local call, tag, id, reason = redis.call, KEYS[1], ARGV[1], ARGV[6]
local job, events = tag .. ':job:' .. id, tag .. ':events:' .. id
local state, fence, position, open, unique, unique_till, copied = unpack(call(
  'HMGET', job, 'state', 'fence', 'position', 'open_failures', 'unique_key', 'unique_till',
  'copied'
))
local mine = state == 'RUNNING' and fence == ARGV[2]

-- With the record gone nobody else will store a result. It comes first, as nothing is
-- undone where the server refuses it.
if ARGV[8] and (mine or not state) then
  if ARGV[11] ~= ARGV[12] then
    call('SELECT', ARGV[11])
  end
  if ARGV[10] ~= '0' then
    call('SETEX', ARGV[8], ARGV[10], ARGV[9])
  else
    call('SET', ARGV[8], ARGV[9])
  end
  call('PUBLISH', ARGV[8], ARGV[9])
  if ARGV[11] ~= ARGV[12] then
    call('SELECT', ARGV[12])
  end
end
if not mine then
  local done = state == 'SUCCEEDED' or state == 'PARTIAL'
  return done and fence == ARGV[2] and state or 'lost'
end

local moment = now()
local at = string.format('%d', moment)
local to, kept = 'SUCCEEDED', RETENTION_SUCCEEDED
if tonumber(open or 0) > 0 and reason ~= REPLACED then
  to, kept = 'PARTIAL', RETENTION_PARTIAL
end
if copied then
  -- As long as a copy of its death may come back, it is known to be stale.
  kept = math.max(kept, RETENTION_DEAD)
end
local expires = moment + kept
if unique and unique_till then
  expires = math.max(expires, tonumber(unique_till))
elseif unique and call('GET', tag .. ':unique:' .. unique) == id then
  call('DEL', tag .. ':unique:' .. unique)
end
local gone = string.format('%d', expires + LAST_CHANCE)
local ahead = tonumber(position or 0) > tonumber(ARGV[3])
call('HDEL', job, 'lease_until', 'request', 'ceded')
call(
  'HSET', job, 'state', to, 'updated_at', at, 'finished_at', at,
  'checkpoint', ARGV[4], 'progress', ARGV[5], 'position', ahead and position or ARGV[3],
  'reason', reason
)
call('ZREM', tag .. ':leases', id)
call('ZREM', tag .. ':state:RUNNING', id)
call('ZADD', tag .. ':state:' .. to, at, id)
call('ZADD', tag .. ':expire', string.format('%d', expires), id)
call('PEXPIREAT', job, gone)
call('PEXPIREAT', events, gone)
if open then
  call('PEXPIREAT', tag .. ':failures:' .. id, gone)
  call('PEXPIREAT', tag .. ':failure_order:' .. id, gone)
end
if ARGV[7] == '1' then
  call('ZADD', tag .. ':unheard', at, id)
end
call(
  'XADD', events, 'MAXLEN', EVENTS_KEPT, '*', 'name', string.lower(to),
  'at', at, 'state', to, 'detail', reason, 'progress', ARGV[5]
)
return to
