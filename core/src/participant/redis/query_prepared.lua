-- KEYS: the marker of the message. ARGV: how long markers live in ms.
local mark = redis.call('GET', KEYS[1])
if mark == 'running' then
    return {'half_done', KEYS[1]}
elseif mark and mark ~= 'rollback' then
    return {'duplicate', ''}
elseif not mark then
    redis.call('SET', KEYS[1], 'rollback', 'PX', ARGV[1])
end
return {'failure', 'the local transaction of this message was not committed, and cannot be any more'}
