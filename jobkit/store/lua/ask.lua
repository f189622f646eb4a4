-- Cancels or pauses a job, at once or by asking its owner.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] request
-- Returns {'asked' | 'done' | 'refused' | 'newer_schema', state}, or {'unknown'}.
local id, request = ARGV[1], ARGV[2]
local kind, actor, reason = string.match(request, '^([^\n]*)\n([^\n]*)\n(.*)$')
local state, pending, schema, ended_at, why =
  read(id, 'state', 'request', 'schema', 'finished_at', 'reason')
if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
if state == 'RUNNING' then
  local first = string.match(pending or '', '^([^\n]*)\n')
  if first ~= 'cancel' and first ~= kind then
    local at = now()
    write(id, 'request', request, 'updated_at', int(at))
    event(id, 'asked', at, 'RUNNING', said(kind, actor, reason))
  end
  return { 'asked', state }
end
if DUE_STATES[state] or (state == 'PAUSED' and kind == 'cancel') then
  return { 'done', honour(id, state, now(), request) }
end
if state == 'PAUSED' and kind == 'pause' then
  return { 'done', state }
end
if state == 'CANCELLED' and kind == 'cancel' and why == reason and now() < ended_at + RESENT then
  return { 'done', state } -- the answer to the first one was lost
end
return { 'refused', state }
