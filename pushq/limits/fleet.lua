-- What the fleet shares about one limit of a provider: bucket, ramp, pause and breaker, in one hash. One call is one decision.
--
-- KEYS[1] the provider's hash   KEYS[2] the bucket of a send that has a rate of its own (ask only)
-- ARGV[1] 'ask', 'report' or 'hold'   ARGV[2] the time in seconds, '' for that of Redis   ARGV[3] random number from [0, 1)
--   ask:    4 want  5 fewest  6 refill ('' without a limit)  7 burst  8 reserve  9 ramp floor  10 ramp seconds
--           11 the send's refill ('' without)  12 its burst  13 its fewest
--   report: 4 answered  5 failed  6 '1' from who may have sent the probe  7 share  8 minimum  9 ramp floor
--   hold:   4 seconds  5 ramp floor
-- Answer: permits, wait, reason, breaker (0 closed, 1 half open, 2 open), probe (1: the permit is one)

local SLOT_S, OPEN_S, OPEN_MOST_S, PROBE_S, PROBE_LOOK_S, TTL_S = 10, 5, 120, 30, 1, 3600

local now = tonumber(ARGV[2])
if not now then
  local t = redis.call('TIME')
  now = tonumber(t[1]) + tonumber(t[2]) / 1e6
end

local NAMES = {'tokens', 'at', 'ramp', 'second', 'used', 'hold', 'open', 'until', 'probe', 'slot', 'ok0', 'bad0', 'ok1', 'bad1'}
local s = {}
for i, value in ipairs(redis.call('HMGET', KEYS[1], unpack(NAMES))) do s[NAMES[i]] = tonumber(value or '') end

