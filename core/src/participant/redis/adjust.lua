-- KEYS: a balance. ARGV: the amount; `firm` if this op must not be refused.
local largest = 9007199254740991
local amount, firm = tonumber(ARGV[1]), ARGV[2] == 'firm'
local text = redis.call('GET', KEYS[1])
if not text then
    if not firm then
        return redis.error_reply('FAILURE there is no balance ' .. KEYS[1])
    end
    text = '0'
end
if text ~= '0' and not string.match(text, '^%-?[1-9]%d*$') then
    return redis.error_reply('ERR the balance ' .. KEYS[1] .. ' is not an integer')
end
local before = tonumber(text)
local after = before + amount
if math.abs(before) > largest or math.abs(after) > largest then
    return redis.error_reply('ERR the balance ' .. KEYS[1] .. ' is too large to be checked: it must stay below 2^53')
end
if amount < 0 and after < 0 and not firm then
    return redis.error_reply('FAILURE the balance ' .. KEYS[1] .. ' is too small')
end
return redis.call('INCRBY', KEYS[1], ARGV[1])
