-- Creates a connection conditionally. Returns {'done'}, {'many', 1 if the others should be checked}, {'limited',
-- milliseconds}, {'taken'} or {'gone'}.
local connection, user, stored, partition = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local reachable, retained_until, now = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local limit, burst, interval = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])
-- Empty unless the connection moves from a provisional user.
local instead_of, instead_partition = ARGV[11], ARGV[12]

if redis.call('EXISTS', ended_key(connection)) == 1 then return { 'gone', false } end
local known = redis.call('GET', session_key(connection))
local known_user = known and user_of(known)
if known_user == user then return { 'done', false } end
if known_user and known_user ~= instead_of then return { 'taken', false } end
if not known and instead_of ~= '' then return { 'gone', false } end

local account_key = user_key('b', user)
local account = read_account(account_key)
if account[BLOCKED] > now then return { 'limited', math.ceil(account[BLOCKED] - now) } end
if burst > 0 then
    local wait = take(account, CONNECTS, burst, interval, 1, now)
    if wait > 0 then return { 'limited', wait } end
    write_account(account_key, account, now)
end

local connections = connections_key(user)
if redis.call('HLEN', connections) >= limit then
    -- Disconnects are lost now and then: a connection that has surely ended frees capacity.
    local all = redis.call('HGETALL', connections)
    for i = 1, #all, 2 do
        local connected = number_in(all[i + 1], 'connected')
        if not connected or connected + SESSION_LIFETIME <= now then redis.call('HDEL', connections, all[i]) end
    end
    if redis.call('HLEN', connections) >= limit then
        -- The first call within a while has the others checked, and waits for that.
        local is_first = redis.call('SET', user_key('x', user, ':checked'), 1, 'NX', 'PX', CHECK_AGAIN)
        return { 'many', is_first and 1 or 0 }
    end
end

if known then remove_connection(known_user, connection, instead_partition) end
write(connection, user, stored, partition, reachable, retained_until, now)
return { 'done', false }
