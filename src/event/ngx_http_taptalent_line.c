
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_line.h"
#include "ngx_http_taptalent_json.h"


/*
 * The line of an event in the spool, which docs/spool.md promises to consumers:
 *
 *   {"v":1,...,"payload":...}
 *   {"refused":{...},"v":1,...,"payload":...}            of a quarantine
 *   {"dead":{...},"v":1,...,"payload":...}               of dead/
 *   {"dead":{...},"refused":{...},"v":1,...}             of both
 *
 * The payload is the body as it came, and the last member.
 */


typedef struct {
    ngx_http_taptalent_event_t   *event;
    ngx_pool_t                   *pool;
    u_char                       *line;

    ngx_uint_t                    depth;
    ngx_str_t                     member;    /* the last of the line */
    ngx_str_t                     inner;     /* the last of an object in it */
    size_t                        value;     /* offset behind its name */

    ngx_str_t                     version;
    ngx_str_t                     id;
    ngx_str_t                     received;
    ngx_str_t                     given_up;
    ngx_str_t                     raw;
    ngx_str_t                     payload;
    ngx_array_t                   headers;

    unsigned                      nomem:1;
    unsigned                      damaged:1;

    u_char                        name[16];  /* where "member" is */

    ngx_http_taptalent_json_t     json;
} ngx_http_taptalent_line_ctx_t;


static u_char *ngx_http_taptalent_line_headers(u_char *p,
    ngx_http_taptalent_event_t *ev);
static u_char *ngx_http_taptalent_line_payload(u_char *p,
    ngx_http_taptalent_event_t *ev);

static long ngx_http_taptalent_line_fraction(ngx_str_t *timestamp);
static ngx_uint_t ngx_http_taptalent_line_id(ngx_str_t *id);
static int ngx_http_taptalent_line_key(void *data, const u_char *p,
    size_t len);
static int ngx_http_taptalent_line_string(void *data, const u_char *p,
    size_t len);
static int ngx_http_taptalent_line_header(ngx_http_taptalent_line_ctx_t *ctx,
    ngx_str_t *value, const u_char *p, size_t len);
static int ngx_http_taptalent_line_number(void *data, const char *p,
    size_t len);
static int ngx_http_taptalent_line_start(void *data);
static int ngx_http_taptalent_line_start_array(void *data);
static int ngx_http_taptalent_line_end(void *data);


static yajl_callbacks  ngx_http_taptalent_line_callbacks = {
    NULL,                                  /* null */
    NULL,                                  /* boolean */
    NULL,                                  /* integer, a number below */
    NULL,                                  /* double, a number below */
    ngx_http_taptalent_line_number,
    ngx_http_taptalent_line_string,
    ngx_http_taptalent_line_start,
    ngx_http_taptalent_line_key,
    ngx_http_taptalent_line_end,
    ngx_http_taptalent_line_start_array,
    ngx_http_taptalent_line_end
};


size_t
ngx_http_taptalent_line_len(ngx_http_taptalent_event_t *ev)
{
    size_t      len;
    ngx_uint_t  i;

    len = sizeof("{\"v\":1,\"id\":\"\""
                 ",\"received\":\"2026-11-23T08:11:13.123456Z\""
                 ",\"event\":\"\",\"timestamp\":\"\",\"companyId\":\"null\""
                 ",\"host\":\"\""
                 ",\"headers\":{},\"raw\":\"\",\"payload\":}\n")
          + ev->id.len + ev->name.len + ev->timestamp.len + ev->host.len
          + ev->company_json.len + ev->body.len;

    /* "\u00XX" is the longest that a byte becomes */

    for (i = 0; i < ev->nheaders; i++) {
        len += sizeof("\"\":\"\",") + ev->headers[i].name.len
               + 6 * ev->headers[i].value.len;
    }

    if (ev->newline) {
        len += ngx_base64_encoded_length(ev->body.len);
    }

    return len;
}


