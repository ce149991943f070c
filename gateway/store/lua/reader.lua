-- Durable readers: groups of services whose instances read channels, each publication at least once and in order. It follows channels.lua.
--
--   gw:{C}:reader:GROUP  hash: owner (who reads the channel now, INSTANCE/NUMBER), epoch, offset and ms of the acknowledged position, reading (the
--                        epoch that the consumer group belongs to), left (the last owners
--                        that lost the channel, the newest first, each with the position at that moment)
--   gw:{C}:stream        has the consumer group GROUP: its pending entries, all of the consumer 'reader', are not settled, that is neither
--                        acknowledged nor dead
--   gw:{C}:dead:GROUP    stream: the newest publications that were rejected or given too often, with reason epoch offset ms deliveries
--
-- The position moves only when publications are settled. What history lost is the difference between the position and the oldest publication
-- that is given, so a gap is found again after a crash, until the publication that carries it is settled. A page crosses a hole only where nothing
-- is pending. The functions take four keys, always in this order: meta stream reader dead. The instances of a group are in membership.lua, and the
-- channels of a namespace in index.lua.


local DEAD_KEPT = 10000         -- publications in the stream of the dead
local LEFT_KEPT = 8             -- owners that lost a channel
local LAST_MS = '18446744073709551615'  -- the greatest second half of a stream's id
local CONSUMER = 'reader'       -- one for all instances, each of which is the owner in turn: a consumer of each would stay in the stream for ever
local COPIED = {data = true, tags = true, info = true}  -- fields of a publication that its dead letter has

local function halves(id)
  local offset, ms = string.match(id, '^(%d+)%-(%d+)$')
  return tonumber(offset), tonumber(ms)
end

-- The group and the name of the channel's Pub/Sub channel; raises if the keys are not those of one channel and group.
local function reader_of(keys)
  local group = string.match(keys[3] or '', '}:reader:([^{}]+)$') or ''
  return group, base_of(keys, {':meta', ':stream', ':reader:' .. group, ':dead:' .. group})
end

local function state_of(key)
  local fields = redis.call('HMGET', key, 'owner', 'epoch', 'offset', 'ms', 'reading')
  local epoch, offset, ms = position_of(fields[2], fields[3], fields[4])
  return {owner = fields[1] or '', epoch = epoch, offset = offset, ms = ms, reading = fields[5] or ''}
end

-- The owner loses the channel. What it had acknowledged by then is noted, so that an acknowledgement of its own that comes again, because its
-- answer was lost, is answered as before.
local function note_lost_owner(key, state)
  local lines = {state.owner .. ' ' .. (state.epoch or '') .. ' ' .. number(state.offset or 0)}
  for line in string.gmatch(redis.call('HGET', key, 'left') or '', '[^\n]+') do
    if #lines < LEFT_KEPT then table.insert(lines, line) end
  end
  redis.call('HSET', key, 'left', table.concat(lines, '\n'))
  return redis.call('HDEL', key, 'owner')
end

-- Whether an owner that lost the channel had acknowledged a publication before.
local function had_settled(key, owner, epoch, id)
  for line in string.gmatch(redis.call('HGET', key, 'left') or '', '[^\n]+') do
    local left, of, offset = string.match(line, '^(%S+) (%S*) (%d+)$')
    if left == owner then return of == epoch and halves(id) <= tonumber(offset) end
  end
  return false
end

local function set_position(key, epoch, offset, ms)
  redis.call('HSET', key, 'epoch', epoch, 'offset', number(offset), 'ms', number(ms))
end

-- Nothing after this position was acknowledged yet. Its time is noted, as that of an acknowledged one is, where it is known.
local function start_at(keys, named, offset, epoch, trimmed)
  set_position(keys[3], named, offset, named == epoch and ms_of(keys[2], offset, trimmed) or 0)
end

-- The offset before the oldest publication that history holds; the top if it holds none.
local function before_oldest(stream, top)
  local entry = redis.call('XRANGE', stream, '1', number(top), 'COUNT', 1)[1]
  return entry and halves(entry[1]) - 1 or top
