-- Removes an ended connection. Returns {user, 1}, with an empty user if none is known. A session of a previous release
-- does not name its user's partition: then the caller has to remove the connection, and gets {user, 0}.
local connection = ARGV[1]

local known = redis.call('GET', session_key(connection))
local session = known and cjson.decode(known)
local user = session and session.user or redis.call('GET', ended_key(connection)) or ''
if known then
    redis.call('DEL', session_key(connection))
    if session.partition then remove_connection(user, connection, session.partition) end
end
-- Last, and whether or not there is memory for it: an ended connection must be gone.
redis.pcall('SET', ended_key(connection), user, 'PX', ENDED_KEPT)
return { user, known and not session.partition and 0 or 1 }
