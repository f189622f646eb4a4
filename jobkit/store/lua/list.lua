-- Walks one index from its newest entry, keeping the jobs that match.
-- KEYS[1] tag
-- ARGV[1] index
-- ARGV[2] state
-- ARGV[3] task
-- ARGV[4] queue
-- ARGV[5] owner
-- ARGV[6] after_score
-- ARGV[7] after_id
-- ARGV[8] limit
-- ARGV[9] budget
-- Returns {{{id, score, record}, ...}, last score seen, last id seen} ('' at the end).
local source, limit, budget = index(ARGV[1]), tonumber(ARGV[8]), tonumber(ARGV[9])
local wanted = { ARGV[2], ARGV[3], ARGV[4], ARGV[5] }

local function matches(id)
  local has = redis.call('HMGET', key('job', id), 'state', 'task', 'queue', 'owner')
  if not has[1] then
    redis.call('ZREM', source, id)
    return false
  end
  for i = 1, 4 do
    if wanted[i] ~= '' and has[i] ~= wanted[i] then
      return false
    end
  end
  return true
end

-- The order of a sorted set's members; that of `<` depends on the server's locale.
local function below(one, other)
  for i = 1, math.min(#one, #other) do
    local a, b = string.byte(one, i), string.byte(other, i)
    if a ~= b then
      return a < b
    end
  end
  return #one < #other
end

-- The rank after the last page's end, whether that job is still there or not.
local function first()
  if ARGV[6] == '' then
    return 0
  end
  local rank = redis.call('ZCOUNT', source, '(' .. ARGV[6], '+inf')
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', source, ARGV[6], ARGV[6])) do
    if not below(id, ARGV[7]) then
      rank = rank + 1
    end
  end
  return rank
end

local start = first()
local found = redis.call('ZREVRANGE', source, start, start + budget - 1, 'WITHSCORES')
local rows = {}
for i = 1, #found, 2 do
  local id, score = found[i], found[i + 1]
  if matches(id) then
    rows[#rows + 1] = { id, score, record(id) }
    if #rows == limit then
      return { rows, score, id }
    end
  end
end
if #found < 2 * budget then
  return { rows, '', '' }
end
return { rows, found[#found], found[#found - 1] }
