-- Writes the checkpoint and progress of a run, and keeps its lease.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] seq
-- ARGV[4] position
-- ARGV[5] checkpoint
-- ARGV[6] progress
-- ARGV[7] lease
-- ARGV[8] failed
-- ARGV[9] resolved
-- Returns {'ok', what is asked of the run}, or {'lost'}.
local id, seq = ARGV[1], tonumber(ARGV[3])
local run = owned(id, ARGV[2])
if not run then
  return { 'lost' }
end
if seq > run.seq then
  local at = now()
  keep_lease(
    id, at, ARGV[7], 'save_seq', ARGV[3], 'checkpoint', ARGV[5], 'progress', ARGV[6],
    'position', int(math.max(run.position, tonumber(ARGV[4])))
  )
  file_failures(id, at, ARGV[8])
  -- An item that a replay of a replay has handled is open nowhere.
  local parent = read(id, 'replay_of')
  while parent and parent ~= '' do
    if resolve_failures(parent, ARGV[9]) then
      finish(parent, 'PARTIAL', 'SUCCEEDED', at, 'reason', RESOLVED)
      leave_unheard(parent, at)
      event(parent, 'resolved', at, 'SUCCEEDED', id)
    end
    parent = read(parent, 'replay_of')
  end
  redis.call(
    'XADD', key('ticks', id), 'MAXLEN', TICKS_KEPT, '*', 'name', 'progressed',
    'at', int(at), 'state', 'RUNNING', 'detail', '', 'progress', ARGV[6]
  )
  redis.call('PEXPIRE', key('ticks', id), TICKS_LINGER)
end
return { 'ok', run.request }
