-- What channels remember: reading it, and removing it. It follows publishing.lua in the library.

local PAGE = 256            -- entries taken from the stream at a time

-- The entries of a stream in one direction, up to `limit` of them (-1: all) and about `bytes` bytes, but at least one.
local function range(stream, first, last, reverse, limit, bytes)
  local entries, taken = {}, 0
  while limit < 0 or #entries < limit do
    local count = PAGE
    if limit >= 0 then count = math.min(PAGE, limit - #entries) end
    local page = redis.call(reverse and 'XREVRANGE' or 'XRANGE', stream, first, last, 'COUNT', count)
    for _, entry in ipairs(page) do
      for _, word in ipairs(entry[2]) do taken = taken + #word end
      if taken > bytes and #entries > 0 then return entries end
      table.insert(entries, entry)
    end
    if #page < count then break end
    first = '(' .. page[#page][1]
  end
  return entries
end

-- What a read asks for with SINCE LIMIT BYTES [reverse].
local function slice(stream, args, top)
  local since, limit, bytes = tonumber(args[1]), tonumber(args[2]), tonumber(args[3])
  if limit == 0 then return {} end
  if args[4] == '1' then
    return range(stream, number(since > 0 and math.min(since - 1, top) or top), '1', true, limit, bytes)
  end
  return range(stream, number(since + 1), number(top), false, limit, bytes)
end

-- The unix ms of the publication at an offset below the top: from its entry or, where history has just let it go, from
-- `trimmed`. nil if the publication after it is gone as well: then every reader sees the hole. 0, which is the time of none,
-- if it cannot be known: what cannot be verified counts as rewound.
local function ms_of(stream, offset, trimmed)
  local entry = redis.call('XRANGE', stream, number(offset), number(offset + 1), 'COUNT', 1)[1]
  if not entry then return nil end
  for _, ids in ipairs({entry[1], trimmed or ''}) do
    local there, ms, more = string.match(ids, '^(%d+)%-(%d+)(.*)$')
    there, ms = tonumber(there), tonumber(ms)
    if there == offset then return ms end
    for passed in string.gmatch(more or '', ' (%-?%d+)') do
      there, ms = there + 1, ms + tonumber(passed)
      if there == offset then return ms end
    end
  end
  return 0
end

-- Whether a history did not give offset `seen` at the time `seen_ms` (0: not known), though it is of the same epoch: it is older than it was.
local function is_rewound(stream, seen, seen_ms, top, ms, trimmed)
  if seen > top then return true end
  if seen == 0 or seen_ms == 0 then return false end
  local there = seen == top and ms or ms_of(stream, seen, trimmed)
  return there ~= nil and there ~= seen_ms
end

-- Gives the history a new epoch, and announces it.
local function renew(meta, base, top)
  local epoch = new_epoch()
  redis.call('HSET', meta, 'epoch', epoch)
  redis.call(ANNOUNCE, base, '@reset ' .. epoch .. ' ' .. number(top))
  return epoch
end

-- gateway_history 3 meta stream keys SINCE LIMIT BYTES [reverse] [EPOCH OFFSET MS [left]]
--   → [epoch, offset, ms, entries, left]: the newest position, and what follows SINCE, oldest first; with reverse = "1" what
--     precedes SINCE (0: the top), newest first. What another program appended past the newest position is not part of
--     it, since its offset will be given to a publication. LIMIT 0 reads the position alone. Reading makes the epoch, too.
--     left is the number of milliseconds until the stream expires; negative if it does not, or if there are no entries. It
--     is there for those that ask for it: gateways of an older version take four values, and serve beside newer ones for a while.
--   EPOCH OFFSET MS is what a gateway has seen. If this history is of the same epoch but did not give that offset at that
--   time, Valkey came back older than it was, and offsets are given a second time: the epoch is renewed and announced.
-- Atomic, because the range and the top it is compared with must be of one moment, and because the renewal compares and sets.
local function gateway_history(keys, args)
  local base = base_of(keys)
  local rules = rules_of(base)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset', 'ms', 'trimmed')
  local epoch, top, ms = position_of(meta[1], meta[2], meta[3])
  if not epoch then
    epoch, top, ms = begin(keys), 0, 0
  end
  if args[5] == epoch and is_rewound(keys[2], tonumber(args[6]), tonumber(args[7]), top, ms, meta[4]) then
    epoch = renew(keys[1], base, top)
  end
  if (args[5] or '') ~= '' then
    -- A gateway has subscribers here: the counter lives on, even if nothing is published for a long time.
    local left = redis.call('TTL', keys[1])
    if top == 0 then
      redis.call('EXPIRE', keys[1], UNUSED_TTL, 'GT')  -- not sooner: it may remember versions of what was announced only
    elseif left >= 0 and (rules.meta_ttl == 0 or left < rules.meta_ttl) then
      keep_meta(keys[1], rules.meta_ttl, rules.ttl)
    end
  end
  local answer = {epoch, top, ms, slice(keys[2], args, top)}
  if args[8] then table.insert(answer, tonumber(args[2]) ~= 0 and redis.call('PTTL', keys[2]) or -1) end
  return answer
end

-- gateway_page 3 meta stream keys SINCE LIMIT BYTES [reverse] → as gateway_history
--   For a client that reads once and does not follow the channel: it writes nothing. The epoch of a channel that nobody
--   published to or follows is '', which agrees with any.
-- Atomic, because the range and the top it is compared with must be of one moment.
local function gateway_page(keys, args)
  base_of(keys)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset', 'ms')
  local epoch, top, ms = position_of(meta[1], meta[2], meta[3])
  if not epoch then return {'', 0, 0, {}, -1} end  -- a stream without its counter is the rest of another life
  return {epoch, top, ms, slice(keys[2], args, top), -1}
end

-- gateway_remove 3 meta stream keys → [offset, epoch]
--   Removes the history and announces it, so that gateways drop what they hold in memory; the counter goes on.
-- Atomic, because gateways would drop a publication that came between the removal and its announcement, though history holds it.
local function gateway_remove(keys, args)
  local base = base_of(keys)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset', 'ms')
  local epoch, top, ms = position_of(meta[1], meta[2], meta[3])
  if not epoch then
    epoch, top, ms = begin(keys), 0, 0
  end
  if redis.call('EXISTS', keys[2]) == 1 then
    redis.call('XTRIM', keys[2], 'MAXLEN', '=', 0)
    local id = number(top) .. '-' .. number(ms)  -- history has let go all up to it, and whichever server publishes next must know that
    redis.call('HSET', keys[1], 'ms', number(ms) .. ' ' .. number(top), 'trimmed', id)
  end
  redis.call(ANNOUNCE, base, '@reset ' .. epoch .. ' ' .. number(top))
  return {top, epoch}
end

redis.register_function{function_name = 'gateway_history', callback = gateway_history, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_page', callback = gateway_page, flags = {'no-writes', 'allow-oom'}}
redis.register_function{function_name = 'gateway_remove', callback = gateway_remove, flags = {'allow-oom'}}
