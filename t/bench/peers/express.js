// The receiver in Express, as the sender's documentation begins it: the checks,
// then a file for each event.
//
//     node express.js PORT SPOOL

"use strict";

const express = require("express");
const event = require("./event");

const [port, spool] = process.argv.slice(2);
const app = express();

app.disable("x-powered-by");
app.disable("etag");
app.use(express.text({ type: "application/json", limit: "1mb" }));

app.post("/", async function (req, res) {
    let payload;

    try {
        payload = JSON.parse(req.body);
    } catch (e) {
        return res.status(400).json({ received: false, error: "json" });
    }

    const refused = event.refused(req.headers, payload);

    if (refused) {
        return res.status(refused[0]).json({ received: false,
                                             error: refused[1] });
    }

    try {
        await event.write(spool, 1, event.line(payload.event, req.body));
    } catch (e) {
        console.error(e);
        return res.status(503).json({ received: false, error: "unavailable" });
    }

    res.json({ received: true });
});

app.listen(Number(port), "127.0.0.1");
