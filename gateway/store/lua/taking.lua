-- Work queues: which ready jobs a worker gets, and their move to its list. It follows runs.lua; jobs.lua describes the keys.

local BATCHES = {}  -- queue → how many jobs are read at a time, where they are large: each is read whole

-- So many jobs had so many bytes: that decides how many are read next.
local function note_size(keys, many, bytes)
  local fitting = math.max(1, math.floor(JOB.read * many / math.max(bytes, 1)))
  BATCHES[keys[1]] = fitting < JOB.batch and fitting or nil
end

-- Moves the delayed jobs that are due to the ready ones, until they pass JOB.reply. Returns ms until the next is due, nil if none is delayed.
local function promote_due(keys, now)
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
    -- Of the limit over all names no start is reserved: those that wait for it stay ready.
    rates[args[i]] = {field = 'next:' .. args[i], every = every, burst = burst, pace = args[i] ~= '' and pace}
  end
  return rates
end

-- When the start after those that began or are reserved is due at an even pace. Those that are reserved are delayed: what is further away was
-- written while the clock was ahead, or the rate another one, and would hold up all jobs until then. It is forgotten.
local function next_start(keys, rate, now)
  local next_due, reserved = tonumber(redis.call('HGET', keys[1], rate.field) or nil) or 0, 0
  local most = now + rate.burst * rate.every + JOB.clock
  if next_due > most and rate.pace then reserved = redis.call('ZCARD', keys[K.delayed]) * rate.every end
  return next_due <= most + reserved and next_due or now + reserved
end

-- How long a job of this rate must wait for its start, 0 or less if it may start now (GCRA), and the `next` after that start.
local function wait_of(keys, rate, now)
  rate.next = rate.next or next_start(keys, rate, now)
  local due = math.max(math.min(rate.next, now + 31536000000), now)  -- within a year, whatever the rate
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
    token = whole(known[2]), started = whole(known[3]), start_ms = whole(known[4]), looked = 0, bytes = 0, apart = 0, answer = {}, changed = {}, unlimited = next(rates) == nil,
  }
end

local function advance(taking, rate, to)
  rate.next = to
  taking.changed[rate.field] = string.format('%.3f', to)
end

-- Whether one more worker that ends with the job makes it a dead letter.
local function is_suspected(run)
  return run.crashes >= JOB.crashes - 1
end

-- Whether the worker has such a job. It is read once in a call, and only where another one is ready.
local function has_suspected(taking)
  if taking.suspected == nil then
    taking.suspected = false
    for _, id in ipairs(redis.call('LRANGE', taking.keys[K.taken], 0, -1)) do
      taking.suspected = taking.suspected or is_suspected(run_of(taking.keys, id))
    end
  end
  return taking.suspected
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
  if is_suspected(run) and has_suspected(taking) then  -- the death of the worker would be blamed on both
    redis.call('ZADD', keys[K.delayed], number(now + JOB.apart * (1 + taking.apart % 20)), id)
    taking.apart, taking.delayed = taking.apart + 1, true
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
  -- After the job's last one also where the queue's hash was deleted, and the counter began anew: a run that is over must not end this one.
  run.token, run.flags, run.worker = math.max(taking.token, run.token + 1), string.gsub(run.flags, 'p', ''), taking.worker
  if is_suspected(run) then taking.suspected = true end
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
  local wait = promote_due(keys, now)
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

  if taking.delayed then wait = promote_due(keys, now) end
  if taking.looked >= JOB.page then wait = 0 end
  if taking.wait then wait = math.min(wait or taking.wait, taking.wait) end
  return {wait and math.ceil(math.min(wait, JOB.longest_lease)) or -1, unpack(taking.answer)}
end

redis.register_function{function_name = 'gateway_take', callback = gateway_take, flags = {'allow-oom'}}
