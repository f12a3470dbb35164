-- Removes a connection from a user, and its session if it belongs to that user.
local connection, user, partition = ARGV[1], ARGV[2], ARGV[3]

local known = redis.call('GET', session_key(connection))
if known and user_of(known) == user then redis.call('DEL', session_key(connection)) end
remove_connection(user, connection, partition)
return 1