end

-- The offset before the first publication of that unix ms or later. The times grow with the offsets, so half of the rest is left out each time.
local function before_time(stream, wanted, top)
  local low, high = before_oldest(stream, top), top
  while low < high do
    local middle = math.floor((low + high + 1) / 2)
    local entry = redis.call('XRANGE', stream, number(middle), number(top), 'COUNT', 1)[1]
    local _, ms = halves(entry and entry[1] or '')
    if ms and ms < wanted then low = middle else high = middle - 1 end
  end
  return low
end

-- The position that a START names: '' is before all that history holds, @MS a time, EPOCH:OFFSET a position, of this epoch if EPOCH is ''.
local function start_of(stream, start, epoch, top)
  if start == '' then return epoch, before_oldest(stream, top) end
  local ms = string.match(start, '^@(%d+)$')
  if ms then return epoch, before_time(stream, tonumber(ms), top) end
  local named, offset = string.match(start, '^(%w*):(%d+)$')
  if not named or #named > 64 then
    error({err = 'GATEWAY a start is @MS or EPOCH:OFFSET, not ' .. start})
  end
  if named == '' or named == epoch then return epoch, math.min(tonumber(offset), top) end
  return named, tonumber(offset)
end

-- The last offset that the consumer group was given, and how many entries are pending; nil if there is no such group.
local function group_of(stream, group)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  for _, group_info in ipairs(groups.err and {} or groups) do
    local fields = {}
    for i = 1, #group_info, 2 do fields[group_info[i]] = group_info[i + 1] end
    if fields.name == group then
      local last = halves(fields['last-delivered-id'])
      return last, fields.pending
    end
  end
end

-- Settles one entry; the position moves on if it was the oldest pending one.
local function settle(keys, group, id, epoch)
  local pending = redis.call('XPENDING', keys[2], group, '-', '+', 2)
  if redis.call('XACK', keys[2], group, id) == 0 or pending[1][1] ~= id then return end
  local offset = group_of(keys[2], group)
  if pending[2] then offset = halves(pending[2][1]) - 1 end
  set_position(keys[3], epoch, offset, ms_of(keys[2], offset, id) or 0)
end

-- Settles again what OWNER has settled up to an offset: Valkey came back without its last acknowledgements, but with all publications. They would
-- be pending until another instance takes the channel, and nothing after a hole would be given before.
local function settle_again(keys, group, epoch, upto)
  for _, entry in ipairs(redis.call('XPENDING', keys[2], group, '-', number(upto), PAGE)) do settle(keys, group, entry[1], epoch) end
end

-- Writes a dead letter. A key that another program made something else of is replaced: else no dead letter would let the others pass.
local function bury(keys, epoch, id, reason, deliveries)
  local offset, ms = halves(id)
  local words = {'XADD', keys[4], 'MAXLEN', '~', DEAD_KEPT, '*', 'reason', reason, 'epoch', epoch, 'offset', number(offset), 'ms', number(ms)}
  table.insert(words, 'deliveries')
  table.insert(words, number(deliveries))
  local entry = redis.call('XRANGE', keys[2], id, id)[1]
  for i = 1, entry and #entry[2] or 0, 2 do
    if COPIED[entry[2][i]] then
      table.insert(words, entry[2][i])
      table.insert(words, entry[2][i + 1])
    end
  end
  local added = redis.pcall(unpack(words))
  if type(added) == 'table' and added.err then
    redis.call('DEL', keys[4])
    redis.call(unpack(words))
  end
end

-- How often an entry was given; nil if it is not pending.
local function deliveries_of(stream, group, id)
  local pending = redis.call('XPENDING', stream, group, id, id, 1)[1]
  return pending and pending[4]
end

-- Settles a pending entry that became a dead letter before it was given again. The position moves on only to the next publication: what
-- history lost before this one is still to be a gap of one that is given.
local function settle_dead(keys, group, id, epoch)
  local state = state_of(keys[3])
  if state.epoch == epoch and state.offset + 1 == halves(id) then
    settle(keys, group, id, epoch)
  else
    redis.call('XACK', keys[2], group, id)
  end