u_char *
ngx_http_taptalent_line_write(ngx_http_taptalent_event_t *ev, u_char *p)
{
    ngx_tm_t  tm;

    ngx_gmtime(ev->received.tv_sec, &tm);

    p = ngx_sprintf(p, "{\"v\":1,\"id\":\"%V\",\"received\":"
                    "\"%4d-%02d-%02dT%02d:%02d:%02d.%06uiZ\","
                    "\"event\":\"%V\",\"timestamp\":\"%V\",\"companyId\":",
                    &ev->id,
                    tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday,
                    tm.ngx_tm_hour, tm.ngx_tm_min, tm.ngx_tm_sec,
                    (ngx_uint_t) ev->received.tv_nsec / 1000,
                    &ev->name, &ev->timestamp);

    if (ev->company_json.len == 0) {
        p = ngx_cpymem(p, "null", sizeof("null") - 1);

    } else if (ev->company_json.data[0] == '"') {
        p = ngx_cpymem(p, ev->company_json.data, ev->company_json.len);

    } else {
        *p++ = '"';
        p = ngx_cpymem(p, ev->company_json.data, ev->company_json.len);
        *p++ = '"';
    }

    if (ev->host.len) {
        p = ngx_sprintf(p, ",\"host\":\"%V\"", &ev->host);
    }

    p = ngx_http_taptalent_line_headers(p, ev);
    p = ngx_http_taptalent_line_payload(p, ev);

    *p++ = '}';
    *p++ = LF;

    return p;
}


/*
 * A value of a header is bytes (RFC 9110, 5.5), a string of JSON characters:
 * each byte becomes the character of its number, so that it can be restored.
 */

static u_char *
ngx_http_taptalent_line_headers(u_char *p, ngx_http_taptalent_event_t *ev)
{
    u_char       c;
    ngx_str_t   *value;
    ngx_uint_t   i, n;

    p = ngx_cpymem(p, ",\"headers\":{", sizeof(",\"headers\":{") - 1);

    for (i = 0; i < ev->nheaders; i++) {

        if (i) {
            *p++ = ',';
        }

        /* a token (RFC 9110, 5.6.2) has nothing to escape */

        *p++ = '"';
        p = ngx_cpymem(p, ev->headers[i].name.data, ev->headers[i].name.len);
        *p++ = '"';
        *p++ = ':';
        *p++ = '"';

        value = &ev->headers[i].value;

        for (n = 0; n < value->len; n++) {
            c = value->data[n];

            if (c < 0x20 || c >= 0x7f) {
                p = ngx_sprintf(p, "\\u%04xi", (ngx_int_t) c);
                continue;
            }

            if (c == '"' || c == '\\') {
                *p++ = '\\';
            }

            *p++ = c;
        }

        *p++ = '"';
    }

    *p++ = '}';

    return p;
}


static u_char *
ngx_http_taptalent_line_payload(u_char *p, ngx_http_taptalent_event_t *ev)
{
    u_char     *payload;
    ngx_str_t   raw;

    if (ev->newline) {
        p = ngx_cpymem(p, ",\"raw\":\"", sizeof(",\"raw\":\"") - 1);

        raw.data = p;
        ngx_encode_base64(&raw, &ev->body);
        p += raw.len;

        *p++ = '"';
    }

    p = ngx_cpymem(p, ",\"payload\":", sizeof(",\"payload\":") - 1);

    payload = p;
    p = ngx_cpymem(p, ev->body.data, ev->body.len);

    if (ev->newline) {
        for ( /* void */ ; payload < p; payload++) {
            if (*payload == CR || *payload == LF) {
                *payload = ' ';
            }
        }
    }

    return p;
}


size_t
ngx_http_taptalent_line_refused_len(ngx_http_taptalent_event_t *ev,
    ngx_str_t *verdict)
{
    return ngx_http_taptalent_line_len(ev)
           + sizeof("{\"refused\":{\"verdict\":\"\"},") + verdict->len;
}


u_char *
ngx_http_taptalent_line_write_refused(ngx_http_taptalent_event_t *ev,
    ngx_str_t *verdict, u_char *p)
{
    u_char  *start;

    p = ngx_sprintf(p, "{\"refused\":{\"verdict\":\"%V\"}", verdict);

    /* the line's own brace becomes a comma */

    start = p;
    p = ngx_http_taptalent_line_write(ev, p);
    *start = ',';

    return p;
}


