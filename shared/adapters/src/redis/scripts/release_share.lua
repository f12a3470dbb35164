-- Releases what was counted of a sender for a message that did not enter the queue.
local recent, sender, weight = ARGV[1], ARGV[2], tonumber(ARGV[3])

local waits = tonumber(redis.call('HGET', recent, sender) or 0)
if waits > weight then
    redis.call('HINCRBY', recent, sender, -weight)
else
    redis.call('HDEL', recent, sender)
end
return 1
