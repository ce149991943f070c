-- Work queues: how a job is enqueued. It follows jobs.lua, which describes the keys.

local JOB_OPTIONS = {
  generation = true, id = true, key = true, priority = true, delay = true, at = true, attempts = true, timeout = true, expires = true,
  expires_at = true, result_ttl = true, channel = true, serial = true, limit = true, version = true, version_epoch = true,
  counted = true, traceparent = true,
}

local function job_options(args)
  local options = {}
  for i = 3, #args, 2 do
    if not JOB_OPTIONS[args[i]] or args[i + 1] == nil then
      error({err = 'GATEWAY ' .. clean(args[i], 60) .. ' is not one of id, key, priority, delay, at, attempts, timeout, expires, expires_at, result_ttl, channel, serial, limit, version, version_epoch, or has no value'})
    end
    options[args[i]] = args[i + 1]
  end
  if options.generation and options.generation ~= GENERATION then
    error({err = 'GENERATION the functions were loaded anew: send again, the oldest first'})
  end
  return options
end

-- A number among the options; raises if it is not between least and most.
local function bounded(options, name, default, least, most, is_whole)
  local text = options[name]
  if text == nil then return default end
  local value = #text <= 20 and string.find(text, '^%d+%.?%d*$') and tonumber(text)
  if not value or value < least or value > most or (is_whole and value % 1 ~= 0) then
    error({err = string.format('GATEWAY %s is a %s from %.10g to %.0f, not %s', name, is_whole and 'whole number' or 'number', least, most, clean(text, 40))})
  end
  return value
end

local function check_text(options, option, most)
  if options[option] and not is_text(options[option], most) then
    error({err = 'GATEWAY ' .. option .. ' is a text of 1 to ' .. most .. ' bytes without control characters'})
  end
end

