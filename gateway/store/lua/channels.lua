-- The gateway's function library. It runs inside Valkey, one function per atomic act.
--
-- Keys of channel C, always all three and in this order (one hash slot; every key a function touches is declared):
--   gw:{C}:meta     hash: epoch, offset and ms of the newest publication, trimmed (stream ids of the newest one that history has
--                   let go and of those that follow it, up to the offset that stands after ms), version, version_epoch
--   gw:{C}:stream   stream: <offset>-<unix ms> → data [tags] [info]; offsets have no holes
--   gw:{C}:keys     sorted set: idempotency key → offset; a negative score marks a publication that was announced only
-- and the Pub/Sub channel gw:{C}.
--
-- The loader puts before this file: the shebang with the library's name, RULES_JSON (prefix of the keys → namespace → size,
-- ttl, meta_ttl in seconds; a ttl of 0 never expires; prefix "" is for prefixes without rules of their own), GENERATION, a
-- random name of this load, and ANNOUNCE, the command that announces. Names of functions are global in Valkey, so gateways
-- with different prefixes share the library.

local RULES = nil  -- decoded at the first call: there is no cjson while the library is loaded
local STRICT = nil  -- a cjson of the library's own, whose settings are not those of other libraries; made at the first use

local KEYS_KEPT = 10000     -- idempotency keys that a channel remembers, the newest ones
local KEYS_TTL = 300        -- seconds that they live at least after the last use of one
local UNUSED_TTL = 3600     -- seconds that a channel without any publication is remembered
local VERSION_EPOCHS = 64   -- version epochs of a channel whose newest version is remembered
local PAGE = 256            -- entries taken from the stream at a time
local CHANNEL_KEYS = {':meta', ':stream', ':keys'}
local CHANNELS_KEPT = 4096  -- channels whose rules need not be found again
local IDS_AHEAD = 8         -- stream ids that are read before history lets them go
local DEPTH = 256           -- of nested objects and arrays in what clients are sent
local OTHER_GENERATION = 'GENERATION the functions were loaded anew: send again, the oldest first'

local function number(n)
  return string.format('%d', n)
end

-- What is found in the names of channels' keys, for those that were used last: found anew it is a tenth of a publish.
local BASES, RULES_OF, kept = {}, {}, 0

-- The name of the Pub/Sub channel, gw:{C}; raises if the keys are not those of one channel.
local function base_of(keys, names)
  names = names or CHANNEL_KEYS
  local base = BASES[keys[1]] or keys[1] and string.match(keys[1], '^(.*{[^{}]+}):meta$')
  local right = base and #keys == #names
  for i, name in ipairs(names) do
    right = right and keys[i] == base .. name
  end
  if not right then
    error({err = 'GATEWAY the keys are gw:{C}' .. table.concat(names, ' gw:{C}') .. ', of one channel C'})
  end
  return base
end

local function rules_of(base)
  local rules = RULES_OF[base]
  if rules then return rules end
  RULES = RULES or cjson.decode(RULES_JSON)
  local prefix, namespace = string.match(base, '^(.*):{'), string.match(base, '{([^:{}]*):')
  local prefixed = RULES[prefix or ''] or RULES['']
  rules = prefixed[namespace or ''] or prefixed['']
  if kept == CHANNELS_KEPT then BASES, RULES_OF, kept = {}, {}, 0 end
  BASES[base .. ':meta'], RULES_OF[base], kept = base, rules, kept + 1
  return rules
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- An epoch is the microsecond in which it begins, in base 36: short, and new each time.
local function new_epoch()
  local time = redis.call('TIME')
  local left, digits = tonumber(time[1]) * 1000000 + tonumber(time[2]), ''
  while left > 0 do
    local digit = left % 36
    digits = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. digits
    left = (left - digit) / 36
  end
  return digits
end

local function is_count(n)
  return n and n >= 0 and n < 1e15 and n % 1 == 0
end

