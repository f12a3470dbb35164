-- What was counted since the last rotation is what was counted before this one. A repetition forgets that, too: then some
-- sender may have a little more waiting than its share.
local recent, before = ARGV[1], ARGV[2]

if redis.call('EXISTS', recent) == 1 then
    redis.call('RENAME', recent, before)
else
    redis.call('UNLINK', before)
end
return 1