end

-- Takes over what is pending after an offset. Returns the entries with their deliveries, the ids of those that were given too often,
-- and whether some are left; nil where some of it is no longer in history, though it follows what OWNER was given: Valkey forgets
-- then that they were pending, and nothing would show that they are missing.
local function pending_after(keys, group, epoch, after, ask)
  local entries, dead, taken = {}, {}, 0
  local claimed = redis.call('XAUTOCLAIM', keys[2], group, CONSUMER, 0, number(after + 1) .. '-0', 'COUNT', ask.count, 'JUSTID')
  if after > 0 and #(claimed[3] or {}) > 0 then return nil end
  for _, id in ipairs(claimed[2]) do
    local deliveries = deliveries_of(keys[2], group, id)
    if deliveries >= ask.tries then
      bury(keys, epoch, id, 'given ' .. deliveries .. ' times without an acknowledgement', deliveries)
      settle_dead(keys, group, id, epoch)
      table.insert(dead, id)
    else
      local entry = redis.call('XRANGE', keys[2], id, id)[1]
      for _, word in ipairs(entry[2]) do taken = taken + #word end
      if taken > ask.bytes and #entries > 0 then return entries, dead, true end
      table.insert(entries, {entry, deliveries})
    end
  end
  return entries, dead, claimed[1] ~= '0-0'
end

-- Gives what follows the last entry that the group was given, up to the next hole; across a hole only if nothing is pending.
-- Returns the entries, how many others were found among them that no publisher wrote, and whether some are left. They count as given
-- once; but where that is all that is allowed, OWNER counts each when it gives it to the application.
local function new_after(keys, group, last, pending, top, ask)
  local entries, foreign, words = {}, 0, {'XCLAIM', keys[2], group, CONSUMER, 0}
  local page = range(keys[2], number(last + 1), number(top), false, ask.count, ask.bytes)
  local given = last
  for _, entry in ipairs(page) do
    local offset = halves(entry[1])
    if #entries == 0 and pending == 0 or offset == given + 1 then
      table.insert(entries, {entry, 0})
      table.insert(words, entry[1])
      given = offset
    elseif offset <= given then
      foreign = foreign + 1
    else
      break
    end
  end
  if #entries > 0 then
    for _, word in ipairs({'RETRYCOUNT', ask.tries > 1 and 1 or 0, 'FORCE', 'JUSTID', 'LASTID', number(given) .. '-' .. LAST_MS}) do table.insert(words, word) end
    redis.call(unpack(words))
  end
  return entries, foreign, #page > 0 and given < top
end

-- gateway_reader_take 4 meta stream reader dead OWNER FROM → '' if OWNER reads the channel from now on, else who does
--   A channel without an owner is taken, and one whose owner is FROM: an instance that ended without giving it back.
-- Atomic, because two instances that find the channel without an owner would both take it.
local function gateway_reader_take(keys, args)
  reader_of(keys)
  local state = state_of(keys[3])
  local owner = state.owner
  if owner ~= '' and owner ~= args[1] and owner ~= args[2] then return owner end
  if owner ~= '' and owner ~= args[1] then note_lost_owner(keys[3], state) end
  redis.call('HSET', keys[3], 'owner', args[1])
  return ''
end

-- gateway_reader_release 4 meta stream reader dead OWNER → 1 if OWNER read the channel; it does no longer
-- Atomic, because an instance that took the channel after the check would lose it.
local function gateway_reader_release(keys, args)
  reader_of(keys)
  local state = state_of(keys[3])
  if state.owner ~= args[1] then return 0 end
  return note_lost_owner(keys[3], state)
end

