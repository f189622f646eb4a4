-- What the verbs share: time, keys, and the moves of a job between its states.
-- Every script gets KEYS[1], the tag of one partition ('{jobkit:0}'); all keys
-- it touches begin with it, so that they live in one slot of a cluster. The constants
-- RETENTION (also one by one: RETENTION_DEAD), SCHEMA, REPLACED, RESOLVED, DUPLICATE,
-- EVENTS_KEPT, LEDGER_KEPT, BLOCKED_FOR, REQUEUED_FOR, RESENT, TICKS_KEPT and TICKS_LINGER
-- are written in front of this file when it is loaded, and the names of a record's fields
-- in place of FIELDS. What begin.lua and succeed.lua write out changes in three places.

local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function int(number)
  return string.format('%d', number)
end

local function key(kind, id)
  return KEYS[1] .. ':' .. kind .. ':' .. id
end

local function index(kind)
  return KEYS[1] .. ':' .. kind
end

local LAST_CHANCE = 86400000
local HINT_CAP = 6 * 3600 * 1000
local DUE_STATES = { SCHEDULED = true, QUEUED = true, BLOCKED = true, RETRYING = true }
local FINISHED = { SUCCEEDED = true, PARTIAL = true, DEAD = true, CANCELLED = true }
local DONE = { SUCCEEDED = true, PARTIAL = true }

local function read(id, ...)
  return unpack(redis.call('HMGET', key('job', id), ...))
end

local function write(id, ...)
  redis.call('HSET', key('job', id), ...)
end

local function record(id)
  return redis.call('HMGET', key('job', id), FIELDS)
end

local function event(id, name, at, state, detail, progress)
  redis.call(
    'XADD', key('events', id), 'MAXLEN', EVENTS_KEPT, '*',
    'name', name, 'at', int(at), 'state', state,
    'detail', detail or '', 'progress', progress or ''
  )
end

-- What was done, by whom and why, as the detail of an event.
local function said(what, actor, reason)
  local text = what
  if actor ~= '' then
    text = text == '' and actor or text .. ' by ' .. actor
  end
  if reason ~= '' then
    text = text == '' and reason or text .. ': ' .. reason
  end
  return text
end

local function due_at(id, moment)
  write(id, 'due_at', int(moment))
  redis.call('ZADD', index('due'), int(moment), id)
end

-- Puts a job into another state and into that state's index, writing more
-- fields with it. What belongs to the state it leaves, a lease or a due time,
-- goes; a request only stands while a job runs. `due` gives it a due time in the
-- new state.
local function move(id, from, to, at, due, ...)
  local job = key('job', id)
  if from == 'RUNNING' then
    redis.call('ZREM', index('leases'), id)
    redis.call('HDEL', job, 'lease_until', 'request', 'ceded')
  elseif not due then
    redis.call('ZREM', index('due'), id)
  end
  if due then
    redis.call('ZADD', index('due'), int(due), id)
  end
  redis.call(
    'HSET', job, 'state', to, 'updated_at', int(at), 'due_at', due and int(due) or '', ...
  )
  redis.call('ZREM', index('state:' .. from), id)
  redis.call('ZADD', index('state:' .. to), int(at), id)
end

-- Notes that a job ended of which no receiver of signals has heard.
local function leave_unheard(id, at)
  redis.call('ZADD', index('unheard'), int(at), id)
end

-- Notes that a job ended without a word to Celery, for which its chord waits.
local function leave_untold(id, at)
  redis.call('ZADD', index('untold'), int(at), id)
  leave_unheard(id, at)
end

-- An end by its name: the job may be replayed, and have another one.
local function death(id)
  local fence, died_at = read(id, 'fence', 'finished_at')
  return fence .. '.' .. (died_at or '')
end

local function forget_death(id)
  redis.call('ZREM', index('uncopied'), id)
  redis.call('ZREM', index('unannounced'), id)
end

