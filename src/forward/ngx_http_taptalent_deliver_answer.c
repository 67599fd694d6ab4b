
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_deliver_ctx.h"


/*
 * The answer to a delivery: whether it came to its end, its status, and what
 * else it says.
 */


static ngx_uint_t ngx_http_taptalent_deliver_answer_retry_after(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_taptalent_deliver_answer_seconds(ngx_str_t *value);
static void ngx_http_taptalent_deliver_answer_finalize(ngx_http_request_t *r,
    ngx_int_t rc);
static ngx_uint_t ngx_http_taptalent_deliver_answer_grpc_failed(
    ngx_http_upstream_t *u);
static ngx_table_elt_t *ngx_http_taptalent_deliver_answer_next(
    ngx_list_part_t **part, ngx_uint_t *i, ngx_str_t *name);
static ngx_uint_t ngx_http_taptalent_deliver_answer_complete(
    ngx_http_upstream_t *u);
static void ngx_http_taptalent_deliver_answer_look(
    ngx_http_taptalent_deliver_ctx_t *dctx, ngx_buf_t *b);
static size_t ngx_http_taptalent_deliver_answer_match(ngx_str_t *text,
    size_t matched, u_char c);


/* comes once more for what was sent when it came first */

ngx_int_t
ngx_http_taptalent_deliver_answer_ended(ngx_http_request_t *r, void *data,
    ngx_int_t rc)
{
    ngx_http_taptalent_deliver_ctx_t *dctx = data;

    ngx_http_taptalent_delivery_t  *d;

    d = dctx->ctx.delivery;

    /* a code of success may be all that the handler says: 201, 204 */

    if (dctx->code == NGX_OK
        && (rc == NGX_ERROR || rc >= NGX_HTTP_SPECIAL_RESPONSE
            || (rc >= NGX_HTTP_OK && !r->header_sent)))
    {
        dctx->code = rc;
    }

    d->status = 0;

    if (dctx->ctx.failed) {
        /* what was sent is not the event */

    } else if (dctx->ended
               && ngx_http_taptalent_deliver_answer_grpc_failed(r->upstream))
    {
        /* the status of HTTP is 200 all the same */

    } else if (dctx->ended) {
        d->status = r->headers_out.status;

    } else if (dctx->code > NGX_OK) {
        d->status = dctx->code;

        /* there will be no answer, but perhaps a log of subrequests */

        r->err_status = dctx->code;

    } else if (dctx->code == NGX_OK && dctx->local) {
        d->status = r->headers_out.status;
    }

    d->unconfirmed = (d->status >= 200 && d->status < 300
                      && dctx->matched < d->confirm.len);

    d->retry_after = ngx_http_taptalent_deliver_answer_retry_after(r);

    /* the code itself would have the core finalize the request once more */

    return NGX_OK;
}


/* seconds, RFC 9110, 10.2.3; 0 if there is none, or none that is valid */

static ngx_uint_t
ngx_http_taptalent_deliver_answer_retry_after(ngx_http_request_t *r)
{
    ngx_int_t         seconds;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    static ngx_str_t  name = ngx_string("Retry-After");

    i = 0;
    part = &r->headers_out.headers.part;

    for ( ;; ) {

        h = ngx_http_taptalent_deliver_answer_next(&part, &i, &name);

        if (h == NULL) {
            return 0;
        }

        if (h->hash == 0) {
            /* one that has been removed */
            continue;
        }

        seconds = ngx_http_taptalent_deliver_answer_seconds(&h->value);

        if (seconds != NGX_ERROR) {
            return seconds;
        }
    }
}


/* a number or a date; what is more than can be counted is long enough */

static ngx_int_t
ngx_http_taptalent_deliver_answer_seconds(ngx_str_t *value)
{
    time_t     t;
    size_t     i;
    ngx_int_t  n;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] < '0' || value->data[i] > '9') {
            break;
        }
    }

    if (value->len && i == value->len) {
        n = ngx_atoi(value->data, value->len);

        return (n == NGX_ERROR || n > NGX_MAX_INT32_VALUE)
               ? NGX_MAX_INT32_VALUE : n;
    }

    t = ngx_parse_http_time(value->data, value->len);

    if (t == (time_t) NGX_ERROR) {
        return NGX_ERROR;
    }

    return ngx_min(ngx_max(t - ngx_time(), 0), NGX_MAX_INT32_VALUE);
}


/*
 * Half an answer is no answer, whatever its status was.  The code that the
 * subrequest ends with does not tell: behind the header,
 * ngx_http_upstream_finalize_request() replaces its own by that of a flush.
 * But it first gives its own to the protocol's finalize_request(): 0 if the
 * end was seen.
 */

void
ngx_http_taptalent_deliver_answer_header(ngx_http_request_t *r)
{
    ngx_http_upstream_t               *u;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = ngx_http_taptalent_deliver_request_ctx(r);

    if (dctx == NULL) {
        return;
    }

    if (dctx->ctx.delivery->confirm.len) {
        r->filter_need_in_memory = 1;
    }

    dctx->local = 0;
    dctx->ended = 0;

#if (NGX_HTTP_CACHE)

    if (r->cached) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "an event was answered from a cache, the application "
                      "has not seen it: switch the cache off where "
                      "\"taptalent_webhook_forward\" leads to");
        return;
    }

