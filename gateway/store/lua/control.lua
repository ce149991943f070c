-- Between gateways: messages that each of them receives, which of them are alive, and which clients are in which channel.
-- It follows channels.lua in the library.
--
--   gw:control   stream of the newest messages, for a gateway whose link was away; the Pub/Sub channel has the same name
--   gw:nodes     sorted set: process → unix ms of its last beat
--   gw:{C}:presence   hash: client → ClientInfo, of the clients in channel C

local CONTROL_KEPT = 1000

-- gateway_control 1 gw:control MESSAGE → id. The announcement is the id, a newline, the message. A key to which another program
-- wrote something else, or the last possible id, is replaced: without it no gateway would get any message.
-- Atomic, because ids must be announced in the order that they have in the stream.
local function gateway_control(keys, args)
  local id = redis.pcall('XADD', keys[1], 'MAXLEN', '~', CONTROL_KEPT, '*', 'm', args[1])
  if type(id) == 'table' and id.err then
    redis.call('DEL', keys[1])
    id = redis.call('XADD', keys[1], '*', 'm', args[1])
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

-- gateway_presence 1 gw:{C}:presence ANNOUNCED [CLIENT INFO]… → how many clients joined or left
--   A client with INFO (JSON) is in the channel, one with '' is not. ANNOUNCED '1': joins and leaves are announced, '@join INFO' or
--   '@leave INFO'.
-- Atomic, because a join or leave must be announced exactly when the hash changes.
local function gateway_presence(keys, args)
  local base = string.match(keys[1], '^(.*{[^{}]+}):presence$')
  if not base then
    error({err = 'GATEWAY the key is gw:{C}:presence'})
  end
  local changed = 0
  for i = 2, #args, 2 do
    local client, info, kind = args[i], args[i + 1], nil
    if info ~= '' then
      kind = redis.call('HSET', keys[1], client, info) == 1 and '@join ' or nil
    else
      info = redis.call('HGET', keys[1], client)
      kind = info and '@leave ' or nil
      redis.call('HDEL', keys[1], client)
    end
    if kind then
      changed = changed + 1
      if args[1] == '1' then redis.call(ANNOUNCE, base, kind .. info) end
    end
  end
  return changed
end

redis.register_function('gateway_control', gateway_control)
redis.register_function{function_name = 'gateway_heartbeat', callback = gateway_heartbeat, flags = {'allow-oom'}}
redis.register_function('gateway_beat', gateway_beat)
redis.register_function{function_name = 'gateway_presence', callback = gateway_presence, flags = {'allow-oom'}}
