-- Work queues: the life of a job, from enqueue to its end. It follows channels.lua in the library.
--
-- Keys of queue Q, always all 22 and in this order (one hash slot; every key a function touches is declared):
--   gw:queue:{Q}            hash: counters (enqueued, taken, finished, retried, dead, cancelled, crashed, given_back, strays; start_ms and
--                           finish_ms are sums), seq, picks, hungry, next:NAME (when a limited name may start again), v:EPOCH
--   gw:queue:{Q}:jobs       hash: id → the job, a JSON object that begins with its numbers and ends with its data
--   gw:queue:{Q}:runs       hash: id → 'TOKEN FAILURES CRASHES FLAGS' of a job that was taken; flags: c cancelled, p its rate is paid
--   gw:queue:{Q}:failures   hash: id → JSON array of its newest failures, {"at","attempt","worker","error"}
--   gw:queue:{Q}:keys       hash: unique key → id, while that job waits or runs
--   gw:queue:{Q}:delayed    sorted set: id → unix ms at which it is due
--   gw:queue:{Q}:running    sorted set: id → unix ms at which it was taken
--   gw:queue:{Q}:dead       sorted set: id → unix ms at which it became a dead letter
--   gw:queue:{Q}:workers    sorted set: worker → unix ms at which its lease ends
--   gw:queue:{Q}:serial     sorted set, scores 0: 'SERIAL\0SEQ:id', SEQ of 15 digits. Of one SERIAL only the first job is ready, delayed or taken
--   gw:queue:{Q}:results    hash: id → {"result":…} or {"error":"…"}
--   gw:queue:{Q}:expiring   sorted set: id → unix ms at which its result is removed
--   gw:queue:{Q}:ready:0 … gw:queue:{Q}:ready:9   lists of ids by priority; enqueued on the left, taken from the right
-- A worker W has one more, which the functions that workers call are given as the 23rd:
--   gw:queue:{Q}:taken:W    list of the ids that it took and has not ended
-- Pub/Sub: gw:queue:{Q} carries '' when a worker may find a job, and 'cancel ID'; gw:queue:{Q}:results the ids of new results.
--
-- A job is in exactly one place: ready, delayed, parked (only in serial), taken and running, or dead. Each function moves it as one
-- atomic act, so nothing is ever only in a process. A worker's lease covers all that it took. The token is counted up each time a job is
-- taken; who ends a run names it, so that a worker whose lease was over cannot end the run of another (fencing).

local QUEUE_NAMES = {'jobs', 'runs', 'failures', 'keys', 'delayed', 'running', 'dead', 'workers', 'serial', 'results', 'expiring'}
local K = {ready = 13, taken = 23}  -- which key it is; ready:P is keys[K.ready + P]. There is no ipairs while the library is loaded.
for i = 1, #QUEUE_NAMES do K[QUEUE_NAMES[i]] = i + 1 end
for priority = 0, 9 do QUEUE_NAMES[12 + priority] = 'ready:' .. priority end

local JOB = {
  data = 1048576,         -- bytes of a job's data
  text = 200,             -- bytes of a name, a unique key, a serial key
  error = 4000,           -- bytes of a failure's reason
  failures = 20,          -- failures of a job that are remembered, the newest ones
  crashes = 3,            -- workers that a job may crash before it is a dead letter
  limit = 1000000,        -- jobs that a queue holds, dead letters included, unless its producers say otherwise
  seconds = 315360000,    -- ten years: the longest delay
  page = 1000,            -- jobs of which one call disposes
  lease = 100,            -- ms, the shortest lease
  epochs = 1000,          -- version epochs, above which those unused for a week are forgotten
}

local KNOWN_QUEUES, KNOWN_COUNT = {}, 0

-- Raises if the keys are not those of one queue, and of this worker where there is one.
local function check_queue(keys, worker)
  local base = keys[1] or ''
  local names = KNOWN_QUEUES[base]
  if not names then
    if not string.find(base, '^.*queue:{[^{}]+}$') then
      error({err = 'GATEWAY the first key is gw:queue:{Q}, of a queue Q without braces'})
    end
    names = {}
    for i, name in ipairs(QUEUE_NAMES) do names[i + 1] = base .. ':' .. name end
    if KNOWN_COUNT >= 1000 then KNOWN_QUEUES, KNOWN_COUNT = {}, 0 end
    KNOWN_QUEUES[base], KNOWN_COUNT = names, KNOWN_COUNT + 1
  end
  local right = #keys == (worker and K.taken or K.taken - 1) and (not worker or keys[K.taken] == base .. ':taken:' .. worker)
  for i = 2, K.taken - 1 do right = right and keys[i] == names[i] end
  if not right then
    error({err = 'GATEWAY the keys are gw:queue:{Q} and, each after it, :' .. table.concat(QUEUE_NAMES, ' :') .. (worker and ' :taken:WORKER' or '')})
  end