-- gateway_reader_read 4 meta stream reader dead OWNER START TRIES COUNT BYTES AFTER [EPOCH OFFSET MS SETTLED [position]]
--   → [1, epoch, [epoch, offset] of the position before a gap, [[entry, deliveries until now], …], ids of new dead letters, foreign entries, 1 if more, [epoch, offset, ms] of the position]
--   → [0] if OWNER does not read the channel, or what it was given is void: it takes the channel again
--   What follows AFTER, the last offset that OWNER was given since it took the channel (0: none): first what is pending, then what is new; a pending
--   one that was given TRIES times becomes a dead letter. A group without a position begins at START. EPOCH OFFSET MS is the newest publication
--   that this process was ever given, SETTLED the offset up to which it has acknowledged: where Valkey lost the position, it is restored from these,
--   and where Valkey came back older than that, the epoch is renewed. EPOCH '': it was given none. The position is there for those that ask for
--   it, as readers of an older version do not.
-- Atomic, because the owner, the range, the pending entries and the position must be of one moment.
local function gateway_reader_read(keys, args)
  local group, base = reader_of(keys)
  local owner, after = args[1], tonumber(args[6])
  local ask = {tries = tonumber(args[3]), count = math.min(tonumber(args[4]), PAGE), bytes = tonumber(args[5])}
  local state = state_of(keys[3])
  if state.owner ~= owner then return {0} end
  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset', 'ms', 'trimmed')
  local epoch, top, ms = position_of(meta[1], meta[2], meta[3])
  if not epoch then return {1, '', {}, {}, {}, 0, 0} end

  local known = args[7] or ''
  local rewound = known == epoch and is_rewound(keys[2], tonumber(args[8]), tonumber(args[9]), top, ms, meta[4])
  if not rewound and state.epoch == epoch then
    rewound = is_rewound(keys[2], state.offset, state.ms, top, ms, meta[4])
  end
  if rewound then epoch = renew(keys[1], base, top) end

  if not state.epoch then
    if known ~= '' then
      state.epoch, state.offset = known, tonumber(args[10])
    else
      state.epoch, state.offset = start_of(keys[2], args[2], epoch, top)
    end
    start_at(keys, state.epoch, state.offset, epoch, meta[4])
  end

  local last, pending = group_of(keys[2], group)
  if not last or state.reading ~= epoch or last > top then
    if after > 0 then return {0} end
    if last then redis.call('XGROUP', 'DESTROY', keys[2], group) end
    if redis.call('EXISTS', keys[2]) == 0 then return {1, epoch, {}, {}, {}, 0, 0, args[11] and {state.epoch, state.offset, state.ms}} end
    -- In another epoch what precedes the position is known only if the publication there is still the one that was acknowledged. Its time
    -- alone does not prove that: a history that begins anew may have another one there of the same millisecond, but has lost the group.
    local is_kept = last and state.ms > 0 and ms_of(keys[2], state.offset, meta[4]) == state.ms
    last, pending = state.offset, 0
    if last > top or state.epoch ~= epoch and not is_kept then
      last = before_oldest(keys[2], top)
    end
    redis.call('XGROUP', 'CREATE', keys[2], group, number(last) .. '-' .. LAST_MS)
    redis.call('HSET', keys[3], 'reading', epoch)
  end

  if after > 0 and known == epoch and (state.epoch ~= epoch or state.offset < tonumber(args[10])) then
    settle_again(keys, group, epoch, tonumber(args[10]))
    last, pending = group_of(keys[2], group)
  end
  local entries, dead, foreign, more, oldest = {}, {}, 0, false, after == 0
  if after < last then
    entries, dead, more = pending_after(keys, group, epoch, after, ask)
    if not entries then
      note_lost_owner(keys[3], state)
      return {0}
    end
    more = more or #entries > 0 and last < top
  end
  if #entries == 0 and not more then
    last, pending = group_of(keys[2], group)
    oldest = pending == 0
    entries, foreign, more = new_after(keys, group, last, pending, top, ask)
  end
  local gap = {}
  if #entries > 0 and oldest then
    state = state_of(keys[3])
    local first = halves(entries[1][1][1])
    if state.epoch ~= epoch or state.offset + 1 ~= first then gap = {state.epoch, state.offset} end
  end
  return {1, epoch, gap, entries, dead, foreign, more and 1 or 0, args[11] and {state.epoch, state.offset, state.ms}}
