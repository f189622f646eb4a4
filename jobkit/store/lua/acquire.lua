-- Gives a job all the slots that it claims, or a place in a line.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] claims
-- ARGV[4] lease
-- ARGV[5] span
-- Returns {'held' | 'promised' | 'waiting' | 'lost', the jobs that were let go, ...}.
local id, fence, lease, span = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4]), tonumber(ARGV[5])
local at, known = now(), place_of(ARGV[1])
local place = {
  id = id, ticket = known and known.ticket, text = ARGV[3],
  claims = cjson.decode(ARGV[3]), fence = fence,
}

-- A run takes what was promised to it, or what nobody older has a right to.
local function missing(had, permitted)
  for i, claim in ipairs(place.claims) do
    local n, period = terms(claim)
    if period > 0 and permitted then
      if clocks(claim).may_start > at then
        return i
      end
    elseif period > 0 then
      if not is_next(place, i) or clocks(claim).may_go > at then
        return i
      end
    elseif not had[claim[1]] then
      local older = redis.call(
        'ZCOUNT', key('promised', claim[1]), '-inf', '(' .. int(place.ticket)
      )
      local held = redis.call('ZCARD', key('held', claim[1]))
      if not is_next(place, i) or held + older >= n then
        return i
      end
    end
  end
  return nil
end

-- Whoever was promised the slot that an older job has taken waits again.
local function displace(claim)
  local promised, n = key('promised', claim[1]), terms(claim)
  local over = redis.call('ZCARD', key('held', claim[1])) + redis.call('ZCARD', promised) - n
  for _ = 1, math.min(over, redis.call('ZCARD', promised)) do
    local youngest = place_of(redis.call('ZREVRANGE', promised, 0, 0)[1])
    leave(youngest)
    for i, theirs in ipairs(youngest.claims) do
      if theirs[1] == claim[1] then
        join(youngest, i, at)
      end
    end
  end
end

local function take(permitted)
  for _, claim in ipairs(place.claims) do
    if claim[3] == 0 then
      redis.call('ZADD', key('held', claim[1]), int(at + lease), id)
    else
      spend(claim, 'started', at)
      if not permitted then
        spend(claim, 'issued', at)
      end
    end
    note(claim)
  end
  redis.call('ZADD', index('ends'), int(at + lease), id)
  put(place, 'held')
  for _, claim in ipairs(place.claims) do
    if claim[3] == 0 then
      displace(claim)
    end
  end
end

if known and fence == 0 and known.stage ~= 'lapsed' then
  return { known.stage }
end
if known and known.stage == 'held' and fence <= known.fence then
  if fence < known.fence then
    return { 'lost' }
  end
  for _, claim in ipairs(known.claims) do
    redis.call('ZADD', key('held', claim[1]), 'XX', int(at + lease), id)
  end
  redis.call('ZADD', index('ends'), int(at + lease), id)
  return { 'held' }
end
place.ticket = place.ticket or number()
if fence == 0 then
  local i = obstacle(place, 0, at)
  if i then
    join(place, i, at)
  else
    let_go(place, at, span)
  end
  return { place.stage }
end
local had = {}
if known then
  if known.stage == 'held' or known.stage == 'promised' then
    for _, claim in ipairs(known.claims) do
      had[claim[1]] = claim[3] == 0
    end
  end
  leave(known)
end
local permitted = known and known.stage == 'promised'
local i = missing(had, permitted)
if i then
  join(place, i, at)
else
  take(permitted)
end
if known then
  tidy_all(known.claims)
end
local gone = serve(at, span, STEPS)
-- It may have been let go itself, at the end of a line that has just moved.
return { place_of(id).stage, unpack(gone) }
