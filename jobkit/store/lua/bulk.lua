-- Replays or discards dead jobs of one partition, each of them once in a bulk.
-- KEYS[1] tag
-- ARGV[1] ids
-- ARGV[2] act
-- ARGV[3] bulk
-- ARGV[4] actor
-- ARGV[5] reason
-- Returns the ids of those that were moved, now or earlier in the same bulk.
local act, bulk, actor, reason = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local at, done = now(), {}
for _, id in ipairs(cjson.decode(ARGV[1])) do
  local state, earlier, schema = read(id, 'state', 'bulk', 'schema')
  local moved = state and earlier == bulk
  if not moved and state == 'DEAD' and tonumber(schema) <= SCHEMA then
    local detail = said(act .. ' in bulk ' .. bulk, actor, reason)
    if act == 'discard' then
      discard_dead(id, at, reason, detail)
      moved = true
    else
      -- One whose unique key another job has by now stays dead.
      moved = not replay_dead(id, act, at, detail)
    end
    if moved then
      write(id, 'bulk', bulk)
    end
  end
  if moved then
    done[#done + 1] = id
  end
end
return done
