
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_status_writer.h"


/* Text into a chain of buffers, as JSON and as metrics need it. */


#define NGX_HTTP_TAPTALENT_WRITE  16384  /* bytes of a buffer */


static void ngx_http_taptalent_status_write_quoted(
    ngx_http_taptalent_writer_t *w, ngx_str_t *s, ngx_uint_t label);
static uint32_t ngx_http_taptalent_status_write_character(u_char **p,
    u_char *last);
static void ngx_http_taptalent_status_write_bytes(
    ngx_http_taptalent_writer_t *w, u_char *p, size_t len);


void
ngx_http_taptalent_status_write(ngx_http_taptalent_writer_t *w, const char *fmt,
    ...)
{
    u_char    buf[4096], *last;
    va_list   args;

    va_start(args, fmt);
    last = ngx_vslprintf(buf, buf + sizeof(buf), fmt, args);
    va_end(args);

    ngx_http_taptalent_status_write_bytes(w, buf, last - buf);
}


void
ngx_http_taptalent_status_write_string(ngx_http_taptalent_writer_t *w,
    ngx_str_t *s)
{
    ngx_http_taptalent_status_write_quoted(w, s, 0);
}


void
ngx_http_taptalent_status_write_label(ngx_http_taptalent_writer_t *w,
    ngx_str_t *s)
{
    ngx_http_taptalent_status_write_quoted(w, s, 1);
}


/*
 * One character at a time: it is for names.  A label has no other escapes than
 * \\, \" and \n.
 */

static void
ngx_http_taptalent_status_write_quoted(ngx_http_taptalent_writer_t *w,
    ngx_str_t *s, ngx_uint_t label)
{
    u_char     *p, *last, *start;
    u_char      buf[6];
    uint32_t    ch;

    ngx_http_taptalent_status_write_bytes(w, (u_char *) "\"", 1);

    p = s->data;
    last = p + s->len;

    while (p < last) {

        start = p;
        ch = ngx_http_taptalent_status_write_character(&p, last);

        if (ch > 0x10ffff) {
            ngx_http_taptalent_status_write_bytes(w, (u_char *) "?", 1);

        } else if (ch == LF || ch == '\\' || ch == '"'
                   || (ch < 0x80 && !label))
        {
            ngx_http_taptalent_status_write_bytes(w, buf,
                (u_char *) ngx_escape_json(buf, start, 1) - buf);

        } else {
            ngx_http_taptalent_status_write_bytes(w, start, p - start);
        }
    }

    ngx_http_taptalent_status_write_bytes(w, (u_char *) "\"", 1);
}


/* a byte that begins no character is one above 0x10ffff */

static uint32_t
ngx_http_taptalent_status_write_character(u_char **p, u_char *last)
{
    u_char    *start;
    uint32_t   ch;

    if (**p < 0x80) {
        return *(*p)++;
    }

    start = *p;
    ch = ngx_utf8_decode(p, last - *p);

    /* ngx_utf8_decode() takes surrogates for characters */

    if (ch >= 0xd800 && ch <= 0xdfff) {
        ch = 0x110000;
    }

    if (ch > 0x10ffff) {
        *p = start + 1;
    }

    return ch;
}


static void
ngx_http_taptalent_status_write_bytes(ngx_http_taptalent_writer_t *w, u_char *p,
    size_t len)
{
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (w->failed) {
        return;
    }

    b = w->buf;

    if (b == NULL || (size_t) (b->end - b->last) < len) {

        b = ngx_create_temp_buf(w->pool, ngx_max(len,
                                                 NGX_HTTP_TAPTALENT_WRITE));
        cl = ngx_alloc_chain_link(w->pool);

        if (b == NULL || cl == NULL) {
            w->failed = 1;
            return;
        }

        cl->buf = b;
        cl->next = NULL;

        *w->last = cl;
        w->last = &cl->next;
        w->buf = b;
    }

    b->last = ngx_cpymem(b->last, p, len);
    w->size += len;
}


void
ngx_http_taptalent_status_write_sum(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_distribution_t *d, ngx_http_taptalent_scale_t *scale)
{
    if (scale->unit == 1) {
        ngx_http_taptalent_status_write(w, "%uL", d->sum);
        return;
    }

    ngx_http_taptalent_status_write(w, "%uL.%06uL", d->sum / scale->unit,
                                    d->sum % scale->unit);
}


void
ngx_http_taptalent_status_write_histogram(ngx_http_taptalent_histogram_t *h,
    ngx_http_taptalent_scale_t *scale, ngx_http_taptalent_distribution_t *d)
{
    ngx_uint_t  i;

    d->sum = ngx_http_taptalent_wide_get(&h->sum);
    d->count = 0;

    for (i = 0; i < scale->n; i++) {
        d->count += h->buckets[i];
        d->buckets[i] = d->count;
    }

    d->count += h->buckets[i];
}
