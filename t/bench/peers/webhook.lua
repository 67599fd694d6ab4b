-- The receiver in Lua, for nginx with lua-nginx-module: the sender's checks,
-- then nothing (validate), a file for each event (file), or a file for all that
-- arrive while the one before is being written (group).
--
-- LuaJIT calls libc itself, there is no fsync() in Lua. It blocks the worker in
-- file(); in group() it runs in a thread of nginx's, see commit.lua.

local cjson = require "cjson.safe"
local commit = require "commit"
local semaphore = require "ngx.semaphore"

local M = {}


local function refuse(status, why)
    ngx.status = status
    ngx.print('{"received":false,"error":"', why, '"}')
    return ngx.exit(status)
end

local DATE = [[^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$]]

-- the event's body, if it is one of ours

local function checked()
    if ngx.req.get_method() ~= "POST" then
        return refuse(405, "method")
    end

    local var = ngx.var
    local content_type = var.http_content_type or ""
    local event = var.http_x_webhook_event
    local time = var.http_x_webhook_timestamp

    if not ngx.re.find(content_type, "^application/json *(;|$)", "ijo") then
        return refuse(415, "content_type")
    end

    if not event
       or not ngx.re.find(event, "^[A-Za-z0-9._:-]{1,128}$", "jo")
    then
        return refuse(400, "event_header")
    end

    if not time or not ngx.re.find(time, DATE, "jo") then
        return refuse(400, "timestamp_header")
    end

    ngx.req.read_body()

    local body = ngx.req.get_body_data()

    if not body then
        return refuse(413, "too_large")
    end

    local payload = cjson.decode(body)

    if not payload then
        return refuse(400, "json")
    end

    if type(payload) ~= "table" or type(payload.event) ~= "string"
       or type(payload.timestamp) ~= "string" or type(payload.data) ~= "table"
       or not ngx.re.find(payload.timestamp, DATE, "jo")
    then
        return refuse(422, "payload")
    end

    if payload.event ~= event then
        return refuse(422, "event_mismatch")
    end

    if tostring(payload.companyId) ~= "company-uuid" then
        return refuse(403, "company_id")
    end

    return body, event
end


-- a line break is only possible between tokens of JSON

local function line(body, event)
    if string.find(body, "[\r\n]") then
        body = string.gsub(body, "[\r\n]", " ")
    end

    return '{"received":' .. ngx.now() .. ',"event":"' .. event
           .. '","payload":' .. body .. "}\n"
end


function M.validate()
    checked()
    ngx.print('{"received":true}')
end


local sequence = 0

local function name(events)
    sequence = sequence + 1

    return string.format("%d-%d-%d-%d-00000000.ndjson", ngx.now() * 1000,
                         ngx.worker.pid(), sequence, events)
end


function M.file()
    local body, event = checked()
    local ok, err = commit.write(ngx.var.spool, name(1), line(body, event))

    if not ok then
        ngx.log(ngx.CRIT, err)
        return refuse(503, "unavailable")
    end

    ngx.print('{"received":true}')
end


-- One batch is with the thread, the next one gathers. Who opens a batch writes
-- it, as soon as the one before is done.

local gathering
local free = semaphore.new(1)

function M.group()
    local body, event = checked()
    local batch = gathering

    if batch then
        local n = batch.n + 1

        batch.n = n
        batch[n] = line(body, event)
        batch.done:wait(10)

    else
        batch = { n = 1, line(body, event), done = semaphore.new(0) }
        gathering = batch

        free:wait(10)
        gathering = nil

        local called, ok, err = ngx.run_worker_thread("commit", "commit",
            "write", ngx.var.spool, name(batch.n), table.concat(batch, "", 1,
                                                                batch.n))
        free:post(1)

        batch.ok = called and ok

        if not batch.ok then
            ngx.log(ngx.CRIT, err or ok)
        end

        if batch.n > 1 then
            batch.done:post(batch.n - 1)
        end
    end

    if not batch.ok then
        return refuse(503, "unavailable")
    end

    ngx.print('{"received":true}')
end


return M
