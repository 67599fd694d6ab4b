
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_deliver_ctx.h"


/*
 * The request that is made of an event, and that no client has sent: its
 * headers, its host, its body, its uri.
 */


static ngx_int_t ngx_http_taptalent_deliver_request_find(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_taptalent_deliver_request_found(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_taptalent_deliver_request_host(
    ngx_http_taptalent_deliver_ctx_t *dctx);
static ngx_int_t ngx_http_taptalent_deliver_request_header(
    ngx_http_request_t *r, ngx_str_t *name, ngx_str_t *value);


/*
 * The size of the body has been checked when it came, by the limit of another
 * location: no 413 for what was accepted.  nginx checks it each time that it
 * looks for a location, but of a body that is to be discarded.  So it is, until
 * the location is found: freenginx would not send it.
 */

ngx_int_t
ngx_http_taptalent_deliver_request_init(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    static struct {
        ngx_http_phases         phase;
        ngx_http_handler_pt     handler;
    } handlers[] = {
        { NGX_HTTP_SERVER_REWRITE_PHASE,
          ngx_http_taptalent_deliver_request_find },
        { NGX_HTTP_REWRITE_PHASE, ngx_http_taptalent_deliver_request_find },
        { NGX_HTTP_PREACCESS_PHASE, ngx_http_taptalent_deliver_request_found }
    };

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    for (i = 0; i < sizeof(handlers) / sizeof(handlers[0]); i++) {

        h = ngx_array_push(&cmcf->phases[handlers[i].phase].handlers);
        if (h == NULL) {
            return NGX_ERROR;
        }

        *h = handlers[i].handler;
    }

    return NGX_OK;
}


/* a location is looked for next, or once more */

static ngx_int_t
ngx_http_taptalent_deliver_request_find(ngx_http_request_t *r)
{
    if (ngx_http_taptalent_deliver_request_ctx(r)) {
        r->discard_body = 1;
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_taptalent_deliver_request_found(ngx_http_request_t *r)
{
    if (ngx_http_taptalent_deliver_request_ctx(r)) {
        r->discard_body = 0;
    }

    return NGX_DECLINED;
}


ngx_http_taptalent_deliver_ctx_t *
ngx_http_taptalent_deliver_request_ctx(ngx_http_request_t *r)
{
    ngx_http_taptalent_ctx_t          *ctx;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    if (r == r->main) {
        return NULL;
    }

    ctx = ngx_http_get_module_ctx(r->main, ngx_http_taptalent_webhook_module);

    if (ctx == NULL || ctx->delivery == NULL) {
        return NULL;
    }

    dctx = (ngx_http_taptalent_deliver_ctx_t *) ctx;

    return (r == dctx->subrequest) ? dctx : NULL;
}


ngx_int_t
ngx_http_taptalent_deliver_request_headers(
    ngx_http_taptalent_deliver_ctx_t *dctx)
{
    u_char                         *p;
    ngx_str_t                       value, *name;
    ngx_uint_t                      i;
    ngx_http_request_t             *r;
    ngx_http_taptalent_event_t     *ev;
    ngx_http_taptalent_delivery_t  *d;

    static ngx_str_t  id = ngx_string("x-webhook-id");
    static ngx_str_t  attempt = ngx_string("x-webhook-attempt");
    static ngx_str_t  received = ngx_string("x-webhook-received");

    d = dctx->ctx.delivery;
    r = dctx->request;
    ev = &dctx->ctx.event;

    if (ngx_list_init(&r->headers_in.headers, r->pool, 8,
                      sizeof(ngx_table_elt_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    r->headers_in.content_length_n = ev->body.len;

    if (ngx_http_taptalent_deliver_request_host(dctx) != NGX_OK) {
        return NGX_ERROR;
    }

    for (i = 0; i < ev->nheaders; i++) {

        name = &ev->headers[i].name;

        /* ours are ours, and a key goes nowhere */

        if (ngx_http_taptalent_name_is(name, "x-webhook-id")
            || ngx_http_taptalent_name_is(name, "x-webhook-attempt")
            || ngx_http_taptalent_name_is(name, "x-webhook-received")
            || ngx_http_taptalent_name_is(name, "x-webhook-key"))
        {
            continue;
        }

        if (ngx_http_taptalent_deliver_request_header(r, name,
                                                      &ev->headers[i].value)
            != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    p = ngx_pnalloc(r->pool, NGX_INT_T_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    value.data = p;
    value.len = ngx_sprintf(p, "%ui", d->attempt) - p;

    if (ngx_http_taptalent_deliver_request_header(r, &id, &ev->id) != NGX_OK
        || ngx_http_taptalent_deliver_request_header(r, &attempt, &value)
           != NGX_OK
        || ngx_http_taptalent_deliver_request_header(r, &received,
                                                     &d->received)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * Host, as the event came with it.  One from before there was such a member has
 * none: then the name of the server, if that is one; it may be "_" or a regex.
 */

static ngx_int_t
ngx_http_taptalent_deliver_request_host(ngx_http_taptalent_deliver_ctx_t *dctx)
{
    size_t                     n;
    ngx_str_t                  host;
    ngx_http_request_t        *r;
    ngx_http_core_srv_conf_t  *cscf;

    static ngx_str_t  name = ngx_string("host");

    r = dctx->request;
    host = dctx->ctx.event.host;

    if (host.len == 0) {
        cscf = ngx_http_get_module_srv_conf(r, ngx_http_core_module);
        host = cscf->server_name;
    }

    if (!ngx_http_taptalent_event_host(host.data, host.len, &n)
        || host.data[0] == '_')
    {
        ngx_str_set(&host, "localhost");
        n = host.len;
    }

    r->headers_in.server.data = ngx_pnalloc(r->pool, n);
    if (r->headers_in.server.data == NULL) {
        return NGX_ERROR;
    }

    ngx_strlow(r->headers_in.server.data, host.data, n);
    r->headers_in.server.len = n;

    return ngx_http_taptalent_deliver_request_header(r, &name, &host);
}


/* names in lower case become "X-Webhook-Event" */

static ngx_int_t
ngx_http_taptalent_deliver_request_header(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value)
{
    u_char           *p;
    ngx_uint_t        i;
    ngx_table_elt_t  *h;

    h = ngx_list_push(&r->headers_in.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    p = ngx_pnalloc(r->pool, name->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < name->len; i++) {
        p[i] = (i == 0 || name->data[i - 1] == '-')
               ? ngx_toupper(name->data[i]) : name->data[i];
    }

    h->hash = ngx_hash_key(name->data, name->len);
    h->key.len = name->len;
    h->key.data = p;
    h->value = *value;
    h->lowcase_key = name->data;
#if (nginx_version >= 1023000)
    h->next = NULL;
#endif

    if (ngx_http_taptalent_name_is(name, "content-type")) {
        r->headers_in.content_type = h;

    } else if (ngx_http_taptalent_name_is(name, "host")) {
        r->headers_in.host = h;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_deliver_request_body(ngx_http_taptalent_deliver_ctx_t *dctx)
{
    ngx_buf_t                *b;
    ngx_chain_t              *cl;
    ngx_http_request_t       *r;
    ngx_http_request_body_t  *rb;

    r = dctx->request;

    rb = ngx_pcalloc(r->pool, sizeof(ngx_http_request_body_t));
    if (rb == NULL) {
        return NGX_ERROR;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    cl = ngx_alloc_chain_link(r->pool);
    if (cl == NULL) {
        return NGX_ERROR;
    }

    b->start = dctx->ctx.event.body.data;
    b->pos = b->start;
    b->last = b->start + dctx->ctx.event.body.len;
    b->end = b->last;
    b->memory = 1;
    b->last_buf = 1;

    cl->buf = b;
    cl->next = NULL;

    rb->bufs = cl;
    rb->buf = b;

    r->request_body = rb;

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_deliver_request_uri(ngx_http_taptalent_deliver_ctx_t *dctx)
{
    size_t                          len;
    u_char                         *p;
    ngx_uint_t                      flags;
    const char                     *must;
    ngx_http_request_t             *r;
    ngx_http_taptalent_delivery_t  *d;

    d = dctx->ctx.delivery;
    r = dctx->request;

    if (ngx_http_complex_value(r, d->forward, &d->uri) != NGX_OK) {
        return NGX_ERROR;
    }

    r->uri = d->uri;
    r->unparsed_uri = d->uri;

    len = sizeof("POST  HTTP/1.1") - 1 + d->uri.len;

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    r->request_line.data = p;
    r->request_line.len = ngx_sprintf(p, "POST %V HTTP/1.1", &d->uri) - p;

    flags = 0;

    if (d->uri.len == 0 || d->uri.data[0] != '/') {
        must = "begin with a slash";

    } else if (ngx_http_parse_unsafe_uri(r, &r->uri, &dctx->args, &flags)
               != NGX_OK)
    {
        must = "hold neither \"/..\" nor a zero byte";

    } else {
        return NGX_OK;
    }

    ngx_log_error(NGX_LOG_ERR, &dctx->log, 0,
                  "\"taptalent_webhook_forward\" gave the uri \"%V\", "
                  "it must %s", &d->uri, must);

    r->uri.len = 0;

    return NGX_OK;
}
