
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_event.h"


/* The line of an event in the spool, docs/spool.md. */


static u_char *ngx_http_taptalent_write_headers(u_char *p,
    ngx_http_taptalent_event_t *ev);
static u_char *ngx_http_taptalent_write_payload(u_char *p,
    ngx_http_taptalent_event_t *ev);


size_t
ngx_http_taptalent_event_len(ngx_http_taptalent_event_t *ev)
{
    size_t      len;
    ngx_uint_t  i;

    len = sizeof("{\"v\":1,\"id\":\"\""
                 ",\"received\":\"2026-11-23T08:11:13.123456Z\""
                 ",\"event\":\"\",\"timestamp\":\"\",\"companyId\":\"null\""
                 ",\"headers\":{},\"raw\":\"\",\"payload\":}\n")
          + ev->id.len + ev->name.len + ev->timestamp.len
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
ngx_http_taptalent_event_write(ngx_http_taptalent_event_t *ev, u_char *p)
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

    p = ngx_http_taptalent_write_headers(p, ev);
    p = ngx_http_taptalent_write_payload(p, ev);

    *p++ = '}';
    *p++ = LF;

    return p;
}


/*
 * A value of a header is bytes (RFC 9110, 5.5), a string of JSON characters:
 * each byte becomes the character of its number, so that it can be restored.
 */

static u_char *
ngx_http_taptalent_write_headers(u_char *p, ngx_http_taptalent_event_t *ev)
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
ngx_http_taptalent_write_payload(u_char *p, ngx_http_taptalent_event_t *ev)
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
