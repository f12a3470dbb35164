-- Who is behind a connection, and whether that user may do what it asks for.
-- Returns {session, verdict, milliseconds, has other devices, is to be disconnected}, or nothing for an unknown one.
local connection, now = ARGV[1], tonumber(ARGV[2])
local class, cost, burst, interval = ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
local refusals_burst, refusals_interval = tonumber(ARGV[7]), tonumber(ARGV[8])
local blocked_for, kick_again, lifetime = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
-- Only of a message: to whom, unless it is for a room; how often to somebody new, and how many are remembered; as how much
-- it counts, how much of one sender may wait, and for how long.
local is_message, to = ARGV[12] ~= '', ARGV[13]
local new_burst, new_interval, remembered = tonumber(ARGV[14]), tonumber(ARGV[15]), tonumber(ARGV[16])
local weight, share, retention = tonumber(ARGV[17]), tonumber(ARGV[18]), tonumber(ARGV[19])
-- Of a message for a room: the bucket.
local room_burst, room_interval, room_cost = tonumber(ARGV[20]), tonumber(ARGV[21]), tonumber(ARGV[22])
-- How long recipients are remembered; messages of one user within a day.
local remembered_for, day_burst, day_interval = tonumber(ARGV[23]), tonumber(ARGV[24]), tonumber(ARGV[25])

local stored = redis.call('GET', session_key(connection))
if not stored then return false end
local user = cjson.decode(stored).user
local expires = number_in(stored, 'expires')
-- Whoever may do nothing has nothing counted but that it speaks.
if string.byte(user) == 1 or (expires and expires <= now) then is_message = false end

local function has_other_devices()
    if to == '' or number_in(stored, 'version') ~= 2 then return 0 end
    local connections = connections_key(user)
    if redis.call('HLEN', connections) < 2 then return 0 end
    local all = redis.call('HGETALL', connections)
    for i = 1, #all, 2 do
        local other = all[i + 1]
        if all[i] ~= connection and number_in(other, 'version') == 2 then
            local ends = number_in(other, 'expires')
            if (number_in(other, 'connected') or 0) + lifetime > now and (not ends or ends > now) then return 1 end
        end
    end
    return 0
end

local function meets(recipient)
    if new_burst == 0 then return 0 end
    local known = user_key('k', user)
    local met = tonumber(redis.call('ZSCORE', known, recipient))
    if met then
        -- Once a day is enough to know who was written to last.
        if now - met > 86400000 then
            redis.call('ZADD', known, now, recipient)
            redis.call('PEXPIRE', known, remembered_for)
        end
        return 0
    end
    local wait = take(user_key('b', user, ':n'), new_burst, new_interval, 1, now)
    if wait > 0 then return wait end
    redis.call('ZADD', known, now, recipient)
    redis.call('ZREMRANGEBYRANK', known, 0, -remembered - 1)
    redis.call('PEXPIRE', known, remembered_for)
    return 0
end

local function fits(recipient)
    if share == 0 then return true end
    local recent, before = user_key('f', recipient), user_key('f', recipient, ':before')
    local waits = tonumber(redis.call('HGET', recent, user) or 0) + tonumber(redis.call('HGET', before, user) or 0)
    if waits + weight > share then return false end
    redis.call('HINCRBY', recent, user, weight)
    redis.call('PEXPIRE', recent, retention)
    return true
end

-- What is refused: how, and for how long.
local function refusal()
    if burst > 0 then
        local wait = take(user_key('b', user, class), burst, interval, cost, now)
        if wait > 0 then return 'limited', wait end
        if class == ':s' then
            wait = take(user_key('b', user, ':d'), day_burst, day_interval, 1, now)
            if wait > 0 then return 'limited', wait end
        end
    end
    if not is_message or to == user then return nil end
    if to == '' then
        if room_burst == 0 then return nil end
        local wait = take(user_key('b', user, ':g'), room_burst, room_interval, room_cost, now)
        if wait > 0 then return 'limited', wait end
        return nil
    end
    local wait = meets(to)
    if wait > 0 then return 'limited', wait end
    if class == ':s' and not fits(to) then return 'full', 0 end
    return nil
end

local function blocked(left)
    local is_first = redis.call('SET', user_key('x', user, ':told'), 1, 'NX', 'PX', kick_again)
    return { stored, 'blocked', left, 0, is_first and 1 or 0 }
end

local left = redis.call('PTTL', blocked_key(user))
if left > 0 then return blocked(left) end
local verdict, wait = refusal()
-- Acks are made by others' messages, so nobody is blocked for too many of them.
if verdict == 'limited' and class ~= ':a' and take(user_key('b', user, ':x'), refusals_burst, refusals_interval, 1, now) > 0 then
    redis.call('SET', blocked_key(user), 1, 'PX', blocked_for)
    return blocked(blocked_for)
end
local others = not verdict and class == ':s' and is_message and has_other_devices() or 0
return { stored, verdict or 'granted', wait or 0, others, 0 }
