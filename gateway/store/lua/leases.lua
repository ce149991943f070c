-- Work queues: the lease of a worker, and what becomes of its list when that is over or an answer was lost. It follows runs.lua.

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
    local run = named_run(keys, worker, args[i], args[i + 1])  -- jobs may be large, and a worker asks every few seconds
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
  -- What ends later was written before the clock was set back: were its worker dead, nobody would get its jobs for so long.
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', keys[K.workers], '(' .. number(now + JOB.longest_lease), '+inf', 'LIMIT', 0, 100)) do
    redis.call('ZADD', keys[K.workers], number(now + JOB.longest_lease), other)
  end
  local answer = {known, -1, unpack(ended_leases(keys, now))}
  local ends = redis.call('ZRANGEBYSCORE', keys[K.workers], number(now), '+inf', 'WITHSCORES', 'LIMIT', 0, 2)
  for i = 1, #ends, 2 do
    if ends[i] ~= worker and answer[2] < 0 then answer[2] = math.min(math.ceil(tonumber(ends[i + 1]) - now) + 1, JOB.longest_lease) end
  end
  return answer
end

local PART = {}  -- of the last list of which a call reclaimed a part only: its key, when its lease ended, how often its most blamed job was

-- gateway_reclaim KEYS taken:W  W → how many jobs of worker W, whose lease is over, may be taken by others now; those that crashed too
--   many workers are dead letters. 0 if W renewed its lease. Up to 1000 in one call; where W has more, its lease stays over.
--   -1: another program made something else of W's list. It is looked at again in a minute, so that it does not hold up the jobs of others.
--   Of the jobs that ran together the cause is not known: blamed are those alone that were blamed most often before. From the second time on
--   a worker runs no two of them together, so that none becomes a dead letter for what ran beside it.
-- Atomic, because W may come back at any moment.
local function gateway_reclaim(keys, args)
  local worker = check_worker(keys, args)
  local now = now_ms()
  local ends = tonumber(redis.call('ZSCORE', keys[K.workers], worker) or nil)
  if ends and ends >= now then return 0 end
  local most, ids = 0, redis.pcall('LRANGE', keys[K.taken], -JOB.page, -1)
  if ids.err then
    redis.call('ZADD', keys[K.workers], number(now + JOB.mended), worker)
    return -1
  end
  if PART.list == keys[K.taken] and PART.ends == ends then most = PART.most end
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
      give_back(keys, id, head, run, now)
    end
    count(keys, 'crashed')
  end)
  PART = {}
  if redis.call('EXISTS', keys[K.taken]) == 0 then
    redis.call('ZREM', keys[K.workers], worker)
  else
    PART = {list = keys[K.taken], ends = ends, most = most}
  end
  return freed
end

redis.register_function{function_name = 'gateway_held', callback = gateway_held, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_renew', callback = gateway_renew, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_reclaim', callback = gateway_reclaim, flags = {'allow-oom'}}
