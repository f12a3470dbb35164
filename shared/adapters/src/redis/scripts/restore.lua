-- Writes a lost session again, unless there is one. Returns 'done', 'gone' if the connection has ended, or 'many' if
-- its user has the maximum number of others by now.
local connection, user, stored, partition = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local reachable, retained_until, now, limit = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

if redis.call('EXISTS', ended_key(connection)) == 1 then return 'gone' end
if redis.call('EXISTS', session_key(connection)) == 1 then return 'done' end
if redis.call('HLEN', connections_key(user)) >= limit then return 'many' end
write(connection, user, stored, partition, reachable, retained_until, now)
return 'done'
