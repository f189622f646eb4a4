-- Tells that a worker died with a job.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] worker
-- ARGV[3] error
-- Returns {'gone'}, or {task, state}.
local id, worker = ARGV[1], ARGV[2]

local function belongs(owner)
  return owner == worker or string.sub(owner, 1, #worker + 1) == worker .. '/'
end

local last = ''

local function has_begun()
  local begun = false
  for _, entry in ipairs(redis.call('XRANGE', key('events', id), '-', '+')) do
    local fields = entry[2]
    begun = begun or fields[2] == 'started' and belongs(fields[8])
    last = fields[2]
  end
  return begun
end

local state, owner, task = read(id, 'state', 'worker', 'task')
if state == 'QUEUED' then
  -- The death of a run is told before (a command that was sent twice, or the
  -- rescue was first, or other runs came after it); otherwise the worker died
  -- before the job began.
  if not has_begun() then
    write(id, 'error', ARGV[3])
    state = lost_owner(id, now(), 'QUEUED', ARGV[3])
  else
    local at, due = now(), read(id, 'due_at')
    if last ~= 'replaced' and tonumber(due) and tonumber(due) > at then
      due_at(id, at) -- its message may be what the worker died with
    end
  end
  return { task, state }
end
if state ~= 'RUNNING' or not belongs(owner or '') then
  return { 'gone' }
end
write(id, 'error', ARGV[3])
return { task, lost_owner(id, now(), 'RUNNING', ARGV[3]) }