-- Epoch, offset and ms of the newest publication, from the fields of the meta hash, and the text after ms: up to which offset
-- `trimmed` goes. nil, 0, 0, '' if there are none, or if another program wrote there what is no position: then the history
-- begins anew. Epochs are parts of lines, so they hold few characters.
local function position_of(epoch, offset, ms)
  local time, known = string.match(ms or '0', '^(%d+) ?(%d*)$')
  offset, time = tonumber(offset or '0'), tonumber(time or nil)
  if not epoch or epoch == '' or #epoch > 64 or string.find(epoch, '%W') or not is_count(offset) or not is_count(time) then
    return nil, 0, 0, ''
  end
  return epoch, offset, time, known
end

local SEQUENCES = {  -- the characters of UTF-8 beyond ASCII, by their first byte
  '[\194-\223][\128-\191]', '\224[\160-\191][\128-\191]', '[\225-\236\238\239][\128-\191][\128-\191]', '\237[\128-\159][\128-\191]',
  '\240[\144-\191][\128-\191][\128-\191]', '[\241-\243][\128-\191][\128-\191][\128-\191]', '\244[\128-\143][\128-\191][\128-\191]',
}

local function is_utf8(text)
  text = string.gsub(text, '[%z\1-\127]+', ' ')
  for _, sequence in ipairs(SEQUENCES) do text = string.gsub(text, sequence, '.') end
  return not string.find(text, '[\128-\255]')
end

-- Whether JSON that cjson took has what cjson takes and JSON has not: control characters in strings, and numbers such as "1.".
local function is_lax(text)
  if not string.find(text, '[%z\1-\31]') and not string.find(text, '%d%.%D') and not string.find(text, '-.', 1, true) then return false end
  local outside = string.gsub(string.gsub(text, '\\.', ''), '"[^"]*"', '')
  local _, all = string.gsub(text, '[%z\1-\31]', '')
  local _, between = string.gsub(outside, '[\t\n\r]', '')
  return all ~= between or string.find(outside .. ' ', '%.%D') or string.find(outside, '%D%.')
end

-- Whether `text` is strict JSON in UTF-8, nested no deeper than DEPTH, and what it says. Clients are sent such text as it is.
local function json_of(text)
  if not STRICT then
    STRICT = cjson.new()
    STRICT.decode_invalid_numbers(false)
    STRICT.decode_max_depth(DEPTH)
  end
  local fine, decoded = pcall(STRICT.decode, text)
  if not fine then return false end
  local plain = not string.find(text, '[^\32-\126]') and not string.find(text, '.', 1, true)  -- nearly all is
  return plain or is_utf8(text) and not is_lax(text), decoded
end

-- The object that `text` is in strict JSON; nil if it is none.
local function object_of(text)
  if not string.find(text, '^%s*{') then return nil end
  local fine, decoded = json_of(text)
  return fine and type(decoded) == 'table' and decoded or nil
end

local function are_texts(object, names)
  for name, value in pairs(object) do
    if type(value) ~= 'string' and (not names or names[name]) then return false end
  end
  return true
end

local IDS = {user = true, client = true}  -- the fields of ClientInfo that are texts

-- The counter lives as long as the rules say, and never shorter than the history it counts (ttl 0: forever).
local function keep_meta(key, meta_ttl, ttl)
  if meta_ttl == 0 or ttl == 0 then
    redis.call('PERSIST', key)
  else
    redis.call('EXPIRE', key, math.max(meta_ttl, ttl))
  end
end

-- Writes the position of the newest publication. `trimmed` is nil where its ids are known already, up to offset `known`.
local function write_position(key, offset, ms, known, trimmed)
  local text = known == '' and ms or ms .. ' ' .. known
  if trimmed then
    redis.call('HSET', key, 'offset', offset, 'ms', text, 'trimmed', trimmed)
  else
    redis.call('HSET', key, 'offset', offset, 'ms', text)
  end
