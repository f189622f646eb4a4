-- Tells whether a job of some queues waits for a worker.
-- KEYS[1] tag
-- ARGV[1] queues
-- ARGV[2] age
-- Returns 1 if one does, else 0.
-- It looks at the newest jobs alone, which takes the same time however many there
-- are: what a queue serves in its order waits at its end, if anything waits; and
-- what came back to a queue is among those that were queued last.
local NEWEST = 32
local queued, latest = index('state:QUEUED'), now() - tonumber(ARGV[2])
local wanted = {}
for _, name in ipairs(cjson.decode(ARGV[1])) do
  wanted[name] = true
  for _, id in ipairs(redis.call('ZREVRANGE', index('queue:' .. name), 0, NEWEST - 1)) do
    local since = redis.call('ZSCORE', queued, id)
    if since and tonumber(since) <= latest then
      return 1
    end
  end
end
local last = redis.call('ZREVRANGEBYSCORE', queued, int(latest), '-inf', 'LIMIT', 0, NEWEST)
for _, id in ipairs(last) do
  if wanted[read(id, 'queue') or ''] then
    return 1
  end
end
return 0
