// The receiver in Fastify, by somebody who knows that fdatasync() is what
// costs: the checks, then a file for all events that arrive while the one
// before is being written.
//
//     node fastify.js PORT SPOOL

"use strict";

const fastify = require("fastify")({ logger: false });
const event = require("./event");

const [port, spool] = process.argv.slice(2);

fastify.addContentTypeParser("application/json", { parseAs: "string" },
    function (req, body, done) {
        try {
            done(null, { body, payload: JSON.parse(body) });
        } catch (e) {
            e.statusCode = 400;
            done(e);
        }
    });

fastify.post("/", async function (req, reply) {
    const { body, payload } = req.body;
    const refused = event.refused(req.headers, payload);

    if (refused) {
        reply.code(refused[0]);
        return { received: false, error: refused[1] };
    }

    try {
        await event.group(spool, event.line(payload.event, body));
    } catch (e) {
        console.error(e);
        reply.code(503);
        return { received: false, error: "unavailable" };
    }

    return { received: true };
});

fastify.listen({ port: Number(port), host: "127.0.0.1" });
