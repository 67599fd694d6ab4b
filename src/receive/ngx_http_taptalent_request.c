
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_request.h"


/* What the module needs of a request: its context, its body, its headers. */


static ngx_uint_t ngx_http_taptalent_request_body_is_unread(
    ngx_http_request_t *r);


ngx_http_taptalent_ctx_t *
ngx_http_taptalent_request_ctx(ngx_http_request_t *r)
{
    ngx_http_taptalent_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (ctx == NULL) {
        ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_taptalent_ctx_t));
        if (ctx == NULL) {
            return NULL;
        }

        ngx_http_set_ctx(r, ctx, ngx_http_taptalent_webhook_module);
    }

    return ctx;
}


/*
 * Another handler may have begun to read the body, and an error_page has led
 * here since.  nginx reads no rest then, and what was passed on is gone.
 */

ngx_uint_t
ngx_http_taptalent_request_body_is_whole(ngx_http_request_t *r)
{
    off_t                     left;
    ngx_chain_t              *cl;
    ngx_http_request_body_t  *rb;

    rb = r->request_body;

    if (rb == NULL) {
        return ngx_http_taptalent_request_body_is_unread(r);
    }

    /* a chunked body is discarded through one that nobody has asked for */

    if (rb->rest > 0 || (rb->chunked && rb->post_handler == NULL)) {
        return 0;
    }

    left = ngx_max(r->headers_in.content_length_n, 0);

    for (cl = rb->bufs; cl; cl = cl->next) {
        left -= ngx_buf_size(cl->buf);
    }

    return left == 0;
}


/* what was discarded is not in the length any more */

static ngx_uint_t
ngx_http_taptalent_request_body_is_unread(ngx_http_request_t *r)
{
    off_t       left;
    ngx_str_t  *value;

    left = r->headers_in.content_length_n;

    /* for a subrequest nothing is read */

    if (r != r->main) {
        return left <= 0 && !r->headers_in.chunked;
    }

    if (r->discard_body) {
        return 0;
    }

#if (NGX_HTTP_V2)
    if (r->stream && r->stream->skip_data) {
        return 0;
    }
#endif

    if (r->headers_in.chunked) {
        return left == -1;
    }

    if (r->headers_in.content_length == NULL) {
        return 1;
    }

    value = &r->headers_in.content_length->value;

    return ngx_atoof(value->data, value->len) == left;
}


/*
 * In one piece: mostly it is, or it is in a file, and rarely in two buffers.
 * NGX_OK or the status of an error.
 */

ngx_int_t
ngx_http_taptalent_request_read_body(ngx_http_request_t *r, ngx_str_t *body)
{
    u_char       *p;
    off_t         size;
    size_t        len;
    ssize_t       n;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return NGX_OK;
    }

    cl = r->request_body->bufs;
    b = cl->buf;

    if (cl->next == NULL && !b->in_file) {
        body->data = b->pos;
        body->len = b->last - b->pos;
        return NGX_OK;
    }

    size = 0;

    for ( /* void */ ; cl; cl = cl->next) {
        size += ngx_buf_size(cl->buf);
    }

    if (size > NGX_HTTP_TAPTALENT_FILE_MAX) {
        return NGX_HTTP_REQUEST_ENTITY_TOO_LARGE;
    }

    p = ngx_pnalloc(r->pool, size);
    if (p == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    body->data = p;
    body->len = size;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {

        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            p = ngx_cpymem(p, b->pos, b->last - b->pos);
            continue;
        }

        if (!b->in_file) {
            continue;
        }

        len = b->file_last - b->file_pos;

        n = ngx_read_file(b->file, p, len, b->file_pos);

        if (n != (ssize_t) len) {

            if (n != NGX_ERROR) {
                ngx_log_error(NGX_LOG_CRIT, r->connection->log, 0,
                              ngx_read_file_n " \"%V\" returned only %z bytes "
                              "instead of %uz", &b->file->name, n, len);
            }

            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        p += len;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_request_add_header(ngx_http_request_t *r, char *name,
    char *value)
{
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif
    h->key.len = ngx_strlen(name);
    h->key.data = (u_char *) name;
    h->value.len = ngx_strlen(value);
    h->value.data = (u_char *) value;

    return NGX_OK;
}
