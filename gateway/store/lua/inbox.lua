-- The inbox: a channel whose publications are notifications. It follows channels.lua in the library.
--
-- A notification is a JSON object with an "id"; a later one with the same id is an update, which replaces it.
-- Keys of an inbox C, always all five: those of the channel and
--   gw:{C}:unread   sorted set: id → offset of its newest publication, for unread notifications
--   gw:{C}:inbox    sorted set: the same for all notifications that history holds
-- and `inbox` in the meta hash, which counts the changes of what is unread: of two states, the one with the higher count is newer.
-- Each change is announced as an ephemeral publication {"inbox":{"unread":…,"change":…,"epoch":…[,"read":[ids]][,"upto":offset]}}.

local INBOX_KEYS = {':meta', ':stream', ':keys', ':unread', ':inbox'}
local ID_BYTES = 200
local IDS_MOST = 1000
local LIST_MOST = 200

local function id_of(data)
  local decoded = object_of(data or '')
  local id = decoded and decoded.id
  if type(id) ~= 'string' or id == '' or #id > ID_BYTES then
    error({err = 'GATEWAY a notification is a JSON object with an "id", a text of 1 to ' .. ID_BYTES .. ' bytes'})
  end
  return id
end

-- Removes from the sets what history does not hold any more, and everything if a new life of the history has begun.
-- Returns how many unread notifications were removed.
local function remove_gone(keys)
  if not string.find(redis.call('HGET', keys[1], 'inbox') or '', '^%d%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?%d?$') then
    redis.call('HDEL', keys[1], 'inbox')
    redis.call('DEL', keys[4], keys[5])
    return 0
  end
  local oldest = redis.call('XRANGE', keys[2], '-', '+', 'COUNT', 1)[1]
  local below = oldest and '(' .. string.match(oldest[1], '^(%d+)') or '+inf'
  redis.call('ZREMRANGEBYSCORE', keys[5], '-inf', below)
  return redis.call('ZREMRANGEBYSCORE', keys[4], '-inf', below)
end

-- Counts a change of what is unread, and announces it; `more` is JSON of further fields, which begins with a comma, or ''. Returns unread and the change.
local function announce_unread(base, keys, epoch, more)
  local unread, change = redis.call('ZCARD', keys[4]), redis.call('HINCRBY', keys[1], 'inbox', 1)
  redis.call(ANNOUNCE, base, string.format('{"inbox":{"unread":%d,"change":%d,"epoch":"%s"%s}}', unread, change, epoch, more))
  return unread, change
end

-- Returns epoch, offset, unread and change of an inbox. Makes the epoch where there is none; unread notifications that history
-- trimmed meanwhile are a change.
local function inbox_state(base, keys)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset')
  local epoch, top = position_of(meta[1], meta[2])
  if not epoch then
    epoch, top = begin(keys), 0
  end
  if remove_gone(keys) > 0 then
    announce_unread(base, keys, epoch, '')
  end
  return epoch, top, redis.call('ZCARD', keys[4]), tonumber(redis.call('HGET', keys[1], 'inbox') or '0')
end

-- gateway_notify 5 meta stream keys unread inbox DATA [NAME VALUE …] → [offset, epoch]. NAME VALUE as of gateway_publish.
--   Publishes a notification and marks it unread: once, however often it is updated. A repeat by key or version changes nothing.
-- Atomic, because nothing would ever correct a count that does not agree with history.
local function notify(base, keys, args)
  local id = id_of(args[1])
  for i = 4, 5 do redis.call('ZCARD', keys[i]) end  -- raises for a key of another type, before anything is written
  local offset, epoch, published = add(base, keys, args)
  if published and offset > 0 then
    remove_gone(keys)
    redis.call('ZADD', keys[4], offset, id)
    redis.call('ZADD', keys[5], offset, id)
    local rules = rules_of(base)
    for i = 4, 5 do keep_meta(keys[i], rules.meta_ttl, rules.ttl) end
    announce_unread(base, keys, epoch, '')
  end
  return offset, epoch
end

local function gateway_notify(keys, args)
  local offset, epoch = notify(base_of(keys, INBOX_KEYS), keys, args)
  return {offset, epoch}
end

