-- Work queues: the life of a job, from enqueue to its end. It follows channels.lua in the library.
--
-- Keys of queue Q, always all 22 and in this order (one hash slot; every key a function touches is declared):
--   gw:queue:{Q}            hash: counters (enqueued, taken, started, finished, retried, dead, cancelled, crashed, given_back, strays, sent_again;
--                           start_ms and finish_ms are sums), seq (the last number of an id, or of the order of a serial key),
--                           picks (counts the jobs that were taken, so that each priority has its turn), hungry (there while a worker has room for
--                           more jobs than it found, so that the next is announced), next:NAME (when a limited name may start again),
--                           pace:NAME (the same by those that started, where next counts the reserved ones), v:EPOCH, cron:NAME (the
--                           expression and time zone of the ticks that are the versions of v:cron:NAME)
--   gw:queue:{Q}:jobs       hash: id → the job, a JSON object that begins with its numbers and ends with its data
--   gw:queue:{Q}:runs       hash: id → 'TOKEN FAILURES CRASHES FLAGS WORKER' of a job that was taken; the worker is '' while it does not run;
--                           flags: c it was cancelled while it ran, p its start is reserved within the limit of its name
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
-- atomic act, so nothing is ever only in a process. A worker's lease covers all that it took. Each run of a job has a token, which no other run
-- of it has; the worker that ends the run names it, so that a worker whose lease was over cannot end another run (fencing).
--
-- Another program may have written to these keys. A key of a wrong type raises WRONGTYPE, and nothing is lost: each function first reads
-- every key that it needs, and removes an id from its list last. An entry that is the id of no job becomes a dead letter.

local QUEUE_NAMES = {'jobs', 'runs', 'failures', 'keys', 'delayed', 'running', 'dead', 'workers', 'serial', 'results', 'expiring'}
local K = {ready = 13, taken = 23}  -- which key it is; ready:P is keys[K.ready + P]. There is no ipairs while the library is loaded.
for i = 1, #QUEUE_NAMES do K[QUEUE_NAMES[i]] = i + 1 end
for priority = 0, 9 do QUEUE_NAMES[12 + priority] = 'ready:' .. priority end

