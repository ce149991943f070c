-- Remote procedures: requests of clients to backend services. It follows channels.lua in the library.
--
--   gw:rpc:{METHOD}           list of requests: gateways push on the left, services pop on the right
--   gw:rpc:{METHOD}:service   exists while a service serves the method; its instances renew it (SET … EX 3, each second)
--
-- A reply is published to the channel that the request names, so that no gateway needs a connection that blocks.

-- gateway_call 2 gw:rpc:{M} gw:rpc:{M}:service REQUEST MOST TTL_MS → how many requests wait, this one included; 0: there is no service; -1: MOST wait already
--   REQUEST is a JSON object, to which its deadline is added. A list that no service reads expires a second after the last deadline.
-- Atomic, because a lease that ends, or other requests that fill the list, between the check and the push would leave a request that
-- no service takes; and because gateways and services agree on deadlines by Valkey's clock alone.
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
