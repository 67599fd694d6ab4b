
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include "fuzz.h"


/*
 * The way of a body through the module: parsed, written to a line of the
 * spool, and read back, which must give the same bytes again.
 *
 * The first line of the input is "<flag><n><header>": an odd flag allows a
 * missing companyId, the n-th allocation fails, counted from "0" for none, and
 * the rest is the value of a header.  The body follows.  The headers that have
 * to be equal to what is in the body, or of its form, are taken from there.
 */


static void fuzz_written(ngx_http_taptalent_event_t *ev);
static void fuzz_read_back(ngx_http_taptalent_event_t *ev, ngx_str_t *line,
    time_t sec, ngx_uint_t fail);
static ngx_str_t fuzz_member(ngx_str_t *body, const char *name);
static ngx_uint_t fuzz_newline(ngx_str_t *body);


static ngx_str_t  fuzz_nothing = ngx_string("");

static ngx_str_t  fuzz_name = ngx_string("resume.bulk_upload_parse.started");
static ngx_str_t  fuzz_timestamp = ngx_string("2024-01-20T14:45:00Z");

static ngx_str_t  fuzz_received = ngx_string("2026-11-23T08:11:13.123456Z");
static ngx_str_t  fuzz_dead = ngx_string(
    "{\"dead\":{\"reason\":\"permanent\",\"status\":422,\"attempts\":1,"
    "\"at\":\"2026-11-23T08:11:14Z\"},");

#define FUZZ_RECEIVED  1795421473


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char                        *lf;
    ngx_str_t                      value;
    ngx_uint_t                     fail, i;
    const char                    *why;
    ngx_http_taptalent_event_t     ev;
    ngx_http_taptalent_header_t    headers[3];
    ngx_http_taptalent_verdict_e   verdict;

    if (size < 3) {
        return 0;
    }

    lf = memchr(data + 2, LF, size - 2);

    if (lf == NULL) {
        return 0;
    }

    ngx_memzero(&ev, sizeof(ngx_http_taptalent_event_t));

    ev.missing_company_id = data[0] & 1;
    fail = (u_char) (data[1] - '0');

    /* nginx lets neither of these through in a header */

    value = fuzz_copy(data + 2, lf - (data + 2));

    for (i = 0; i < value.len; i++) {
        if (value.data[i] == CR || value.data[i] == '\0') {
            value.data[i] = ' ';
        }
    }

    ev.body = fuzz_copy(lf + 1, data + size - (lf + 1));

    ev.name = fuzz_member(&ev.body, "\"event\":\"");

    if (!ngx_http_taptalent_event_name(&ev.name)) {
        ev.name = fuzz_name;
    }

    ev.timestamp = fuzz_member(&ev.body, "\"timestamp\":\"");

    if (!ngx_http_taptalent_event_timestamp(ev.timestamp.data,
                                            ev.timestamp.len, NULL))
    {
        ev.timestamp = fuzz_timestamp;
    }

    ngx_str_set(&headers[0].name, "content-type");
    headers[0].value = value;
    ngx_str_set(&headers[1].name, "x-webhook-event");
    headers[1].value = ev.name;
    ngx_str_set(&headers[2].name, "x-webhook-!#$%&'*+-.^_`|~0");
    headers[2].value = value;

    ev.headers = headers;
    ev.nheaders = value.len % 4;
    ev.received.tv_sec = FUZZ_RECEIVED;
    ev.received.tv_nsec = 123456789;

    fuzz_check(ngx_http_taptalent_event_id(&ev) == NGX_OK);

    why = NULL;

    fuzz_fail_malloc(fail);

    verdict = ngx_http_taptalent_event_parse(&ev, &why);

    if (fuzz_malloc_failed()) {
        fuzz_check(verdict == NGX_HTTP_TAPTALENT_UNAVAILABLE && why != NULL);

        /* with memory again it is as if nothing had been */

        verdict = ngx_http_taptalent_event_parse(&ev, &why);
    }

    switch (verdict) {

    case NGX_HTTP_TAPTALENT_NONE:
        fuzz_written(&ev);
        break;

    case NGX_HTTP_TAPTALENT_JSON:
    case NGX_HTTP_TAPTALENT_PAYLOAD:
    case NGX_HTTP_TAPTALENT_EVENT_MISMATCH:
        fuzz_check(why != NULL);
        break;

    default:
        fuzz_check(!"a verdict of the parser");
    }

    free(value.data);
    free(ev.body.data);

    return 0;
}