end

-- gateway_reader_again 4 meta stream reader dead OWNER ID DELIVERIES → 1, or 0 if OWNER does not read the channel
--   OWNER hands a pending publication to the application again: that makes so many times.
-- Atomic, because another instance that took the channel counts for itself.
local function gateway_reader_again(keys, args)
  local group = reader_of(keys)
  if redis.call('HGET', keys[3], 'owner') ~= args[1] then return 0 end
  if #redis.call('XRANGE', keys[2], args[2], args[2]) > 0 then  -- else history has let it go, and so would the claim
    redis.pcall('XCLAIM', keys[2], group, CONSUMER, 0, args[2], 'RETRYCOUNT', args[3], 'JUSTID')
  end
  return 1
end

-- gateway_reader_settle 4 meta stream reader dead OWNER EPOCH ID [REASON] → 1; 0 if OWNER does not read the channel, or not this life of it
--   Acknowledges a publication; with REASON it becomes a dead letter. Repeating it changes nothing, and is answered as before, also where OWNER
--   has lost the channel meanwhile, unless publications before it were not settled by then.
-- Atomic, because an instance whose channel was taken must not settle what another one was given, and because a dead letter must be neither
-- lost nor doubled, and the position must not pass what is pending.
local function gateway_reader_settle(keys, args)
  local group = reader_of(keys)
  local state = state_of(keys[3])
  if state.owner ~= args[1] or state.reading ~= args[2] or not group_of(keys[2], group) then
    return had_settled(keys[3], args[1], args[2], args[3]) and 1 or 0
  end
  local deliveries = deliveries_of(keys[2], group, args[3])
  if deliveries and args[4] then bury(keys, args[2], args[3], args[4], deliveries) end
  if deliveries then settle(keys, group, args[3], args[2]) end
  return 1
end

-- gateway_reader_rewind 4 meta stream reader dead START → [epoch, offset] that the group reads on after; ['', 0]: nothing was published yet
--   Its owner loses the channel, so that nothing that it was given moves the position.
-- Atomic, because an acknowledgement between the new position and the end of the consumer group would move it.
local function gateway_reader_rewind(keys, args)
  local group = reader_of(keys)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset', 'ms', 'trimmed')
  local epoch, top = position_of(meta[1], meta[2], meta[3])
  if not epoch then return {'', 0} end
  local named, offset = start_of(keys[2], args[1], epoch, top)
  start_at(keys, named, offset, epoch, meta[4])
  redis.call('HDEL', keys[3], 'owner', 'reading', 'left')
  if group_of(keys[2], group) then redis.call('XGROUP', 'DESTROY', keys[2], group) end
  return {named, offset}
end

-- gateway_reader_lag 4 meta stream reader dead → how many publications that history holds are not acknowledged yet
-- Atomic, because the top and the position must be of one moment.
local function gateway_reader_lag(keys, args)
  local group = reader_of(keys)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset', 'ms')
  local epoch, top = position_of(meta[1], meta[2], meta[3])
  if not epoch then return 0 end
  local state, at = state_of(keys[3]), before_oldest(keys[2], top)
  local last, pending = group_of(keys[2], group)
  if last and state.reading == epoch then  -- what it reads on after: the position may be of an older epoch until something is acknowledged
    at = math.max(pending > 0 and halves(redis.call('XPENDING', keys[2], group, '-', '+', 1)[1][1]) - 1 or last, at)
  elseif state.epoch == epoch then
    at = math.max(state.offset, at)
  end
  return math.max(top - at, 0)
end

redis.register_function{function_name = 'gateway_reader_take', callback = gateway_reader_take, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reader_release', callback = gateway_reader_release, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reader_read', callback = gateway_reader_read, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reader_again', callback = gateway_reader_again, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reader_settle', callback = gateway_reader_settle, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reader_rewind', callback = gateway_reader_rewind, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reader_lag', callback = gateway_reader_lag, flags = {'no-writes', 'allow-oom'}}
