// The receiver in njs, for nginx: the sender's checks, then a file for each
// event. njs has neither fsync() nor a way to flush a directory. What it has is
// a file opened with O_SYNC ("as"), so that the content is durable, but after a
// power cut the name may be that in tmp/ or not be there at all: it promises
// less than the others.

import fs from "fs";

const DATE = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;

function refuse(r, status, why) {
    r.return(status, `{"received":false,"error":"${why}"}`);
}

function checked(r) {
    const headers = r.headersIn;
    const event = headers["X-Webhook-Event"];
    const timestamp = headers["X-Webhook-Timestamp"];
    let payload;

    if (r.method !== "POST") {
        return refuse(r, 405, "method");
    }

    if (!/^application\/json *(;|$)/i.test(headers["Content-Type"] || "")) {
        return refuse(r, 415, "content_type");
    }

    if (!event || !/^[A-Za-z0-9._:-]{1,128}$/.test(event)) {
        return refuse(r, 400, "event_header");
    }

    if (!timestamp || !DATE.test(timestamp)) {
        return refuse(r, 400, "timestamp_header");
    }

    try {
        payload = JSON.parse(r.requestText);
    } catch (e) {
        return refuse(r, 400, "json");
    }

    if (payload === null || typeof payload !== "object"
        || typeof payload.event !== "string"
        || typeof payload.timestamp !== "string"
        || !DATE.test(payload.timestamp)
        || payload.data === null || typeof payload.data !== "object")
    {
        return refuse(r, 422, "payload");
    }

    if (payload.event !== event) {
        return refuse(r, 422, "event_mismatch");
    }

    if (String(payload.companyId) !== "company-uuid") {
        return refuse(r, 403, "company_id");
    }

    return event;
}

function validate(r) {
    if (checked(r)) {
        r.return(200, '{"received":true}');
    }
}

function file(r) {
    const event = checked(r);

    if (!event) {
        return;
    }

    const spool = r.variables.spool;
    const name = `${Date.now()}-${process.pid}-${r.variables.connection}`
                 + `-${r.variables.connection_requests}-1-00000000.ndjson`;
    const body = r.requestText.replace(/[\r\n]/g, " ");

    try {
        fs.writeFileSync(`${spool}/tmp/${name}`,
                         `{"received":${Date.now() / 1000},"event":"${event}"`
                         + `,"payload":${body}}\n`, { flag: "as" });
        fs.renameSync(`${spool}/tmp/${name}`, `${spool}/new/${name}`);
    } catch (e) {
        r.error(e.message);
        return refuse(r, 503, "unavailable");
    }

    r.return(200, '{"received":true}');
}

export default { validate, file };