ngx_uint_t
ngx_http_taptalent_line_is_refused(u_char *data, size_t len)
{
    return len >= NGX_HTTP_TAPTALENT_REFUSED_LEN
           && ngx_strncmp(data, "{\"refused\":",
                          NGX_HTTP_TAPTALENT_REFUSED_LEN)
              == 0;
}


size_t
ngx_http_taptalent_line_dead_len(ngx_str_t *line, const char *reason)
{
    return line->len
           + sizeof("\"dead\":{\"reason\":\"\",\"status\":,\"attempts\":,"
                    "\"at\":\"2026-11-23T08:11:13Z\"},\n")
           + ngx_strlen(reason) + 2 * NGX_INT_T_LEN;
}


u_char *
ngx_http_taptalent_line_write_dead(u_char *p, ngx_str_t *line,
    const char *reason, ngx_uint_t status, ngx_uint_t attempts, time_t at)
{
    u_char     *end;
    ngx_tm_t    tm;
    ngx_str_t   text;

    ngx_gmtime(at, &tm);

    /* behind the brace, where an earlier "dead" may stand, which is left out */

    text = *line;

    if (text.len > sizeof("{\"dead\":") - 1
        && ngx_strncmp(text.data, "{\"dead\":", sizeof("{\"dead\":") - 1) == 0)
    {
        end = ngx_strlchr(text.data, text.data + text.len, '}');

        if (end && end + 1 < text.data + text.len && end[1] == ',') {
            text.len -= end + 1 - text.data;
            text.data = end + 1;
        }
    }

    *p++ = '{';
    p = ngx_sprintf(p, "\"dead\":{\"reason\":\"%s\",\"status\":%ui,"
                    "\"attempts\":%ui,"
                    "\"at\":\"%4d-%02d-%02dT%02d:%02d:%02dZ\"},",
                    reason, status, attempts,
                    tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday,
                    tm.ngx_tm_hour, tm.ngx_tm_min, tm.ngx_tm_sec);
    p = ngx_cpymem(p, text.data + 1, text.len - 1);
    *p++ = LF;

    return p;
}


