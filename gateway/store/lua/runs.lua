-- Work queues: how a worker ends its runs. It follows jobs.lua, which describes the keys; the 23rd is the list of the worker,
-- gw:queue:{Q}:taken:W. What checks a worker, and what gives a job back, is used by taking.lua and leases.lua.

local function check_worker(keys, args, least)
  if not string.find(args[1] or '', '^[%w%-_.:]+$') or #args[1] > 100 then
    error({err = 'GATEWAY a worker is 1 to 100 letters, digits, - _ . and :'})
  end
  check_queue(keys, args[1])
  local lease = least and tonumber(args[2])
  if least and not (lease and lease >= least and lease <= JOB.longest_lease) then
    error({err = 'GATEWAY a lease is ' .. JOB.lease .. ' to ' .. JOB.longest_lease .. ' milliseconds'})
  end
  return args[1], lease
end

-- Raises if what follows the worker is not so many words for each job, of up to a page of jobs.
local function check_each(args, words, what)
  if (#args - 1) % words > 0 or #args - 1 > words * JOB.named then
    error({err = 'GATEWAY after the worker it takes ' .. what .. ' of each job, of up to ' .. JOB.named})
  end
end

-- The run, if the worker still has it; nil if not.
local function named_run(keys, worker, id, token)
  local run = run_of(keys, id)
  if run.token ~= tonumber(token) or run.worker ~= worker or not redis.call('ZSCORE', keys[K.running], id) then return nil end
  return run
end

-- The same with its job's head and the job, which is read whole.
local function run_held(keys, worker, id, token)
  local run = named_run(keys, worker, id, token)
  if not run then return nil end
  return run, job_of(keys, id)
end

-- Removes jobs from the worker's list, the last step of each end. `newest`: those that it took last are looked for first. A list of
-- thousands is read up to each of them.
local function untake(keys, ids, newest)
  if #ids > 4 and redis.call('LLEN', keys[K.taken]) == #ids then
    redis.call('DEL', keys[K.taken])
  else
    for _, id in ipairs(ids) do redis.call('LREM', keys[K.taken], newest and 1 or -1, id) end
  end
end

-- Ends up to a batch of jobs that were done: `from` is the first of them among the arguments. Returns how many, and their running time in ms.
local function finish_some(keys, args, from, now, answers)
  local ids, done, ms, stored = {}, {}, 0, false
  for i = from, math.min(from + 3 * JOB.batch, #args) - 1, 3 do table.insert(ids, args[i]) end
  local runs, jobs = redis.call('HMGET', keys[K.runs], unpack(ids)), redis.call('HMGET', keys[K.jobs], unpack(ids))
  local began, seen = redis.call('ZMSCORE', keys[K.running], unpack(ids)), {}
  for i, id in ipairs(ids) do
    local run, job = read_run(runs[i] or nil), jobs[i] or nil
    local has = run.token == tonumber(args[from + 3 * i - 2]) and run.worker == args[1] and began[i] and not seen[id]
    table.insert(answers, has and 1 or 0)
    if has then
      local result = args[from + 3 * i - 1]
      seen[id] = true
      table.insert(done, id)
      local head = not plain_due(job) and head_of(job)
      if head then release(keys, id, head, now) end
      if head and head.result_ttl > 0 then
        keep_result(keys, id, head, '{"result":' .. ((#result > JOB.checked or json_of(result)) and result or 'null') .. '}', now)
        stored = true
      end
      ms = ms + math.max(0, now - tonumber(began[i]))
    end
  end
  if #done == 0 then return 0, 0 end
  redis.call('HDEL', keys[K.failures], unpack(done))  -- also of one that was sent again, whose run has none
  redis.call('HDEL', keys[K.jobs], unpack(done))
  redis.call('HDEL', keys[K.runs], unpack(done))
  redis.call('ZREM', keys[K.running], unpack(done))
  untake(keys, done)
  if stored then expire_results(keys, now) end
  return #done, ms
end

-- gateway_finish KEYS taken:W  W [ID TOKEN RESULT]… → [1 or 0 …]
--   Ends up to 10000 jobs that were done. RESULT is JSON of up to 1 MiB (checked up to 64 KiB), stored if the job asks for it, '' for none.
--   0: the worker has not this run of the job any more, because its lease was over or this was called before; nothing is changed.
-- Atomic, because the token, the job's end and the start of the next one with its serial key must be of one moment.
local function gateway_finish(keys, args)
  check_worker(keys, args)
  check_each(args, 3, 'id, token and result')
  for i = 4, #args, 3 do
    if #args[i] > JOB.data then
      error({err = 'GATEWAY a result is JSON of up to ' .. JOB.data .. ' bytes'})
    end
  end
  local now, answers, finished, ms = now_ms(), {}, 0, 0
  for from = 2, #args, 3 * JOB.batch do
    local done, took = finish_some(keys, args, from, now, answers)
    finished, ms = finished + done, ms + took
  end
  if finished > 0 then
    count(keys, 'finished', finished)
    if ms > 0 then count(keys, 'finish_ms', number(ms)) end
  end
  return answers
end

-- Writes when a job that was taken is due anew: how long the oldest job has been due is counted from then on.
local function set_due(keys, id, due)
  local job = redis.call('HGET', keys[K.jobs], id)
  redis.call('HSET', keys[K.jobs], id, (string.gsub(job, '"due":%d+', '"due":' .. number(due), 1)))
end

-- gateway_fail KEYS taken:W  W ID TOKEN REASON RETRY_MS → 'retried', 'dead', 'cancelled', or 'refused' as of gateway_finish
--   Ends a run that failed. The job is tried again after RETRY_MS, if that is not '' and it has attempts left; else it is a dead letter.
-- Atomic, because attempts are counted, and the job must be in one place.
local function gateway_fail(keys, args)
  local worker = check_worker(keys, args)
  local id, reason, retry, now = args[2] or '', args[4] or '', tonumber(args[5] or nil), now_ms()
  if not retry and (args[5] or '') ~= '' then
    error({err = 'GATEWAY the time until a job is tried again is a number of milliseconds, or empty'})
  end
  local run, head, job = run_held(keys, worker, id, args[3])
  if not run then return 'refused' end
  local answer
  if not head then
    bury_stray(keys, id, job, now)
    answer = 'dead'
  elseif is_cancelled(run) then
    cancel(keys, id, head, now)
    answer = 'cancelled'
  else
    note_failure(keys, id, run.failures + run.crashes + 1, worker, reason, now)
    run.failures, run.worker = run.failures + 1, ''
    if not retry or run.failures >= head.attempts then
      bury(keys, id, head, now, reason)
      answer = 'dead'
    else
      local due = now + math.min(math.max(0, math.floor(retry)), JOB.seconds * 1000)
      place(keys, id, head.priority, due, now)
      set_due(keys, id, due)
      redis.call('HSET', keys[K.runs], id, run_text(run))
      redis.call('ZREM', keys[K.running], id)
      count(keys, 'retried')
      answer = 'retried'
    end
  end
  untake(keys, {id})
  return answer
end

-- Puts a job that was not run to its end where it is the next to be taken, or ends it if it was cancelled.
local function give_back(keys, id, head, run, now)
  if is_cancelled(run) then
    cancel(keys, id, head, now)
    return
  end
  run.worker = ''
  place(keys, id, head.priority, now, now, true)
  set_due(keys, id, now)
  redis.call('HSET', keys[K.runs], id, run_text(run))
  redis.call('ZREM', keys[K.running], id)
end

-- gateway_give_back KEYS taken:W  W [ID TOKEN]… → [1 or 0 …]. A worker that stops gives back what it has not done: it counts as no attempt.
-- Atomic, because a job must be in one place.
local function gateway_give_back(keys, args)
  local worker = check_worker(keys, args)
  check_each(args, 2, 'id and token')
  local now, answers = now_ms(), {}
  for i = 2, #args, 2 do
    local run, head, job = run_held(keys, worker, args[i], args[i + 1])
    if run then
      if head then give_back(keys, args[i], head, run, now) else bury_stray(keys, args[i], job, now) end
      untake(keys, {args[i]}, true)
      count(keys, 'given_back')
    end
    table.insert(answers, run and 1 or 0)
  end
  return answers
end

-- gateway_park KEYS taken:W  W ID TOKEN SERIAL → 1: run it; 0: it waits for those of its serial key before it; -1: refused as of
--   gateway_finish, or it was cancelled
--   Gives a serial key to a job that was enqueued without one. It waits without the worker, and counts as no attempt.
-- Atomic, because of several workers only one may have the first job of a serial key.
local function gateway_park(keys, args)
  local worker = check_worker(keys, args)
  local id, serial, now = args[2] or '', args[4], now_ms()
  if not is_text(serial, JOB.text) then
    error({err = 'GATEWAY serial is a text of 1 to ' .. JOB.text .. ' bytes without control characters'})
  end
  local run, head, job = run_held(keys, worker, id, args[3])
  if not run or not head then return -1 end
  if is_cancelled(run) then
    cancel(keys, id, head, now)
    untake(keys, {id})
    return -1
  end
  if head.serial then return 1 end
  local first, seq = join_serial(keys, serial, id, now)
  local cut = string.find(job, ',"data":', 1, true)
  job = string.sub(job, 1, cut - 1) .. ',"serial":' .. quoted(serial) .. ',"seq":' .. number(seq) .. string.sub(job, cut)
  redis.call('HSET', keys[K.jobs], id, job)
  if first then return 1 end
  run.worker = ''
  redis.call('HSET', keys[K.runs], id, run_text(run))
  redis.call('ZREM', keys[K.running], id)
  untake(keys, {id})
  return 0
end

redis.register_function{function_name = 'gateway_finish', callback = gateway_finish, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_fail', callback = gateway_fail, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_give_back', callback = gateway_give_back, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_park', callback = gateway_park, flags = {'allow-oom'}}