local JOB = {
  data = 1048576,         -- bytes of a job's data, and of a result
  checked = 65536,        -- bytes up to which these are checked to be JSON: 1 MiB takes up to 0.4 s, in which Valkey serves no other client
  text = 200,             -- bytes of a name, a unique key, a serial key
  error = 4000,           -- bytes of a failure's reason
  failures = 20,          -- failures of a job that are remembered, the newest ones
  crashes = 3,            -- workers that a job may crash before it is a dead letter
  mended = 60000,         -- ms until a worker's list is looked at again that is of a wrong type
  apart = 50,             -- ms between jobs that ended two workers, when they are looked at again, where a worker runs another one
  limit = 1000000,        -- jobs that a queue holds, dead letters included, unless its producers say otherwise
  seconds = 315360000,    -- ten years: the longest delay
  page = 1000,            -- jobs of which one call disposes
  named = 10000,          -- jobs that a worker names in one call
  batch = 32,             -- jobs that are read at a time
  read = 1048576,         -- bytes of jobs that are read at a time, if they are as large as those before them
  reply = 8388608,        -- bytes of jobs in one reply, unless the first is larger, and of those that one call disposes of
  lease = 100,            -- ms, the shortest lease
  longest_lease = 3600000, -- ms
  ranges = 2000,          -- bytes in which the numbers of jobs are remembered that a producer has yet to send again, the newest ones
  clock = 1000,           -- ms by which the clock may be set back, at which a rate goes on as if it were not
  set_back = 600000,      -- ms by which a clock was set back at least, where ticks that were enqueued come again
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
  if text == nil or text == '' or #text > most then return false end
  return not string.find(text, '[^\32-\126]') or (not string.find(text, '[%z\1-\31\127]') and is_utf8(text))
end

local function quoted(text)
  return string.find(text, '[^%w%-_.: ]') and cjson.encode(text) or '"' .. text .. '"'
end

-- Counts an event of the queue. What another program wrote instead of a number does not end the work.
local function count(keys, name, by)
  redis.pcall('HINCRBY', keys[1], name, by or 1)
end

local function whole(text)
  local value = tonumber(text or nil)
  return is_count(value) and value or 0
end

local function next_seq(keys, least)
  local seq = redis.pcall('HINCRBY', keys[1], 'seq', 1)
  if type(seq) == 'number' and is_count(seq) and seq > (least or 0) then return seq end
  seq = (least or 0) + 1
  redis.call('HSET', keys[1], 'seq', number(seq))
  return seq
end

-- The numbers with which each job begins, and where its texts begin. They are read without cjson, which takes several times as long.
local NUMBERS = '^{"priority":(%d),"attempts":(%d+),"expires":(%d+),"due":(%d+),"result_ttl":([%d.]+),"timeout":[%d.]+,"enqueued":%d+,()"name":'

-- When a plain job was due: one that has no key and no serial key, does not expire, and whose result is not stored. Most are plain, and
-- nothing else of them matters to the functions. nil if it is not plain.
local PLAIN = '^{"priority":%d,"attempts":%d+,"expires":0,"due":(%d+),"result_ttl":0,"timeout":[%d.]+,"enqueued":%d+,"name":"[^"\\]*","data":'

local function plain_due(job)
  return job and string.match(job, PLAIN)
end

-- The fields of a job but its data; nil if that is no job.
local function head_of(job)
  if not job then return nil end
  local priority, attempts, expires, due, result_ttl, texts = string.match(job, NUMBERS)
  local head = {
    priority = tonumber(priority), attempts = tonumber(attempts), expires = tonumber(expires), due = tonumber(due), result_ttl = tonumber(result_ttl),
  }
  if not head.result_ttl then return nil end
  head.name = string.match(job, '^"name":"([^"\\]*)","data":', texts)
  if head.name then return head end

  local cut = string.find(job, ',"data":', texts, true)
  if not cut then return nil end
  local fine, fields = pcall(cjson.decode, '{' .. string.sub(job, texts, cut - 1) .. '}')
  if not fine or type(fields.name) ~= 'string' then return nil end
  for _, name in ipairs({'name', 'key', 'serial'}) do
    if fields[name] ~= nil and type(fields[name]) ~= 'string' then return nil end
    head[name] = fields[name]
  end
  head.seq = tonumber(fields.seq) or 0
  return head
end

local function job_of(keys, id)
  local job = redis.call('HGET', keys[K.jobs], id) or nil
  return head_of(job), job
end

-- The run that runs holds for a job: token, failures, crashes, flags, worker.
local function read_run(text)
  if not text then return {token = 0, failures = 0, crashes = 0, flags = '', worker = ''} end
  local token, failures, crashes, flags, worker = string.match(text, '^(%d+) (%d+) (%d+) (%l*) ?([%w%-_.:]*)$')
  return {token = whole(token), failures = whole(failures), crashes = whole(crashes), flags = flags or '', worker = worker or ''}
end

local function run_of(keys, id)
  return read_run(redis.call('HGET', keys[K.runs], id) or nil)
end

local function run_text(run)
  return string.format('%.0f %.0f %.0f %s %s', run.token, run.failures, run.crashes, run.flags, run.worker)
end

local function is_cancelled(run)
  return string.find(run.flags, 'c', 1, true) ~= nil
end

-- Wakes the workers that found too little; they are announced to once, and take again.
local function wake(keys)
  if redis.pcall('HDEL', keys[1], 'hungry') == 1 then redis.call(ANNOUNCE, keys[1], '') end
end

-- Puts a job where it waits: delayed until it is due, or ready. `first`: it is the next of its priority to be taken. Returns whether
-- workers that wait are to be woken.
local function put(keys, id, priority, due, now, first)
  if due > now then
    redis.call('ZADD', keys[K.delayed], number(due), id)
    return redis.call('ZRANGE', keys[K.delayed], 0, 0)[1] == id
  end
  redis.call(first and 'RPUSH' or 'LPUSH', keys[K.ready + priority], id)
  return true
end

local function place(keys, id, priority, due, now, first)
  if put(keys, id, priority, due, now, first) then wake(keys) end
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

-- Whether a job is in none of the places of a queue: another program removed its id.
local function is_lost(keys, id, head)
  for _, place_name in ipairs({'running', 'delayed', 'dead'}) do
    if redis.call('ZSCORE', keys[K[place_name]], id) then return false end
  end
  return not redis.call('LPOS', keys[K.ready + head.priority], id)
end

-- The first job of a serial key, and its head; nil if there is none. A member that belongs to no job would hold up the others for ever:
-- it is removed, and the first job after it is placed.
local function serial_first(keys, serial, now)
  local stale = false
  for _ = 1, JOB.page do
    local member = redis.call('ZRANGEBYLEX', keys[K.serial], serial_range(serial, 1))[1]
    local id = member and serial_id(member)
    local head = id and job_of(keys, id)
    if head and head.serial == serial and serial_member(serial, head.seq, id) == member then
      if stale and is_lost(keys, id, head) then place(keys, id, head.priority, head.due, now, true) end
      return id, head
    end
    if not member then return nil end
    redis.call('ZREM', keys[K.serial], member)
    stale = true
  end
end

-- A job with a serial key joins the others of that key; returns whether it is the first of them, and the number that is its place.
local function join_serial(keys, serial, id, now)
  local first = serial_first(keys, serial, now) == nil
  local last = redis.call('ZREVRANGEBYLEX', keys[K.serial], '(' .. serial .. '\1', '[' .. serial .. '\0', 'LIMIT', 0, 1)[1]
  local seq = next_seq(keys, whole(last and string.match(last, '^[^%z]*%z(%d+):')))  -- after the last, even if the counter was removed
  redis.call('ZADD', keys[K.serial], 0, serial_member(serial, seq, id))
  return first, seq
end

-- Places the first of a serial key if it waits for no other. `is_next`: it was parked until now; else it may be where it belongs.
local function place_first(keys, serial, is_next, now)
  local id, head = serial_first(keys, serial, now)
  if not id then return end
  local elsewhere = redis.call('ZSCORE', keys[K.running], id) or redis.call('ZSCORE', keys[K.delayed], id)
  if not elsewhere and (is_next or is_lost(keys, id, head)) then place(keys, id, head.priority, head.due, now, true) end
end

-- Frees what a job holds while it waits or runs: its unique key, and its place among the jobs of its serial key.
local function release(keys, id, head, now)
  local holder = head.key and redis.call('HGET', keys[K.keys], head.key)
  if head.serial then
    local member = serial_member(head.serial, head.seq, id)
    local was_first = serial_first(keys, head.serial, now) == id
    if redis.call('ZREM', keys[K.serial], member) == 1 then
      local fine, fault = pcall(place_first, keys, head.serial, was_first, now)
      if not fine then
        redis.call('ZADD', keys[K.serial], 0, member)  -- nothing has happened
        error(fault)
      end
    end
  end
  if holder == id then redis.call('HDEL', keys[K.keys], head.key) end
end

local function keep_result(keys, id, head, result, now)
  if head.result_ttl <= 0 then return end
  redis.call('HSET', keys[K.results], id, result)
  redis.call('ZADD', keys[K.expiring], number(now + head.result_ttl * 1000), id)
  redis.call(ANNOUNCE, keys[1] .. ':results', id)
end

-- Removes the results whose time is over.
local function expire_results(keys, now)
  local over = redis.call('ZRANGEBYSCORE', keys[K.expiring], '-inf', number(now), 'LIMIT', 0, JOB.page)
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

-- The text in UTF-8 and of at most so many bytes; a character that would be cut is left out.
local function clean(text, most)
  if #text > most then text = string.gsub(string.sub(text, 1, most), '[\194-\244][\128-\191]*$', '') end
  return is_utf8(text) and text or (string.gsub(text, '[\128-\255]', '?'))
end

local function is_failure(failure)
  return type(failure) == 'table' and is_count(tonumber(failure.at)) and is_count(tonumber(failure.attempt))
    and type(failure.worker) == 'string' and type(failure.error) == 'string'
end

local function note_failure(keys, id, attempt, worker, reason, now)
  local fine, stored = pcall(cjson.decode, redis.call('HGET', keys[K.failures], id) or '[]')
  local failures = {}
  if fine and type(stored) == 'table' then
    for i = math.max(1, #stored - JOB.failures + 2), #stored do
      if is_failure(stored[i]) then table.insert(failures, stored[i]) end
    end
  end
  table.insert(failures, {at = now, attempt = attempt, worker = worker, error = clean(reason, JOB.error)})
  fine, stored = pcall(cjson.encode, failures)
  redis.call('HSET', keys[K.failures], id, fine and stored or cjson.encode({failures[#failures]}))
end

-- Makes a job a dead letter; it is kept with its failures until it is sent again or purged.
local function bury(keys, id, head, now, reason)
  release(keys, id, head, now)
  redis.call('ZADD', keys[K.dead], number(now), id)
  redis.call('ZREM', keys[K.running], id)
  redis.call('HDEL', keys[K.runs], id)
  keep_result(keys, id, head, '{"error":' .. cjson.encode(clean(reason, JOB.error)) .. '}', now)
  count(keys, 'dead')
end

-- Removes a job that was cancelled.
local function cancel(keys, id, head, now)
  release(keys, id, head, now)
  forget(keys, id)
  keep_result(keys, id, head, '{"error":"cancelled"}', now)
  count(keys, 'cancelled')
end

-- What another program pushed into a list, or wrote instead of a job, becomes a dead letter, so that nothing is dropped in silence.
local function bury_stray(keys, entry, job, now)
  local id = 'stray-' .. number(next_seq(keys))
  local text = string.format(
    '{"priority":0,"attempts":1,"expires":0,"due":%.0f,"result_ttl":0,"timeout":60,"enqueued":%.0f,"name":"?","data":%s}',
    now, now, cjson.encode(clean(job or entry, JOB.data)))
  note_failure(keys, id, 0, '', job and 'what the queue holds for this id is no job' or 'the list held what no function enqueued: the id of no job', now)
  redis.call('ZADD', keys[K.dead], number(now), id)
  redis.call('HSET', keys[K.jobs], id, text)
  forget(keys, entry)
  count(keys, 'strays')
  count(keys, 'dead')
end
