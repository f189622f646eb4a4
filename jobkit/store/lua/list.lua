-- Walks one index from its newest entry, keeping the jobs that match.
-- KEYS[1] tag
-- ARGV[1] index
-- ARGV[2] state
-- ARGV[3] task
-- ARGV[4] queue
-- ARGV[5] owner
-- ARGV[6] dead_letter_queue
-- ARGV[7] error
-- ARGV[8] since
-- ARGV[9] until
-- ARGV[10] after_score
-- ARGV[11] after_id
-- ARGV[12] limit
-- ARGV[13] budget
-- ARGV[14] whole
-- Returns {{{id, score, record}, ...}, last score seen, last id seen} ('' at the end);
-- in place of a record that is not asked for, its task.
local source, limit, budget = index(ARGV[1]), tonumber(ARGV[12]), tonumber(ARGV[13])
local wanted = { ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6] }
local error, since, till = ARGV[7], tonumber(ARGV[8]), ARGV[9]
local names = { 'state', 'task', 'queue', 'owner', 'dead_letter_queue' }
if error ~= '' then
  names[6] = 'error' -- it may be long, so it is read only when it is needed
end

-- Whether the job matches, and its task.
local function matches(id)
  local has = redis.call('HMGET', key('job', id), unpack(names))
  if not has[1] then
    redis.call('ZREM', source, id)
    return false
  end
  for i = 1, 5 do
    if wanted[i] ~= '' and has[i] ~= wanted[i] then
      return false
    end
  end
  -- Inside of a text of JSON a quote is escaped, so that this is found as a name alone.
  if error ~= '' and not string.find(has[6] or '', error, 1, true) then
    return false
  end
  return true, has[2]
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
  if ARGV[10] == '' then
    return till == '' and 0 or redis.call('ZCOUNT', source, '(' .. till, '+inf')
  end
  -- Thousands may have entered in one millisecond: theirs is found by halves.
  local low = redis.call('ZCOUNT', source, '(' .. ARGV[10], '+inf')
  local high = low + redis.call('ZCOUNT', source, ARGV[10], ARGV[10])
  while low < high do
    local middle = math.floor((low + high) / 2)
    if below(redis.call('ZREVRANGE', source, middle, middle)[1], ARGV[11]) then
      high = middle
    else
      low = middle + 1
    end
  end
  return low
end

local start = first()
local found = redis.call('ZREVRANGE', source, start, start + budget - 1, 'WITHSCORES')
local rows = {}
for i = 1, #found, 2 do
  local id, score = found[i], found[i + 1]
  if since and tonumber(score) < since then
    return { rows, '', '' }
  end
  local fits, task = matches(id)
  if fits then
    rows[#rows + 1] = { id, score, ARGV[14] == '1' and record(id) or task }
    if #rows == limit then
      return { rows, score, id }
    end
  end
end
if #found < 2 * budget then
  return { rows, '', '' }
end
return { rows, found[#found], found[#found - 1] }
