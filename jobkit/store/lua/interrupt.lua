-- Stops a run that did not fail.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] kind
-- ARGV[4] reason
-- Returns the state after it, or 'lost'.
local id, kind, reason = ARGV[1], ARGV[3], ARGV[4]
local run, state, held = owned(id, ARGV[2])
if not run then
  return held == ARGV[2] and state or 'lost'
end
local at = now()
if kind ~= 'cancel' and kind ~= 'block' then
  redis.call('HINCRBY', key('job', id), 'interruptions', 1)
end
-- The pause that it stops for was taken back when its owner had just heard of it.
local taken_back = kind == 'pause' and reason == '' and run.request == ''
if (kind == 'cancel' or kind == 'pause') and not taken_back then
  -- Without a reason of its own it stops for the one that was asked; and a
  -- cancel that was asked for meanwhile is not lost to a pause.
  local asked = string.match(run.request, '^([^\n]*)\n')
  if (asked == kind and reason == '') or (asked == 'cancel' and kind == 'pause') then
    return honour(id, 'RUNNING', at, run.request)
  end
  return honour(id, 'RUNNING', at, kind .. '\n\n' .. reason)
end
state = honour(id, 'RUNNING', at, run.request)
if kind == 'block' then
  -- It was judged, and not started.
  if redis.call('HINCRBY', key('job', id), 'starts', -1) == 0 then
    redis.call('HDEL', key('job', id), 'started_at')
  end
  if not state then
    move(id, 'RUNNING', 'BLOCKED', at, at + BLOCKED_FOR)
    event(id, 'blocked', at, 'BLOCKED', reason)
    state = 'BLOCKED'
    local unique, span = read(id, 'unique_key', 'unique_until')
    if span == 'start' and not holder_of(unique, id, at) then
      take_key(id, unique, span, at)
    end
  end
end
if not state then
  -- A message that the broker has put back comes by itself.
  move(id, 'RUNNING', 'QUEUED', at, kind == 'requeue' and at + REQUEUED_FOR or at)
  event(id, 'interrupted', at, 'QUEUED', reason ~= '' and reason or kind)
  state = 'QUEUED'
end
return state
