-- Every change of a job in Redis, each atomic; service/stores/redis.py calls `ops` by name.
--
-- KEYS[1] is the prefix in braces, which puts all keys into one slot of a cluster.
--   PREFIX:job:ID      hash     the record; times in ms on Redis' clock
--   PREFIX:input:ID    string   deleted when the job ends     PREFIX:result:ID   string
--   PREFIX:events:ID   stream   entry N-0 is event N
--   PREFIX:preview:ID  hash     the latest preview and the event it belongs to
--   PREFIX:idem:HASH   string   "ID fingerprint"
--   PREFIX:queue       stream   jobs to be run; its group's pending entries are those taken
--   PREFIX:queued      zset     jobs waiting, by order of submission
--   PREFIX:leases      zset     jobs taken, by the end of the lease in ms; handed back: by order
--   PREFIX:ended:STATE zset     finished jobs, by when they expire
--   PREFIX:sizes       hash     bytes charged to each job      PREFIX:bytes      their sum
--   PREFIX:bell        stream   which job or topic changed: what blocked readers wait for

local GROUP = 'runners'
local STATES = {'succeeded', 'failed', 'cancelled'}
local MAX_ORDER = 1e12 -- orders of submission stay below it, times in ms above
local OVERHEAD = 1024 -- bytes that a job is taken to hold besides its input or result
local call = redis.call

local function key(...)
  return KEYS[1] .. ':' .. table.concat({...}, ':')
end

local function now()
  local time = call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function ring(topic)
  call('XADD', key('bell'), 'MAXLEN', '~', 1000, '*', 'topic', topic)
end

local function record(id)
  local ahead = call('ZRANK', key('queued'), id)
  return {call('HGETALL', key('job', id)), ahead or -1}
end

local function charge(id, bytes)
  local before = tonumber(call('HGET', key('sizes'), id) or 0)
  if bytes == 0 then
    call('HDEL', key('sizes'), id)
  else
    call('HSET', key('sizes'), id, bytes)
  end
  call('INCRBY', key('bytes'), bytes - before)
end

local function forget_expired()
  for _, state in ipairs(STATES) do
    local ended = key('ended', state)
    for _, id in ipairs(call('ZRANGEBYSCORE', ended, '-inf', now(), 'LIMIT', 0, 100)) do
      call('ZREM', ended, id)
      charge(id, 0)
    end
  end
end

local function emit(id, preview)
  local job = key('job', id)
  local number = call('HINCRBY', job, 'events', 1)
  local is = call('HMGET', job, 'state', 'attempt', 'done', 'total', 'max_events')
  call('XADD', key('events', id), 'MAXLEN', is[5], number .. '-0', 'at', now(),
    'state', is[1], 'attempt', is[2], 'done', is[3], 'total', is[4])
  if preview and preview ~= '' then
    call('HSET', key('preview', id), 'event', number, 'data', preview)
  end
  ring(id)
end

local function held(id, token)
  local is = call('HMGET', key('job', id), 'state', 'token')
  return is[1] == 'running' and is[2] == token
end

local function ended_by(id, token, state)
  local is = call('HMGET', key('job', id), 'state', 'token')
  return (is[1] == state and is[2] == token) and 1 or 0
end

local function unqueue(id, entry)
  call('XACK', key('queue'), GROUP, entry)
  call('XDEL', key('queue'), entry)
  call('ZREM', key('queued'), id)
  call('ZREM', key('leases'), id)
end

-- A job that Redis evicted: it must not be, but others can still run.
local function forget(id, entry)
  charge(id, 0)
  if entry then
    unqueue(id, entry)
  else
    call('ZREM', key('leases'), id)
    call('ZREM', key('queued'), id)
  end
end

local function finish(id, state, bytes)
  local job = key('job', id)
  local is = call('HMGET', job, 'entry', 'keep_ms', 'idem')
  unqueue(id, is[1])
  call('HSET', job, 'state', state, 'finished', now())
  call('DEL', key('input', id), key('preview', id))
  charge(id, bytes)
  call('ZADD', key('ended', state), now() + is[2], id)
  emit(id)
  for _, name in ipairs({job, key('events', id), key('result', id)}) do
    call('PEXPIRE', name, is[2])
  end
  if is[3] ~= '' then
    call('PEXPIRE', key('idem', is[3]), is[2])
  end
