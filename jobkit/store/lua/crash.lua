-- Tells that a worker died with a job.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] worker
-- ARGV[3] error
-- Returns {'gone'}, or {task, state}.
local id, worker = ARGV[1], ARGV[2]
local state, owner, task = read(id, 'state', 'worker', 'task')
owner = owner or ''
local same = owner == worker or string.sub(owner, 1, #worker + 1) == worker .. '/'
if state == 'QUEUED' then
  -- Its last owner's death has been told before (a command that was sent
  -- twice, or the rescue was first); otherwise it died before it began.
  if not same then
    write(id, 'error', ARGV[3])
    state = lost_owner(id, now(), 'QUEUED', ARGV[3])
  end
  return { task, state }
end
if state ~= 'RUNNING' or not same then
  return { 'gone' }
end
write(id, 'error', ARGV[3])
return { task, lost_owner(id, now(), 'RUNNING', ARGV[3]) }