end

local function is_text(text, most)
  return text ~= nil and text ~= '' and #text <= most and not string.find(text, '[%z\1-\31\127]') and is_utf8(text)
end

local function count(keys, name, by)
  redis.call('HINCRBY', keys[1], name, by or 1)
end

-- The fields of a job but its data; nil if that is no job.
local function head_of(job)
  local head = job and string.match(job, '^({"priority":%d,.-),"data":')
  if not head then return nil end
  local fine, fields = pcall(cjson.decode, head .. '}')
  if not fine then return nil end
  for _, name in ipairs({'priority', 'attempts', 'expires', 'due', 'result_ttl'}) do
    if type(fields[name]) ~= 'number' then return nil end
  end
  for _, name in ipairs({'key', 'serial'}) do
    if fields[name] ~= nil and type(fields[name]) ~= 'string' then return nil end
  end
  return fields
end

-- Token, failures, crashes and flags.
local function run_of(keys, id)
  local token, failures, crashes, flags = string.match(redis.call('HGET', keys[K.runs], id) or '', '^(%d+) (%d+) (%d+) (%l*)$')
  return tonumber(token or 0), tonumber(failures or 0), tonumber(crashes or 0), flags or ''
end

local function set_run(keys, id, token, failures, crashes, flags)
  redis.call('HSET', keys[K.runs], id, string.format('%d %d %d %s', token, failures, crashes, flags))
end

-- Wakes the workers that found too little; they are announced to once, and take again.
local function wake(keys)
  if redis.call('HDEL', keys[1], 'hungry') == 1 then redis.call(ANNOUNCE, keys[1], '') end
end

-- Puts a job where it waits: delayed until it is due, or ready. `first`: it is the next of its priority to be taken.
local function place(keys, id, priority, due, now, first)
  if due > now then
    redis.call('ZADD', keys[K.delayed], number(due), id)
    if redis.call('ZRANGE', keys[K.delayed], 0, 0)[1] == id then wake(keys) end
  else
    redis.call(first and 'RPUSH' or 'LPUSH', keys[K.ready + priority], id)
    wake(keys)
  end
end

local function serial_range(serial, most)
  return '[' .. serial .. '\0', '(' .. serial .. '\1', 'LIMIT', 0, most
end

local function serial_member(serial, seq, id)
  return string.format('%s\0%015.0f:%s', serial, seq, id)
end

local function serial_id(member)
  return string.match(member, '^[^%z]*%z%d+:(.*)$')
end

-- A job with a serial key joins the others of that key; returns whether it is the first of them, and the number that is its place.
local function join_serial(keys, serial, id)
  local seq = redis.call('HINCRBY', keys[1], 'seq', 1)
  redis.call('ZADD', keys[K.serial], 0, serial_member(serial, seq, id))
  return serial_id(redis.call('ZRANGEBYLEX', keys[K.serial], serial_range(serial, 1))[1]) == id, seq
end

-- Frees what a job holds while it waits or runs: its unique key, and its place among the jobs of its serial key.
local function release(keys, id, head, now)
  if head.key and redis.call('HGET', keys[K.keys], head.key) == id then redis.call('HDEL', keys[K.keys], head.key) end
  if not head.serial then return end
  local first = redis.call('ZRANGEBYLEX', keys[K.serial], serial_range(head.serial, 2))
  redis.call('ZREM', keys[K.serial], serial_member(head.serial, tonumber(head.seq) or 0, id))
  if not first[1] or serial_id(first[1]) ~= id then return end
  local next_id = first[2] and serial_id(first[2])
  local next_head = next_id and head_of(redis.call('HGET', keys[K.jobs], next_id) or nil)
  if next_head then place(keys, next_id, next_head.priority, next_head.due, now, true) end
end

local function keep_result(keys, id, head, result, now)
  if head.result_ttl <= 0 then return end
  redis.call('HSET', keys[K.results], id, result)
  redis.call('ZADD', keys[K.expiring], number(now + head.result_ttl * 1000), id)
  redis.call(ANNOUNCE, keys[1] .. ':results', id)
