-- Between gateways: messages that every one of them hears, and who of them is alive. Behind functions.lua, in the same library.
--
--   gw:control   stream of the newest messages, for a gateway whose link was away; its name is the Pub/Sub channel, too
--   gw:nodes     sorted set: process → unix ms of its last beat

local CONTROL_KEPT = 1000

-- gateway_control 1 gw:control MESSAGE → id. What is announced is the id, a newline, the message.
-- Atomic, because ids must be announced in the order in which they stand in the stream.
local function gateway_control(keys, args)
  local id = redis.call('XADD', keys[1], 'MAXLEN', '~', CONTROL_KEPT, '*', 'm', args[1])
  redis.call(ANNOUNCE, keys[1], id .. '\n' .. args[1])
  return id
end

-- gateway_beat 1 gw:nodes PROCESS LEASE_MS → processes whose lease is over
--   PROCESS is alive. LEASE_MS 0: it leaves.
-- Atomic, because the clock of all leases is Valkey's, and none may be judged by another's.
local function gateway_beat(keys, args)
  local now, lease = now_ms(), tonumber(args[2])
  if lease == 0 then
    redis.call('ZREM', keys[1], args[1])
    return {}
  end
  redis.call('ZADD', keys[1], number(now), args[1])
  return redis.call('ZRANGEBYSCORE', keys[1], '-inf', '(' .. number(now - lease))
end

redis.register_function('gateway_control', gateway_control)
redis.register_function('gateway_beat', gateway_beat)
