-- Work queues: what workers do. It follows jobs.lua, which describes the keys; the 23rd is the worker's own list, gw:queue:{Q}:taken:W.

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

redis.register_function{function_name = 'gateway_take', callback = gateway_take, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_finish', callback = gateway_finish, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_fail', callback = gateway_fail, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_give_back', callback = gateway_give_back, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_park', callback = gateway_park, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_renew', callback = gateway_renew, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reclaim', callback = gateway_reclaim, flags = {'allow-oom'}}