-- gateway_relay 3|5 keys VERSION_EPOCH [VERSION DATA]… → [offset, epoch] of the last one; with five keys they are notifications.
--   Publishes in order what an outbox holds for one channel. Versions that are not newer than the channel's were published before.
-- Atomic, because a row must never be published without the rows before it: they would count as old, and be dropped.
local function gateway_relay(keys, args)
  local publish = #keys == 5 and notify or add
  local base, offset, epoch = base_of(keys, #keys == 5 and INBOX_KEYS or nil), 0, ''
  for i = 2, #args, 2 do
    offset, epoch = publish(base, keys, {args[i + 1], 'version', args[i], 'version_epoch', args[1]})
  end
  return {offset, epoch}
end

-- gateway_inbox 5 meta stream keys unread inbox BEFORE LIMIT BYTES → [epoch, offset, unread, change, entries, more]
--   The newest notifications before offset BEFORE (0: all), each id once: entries are [stream id, fields, unread, id]. They are up to
--   LIMIT and about BYTES bytes, but at least one; `more` is 1 where others may follow.
-- Atomic, because the entries, their marks and the count must be of one moment.
local function gateway_inbox(keys, args)
  local base = base_of(keys, INBOX_KEYS)
  local before, limit = tonumber(args[1]) or 0, math.min(tonumber(args[2]) or 0, LIST_MOST)
  local epoch, top, unread, change = inbox_state(base, keys)
  local entries, left, more = {}, tonumber(args[3]) or 0, 0
  local from, wanted, ids = before > 0 and '(' .. number(before) or '+inf', limit, nil
  while wanted > 0 and left >= 0 do
    ids = redis.call('ZREVRANGEBYSCORE', keys[5], from, '-inf', 'WITHSCORES', 'LIMIT', 0, wanted)
    for i = 1, #ids, 2 do
      from = '(' .. ids[i + 1]
      -- Another program may have written a score that is no offset, or deleted the entry: others take its place on the page.
      local entry = string.find(ids[i + 1], '^%d+$') and redis.call('XRANGE', keys[2], ids[i + 1], ids[i + 1], 'COUNT', 1)[1]
      if entry then
        for _, word in ipairs(entry[2]) do left = left - #word end
        if left < 0 and #entries > 0 then break end
        table.insert(entries, {entry[1], entry[2], redis.call('ZSCORE', keys[4], ids[i]) and 1 or 0, ids[i]})
      end
    end
    if #ids < 2 * wanted then break end
    wanted = limit - #entries
  end
  more = limit > 0 and (#entries == limit or left < 0) and 1 or 0
  return {epoch, top, unread, change, entries, more}
end

-- gateway_read 5 meta stream keys unread inbox EPOCH OFFSET [ID …] → [epoch, offset, unread, change]
--   Marks as read: those IDs, or all; with an OFFSET only up to it, so that an update which the user has not seen stays unread;
--   with an EPOCH only if it is the inbox's, since offsets of another life of the history mean nothing here. Both may be ''.
-- Atomic, because the count that is announced must be the one this change led to.
local function gateway_read(keys, args)
  local base = base_of(keys, INBOX_KEYS)
  local epoch, top, unread, change = inbox_state(base, keys)
  local upto = args[2] ~= nil and args[2] ~= '' and tonumber(args[2]) or nil
  if (args[1] or '') ~= '' and args[1] ~= epoch then
    return {epoch, top, unread, change}
  end
  local read, more = 0, upto and ',"upto":' .. number(upto) or ',"upto":' .. number(top)
  if #args > 2 then
    local ids = {}
    for i = 3, math.min(#args, IDS_MOST + 2) do
      local score = tonumber(redis.call('ZSCORE', keys[4], args[i]) or nil)
      if score and (not upto or score <= upto) then
        redis.call('ZREM', keys[4], args[i])
        table.insert(ids, args[i])
      end
    end
    read, more = #ids, #ids > 0 and ',"read":' .. cjson.encode(ids) or ''
  else
    read = redis.call('ZREMRANGEBYSCORE', keys[4], '-inf', upto and number(upto) or '+inf')
  end
  if read > 0 then
    unread, change = announce_unread(base, keys, epoch, more)
  end
  return {epoch, top, unread, change}
end

redis.register_function('gateway_notify', gateway_notify)
redis.register_function('gateway_relay', gateway_relay)
redis.register_function{function_name = 'gateway_inbox', callback = gateway_inbox, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_read', callback = gateway_read, flags = {'allow-oom'}}
