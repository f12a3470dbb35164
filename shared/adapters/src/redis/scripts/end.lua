-- Forgets a connection that has ended. Returns {user, 1}, with an empty user if none is known. A session of a release
-- before does not say in which partition its user is: then the caller has to take the connection away, and gets {user, 0}.
local connection, ended = ARGV[1], tonumber(ARGV[2])

local known = redis.call('GET', session_key(connection))
local user = known and cjson.decode(known).user or redis.call('GET', ended_key(connection)) or ''
redis.call('SET', ended_key(connection), user, 'PX', ended)
if not known then return { user, 1 } end
local partition = cjson.decode(known).partition
redis.call('DEL', session_key(connection))
if not partition then return { user, 0 } end
take_away(user, connection, partition)
return { user, 1 }
