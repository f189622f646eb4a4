-- Counts the jobs that entered some states, in each of the last spans of time.
-- KEYS[1] tag
-- ARGV[1] states
-- ARGV[2] span
-- ARGV[3] spans
-- Returns {{state, jobs of the last span, of the one before, ...}, ...}.
local at, span, rows = now(), tonumber(ARGV[2]), {}
for _, state in ipairs(cjson.decode(ARGV[1])) do
  local source, row, till = index('state:' .. state), { state }, at
  for _ = 1, tonumber(ARGV[3]) do
    row[#row + 1] = redis.call('ZCOUNT', source, '(' .. int(till - span), int(till))
    till = till - span
  end
  rows[#rows + 1] = row
end
return rows
