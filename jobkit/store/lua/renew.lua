-- Keeps the lease of a run.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- ARGV[3] lease
-- Returns {'ok', what is asked of the run}, or {'lost'}.
local run = owned(ARGV[1], ARGV[2])
if not run then
  return { 'lost' }
end
keep_lease(ARGV[1], now(), ARGV[3])
return { 'ok', run.request }
