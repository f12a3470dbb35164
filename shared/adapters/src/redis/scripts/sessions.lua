-- Writing and removing sessions.

local function ended_key(connection) return 'ks:z:' .. connection end
local function connections_key(user) return user_key('u', user, ':c') end
local function online_key(partition) return 'ks:on:{' .. partition .. '}' end

-- Extends the life of a key to that moment, unless it lives longer. The remaining time counts from the present, not
-- from the session's time.
local function keep_until(key, moment)
    local time = redis.call('TIME')
    local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
    if redis.call('PTTL', key) < moment - now then redis.call('PEXPIREAT', key, moment) end
end

-- Writes a session in both places, and its user among those who are online.
local function write(connection, user, stored, partition, reachable, retained_until, now)
    local connections, online = connections_key(user), online_key(partition)
    redis.call('SET', session_key(connection), stored, 'PXAT', retained_until)
    redis.call('HSET', connections, connection, stored)
    keep_until(connections, retained_until)
    redis.call('ZADD', online, 'GT', reachable, user)
    redis.call('ZREMRANGEBYSCORE', online, '-inf', now)
end

-- Removes a connection from a user, who is offline if it was the last one.
local function remove_connection(user, connection, partition)
    local connections = connections_key(user)
    redis.call('HDEL', connections, connection)
    if redis.call('EXISTS', connections) == 0 then redis.call('ZREM', online_key(partition), user) end
end
