-- Rights: what the user that calls may do. It needs nothing of the other files.

-- gateway_may 0 [COMMAND …] → for each command what Valkey answers it with if that is an error, else ''
--   COMMAND is a JSON array of words. A command that reads is carried out, so it should name a key that does not exist. One that writes
--   never is: this function may not write, and Valkey looks at the user's rights before it refuses the write.
local function gateway_may(_, args)
  local answers = {}
  for i, text in ipairs(args) do
    local answer = redis.pcall(unpack(cjson.decode(text)))
    answers[i] = type(answer) == 'table' and answer.err or ''
  end
  return answers
end

redis.register_function{function_name = 'gateway_may', callback = gateway_may, flags = {'no-writes', 'allow-oom', 'allow-stale'}}
