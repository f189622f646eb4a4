-- What the verbs of limits share; KEYS[1] is the tag of all limits ('{jobkit:limits}').
-- A job that has claims has a place: it is held (a run's, by its fence), promised
-- (its message is published), waiting (in the line of one of its claims) or lapsed
-- (it did not come in time: only its ticket is kept). Claims are [name, n, period]
-- with the period 0 for slots and milliseconds for a rate; the narrowest is the first.

local KEPT = 86400000
local LOOK_AGAIN = 500
local STEPS = 16

local function number()
  return redis.call('INCR', index('numbers'))
end

local function place_of(id)
  local stage, ticket, claims, line, fence = unpack(
    redis.call('HMGET', key('place', id), 'stage', 'ticket', 'claims', 'line', 'fence')
  )
  return stage and {
    id = id, stage = stage, ticket = tonumber(ticket), text = claims,
    claims = cjson.decode(claims), line = line, fence = tonumber(fence),
  } or nil
end

local function put(place, stage, line)
  place.stage, place.line = stage, line
  redis.call(
    'HSET', key('place', place.id), 'stage', stage, 'ticket', int(place.ticket),
    'claims', place.text, 'line', line or '', 'fence', int(place.fence)
  )
  redis.call('PERSIST', key('place', place.id))
end

-- What is in force: what was set while running, or what the code says.
local function terms(claim)
  local n, period = unpack(redis.call('HMGET', key('limit', claim[1]), 'set', 'set_period'))
  return tonumber(n) or claim[2], tonumber(period) or claim[3]
end

-- A rate has two clocks (GCRA): `issued` spaces the jobs that are let go, `started`
-- those that begin; the latter has one interval of slack for the way between.
local function clocks(claim)
  local n, period = terms(claim)
  local issued, started, closed =
    unpack(redis.call('HMGET', key('limit', claim[1]), 'issued', 'started', 'closed'))
  local interval = period / n
  local slack = (math.max(1, math.floor(n / 10)) - 1) * interval
  issued, started = tonumber(issued or '0'), tonumber(started or '0')
  local may_start = math.max(started - slack - interval, tonumber(closed or '0'))
  return {
    interval = interval, issued = issued, started = started, closed = tonumber(closed or '0'),
    may_start = may_start, may_go = math.max(issued - slack, may_start),
  }
end

-- Keeps the clocks of a rate for as long as they say anything.
local function keep_clocks(name)
  local limit = key('limit', name)
  local issued, started, closed, set =
    unpack(redis.call('HMGET', limit, 'issued', 'started', 'closed', 'set'))
  local last = math.max(
    tonumber(issued or '0'), tonumber(started or '0'), tonumber(closed or '0')
  )
  if last > 0 and not set then
    redis.call('PEXPIREAT', limit, int(math.max(last, now()) + LOOK_AGAIN))
  end
end

local function wind(name, which, value)
  redis.call('HSET', key('limit', name), which, string.format('%.3f', value))
  keep_clocks(name)
end

local function spend(claim, which, at)
  local clock = clocks(claim)
  wind(claim[1], which, math.max(clock[which], at) + clock.interval)
end

local function awaited(name)
  return redis.call('EXISTS', key('wait', name)) == 1
end

-- Looks at the lines of these claims in the next round.
local function touch(claims)
  for _, claim in ipairs(claims) do
    if awaited(claim[1]) then
      redis.call('ZADD', index('ready'), 'NX', number(), claim[1])
    end
  end
end

local function note(claim)
  if claim[3] == 0 or awaited(claim[1]) then
    redis.call('HSET', key('limit', claim[1]), 'n', claim[2], 'period', claim[3])
    redis.call('ZADD', index('keys'), 0, claim[1])
  end
end

-- Forgets a limit that nobody uses or waits for.
local function tidy(name)
  if awaited(name) then
    return
  end
  redis.call('ZREM', index('ready'), name)
  redis.call('ZREM', index('later'), name)
  local used = redis.call('EXISTS', key('held', name), key('promised', name))
  if used == 0 and redis.call('HEXISTS', key('limit', name), 'set') == 0 then
    redis.call('ZREM', index('keys'), name)
    if redis.call('PTTL', key('limit', name)) == -1 then
      redis.call('DEL', key('limit', name))
    end
  end
end

-- Takes a job out of whatever it has; its place is to be put or removed next.
local function leave(place)
  if place.stage == 'waiting' then
    redis.call('ZREM', key('wait', place.line), place.id)
  end
  for _, claim in ipairs(place.claims) do
    redis.call('ZREM', key('held', claim[1]), place.id)
    redis.call('ZREM', key('promised', claim[1]), place.id)
  end
  redis.call('ZREM', index('ends'), place.id)
  redis.call('ZREM', index('outbox'), place.id)
  touch(place.claims)
end

local function tidy_all(claims)
  for _, claim in ipairs(claims) do
    tidy(claim[1])
  end
end

-- The line of the narrowest claim is by ticket, others are by when one came there:
-- so those who wait for a shared limit take turns by what is their own.
local function is_next(place, i)
  local line = key('wait', place.claims[i][1])
  if i > 1 then
    return redis.call('EXISTS', line) == 0
  end
  return redis.call('ZCOUNT', line, '-inf', '(' .. int(place.ticket)) == 0
end

local function join(place, i, at)
  local claim = place.claims[i]
  redis.call('ZADD', key('wait', claim[1]), i == 1 and place.ticket or number(), place.id)
  put(place, 'waiting', claim[1])
  note(claim)
  if claim[3] > 0 then
    redis.call('ZADD', index('later'), int(math.ceil(clocks(claim).may_go)), claim[1])
  end
end

-- Whether a limit lets one more job go. Those who are let go and have not begun are
-- in front of all others in their queue, so they are few.
local function admits(claim, at)
  local n, period = terms(claim)
  if period > 0 then
    return clocks(claim).may_go <= at
  end
  local promised = redis.call('ZCARD', key('promised', claim[1]))
  local held = redis.call('ZCARD', key('held', claim[1]))
  return held + promised < n and promised < math.max(2, math.floor(n / 4))
end

-- The first claim for which a job has to wait, or nil; it heads the line of `mine`.
local function obstacle(place, mine, at)
  for i, claim in ipairs(place.claims) do
    if (i ~= mine and not is_next(place, i)) or not admits(claim, at) then
      return i
    end
  end
  return nil
end

local function promise(place, at, span)
  for _, claim in ipairs(place.claims) do
    if claim[3] == 0 then
      redis.call('ZADD', key('promised', claim[1]), place.ticket, place.id)
    end
    note(claim)
  end
  redis.call('ZADD', index('ends'), int(at + span), place.id)
  put(place, 'promised')
end

local function let_go(place, at, span)
  for _, claim in ipairs(place.claims) do
    if claim[3] > 0 then
      spend(claim, 'issued', at)
    end
  end
  promise(place, at, span)
  redis.call('ZADD', index('outbox'), int(at + LOOK_AGAIN), place.id)
end

-- Keeps nothing of a place but its ticket: its owner is gone, or did not come.
local function lapse(place)
  leave(place)
  put(place, 'lapsed')
  redis.call('PEXPIRE', key('place', place.id), KEPT)
  tidy_all(place.claims)
end

-- Serves the head of one line. Returns whether to come back to that line, and the
-- job that was let go.
local function serve_line(name, at, span)
  local head = redis.call('ZRANGE', key('wait', name), 0, 0)[1]
  local place = head and place_of(head)
  if not place or place.line ~= name then
    redis.call('ZREM', key('wait', name), head or '')
    return head ~= nil, nil
  end
  local mine = 1
  for i, claim in ipairs(place.claims) do
    mine = claim[1] == name and i or mine
  end
  local i = obstacle(place, mine, at)
  if not i then
    leave(place)
    let_go(place, at, span)
    return true, head
  end
  if i == mine then
    local claim = place.claims[i]
    if claim[3] > 0 then
      redis.call('ZADD', index('later'), int(math.ceil(clocks(claim).may_go)), name)
    end
    return false, nil
  end
  -- It waits for a wider limit as the one candidate of this line, or goes back to
  -- the narrower one, where it is the first, and is in nobody's way.
  redis.call('ZREM', key('wait', name), head)
  join(place, i, at)
  return i < mine, nil
end

-- Frees what has run out, and lets go whoever is next, the lines by turns.
local function serve(at, span, steps)
  local ended = redis.call('ZRANGEBYSCORE', index('ends'), '-inf', int(at), 'LIMIT', 0, steps)
  for _, id in ipairs(ended) do
    local place = place_of(id)
    if place then
      lapse(place)
    else
      redis.call('ZREM', index('ends'), id)
    end
  end
  local open = redis.call('ZRANGEBYSCORE', index('later'), '-inf', int(at), 'LIMIT', 0, steps)
  for _, name in ipairs(open) do
    redis.call('ZREM', index('later'), name)
    redis.call('ZADD', index('ready'), 'NX', number(), name)
  end
  local gone = {}
  for _ = 1, steps do
    local name = redis.call('ZRANGE', index('ready'), 0, 0)[1]
    if not name then
      break
    end
    redis.call('ZREM', index('ready'), name)
    local again, id = serve_line(name, at, span)
    gone[#gone + 1] = id
    if again and awaited(name) then
      redis.call('ZADD', index('ready'), number(), name)
    end
    tidy(name)
  end
  return gone
end
