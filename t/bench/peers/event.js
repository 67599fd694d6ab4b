// What the receivers in Node share: the sender's checks, and two ways to make
// an event durable.

"use strict";

const fs = require("fs");
const promises = fs.promises;

const DATE = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/;

// [status, error] if it is none of ours; the payload is parsed already

exports.refused = function (headers, payload) {
    const event = headers["x-webhook-event"];
    const timestamp = headers["x-webhook-timestamp"];

    if (!/^application\/json *(;|$)/i.test(headers["content-type"] || "")) {
        return [415, "content_type"];
    }

    if (!event || !/^[A-Za-z0-9._:-]{1,128}$/.test(event)) {
        return [400, "event_header"];
    }

    if (!timestamp || !DATE.test(timestamp)) {
        return [400, "timestamp_header"];
    }

    if (payload === null || typeof payload !== "object"
        || typeof payload.event !== "string"
        || typeof payload.timestamp !== "string"
        || !DATE.test(payload.timestamp)
        || payload.data === null || typeof payload.data !== "object")
    {
        return [422, "payload"];
    }

    if (payload.event !== event) {
        return [422, "event_mismatch"];
    }

    if (String(payload.companyId) !== "company-uuid") {
        return [403, "company_id"];
    }

    return null;
};

exports.line = function (event, body) {
    return `{"received":${Date.now() / 1000},"event":"${event}","payload":`
           + `${body.replace(/[\r\n]/g, " ")}}\n`;
};

// One durable file: written in tmp/, flushed, renamed to new/, new/ flushed.

let sequence = 0;
let directory = null;

const write = exports.write = async function (spool, events, content) {
    const name = `${Date.now()}-${process.pid}-${sequence++}-${events}`
                 + "-00000000.ndjson";

    directory = directory || promises.open(`${spool}/new`, "r");

    const file = await promises.open(`${spool}/tmp/${name}`, "wx", 0o600);

    try {
        await file.writeFile(content);
        await file.datasync();
    } finally {
        await file.close();
    }

    await promises.rename(`${spool}/tmp/${name}`, `${spool}/new/${name}`);
    await (await directory).sync();
};

// A file for all that arrive while the one before is being written.

let gathering = null;
let last = Promise.resolve();

exports.group = function (spool, line) {
    if (gathering) {
        gathering.lines.push(line);
        return gathering.done;
    }

    const batch = gathering = { lines: [line] };

    batch.done = last.then(function () {
        gathering = null;
        return write(spool, batch.lines.length, batch.lines.join(""));
    });

    last = batch.done.catch(function () {});

    return batch.done;
};