static void
fuzz_written(ngx_http_taptalent_event_t *ev)
{
    u_char     *p;
    size_t      len;
    ngx_str_t   line, dead, rest;

    fuzz_check(ev->newline == fuzz_newline(&ev->body));

    if (ev->company_id.len == 0) {
        fuzz_check(ev->missing_company_id && ev->company_json.len == 0);

    } else {
        fuzz_check(ngx_http_taptalent_event_company(ev->company_id.data,
                                                    ev->company_id.len));
        fuzz_touch(&ev->company_json);
    }

    len = ngx_http_taptalent_line_len(ev);

    p = malloc(len);
    fuzz_check(p != NULL);

    line.data = p;
    line.len = ngx_http_taptalent_line_write(ev, p) - p;

    fuzz_check(line.len <= len);
    fuzz_check(memchr(p, LF, line.len) == p + line.len - 1);
    fuzz_check(memchr(p, CR, line.len) == NULL);

    line = fuzz_copy(line.data, line.len);
    free(p);

    fuzz_read_back(ev, &line, FUZZ_RECEIVED, 0);
    fuzz_read_back(ev, &line, FUZZ_RECEIVED, 1 + line.len % 16);

    /* without its LF */

    p = line.data;
    line = fuzz_copy(p, line.len - 1);
    free(p);

    fuzz_read_back(ev, &line, FUZZ_RECEIVED, 0);

    /* the spool's dead letters */

    rest.data = line.data + 1;
    rest.len = line.len - 1;

    dead = fuzz_join(&fuzz_dead, &rest, &fuzz_nothing);

    fuzz_read_back(ev, &dead, FUZZ_RECEIVED + 1, 0);

    free(dead.data);
    free(line.data);
}


static void
fuzz_read_back(ngx_http_taptalent_event_t *ev, ngx_str_t *line, time_t sec,
    ngx_uint_t fail)
{
    ngx_int_t                    rc;
    ngx_str_t                    received;
    ngx_uint_t                   i;
    ngx_pool_t                  *pool;
    ngx_http_taptalent_event_t   back;

    pool = fuzz_pool();

    fuzz_fail_malloc(fail);

    rc = ngx_http_taptalent_line_read(&back, &received, line, pool);

    if (fuzz_malloc_failed()) {
        fuzz_check(rc == NGX_ABORT);
        return;
    }

    fuzz_check(rc == NGX_OK);

    fuzz_check(fuzz_same(&back.body, &ev->body));
    fuzz_check(fuzz_same(&back.name, &ev->name));
    fuzz_check(fuzz_same(&back.timestamp, &ev->timestamp));
    fuzz_check(fuzz_same(&back.id, &ev->id));
    fuzz_check(fuzz_same(&back.company_id, &ev->company_id));
    fuzz_check(fuzz_same(&received, &fuzz_received));
    fuzz_check(back.received.tv_sec == sec);

    fuzz_check(back.nheaders == ev->nheaders);

    for (i = 0; i < ev->nheaders; i++) {
        fuzz_check(fuzz_same(&back.headers[i].name, &ev->headers[i].name));
        fuzz_check(fuzz_same(&back.headers[i].value, &ev->headers[i].value));
    }
}


/* what is between the first such name and the next quote */

static ngx_str_t
fuzz_member(ngx_str_t *body, const char *name)
{
    u_char     *p, *last;
    ngx_str_t   value;

    last = body->data + body->len;

    p = memmem(body->data, body->len, name, ngx_strlen(name));

    if (p == NULL) {
        return fuzz_nothing;
    }

    p += ngx_strlen(name);

    value.data = p;

    while (p < last && *p != '"') {
        p++;
    }

    value.len = p - value.data;

    return value;
}


static ngx_uint_t
fuzz_newline(ngx_str_t *body)
{
    return memchr(body->data, LF, body->len) != NULL
           || memchr(body->data, CR, body->len) != NULL;
}