end

local function begin(id, entry, consumer, token, lease_ms)
  local job = key('job', id)
  call('HSET', job, 'state', 'running', 'token', token, 'consumer', consumer, 'entry', entry,
    'started', now(), 'done', 0)
  call('HINCRBY', job, 'attempt', 1)
  call('HINCRBY', job, 'fence', 1)
  call('ZREM', key('queued'), id)
  call('ZADD', key('leases'), now() + lease_ms, id)
  emit(id)
end

local ops = {}

function ops.submit(id, idem, fingerprint, labels, total, size, input, max_unfinished, max_bytes,
                    max_events, keep_ms, in_redis)
  forget_expired()
  local queue, job = key('queue'), key('job', id)
  if idem ~= '' then
    local used = call('GET', key('idem', idem))
    if used and call('EXISTS', key('job', used:sub(1, 32))) == 1 then
      local other = used:sub(1, 32)
      if used:sub(34) ~= fingerprint then return {'conflict', other} end
      return {'job', record(other)}
    end
  end
  if call('EXISTS', job) == 1 then return {'job', record(id)} end -- the answer to it was lost
  local unfinished = call('ZCARD', key('queued')) + call('ZCOUNT', key('leases'), MAX_ORDER, '+inf')
  if unfinished >= tonumber(max_unfinished) then return {'full', 'jobs'} end
  if tonumber(call('GET', key('bytes')) or 0) + size > tonumber(max_bytes) then
    return {'full', 'bytes'}
  end
  if call('EXISTS', queue) == 0 then call('XGROUP', 'CREATE', queue, GROUP, '0', 'MKSTREAM') end
  local entry = call('XADD', queue, '*', 'job', id)
  local order = call('INCR', key('order'))
  call('HSET', job, 'id', id, 'state', 'queued', 'labels', labels, 'created', now(), 'total', total,
    'done', 0, 'attempt', 0, 'fence', 0, 'entry', entry, 'order', order, 'idem', idem,
    'max_events', max_events, 'keep_ms', keep_ms)
  call('ZADD', key('queued'), order, id)
  if in_redis == '1' then call('SET', key('input', id), input) end
  if idem ~= '' then call('SET', key('idem', idem), id .. ' ' .. fingerprint) end
  charge(id, tonumber(size))
  emit(id)
  ring('queue')
  return {'job', record(id)}
end

-- XCLAIM of the very entries whose leases are over, which `leases` knows: XAUTOCLAIM would have to
-- walk through all pending ones, and knows one idle time for all.
local function next_free(consumer, max_attempts, given_up)
  local queue = key('queue')
  while true do
    local id = call('ZRANGEBYSCORE', key('leases'), '-inf', now(), 'LIMIT', 0, 1)[1]
    if not id then break end
    local is = call('HMGET', key('job', id), 'entry', 'attempt')
    if not is[1] then
      forget(id)
    elseif tonumber(is[2]) < tonumber(max_attempts) then
      call('XCLAIM', queue, GROUP, consumer, 0, is[1], 'JUSTID')
      return id, is[1]
    else
      call('HSET', key('job', id), 'problem', given_up)
      finish(id, 'failed', OVERHEAD)
    end
  end
  if call('EXISTS', queue) == 0 then return nil end
  while true do
    local read = call('XREADGROUP', 'GROUP', GROUP, consumer, 'COUNT', 1, 'STREAMS', queue, '>')
    if not read then return nil end
    local entry, id = read[1][2][1][1], read[1][2][1][2][2]
    if call('EXISTS', key('job', id)) == 1 then return id, entry end
    forget(id, entry)
  end
end

