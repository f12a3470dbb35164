-- Common code of the scripts: the names of keys. Each script is one atomic step and may be repeated.
--
-- A Redis Cluster would have to know the keys beforehand, so it is refused at connect.

-- Escapes the braces and percent signs of a free part, so that it can't end the key early.
local function part(text)
    if not string.find(text, '[%%{}]') then return text end
    return (string.gsub(text, '[%%{}]', { ['%'] = '%25', ['{'] = '%7B', ['}'] = '%7D' }))
end

local function user_key(prefix, user, suffix)
    return 'ks:' .. prefix .. ':{' .. part(user) .. '}' .. (suffix or '')
end

local function session_key(connection) return 'ks:c:' .. connection end

-- Reads a number of a stored session. Its first fields have a fixed order, so nothing else need be read. A quote within
-- a text is escaped, so no user id can contain such a field.
local function number_in(stored, field)
    return tonumber(string.match(stored, '"' .. field .. '":(%d+)'))
end

-- Reads the user of a stored session.
local function user_of(stored)
    return string.match(stored, '^{"user":"([^"\\]*)"') or cjson.decode(stored).user
end