-- Files failed items: a hash of rows, and a sorted set that keeps their order. A
-- row is its state, its first and its last time, and the item, a line each.
local function file_failures(id, at, rows)
  if rows == '' then
    return
  end
  local ledger, order = key('failures', id), key('failure_order', id)
  for _, row in ipairs(cjson.decode(rows)) do
    local name, known = row[1], redis.call('HGET', ledger, row[1])
    local count = redis.call('HLEN', ledger)
    if known or count < LEDGER_KEPT then
      local state, first = string.match(known or '', '^(%a+)\n(%d+)\n')
      if state ~= 'open' then
        redis.call('HINCRBY', key('job', id), 'open_failures', 1)
      end
      first = first or int(at)
      redis.call('HSET', ledger, name, 'open\n' .. first .. '\n' .. int(at) .. '\n' .. row[2])
      if not known then
        redis.call('ZADD', order, count, name)
      end
    else
      write(id, 'ledger_full', '1')
    end
  end
end

-- Closes rows of a ledger whose items a replay has handled; true at the last one.
local function resolve_failures(id, rows)
  if rows == '' then
    return false
  end
  local ledger = key('failures', id)
  for _, name in ipairs(cjson.decode(rows)) do
    local row = redis.call('HGET', ledger, name)
    if row and string.sub(row, 1, 5) == 'open\n' then
      redis.call('HSET', ledger, name, 'resolved' .. string.sub(row, 5))
      redis.call('HINCRBY', key('job', id), 'open_failures', -1)
    end
  end
  -- Items that found no room are not resolved, as far as anybody knows.
  local state, open, full = read(id, 'state', 'open_failures', 'ledger_full')
  return state == 'PARTIAL' and tonumber(open) == 0 and not full
end

-- Removes the ledger of a job's failed items.
local function forget_failures(id)
  redis.call('UNLINK', key('failures', id), key('failure_order', id))
  redis.call('HDEL', key('job', id), 'open_failures', 'ledger_full')
end

-- The keys that a job has beside its record and that live as long as it does.
local function companions(id)
  return { key('events', id), key('failures', id), key('failure_order', id) }
end

-- The job that has a unique key, if it is another one than `id`. A key only points
-- to a record, which knows whether it still has it.
local function holder_of(unique, id, at)
  local holder = redis.call('GET', key('unique', unique))
  if not holder or holder == id then
    return nil
  end
  local state, till = read(holder, 'state', 'unique_till')
  local over = FINISHED[state] and not (till and DONE[state])
  return state and not over and (not till or at < tonumber(till)) and holder or nil
end

-- Gives a job a unique key that no other has: until its end or its start, or for
-- so many milliseconds.
local function take_key(id, unique, span, at)
  redis.call('SET', key('unique', unique), id)
  local length = tonumber(span)
  if length then
    write(id, 'unique_till', int(at + length))
    redis.call('PEXPIREAT', key('unique', unique), int(at + length + LAST_CHANCE))
  end
end

-- Frees a unique key, if it is this job's.
local function drop_key(id, unique)
  if redis.call('GET', key('unique', unique)) == id then
    redis.call('DEL', key('unique', unique))
  end
end

-- Removes a record and all that points to it.
local function forget(id)
  local state, task, queue_name, owner, unique =
    read(id, 'state', 'task', 'queue', 'owner', 'unique_key')
  if unique then
    drop_key(id, unique)
  end
  redis.call('UNLINK', key('job', id), key('ticks', id), unpack(companions(id)))
  redis.call('ZREM', index('expire'), id)
  redis.call('ZREM', index('untold'), id)
  redis.call('ZREM', index('unheard'), id)
  redis.call('ZREM', index('leases'), id)
  redis.call('ZREM', index('due'), id)
  redis.call('ZREM', index('all'), id)
  forget_death(id)
  if state then
    redis.call('ZREM', index('state:' .. state), id)
    redis.call('ZREM', index('task:' .. task), id)
    redis.call('ZREM', index('queue:' .. (queue_name or '')), id)
    redis.call('ZREM', index('owner:' .. (owner or '')), id)
  else
    -- The record was gone first; the lists drop what is left when they see it.
    for finished in pairs(FINISHED) do
      redis.call('ZREM', index('state:' .. finished), id)
    end
  end
