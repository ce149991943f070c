-- The instances of a group of durable readers, whose functions for a channel are in reader.lua. It follows channels.lua.
--
--   gw:readers:{GROUP}   sorted set: instance → unix ms at which its lease ends

local INSTANCES_MOST = 1000     -- of one group
local LEASE_MOST = 3600000      -- ms; an instance whose lease is longer was written by another program

-- gateway_reader_beat 1 gw:readers:{GROUP} INSTANCE LEASE_MS [CHANNEL…] → [instance, …] whose lease is not over, and 'new' if INSTANCE had none
--   INSTANCE is alive for LEASE_MS; 0: it ends. A change of the instances is announced, and the CHANNELs that have no owner any more.
-- Atomic, because Valkey's clock alone decides when a lease is over, and because each change is announced by the one that makes it.
local function gateway_reader_beat(keys, args)
  local key, lease, now = keys[1], tonumber(args[2]), now_ms()
  if redis.call('TYPE', key).ok ~= 'zset' then redis.call('DEL', key) end  -- another program's: without it no instance would read
  local changed, joined = redis.call('ZREMRANGEBYSCORE', key, '-inf', number(now)), 0
  changed = changed + redis.call('ZREMRANGEBYSCORE', key, number(now + LEASE_MOST), '+inf')
  if lease > 0 then
    joined = redis.call('ZADD', key, number(now + math.min(lease, LEASE_MOST - 1)), args[1])
  else
    changed = changed + redis.call('ZREM', key, args[1])
  end
  if changed + joined > 0 or args[3] then redis.call(ANNOUNCE, key, table.concat(args, '\n', 3)) end
  local answer = redis.call('ZREVRANGE', key, 0, INSTANCES_MOST - 1)
  if joined > 0 then table.insert(answer, 'new') end
  return answer
end

redis.register_function{function_name = 'gateway_reader_beat', callback = gateway_reader_beat, flags = {'allow-oom'}}
