-- Remote procedures: requests of clients to backend services. Behind channels.lua, in the same library.
--
--   gw:rpc:{METHOD}           list of requests: gateways push on the left, services pop on the right
--   gw:rpc:{METHOD}:service   there while a service serves the method; its instances renew it (SET … EX 3, each second)
--
-- A reply is published to the channel that the request names, so that no gateway needs a connection that blocks.

-- gateway_call 2 gw:rpc:{M} gw:rpc:{M}:service REQUEST MOST TTL_MS → how many requests wait with it; 0: no service is there; -1: MOST wait already
--   REQUEST is a JSON object, to which its deadline is added. A queue that nobody serves goes away a second behind the last one.
-- Atomic, because a request that is pushed after the last look at the lease, or past the limit by many at once, would wait for
-- nobody; and because gateways and services agree on deadlines by Valkey's clock alone.
local function gateway_call(keys, args)
  if redis.call('EXISTS', keys[2]) == 0 then return 0 end
  if redis.call('LLEN', keys[1]) >= tonumber(args[2]) then return -1 end
  local ttl = tonumber(args[3])
  local request = string.sub(args[1], 1, -2) .. ',"deadline":' .. number(now_ms() + ttl) .. '}'
  local waiting = redis.call('LPUSH', keys[1], request)
  redis.call('PEXPIRE', keys[1], number(ttl + 1000))
  return waiting
end

redis.register_function('gateway_call', gateway_call)
