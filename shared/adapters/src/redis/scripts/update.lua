-- Replaces a session, if it equals the expected one. Returns {'done'}, {'changed', session} or {'gone'}.
local connection, user, old, new, partition = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local reachable, retained_until, now = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])

local known = redis.call('GET', session_key(connection))
if not known then return { 'gone', false } end
if known ~= old and known ~= new then return { 'changed', known } end
write(connection, user, new, partition, reachable, retained_until, now)
return { 'done', false }
