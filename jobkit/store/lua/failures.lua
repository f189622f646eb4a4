-- Reads a part of the ledger of a job's failed items, in the order of their rows.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] after
-- ARGV[3] limit
-- Returns {{{place, row}, ...}, place of the last row} ('' at the end).
local id, limit = ARGV[1], tonumber(ARGV[3])
local found = redis.call(
  'ZRANGEBYSCORE', key('failure_order', id), '(' .. ARGV[2], '+inf',
  'WITHSCORES', 'LIMIT', 0, limit
)
local rows = {}
for i = 1, #found, 2 do
  rows[#rows + 1] = { found[i + 1], redis.call('HGET', key('failures', id), found[i]) }
end
return { rows, #rows == limit and found[#found] or '' }