function ops.claim(consumer, token, lease_ms, max_attempts, given_up)
  local id, entry = next_free(consumer, max_attempts, given_up)
  if not id then
    local first = call('ZRANGE', key('leases'), 0, 0, 'WITHSCORES')[2]
    return {'none', first and math.max(0, first - now()) or -1}
  end
  begin(id, entry, consumer, token, lease_ms)
  return {'job', record(id), call('GET', key('input', id))}
end

function ops.renew(id, token, lease_ms)
  if not held(id, token) then return 0 end
  local is = call('HMGET', key('job', id), 'consumer', 'entry')
  call('XCLAIM', key('queue'), GROUP, is[1], 0, is[2], 'JUSTID') -- XPENDING shows it alive
  call('ZADD', key('leases'), now() + lease_ms, id)
  return 1
end

function ops.progress(id, token, lease_ms, done, total, preview)
  if ops.renew(id, token, lease_ms) == 0 then return 0 end
  call('HSET', key('job', id), 'done', done, 'total', total)
  emit(id, preview)
  return 1
end

function ops.publish(id, token, labels, size, result, file)
  local job = key('job', id)
  if not held(id, token) then
    if ended_by(id, token, 'succeeded') == 0 then return 0 end
    return call('HGET', job, 'file') == file and 1 or 2 -- 2: published before, this file is idle
  end
  local total = call('HGET', job, 'total')
  call('HSET', job, 'result', labels, 'done', total, 'file', file)
  if file == '' then call('SET', key('result', id), result) end
  finish(id, 'succeeded', tonumber(size))
  return 1
end

function ops.fail(id, token, problem)
  if not held(id, token) then return ended_by(id, token, 'failed') end
  call('HSET', key('job', id), 'problem', problem)
  finish(id, 'failed', OVERHEAD)
  return 1
end

function ops.release(id, token)
  if not held(id, token) then return 0 end
  local job = key('job', id)
  local order = call('HGET', job, 'order')
  call('HSET', job, 'state', 'queued', 'done', 0)
  call('HDEL', job, 'started')
  call('HINCRBY', job, 'attempt', -1)
  call('ZADD', key('queued'), order, id)
  call('ZADD', key('leases'), order, id)
  emit(id)
  ring('queue')
  return 1
end

function ops.cancel(id)
  local state = call('HGET', key('job', id), 'state')
  if state == 'queued' or state == 'running' then finish(id, 'cancelled', OVERHEAD) end
  return record(id)
end

function ops.get(id)
  return record(id)
end

function ops.result(id)
  local job = key('job', id)
  local is = call('HMGET', job, 'state', 'result', 'file')
  return {is[1], is[2], is[3], call('GET', key('result', id))}
end

function ops.events(id, after)
  local job = call('HMGET', key('job', id), 'events', 'state')
  if not job[1] then return {} end
  if tonumber(after) > tonumber(job[1]) then after = '0' end -- no id that was ever given
  local events = call('XRANGE', key('events', id), '(' .. after .. '-0', '+')
  return {job[1], job[2], events, call('HMGET', key('preview', id), 'event', 'data')}
end

-- Names of consumers are a process' own: those of processes long gone are forgotten.
function ops.sweep(idle_ms)
  forget_expired()
  local queue = key('queue')
  if call('EXISTS', queue) == 0 then return end
  for _, is in ipairs(call('XINFO', 'CONSUMERS', queue, GROUP)) do
    if is[4] == 0 and is[6] > tonumber(idle_ms) then
      call('XGROUP', 'DELCONSUMER', queue, GROUP, is[2])
    end
  end
end

function ops.stats()
  forget_expired()
  local counts = {call('ZCARD', key('queued')), call('ZCOUNT', key('leases'), MAX_ORDER, '+inf')}
  for _, state in ipairs(STATES) do
    table.insert(counts, call('ZCOUNT', key('ended', state), '(' .. now(), '+inf'))
  end
  return {counts, call('GET', key('bytes')) or 0}
end

function ops.existing(...)
  local exist = {}
  for _, id in ipairs({...}) do
    table.insert(exist, call('EXISTS', key('job', id)))
  end
  return exist
end

return ops[table.remove(ARGV, 1)](unpack(ARGV))
