-- Work queues: what operators and producers see of them, and mend. It follows jobs.lua, which describes the keys: always the 22 of the queue.

local COUNTERS = {
  'enqueued', 'taken', 'started', 'finished', 'retried', 'dead', 'cancelled', 'crashed', 'given_back', 'strays', 'sent_again', 'start_ms', 'finish_ms',
}

-- Where a job is, and since or until when (unix ms).
local function state_of(keys, id, head)
  for _, state in ipairs({'running', 'delayed', 'dead'}) do
    local ms = redis.call('ZSCORE', keys[K[state]], id)
    if ms then return state, ms end
  end
  local first = head.serial and redis.call('ZRANGEBYLEX', keys[K.serial], serial_range(head.serial, 1))[1]
  if first and serial_id(first) ~= id then return 'parked', number(head.due) end
  return 'ready', number(head.due)
end

-- gateway_queue KEYS → [name, value, …]: ready:0 … ready:9, delayed, running, parked, workers, oldest_ms (for how long the oldest job is due that
--   is ready, or still delayed, as where no worker runs), dead_letters, results, and the counters since the queue began.
-- Atomic, because the numbers must be of one moment: else a job that moves is counted twice, or not at all.
local function gateway_queue(keys, args)
  check_queue(keys)
  local now, ready, oldest, answer = now_ms(), 0, nil, {}
  local function add_number(name, value)
    table.insert(answer, name)
    table.insert(answer, value)
  end
  for priority = 0, 9 do
    local waiting = redis.call('LLEN', keys[K.ready + priority])
    local head = waiting > 0 and job_of(keys, redis.call('LINDEX', keys[K.ready + priority], -1))
    if head then oldest = math.min(oldest or head.due, head.due) end
    ready = ready + waiting
    add_number('ready:' .. priority, waiting)
  end
  local first = tonumber(redis.call('ZRANGE', keys[K.delayed], 0, 0, 'WITHSCORES')[2])
  if is_count(first) and first <= now then oldest = math.min(oldest or first, first) end
  local delayed, running, dead = redis.call('ZCARD', keys[K.delayed]), redis.call('ZCARD', keys[K.running]), redis.call('ZCARD', keys[K.dead])
  add_number('delayed', delayed)
  add_number('running', running)
  add_number('parked', math.max(0, redis.call('HLEN', keys[K.jobs]) - ready - delayed - running - dead))
  add_number('dead_letters', dead)
  add_number('workers', redis.call('ZCOUNT', keys[K.workers], number(now), '+inf'))
  add_number('results', redis.call('HLEN', keys[K.results]))
  add_number('oldest_ms', oldest and math.max(0, now - oldest) or 0)
  local counted = redis.call('HMGET', keys[1], unpack(COUNTERS))
  for i, name in ipairs(COUNTERS) do add_number(name, whole(counted[i])) end
  return answer
end

-- gateway_job KEYS ID → [state, ms, job, run, failures, result]; '' for what there is not. States: ready, delayed, parked, running, dead,
--   done (the job ended and its result is still there), none.
-- Atomic, because a job moves between the keys.
local function gateway_job(keys, args)
  check_queue(keys)
  local id, result = args[1] or '', ''
  local ends = tonumber(redis.call('ZSCORE', keys[K.expiring], id) or nil)
  if not ends or ends >= now_ms() then result = redis.call('HGET', keys[K.results], id) or '' end
  local head, job = job_of(keys, id)
  if not head then return {result ~= '' and 'done' or 'none', '0', '', '', '', result} end
  local state, ms = state_of(keys, id, head)
  return {state, ms, job, redis.call('HGET', keys[K.runs], id) or '', redis.call('HGET', keys[K.failures], id) or '', result}
end

