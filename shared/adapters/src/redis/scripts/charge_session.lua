-- Returns the session of a connection, and whether the limits allow the frame: {session, verdict, milliseconds, has
-- other devices, is to be disconnected}, or nothing for an unknown connection.
local connection, now = ARGV[1], tonumber(ARGV[2])
local bucket, cost, burst, interval = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- Only a message has the rest: its recipient, empty for a room; the bucket of new recipients; what it counts of the
-- sender's share, the share, and how long it counts; the bucket of messages to rooms, and what it costs there.
local to, new_burst, new_interval = ARGV[7], tonumber(ARGV[8]), tonumber(ARGV[9])
local weight, share, retention = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12])
local room_burst, room_interval, room_cost = tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])

local stored = redis.call('GET', session_key(connection))
if not stored then return false end
local user = user_of(stored)
local own = '{' .. part(user) .. '}'
local account_key = 'ks:b:' .. own
local account = read_account(account_key)

local expires = number_in(stored, 'expires')
-- Nothing is counted for a message that may not be sent.
if string.byte(user) == 1 or (expires and expires <= now) then to = nil end

-- Whether the user has another v2 connection that shows what is sent.
local function has_other_devices()
    if number_in(stored, 'version') ~= 2 then return 0 end
    local connections = 'ks:u:' .. own .. ':c'
    if redis.call('HLEN', connections) < 2 then return 0 end
    local all = redis.call('HGETALL', connections)
    for i = 1, #all, 2 do
        local other = all[i + 1]
        if all[i] ~= connection and number_in(other, 'version') == 2 then
            local ends = number_in(other, 'expires')
            if (number_in(other, 'connected') or 0) + SESSION_LIFETIME > now and (not ends or ends > now) then return 1 end
        end
    end
    return 0
end

-- Counts a recipient to whom the user has not written lately. Returns the time to wait.
local function count_recipient()
    if new_burst == 0 then return 0 end
    local known = 'ks:k:' .. own
    local last = redis.call('ZSCORE', known, to)
    -- Once a day is enough to keep the order of recipients.
    if last and now - tonumber(last) <= 86400000 then return 0 end
    if not last then
        local wait = take(account, NEW_RECIPIENTS, new_burst, new_interval, 1, now)
        if wait > 0 then return wait end
    end
    redis.call('ZADD', known, now, to)
    if not last then redis.call('ZREMRANGEBYRANK', known, 0, -KNOWN_RECIPIENTS - 1) end
    redis.call('PEXPIRE', known, RECIPIENTS_KEPT)
    return 0
end

-- Counts a message towards the sender's share of the recipient's queue, unless that is full.
local function fits_share()
    if share == 0 then return true end
    local recent = user_key('f', to)
    local counted = redis.call('HINCRBY', recent, user, weight)
    local before = redis.call('HGET', recent .. ':before', user)
    if counted + tonumber(before or 0) > share then
        redis.call('HINCRBY', recent, user, -weight)
        return false
    end
    -- Each sender's first message, and now and then one of the next, is often enough for a key that lives for days.
    if counted == weight or counted % 65536 < weight then redis.call('PEXPIRE', recent, retention) end
    return true
end

-- Returns the refusal of the frame, and for how long.
local function refusal()
    if burst > 0 then
        local wait = take(account, bucket, burst, interval, cost, now)
        if wait == 0 and bucket == SENDS then
            wait = take(account, SENDS_A_DAY, DAY_BURST, DAY_INTERVAL, 1, now)
        end
        if wait > 0 then return 'limited', wait end
    end
    if not to or to == user then return nil end
    local wait = 0
    if to ~= '' then
        wait = count_recipient()
    elseif room_burst > 0 then
        wait = take(account, ROOMS, room_burst, room_interval, room_cost, now)
    end
    if wait > 0 then return 'limited', wait end
    if to ~= '' and bucket == SENDS and not fits_share() then return 'full', 0 end
    return nil
end

local verdict, wait, should_disconnect, others = 'granted', 0, 0, 0
if account[BLOCKED] > now then
    verdict = 'blocked'
else
    local refused, left = refusal()
    verdict, wait = refused or verdict, left or wait
    -- Messages of others cause acks, so too many acks block nobody.
    if verdict == 'limited' and bucket ~= ACKS and take(account, REFUSALS, REFUSALS_BURST, REFUSALS_INTERVAL, 1, now) > 0 then
        account[BLOCKED], account.changed = now + BLOCKED_FOR, true
        verdict = 'blocked'
    end
end
if verdict == 'blocked' then
    wait = math.ceil(account[BLOCKED] - now)
    if account[TOLD] <= now then
        account[TOLD], account.changed, should_disconnect = now + KICK_AGAIN, true, 1
    end
end
if account.changed then write_account(account_key, account, now) end
if verdict == 'granted' and bucket == SENDS and to and to ~= '' then others = has_other_devices() end
return { stored, verdict, wait, others, should_disconnect }