ngx_int_t
ngx_http_taptalent_line_read(ngx_http_taptalent_event_t *ev,
    ngx_str_t *received, ngx_str_t *line, ngx_pool_t *pool)
{
    time_t                         given_up;
    ngx_int_t                      rc;
    ngx_http_taptalent_line_ctx_t  ctx;

    ngx_memzero(ev, sizeof(ngx_http_taptalent_event_t));
    ngx_memzero(&ctx, offsetof(ngx_http_taptalent_line_ctx_t, json));

    ctx.event = ev;
    ctx.pool = pool;
    ctx.line = line->data;

    if (ngx_array_init(&ctx.headers, pool, 4,
                       sizeof(ngx_http_taptalent_header_t))
        != NGX_OK)
    {
        return NGX_ABORT;
    }

    rc = ngx_http_taptalent_json_parse(&ctx.json,
                                       &ngx_http_taptalent_line_callbacks,
                                       &ctx, line);

    if (rc == NGX_ABORT || ctx.nomem) {
        return NGX_ABORT;
    }

    if (rc != NGX_OK || ctx.damaged || ctx.version.len == 0) {
        return NGX_ERROR;
    }

    if (ctx.version.len != 1 || ctx.version.data[0] != '1') {
        return NGX_DECLINED;
    }

    if (!ngx_http_taptalent_event_name(&ev->name)
        || !ngx_http_taptalent_event_timestamp(ev->timestamp.data,
                                               ev->timestamp.len, NULL)
        || !ngx_http_taptalent_event_timestamp(ctx.received.data,
                                               ctx.received.len,
                                               &ev->received.tv_sec)
        || !ngx_http_taptalent_line_id(&ctx.id)
        || ctx.payload.len == 0)
    {
        return NGX_ERROR;
    }

    ev->received.tv_nsec = ngx_http_taptalent_line_fraction(&ctx.received);

    if (ctx.given_up.len) {

        if (!ngx_http_taptalent_event_timestamp(ctx.given_up.data,
                                                ctx.given_up.len, &given_up))
        {
            return NGX_ERROR;
        }

        if (ev->received.tv_sec < given_up) {
            ev->received.tv_sec = given_up;
            ev->received.tv_nsec = 0;
        }
    }

    *received = ctx.received;

    ngx_memcpy(ev->id_text, ctx.id.data, NGX_HTTP_TAPTALENT_ID_LEN);
    ev->id.data = ev->id_text;
    ev->id.len = NGX_HTTP_TAPTALENT_ID_LEN;

    ev->company_id.data = ev->company_text;

    ev->headers = ctx.headers.elts;
    ev->nheaders = ctx.headers.nelts;

    ev->body = ctx.payload;

    if (ctx.raw.len) {

        ev->newline = 1;

        ev->body.data = ngx_pnalloc(pool,
                                    ngx_base64_decoded_length(ctx.raw.len));
        if (ev->body.data == NULL) {
            return NGX_ABORT;
        }

        if (ngx_decode_base64(&ev->body, &ctx.raw) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* nanoseconds, of a date-time that is known to be one */

static long
ngx_http_taptalent_line_fraction(ngx_str_t *timestamp)
{
    long     nsec, digit;
    u_char  *p, *last;

    p = timestamp->data + sizeof("2026-11-23T08:11:13") - 1;
    last = timestamp->data + timestamp->len;

    nsec = 0;

    if (*p != '.') {
        return nsec;
    }

    digit = 100000000;

    for (p++; p < last && *p >= '0' && *p <= '9'; p++) {
        nsec += (*p - '0') * digit;
        digit /= 10;
    }

    return nsec;
}


/* the id is sent as a header, so it must be hex digits and nothing else */

static ngx_uint_t
ngx_http_taptalent_line_id(ngx_str_t *id)
{
    size_t  i;

    if (id->len != NGX_HTTP_TAPTALENT_ID_LEN) {
        return 0;
    }

    for (i = 0; i < id->len; i++) {

        if ((id->data[i] < '0' || id->data[i] > '9')
            && (id->data[i] < 'a' || id->data[i] > 'f'))
        {
            return 0;
        }
    }

    return 1;
}


static int
ngx_http_taptalent_line_key(void *data, const u_char *p, size_t len)
{
    ngx_str_t                      *name;
    ngx_http_taptalent_line_ctx_t  *ctx;

    ctx = data;

    if (ctx->depth == 1) {
        ctx->member.data = ctx->name;
        ctx->member.len = ngx_min(len, sizeof(ctx->name));
        ngx_memcpy(ctx->name, p, ctx->member.len);

        ctx->value = yajl_get_bytes_consumed(ctx->json.yajl);
        ctx->payload.len = 0;
        return 1;
    }

    if (ctx->depth != 2) {
        return 1;
    }

    if (ngx_http_taptalent_name_is(&ctx->member, "headers")
        && !ngx_http_taptalent_event_header(p, len))
    {
        ctx->damaged = 1;
        return 0;
    }

    name = &ctx->inner;

    name->len = len;
    name->data = ngx_pnalloc(ctx->pool, len + 1);

    if (name->data == NULL) {
        ctx->nomem = 1;
        return 0;
    }

    ngx_memcpy(name->data, p, len);

    return 1;
}


static int
ngx_http_taptalent_line_string(void *data, const u_char *p, size_t len)
{
    size_t                          n;
    ngx_str_t                      *value, company;
    ngx_http_taptalent_header_t    *header;
    ngx_http_taptalent_line_ctx_t  *ctx;

    ctx = data;
    value = NULL;

    if (ctx->depth == 2) {

        if (ngx_http_taptalent_name_is(&ctx->member, "headers")) {

            header = ngx_array_push(&ctx->headers);
            if (header == NULL) {
                ctx->nomem = 1;
                return 0;
            }

            header->name = ctx->inner;

            return ngx_http_taptalent_line_header(ctx, &header->value, p, len);
        }

        if (ngx_http_taptalent_name_is(&ctx->member, "dead")
            && ngx_http_taptalent_name_is(&ctx->inner, "at"))
        {
            value = &ctx->given_up;
        }

    } else if (ctx->depth == 1) {

        if (ngx_http_taptalent_name_is(&ctx->member, "id")) {
            value = &ctx->id;

        } else if (ngx_http_taptalent_name_is(&ctx->member, "received")) {
            value = &ctx->received;

        } else if (ngx_http_taptalent_name_is(&ctx->member, "event")) {
            value = &ctx->event->name;

        } else if (ngx_http_taptalent_name_is(&ctx->member, "timestamp")) {
            value = &ctx->event->timestamp;

        } else if (ngx_http_taptalent_name_is(&ctx->member, "raw")) {
            value = &ctx->raw;

        } else if (ngx_http_taptalent_name_is(&ctx->member, "host")) {

            if (!ngx_http_taptalent_event_host(p, len, &n)) {
                ctx->damaged = 1;
                return 0;
            }

            value = &ctx->event->host;

        } else if (ngx_http_taptalent_name_is(&ctx->member, "companyId")) {

            if (!ngx_http_taptalent_event_company(p, len)) {
                ctx->damaged = 1;
                return 0;
            }

            ngx_memcpy(ctx->event->company_text, p, len);

            company.len = len;
            company.data = ctx->event->company_text;
            ctx->event->company_id = company;
        }
    }

    if (value == NULL) {
        return 1;
    }

    value->len = len;
    value->data = ngx_pnalloc(ctx->pool, len + 1);

    if (value->data == NULL) {
        ctx->nomem = 1;
        return 0;
    }

    ngx_memcpy(value->data, p, len);

    return 1;
}


/* the characters up to U+00FF are the bytes of the header again */

static int
ngx_http_taptalent_line_header(ngx_http_taptalent_line_ctx_t *ctx,
    ngx_str_t *value, const u_char *p, size_t len)
{
    u_char        *d;
    const u_char  *last;

    d = ngx_pnalloc(ctx->pool, len + 1);
    if (d == NULL) {
        ctx->nomem = 1;
        return 0;
    }

    value->data = d;
    last = p + len;

    while (p < last) {

        if (*p < 0x80) {

            /* these would end the header that the value is sent in */

            if (*p == CR || *p == LF || *p == '\0') {
                ctx->damaged = 1;
                return 0;
            }

            *d++ = *p++;
            continue;
        }

        if ((*p != 0xc2 && *p != 0xc3) || last - p < 2) {
            ctx->damaged = 1;
            return 0;
        }

        *d++ = (u_char) ((p[0] << 6) | (p[1] & 0x3f));
        p += 2;
    }

    value->len = d - value->data;

    return 1;
}


static int
ngx_http_taptalent_line_number(void *data, const char *p, size_t len)
{
    ngx_http_taptalent_line_ctx_t *ctx = data;

    if (ctx->depth == 1 && ngx_http_taptalent_name_is(&ctx->member, "v")) {
        ctx->version.data = (u_char *) p;
        ctx->version.len = len;
    }

    return 1;
}


static int
ngx_http_taptalent_line_start(void *data)
{
    ngx_http_taptalent_line_ctx_t *ctx = data;

    /* the payload is one level deeper than it was as a body */

    return ++ctx->depth <= NGX_HTTP_TAPTALENT_MAX_DEPTH + 1;
}


static int
ngx_http_taptalent_line_start_array(void *data)
{
    ngx_http_taptalent_line_ctx_t *ctx = data;

    /* strings of an array would be taken for values of the last name */

    if (ctx->depth == 1
        && ngx_http_taptalent_name_is(&ctx->member, "headers"))
    {
        ctx->damaged = 1;
        return 0;
    }

    return ngx_http_taptalent_line_start(ctx);
}


static int
ngx_http_taptalent_line_end(void *data)
{
    size_t                         end;
    ngx_http_taptalent_line_ctx_t *ctx = data;

    ctx->depth--;

    end = yajl_get_bytes_consumed(ctx->json.yajl);

    if (ctx->depth == 0) {
        ctx->json.end = end;

        /* the payload is all that is between its colon and the last brace */

        if (ctx->payload.len) {
            ctx->payload.len = ctx->line + end - 1 - ctx->payload.data;
        }

        return 1;
    }

    if (ctx->depth == 1
        && ngx_http_taptalent_name_is(&ctx->member, "payload"))
    {

        while (ctx->line[ctx->value] != ':') {
            ctx->value++;
        }

        ctx->payload.data = ctx->line + ctx->value + 1;
        ctx->payload.len = end - ctx->value - 1;
    }

    return 1;
}