local function ids_in(keys, state, from, limit)
  if state == 'dead' then return redis.call('ZREVRANGE', keys[K.dead], from, from + limit - 1) end
  if state == 'delayed' or state == 'running' then return redis.call('ZRANGE', keys[K[state]], from, from + limit - 1) end
  local ids = {}
  for priority = 9, 0, -1 do
    local key = keys[K.ready + priority]
    local waiting = redis.call('LLEN', key)
    if from < waiting and #ids < limit then
      local page = redis.call('LRANGE', key, -from - limit + #ids, -from - 1)
      for i = #page, 1, -1 do table.insert(ids, page[i]) end
    end
    from = math.max(0, from - waiting)
  end
  return ids
end

-- gateway_jobs KEYS STATE FROM LIMIT → [[id, ms, job, run, failures] …]: the jobs that are ready, delayed, running or dead, in the order in
--   which they are taken or come due; the newest dead letters first. LIMIT is up to 200. Fewer where they are large: the next page begins
--   at FROM and as many as these; there are no more where there is none.
-- Atomic, because the lists change while they are read.
local function gateway_jobs(keys, args)
  check_queue(keys)
  local state, from, limit = args[1], tonumber(args[2]), tonumber(args[3])
  if not ({ready = true, delayed = true, running = true, dead = true})[state] or not is_count(from) or not is_count(limit) then
    error({err = 'GATEWAY it takes a state (ready, delayed, running or dead), where to begin, and how many'})
  end
  local answer, bytes = {}, 0
  for _, id in ipairs(limit > 0 and ids_in(keys, state, from, math.min(limit, 200)) or {}) do
    local ms = state ~= 'ready' and redis.call('ZSCORE', keys[K[state]], id) or '0'
    local job, failures = redis.call('HGET', keys[K.jobs], id) or '', redis.call('HGET', keys[K.failures], id) or ''
    bytes = bytes + #id + #job + #failures
    if bytes > JOB.reply and #answer > 0 then break end
    table.insert(answer, {id, ms, job, redis.call('HGET', keys[K.runs], id) or '', failures})
  end
  return answer
end

-- Cancels a job that runs: its worker ends it. Where the worker has no lease any more, and is none that others reclaim, the job is ended here.
local function cancel_run(keys, id, head, now)
  local run = run_of(keys, id)
  if run.worker == '' or not redis.call('ZSCORE', keys[K.workers], run.worker) then
    cancel(keys, id, head, now)
    return 'cancelled'
  end
  if not is_cancelled(run) then
    run.flags = run.flags .. 'c'
    redis.call('HSET', keys[K.runs], id, run_text(run))
  end
  redis.call(ANNOUNCE, keys[1], 'cancel ' .. id)
  return 'running'
end

-- gateway_cancel KEYS ID → 'cancelled' for a job that waited; 'running': its worker is announced to, and ends it; 'removed' for a dead letter; 'none'
-- Atomic, because the job may be taken at any moment.
local function gateway_cancel(keys, args)
  check_queue(keys)
  local id, now = args[1] or '', now_ms()
  local head = job_of(keys, id)
  if not head then return 'none' end
  local state = state_of(keys, id, head)
  if state == 'running' then return cancel_run(keys, id, head, now) end
  if state == 'dead' then
    redis.call('ZREM', keys[K.dead], id)
    forget(keys, id)
    return 'removed'
  end
  redis.call('ZREM', keys[K.delayed], id)
  if state == 'ready' then redis.call('LREM', keys[K.ready + head.priority], 0, id) end
  cancel(keys, id, head, now)
  return 'cancelled'
end

-- Makes a dead letter a job again, with all its attempts. Returns how many bytes it has, and whether it is one: not if another job has its
-- unique key.
local function resend(keys, id, now)
  local head, job = job_of(keys, id)
  if not head then
    redis.call('ZREM', keys[K.dead], id)
    forget(keys, id)
    return 0, false
  end
  if head.key then
    local other = redis.call('HGET', keys[K.keys], head.key)
    if other and other ~= id and redis.call('HEXISTS', keys[K.jobs], other) == 1 then return #job, false end
    redis.call('HSET', keys[K.keys], head.key, id)
  end
  redis.call('ZREM', keys[K.dead], id)
  redis.call('HDEL', keys[K.runs], id)
  redis.call('HDEL', keys[K.results], id)
  job = string.gsub(job, '"expires":%d+,"due":%d+', '"expires":0,"due":' .. number(now), 1)
  local first = true
  if head.serial then
    local seq
    first, seq = join_serial(keys, head.serial, id, now)
    local cut = string.find(job, ',"data":', 1, true)
    job = string.gsub(string.sub(job, 1, cut - 1), ',"seq":%d+', ',"seq":' .. number(seq)) .. string.sub(job, cut)
  end
  redis.call('HSET', keys[K.jobs], id, job)
  if first then place(keys, id, head.priority, now, now) end
  count(keys, 'sent_again')
  return #job, true
end

-- gateway_resend KEYS [ID …] → [how many dead letters are jobs again, how many are not]: those IDs, or the oldest of all, up to 1000, and
--   until they pass 8 MiB: both together are the first of the IDs that were named, and the caller names the rest again. Where the oldest cannot be, it looks at up to 10000.
-- Atomic, because a dead letter that is sent again twice would run twice.
local function gateway_resend(keys, args)
  check_queue(keys)
  local now, sent, refused, bytes = now_ms(), 0, 0, 0
  if #args > JOB.page then
    error({err = 'GATEWAY it sends up to ' .. JOB.page .. ' dead letters again'})
  end
  local ids = #args > 0 and args or redis.call('ZRANGE', keys[K.dead], 0, JOB.page - 1)
  while #ids > 0 do
    for _, id in ipairs(ids) do
      local size, is_sent = 0, false
      if redis.call('ZSCORE', keys[K.dead], id) then size, is_sent = resend(keys, id, now) end
      sent, refused, bytes = sent + (is_sent and 1 or 0), refused + (is_sent and 0 or 1), bytes + size
      if bytes > JOB.reply then break end
    end
    local is_over = #args > 0 or sent > 0 or bytes > JOB.reply or refused >= 10 * JOB.page
    ids = is_over and {} or redis.call('ZRANGE', keys[K.dead], refused, refused + JOB.page - 1)
  end
  return {sent, refused}
end

local function left_in(keys, state)
  if state ~= 'ready' then return redis.call('ZCARD', keys[K[state]]) end
  local left = 0
  for priority = 0, 9 do left = left + redis.call('LLEN', keys[K.ready + priority]) end
  return left
end

-- gateway_purge KEYS STATE [MOST] → [how many jobs were removed, how many are left]: of those that are ready, delayed or dead, up to MOST or 1000,
--   and until they pass 8 MiB; the oldest dead letters first, so that one that nobody has seen yet is not among them. A job that waited for
--   one of them, of the same serial key, may be ready now: it is among those that are left.
-- Atomic, because a worker must take a job or not, and its unique key must be free when it is gone.
local function gateway_purge(keys, args)
  check_queue(keys)
  local state, most, now = args[1], tonumber(args[2] or JOB.page), now_ms()
  if not ({ready = true, delayed = true, dead = true})[state] then
    error({err = 'GATEWAY it removes the jobs that are ready, delayed or dead'})
  end
  if not is_count(most) or most < 1 then
    error({err = 'GATEWAY it removes so many jobs, from 1'})
  end
  most = math.min(most, JOB.page)
  local removed, bytes = 0, 0
  for i, id in ipairs(state == 'dead' and redis.call('ZRANGE', keys[K.dead], 0, most - 1) or ids_in(keys, state, 0, most)) do
    if bytes > JOB.reply then break end
    local head, job = job_of(keys, id)
    removed, bytes = i, bytes + #(job or '')
    if state ~= 'ready' then
      redis.call('ZREM', keys[K[state]], id)
    else
      for priority = 9, 0, -1 do
        if redis.call('LREM', keys[K.ready + priority], -1, id) == 1 then break end
      end
    end
    local elsewhere = head and state_of(keys, id, head)
    if not head or (state == 'dead' and elsewhere ~= 'running' and elsewhere ~= 'delayed') then
      forget(keys, id)
    elseif elsewhere == 'ready' then
      cancel(keys, id, head, now)
    end
  end
  return {removed, left_in(keys, state)}
end

redis.register_function{function_name = 'gateway_queue', callback = gateway_queue, flags = {'no-writes', 'allow-oom'}}
redis.register_function{function_name = 'gateway_job', callback = gateway_job, flags = {'no-writes', 'allow-oom'}}
redis.register_function{function_name = 'gateway_jobs', callback = gateway_jobs, flags = {'no-writes', 'allow-oom'}}
redis.register_function{function_name = 'gateway_cancel', callback = gateway_cancel, flags = {'allow-oom'}}
redis.register_function{function_name = 'gateway_purge', callback = gateway_purge, flags = {'allow-oom'}}
redis.register_function('gateway_resend', gateway_resend)
