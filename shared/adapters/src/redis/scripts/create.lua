-- Creates a connection under conditions. Returns {'done'}, {'many', 1 if the others should be checked}, {'limited', milliseconds}, {'taken'} or {'gone'}.
local connection, user, stored, partition = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local reachable, forgotten, now = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local limit, burst, interval = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
-- Empty unless the connection moves from a provisional user; how long it lives, in milliseconds.
local instead_of, instead_partition, lifetime = ARGV[11], ARGV[12], tonumber(ARGV[13])
local check_pause = tonumber(ARGV[14])

if redis.call('EXISTS', ended_key(connection)) == 1 then return { 'gone', false } end
local known = redis.call('GET', session_key(connection))
local known_user = known and cjson.decode(known).user
if known_user == user then return { 'done', false } end
if known_user and known_user ~= instead_of then return { 'taken', false } end
if not known and instead_of ~= '' then return { 'gone', false } end

local blocked = redis.call('PTTL', blocked_key(user))
if blocked > 0 then return { 'limited', blocked } end
if burst > 0 then
    local wait = take(user_key('b', user, ':c'), burst, interval, 1, now)
    if wait > 0 then return { 'limited', wait } end
end

local connections = connections_key(user)
if redis.call('HLEN', connections) >= limit then
    -- Disconnects get lost now and then: what has surely ended makes room.
    local all = redis.call('HGETALL', connections)
    for i = 1, #all, 2 do
        local connected = number_in(all[i + 1], 'connected')
        if not connected or connected + lifetime <= now then redis.call('HDEL', connections, all[i]) end
    end
    if redis.call('HLEN', connections) >= limit then
        -- The first one within a while has the others checked, and waits for that.
        local is_first = redis.call('SET', user_key('x', user, ':checked'), 1, 'NX', 'PX', check_pause)
        return { 'many', is_first and 1 or 0 }
    end
end

if known then take_away(known_user, connection, instead_partition) end
write(connection, user, stored, partition, reachable, forgotten, now)
return { 'done', false }
