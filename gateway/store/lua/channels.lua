-- The gateway's function library. It runs inside Valkey, one function per atomic act.
--
-- Keys of channel C, always all three and in this order (one hash slot; every key a function touches is declared):
--   gw:{C}:meta     hash: epoch and offset of the newest publication; ms, its time and, after a space, the offset up to which trimmed goes;
--                   trimmed, stream ids of the newest publication that history has let go and of those that follow it; version, version_epoch
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

local CHANNEL_KEYS = {':meta', ':stream', ':keys'}
local CHANNELS_KEPT = 4096  -- channels of which something is known: 14 MB of Valkey's where each of them is busy
local DEPTH = 256           -- of nested objects and arrays in what clients are sent
local OTHER_GENERATION = 'GENERATION the functions were loaded anew: send again, the oldest first'

local function number(n)
  return string.format('%d', n)
end

-- What is known of the channels that were used last, by base, and by the key of the meta hash; found anew it is a tenth of a publication.
-- Each has base, stream and keys, which are names; rules, those of its namespace; and what publishing.lua adds of its last publication.
local CHANNELS, BY_META, known_channels = {}, {}, 0

-- The name of the Pub/Sub channel, gw:{C}; raises if the keys are not those of one channel.
local function base_of(keys, names)
  local channel = not names and BY_META[keys[1]]
  if channel and keys[2] == channel.stream and keys[3] == channel.keys and #keys == 3 then return channel.base end
  names = names or CHANNEL_KEYS
  local base = keys[1] and string.match(keys[1], '^(.*{[^{}]+}):meta$')
  local right = base and #keys == #names
  for i, name in ipairs(names) do
    right = right and keys[i] == base .. name
  end
  if not right then
    error({err = 'GATEWAY the keys are gw:{C}' .. table.concat(names, ' gw:{C}') .. ', of one channel C'})
  end
  return base
end

-- What is known of the channel with this base.
local function channel_at(base)
  local channel = CHANNELS[base]
  if channel then return channel end
  RULES = RULES or cjson.decode(RULES_JSON)
  local prefix, namespace = string.match(base, '^(.*):{'), string.match(base, '{([^:{}]*):')
  local prefixed = RULES[prefix or ''] or RULES['']
  channel = {base = base, stream = base .. ':stream', keys = base .. ':keys', rules = prefixed[namespace or ''] or prefixed[''], times = {}}
  if known_channels == CHANNELS_KEPT then CHANNELS, BY_META, known_channels = {}, {}, 0 end
  CHANNELS[base], BY_META[base .. ':meta'], known_channels = channel, channel, known_channels + 1
  return channel
end

local function rules_of(base)
  return channel_at(base).rules
end

-- Arithmetic reads a number out of a text in half of the time of tonumber, which reads it twice.
local function now_ms()
  local time = redis.call('TIME')
  local micros = time[2] + 0
  return time[1] * 1000 + (micros - micros % 1000) / 1000
end

local newest_epoch = 0  -- that this server has made, as a number

-- An epoch is the microsecond in which it begins, in base 36: short, and new each time, also in a transaction (MULTI), where the time stands still.
local function new_epoch()
  local time = redis.call('TIME')
  local left, digits = math.max(tonumber(time[1]) * 1000000 + tonumber(time[2]), newest_epoch + 1), ''
  newest_epoch = left
  while left > 0 do
    local digit = left % 36
    digits = string.sub('0123456789abcdefghijklmnopqrstuvwxyz', digit + 1, digit + 1) .. digits
    left = (left - digit) / 36
  end
  return digits
end

local newest_ms, newest_ms_text = 0, '0'

-- The text of a time that is likely the one asked for last: made anew it is 1 % of a publication.
local function text_of_ms(ms)
  if ms ~= newest_ms then newest_ms, newest_ms_text = ms, number(ms) end
  return newest_ms_text
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

-- gateway_generation 0 → which load of the library this is; a random name.
local function gateway_generation(keys, args)
  return GENERATION
end

-- gateway_rules 0 → the rules that are compiled in, as JSON.
local function gateway_rules(keys, args)
  return RULES_JSON
end

redis.register_function{function_name = 'gateway_generation', callback = gateway_generation, flags = {'no-writes', 'allow-oom', 'allow-stale'}}
redis.register_function{function_name = 'gateway_rules', callback = gateway_rules, flags = {'no-writes', 'allow-oom', 'allow-stale'}}
