-- Between gateways: messages that each of them receives, which of them are alive, and which clients are in which channel.
-- It follows channels.lua in the library.
--
--   gw:control   stream of the newest messages, for a gateway whose link was away: m is a message, n counts them without a hole, so that a
--                gateway notices which are gone already; the Pub/Sub channel has the same name
--   gw:nodes     sorted set: process → unix ms of its last beat
--   gw:{C}:presence   hash: client → ClientInfo, of the clients in channel C
--   gw:{C}:users      sorted set: user → how many of these clients are theirs; it is there exactly while gw:{C}:presence is

local CONTROL_KEPT = 10000

-- The number of the next message; 1 where the key holds none, or one of an older library, which did not count.
local function next_message(key)
  local last = redis.pcall('XREVRANGE', key, '+', '-', 'COUNT', 1)
  local fields = not last.err and last[1] and last[1][2] or {}
  for i = 1, #fields, 2 do
    local n = fields[i] == 'n' and tonumber(fields[i + 1])
    if is_count(n) then return n + 1 end
  end
  return 1
end

-- gateway_control 1 gw:control MESSAGE → id. The announcement is the id, a newline, the message. A key to which another program
-- wrote something else, or the last possible id, is replaced: without it no gateway would get any message.
-- Atomic, because ids must be announced in the order that they have in the stream.
local function gateway_control(keys, args)
  local id = redis.pcall('XADD', keys[1], 'MAXLEN', '~', CONTROL_KEPT, '*', 'm', args[1], 'n', number(next_message(keys[1])))
  if type(id) == 'table' and id.err then
    redis.call('DEL', keys[1])
    id = redis.call('XADD', keys[1], '*', 'm', args[1], 'n', '1')
  end
  redis.call(ANNOUNCE, keys[1], id .. '\n' .. args[1])
  return id
end

-- gateway_heartbeat 1 gw:node:PROCESS → how many connections received it. Announces an empty message to that process.
-- A function that may write, though it does not: so it fails where nothing can be written, as on a replica, which takes PUBLISH.
local function gateway_heartbeat(keys, args)
  return redis.call(ANNOUNCE, keys[1], '')
end

-- gateway_beat 1 gw:nodes PROCESS LEASE_MS → [1 if the process was not known, processes whose lease is over …]
--   PROCESS is alive. LEASE_MS 0: it ends, and is removed.
-- Atomic, because Valkey's clock alone decides when a lease is over.
local function gateway_beat(keys, args)
  local now, lease = now_ms(), tonumber(args[2])
  if lease == 0 then
    redis.call('ZREM', keys[1], args[1])
    return {0}
  end
  local answer = {redis.call('ZADD', keys[1], number(now), args[1])}
  for _, process in ipairs(redis.call('ZRANGEBYSCORE', keys[1], '-inf', '(' .. number(now - lease))) do
    table.insert(answer, process)
  end
  return answer
end

-- The user of a ClientInfo. Gateways write it first, and nearly always without an escape: then nothing has to be decoded.
local function user_of(info)
  local plain = string.match(info, '^{"user":"([^"\\]*)"')
  if plain then return plain end
  local fine, decoded = pcall(cjson.decode, info)
  return fine and type(decoded) == 'table' and type(decoded.user) == 'string' and decoded.user or ''
end

-- The two keys of presence, and the name of the Pub/Sub channel; raises if the keys are not those of one channel.
--   Gateways of version 3 name the first key alone; they run on no cluster, where the second would have to be declared.
local function presence_keys(keys)
  local base = string.match(keys[1] or '', '^(.*{[^{}]+}):presence$')
  if not base or (keys[2] or base .. ':users') ~= base .. ':users' then
    error({err = 'GATEWAY the keys are gw:{C}:presence gw:{C}:users, of one channel C'})
  end
  return keys[1], base .. ':users', base
end

-- Counts the users of all clients, where the counts are missing, as those of a channel that was in use before version 4.
local function count_users(presence, users)
  if redis.call('EXISTS', presence) ~= redis.call('EXISTS', users) then
    redis.call('DEL', users)
    for _, info in ipairs(redis.call('HVALS', presence)) do
      redis.call('ZINCRBY', users, 1, user_of(info))
    end
  end
end

-- The client has `after` instead of `before`; both are its ClientInfo, or nil where it is not in the channel.
local function count_change(users, before, after)
  before, after = before and user_of(before), after and user_of(after)
  if before == after then return end
  if after then redis.call('ZINCRBY', users, 1, after) end
  if before and tonumber(redis.call('ZINCRBY', users, -1, before)) <= 0 then redis.call('ZREM', users, before) end
end

-- gateway_presence 2 gw:{C}:presence gw:{C}:users ANNOUNCED [CLIENT INFO]… → how many clients joined or left
--   A client with INFO (JSON) is in the channel, one with '' is not. ANNOUNCED '1': joins and leaves are announced, '@join INFO' or
--   '@leave INFO'.
-- Atomic, because a join or leave must be announced exactly when the hash changes, and the users must be counted with it.
local function gateway_presence(keys, args)
  local presence, users, base = presence_keys(keys)
  count_users(presence, users)
  local changed = 0
  for i = 2, #args, 2 do
    local client, info = args[i], args[i + 1]
    local before, kind = redis.call('HGET', presence, client) or nil, nil
    if info ~= '' then
      redis.call('HSET', presence, client, info)
      count_change(users, before, info)
      kind = not before and '@join ' or nil
    elseif before then
      redis.call('HDEL', presence, client)
      count_change(users, before, nil)
      kind, info = '@leave ', before
    end
    if kind then
      changed = changed + 1
      if args[1] == '1' then redis.call(ANNOUNCE, base, kind .. info) end
    end
  end
  return changed
end

-- gateway_present 2 gw:{C}:presence gw:{C}:users MOST BYTES → [clients, users, [client, ClientInfo, …]]
--   How many clients and users are in the channel, and who they are if that is up to MOST clients and about BYTES bytes; else the
--   list is missing. MOST 0 asks for the numbers alone.
-- Atomic, because the numbers and the list must be of one moment.
local function gateway_present(keys, args)
  local presence, users = presence_keys(keys)
  local clients, most, bytes = redis.call('HLEN', presence), tonumber(args[1]), tonumber(args[2])
  local counted = redis.call('ZCARD', users)
  if counted == 0 and clients > 0 then  -- not counted yet: see count_users; this function writes nothing
    local seen = {}
    for _, info in ipairs(redis.call('HVALS', presence)) do
      local user = user_of(info)
      if not seen[user] then seen[user], counted = true, counted + 1 end
    end
  end
  if most == 0 or clients > most then return {clients, counted} end
  local found, cursor = {}, '0'
  repeat
    local page = redis.call('HSCAN', presence, cursor, 'COUNT', PAGE)
    cursor = page[1]
    for _, word in ipairs(page[2]) do
      bytes = bytes - #word
      table.insert(found, word)
    end
    if bytes < 0 then return {clients, counted} end
  until cursor == '0'
  return {clients, counted, found}
end

redis.register_function('gateway_control', gateway_control)
redis.register_function{function_name = 'gateway_heartbeat', callback = gateway_heartbeat, flags = {'allow-oom'}}
redis.register_function('gateway_beat', gateway_beat)
redis.register_function{function_name = 'gateway_presence', callback = gateway_presence, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_present', callback = gateway_present, flags = {'no-writes', 'allow-oom'}}