end

-- The ids of the entries from an offset on, as FIRST and then the milliseconds of each since the one before it; nil without that
-- entry. And the offset of the last one, a text. They stay below 64 bytes, beyond which Valkey needs more memory for a hash.
local function ids_from(stream, first)
  local entries = redis.call('XRANGE', stream, number(first), number(first + IDS_AHEAD - 1), 'COUNT', IDS_AHEAD)
  local ids, last, last_ms = nil, nil, nil
  for _, entry in ipairs(entries) do
    local offset, ms = string.match(entry[1], '^(%d+)%-(%d+)$')
    if not ids then
      if tonumber(offset) ~= first then return nil end
      ids = entry[1]
    else
      local more = ids .. ' ' .. number(tonumber(ms) - last_ms)
      if tonumber(offset) ~= last + 1 or #more > 64 then break end
      ids = more
    end
    last, last_ms = tonumber(offset), tonumber(ms)
  end
  return ids, last and number(last)
end

-- The stream id of the newest publication that history will have let go once the next one is there, perhaps followed by those
-- after it, and up to which offset; nil if there is none, or if it is known. It is the time of a publication that can no longer
-- be read, and so the proof of which history that was: see gateway_history.
local function next_trimmed(stream, top, top_ms, ms, size, ttl, known)
  if top == 0 then return nil end
  if size == 1 or (ttl > 0 and ms - top_ms >= ttl * 1000) then  -- all of it: trimmed, or expired
    return number(top) .. '-' .. number(top_ms), number(top)
  end
  if size < 0 or top < size or (known ~= '' and top + 1 - size <= tonumber(known)) then return nil end
  return ids_from(stream, top + 1 - size)
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

-- Whether decimal a is greater than decimal b; both may be past 2^53.
local function greater(a, b)
  a, b = string.gsub(a, '^0+', ''), string.gsub(b, '^0+', '')
  if #a ~= #b then
    return #a > #b
  end
  return a > b
end

local NAMES = {generation = true, key = true, version = true, version_epoch = true, size = true, ttl = true, tags = true, info = true}

-- The options of a publication: the NAME VALUE pairs that follow its data.
local function options_of(args)
  local options = {}
  for i = 2, #args, 2 do
    local name, value = args[i], args[i + 1]
    if not NAMES[name] or value == nil then
      error({err = 'GATEWAY ' .. tostring(name) .. ' is not one of key, version, version_epoch, size, ttl, tags, info, or has no value'})
    end
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
    options[name] = value
  end
  -- A client that keeps many calls under way names the library that it means. Where another one was loaded meanwhile, those
  -- before may have found none: this one must not overtake them.
  if options.generation and options.generation ~= GENERATION then
    error({err = OTHER_GENERATION})
  end
  return options
end

-- The line before the data: @<offset> <epoch> <unix ms>[ <JSON>]. A size or ttl that the publication sets itself is in it,
-- so that gateways hold no more in memory than history does.
local function announced(offset, epoch, ms, options, data)
  if not (options.tags or options.info or options.size or options.ttl) then
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

-- Appends a publication to the stream: its id, or a table with the error.
local function append(stream, size, id, data, options)
  local tags, info = options.tags, options.info
  if size > 0 and not tags and not info then return redis.pcall('XADD', stream, 'MAXLEN', '=', size, id, 'data', data) end
  local words = {'XADD', stream}
  if size > 0 then words = {'XADD', stream, 'MAXLEN', '=', size} end
  for _, word in ipairs({id, 'data', data}) do table.insert(words, word) end
  for name, value in pairs({tags = tags, info = info}) do
    table.insert(words, name)
    table.insert(words, value)
  end
  return redis.pcall(unpack(words))
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
    local newest = redis.call('HGET', keys[1], 'v:' .. (options.version_epoch or ''))
    if newest and not greater(options.version, newest) then return top, epoch end
  end
end

