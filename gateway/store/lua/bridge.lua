-- Bridges: entries of foreign Lists and Streams, and foreign messages, become publications. It follows inbox.lua in the library.
--
-- Keys of the bridge NAME of a List or Stream, all in the hash slot of its source S:
--   S                             the foreign List or Stream; a Stream is only read
--   gw:bridge:{S}:NAME            hash, the state: epoch, position; of a Stream also read, how many of its entries were read or are gone; of
--                                 messages number alone, up to which their numbers are reserved
--   gw:bridge:{S}:NAME:taken      list: what was taken from a List and is not finished yet, oldest first
--   gw:bridge:{S}:NAME:failed     list: what could not be published, newest first (the configuration may name another key)
--   gw:bridge:{S}:NAME:lease      the process that works, of all that could
--
-- An entry is published with a version of the bridge's own, and only then finished, which moves the position past it. A process
-- that dies in between leaves it to the next one, which publishes it with the same version: the channel drops the repeat. The
-- version of a Stream's entry is its id; that of a List's is its number, which is the position plus its index in the list of taken
-- entries. Where that list is empty, the position first grows with time: in a cluster the shard of the bridge may come back older than that
-- of the channel, and numbers that were published are then not given to other entries, which would count as repeats. Without the state,
-- versions would begin anew and count as repeats, so they are versions of an epoch that is made with the state.

local NUMBERS = 100  -- that a List's entries get in a millisecond: more than are published
local HEAD = 4096  -- bytes that are shown of an entry that is too large
local LONGEST_LEASE = 60000  -- ms; what lasts longer, for ever, or is no lease at all was written by another program, or before the clock was set back

-- The epoch and the position, and the fields' values that were asked for besides; nil if there is no state, or none of ours.
local function bridge_state(key, form)
  local state = redis.call('HMGET', key, 'epoch', 'position', 'read')
  local epoch, position = state[1], state[2]
  if not epoch or #epoch > 64 or not position or #position > 41 or not string.find(position, form) then return nil end
  return epoch, position, tonumber(state[3] or '0') or 0
end

local function begin_bridge(key, position, read)
  local epoch = new_epoch()
  redis.call('DEL', key)
  redis.call('HSET', key, 'epoch', epoch, 'position', position, 'read', number(read))
  return epoch, position, read
end