end

-- Lets a record and what belongs to it go. The expiry of the keys themselves is the
-- last chance, for stores that no worker prunes. `ledger` tells whether it has one.
local function expire(id, at, ledger)
  redis.call('ZADD', index('expire'), int(at), id)
  redis.call('PEXPIREAT', key('job', id), int(at + LAST_CHANCE))
  redis.call('PEXPIREAT', key('events', id), int(at + LAST_CHANCE))
  if ledger then
    redis.call('PEXPIREAT', key('failures', id), int(at + LAST_CHANCE))
    redis.call('PEXPIREAT', key('failure_order', id), int(at + LAST_CHANCE))
  end
end

-- Ends a job: its record stays for the state's retention.
local function finish(id, from, to, at, ...)
  local unique, till, copied, ledger =
    read(id, 'unique_key', 'unique_till', 'copied', 'open_failures')
  local kept = RETENTION[to]
  if copied then
    -- As long as a copy of its death may come back, it is known to be stale.
    kept = math.max(kept, RETENTION.DEAD)
  end
  local expires = at + kept
  if unique and till and DONE[to] then
    expires = math.max(expires, tonumber(till))
  elseif unique then
    drop_key(id, unique)
  end
  move(id, from, to, at, nil, 'finished_at', int(at), ...)
  expire(id, expires, ledger)
end

-- Ends a job that came while another one had its unique key.
local function yield_to(holder, id, from, at)
  finish(id, from, 'CANCELLED', at, 'reason', DUPLICATE .. holder, 'duplicate_of', holder)
  leave_untold(id, at)
  event(id, 'cancelled', at, 'CANCELLED', DUPLICATE .. holder)
end

-- Ends a job as a dead letter. What is still to be done about it is noted: a copy
-- for the queue that is named, and a word before the record goes.
local function die(id, from, at, ...)
  finish(id, from, 'DEAD', at, ...)
  if (read(id, 'dead_letter_queue') or '') ~= '' then
    redis.call('ZADD', index('uncopied'), int(at), id)
  end
  redis.call('ZADD', index('unannounced'), int(at), id)
end

-- Puts a new record into the indexes.
local function enter(id, state, at, task, queue_name, owner)
  redis.call('ZADD', index('all'), int(at), id)
  redis.call('ZADD', index('state:' .. state), int(at), id)
  redis.call('ZADD', index('task:' .. task), int(at), id)
  if queue_name ~= '' then
    redis.call('ZADD', index('queue:' .. queue_name), int(at), id)
  end
  if owner ~= '' then
    redis.call('ZADD', index('owner:' .. owner), int(at), id)
  end
end

local function unfinish(id)
  redis.call('ZREM', index('expire'), id)
  redis.call('ZREM', index('untold'), id)
  redis.call('ZREM', index('unheard'), id)
  forget_death(id)
  redis.call('PERSIST', key('job', id))
  for _, name in ipairs(companions(id)) do
    redis.call('PERSIST', name)
  end
  redis.call('HDEL', key('job', id), 'finished_at', 'reason')
end

-- Gives a dead job fresh budgets and another run, unless another job has its unique
-- key: then that one's id is returned.
local function replay_dead(id, mode, at, detail)
  local job = key('job', id)
  local unique, span = read(id, 'unique_key', 'unique_until')
  if unique then
    local holder = holder_of(unique, id, at)
    if holder then
      return holder
    end
    take_key(id, unique, span, at)
  end
  unfinish(id)
  redis.call('HINCRBY', job, 'replays', 1)
  redis.call('HDEL', job, 'budgets')
  write(id, 'attempts', 0, 'rate_limited', 0, 'crashes_without_progress', 0)
  if mode == 'restart' then
    redis.call('HDEL', job, 'checkpoint', 'progress')
    write(id, 'position', 0)
    forget_failures(id)
  end
  move(id, 'DEAD', 'QUEUED', at, at)
  event(id, 'replayed', at, 'QUEUED', detail)