-- Remembers the key and the version of a publication. `offset` is a text; nil if it was announced only.
local function remember(keys, options, offset, ms, rules, ttl)
  if options.version then
    keep_version(keys[1], options.version, options.version_epoch or '')
    if not offset then keep_meta(keys[1], rules.meta_ttl, ttl) end
  end
  if options.key then
    -- Negative scores grow with time as well, so that the oldest keys are removed first in either kind of channel.
    redis.call('ZADD', keys[3], offset or number(ms - 9007199254740992), options.key)
    redis.call('ZREMRANGEBYRANK', keys[3], 0, -(KEYS_KEPT + 1))
    redis.call('EXPIRE', keys[3], math.max(KEYS_TTL, ttl))
  end
end

local function expire_stream(stream, ttl)
  if ttl == 0 then
    redis.call('PERSIST', stream)
  else
    redis.call('EXPIRE', stream, ttl)
  end
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
  local data, rules = data_of(args), rules_of(base)
  local size = tonumber(options.size) or rules.size
  local ttl = tonumber(options.ttl)
  local remembered = size ~= 0 and ttl ~= 0
  ttl = ttl == nil and rules.ttl or math.max(ttl, 0)

  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset', 'ms')
  local epoch, top, top_ms, known = position_of(meta[1], meta[2], meta[3])
  if epoch then
    local offset, of = repeated(keys, options, epoch, top)
    if offset then return offset, of, false end
  elseif remembered or options.key or options.version then
    epoch, top = begin(keys), 0
  end

  local ms, offset = now_ms(), 0
  local ms_text, offset_text = number(ms), nil
  if remembered then
    offset = top + 1
    offset_text = number(offset)
    local trimmed, last = next_trimmed(keys[2], top, top_ms, ms, size, rules.ttl, known)
    local added = append(keys[2], size, offset_text .. '-' .. ms_text, data, options)
    if type(added) == 'table' then
      if not is_ahead(added) then error(added) end
      epoch, offset, offset_text, trimmed, known = begin(keys), 1, '1', nil, ''
      added = append(keys[2], size, '1-' .. ms_text, data, options)
      if type(added) == 'table' then error(added) end
    end
    write_position(keys[1], offset_text, ms_text, trimmed and last or known, trimmed)
    expire_stream(keys[2], ttl)
    keep_meta(keys[1], rules.meta_ttl, ttl)
  end
  remember(keys, options, offset_text, ms, rules, ttl)
  redis.call(ANNOUNCE, base, announced(offset_text or '0', remembered and epoch or '-', ms_text, options, data))
  if not remembered then
    return 0, '', true
  end
  return offset, epoch, true
end

-- What `publish` answers to each publication, or the text of its error.
local function each(publications, publish)
  local answers = {}
  for i, args in ipairs(publications) do
    local fine, answer = pcall(publish, args)
    answers[i] = fine and answer or type(answer) == 'table' and answer.err or tostring(answer)
  end
  return answers
end

-- Publishes one after another to one channel, whose history is read and written once for all. What one of them may not costs
-- the others nothing.
local function add_all(base, keys, publications)
  local rules, newest, ms = rules_of(base), nil, now_ms()
  local size, ttl, ms_text = rules.size, rules.ttl, number(ms)
  local meta = redis.call('HMGET', keys[1], 'epoch', 'offset', 'ms')
  local epoch, top, top_ms, known = position_of(meta[1], meta[2], meta[3])
  local before = top  -- the newest publication that was there already

  local function publish(args)
    local options, data = options_of(args), data_of(args)
    if options.size or options.ttl then error({err = 'GATEWAY a size or ttl of its own is for gateway_publish'}) end
    if not epoch then epoch, top, before, known = begin(keys), 0, 0, '' end
    local offset, of = repeated(keys, options, epoch, top)
    if offset then return {offset, of} end
    local added = append(keys[2], -1, number(top + 1) .. '-' .. ms_text, data, options)
    if type(added) == 'table' then
      if not is_ahead(added) then error(added) end
      epoch, top, before, known = begin(keys), 0, 0, ''
      added = append(keys[2], -1, '1-' .. ms_text, data, options)
      if type(added) == 'table' then error(added) end
    end
    top = top + 1
    newest = number(top)
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
      local ids, of = next_trimmed(keys[2], before, top_ms, ms, before + 1 - last, ttl, known)
      if ids then trimmed, known = ids, of end
    end
    if size > 0 then redis.call('XTRIM', keys[2], 'MAXLEN', '=', size) end
    write_position(keys[1], newest, ms_text, known, trimmed)
    expire_stream(keys[2], ttl)
    keep_meta(keys[1], rules.meta_ttl, ttl)
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

