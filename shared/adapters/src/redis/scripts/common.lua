-- What the scripts share. Each is one atomic step and may be repeated.
--
-- Keys are made here, so a cluster, which must know them beforehand, is refused when a connection is made.

-- A free part of a key can't end it: braces and percent signs are escaped.
local function part(text)
    return (text:gsub('[%%{}]', { ['%'] = '%25', ['{'] = '%7B', ['}'] = '%7D' }))
end

local function user_key(prefix, user, suffix)
    return 'ks:' .. prefix .. ':{' .. part(user) .. '}' .. (suffix or '')
end

local function session_key(connection) return 'ks:c:' .. connection end
local function ended_key(connection) return 'ks:z:' .. connection end
local function connections_key(user) return user_key('u', user, ':c') end
local function online_key(partition) return 'ks:on:{' .. partition .. '}' end
local function blocked_key(user) return user_key('x', user) end

-- A token bucket (generic cell rate algorithm): returns how many milliseconds to wait, 0 if the cost was taken.
local function take(key, burst, interval, cost, now)
    local full_at = tonumber(redis.call('GET', key) or now)
    if full_at < now then full_at = now end
    if cost > burst then cost = burst end
    local next = full_at + cost * interval
    local wait = next - burst * interval - now
    if wait >= 1 then return math.ceil(wait) end
    redis.call('SET', key, string.format('%.3f', next), 'PX', math.max(1, math.ceil(next - now)))
    return 0
end

-- Lets a key live until that moment, unless it lives longer. What it has left is counted from the present moment, which is
-- not that of a session.
local function keep_until(key, moment)
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
    if redis.call('PTTL', key) < moment - now then redis.call('PEXPIREAT', key, moment) end
end

-- A number of a stored session: its first fields come in a fixed order, so nothing else need be read. A quote within a
-- text is escaped, so no user id can hold such a field.
local function number_in(stored, field)
    return tonumber(string.match(stored, '"' .. field .. '":(%d+)'))
end

-- Writes a session in both places, and its user among those who are online.
local function write(connection, user, stored, partition, reachable, forgotten, now)
    local connections, online = connections_key(user), online_key(partition)
    redis.call('SET', session_key(connection), stored, 'PXAT', forgotten)
    redis.call('HSET', connections, connection, stored)
    keep_until(connections, forgotten)
    redis.call('ZADD', online, 'GT', reachable, user)
    redis.call('ZREMRANGEBYSCORE', online, '-inf', now)
end

-- Takes a connection away from a user, who is offline if it was the last one.
local function take_away(user, connection, partition)
    local connections = connections_key(user)
    redis.call('HDEL', connections, connection)
    if redis.call('EXISTS', connections) == 0 then redis.call('ZREM', online_key(partition), user) end
end
