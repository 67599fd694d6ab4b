-- wrk: the sender's documented event, each with a body of its own.
--
--     wrk -s event.lua URL -- TAG SIZE FROM TO
--
-- TAG tells the bodies of this run from those of another; SIZE is the size of a
-- body; FROM and TO are times of the wall clock, and what is counted are the
-- requests between the two: connections are made and TLS is negotiated before.
--
-- Only the number in the body changes, so that wrk, which shares the machine
-- with nginx, costs as little as it can: wrk.format() costs more than nginx.

local ffi = require "ffi"

ffi.cdef [[
    struct timespec { long sec; long nsec; };
    int clock_gettime(int clock, struct timespec *now);
]]

local now = ffi.new("struct timespec")
local format = string.format
local threads = {}
local head, tail

n = 0

function setup(thread)
    table.insert(threads, thread)
    thread:set("id", #threads)
end

function init(args)
    local tag, size = args[1], tonumber(args[2])

    from, to = tonumber(args[3]), tonumber(args[4])

    local start = '{"event":"resume.bulk_upload_parse.started",'
                  .. '"timestamp":"2024-01-20T14:45:00Z",'
                  .. '"companyId":"company-uuid",'
                  .. '"data":{"batchId":"' .. tag .. "-" .. id .. "-"
    local filler = size - #start - 10 - #'","fileCount":25,"note":""}}'

    tail = '","fileCount":25,"note":"' .. string.rep("x", filler) .. '"}}'

    head = "POST " .. wrk.path .. " HTTP/1.1\r\n"
           .. "Host: " .. wrk.headers["Host"] .. "\r\n"
           .. "Content-Type: application/json\r\n"
           .. "X-Webhook-Event: resume.bulk_upload_parse.started\r\n"
           .. "X-Webhook-Timestamp: 2024-01-20T14:45:00Z\r\n"
           .. "Content-Length: " .. #start + 10 + #tail .. "\r\n\r\n" .. start
end

function request()
    ffi.C.clock_gettime(0, now)

    local time = tonumber(now.sec) + tonumber(now.nsec) / 1e9

    if time >= from then
        first = first or n

        if time <= to then
            last = n
        end
    end

    n = n + 1

    return head .. format("%010d", n) .. tail
end

-- One line for the bench. A status of 4xx and 5xx is an error to wrk.

function done(summary, latency, requests)
    local rate, before = 0, 0

    for _, thread in ipairs(threads) do
        local first, last = thread:get("first"), thread:get("last")

        if last then
            rate = rate + (last - first) / (thread:get("to")
                                            - thread:get("from"))
            before = before + first
        end
    end

    local e = summary.errors

    io.write(format("bench rate=%.2f before=%d answers=%d refused=%d broken=%d"
                    .. " timeouts=%d\n", rate, before,
                    summary.requests, e.status, e.connect + e.read + e.write,
                    e.timeout))
end