#endif

    u = r->upstream;

    if (u == NULL || u->cleanup == NULL) {

        dctx->local = 1;
        return;
    }

    if (u->finalize_request != ngx_http_taptalent_deliver_answer_finalize) {
        dctx->finalize_request = u->finalize_request;
        u->finalize_request = ngx_http_taptalent_deliver_answer_finalize;
    }
}


static void
ngx_http_taptalent_deliver_answer_finalize(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = (ngx_http_taptalent_deliver_ctx_t *)
             ngx_http_get_module_ctx(r->main,
                                     ngx_http_taptalent_webhook_module);

    dctx->ended = (rc == NGX_OK
                   && ngx_http_taptalent_deliver_answer_complete(r->upstream));

    dctx->finalize_request(r, rc);
}


/* by "grpc-status", which is in the trailers, or in a header without a body */

static ngx_uint_t
ngx_http_taptalent_deliver_answer_grpc_failed(ngx_http_upstream_t *u)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    static ngx_str_t  name = ngx_string("grpc-status");

    if (u == NULL || u->schema.len < sizeof("grpc") - 1
        || ngx_strncmp(u->schema.data, "grpc", sizeof("grpc") - 1) != 0)
    {
        return 0;
    }

    part = &u->headers_in.trailers.part;

    if (part->nelts == 0) {
        part = &u->headers_in.headers.part;
    }

    i = 0;

    h = ngx_http_taptalent_deliver_answer_next(&part, &i, &name);

    return h && (h->value.len != 1 || h->value.data[0] != '0');
}


/*
 * The next header of that name in a list, or NULL.  "part" and "i" say where to
 * begin, and are set to what is behind the one that is returned.
 */

static ngx_table_elt_t *
ngx_http_taptalent_deliver_answer_next(ngx_list_part_t **part, ngx_uint_t *i,
    ngx_str_t *name)
{
    ngx_table_elt_t  *h;

    while (*part) {

        while (*i < (*part)->nelts) {

            h = (ngx_table_elt_t *) (*part)->elts + (*i)++;

            if (h->key.len == name->len
                && ngx_strncasecmp(h->key.data, name->data, name->len) == 0)
            {
                return h;
            }
        }

        *part = (*part)->next;
        *i = 0;
    }

    return NULL;
}


/*
 * By FastCGI, the end is END_REQUEST, or as much as Content-Length said.  nginx
 * takes the close of a connection that is not kept for the end too, and on one
 * that is kept it takes less than Content-Length for an error and the end.
 */

static ngx_uint_t
ngx_http_taptalent_deliver_answer_complete(ngx_http_upstream_t *u)
{
    ngx_connection_t  *c;
    ngx_event_pipe_t  *p;

    if (u->schema.len != sizeof("fastcgi://") - 1
        || ngx_strncmp(u->schema.data, "fastcgi://", u->schema.len) != 0)
    {
        return 1;
    }

    if (!u->buffering) {
        return u->length == 0;
    }

    p = u->pipe;
    c = u->peer.connection;

    /* an error of the connection after the end is none */

    return p->upstream_done
           && (!p->upstream_error || (c && c->read->error));
}


/*
 * The filters behind this one would work for nobody, and those for which a
 * subrequest is a part of a page can fail.
 */

ngx_int_t
ngx_http_taptalent_deliver_answer_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t                         *b;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = ngx_http_taptalent_deliver_request_ctx(r);

    if (dctx == NULL || in == NULL) {
        return NGX_DECLINED;
    }

    for ( /* void */ ; in; in = in->next) {

        b = in->buf;

        ngx_http_taptalent_deliver_answer_look(dctx, b);

        r->connection->sent += ngx_buf_size(b);

        b->pos = b->last;
        b->file_pos = b->file_last;
    }

    return NGX_OK;
}


static void
ngx_http_taptalent_deliver_answer_look(ngx_http_taptalent_deliver_ctx_t *dctx,
    ngx_buf_t *b)
{
    u_char     *p;
    ngx_str_t  *text;

    text = &dctx->ctx.delivery->confirm;

    if (!ngx_buf_in_memory(b)) {
        return;
    }

    for (p = b->pos; p < b->last; p++) {

        if (dctx->matched == text->len) {
            return;
        }

        dctx->matched = ngx_http_taptalent_deliver_answer_match(text,
                                                                dctx->matched,
                                                                *p);
    }
}


/*
 * How much of the text's beginning has been seen with one more byte: if it is
 * not the next one, the longest beginning that what was seen ends with.
 */

static size_t
ngx_http_taptalent_deliver_answer_match(ngx_str_t *text, size_t matched,
    u_char c)
{
    size_t  n;

    while (text->data[matched] != c) {

        if (matched == 0) {
            return 0;
        }

        n = matched;

        do {
            n--;
        } while (ngx_memcmp(text->data, text->data + matched - n, n) != 0);

        matched = n;
    }

    return matched + 1;
}
