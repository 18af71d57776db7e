-- KEYS: the op's own marker, the marker of what the op undoes if it undoes anything, the body's keys.
-- ARGV: the number of markers, the op, how long markers live in ms, the body's arguments.
local markers, op, ttl = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local own = KEYS[1]

local mark = redis.call('GET', own)
if mark == 'running' then
    return {'half_done', own}
elseif mark then
    return {op == 'msg' and 'duplicated' or mark == op and 'duplicate' or 'suspended', ''}
end
if markers == 2 then
    local undone = KEYS[2]
    local origin = redis.call('GET', undone)
    if origin == 'running' then
        return {'half_done', undone}
    elseif not origin or origin == 'rollback' then
        redis.call('SET', undone, 'rollback', 'PX', ttl)
        redis.call('SET', own, op, 'PX', ttl)
        return {'null_compensation', ''}
    end
end

-- What is not known to read only may write. A text to search, for a table would be filled anew in each call, which costs more than the rest.
local reads = ' GET MGET GETRANGE GETBIT BITCOUNT STRLEN EXISTS TYPE TTL PTTL TIME'
    .. ' HGET HMGET HGETALL HEXISTS HKEYS HVALS HLEN HSTRLEN LLEN LINDEX LRANGE'
    .. ' SCARD SISMEMBER SMISMEMBER SMEMBERS SINTER SUNION SDIFF'
    .. ' ZCARD ZCOUNT ZSCORE ZMSCORE ZRANK ZREVRANK ZRANGE ZREVRANGE ZRANGEBYSCORE ZREVRANGEBYSCORE'
    .. ' XLEN XRANGE XREVRANGE '
local wrote = false
local function watched(run)
    return function(command, ...)
        if not string.find(reads, ' ' .. string.upper(command) .. ' ', 1, true) then
            wrote = true
        end
        return run(command, ...)
    end
end
local handle = setmetatable({call = watched(redis.call), pcall = watched(redis.pcall)}, {__index = redis})
local keys, args = {}, {}
for i = markers + 1, #KEYS do
    keys[#keys + 1] = KEYS[i]
end
for i = 4, #ARGV do
    args[#args + 1] = ARGV[i]
end

redis.call('SET', own, 'running', 'PX', ttl)
local ended, value = pcall(body, keys, args, handle, handle)
local problem
if not ended then
    problem = value or 'the body raised an error'
elseif type(value) == 'table' then
    problem = value.err
end
if not problem then
    redis.call('SET', own, op, 'PX', ttl)
    return {'executed', value}
end
if type(problem) == 'table' then
    problem = problem.err or 'the body raised an error'
end
problem = string.gsub(tostring(problem), '^%-', '')
if wrote then
    return {'half_done', own .. ': ' .. problem}
end
redis.call('DEL', own)
-- An error of one word is given the code ERR by Redis.
local word = string.match(problem, '^ERR (FAILURE)$') or string.match(problem, '^%S+')
return {word == 'FAILURE' and 'failure' or 'failed', problem}
