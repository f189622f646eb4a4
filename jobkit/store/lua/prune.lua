-- Removes finished jobs whose retention has passed.
-- KEYS[1] tag
-- ARGV[1] limit
-- Returns how many it were.
local at, count = now(), 0

-- A job that goes over its failed items, or may be replayed to do so, reads them here.
local function is_needed(id)
  local own, child = read(id, 'state', 'replayed_by')
  local state = DONE[own] and child and read(child, 'state')
  return state and (state == 'DEAD' or not FINISHED[state])
end

local old = redis.call(
  'ZRANGEBYSCORE', index('expire'), '-inf', int(at), 'LIMIT', 0, ARGV[1]
)
for _, id in ipairs(old) do
  if is_needed(id) then
    expire(id, at + LAST_CHANCE, read(id, 'open_failures'))
  else
    forget(id)
    count = count + 1
  end
end
return count