end

-- Gives a dead job up.
local function discard_dead(id, at, reason, detail)
  forget_death(id)
  redis.call('ZREM', index('unheard'), id)
  finish(id, 'DEAD', 'CANCELLED', at, 'reason', reason ~= '' and reason or 'discarded')
  event(id, 'discarded', at, 'CANCELLED', detail)
end

-- Carries out what was asked of a run that has just stopped; nil if nothing was.
local function honour(id, from, at, request)
  if not request or request == '' then
    return nil
  end
  local kind, actor, reason = string.match(request, '^([^\n]*)\n([^\n]*)\n(.*)$')
  if kind == 'cancel' then
    finish(id, from, 'CANCELLED', at, 'reason', reason)
    leave_untold(id, at)
    local progress = read(id, 'progress') or ''
    event(id, 'cancelled', at, 'CANCELLED', said('', actor, reason), progress)
    return 'CANCELLED'
  end
  move(id, from, 'PAUSED', at, nil, 'reason', reason)
  event(id, 'paused', at, 'PAUSED', said('', actor, reason))
  return 'PAUSED'
end

-- The run of this fence as a table, or nil for a stale owner.
local function owned(id, fence)
  local state, held, request, position, seq, open =
    read(id, 'state', 'fence', 'request', 'position', 'save_seq', 'open_failures')
  if state ~= 'RUNNING' or held ~= fence then
    return nil, state, held
  end
  return {
    request = request or '',
    position = tonumber(position or '0'),
    seq = tonumber(seq or '0'),
    open = tonumber(open or '0'),
  }
end

local function keep_lease(id, at, lease, ...)
  local till = at + tonumber(lease)
  write(id, 'lease_until', int(till), 'updated_at', int(at), ...)
  redis.call('ZADD', index('leases'), int(till), id)
end

local function count_error(id, attempt, rate_limited, budgets, error)
  if attempt == '1' then
    redis.call('HINCRBY', key('job', id), 'attempts', 1)
  end
  if rate_limited == '1' then
    redis.call('HINCRBY', key('job', id), 'rate_limited', 1)
  end
  write(id, 'budgets', budgets, 'error', error)
end

-- The error of a poisoned job says how far it was.
local function with_place(id, error)
  local seen = read(id, 'progress')
  local info, place = cjson.decode(error), 'Nothing was saved.'
  if seen and seen ~= '' then
    local progress = cjson.decode(seen)
    if type(progress.stage) == 'string' and type(progress.current) == 'number' then
      place = 'Last checkpoint: item ' .. int(progress.current) .. ' of stage ' .. progress.stage .. '.'
    end
  end
  if type(info.message) == 'string' then
    info.message = info.message .. ' ' .. place
  end
  return cjson.encode(info)
end

-- What becomes of a job whose owner died: it is due again, or dead as poison.
local function lost_owner(id, at, from, error)
  local position, began_at, crashes, limit, request, known = read(
    id, 'position', 'position_at_begin', 'crashes_without_progress', 'crash_limit',
    'request', 'error'
  )
  crashes = tonumber(crashes or '0') + 1
  if from == 'RUNNING' and tonumber(position or '0') > tonumber(began_at or '0') then
    crashes = 0
  end
  redis.call('HINCRBY', key('job', id), 'recoveries', 1)
  write(id, 'crashes_without_progress', int(crashes))
  if crashes >= tonumber(limit or '3') then
    die(id, from, at, 'reason', 'poison', 'error', with_place(id, error))
    leave_untold(id, at)
    event(id, 'dead', at, 'DEAD', 'poison', read(id, 'progress') or '')
    return 'DEAD'
  end
  if not known or known == '' then
    write(id, 'error', error)
  end
  local state = honour(id, from, at, request)
  if not state then
    move(id, from, 'QUEUED', at, at)
    event(id, 'recovered', at, 'QUEUED')
    state = 'QUEUED'
  end
  return state
end
