-- Takes a connection away from a user, and forgets it if it is that user's.
local connection, user, partition = ARGV[1], ARGV[2], ARGV[3]

local known = redis.call('GET', session_key(connection))
if known and cjson.decode(known).user == user then redis.call('DEL', session_key(connection)) end
take_away(user, connection, partition)
return 1