end

-- Removes the results whose time is over.
local function expire_results(keys, now)
  local over = redis.call('ZRANGEBYSCORE', keys[K.expiring], '-inf', number(now), 'LIMIT', 0, 100)
  if #over > 0 then
    redis.call('HDEL', keys[K.results], unpack(over))
    redis.call('ZREM', keys[K.expiring], unpack(over))
  end
end

local function forget(keys, id)
  redis.call('HDEL', keys[K.jobs], id)
  redis.call('HDEL', keys[K.runs], id)
  redis.call('HDEL', keys[K.failures], id)
  redis.call('ZREM', keys[K.running], id)
end

local function clean(text, most)
  text = string.sub(text, 1, most)
  return is_utf8(text) and text or string.gsub(text, '[\128-\255]', '?')
end

local function note_failure(keys, id, attempt, worker, reason, now)
  local fine, failures = pcall(cjson.decode, redis.call('HGET', keys[K.failures], id) or '[]')
  if not fine or type(failures) ~= 'table' then failures = {} end
  table.insert(failures, {at = now, attempt = attempt, worker = worker, error = clean(reason, JOB.error)})
  if #failures > JOB.failures then table.remove(failures, 1) end
  redis.call('HSET', keys[K.failures], id, cjson.encode(failures))
end

-- Makes a job a dead letter; it is kept with its failures until it is sent again or purged.
local function bury(keys, id, head, now, reason)
  redis.call('ZREM', keys[K.running], id)
  redis.call('HDEL', keys[K.runs], id)
  redis.call('ZADD', keys[K.dead], number(now), id)
  release(keys, id, head, now)
  keep_result(keys, id, head, '{"error":' .. cjson.encode(clean(reason, JOB.error)) .. '}', now)
  count(keys, 'dead')
end

-- Removes a job that was cancelled.
local function cancel(keys, id, head, now)
  forget(keys, id)
  release(keys, id, head, now)
  keep_result(keys, id, head, '{"error":"cancelled"}', now)
  count(keys, 'cancelled')
end

-- What another program pushed into a list becomes a dead letter, so that nothing is dropped in silence.
local function bury_stray(keys, entry, now, index)
  local id = string.format('stray-%.0f-%d', now, index)
  local job = '{"priority":0,"attempts":1,"expires":0,"due":' .. number(now) .. ',"result_ttl":0,"timeout":60,"enqueued":' .. number(now)
    .. ',"name":"?","data":' .. cjson.encode(clean(entry, JOB.data)) .. '}'
  redis.call('HDEL', keys[K.jobs], entry)
  redis.call('HSET', keys[K.jobs], id, job)
  redis.call('ZADD', keys[K.dead], number(now), id)
  note_failure(keys, id, 0, '', 'the list held what no function enqueued: the id of no job', now)
  count(keys, 'strays')
  count(keys, 'dead')
end

-- Enqueueing.

