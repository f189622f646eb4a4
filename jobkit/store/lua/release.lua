-- Gives back what a run holds (by its fence), or what a job waits for (fence 0).
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] keep
-- ARGV[4] span
-- Returns the jobs that were let go.
local id, fence, span = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[4])
local at, place = now(), place_of(id)
local its_own = place and (place.stage == 'held') == (fence > 0)
if not its_own or (fence > 0 and fence ~= place.fence) then
  return {}
end
leave(place)
if ARGV[3] == '1' then
  promise(place, at, span)
else
  redis.call('DEL', key('place', id))
end
tidy_all(place.claims)
return serve(at, span, STEPS)
