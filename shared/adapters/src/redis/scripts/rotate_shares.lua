-- Moves the counts since the last rotation to those before this one. A repetition drops them, too: then some sender may
-- have a little more waiting than its share.
local recent, before = ARGV[1], ARGV[2]

if redis.call('EXISTS', recent) == 1 then
    redis.call('RENAME', recent, before)
else
    redis.call('UNLINK', before)
end
return 1
