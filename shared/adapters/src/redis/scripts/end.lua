-- Forgets a connection that has ended. Returns {user, 1}, with an empty user if none is known. A session of a release
-- before does not say in which partition its user is: then the caller has to take the connection away, and gets {user, 0}.
local connection, ended = ARGV[1], tonumber(ARGV[2])

local known = redis.call('GET', session_key(connection))
local session = known and cjson.decode(known)
local user = session and session.user or redis.call('GET', ended_key(connection)) or ''
if known then
    redis.call('DEL', session_key(connection))
    if session.partition then take_away(user, connection, session.partition) end
end
-- Last, and whether or not there is memory for it: what has ended must be gone.
redis.pcall('SET', ended_key(connection), user, 'PX', ended)
return { user, known and not session.partition and 0 or 1 }