local function check_job(name, data, options)
  if not is_text(name, JOB.text) then
    error({err = 'GATEWAY the name of a job is a text of 1 to ' .. JOB.text .. ' bytes without control characters'})
  end
  if data == nil or #data > JOB.data then
    error({err = 'GATEWAY the data of a job is JSON of up to ' .. JOB.data .. ' bytes'})
  end
  if #data <= JOB.checked and not json_of(data) then
    error({err = 'GATEWAY the data of a job is not JSON in UTF-8'})
  end
  check_text(options, 'key', JOB.text)
  check_text(options, 'serial', JOB.text)
  check_text(options, 'channel', 255)
  check_text(options, 'traceparent', JOB.text)
  if options.id and (#options.id > 100 or not string.find(options.id, '^%w[%w%-_.:]*$')) then
    error({err = 'GATEWAY id is 1 to 100 letters, digits, - _ . and :'})
  end
  if options.version and not (#options.version <= 30 and string.find(options.version, '^%d+$')) then
    error({err = 'GATEWAY version is a whole number from 0'})
  end
  if options.counted and not (options.version and #options.version <= 15) then
    error({err = 'GATEWAY counted is of versions of up to 15 digits'})
  end
  if options.version_epoch and #options.version_epoch > JOB.text then
    error({err = 'GATEWAY version_epoch is a text of up to ' .. JOB.text .. ' bytes'})
  end
end

-- Whether `version` is newer than what the queue holds of its epoch, 'VERSION MS'.
local function is_newer(version, held)
  local newest = string.match(held or '', '^%d+')
  if not newest then return true end
  if #version <= 15 and #newest <= 15 then return tonumber(version) > tonumber(newest) end
  return greater(version, newest)
end

-- Whether the newest version that is held is a tick of a schedule, in unix seconds, that is to come: Valkey's clock was ahead when it was enqueued,
-- and was set back. All ticks until then would be old, for hours or years. Set back by less, a clock brings no tick a second time.
local function is_to_come(epoch, held, now)
  return string.sub(epoch, 1, 7) == 'v:cron:' and whole(string.match(held or '', '^%d+')) * 1000 > now + JOB.set_back
end

local function range_of(from, to)
  return from <= to and number(from) .. '-' .. number(to) .. ',' or ''
end

-- The same where the producer counts its jobs one by one, and has several on their way: Valkey may refuse one for a moment (BUSY, NOREPLICAS)
-- and carry out those after it. The numbers that did not come yet are held as ranges, 'VERSION MS FROM-TO,…'. Returns too what
-- is held from now on, without MS.
local function count_version(version, held)
  local newest, ranges = string.match(held or '', '^(%d+) %d+ ?(.*)$')
  version, newest, ranges = tonumber(version), tonumber(newest or 0), ranges or ''
  if version > newest then
    ranges = ranges .. range_of(newest + 1, version - 1)
    while #ranges > JOB.ranges do ranges = string.gsub(ranges, '^[^,]*,?', '', 1) end
    return true, version, ranges
  end
  local missing, left = false, ''
  for from, to in string.gmatch(ranges, '(%d+)-(%d+),') do
    from, to = tonumber(from), tonumber(to)
    if version < from or version > to then
      left = left .. range_of(from, to)
    else
      missing, left = true, left .. range_of(from, version - 1) .. range_of(version + 1, to)
    end
  end
  return missing, newest, left
end

-- Of many version epochs, those are remembered that were used within a week; of very many, within an hour; and those of schedules, which are
-- few, and may be of a tick a year. Some are looked at, each time that a new one comes, so that no call takes long.
local function forget_epochs(keys, now)
  local fields = redis.call('HLEN', keys[1])
  if fields < JOB.epochs then return end
  local unused = fields < 100 * JOB.epochs and 604800000 or 3600000
  local some = redis.call('HRANDFIELD', keys[1], 10, 'WITHVALUES')
  for i = 1, #some, 2 do
    local used = string.sub(some[i], 1, 2) == 'v:' and string.sub(some[i], 3, 7) ~= 'cron:' and whole(string.match(some[i + 1], '^%d+ (%d+)'))
    if used and now - used > unused then redis.call('HDEL', keys[1], some[i]) end
  end
end

local function refuse_full(keys, held, limit)
  local dead = redis.call('ZCARD', keys[K.dead])
  error({err = string.format('QUEUEFULL the queue holds %.0f jobs, %.0f of them dead letters; its limit is %.0f', held, dead, limit)})
end

-- The id that the queue holds already of this job: that of its unique key, or its own. nil if it is new.
local function present_id(keys, options)
  local same = options.key and redis.call('HGET', keys[K.keys], options.key)
  if same and redis.call('HEXISTS', keys[K.jobs], same) == 1 then return same end
  return options.id and redis.call('HEXISTS', keys[K.jobs], options.id) == 1 and options.id or nil
end

local function texts_of(name, options, seq)
  local texts = '"name":' .. quoted(name)
  if options.key then texts = texts .. ',"key":' .. quoted(options.key) end
  if options.channel then texts = texts .. ',"channel":' .. quoted(options.channel) end
  if options.traceparent then texts = texts .. ',"traceparent":' .. quoted(options.traceparent) end
  if options.serial then texts = texts .. ',"serial":' .. quoted(options.serial) .. ',"seq":' .. number(seq) end
  return texts
end

-- gateway_enqueue KEYS NAME DATA [id ID] [key K] [priority 0-9] [delay S] [at UNIX_S] [attempts N] [timeout S] [expires S]
--     [expires_at UNIX_S] [result_ttl S] [channel C] [serial S] [limit N] [version N] [version_epoch E] [counted 1] [traceparent T] → [id, 1 if it was enqueued now]
--   DATA is JSON of up to 1 MiB; above 64 KiB that is not checked here, and what is none becomes a dead letter when a worker takes it.
--   Seconds may have decimals. A `key` that a job has which waits or runs: that job's id, and 0. An `id` of a job that the
--   queue holds, or a `version` of its epoch that is not newer than the last: 0; so a producer may repeat what it got no answer to.
--   `traceparent`: the W3C trace context of what enqueues it, which the worker's span continues.
--   `counted`: the versions of the epoch are 1, 2, 3 …, and one that comes after a newer one is enqueued if it did not come before.
--   `expires`: so long after it was due a job is not started, nor tried again: it is a dead letter then; `expires_at`: not after that
--   time, which may be over. Raises QUEUEFULL where the queue
--   holds `limit` jobs. A version that was refused is not remembered; one that is newer makes it old, so the refused one comes first.
-- Atomic, because key, version, limit and place must be of one moment: else two producers at once would enqueue one key twice, and a
-- crash in between would leave a job that no worker finds.
local function gateway_enqueue(keys, args)
  check_queue(keys)
  local name, data, options = args[1], args[2], job_options(args)
  check_job(name, data, options)
  local priority = bounded(options, 'priority', 0, 0, 9, true)
  local delay = bounded(options, 'delay', 0, 0, JOB.seconds)
  local attempts = bounded(options, 'attempts', 5, 1, 1000, true)
  local timeout = bounded(options, 'timeout', 60, 0.001, 604800)
  local expires = bounded(options, 'expires', 0, 0.001, JOB.seconds)
  local last = math.ceil(bounded(options, 'expires_at', 0, 0, 1e11) * 1000)
  local result_ttl = math.ceil(bounded(options, 'result_ttl', 0, 0, 2592000) * 1000) / 1000  -- in ms: less would be written with an exponent
  local limit = bounded(options, 'limit', JOB.limit, 1, 1e12, true)
  local now = now_ms()
  local at = options.at and bounded(options, 'at', 0, 0, now / 1000 + JOB.seconds) or 0

  local epoch, id, first, seq = 'v:' .. (options.version_epoch or ''), nil, true, nil
  local state = redis.call('HMGET', keys[1], 'enqueued', 'hungry', epoch)
  local fresh, newest, missing = true, options.version, ''
  if options.counted then
    fresh, newest, missing = count_version(options.version, state[3] or nil)
    newest = number(newest)
  elseif options.version then
    fresh = is_newer(options.version, state[3] or nil) or is_to_come(epoch, state[3], now)
  end
  local stamp = newest and newest .. ' ' .. number(now) .. (missing ~= '' and ' ' .. missing or '')
  if not fresh then
    return {options.key and redis.call('HGET', keys[K.keys], options.key) or options.id or '', 0}
  end
  id = present_id(keys, options)
  if id then
    if stamp then redis.call('HSET', keys[1], epoch, stamp) end
    return {id, 0}
  end
  local held = redis.call('HLEN', keys[K.jobs])
  if held >= limit then refuse_full(keys, held, limit) end

  id = options.id or number(now) .. '-' .. number(next_seq(keys))
  if options.serial then first, seq = join_serial(keys, options.serial, id, now) end
  local due = math.max(now, math.floor(at * 1000)) + math.floor(delay * 1000)
  if last == 0 and expires > 0 then last = due + math.ceil(expires * 1000) end
  local job = string.format(
    '{"priority":%d,"attempts":%d,"expires":%.0f,"due":%.0f,"result_ttl":%.14g,"timeout":%.14g,"enqueued":%.0f,%s,"data":%s}',
    priority, attempts, last, due, result_ttl, timeout, now, texts_of(name, options, seq), data)
  local awaited = first and put(keys, id, priority, due, now)
  redis.call('HSET', keys[K.jobs], id, job)
  if options.key then redis.call('HSET', keys[K.keys], options.key, id) end
  local enqueued = number(whole(state[1]) + 1)
  if stamp then
    local is_new = redis.call('HSET', keys[1], 'enqueued', enqueued, epoch, stamp) > 0
    if is_new and not state[3] then forget_epochs(keys, now) end
  else
    redis.call('HSET', keys[1], 'enqueued', enqueued)
  end
  if awaited and state[2] then wake(keys) end
  return {id, 1}
end

redis.register_function('gateway_enqueue', gateway_enqueue)
