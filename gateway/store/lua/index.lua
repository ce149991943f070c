-- The index: which channels a namespace has, for readers that follow all of them. It follows channels.lua.
--
--   gw:index:{NAMESPACE} set: the channels of a namespace whose rules have index

local NAMES_MOST = 1000000      -- channels in the index of a namespace

-- gateway_index 1 gw:index:{NAMESPACE} CHANNEL → 1 if the channel is in the index, 0 if its namespace has none, -1 if the index is full
--   A publisher calls it before its first publication in a channel, and again where a history begins anew. A new name is announced.
-- Atomic, because a reader that follows the announcements before it reads the set must find each name in one of them.
local function gateway_index(keys, args)
  local prefix, namespace = string.match(keys[1], '^(.*):index:{([^:{}]+)}$')
  local channel = args[1]
  if not prefix or string.sub(channel, 1, #namespace + 1) ~= namespace .. ':' or string.find(channel, '[{}%c]') or #channel > 1024 then
    error({err = 'GATEWAY the key is gw:index:{NAMESPACE}, and the channel one of that namespace'})
  end
  if rules_of(prefix .. ':{' .. namespace .. ':}').index ~= 1 then return 0 end
  if redis.call('SISMEMBER', keys[1], channel) == 1 then return 1 end
  if redis.call('SCARD', keys[1]) >= NAMES_MOST then return -1 end
  redis.call('SADD', keys[1], channel)
  redis.call(ANNOUNCE, keys[1], channel)
  return 1
end

-- gateway_has_index 1 gw:{C} → 1 if the channel's namespace has an index, 0 if not
--   In the channel's own slot: a cluster's publisher asks it, so that the shard of an index that is not there holds nobody up.
local function gateway_has_index(keys)
  return rules_of(keys[1]).index == 1 and 1 or 0
end

redis.register_function('gateway_index', gateway_index)
redis.register_function{function_name = 'gateway_has_index', callback = gateway_has_index, flags = {'no-writes', 'allow-oom'}}
