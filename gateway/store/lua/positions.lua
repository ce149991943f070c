-- The meta key of a channel: the position of its newest publication, and how long it is remembered. It follows channels.lua in the library.

local UNUSED_TTL = 3600     -- seconds that a channel without any publication is remembered
local VERSION_EPOCHS = 64   -- version epochs of a channel whose newest version is remembered
local IDS_AHEAD = 8         -- stream ids that are written before history lets them go
local TIMES_KEPT = 128      -- newest publications of a channel whose times are known without a read: 2 KiB, and a sixth of a publication

-- The counter lives as long as the rules say, and never shorter than the history it counts (ttl 0: forever). The expiry that
-- publications share is not in force any more.
local function keep_meta(key, meta_ttl, ttl)
  local channel = BY_META[key]
  if channel then channel.lasting_ttl = nil end
  if meta_ttl == 0 or ttl == 0 then
    redis.call('PERSIST', key)
  else
    redis.call('EXPIRE', key, math.max(meta_ttl, ttl))
  end
end

-- The same for a publication that was announced only: it never shortens the life of the counter, nor makes it endless.
local function prolong_meta(key, rules)
  if rules.meta_ttl == 0 or rules.ttl == 0 then
    keep_meta(key, 0, 0)
  else
    redis.call('EXPIRE', key, math.max(rules.meta_ttl, rules.ttl), 'GT')
  end
end

-- The position of the newest publication, as position_of has it. Where this library wrote what is there, its meaning is known:
-- 7 % of a publication. Otherwise nothing is known of what else the last publication left.
local function read_position(channel, key)
  local meta = redis.call('HMGET', key, 'epoch', 'offset', 'ms')
  if meta[1] == channel.epoch and meta[2] == channel.offset and meta[3] == channel.ms then
    return channel.epoch, channel.top, channel.top_ms, channel.known
  end
  channel.lasting_ttl, channel.times_from = nil, nil
  return position_of(meta[1], meta[2], meta[3])
end

-- Writes the position of the newest publication; `text` and `ms_text` are its offset and time. `trimmed` is nil where its ids are
-- known already, up to offset `known`.
local function write_position(channel, key, epoch, offset, text, ms, ms_text, known, trimmed)
  local field = known == '' and ms_text or ms_text .. ' ' .. known
  if trimmed then
    redis.call('HSET', key, 'offset', text, 'ms', field, 'trimmed', trimmed)
  else
    redis.call('HSET', key, 'offset', text, 'ms', field)
  end
  channel.epoch, channel.offset, channel.ms = epoch, text, field
  channel.top, channel.top_ms, channel.known = offset, ms, known
  channel.times_from = channel.times_from or offset
  channel.times[offset % TIMES_KEPT] = ms
end

-- The times of publications from an offset on, as far as they are in the stream without a hole, and the offset of the last one.
local function read_times(stream, first)
  local entries = redis.call('XRANGE', stream, number(first), number(first + IDS_AHEAD - 1), 'COUNT', IDS_AHEAD)
  local times, last = {}, first - 1
  for _, entry in ipairs(entries) do
    local offset, ms = string.match(entry[1], '^(%d+)%-(%d+)$')
    if offset + 0 ~= last + 1 then break end
    last = last + 1
    times[last % TIMES_KEPT] = ms + 0
  end
  return times, last
end

-- The stream ids of publications `first` to `last`, as FIRST and then the milliseconds of each since the one before it, and the offset
-- of the last one that fits, a text. They stay below 64 bytes, beyond which Valkey needs more memory for a hash.
local function ids_of(times, first, last)
  local ms = times[first % TIMES_KEPT]
  local ids, fits = number(first) .. '-' .. number(ms), first
  for offset = first + 1, last do
    local next_ms = times[offset % TIMES_KEPT]
    local more = ids .. ' ' .. number(next_ms - ms)
    if #more > 64 then break end
    ids, ms, fits = more, next_ms, offset
  end
  return ids, number(fits)
end

-- Whether the history is empty, as where it expired. The newest publication's own ttl or other rules may have been in force, so
-- the stream is asked, but not within a second of that publication, which is the shortest ttl.
local function is_empty(stream, top_ms, ms)
  return ms - top_ms >= 1000 and #redis.call('XRANGE', stream, '-', '+', 'COUNT', 1) == 0
end

-- The stream id of the newest publication that history will have let go once the next one is there, perhaps followed by those
-- after it, and up to which offset; nil if there is none, or if it is known. It is the time of a publication that can no longer
-- be read, and so the proof of which history that was: see gateway_history.
local function next_trimmed(channel, stream, top, top_ms, size, empty, known)
  if top == 0 then return nil end
  if size == 1 or empty then  -- all of it
    return number(top) .. '-' .. number(top_ms), number(top)
  end
  if size < 0 or top < size or (known ~= '' and top + 1 - size <= known + 0) then return nil end
  local first, times, last = top + 1 - size, channel.times, top
  if size > TIMES_KEPT or not channel.times_from or first < channel.times_from then times, last = read_times(stream, first) end
  if last < first then return nil end
  return ids_of(times, first, math.min(last, first + IDS_AHEAD - 1))
end

-- Remembers the newest version of a version epoch: several services may publish to one channel, each with versions of its own.
local function keep_version(key, version, epoch)
  if redis.call('HSET', key, 'version', version, 'version_epoch', epoch, 'v:' .. epoch, version) > 0
      and redis.call('HLEN', key) > VERSION_EPOCHS + 8 then
    for _, field in ipairs(redis.call('HKEYS', key)) do  -- a service that makes so many epochs does not need the old ones
      if string.sub(field, 1, 2) == 'v:' and field ~= 'v:' .. epoch then redis.call('HDEL', key, field) end
    end
  end
end

-- Begins a new life of the history, and removes what is left of the last one, which would be taken for this one's.
local function begin(keys)
  local epoch = new_epoch()
  redis.call('DEL', keys[2], keys[3])
  redis.call('HDEL', keys[1], 'inbox', 'trimmed')
  redis.call('HSET', keys[1], 'epoch', epoch, 'offset', '0', 'ms', '0')
  redis.call('EXPIRE', keys[1], UNUSED_TTL)
  return epoch
end