local function keep()
  local pairs_ = {}
  for _, name in ipairs(NAMES) do
    if s[name] then
      pairs_[#pairs_ + 1] = name
      pairs_[#pairs_ + 1] = string.format('%.17g', s[name])
    end
  end
  redis.call('DEL', KEYS[1])
  if #pairs_ > 0 then
    redis.call('HSET', KEYS[1], unpack(pairs_))
    redis.call('EXPIRE', KEYS[1], TTL_S)
  end
end

local function breaker()
  if not s.open then return 0 end
  return now < s['until'] and 2 or 1
end

local function answer(permits, wait, reason, probe)
  return {permits, string.format('%.6f', wait), reason, breaker(), probe or 0}
end

-- The share of the limit that is allowed: it grows while it is used, second by second, and shrinks while it is not.
local function ramp(floor, seconds, refill)
  if seconds <= 0 then
    s.ramp = nil
    return 1
  end
  local second = math.floor(now)
  s.ramp = math.max(floor, math.min(1, s.ramp or floor))
  if not s.second then s.second, s.used = second, 0 end
  if second > s.second then
    local step = (1 - floor) / seconds
    local busy = s.used >= 0.5 * refill * s.ramp
    s.ramp = math.max(floor, math.min(1, s.ramp + (busy and step or -step) - step * (second - s.second - 1)))
    s.second, s.used = second, 0
  end
  return s.ramp
end

local function refilled(tokens, at, refill, burst)
  return math.min(burst, (tokens or 0) + math.max(0, now - (at or now)) * refill)
end

if ARGV[1] == 'hold' then
  local until_ = now + tonumber(ARGV[4])
  -- Everybody who got the same word pauses everybody; only the first of them is news.
  if s.ramp and not (s.hold and s.hold > now) then s.ramp = math.max(tonumber(ARGV[5]), s.ramp / 2) end
  if not s.hold or until_ > s.hold then
    s.hold = until_
    -- Nothing accrues in the pause, and the ramp does not take it for idleness.
    s.tokens, s.at = 0, until_
    if s.second then s.second = math.floor(until_) end
  end
  keep()
  return answer(0, s.hold - now, 'retry_after')
end

if ARGV[1] == 'report' then
  local answered, failed = tonumber(ARGV[4]), tonumber(ARGV[5])
  if s.open then
    -- What was sent before it opened says nothing new; the probe decides.
    if ARGV[6] == '1' and now >= s['until'] and answered + failed > 0 then
      s.probe = nil
      if answered > 0 then
        s.open, s['until'] = nil, nil
        if s.ramp then s.ramp = tonumber(ARGV[9]) end
      else
        s.open = math.min(OPEN_MOST_S, s.open * 2)
        s['until'] = now + s.open * (0.75 + 0.25 * tonumber(ARGV[3]))
      end
      s.slot, s.ok0, s.bad0, s.ok1, s.bad1 = nil, nil, nil, nil, nil
    end
  else
    local slot = math.floor(now / SLOT_S)
    if s.slot ~= slot then
      if s.slot == slot - 1 then s.ok1, s.bad1 = s.ok0, s.bad0 else s.ok1, s.bad1 = 0, 0 end
      s.slot, s.ok0, s.bad0 = slot, 0, 0
    end
    s.ok0, s.bad0 = s.ok0 + answered, s.bad0 + failed
    local bad = s.bad0 + s.bad1
    local all = bad + s.ok0 + s.ok1
    if bad > 0 and all >= tonumber(ARGV[8]) and bad >= tonumber(ARGV[7]) * all then
      s.open = OPEN_S
      s['until'] = now + OPEN_S * (0.75 + 0.25 * tonumber(ARGV[3]))
      s.probe = nil
      s.slot, s.ok0, s.bad0, s.ok1, s.bad1 = nil, nil, nil, nil, nil
    end
  end
  keep()
  return answer(0, 0, '')
end

local want, fewest = tonumber(ARGV[4]), tonumber(ARGV[5])
if s.hold then
  if s.hold > now then return answer(0, s.hold - now, 'retry_after') end
  s.hold = nil
end
local half_open = false
if s.open then
  if now < s['until'] then return answer(0, s['until'] - now, 'breaker_open') end
  if s.probe and s.probe > now then
    -- It ends at the latest then, but an answer mostly comes sooner.
    return answer(0, math.min(PROBE_LOOK_S, s.probe - now), 'breaker_open')
  end
  half_open, want, fewest = true, 1, 1
end

local permits, wait, reason = want, 0, ''
local function draw(tokens, reserve, refill, few, name)
  local need = math.min(want, few)
  local there = math.floor(tokens - reserve)
  if there < need then
    local w = (need + reserve - tokens) / refill
    if w > wait then wait, reason = w, name end
    permits = 0
  elseif there < permits then
    permits = there
  end
end

local refill = tonumber(ARGV[6])
if refill then
  local share = ramp(tonumber(ARGV[9]), tonumber(ARGV[10]), refill)
  local reserve = tonumber(ARGV[8])
  local burst = math.max(tonumber(ARGV[7]) * share, math.min(tonumber(ARGV[7]), reserve + fewest))
  s.tokens, s.at = refilled(s.tokens, s.at, refill * share, burst), now
  draw(s.tokens, reserve, refill * share, fewest, 'rate')
end
local send_refill, send_tokens = tonumber(ARGV[11]), nil
if send_refill then
  local kept = redis.call('HMGET', KEYS[2], 'tokens', 'at')
  send_tokens = refilled(tonumber(kept[1] or ''), tonumber(kept[2] or ''), send_refill, tonumber(ARGV[12]))
  draw(send_tokens, 0, send_refill, tonumber(ARGV[13]), 'send_rate')
end
local probe = 0
if permits > 0 then
  if refill then
    s.tokens = s.tokens - permits
    s.used = (s.used or 0) + permits
  end
  if send_refill then send_tokens = send_tokens - permits end
  if half_open then
    s.probe = now + PROBE_S
    probe = 1
  end
end
if send_refill then
  redis.call('HSET', KEYS[2], 'tokens', string.format('%.17g', send_tokens), 'at', string.format('%.17g', now))
  redis.call('EXPIRE', KEYS[2], 600)
end
keep()
return answer(permits, wait, reason, probe)
