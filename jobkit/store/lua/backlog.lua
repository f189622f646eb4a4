-- Counts, by state and queue, the jobs that are not over, or dead.
-- KEYS[1] tag
-- ARGV[1] states
-- ARGV[2] depth
-- Returns {{state, queue, jobs, milliseconds since the oldest entered the state}, ...}.
-- It looks at that many jobs of each end of a state: from those it knows the queues.
local MOST = 100000
local depth, at, rows = tonumber(ARGV[2]), now(), {}

local function look(seen, entries)
  for i = 1, #entries, 2 do
    local name, since = read(entries[i], 'queue') or '', tonumber(entries[i + 1])
    local row = seen[name] or { jobs = 0, since = since }
    row.jobs, row.since = row.jobs + 1, math.min(row.since, since)
    seen[name] = row
  end
end

for _, state in ipairs(cjson.decode(ARGV[1])) do
  local source, seen = index('state:' .. state), {}
  look(seen, redis.call('ZRANGE', source, 0, depth - 1, 'WITHSCORES'))
  local more = redis.call('ZCARD', source) > depth
  if more then
    look(seen, redis.call('ZREVRANGE', source, 0, depth - 1, 'WITHSCORES'))
  end
  for name, row in pairs(seen) do
    local all = more and name ~= ''
      and redis.pcall('ZINTERCARD', 2, source, index('queue:' .. name), 'LIMIT', MOST)
    -- A server before Redis 7 does not know the command: what was seen must do.
    local jobs = type(all) == 'number' and all or row.jobs
    rows[#rows + 1] = { state, name, jobs, int(at - row.since) }
  end
end
return rows
