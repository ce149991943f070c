-- Work queues: what workers do. It follows jobs.lua, which describes the keys; the 23rd is the list of the worker, gw:queue:{Q}:taken:W.

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

local BATCHES = {}  -- queue → how many jobs are read at a time, where they are large: each is read whole

-- So many jobs had so many bytes: that decides how many are read next.
local function note_size(keys, many, bytes)
  local fitting = math.max(1, math.floor(JOB.read * many / math.max(bytes, 1)))
  BATCHES[keys[1]] = fitting < JOB.batch and fitting or nil
end

-- Puts the delayed jobs that are due among the ready ones, until they pass JOB.reply. Returns ms until the next is due, nil if none is delayed.
local function ripen(keys, now)
  local first = redis.call('ZRANGE', keys[K.delayed], 0, 0, 'WITHSCORES')
  if not first[1] then return nil end
  if tonumber(first[2]) > now then return tonumber(first[2]) - now end
  local due = redis.call('ZRANGEBYSCORE', keys[K.delayed], '-inf', number(now), 'LIMIT', 0, JOB.page)
  local ripe, from, bytes = {}, 1, 0
  while from <= #due and bytes < JOB.reply do
    local last = math.min(from + (BATCHES[keys[1]] or JOB.batch) - 1, #due)
    local before = bytes
    for i, job in ipairs(redis.call('HMGET', keys[K.jobs], unpack(due, from, last))) do
      local priority = tonumber(string.match(job or '', '^{"priority":(%d),') or 0)
      ripe[priority] = ripe[priority] or {}
      table.insert(ripe[priority], due[from + i - 1])
      bytes = bytes + #(job or '')
    end
    note_size(keys, last + 1 - from, bytes - before)
    from = last + 1
  end
  for priority, ids in pairs(ripe) do
    redis.call('LPUSH', keys[K.ready + priority], unpack(ids))
    redis.call('ZREM', keys[K.delayed], unpack(ids))
  end
  first = redis.call('ZRANGE', keys[K.delayed], 0, 0, 'WITHSCORES')
  return first[1] and math.max(0, tonumber(first[2]) - now)
end

-- Rates.

local function rates_of(args)
  local rates = {}
  for i = 4, #args, 3 do
    local every, burst = tonumber(args[i + 1]), tonumber(args[i + 2])
    if not (every and every > 0 and every <= 86400000 and burst and burst >= 1 and burst <= 1000000) then
      error({err = 'GATEWAY a rate is NAME, milliseconds from one start to the next, and how many may start at once'})
    end
    local pace = {field = 'pace:' .. args[i], every = every, burst = burst + 1}  -- one more: a start may be late by what a call takes
    rates[args[i]] = {field = 'next:' .. args[i], every = every, burst = burst, pace = pace}
  end
  return rates
end

-- How long a job of this rate must wait for its start, 0 or less if it may start now (GCRA: `next` is when the start after it would be due at
-- an even pace), and the `next` after that start.
local function wait_of(keys, rate, now)
  rate.next = rate.next or tonumber(redis.call('HGET', keys[1], rate.field) or nil) or 0
  local due = math.max(math.min(rate.next, now + 31536000000), now)
  return math.ceil(due - (rate.burst - 1) * rate.every - now), due + rate.every
end

-- Taking.

-- How many jobs of each priority are ready, and of all together.
local function count_ready(keys)
  local waiting, all, lists = {}, 0, redis.call('EXISTS', unpack(keys, K.ready, K.ready + 9))
  for priority = 0, 9 do
    waiting[priority] = lists > 0 and redis.call('LLEN', keys[K.ready + priority]) or 0
    if waiting[priority] > 0 then lists = lists - 1 end
    all = all + waiting[priority]
  end
  return waiting, all
end

-- The priority whose turn it is: the highest that has jobs; each eighth pick begins with another priority, all in turn, and goes down from
-- there, so that none starves. nil if there are no jobs.
local function pick(waiting, turn)
  local from = turn % 8 == 0 and (turn / 8) % 10 or 9
  for i = 0, 9 do
    local priority = (from - i) % 10
    if waiting[priority] > 0 then return priority end
  end
end

-- The next ids that are ready, in the order in which they are taken, still in their lists; and how many of each priority.
local function next_ready(keys, turn, most)
  local waiting, all = count_ready(keys)
  local order, picked, pages, ids = {}, {}, {}, {}
  for i = 1, math.min(all, most) do
    local priority = pick(waiting, turn + i)
    waiting[priority] = waiting[priority] - 1
    picked[priority] = (picked[priority] or 0) + 1
    order[i] = priority
  end
  for priority, many in pairs(picked) do pages[priority] = redis.call('LRANGE', keys[K.ready + priority], -many, -1) end
  for i, priority in ipairs(order) do ids[i] = table.remove(pages[priority]) end
  return ids, order, picked
end

-- What one gateway_take knows and gathers. Lists that are written to Valkey together: `scores` (running), `runs`, `ids`.
local function begin_taking(keys, worker, most, rates, now)
  local known = redis.call('HMGET', keys[1], 'picks', 'taken', 'started', 'start_ms')
  return {
    keys = keys, worker = worker, most = most, rates = rates, now = now, score = number(now), turn = whole(known[1]),
    token = whole(known[2]), started = whole(known[3]), start_ms = whole(known[4]), looked = 0, bytes = 0, answer = {}, changed = {}, unlimited = next(rates) == nil,
  }
end

local function advance(taking, rate, to)
  rate.next = to
  taking.changed[rate.field] = string.format('%.3f', to)
end

-- Disposes of an id that is ready and is not to be run now; false if it is. `running`: its id was in the lists twice.
local function dispose(taking, id, head, job, run, running)
  local keys, now = taking.keys, taking.now
  if not head then
    bury_stray(keys, id, job, now)
    return true
  end
  if running then return true end
  if head.expires > 0 and head.expires < now then
    note_failure(keys, id, run.failures + run.crashes + 1, taking.worker, 'it expired before a worker took it', now)
    bury(keys, id, head, now, 'expired')
    taking.delayed = true  -- the next of its serial key may be
    return true
  end
  local rate = taking.rates[head.name]
  if not rate then return false end
  local reserved = string.find(run.flags, 'p', 1, true)
  local wait, paced = wait_of(keys, rate.pace, now)
  if wait > 0 or not reserved then  -- many that are reserved may be late, where no worker had room: then the start is reserved anew
    local until_next, after = wait_of(keys, rate, now)
    advance(taking, rate, after)
    wait = math.max(wait, until_next)
  end
  if wait <= 0 then
    advance(taking, rate.pace, paced)
    return false
  end
  if not reserved then run.flags = run.flags .. 'p' end  -- its start is reserved: it waits until then, and is not counted again
  redis.call('ZADD', keys[K.delayed], number(now + wait), id)
  redis.call('HSET', keys[K.runs], id, run_text(run))
  taking.delayed = true
  return true
end

-- Gives the job to the worker, in the lists that are written after the round.
local function give(taking, round, id, head, job, run)
  taking.token = taking.token + 1
  if run.token == 0 then
    taking.started = taking.started + 1
    taking.start_ms = taking.start_ms + math.max(0, taking.now - head.due)
  end
  run.token, run.flags, run.worker = taking.token, string.gsub(run.flags, 'p', ''), taking.worker
  local n = #round.ids
  round.ids[n + 1] = id
  round.scores[2 * n + 1], round.scores[2 * n + 2] = taking.score, id
  round.runs[2 * n + 1], round.runs[2 * n + 2] = id, run_text(run)
  table.insert(taking.answer, {id, run.token, job, run.failures, run.crashes})
end

-- Whether no more may be taken in this call: what was read is large enough, or the limit over all names is reached.
local function is_enough(taking, job)
  if taking.bytes > 0 and taking.bytes + #job > JOB.reply then
    taking.wait = 0
    return true
  end
  local all = taking.rates['']
  if not all then return false end
  local wait
  wait, all.after = wait_of(taking.keys, all, taking.now)
  if wait <= 0 then return false end
  taking.wait = wait
  return true
end

-- Takes up to a batch of jobs. Returns whether there may be more. The ids leave the ready lists last: if anything raises, they are still there.
local function take_round(taking)
  local keys = taking.keys
  local ids, order, picked = next_ready(keys, taking.turn, math.min(BATCHES[keys[1]] or JOB.batch, taking.most - #taking.answer))
  if #ids == 0 then return false end
  local jobs, runs = redis.call('HMGET', keys[K.jobs], unpack(ids)), redis.call('HMGET', keys[K.runs], unpack(ids))
  local running = redis.call('ZMSCORE', keys[K.running], unpack(ids))
  local round, gone, seen, plain, enough, before = {ids = {}, scores = {}, runs = {}}, 0, {}, true, false, taking.bytes
  for i, id in ipairs(ids) do
    local job, run = jobs[i] or nil, read_run(runs[i] or nil)
    enough = is_enough(taking, job or '')
    if enough then break end
    gone, taking.bytes = i, taking.bytes + #(job or '')
    local due = taking.unlimited and plain_due(job)
    local head = due and {expires = 0, due = tonumber(due)} or head_of(job)
    if dispose(taking, id, head, job, run, running[i] or seen[id]) then
      redis.call('LREM', keys[K.ready + order[i]], -1, id)
      order[i], plain = nil, false
      if head and head.serial then break end  -- the next of its serial key may be ready now, before the others
    else
      give(taking, round, id, head, job, run)
      if taking.rates[''] then advance(taking, taking.rates[''], taking.rates[''].after) end
    end
    seen[id] = true
  end
  taking.turn, taking.looked = taking.turn + gone, taking.looked + gone
  if gone > 0 then note_size(keys, gone, taking.bytes - before) end
  if #round.ids > 0 then
    redis.call('LPUSH', keys[K.taken], unpack(round.ids))
    redis.call('ZADD', keys[K.running], unpack(round.scores))
    redis.call('HSET', keys[K.runs], unpack(round.runs))
    -- Where another program made a job ready that was delayed or dead:
    if taking.some_delayed then redis.call('ZREM', keys[K.delayed], unpack(round.ids)) end
    redis.call('ZREM', keys[K.dead], unpack(round.ids))
  end
  if plain and gone == #ids then
    for priority, many in pairs(picked) do redis.call('RPOP', keys[K.ready + priority], many) end
  else
    for i = 1, gone do
      if order[i] then redis.call('LREM', keys[K.ready + order[i]], -1, ids[i]) end
    end
  end
  return not enough
end

-- gateway_take KEYS taken:W  W LEASE_MS MOST [NAME EVERY_MS BURST]… → [ms, [id, token, job, failures, crashes] …]
--   Moves up to MOST ready jobs to the list of worker W, whose lease is LEASE_MS from now on; fewer if they are large. `ms`: after so long
--   there may be a job that is not ready now, -1 if none is known; what comes unforeseen is announced. NAME EVERY_MS BURST limits how often
--   jobs of that name start over all workers, NAME '' how often any job does. A worker that did not get the answer calls gateway_held.
-- Atomic, because a job must be in the worker's list, with its lease, at the moment at which it leaves the ready ones.
local function gateway_take(keys, args)
  local worker, lease = check_worker(keys, args, JOB.lease)
  local most = tonumber(args[3])
  if not is_count(most) or most > JOB.page then
    error({err = 'GATEWAY a worker takes 0 to ' .. JOB.page .. ' jobs'})
  end
  local rates, now = rates_of(args), now_ms()
  redis.call('ZADD', keys[K.workers], number(now + lease), worker)
  local wait = ripen(keys, now)
  local taking = begin_taking(keys, worker, most, rates, now)
  taking.some_delayed = wait ~= nil
  local more = true
  while more and #taking.answer < most and taking.looked < JOB.page do more = take_round(taking) end

  local changed = {'picks', number(taking.turn % 80000)}
  local function change(name, value)
    table.insert(changed, name)
    table.insert(changed, value)
  end
  if #taking.answer > 0 then
    change('taken', number(taking.token))
    change('started', number(taking.started))
    change('start_ms', number(taking.start_ms))
  end
  if #taking.answer < most then change('hungry', '1') end
  for field, next_start in pairs(taking.changed) do change(field, next_start) end
  redis.call('HSET', keys[1], unpack(changed))

  if taking.delayed then wait = ripen(keys, now) end
  if taking.looked >= JOB.page then wait = 0 end
  if taking.wait then wait = math.min(wait or taking.wait, taking.wait) end
  return {wait and math.ceil(math.min(wait, JOB.longest_lease)) or -1, unpack(taking.answer)}
end

-- Ending a run.

-- The run, its job's head and the job, if the worker still has this run; nil if not.
local function run_held(keys, worker, id, token)
  local run = run_of(keys, id)
  if run.token ~= tonumber(token) or run.worker ~= worker or not redis.call('ZSCORE', keys[K.running], id) then return nil end
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
      place(keys, id, head.priority, now + math.min(math.max(0, math.floor(retry)), JOB.seconds * 1000), now)
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
local function give_back(keys, id, head, run, now, due)
  if is_cancelled(run) then
    cancel(keys, id, head, now)
    return
  end
  run.worker = ''
  place(keys, id, head.priority, due or now, now, true)
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

-- Leases.

-- Takes jobs out of the worker's list, up to a page, those that it took first: all whose id is not in `named`, which has `many`.
-- `dispose_of` is given each that the worker was running, the newest first, so that what is given back is taken in its old order.
-- It ends once they pass JOB.reply. Returns how many went elsewhere.
local function clear_taken(keys, worker, named, many, now, dispose_of)
  local ids, freed, bytes = redis.call('LRANGE', keys[K.taken], -JOB.page - many, -1), 0, 0
  for _, id in ipairs(ids) do
    if bytes > JOB.reply then break end
    if not named[id] then
      local run = run_of(keys, id)
      local head, job = job_of(keys, id)
      bytes = bytes + #(job or '')
      local running = redis.call('ZSCORE', keys[K.running], id)
      if not head then
        bury_stray(keys, id, job, now)
      elseif running and run.worker == worker then
        dispose_of(id, head, run)
        freed = freed + 1
      elseif not running and is_lost(keys, id, head) and not (head.serial and serial_first(keys, head.serial, now) ~= id) then
        give_back(keys, id, head, run, now)
        freed = freed + 1
      end
      redis.call('LREM', keys[K.taken], many > 0 and 1 or -1, id)  -- what is named is older, most often
    end
  end
  return freed
end

-- gateway_held KEYS taken:W  W [ID TOKEN]… → [how many were given back, 2, 1 or 0 …]
--   A worker names all the runs that it has: what is in its list beside them is given back, because the answer to gateway_take was lost.
--   Of each that it named: 1 if it has that run, 2 if it has and the job was cancelled, 0 if it has not, as of gateway_finish. It is called
--   after each new connection, and may be called at any time while no gateway_take of that worker is under way.
-- Atomic, because the list and the runs must be of one moment.
local function gateway_held(keys, args)
  local worker = check_worker(keys, args)
  check_each(args, 2, 'id and token')
  local now, named, answer = now_ms(), {}, {0}
  for i = 2, #args, 2 do
    local run = run_held(keys, worker, args[i], args[i + 1])
    if run then named[args[i]] = true end
    table.insert(answer, run and (is_cancelled(run) and 2 or 1) or 0)
  end
  answer[1] = clear_taken(keys, worker, named, #answer - 1, now, function(id, head, run) give_back(keys, id, head, run, now) end)
  if answer[1] > 0 then count(keys, 'given_back', answer[1]) end
  return answer
end

-- The workers whose lease is over, up to 100. What another program wrote among the workers is removed.
local function ended_leases(keys, now)
  local ended = {}
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', keys[K.workers], '-inf', '(' .. number(now), 'LIMIT', 0, 100)) do
    if #worker <= 100 and string.find(worker, '^[%w%-_.:]+$') then
      table.insert(ended, worker)
    else
      redis.call('ZREM', keys[K.workers], worker)
    end
  end
  return ended
end

-- gateway_renew KEYS taken:W  W LEASE_MS → [1 if the worker had a lease, ms until the next lease of another worker ends or -1, worker whose lease is over …]
--   0: its lease was over and its jobs went to others; it has a new one. LEASE_MS 0 ends the lease, and gives back what it still has.
-- Atomic, because Valkey's clock alone decides when a lease is over.
local function gateway_renew(keys, args)
  local worker, lease = check_worker(keys, args, 0)
  local now = now_ms()
  local known = redis.call('ZSCORE', keys[K.workers], worker) and 1 or 0
  if lease == 0 then
    local given = clear_taken(keys, worker, {}, 0, now, function(id, head, run) give_back(keys, id, head, run, now) end)
    if given > 0 then count(keys, 'given_back', given) end
    if redis.call('EXISTS', keys[K.taken]) == 0 then
      redis.call('ZREM', keys[K.workers], worker)
    else
      redis.call('ZADD', keys[K.workers], number(now), worker)  -- more than a page: other workers reclaim the rest
    end
    return {known, -1}
  end
  redis.call('ZADD', keys[K.workers], number(now + math.max(lease, JOB.lease)), worker)
  expire_results(keys, now)
  local answer = {known, -1, unpack(ended_leases(keys, now))}
  local ends = redis.call('ZRANGEBYSCORE', keys[K.workers], number(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
  for i = 1, #ends, 2 do
    if ends[i] ~= worker and answer[2] < 0 then answer[2] = math.min(math.ceil(tonumber(ends[i + 1]) - now) + 1, JOB.longest_lease) end
  end
  return answer
end

-- gateway_reclaim KEYS taken:W  W → how many jobs of worker W, whose lease is over, may be taken by others now; those that crashed too
--   many workers are dead letters. 0 if W renewed its lease. Up to 1000 in one call; where W has more, its lease stays over.
--   -1: another program made something else of W's list. It is looked at again in a minute, so that it does not hold up the jobs of others.
--   Of the jobs that ran together the cause is not known: blamed are those alone that were blamed most often before, and from the second
--   time on they come back apart from each other, so that a job does not become a dead letter for what ran beside it.
-- Atomic, because W may come back at any moment.
local function gateway_reclaim(keys, args)
  local worker = check_worker(keys, args)
  local now = now_ms()
  local ends = tonumber(redis.call('ZSCORE', keys[K.workers], worker) or nil)
  if ends and ends >= now then return 0 end
  local most, apart, ids = 0, 0, redis.pcall('LRANGE', keys[K.taken], -JOB.page, -1)
  if ids.err then
    redis.call('ZADD', keys[K.workers], number(now + JOB.mended), worker)
    return -1
  end
  for _, id in ipairs(ids) do most = math.max(most, run_of(keys, id).crashes) end
  local freed = clear_taken(keys, worker, {}, 0, now, function(id, head, run)
    if run.crashes < most then
      give_back(keys, id, head, run, now)
      return
    end
    run.crashes = run.crashes + 1
    note_failure(keys, id, run.failures + run.crashes, worker, 'the lease of its worker ended: the worker died, or could not renew it', now)
    if run.crashes >= JOB.crashes and not is_cancelled(run) then
      bury(keys, id, head, now, run.crashes .. ' workers died, or could not renew their lease, while they ran it')
    else
      give_back(keys, id, head, run, now, now + apart * JOB.apart)
      if run.crashes > 1 then apart = math.min(apart + 1, 20) end
    end
    count(keys, 'crashed')
  end)
  if redis.call('EXISTS', keys[K.taken]) == 0 then redis.call('ZREM', keys[K.workers], worker) end
  return freed
end

redis.register_function{function_name = 'gateway_take', callback = gateway_take, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_finish', callback = gateway_finish, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_fail', callback = gateway_fail, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_give_back', callback = gateway_give_back, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_park', callback = gateway_park, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_held', callback = gateway_held, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_renew', callback = gateway_renew, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reclaim', callback = gateway_reclaim, flags = {'allow-oom'}}
