
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include "fuzz.h"


/*
 * Lines of the spool that others may have written or damaged.
 *
 * The first character of the input says what stands around the rest of it, the
 * second which allocation fails, counted from "0" for none.
 */


#define fuzz_start                                                            \
    "\"v\":1,\"id\":\"0123456789abcdef0123456789abcdef\","                    \
    "\"received\":\"2026-11-23T08:11:13.123456Z\","                           \
    "\"event\":\"resume.bulk_upload_parse.started\","                         \
    "\"timestamp\":\"2024-01-20T14:45:00Z\""


typedef struct {
    ngx_str_t   before;
    ngx_str_t   after;
} fuzz_around_t;


typedef enum {
    fuzz_line = 0,
    fuzz_payload,
    fuzz_members,
    fuzz_headers,
    fuzz_raw,
    fuzz_dead
} fuzz_place_e;


static void fuzz_accepted(ngx_http_taptalent_event_t *ev, ngx_str_t *received,
    ngx_str_t *line);
static void fuzz_body(ngx_http_taptalent_event_t *ev, ngx_str_t *line);
static void fuzz_payload_is_body(ngx_int_t rc, ngx_str_t *body,
    ngx_str_t *payload);


static fuzz_around_t  fuzz_around[] = {

    { ngx_string(""), ngx_string("") },

    { ngx_string("{" fuzz_start ",\"companyId\":\"c\",\"headers\":{},"
                 "\"payload\":"),
      ngx_string("}\n") },

    { ngx_string("{" fuzz_start ","),
      ngx_string(",\"payload\":{}}\n") },

    { ngx_string("{" fuzz_start ",\"companyId\":null,\"headers\":{"),
      ngx_string("},\"payload\":{}}\n") },

    { ngx_string("{" fuzz_start ",\"companyId\":\"c\",\"raw\":\""),
      ngx_string("\",\"payload\":{}}\n") },

    { ngx_string("{\"dead\":{"),
      ngx_string("}," fuzz_start ",\"payload\":{}}\n") }
};


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    ngx_int_t                    rc;
    ngx_str_t                    input, line, received;
    ngx_pool_t                  *pool;
    ngx_uint_t                   place, fail;
    ngx_http_taptalent_event_t   ev;

    if (size < 2) {
        return 0;
    }

    place = (u_char) (data[0] - '0')
            % (sizeof(fuzz_around) / sizeof(fuzz_around_t));
    fail = (u_char) (data[1] - '0');

    input = fuzz_copy(data + 2, size - 2);

    line = fuzz_join(&fuzz_around[place].before, &input,
                     &fuzz_around[place].after);

    if (fail) {
        pool = fuzz_pool();

        fuzz_fail_malloc(fail);

        rc = ngx_http_taptalent_line_read(&ev, &received, &line, pool);

        if (fuzz_malloc_failed()) {
            fuzz_check(rc == NGX_ABORT);
        }
    }

    rc = ngx_http_taptalent_line_read(&ev, &received, &line, fuzz_pool());

    switch (rc) {

    case NGX_OK:
        fuzz_accepted(&ev, &received, &line);
        break;

    case NGX_DECLINED:
    case NGX_ERROR:
        break;

    default:
        fuzz_check(!"an answer of the reader");
    }

    if (place == fuzz_payload) {
        fuzz_payload_is_body(rc, &ev.body, &input);
    }

    free(line.data);
    free(input.data);

    return 0;
}


static void
fuzz_accepted(ngx_http_taptalent_event_t *ev, ngx_str_t *received,
    ngx_str_t *line)
{
    size_t                        n;
    time_t                        sec;
    ngx_str_t                    *s;
    ngx_uint_t                    i;
    ngx_http_taptalent_header_t  *header;

    fuzz_check(ngx_http_taptalent_event_name(&ev->name));
    fuzz_check(ngx_http_taptalent_event_timestamp(ev->timestamp.data,
                                                  ev->timestamp.len, NULL));
    fuzz_check(ngx_http_taptalent_event_timestamp(received->data,
                                                  received->len, &sec));
    fuzz_check(ev->received.tv_sec >= sec);

    fuzz_check(ev->id.data == ev->id_text
               && ev->id.len == NGX_HTTP_TAPTALENT_ID_LEN);

    for (i = 0; i < ev->id.len; i++) {
        fuzz_check(isdigit(ev->id.data[i])
                   || (ev->id.data[i] >= 'a' && ev->id.data[i] <= 'f'));
    }

    if (ev->company_id.len) {
        fuzz_check(ngx_http_taptalent_event_company(ev->company_id.data,
                                                    ev->company_id.len));
    }

    if (ev->host.len) {
        fuzz_check(ngx_http_taptalent_event_host(ev->host.data, ev->host.len,
                                                 &n));
        fuzz_check(n > 0 && n <= ev->host.len);
    }

    for (i = 0; i < ev->nheaders; i++) {
        header = &ev->headers[i];

        s = &header->name;

        fuzz_check(ngx_http_taptalent_name_is(s, "content-type")
                   || (s->len > sizeof("x-webhook-") - 1
                       && ngx_strncmp(s->data, "x-webhook-",
                                      sizeof("x-webhook-") - 1)
                          == 0));
        fuzz_check(memchr(s->data, CR, s->len) == NULL);
        fuzz_check(memchr(s->data, LF, s->len) == NULL);
        fuzz_check(memchr(s->data, ':', s->len) == NULL);
        fuzz_check(memchr(s->data, ' ', s->len) == NULL);
        fuzz_check(memchr(s->data, '\0', s->len) == NULL);

        s = &header->value;

        fuzz_check(memchr(s->data, CR, s->len) == NULL);
        fuzz_check(memchr(s->data, LF, s->len) == NULL);
        fuzz_check(memchr(s->data, '\0', s->len) == NULL);
    }

    fuzz_body(ev, line);
}


/* a body that is not in the line is in the pool, and what "raw" has said */

static void
fuzz_body(ngx_http_taptalent_event_t *ev, ngx_str_t *line)
{
    u_char  *p, *last;

    fuzz_touch(&ev->body);

    if (ev->newline) {
        return;
    }

    fuzz_check(ev->body.len > 0);
    fuzz_check(ev->body.data > line->data);

    p = ev->body.data + ev->body.len;
    last = line->data + line->len;

    /* the last of the line's members: nothing follows but the end */

    fuzz_check(p < last && *p == '}');

    for (p++; p < last; p++) {
        fuzz_check(*p == ' ' || *p == '\t' || *p == CR || *p == LF);
    }
}


/* what the parser of bodies takes for an object is read back, to the byte */

static void
fuzz_payload_is_body(ngx_int_t rc, ngx_str_t *body, ngx_str_t *payload)
{
    size_t                       i;
    const char                  *why;
    ngx_http_taptalent_event_t   ev;

    ngx_memzero(&ev, sizeof(ngx_http_taptalent_event_t));

    ev.body = *payload;
    ngx_str_set(&ev.name, "a");

    if (ngx_http_taptalent_event_parse(&ev, &why) == NGX_HTTP_TAPTALENT_JSON) {
        return;
    }

    for (i = 0; i < payload->len; i++) {

        if (payload->data[i] == '{') {
            fuzz_check(rc == NGX_OK);
            fuzz_check(fuzz_same(body, payload));
            return;
        }

        if (payload->data[i] > ' ') {
            return;
        }
    }
}
