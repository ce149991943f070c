-- What is published to a channel. It follows positions.lua in the library.

local KEYS_KEPT = 10000     -- idempotency keys that a channel remembers, the newest ones
local KEYS_TTL = 300        -- seconds that they live at least after the last use of one

-- Whether decimal a is greater than decimal b; both may be past 2^53.
local function greater(a, b)
  a, b = string.gsub(a, '^0+', ''), string.gsub(b, '^0+', '')
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

local NAMES = {generation = true, key = true, version = true, version_epoch = true, size = true, ttl = true, tags = true, info = true}
local NO_OPTIONS = {}  -- those of a publication that has none, as nearly all: what is for options is passed over then, 5 % of it

-- The value of an option, whose name is known; raises if it is none.
local function option(name, value)
  if (name == 'size' or name == 'ttl') and (#value > 10 or not string.match(value, '^%-?%d+$')) then
    error({err = 'GATEWAY ' .. name .. ' is a whole number, not ' .. value})
  end
  if name == 'version' and not string.match(value, '^%d+$') then
    error({err = 'GATEWAY version is a whole number from 0, not ' .. value})
  end
  if name == 'tags' or name == 'info' then
    local decoded = object_of(value)
    if not decoded then
      error({err = 'GATEWAY ' .. name .. ' is a JSON object in UTF-8'})
    end
    if not are_texts(decoded, name == 'info' and IDS) then
      error({err = 'GATEWAY ' .. (name == 'tags' and 'the values of tags' or 'user and client of info') .. ' are texts'})
    end
    value = string.gsub(value, '[\r\n]', ' ')
  end
  return value
end

-- The options of a publication: the NAME VALUE pairs that follow its data.
local function options_of(args)
  local options, generation = NO_OPTIONS, GENERATION
  for i = 2, #args, 2 do
    local name, value = args[i], args[i + 1]
    if not NAMES[name] or value == nil then
      error({err = 'GATEWAY ' .. tostring(name) .. ' is not one of key, version, version_epoch, size, ttl, tags, info, or has no value'})
    end
    if name == 'generation' then
      generation = value
    else
      if options == NO_OPTIONS then options = {} end
      options[name] = option(name, value)
    end
  end
  -- A client that keeps many calls under way names the library that it means. Where another one was loaded meanwhile, those
  -- before may have found none: this one must not overtake them.
  if generation ~= GENERATION then
    error({err = OTHER_GENERATION})
  end
  return options
end

-- The line before the data: @<offset> <epoch> <unix ms>[ <JSON>]. A size or ttl that the publication sets itself is in it,
-- so that gateways hold no more in memory than history does.
local function announced(offset, epoch, ms, options, data)
  if options == NO_OPTIONS or not (options.tags or options.info or options.size or options.ttl) then
    return '@' .. offset .. ' ' .. epoch .. ' ' .. ms .. '\n' .. data
  end
  local extra = {}
  if options.tags then table.insert(extra, '"tags":' .. options.tags) end
  if options.info then table.insert(extra, '"info":' .. options.info) end
  if options.size then table.insert(extra, '"size":' .. number(tonumber(options.size))) end
  if options.ttl then table.insert(extra, '"ttl":' .. number(tonumber(options.ttl))) end
  return '@' .. offset .. ' ' .. epoch .. ' ' .. ms .. ' {' .. table.concat(extra, ',') .. '}\n' .. data
end

-- Whether an append failed because the stream is ahead of its counter: another program wrote to it, or Valkey loaded a file of another time.
local function is_ahead(failed)
  return string.find(failed.err, 'equal or smaller', 1, true)
end

-- Appends a publication to the stream: its id, or a table with the error; false where the stream should be `there` and is not.
local function append(stream, size, id, data, options, there)
  local tags, info = options.tags, options.info
  if not tags and not info then  -- words in a table would be a tenth of a publication
    if size > 0 and there then return redis.pcall('XADD', stream, 'NOMKSTREAM', 'MAXLEN', size, id, 'data', data) end
    if size > 0 then return redis.pcall('XADD', stream, 'MAXLEN', size, id, 'data', data) end
    if not there then return redis.pcall('XADD', stream, id, 'data', data) end
  end
  local words = there and {'XADD', stream, 'NOMKSTREAM'} or {'XADD', stream}
  for _, word in ipairs(size > 0 and {'MAXLEN', size, id, 'data', data} or {id, 'data', data}) do table.insert(words, word) end
  for name, value in pairs({tags = tags, info = info}) do
    table.insert(words, name)
    table.insert(words, value)
  end
  return redis.pcall(unpack(words))
end

-- Appends a publication, if the stream is ahead as the first one of a new life. Returns the epoch of the new life; nil where the old one goes on.
-- And whether the stream was still `there`, as far as it should be.
local function append_or_begin(keys, size, offset, ms, data, options, there)
  local added = append(keys[2], size, offset .. '-' .. ms, data, options, there)
  if not added then
    added, there = append(keys[2], size, offset .. '-' .. ms, data, options), false
  end
  if type(added) ~= 'table' then return nil, there end
  if not is_ahead(added) then error(added) end
  local epoch = begin(keys)
  added = append(keys[2], size, '1-' .. ms, data, options)
  if type(added) == 'table' then error(added) end
  return epoch, false
end

-- The answer to a publication that is no new one, by its key or version; nil if it is new.
local function repeated(keys, options, epoch, top)
  if options.key then
    local seen = tonumber(redis.call('ZSCORE', keys[3], options.key) or nil)
    if seen then
      if seen < 0 then return 0, '' end
      return seen, epoch
    end
  end
  if options.version then
    local newest = redis.call('HMGET', keys[1], 'v:' .. (options.version_epoch or ''))[1]
    if newest and not greater(options.version, newest) then return top, epoch end
  end
end

-- Remembers the key and the version of a publication. `offset` is a text; nil if it was announced only.
local function remember(keys, options, offset, ms, rules, ttl)
  if options.version then
    keep_version(keys[1], options.version, options.version_epoch or '')
    if not offset then prolong_meta(keys[1], rules) end
  end
  if options.key then
    -- Negative scores grow with time as well, so that the oldest keys are removed first in either kind of channel.
    redis.call('ZADD', keys[3], offset or number(ms - 9007199254740992), options.key)
    redis.call('ZREMRANGEBYRANK', keys[3], 0, -(KEYS_KEPT + 1))
    redis.call('EXPIRE', keys[3], math.max(KEYS_TTL, ttl))
    -- Without the counter, the next publication would remove the keys: see begin.
    if not offset then redis.call('EXPIRE', keys[1], math.max(KEYS_TTL, ttl), 'GT') end
  end
end

local function expire_stream(stream, ttl)
  if ttl == 0 then
    redis.call('PERSIST', stream)
  else
    redis.call('EXPIRE', stream, ttl)
  end
end

-- Whether the expiry that was set last serves this publication, too: a thousandth of it may have passed, at most a second. To set it
-- each time would be a sixth of a publication, and two of the four commands that replicas and the append-only file receive.
local function lasts(channel, ttl, ms)
  return ttl == channel.lasting_ttl and ms >= channel.lasting_from and ms < channel.lasting_until
end

local function expire(channel, keys, ttl, ms)
  expire_stream(keys[2], ttl)
  keep_meta(keys[1], channel.rules.meta_ttl, ttl)
  local served = ttl == 0 and 1000 or math.min(ttl, 1000)  -- ms
  channel.lasting_ttl, channel.lasting_from, channel.lasting_until = ttl, ms, ms + served
end

local function data_of(args)
  local data = args[1]
  if data == nil or data == '' then
    error({err = 'GATEWAY there is no data'})
  end
  return data
end

-- What gateway_publish and gateway_notify share: publishes; returns offset, epoch, and whether it was published now (no repeat).
local function add(base, keys, args)
  local options = options_of(args)
  local data, channel = data_of(args), channel_at(base)
  local rules = channel.rules
  local size, ttl = options.size and tonumber(options.size) or rules.size, options.ttl and tonumber(options.ttl)
  local remembered = size ~= 0 and ttl ~= 0
  ttl = ttl == nil and rules.ttl or math.max(ttl, 0)

  local epoch, top, top_ms, known = read_position(channel, keys[1])
  if epoch and options ~= NO_OPTIONS then
    local offset, of = repeated(keys, options, epoch, top)
    if offset then return offset, of, false end
  elseif not epoch and (remembered or options.key or options.version) then
    epoch, top = begin(keys), 0
  end

  local ms, offset = now_ms(), 0
  local ms_text, offset_text = text_of_ms(ms), nil
  if remembered then
    offset = top + 1
    offset_text = number(offset)
    local trimmed, last = next_trimmed(channel, keys[2], top, top_ms, size, is_empty(keys[2], top_ms, ms), known)
    local begun, lasting = append_or_begin(keys, size, offset_text, ms_text, data, options, lasts(channel, ttl, ms))
    if begun then epoch, offset, offset_text, trimmed, known = begun, 1, '1', nil, '' end
    write_position(channel, keys[1], epoch, offset, offset_text, ms, ms_text, trimmed and last or known, trimmed)
    if not lasting then expire(channel, keys, ttl, ms) end
  end
  if options ~= NO_OPTIONS then remember(keys, options, offset_text, ms, rules, ttl) end
  redis.call(ANNOUNCE, base, announced(offset_text or '0', remembered and epoch or '-', ms_text, options, data))
  if not remembered then
    return 0, '', true
  end
  return offset, epoch, true
end

-- What `publish` answers to each publication and its number, or the text of its error.
local function each(publications, publish)
  local answers = {}
  for i, args in ipairs(publications) do
    local fine, answer = pcall(publish, args, i)
    answers[i] = fine and answer or type(answer) == 'table' and answer.err or tostring(answer)
  end
  return answers
end

-- Publishes one after another to one channel, whose history is read and written once for all. What one of them may not costs
-- the others nothing.
local function add_all(base, keys, publications)
  local channel, newest, ms = channel_at(base), nil, now_ms()
  local rules = channel.rules
  local size, ttl, ms_text = rules.size, rules.ttl, text_of_ms(ms)
  local epoch, top, top_ms, known = read_position(channel, keys[1])
  local before, empty = top, is_empty(keys[2], top_ms, ms)  -- the newest publication that was there already

  local function publish(args)
    local options, data = options_of(args), data_of(args)
    if options.size or options.ttl then error({err = 'GATEWAY a size or ttl of its own is for gateway_publish'}) end
    if epoch then
      local offset, of = repeated(keys, options, epoch, top)
      if offset then return {offset, of} end
    else
      epoch, top, before, known = begin(keys), 0, 0, ''
    end
    local text = number(top + 1)
    local begun = append_or_begin(keys, -1, text, ms_text, data, options)
    if begun then epoch, top, before, known, text = begun, 0, 0, '', '1' end
    top, newest = top + 1, text
    remember(keys, options, newest, ms, rules, ttl)
    redis.call(ANNOUNCE, base, announced(newest, epoch, ms_text, options, data))
    return {top, epoch}
  end

  local answers = each(publications, publish)
  if newest then
    local last, trimmed = size < 0 and 0 or top - size, nil  -- the newest one that history lets go
    if last > before then
      known = number(last)
      trimmed = known .. '-' .. ms_text
    else
      local ids, of = next_trimmed(channel, keys[2], before, top_ms, before + 1 - last, empty, known)
      if ids then trimmed, known = ids, of end
    end
    channel.times_from = nil
    if size > 0 then redis.call('XTRIM', keys[2], 'MAXLEN', size) end
    write_position(channel, keys[1], epoch, top, newest, ms, ms_text, known, trimmed)
    expire(channel, keys, ttl, ms)
  end
  return answers
end

-- gateway_publish 3 meta stream keys DATA [key K] [version N] [version_epoch E] [size N] [ttl S] [tags JSON] [info JSON]
--   → [offset, epoch] of the publication; of the first one if the key was seen, of the newest one if the version is not
--     newer. [0, ""] where nothing is remembered: ttl 0, or a size of 0. Without size and ttl the namespace's rules hold;
--     a ttl of -1 never expires, a size of -1 is unlimited.
-- Atomic, because the next offset, the stream, the position of a repeat and the announcement must agree: otherwise two
-- publishers at once would share an offset, and a crash in between would leave a publication that is never announced.
local function gateway_publish(keys, args)
  local offset, epoch = add(base_of(keys), keys, args)
  return {offset, epoch}
end

-- The lists of words in [COUNT WORD …]… [generation G].
local function lists_of(args)
  local lists, at = {}, 1
  if args[#args - 1] == 'generation' then
    if table.remove(args) ~= GENERATION then error({err = OTHER_GENERATION}) end
    table.remove(args)
  end
  while at <= #args do
    local count = tonumber(args[at])
    if not is_count(count) or count < 1 or at + count > #args then error({err = 'GATEWAY after each COUNT come so many words'}) end
    table.insert(lists, {unpack(args, at + 1, at + count)})
    at = at + 1 + count
  end
  return lists
end

-- gateway_publish_all 3 meta stream keys [COUNT DATA NAME VALUE …]… [generation G] → for each [offset, epoch], or the text of its error
--   As calls of gateway_publish one after another, for a third of Valkey's time; COUNT words follow it. None has a size or ttl
--   of its own.
-- Atomic, because each is; and because the newest position is written once, after the last.
local function gateway_publish_all(keys, args)
  local base, publications = base_of(keys), lists_of(args)
  if rules_of(base).size ~= 0 then return add_all(base, keys, publications) end
  return each(publications, function(args)
    local offset, epoch = add(base, keys, args)
    return {offset, epoch}
  end)
end

-- gateway_publish_each 3N meta stream keys … [COUNT DATA NAME VALUE …]… [generation G] → for each [offset, epoch], or the text of its error
--   As N calls of gateway_publish one after another, each to the channel of the next three keys, for two thirds of Valkey's time.
-- Atomic, because each is. On a cluster the channels' slots differ, so there it is for no more than one.
local function gateway_publish_each(keys, args)
  local publications = lists_of(args)
  if #keys ~= 3 * #publications then error({err = 'GATEWAY each publication takes the three keys of its channel'}) end
  return each(publications, function(words, i)
    local own = {keys[3 * i - 2], keys[3 * i - 1], keys[3 * i]}
    local offset, epoch = add(base_of(own), own, words)
    return {offset, epoch}
  end)
end

-- gateway_restore 3 meta stream keys VERSION_EPOCH VERSION [MS DATA]… → [offset, epoch]
--   Begins a new life of the history, made of these documents and their times, oldest first; VERSION is that of the last document.
-- Atomic, because a gateway that read half of it would take the other half for new publications.
local function gateway_restore(keys, args)
  local base = base_of(keys)
  local rules = rules_of(base)
  local epoch, offset, last = begin(keys), 0, 0
  for i = 3, #args, 2 do
    offset, last = offset + 1, tonumber(args[i])
    redis.call('XADD', keys[2], number(offset) .. '-' .. number(last), 'data', args[i + 1])
  end
  if rules.size >= 0 and offset > rules.size then
    redis.call('XTRIM', keys[2], 'MAXLEN', number(rules.size))
    redis.call('HSET', keys[1], 'trimmed', number(offset - rules.size) .. '-' .. args[1 + 2 * (offset - rules.size)])
  end
  redis.call('HSET', keys[1], 'offset', number(offset), 'ms', number(last))
  keep_version(keys[1], args[2], args[1])
  if rules.ttl == 0 then redis.call('PERSIST', keys[2]) else redis.call('EXPIRE', keys[2], rules.ttl) end
  keep_meta(keys[1], rules.meta_ttl, rules.ttl)
  redis.call(ANNOUNCE, base, '@reset ' .. epoch .. ' ' .. number(offset))
  return {offset, epoch}
end

redis.register_function('gateway_publish', gateway_publish)
redis.register_function('gateway_publish_all', gateway_publish_all)
redis.register_function('gateway_publish_each', gateway_publish_each)
redis.register_function('gateway_restore', gateway_restore)