-- gateway_bridge_list 3 SOURCE STATE TAKEN SIDE COUNT BYTES MOST [read] → [epoch, position, entries, waiting, read]
--   The oldest COUNT entries that are not finished, or fewer, once they pass BYTES: those taken before or, if there are none, those that
--   are taken now from SIDE of the source. An entry of more than MOST bytes is [its size, its head]. waiting is what is left in the source,
--   read how many entries are finished, for those that ask for it, as gateways of an older version do not.
-- Atomic, because an entry that is in neither list would be lost with the process that took it.
local function gateway_bridge_list(keys, args)
  local side, count, bytes, most = args[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4])
  local epoch, position, read = bridge_state(keys[2], '^%d+$')
  if not epoch or #position > 15 then epoch, position, read = begin_bridge(keys[2], '0', 0) end
  local entries, size, waiting = {}, 0, redis.call('LLEN', keys[1])
  local takes = waiting > 0 and redis.call('LLEN', keys[3]) == 0
  if takes then
    position = number(math.max(tonumber(position), now_ms() * NUMBERS))
    redis.call('HSET', keys[2], 'position', position)
  end
  while #entries < count and size < bytes do
    local entry = redis.call('LINDEX', keys[3], #entries) or takes and redis.call('LMOVE', keys[1], keys[3], side, 'RIGHT')
    if not entry then break end
    size = size + #entry
    table.insert(entries, #entry > most and {#entry, string.sub(entry, 1, HEAD)} or entry)
  end
  return {epoch, position, entries, redis.call('LLEN', keys[1]), args[5] and read}
end

-- Of a Stream: the id that it gave last, and how many entries it was ever given; '0-0', 0 if there is none.
local function counted(stream)
  if redis.call('EXISTS', stream) == 0 then return '0-0', 0, 0 end
  local info, facts = redis.call('XINFO', 'STREAM', stream), {}
  for i = 1, #info, 2 do facts[info[i]] = info[i + 1] end
  return facts['last-generated-id'], facts['entries-added'] or 0, facts['length']
end

local function is_later(a, b)
  local a_ms, a_seq = string.match(a, '^(%d+)%-(%d+)$')
  local b_ms, b_seq = string.match(b, '^(%d+)%-(%d+)$')
  return greater(a_ms, b_ms) or not greater(b_ms, a_ms) and greater(a_seq, b_seq)
end

-- gateway_bridge_stream 2 SOURCE STATE START COUNT BYTES MOST → [epoch, position, entries, waiting, lost]
--   Up to COUNT entries after the position, fewer once they pass BYTES. An entry whose fields have more than MOST bytes is [id, size,
--   head]. START is where a bridge without a state begins: 0-0, or $ for what is added from now on; or the id that its process read last, for a
--   state that was lost while it ran: what was lost with it and made anew since is read from its beginning. A Stream that was made anew,
--   with ids before the position, is read so as well, with versions of a new epoch. waiting is how many entries follow the
--   position; lost is how many were removed from the Stream before they were read, which shows when all that are left were.
-- Atomic, because the entries and the counts that they are compared with must be of one moment.
local function gateway_bridge_stream(keys, args)
  local last, added, length = counted(keys[1])
  local epoch, position, read = bridge_state(keys[2], '^%d+%-%d+$')
  if not epoch then
    local first = redis.call('XRANGE', keys[1], '-', '+', 'COUNT', 1)[1]
    if args[1] == '$' then
      epoch, position, read = begin_bridge(keys[2], last, added)
    elseif first and not is_later(first[1], args[1]) then
      epoch, position, read = begin_bridge(keys[2], args[1], added)
    else
      epoch, position, read = begin_bridge(keys[2], '0-0', added - length)
    end
  elseif added > 0 and is_later(position, last) then
    epoch, position, read = begin_bridge(keys[2], '0-0', added - length)
  end
  local count, most, entries, lost = tonumber(args[2]), tonumber(args[4]), {}, 0
  if count > 0 and is_later(last, position) then
    for _, entry in ipairs(range(keys[1], '(' .. position, '+', false, count, tonumber(args[3]))) do
      local text = #entry[2] > 0 and table.concat(entry[2], ' ') or ''
      table.insert(entries, #text > most and {entry[1], #text, string.sub(text, 1, HEAD)} or entry)
    end
  end
  if count > 0 and #entries == 0 and added ~= read then
    lost, read = math.max(added - read, 0), added
    redis.call('HSET', keys[2], 'read', number(read))
  end
  return {epoch, position, entries, math.max(added - read, 0), lost}
end

-- Adds to the list of what failed, of which the newest `most` are held; returns how many older ones are dropped.
local function fail(key, most, args, first)
  for i = first, #args do redis.call('LPUSH', key, args[i]) end
  local dropped = #args >= first and math.max(redis.call('LLEN', key) - most, 0) or 0
  if dropped > 0 then redis.call('LTRIM', key, 0, most - 1) end
  return dropped
end

-- gateway_bridge_finish 3 STATE TAKEN FAILED EPOCH POSITION NEXT COUNT MOST [FAILURE…] → how many failures are dropped; -1: not finished
--   COUNT entries from POSITION to NEXT are finished: published, or described by a FAILURE each. Nothing is changed if the state is
--   not at POSITION of EPOCH: another process has finished them.
-- Atomic, because a process that was taken for dead must not finish what another one works on, and no failure may be recorded twice.
local function gateway_bridge_finish(keys, args)
  local epoch, position, read = bridge_state(keys[1], '')
  if epoch ~= args[1] or position ~= args[2] then return -1 end
  local dropped = fail(keys[3], tonumber(args[5]), args, 6)  -- first: where that key is no list, nothing has happened
  redis.call('HSET', keys[1], 'position', args[3], 'read', number(read + tonumber(args[4])))
  redis.call('LTRIM', keys[2], tonumber(args[4]), -1)
  return dropped
end

-- gateway_bridge_fail 1 FAILED MOST FAILURE… → how many are dropped
-- Atomic, because the list must be bounded at every moment.
local function gateway_bridge_fail(keys, args)
  return fail(keys[1], tonumber(args[1]), args, 2)
end

-- gateway_bridge_publish 3|5 keys VERSION_EPOCH [VERSION KEY DATA]… → for each, '' or why it is refused; with five keys they are notifications.
--   Publishes in order. Versions that are not newer than the channel's were published before. KEY may be ''.
-- Atomic, because an entry must never be published without the entries before it: they would count as old, and be dropped.
local function gateway_bridge_publish(keys, args)
  local publish = #keys == 5 and notify or add
  local base, answers = base_of(keys, #keys == 5 and INBOX_KEYS or nil), {}
  for i = 2, #args, 3 do
    local words = {args[i + 2], 'version', args[i], 'version_epoch', args[1]}
    if args[i + 1] ~= '' then
      table.insert(words, 'key')
      table.insert(words, args[i + 1])
    end
    local fine, fault = pcall(publish, base, keys, words)
    table.insert(answers, fine and '' or type(fault) == 'table' and fault.err or tostring(fault))
  end
  return answers
end

-- gateway_lease 1 LEASE OWNER MS → 0: OWNER holds the lease for MS from now on, or with an MS of 0 no longer; else the ms that another's lasts.
-- Atomic, because two processes must not take it at once; and Valkey's clock alone decides when it ends.
local function gateway_lease(keys, args)
  local left, owner = redis.call('PTTL', keys[1]), redis.pcall('GET', keys[1])
  if left > 0 and left <= LONGEST_LEASE and type(owner) == 'string' and owner ~= args[1] then return left end
  if args[2] == '0' then
    redis.call('DEL', keys[1])
  else
    redis.call('SET', keys[1], args[1], 'PX', args[2])
  end
  return 0
end

redis.register_function('gateway_bridge_list', gateway_bridge_list)
redis.register_function('gateway_bridge_stream', gateway_bridge_stream)
redis.register_function('gateway_bridge_publish', gateway_bridge_publish)
redis.register_function{function_name = 'gateway_bridge_finish', callback = gateway_bridge_finish, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_bridge_fail', callback = gateway_bridge_fail, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_lease', callback = gateway_lease, flags = {'allow-oom'}}