local JOB_OPTIONS = {
  generation = true, id = true, key = true, priority = true, delay = true, at = true, attempts = true, timeout = true, expires = true,
  expires_at = true, result_ttl = true, channel = true, serial = true, limit = true, version = true, version_epoch = true,
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
local function bounded(options, name, default, least, most, whole)
  local text = options[name]
  if text == nil then return default end
  local value = #text <= 20 and string.find(text, '^%d+%.?%d*$') and tonumber(text)
  if not value or value < least or value > most or (whole and value % 1 ~= 0) then
    error({err = string.format('GATEWAY %s is a %s from %.10g to %.0f, not %s', name, whole and 'whole number' or 'number', least, most, clean(text, 40))})
  end
  return value
end

local function check_job(name, data, options)
  if not is_text(name, JOB.text) then
    error({err = 'GATEWAY the name of a job is a text of 1 to ' .. JOB.text .. ' bytes without control characters'})
  end
  if data == nil or #data > JOB.data then
    error({err = 'GATEWAY the data of a job is JSON of up to ' .. JOB.data .. ' bytes'})
  end
  if not json_of(data) then
    error({err = 'GATEWAY the data of a job is not JSON in UTF-8'})
  end
  for _, option in ipairs({'key', 'serial', 'channel'}) do
    if options[option] and not is_text(options[option], option == 'channel' and 255 or JOB.text) then
      error({err = 'GATEWAY ' .. option .. ' is a text of 1 to ' .. JOB.text .. ' bytes without control characters'})
    end
  end
  if options.id and (#options.id > 100 or not string.find(options.id, '^[%w][%w%-_.:]*$')) then
    error({err = 'GATEWAY id is 1 to 100 letters, digits, - _ . and :'})
  end
  if options.version and not (#options.version <= 30 and string.find(options.version, '^%d+$')) then
    error({err = 'GATEWAY version is a whole number from 0'})
  end
  if options.version_epoch and #options.version_epoch > JOB.text then
    error({err = 'GATEWAY version_epoch is a text of up to ' .. JOB.text .. ' bytes'})
  end
end

-- Remembers the newest version of a version epoch, and of many epochs those that were used within a week.
local function keep_job_version(keys, version, epoch, now)
  if redis.call('HSET', keys[1], 'v:' .. epoch, version .. ' ' .. number(now)) == 0 then return end
  local fields = redis.call('HLEN', keys[1])
  if fields < JOB.epochs or fields % 100 > 0 then return end
  local all = redis.call('HGETALL', keys[1])
  for i = 1, #all, 2 do
    local used = string.sub(all[i], 1, 2) == 'v:' and tonumber(string.match(all[i + 1], ' (%d+)$') or 0)
    if used and now - used > 604800000 then redis.call('HDEL', keys[1], all[i]) end
  end
end

local function refuse_full(keys, limit)
  local held = redis.call('HLEN', keys[K.jobs])
  if held >= limit then
    local dead = redis.call('ZCARD', keys[K.dead])
    error({err = string.format('QUEUEFULL the queue holds %d jobs, %d of them dead letters; its limit is %.0f', held, dead, limit)})
  end
end

-- gateway_enqueue KEYS NAME DATA [id ID] [key K] [priority 0-9] [delay S] [at UNIX_S] [attempts N] [timeout S] [expires S] [expires_at UNIX_S]
--     [result_ttl S] [channel C] [serial S] [limit N] [version N] [version_epoch E] → [id, 1 if it was enqueued now]
--   DATA is JSON. Seconds may have decimals. A `key` that a job has which waits or runs: that job's id, and 0. An `id` of a job that the
--   queue holds, or a `version` of its epoch that is not newer than the last: 0; so a producer may repeat what it got no answer to.
--   `expires`: a job that did not start so long after it was due is a dead letter; `expires_at`: one that did not start by then, which may
--   be over. Raises QUEUEFULL where the queue holds `limit` jobs.
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
  local result_ttl = bounded(options, 'result_ttl', 0, 0, 2592000)
  local limit = bounded(options, 'limit', JOB.limit, 1, 1e12, true)
  local now = now_ms()
  local at = bounded(options, 'at', now / 1000, 0, now / 1000 + JOB.seconds)

  local epoch, id = options.version_epoch or '', options.id
  local newest = options.version and string.match(redis.call('HGET', keys[1], 'v:' .. epoch) or '', '^%d+')
  if newest and not greater(options.version, newest) then
    return {options.key and redis.call('HGET', keys[K.keys], options.key) or id or '', 0}
  end
  local same = options.key and redis.call('HGET', keys[K.keys], options.key)
  if same and redis.call('HEXISTS', keys[K.jobs], same) == 1 then id = same end
  if id and redis.call('HEXISTS', keys[K.jobs], id) == 1 then
    if options.version then keep_job_version(keys, options.version, epoch, now) end
    return {id, 0}
  end
  refuse_full(keys, limit)

  id = id or new_epoch() .. '-' .. redis.call('HINCRBY', keys[1], 'seq', 1)
  local due = math.max(now, math.floor(at * 1000)) + math.floor(delay * 1000)
  if last == 0 and expires > 0 then last = due + math.ceil(expires * 1000) end
  local first, texts = true, {'"name":' .. cjson.encode(name)}
  if options.key then table.insert(texts, '"key":' .. cjson.encode(options.key)) end
  if options.channel then table.insert(texts, '"channel":' .. cjson.encode(options.channel)) end
  if options.serial then
    local seq
    first, seq = join_serial(keys, options.serial, id)
    table.insert(texts, '"serial":' .. cjson.encode(options.serial) .. ',"seq":' .. number(seq))
  end
  local job = string.format(
    '{"priority":%d,"attempts":%d,"expires":%.0f,"due":%.0f,"result_ttl":%.14g,"timeout":%.14g,"enqueued":%.0f,%s,"data":%s}',
    priority, attempts, last, due, result_ttl, timeout, now, table.concat(texts, ','), data)
  redis.call('HSET', keys[K.jobs], id, job)
  if options.key then redis.call('HSET', keys[K.keys], options.key, id) end
  if options.version then keep_job_version(keys, options.version, epoch, now) end
  count(keys, 'enqueued')
  if first then place(keys, id, priority, due, now) end
  return {id, 1}
end

-- Taking.

local function check_worker(keys, args, least)
  if not string.find(args[1] or '', '^[%w%-_.:]+$') or #args[1] > 100 then
    error({err = 'GATEWAY a worker is 1 to 100 letters, digits, - _ . and :'})
  end
  check_queue(keys, args[1])
  local lease = least and tonumber(args[2])
  if least and (not lease or lease < least or lease > 3600000) then
    error({err = 'GATEWAY a lease is ' .. JOB.lease .. ' to 3600000 milliseconds'})
  end
  return args[1], lease
end

-- Puts the delayed jobs that are due among the ready ones.
local function ripen(keys, now)
  local due = redis.call('ZRANGEBYSCORE', keys[K.delayed], '-inf', number(now), 'LIMIT', 0, JOB.page)
  for _, id in ipairs(due) do
    local head = head_of(redis.call('HGET', keys[K.jobs], id) or nil)
    redis.call('LPUSH', keys[K.ready + (head and head.priority or 0)], id)
  end
  if #due > 0 then redis.call('ZREM', keys[K.delayed], unpack(due)) end
end

-- The priority whose turn it is: the highest that has jobs; of each eight picks one begins with another priority, all in turn, so that
-- none starves. nil if there are no jobs.
local function pick(waiting, turn)
  local from, step = 9, -1
  if turn % 8 == 0 then from, step = (turn / 8) % 10, 1 end
  for i = 0, 9 do
    local priority = (from + i * step) % 10
    if waiting[priority] > 0 then return priority end
  end
end

-- Whether a name may start now (GCRA: `next` is when the one after it would be due at an even pace); counts it if so.
local function may_start(keys, name, rate, now)
  local field = 'next:' .. name
  rate.next = rate.next or tonumber(redis.call('HGET', keys[1], field) or nil) or 0
  local due = math.max(rate.next, now)
  local wait = due - (rate.burst - 1) * rate.every - now
  return wait <= 0, due + rate.every, math.ceil(wait)
end

local function advance(keys, name, rate, to)
  rate.next = to
  redis.call('HSET', keys[1], 'next:' .. name, string.format('%.3f', to))
end

local function rates_of(args)
  local rates = {}
  for i = 4, #args, 3 do
    local every, burst = tonumber(args[i + 1]), tonumber(args[i + 2])
    if not every or every <= 0 or every > 86400000 or not burst or burst < 1 then
      error({err = 'GATEWAY a rate is NAME, milliseconds from one start to the next, and how many may start at once'})
    end
    rates[args[i]] = {every = every, burst = burst}
  end
  return rates
end

-- Takes one id from a list; returns what the worker is given, or nil if the job is not to be run now.
local function take_one(keys, id, worker, now, rates, index)
  local job = redis.call('HGET', keys[K.jobs], id) or nil
  local head = head_of(job)
  if not head then
    if redis.call('ZSCORE', keys[K.running], id) == false then bury_stray(keys, id, now, index) end
    return nil
  end
  if redis.call('ZADD', keys[K.running], 'NX', number(now), id) == 0 then return nil end  -- its id was in the lists twice
  local token, failures, crashes, flags = run_of(keys, id)
  if head.expires > 0 and head.expires < now then
    note_failure(keys, id, failures + crashes + 1, worker, 'it expired before a worker took it', now)
    bury(keys, id, head, now, 'expired')
    return nil
  end
  local rate = rates[head.name]
  if rate and not string.find(flags, 'p', 1, true) then
    local may, after, wait = may_start(keys, head.name, rate, now)
    advance(keys, head.name, rate, after)
    if not may then  -- its start is reserved: it waits until then, and is not counted again
      redis.call('ZREM', keys[K.running], id)
      redis.call('ZADD', keys[K.delayed], number(now + wait), id)
      set_run(keys, id, token, failures, crashes, flags .. 'p')
      return nil
    end
  end
  set_run(keys, id, token + 1, failures, crashes, (string.gsub(flags, 'p', '')))
  redis.call('LPUSH', keys[K.taken], id)
  if token == 0 then
    count(keys, 'started')
    count(keys, 'start_ms', number(math.max(0, now - head.due)))
  end
  return {id, token + 1, job, failures, crashes}
end

-- gateway_take KEYS taken:W  W LEASE_MS MOST [NAME EVERY_MS BURST]… → [ms, [id, token, job, failures, crashes] …]
--   Moves up to MOST ready jobs to the list of worker W, whose lease is LEASE_MS from now on. `ms`: after so long there may be a job that is
--   not ready now, -1 if none is known; what comes unforeseen is announced. NAME EVERY_MS BURST limits how often jobs of that name start
--   over all workers, NAME '' how often any job does.
-- Atomic, because a job must be in the worker's list, with its lease, at the moment at which it leaves the ready ones.
local function gateway_take(keys, args)
  local worker, lease = check_worker(keys, args, JOB.lease)
  local most = tonumber(args[3])
  if not most or most < 0 or most > JOB.page then
    error({err = 'GATEWAY a worker takes 0 to ' .. JOB.page .. ' jobs'})
  end
  local rates, now = rates_of(args), now_ms()
  redis.call('ZADD', keys[K.workers], number(now + lease), worker)
  ripen(keys, now)

  local waiting, taken, looked, wait = {}, {}, 0, nil
  for priority = 0, 9 do waiting[priority] = redis.call('LLEN', keys[K.ready + priority]) end
  local turn = tonumber(redis.call('HGET', keys[1], 'picks') or nil) or 0
  local all, after = rates[''], nil
  while #taken < most and looked < JOB.page do
    local priority = pick(waiting, turn + 1)
    if not priority then break end
    if all then
      local may
      may, after, wait = may_start(keys, '', all, now)
      if not may then break end
      wait = nil
    end
    turn, looked = turn + 1, looked + 1
    waiting[priority] = waiting[priority] - 1
    local id = redis.call('RPOP', keys[K.ready + priority])
    local job = id and take_one(keys, id, worker, now, rates, looked)
    if job then
      table.insert(taken, job)
      if all then advance(keys, '', all, after) end
    end
  end
  if looked > 0 then
    redis.call('HSET', keys[1], 'picks', number(turn % 80000))
    count(keys, 'taken', #taken)
  end
  if #taken < most then redis.call('HSET', keys[1], 'hungry', 1) end
  local first = redis.call('ZRANGE', keys[K.delayed], 0, 0, 'WITHSCORES')
  if first[2] then wait = math.min(wait or math.huge, math.max(0, tonumber(first[2]) - now)) end
  if looked >= JOB.page then wait = 0 end
  return {wait and math.ceil(wait) or -1, unpack(taken)}
end

-- Whether the worker still has this run of the job; removes it from its list then.
local function still_has(keys, id, token)
  local current, failures, crashes, flags = run_of(keys, id)
  if current ~= tonumber(token) or redis.call('LREM', keys[K.taken], 1, id) == 0 then return false end
  return true, failures, crashes, flags
end

-- gateway_finish KEYS taken:W  W [ID TOKEN RESULT]… → [1 or 0 …]
--   Ends jobs that were done. RESULT is JSON, stored if the job asks for it, '' for none. 0: the worker has not this run of the job any more,
--   because its lease was over; nothing is changed.
-- Atomic, because the token, the job's end and the start of the next one with its serial key must be of one moment.
local function gateway_finish(keys, args)
  check_worker(keys, args)
  local now, answers = now_ms(), {}
  for i = 2, #args, 3 do
    local id, result = args[i], args[i + 2] or ''
    local has, failures = still_has(keys, id, args[i + 1])
    table.insert(answers, has and 1 or 0)
    if has then
      local head = head_of(redis.call('HGET', keys[K.jobs], id) or nil)
      local began = tonumber(redis.call('ZSCORE', keys[K.running], id) or nil) or now
      redis.call('HDEL', keys[K.jobs], id)
      redis.call('HDEL', keys[K.runs], id)
      redis.call('ZREM', keys[K.running], id)
      if failures > 0 then redis.call('HDEL', keys[K.failures], id) end
      if head then
        release(keys, id, head, now)
        keep_result(keys, id, head, '{"result":' .. (result ~= '' and json_of(result) and result or 'null') .. '}', now)
      end
      count(keys, 'finished')
      count(keys, 'finish_ms', number(math.max(0, now - began)))
    end
  end
  expire_results(keys, now)
  return answers
end

-- gateway_fail KEYS taken:W  W ID TOKEN REASON RETRY_MS → 'retried', 'dead', 'cancelled', or 'refused' as of gateway_finish
--   Ends a run that failed. The job is tried again after RETRY_MS, if that is not '' and it has attempts left; else it is a dead letter.
-- Atomic, because attempts are counted, and the job must be in one place.
local function gateway_fail(keys, args)
  local worker = check_worker(keys, args)
  local id, reason, retry, now = args[2], args[4] or '', tonumber(args[5] or nil), now_ms()
  local has, failures, crashes, flags = still_has(keys, id, args[3])
  if not has then return 'refused' end
  local head = head_of(redis.call('HGET', keys[K.jobs], id) or nil)
  if not head then
    forget(keys, id)
    return 'dead'
  end
  if string.find(flags, 'c', 1, true) then
    cancel(keys, id, head, now)
    return 'cancelled'
  end
  note_failure(keys, id, failures + crashes + 1, worker, reason, now)
  failures = failures + 1
  if not retry or failures >= head.attempts then
    bury(keys, id, head, now, reason)
    return 'dead'
  end
  set_run(keys, id, tonumber(args[3]), failures, crashes, flags)
  redis.call('ZREM', keys[K.running], id)
  place(keys, id, head.priority, now + math.min(math.max(0, math.floor(retry)), JOB.seconds * 1000), now)
  count(keys, 'retried')
  return 'retried'
end

-- Puts a job that was not run to its end where it is the next to be taken, or ends it if it was cancelled.
local function give_back(keys, id, head, token, failures, crashes, flags, now)
  if string.find(flags, 'c', 1, true) then
    cancel(keys, id, head, now)
    return
  end
  set_run(keys, id, token, failures, crashes, flags)
  redis.call('ZREM', keys[K.running], id)
  place(keys, id, head.priority, now, now, true)
end

-- gateway_give_back KEYS taken:W  W [ID TOKEN]… → [1 or 0 …]. A worker that stops gives back what it has not done: it counts as no attempt.
-- Atomic, because a job must be in one place.
local function gateway_give_back(keys, args)
  check_worker(keys, args)
  local now, answers = now_ms(), {}
  for i = 2, #args, 2 do
    local id, token = args[i], args[i + 1]
    local has, failures, crashes, flags = still_has(keys, id, token)
    local head = has and head_of(redis.call('HGET', keys[K.jobs], id) or nil)
    if head then
      give_back(keys, id, head, tonumber(token), failures, crashes, flags, now)
      count(keys, 'given_back')
    end
    table.insert(answers, has and 1 or 0)
  end
  return answers
end

-- gateway_held KEYS taken:W  W [ID TOKEN]… → how many jobs were given back: those in the list of W that it does not name. A call whose answer
--   was lost may have put them there.
-- Atomic, because W may take at any moment.
local function gateway_held(keys, args)
  check_worker(keys, args)
  local now, held, given = now_ms(), {}, 0
  for i = 2, #args, 2 do held[args[i]] = args[i + 1] end
  for _, id in ipairs(redis.call('LRANGE', keys[K.taken], 0, -1)) do
    local token, failures, crashes, flags = run_of(keys, id)
    if held[id] ~= number(token) then
      redis.call('LREM', keys[K.taken], 1, id)
      local head = head_of(redis.call('HGET', keys[K.jobs], id) or nil)
      if head and redis.call('ZSCORE', keys[K.running], id) then
        give_back(keys, id, head, token, failures, crashes, flags, now)
        given = given + 1
      end
    end
  end
  count(keys, 'given_back', given)
  return given
end

-- gateway_park KEYS taken:W  W ID TOKEN SERIAL → 1: run it; 0: it waits for those of its serial key before it; -1: refused as of gateway_finish
--   Gives a serial key to a job that was enqueued without one. It waits without the worker, and counts as no attempt.
-- Atomic, because of several workers only one may have the first job of a serial key.
local function gateway_park(keys, args)
  check_worker(keys, args)
  local id, token, serial, now = args[2], tonumber(args[3]), args[4], now_ms()
  if not is_text(serial, JOB.text) then
    error({err = 'GATEWAY serial is a text of 1 to ' .. JOB.text .. ' bytes without control characters'})
  end
  local current, failures, crashes, flags = run_of(keys, id)
  local job = redis.call('HGET', keys[K.jobs], id) or nil
  local head = head_of(job)
  if current ~= token or not head or redis.call('ZSCORE', keys[K.running], id) == false then return -1 end
  if head.serial then return 1 end
  local first, seq = join_serial(keys, serial, id)
  local cut = string.find(job, ',"data":', 1, true)
  job = string.sub(job, 1, cut - 1) .. ',"serial":' .. cjson.encode(serial) .. ',"seq":' .. number(seq) .. string.sub(job, cut)
  redis.call('HSET', keys[K.jobs], id, job)
  if first then return 1 end
  redis.call('LREM', keys[K.taken], 1, id)
  set_run(keys, id, token, failures, crashes, flags)
  redis.call('ZREM', keys[K.running], id)
  return 0
end

-- Leases.

local function give_all_back(keys, now)
  for _, id in ipairs(redis.call('LRANGE', keys[K.taken], 0, -1)) do
    local head = head_of(redis.call('HGET', keys[K.jobs], id) or nil)
    local token, failures, crashes, flags = run_of(keys, id)
    if head then give_back(keys, id, head, token, failures, crashes, flags, now) end
  end
  redis.call('DEL', keys[K.taken])
end

-- gateway_renew KEYS taken:W  W LEASE_MS → [1 if the worker had a lease, ms until the next lease of another worker ends or -1, worker whose lease is over …]
--   0: its lease was over and its jobs went to others; it has a new one. LEASE_MS 0 ends the lease, and gives back what it still has.
-- Atomic, because Valkey's clock alone decides when a lease is over.
local function gateway_renew(keys, args)
  local worker, lease = check_worker(keys, args, 0)
  local now = now_ms()
  local known = redis.call('ZSCORE', keys[K.workers], worker) and 1 or 0
  if lease == 0 then
    give_all_back(keys, now)
    redis.call('ZREM', keys[K.workers], worker)
    return {known, -1}
  end
  redis.call('ZADD', keys[K.workers], number(now + math.max(lease, JOB.lease)), worker)
  expire_results(keys, now)
  local answer = {known, -1}
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', keys[K.workers], '-inf', '(' .. number(now), 'LIMIT', 0, 100)) do
    table.insert(answer, other)
  end
  local ends = redis.call('ZRANGEBYSCORE', keys[K.workers], number(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
  for i = 1, #ends, 2 do
    if ends[i] ~= worker and answer[2] < 0 then answer[2] = math.ceil(tonumber(ends[i + 1]) - now) + 1 end
  end
  return answer
end

-- gateway_reclaim KEYS taken:W  W → how many jobs of worker W, whose lease is over, may be taken by others now; those that crashed too
--   many workers are dead letters. 0 if W renewed its lease.
-- Atomic, because W may come back at any moment.
local function gateway_reclaim(keys, args)
  local worker = check_worker(keys, args)
  local now = now_ms()
  local ends = tonumber(redis.call('ZSCORE', keys[K.workers], worker) or nil)
  if ends and ends >= now then return 0 end
  local ids = redis.call('LRANGE', keys[K.taken], 0, -1)
  for _, id in ipairs(ids) do
    local head = head_of(redis.call('HGET', keys[K.jobs], id) or nil)
    local token, failures, crashes, flags = run_of(keys, id)
    if head and redis.call('ZSCORE', keys[K.running], id) then
      crashes = crashes + 1
      note_failure(keys, id, failures + crashes, worker, 'the lease of its worker ended: the worker died, or could not renew it', now)
      if crashes >= JOB.crashes and not string.find(flags, 'c', 1, true) then
        bury(keys, id, head, now, 'it ended ' .. crashes .. ' workers')
      else
        give_back(keys, id, head, token, failures, crashes, flags, now)
      end
      count(keys, 'crashed')
    end
  end
  redis.call('DEL', keys[K.taken])
  redis.call('ZREM', keys[K.workers], worker)
  return #ids
end

redis.register_function('gateway_enqueue', gateway_enqueue)
redis.register_function{function_name = 'gateway_take', callback = gateway_take, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_finish', callback = gateway_finish, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_fail', callback = gateway_fail, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_give_back', callback = gateway_give_back, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_held', callback = gateway_held, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_park', callback = gateway_park, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_renew', callback = gateway_renew, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reclaim', callback = gateway_reclaim, flags = {'allow-oom'}}
