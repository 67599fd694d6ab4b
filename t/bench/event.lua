-- wrk: the sender's documented event, each with a body of its own

local thread = 0

function setup(t)
    t:set("id", thread)
    thread = thread + 1
end

local n = 0

local headers = {
    ["Content-Type"] = "application/json",
    ["X-Webhook-Event"] = "resume.bulk_upload_parse.started",
    ["X-Webhook-Timestamp"] = "2024-01-20T14:45:00Z"
}

function request()
    n = n + 1
    return wrk.format("POST", nil, headers,
        '{"event":"resume.bulk_upload_parse.started",'
        .. '"timestamp":"2024-01-20T14:45:00Z",'
        .. '"companyId":"company-uuid",'
        .. '"data":{"batchId":"' .. id .. '-' .. n .. '","fileCount":25}}')
end
