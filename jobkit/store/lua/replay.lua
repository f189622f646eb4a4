-- Gives a dead job fresh budgets and another run.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] mode
-- ARGV[3] actor
-- ARGV[4] reason
-- ARGV[5] death
-- Returns {'done' | 'refused' | 'newer_schema', state}, {'held', by which job}, or {'unknown'}.
local id, mode = ARGV[1], ARGV[2]
local state, replays, schema, unique, span =
  read(id, 'state', 'replays', 'schema', 'unique_key', 'unique_until')
if not state then
  return { 'unknown' }
end
if tonumber(schema) > SCHEMA then
  return { 'newer_schema', schema }
end
-- Whoever names a death means no other, and nothing that came after it.
if ARGV[5] ~= '' and (state ~= 'DEAD' or death(id) ~= ARGV[5]) then
  return { 'refused', state }
end
if state ~= 'DEAD' then
  local before = tonumber(replays or '0') > 0 and not FINISHED[state]
  return { before and 'done' or 'refused', state }
end
local at = now()
local job = key('job', id)
if unique then
  local holder = holder_of(unique, id, at)
  if holder then
    return { 'held', holder }
  end
  take_key(id, unique, span, at)
end
unfinish(id)
redis.call('HINCRBY', job, 'replays', 1)
redis.call('HDEL', job, 'budgets')
write(id, 'attempts', 0, 'rate_limited', 0, 'crashes_without_progress', 0)
if mode == 'restart' then
  redis.call('HDEL', job, 'checkpoint', 'progress')
  write(id, 'position', 0)
  forget_failures(id)
end
move(id, 'DEAD', 'QUEUED', at, at)
event(id, 'replayed', at, 'QUEUED', said(mode, ARGV[3], ARGV[4]))
return { 'done', 'QUEUED' }
