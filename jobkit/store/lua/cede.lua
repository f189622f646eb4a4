-- Lets another job take the id of a run that replaces itself.
-- KEYS[1] tag
-- ARGV[1] id
-- ARGV[2] fence
-- Returns 'ok' or 'lost'.
if not owned(ARGV[1], ARGV[2]) then
  return 'lost'
end
write(ARGV[1], 'ceded', '1')
return 'ok'
