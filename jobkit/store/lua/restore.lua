-- Puts an exported dead job back, unless there is one with its id.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] token
-- ARGV[3] fields
-- ARGV[4] events
-- ARGV[5] failures
-- Returns 'ok' or 'existing'.
local id, token = ARGV[1], ARGV[2]
local known, first = read(id, 'state', 'enqueue_token')
if known then
  return first == token and 'ok' or 'existing'
end
local at = now()
-- Old enough to go when it was exported, it stays as long as one that dies now.
local last = int(at + RETENTION.DEAD + LAST_CHANCE)
write(id, 'enqueue_token', token, 'restored_at', int(at), unpack(cjson.decode(ARGV[3])))
local created, died, task, queue_name, owner =
  read(id, 'created_at', 'finished_at', 'task', 'queue', 'owner')
enter(id, 'DEAD', created, task, queue_name or '', owner or '')
redis.call('ZADD', index('state:DEAD'), died, id)
redis.call('ZADD', index('expire'), int(at + RETENTION.DEAD), id)
redis.call('ZADD', index('unannounced'), int(at), id)
for _, entry in ipairs(cjson.decode(ARGV[4])) do
  local name, moment, state, detail, progress = unpack(entry)
  event(id, name, moment, state, detail, progress)
end
event(id, 'restored', at, 'DEAD')
for place, row in ipairs(cjson.decode(ARGV[5])) do
  redis.call('HSET', key('failures', id), row[1], row[2])
  redis.call('ZADD', key('failure_order', id), place - 1, row[1])
end
for _, name in ipairs({ key('job', id), unpack(companions(id)) }) do
  redis.call('PEXPIREAT', name, last)
end
return 'ok'