-- gateway_publish_all 3 meta stream keys [COUNT DATA NAME VALUE …]… [generation G] → for each [offset, epoch], or the text of its error
--   As calls of gateway_publish one after another, for a third of Valkey's time; COUNT words follow it. None has a size or ttl
--   of its own.
-- Atomic, because each is; and because the newest position is written once, after the last.
local function gateway_publish_all(keys, args)
  local base, publications, at = base_of(keys), {}, 1
  if args[#args - 1] == 'generation' then
    if table.remove(args) ~= GENERATION then error({err = OTHER_GENERATION}) end
    table.remove(args)
  end
  while at <= #args do
    local count = tonumber(args[at])
    if not is_count(count) or count < 1 or at + count > #args then error({err = 'GATEWAY after each COUNT come so many words'}) end
    table.insert(publications, {unpack(args, at + 1, at + count)})
    at = at + 1 + count
  end
  if rules_of(base).size ~= 0 then return add_all(base, keys, publications) end
  return each(publications, function(args)
    local offset, epoch = add(base, keys, args)
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
    redis.call('XTRIM', keys[2], 'MAXLEN', '=', number(rules.size))
    redis.call('HSET', keys[1], 'trimmed', number(offset - rules.size) .. '-' .. args[1 + 2 * (offset - rules.size)])
  end
  redis.call('HSET', keys[1], 'offset', number(offset), 'ms', number(last))
  keep_version(keys[1], args[2], args[1])
  if rules.ttl == 0 then redis.call('PERSIST', keys[2]) else redis.call('EXPIRE', keys[2], rules.ttl) end
  keep_meta(keys[1], rules.meta_ttl, rules.ttl)
  redis.call(ANNOUNCE, base, '@reset ' .. epoch .. ' ' .. number(offset))
  return {offset, epoch}
end

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
--     stands before SINCE (0: the top), newest first. What another program appended past the newest position is not part of
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
      redis.call('EXPIRE', keys[1], UNUSED_TTL)
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
    redis.call('HSET', keys[1], 'trimmed', number(top) .. '-' .. number(ms))
  end
  redis.call(ANNOUNCE, base, '@reset ' .. epoch .. ' ' .. number(top))
  return {top, epoch}
end

-- gateway_generation 0 → which load of the library this is; a random name.
local function gateway_generation(keys, args)
  return GENERATION
end

-- gateway_rules 0 → the rules that are compiled in, as JSON.
local function gateway_rules(keys, args)
  return RULES_JSON
end

redis.register_function('gateway_publish', gateway_publish)
redis.register_function('gateway_publish_all', gateway_publish_all)
redis.register_function('gateway_restore', gateway_restore)
redis.register_function{function_name = 'gateway_history', callback = gateway_history, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_page', callback = gateway_page, flags = {'no-writes', 'allow-oom'}}
redis.register_function{function_name = 'gateway_remove', callback = gateway_remove, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_generation', callback = gateway_generation, flags = {'no-writes', 'allow-oom', 'allow-stale'}}
redis.register_function{function_name = 'gateway_rules', callback = gateway_rules, flags = {'no-writes', 'allow-oom', 'allow-stale'}}
