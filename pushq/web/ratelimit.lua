-- A token bucket that begins full. KEYS[1] its hash; ARGV: rate per second, burst, wanted. Answer: granted, seconds until there is one.
local rate, burst, wanted = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local t = redis.call('TIME')
local now = tonumber(t[1]) + tonumber(t[2]) / 1e6
local found = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(found[1] or '') or burst, tonumber(found[2] or '') or now
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local granted = math.min(wanted, math.floor(tokens))
tokens = tokens - granted
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.17g', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * burst / rate) + 60000)
return {granted, string.format('%.6f', granted > 0 and 0 or (1 - tokens) / rate)}
