-- The counters of one user: one value, so that a step reads it once and writes it once.
--
-- The numbers are milliseconds since 1970: when each token bucket is full again, until when the user is blocked, and
-- until when its owner need not be told again to close its connections.
local SENDS, SENDS_A_DAY, ACKS, REQUESTS, CONNECTS, NEW_RECIPIENTS, ROOMS, REFUSALS, BLOCKED, TOLD = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
local LAYOUT, LENGTH = '<dddddddddd', 80

local function read_account(key)
    local stored = redis.call('GET', key)
    if not stored or #stored ~= LENGTH then return { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0 } end
    return { struct.unpack(LAYOUT, stored) }
end

-- Writes an account. It expires when nothing in it matters any more.
local function write_account(key, account, now)
    local last = now
    for i = 1, 10 do
        if account[i] > last then last = account[i] end
    end
    redis.call('SET', key, struct.pack(LAYOUT, unpack(account, 1, 10)), 'PX', math.ceil(last - now) + 1)
end

-- Takes tokens from a bucket (generic cell rate algorithm). Returns the milliseconds to wait, 0 if the cost was taken.
local function take(account, bucket, burst, interval, cost, now)
    local full_at = account[bucket]
    if full_at < now then full_at = now end
    if cost > burst then cost = burst end
    local next = full_at + cost * interval
    local wait = next - burst * interval - now
    if wait >= 1 then return math.ceil(wait) end
    account[bucket], account.changed = next, true
    return 0
end
