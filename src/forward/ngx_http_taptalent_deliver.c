
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"
#include "ngx_http_taptalent_deliver.h"


/*
 * A delivery is a subrequest to the internal location, so that proxy_pass and
 * its kin do the work.  Its parent is a request that no client has sent, on a
 * connection that is none: as HTTP/2 makes one for each stream, with events
 * that say they are active, so that nobody adds them to epoll, a descriptor
 * that nobody uses, and a send_chain() that takes all and sends nothing.
 *
 * "blocked" keeps the core from freeing the parent when the subrequest ends
 * the hard way (444, 408, an error).  Then the cleanup handler tells, else
 * the parent's write handler; both only post an event, since the core still
 * looks at the connection when they return.
 */


/* that variables have a value; a delivery comes by no port */

#define NGX_HTTP_TAPTALENT_REMOTE_PORT  49152
#define NGX_HTTP_TAPTALENT_SERVER_PORT  80

#define NGX_HTTP_TAPTALENT_BLOCKED      100  /* ms, until it is asked again */


typedef struct {
    ngx_http_taptalent_ctx_t         ctx;        /* for the variables */

    ngx_connection_t                 connection;
    ngx_event_t                      read;
    ngx_event_t                      write;
    ngx_event_t                      done;
    ngx_event_t                      timer;
    ngx_log_t                        log;
    ngx_http_log_ctx_t               log_ctx;
    ngx_http_connection_t            http_connection;
    struct sockaddr_in               sockaddr;
    struct sockaddr_in               local_sockaddr;

    ngx_http_request_t              *request;
    ngx_http_request_t              *subrequest;
    ngx_str_t                        args;
    ngx_int_t                        code;       /* instead of an answer */
    size_t                           matched;    /* of d->confirm */

    /* of the upstream that answers */

    void                           (*finalize_request)(ngx_http_request_t *r,
                                         ngx_int_t rc);

    unsigned                         sent:1;
    unsigned                         local:1;    /* no upstream answers */
    unsigned                         ended:1;    /* the answer of one */
    unsigned                         closed:1;
} ngx_http_taptalent_deliver_ctx_t;


static ngx_int_t ngx_http_taptalent_uri_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_taptalent_location_handler(ngx_http_request_t *r);
static ngx_http_taptalent_deliver_ctx_t *ngx_http_taptalent_deliver_ctx(
    ngx_http_request_t *r);
static ngx_http_taptalent_deliver_ctx_t *ngx_http_taptalent_connection(
    ngx_http_taptalent_delivery_t *d, ngx_log_t *log);
static void ngx_http_taptalent_address(
    ngx_http_taptalent_deliver_ctx_t *dctx);
static ngx_socket_t ngx_http_taptalent_socket(ngx_log_t *log);
static ngx_int_t ngx_http_taptalent_request(
    ngx_http_taptalent_deliver_ctx_t *dctx);
static ngx_int_t ngx_http_taptalent_request_headers(
    ngx_http_taptalent_deliver_ctx_t *dctx);
static ngx_int_t ngx_http_taptalent_request_host(
    ngx_http_taptalent_deliver_ctx_t *dctx);
static ngx_int_t ngx_http_taptalent_request_header(ngx_http_request_t *r,
    ngx_str_t *name, ngx_str_t *value);
static ngx_int_t ngx_http_taptalent_request_body(
    ngx_http_taptalent_deliver_ctx_t *dctx);
static ngx_int_t ngx_http_taptalent_request_uri(
    ngx_http_taptalent_deliver_ctx_t *dctx);

static ngx_int_t ngx_http_taptalent_answered(ngx_http_request_t *r,
    void *data, ngx_int_t rc);
static void ngx_http_taptalent_upstream_done(ngx_http_request_t *r,
    ngx_int_t rc);
static ngx_uint_t ngx_http_taptalent_grpc_failed(ngx_http_upstream_t *u);
static ngx_uint_t ngx_http_taptalent_upstream_ended(ngx_http_upstream_t *u);
static void ngx_http_taptalent_look(ngx_http_taptalent_deliver_ctx_t *dctx,
    ngx_buf_t *b);
static size_t ngx_http_taptalent_match(ngx_str_t *text, size_t matched,
    u_char c);
static ngx_uint_t ngx_http_taptalent_retry_after(ngx_http_request_t *r);
static ngx_int_t ngx_http_taptalent_delay_seconds(ngx_str_t *value);
static void ngx_http_taptalent_woken(ngx_http_request_t *r);
static void ngx_http_taptalent_terminated(void *data);
static void ngx_http_taptalent_timed_out(ngx_event_t *ev);
static void ngx_http_taptalent_delivered(ngx_event_t *ev);
static ngx_uint_t ngx_http_taptalent_connected(ngx_http_request_t *r);

static void ngx_http_taptalent_event(ngx_event_t *ev);
static void ngx_http_taptalent_no_request(ngx_http_request_t *r);
static ssize_t ngx_http_taptalent_no_recv(ngx_connection_t *c, u_char *buf,
    size_t size);
static ssize_t ngx_http_taptalent_no_send(ngx_connection_t *c, u_char *buf,
    size_t size);
static ngx_chain_t *ngx_http_taptalent_no_send_chain(ngx_connection_t *c,
    ngx_chain_t *in, off_t limit);
static u_char *ngx_http_taptalent_deliver_log(ngx_log_t *log, u_char *buf,
    size_t len);


static ngx_str_t  ngx_http_taptalent_addr = ngx_string("127.0.0.1");
static ngx_str_t  ngx_http_taptalent_post = ngx_string("POST");
static ngx_str_t  ngx_http_taptalent_protocol = ngx_string("HTTP/1.1");


/*
 * The size of the body has been checked when it came, by the limit of another
 * location: no 413 for what was accepted.  nginx checks it each time that it
 * looks for a location, but of a body that is to be discarded.  So it is, until
 * the location is found: freenginx would not send it.
 */

ngx_int_t
ngx_http_taptalent_delivery_init(ngx_conf_t *cf)
{
    ngx_uint_t                  i;
    ngx_http_handler_pt        *h;
    ngx_http_core_main_conf_t  *cmcf;

    static struct {
        ngx_http_phases         phase;
        ngx_http_handler_pt     handler;
    } handlers[] = {
        { NGX_HTTP_SERVER_REWRITE_PHASE, ngx_http_taptalent_uri_handler },
        { NGX_HTTP_REWRITE_PHASE, ngx_http_taptalent_uri_handler },
        { NGX_HTTP_PREACCESS_PHASE, ngx_http_taptalent_location_handler }
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
ngx_http_taptalent_uri_handler(ngx_http_request_t *r)
{
    if (ngx_http_taptalent_deliver_ctx(r)) {
        r->discard_body = 1;
    }

    return NGX_DECLINED;
}


static ngx_int_t
ngx_http_taptalent_location_handler(ngx_http_request_t *r)
{
    if (ngx_http_taptalent_deliver_ctx(r)) {
        r->discard_body = 0;
    }

    return NGX_DECLINED;
}


/*
 * NULL if the request is no delivery.  The context of the subrequest is gone
 * after an internal redirect, that of its parent stays.  Subrequests of the
 * subrequest are not the answer.
 */

static ngx_http_taptalent_deliver_ctx_t *
ngx_http_taptalent_deliver_ctx(ngx_http_request_t *r)
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
ngx_http_taptalent_delivery_create(ngx_http_taptalent_delivery_t *d,
    ngx_log_t *log)
{
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    d->status = 0;
    d->retry_after = 0;
    d->unconfirmed = 0;
    d->timed_out = 0;
    d->connected = 1;

    dctx = ngx_http_taptalent_connection(d, log);
    if (dctx == NULL) {
        return NGX_ERROR;
    }

    d->ctx = dctx;

    if (ngx_http_taptalent_request(dctx) != NGX_OK
        || ngx_http_taptalent_request_headers(dctx) != NGX_OK
        || ngx_http_taptalent_request_body(dctx) != NGX_OK
        || ngx_http_taptalent_request_uri(dctx) != NGX_OK)
    {
        ngx_http_taptalent_delivery_free(d);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_http_taptalent_deliver_ctx_t *
ngx_http_taptalent_connection(ngx_http_taptalent_delivery_t *d,
    ngx_log_t *log)
{
    ngx_pool_t                        *pool;
    ngx_event_t                       *rev, *wev;
    ngx_socket_t                       fd;
    ngx_connection_t                  *c;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    fd = ngx_http_taptalent_socket(log);
    if (fd == (ngx_socket_t) -1) {
        return NULL;
    }

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE / 4, log);
    if (pool == NULL) {
        return NULL;
    }

    dctx = ngx_pcalloc(pool, sizeof(ngx_http_taptalent_deliver_ctx_t));
    if (dctx == NULL) {
        ngx_destroy_pool(pool);
        return NULL;
    }

    dctx->ctx.delivery = d;

    c = &dctx->connection;
    rev = &dctx->read;
    wev = &dctx->write;

    dctx->log = *log;
    dctx->log.connection = ngx_atomic_fetch_add(ngx_connection_counter, 1);
    dctx->log.handler = ngx_http_taptalent_deliver_log;
    dctx->log.data = &dctx->log_ctx;
    dctx->log.action = "forwarding an event";

    pool->log = &dctx->log;

    dctx->log_ctx.connection = c;
    dctx->http_connection.conf_ctx = d->conf_ctx;

    rev->data = c;
    rev->log = &dctx->log;
    rev->handler = ngx_http_taptalent_event;
    rev->index = NGX_INVALID_INDEX;
    rev->active = 1;

    wev->data = c;
    wev->log = &dctx->log;
    wev->handler = ngx_http_taptalent_event;
    wev->index = NGX_INVALID_INDEX;
    wev->write = 1;
    wev->ready = 1;
    wev->active = (ngx_event_flags & NGX_USE_CLEAR_EVENT) ? 1 : 0;

    dctx->done.data = dctx;
    dctx->done.log = &dctx->log;
    dctx->done.handler = ngx_http_taptalent_delivered;

    dctx->timer.data = dctx;
    dctx->timer.log = &dctx->log;
    dctx->timer.handler = ngx_http_taptalent_timed_out;

    c->data = &dctx->http_connection;
    c->read = rev;
    c->write = wev;
    c->fd = fd;
    c->recv = ngx_http_taptalent_no_recv;
    c->send = ngx_http_taptalent_no_send;
    c->send_chain = ngx_http_taptalent_no_send_chain;
    c->log = &dctx->log;
    c->pool = pool;
    c->number = dctx->log.connection;
    c->start_time = ngx_current_msec;
    c->sndlowat = 1;
    c->tcp_nodelay = NGX_TCP_NODELAY_DISABLED;
    c->tcp_nopush = NGX_TCP_NOPUSH_DISABLED;

    ngx_http_taptalent_address(dctx);

    return dctx;
}


static void
ngx_http_taptalent_address(ngx_http_taptalent_deliver_ctx_t *dctx)
{
    ngx_connection_t  *c;

    c = &dctx->connection;

    dctx->sockaddr.sin_family = AF_INET;
    dctx->sockaddr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    dctx->sockaddr.sin_port = htons(NGX_HTTP_TAPTALENT_REMOTE_PORT);

    dctx->local_sockaddr = dctx->sockaddr;
    dctx->local_sockaddr.sin_port = htons(NGX_HTTP_TAPTALENT_SERVER_PORT);

    c->sockaddr = (struct sockaddr *) &dctx->sockaddr;
    c->socklen = sizeof(struct sockaddr_in);
    c->local_sockaddr = (struct sockaddr *) &dctx->local_sockaddr;
    c->local_socklen = sizeof(struct sockaddr_in);
    c->addr_text = ngx_http_taptalent_addr;
}


/*
 * One for all deliveries of a worker, in no epoll: Lua takes a connection whose
 * descriptor is -1 for one of its own, where most of its API is disabled.  It
 * is a socket that nobody can send to or close, so that to whoever asks the
 * client seems to be there, and silent.
 */

static ngx_socket_t
ngx_http_taptalent_socket(ngx_log_t *log)
{
    static ngx_socket_t  fd = (ngx_socket_t) -1;

    if (fd != (ngx_socket_t) -1) {
        return fd;
    }

    fd = ngx_socket(AF_UNIX, SOCK_DGRAM, 0);

    if (fd == (ngx_socket_t) -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      ngx_socket_n " for deliveries failed");
        return fd;
    }

    if (fcntl(fd, F_SETFD, FD_CLOEXEC) == -1 || ngx_nonblocking(fd) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_socket_errno,
                      "fcntl() or " ngx_nonblocking_n
                      " for deliveries failed");

        (void) ngx_close_socket(fd);
        fd = (ngx_socket_t) -1;
    }

    return fd;
}


static ngx_int_t
ngx_http_taptalent_request(ngx_http_taptalent_deliver_ctx_t *dctx)
{
    ngx_connection_t    *c;
    ngx_http_cleanup_t  *cln;
    ngx_http_request_t  *r;

    c = &dctx->connection;

    r = ngx_http_create_request(c);
    if (r == NULL) {
        return NGX_ERROR;
    }

    dctx->request = r;

    c->data = r;

    r->blocked = 1;
    r->logged = 1;
    r->limit_rate_set = 1;
    r->http_state = NGX_HTTP_PROCESS_REQUEST_STATE;

#if (NGX_STAT_STUB)
    (void) ngx_atomic_fetch_add(ngx_stat_reading, -1);
    r->stat_reading = 0;
    (void) ngx_atomic_fetch_add(ngx_stat_writing, 1);
    r->stat_writing = 1;
#endif

    r->method = NGX_HTTP_POST;
    r->method_name = ngx_http_taptalent_post;
    r->http_version = NGX_HTTP_VERSION_11;
    r->http_protocol = ngx_http_taptalent_protocol;

    r->read_event_handler = ngx_http_taptalent_no_request;
    r->write_event_handler = ngx_http_taptalent_woken;

    r->header_in = ngx_create_temp_buf(r->pool, 1);
    if (r->header_in == NULL) {
        return NGX_ERROR;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_taptalent_terminated;
    cln->data = dctx;

    dctx->ctx.event = dctx->ctx.delivery->event;

    /* these two point into the struct itself */

    dctx->ctx.event.id.data = dctx->ctx.event.id_text;
    dctx->ctx.event.company_id.data = dctx->ctx.event.company_text;

    ngx_http_set_ctx(r, &dctx->ctx, ngx_http_taptalent_webhook_module);

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_request_headers(ngx_http_taptalent_deliver_ctx_t *dctx)
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

    if (ngx_http_taptalent_request_host(dctx) != NGX_OK) {
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

        if (ngx_http_taptalent_request_header(r, name, &ev->headers[i].value)
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

    if (ngx_http_taptalent_request_header(r, &id, &ev->id) != NGX_OK
        || ngx_http_taptalent_request_header(r, &attempt, &value) != NGX_OK
        || ngx_http_taptalent_request_header(r, &received, &d->received)
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
ngx_http_taptalent_request_host(ngx_http_taptalent_deliver_ctx_t *dctx)
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

    return ngx_http_taptalent_request_header(r, &name, &host);
}


/* names in lower case become "X-Webhook-Event" */

static ngx_int_t
ngx_http_taptalent_request_header(ngx_http_request_t *r, ngx_str_t *name,
    ngx_str_t *value)
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


static ngx_int_t
ngx_http_taptalent_request_body(ngx_http_taptalent_deliver_ctx_t *dctx)
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


static ngx_int_t
ngx_http_taptalent_request_uri(ngx_http_taptalent_deliver_ctx_t *dctx)
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


void
ngx_http_taptalent_delivery_send(ngx_http_taptalent_delivery_t *d)
{
    ngx_http_request_t                *r, *sr;
    ngx_http_post_subrequest_t        *ps;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = d->ctx;
    r = dctx->request;

    dctx->sent = 1;

    ps = ngx_palloc(r->pool, sizeof(ngx_http_post_subrequest_t));

    if (ps == NULL || r->uri.len == 0) {
        ngx_post_event(&dctx->done, &ngx_posted_events);
        return;
    }

    ps->handler = ngx_http_taptalent_answered;
    ps->data = dctx;

    if (ngx_http_subrequest(r, &r->uri, &dctx->args, &sr, ps, 0) != NGX_OK) {
        ngx_post_event(&dctx->done, &ngx_posted_events);
        return;
    }

    /* a subrequest is made a GET without a length */

    sr->method = NGX_HTTP_POST;
    sr->method_name = ngx_http_taptalent_post;
    sr->headers_in.content_length_n = dctx->ctx.event.body.len;

    ngx_http_set_ctx(sr, &dctx->ctx, ngx_http_taptalent_webhook_module);

    dctx->subrequest = sr;

    /*
     * Not cancelable: a worker that is to leave waits for what it has sent, and
     * this is how long that can take.
     */

    if (d->timeout) {
        ngx_add_timer(&dctx->timer, d->timeout);
    }

    ngx_http_run_posted_requests(&dctx->connection);
}


/* comes once more for what was sent when it came first */

static ngx_int_t
ngx_http_taptalent_answered(ngx_http_request_t *r, void *data, ngx_int_t rc)
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

    } else if (dctx->ended && ngx_http_taptalent_grpc_failed(r->upstream)) {
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

    d->retry_after = ngx_http_taptalent_retry_after(r);

    /* the code itself would have the core finalize the request once more */

    return NGX_OK;
}


/* seconds, RFC 9110, 10.2.3; 0 if there is none, or none that is valid */

static ngx_uint_t
ngx_http_taptalent_retry_after(ngx_http_request_t *r)
{
    ngx_int_t         seconds;
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    for (part = &r->headers_out.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash == 0
                || h[i].key.len != sizeof("Retry-After") - 1
                || ngx_strncasecmp(h[i].key.data, (u_char *) "Retry-After",
                                   sizeof("Retry-After") - 1)
                   != 0)
            {
                continue;
            }

            seconds = ngx_http_taptalent_delay_seconds(&h[i].value);

            if (seconds != NGX_ERROR) {
                return seconds;
            }
        }
    }

    return 0;
}


/* a number or a date; what is more than can be counted is long enough */

static ngx_int_t
ngx_http_taptalent_delay_seconds(ngx_str_t *value)
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


static void
ngx_http_taptalent_woken(ngx_http_request_t *r)
{
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = (ngx_http_taptalent_deliver_ctx_t *)
             ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (!dctx->done.posted) {
        ngx_post_event(&dctx->done, &ngx_posted_events);
    }
}


static void
ngx_http_taptalent_terminated(void *data)
{
    ngx_http_taptalent_deliver_ctx_t *dctx = data;

    if (!dctx->closed && !dctx->done.posted) {
        ngx_post_event(&dctx->done, &ngx_posted_events);
    }
}


/* from the timer, so that nothing of the core is about to return to it */

static void
ngx_http_taptalent_timed_out(ngx_event_t *ev)
{
    ngx_http_taptalent_delivery_t     *d;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = ev->data;
    d = dctx->ctx.delivery;

    if (dctx->done.posted) {
        return;
    }

    if (ngx_http_taptalent_delivery_blocked(d)) {
        ngx_add_timer(ev, NGX_HTTP_TAPTALENT_BLOCKED);
        return;
    }

    ngx_log_error(NGX_LOG_ERR, &dctx->log, NGX_ETIMEDOUT,
                  "an attempt to deliver an event took longer than "
                  "%M ms", d->timeout);

    d->status = 0;
    d->retry_after = 0;
    d->unconfirmed = 0;
    d->timed_out = 1;

    ngx_http_taptalent_delivered(&dctx->done);
}


static void
ngx_http_taptalent_delivered(ngx_event_t *ev)
{
    ngx_http_taptalent_delivery_t     *d;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = ev->data;
    d = dctx->ctx.delivery;

    d->connected = ngx_http_taptalent_connected(dctx->subrequest);

    ngx_http_taptalent_delivery_free(d);

    d->handler(d);
}


/*
 * A request is sent as soon as there is a connection, and after the handshake
 * of TLS.  A connect_time says less: one that is refused may have that, too.
 */

static ngx_uint_t
ngx_http_taptalent_connected(ngx_http_request_t *r)
{
    ngx_uint_t                  i;
    ngx_http_upstream_t        *u;
    ngx_http_upstream_state_t  *state;

    if (r == NULL || r->upstream_states == NULL) {
        return 1;
    }

    state = r->upstream_states->elts;

    for (i = 0; i < r->upstream_states->nelts; i++) {
        if (state[i].bytes_sent > 0) {
            return 1;
        }
    }

    /* of one that is still there the state does not say it yet */

    u = r->upstream;

    return u && u->peer.connection && u->peer.connection->sent > 0;
}


void
ngx_http_taptalent_delivery_free(ngx_http_taptalent_delivery_t *d)
{
    ngx_pool_t                        *pool;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = d->ctx;
    d->ctx = NULL;

    dctx->closed = 1;

    if (dctx->request) {
        ngx_http_free_request(dctx->request, 0);
    }

    if (dctx->done.posted) {
        ngx_delete_posted_event(&dctx->done);
    }

    if (dctx->timer.timer_set) {
        ngx_del_timer(&dctx->timer);
    }

    if (dctx->read.timer_set) {
        ngx_del_timer(&dctx->read);
    }

    if (dctx->write.timer_set) {
        ngx_del_timer(&dctx->write);
    }

    if (dctx->read.posted) {
        ngx_delete_posted_event(&dctx->read);
    }

    if (dctx->write.posted) {
        ngx_delete_posted_event(&dctx->write);
    }

    /* the log is in the pool */

    pool = dctx->connection.pool;
    pool->log = ngx_cycle->log;

    ngx_destroy_pool(pool);
}


/*
 * Half an answer is no answer, whatever its status was.  The code that the
 * subrequest ends with does not tell: behind the header,
 * ngx_http_upstream_finalize_request() replaces its own by that of a flush.
 * But it first gives its own to the protocol's finalize_request(): 0 if the
 * end was seen.
 */

void
ngx_http_taptalent_delivery_header(ngx_http_request_t *r)
{
    ngx_http_upstream_t               *u;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = ngx_http_taptalent_deliver_ctx(r);

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

    if (u->finalize_request != ngx_http_taptalent_upstream_done) {
        dctx->finalize_request = u->finalize_request;
        u->finalize_request = ngx_http_taptalent_upstream_done;
    }
}


static void
ngx_http_taptalent_upstream_done(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = (ngx_http_taptalent_deliver_ctx_t *)
             ngx_http_get_module_ctx(r->main,
                                     ngx_http_taptalent_webhook_module);

    dctx->ended = (rc == NGX_OK
                   && ngx_http_taptalent_upstream_ended(r->upstream));

    dctx->finalize_request(r, rc);
}


/* by "grpc-status", which is in the trailers, or in a header without a body */

static ngx_uint_t
ngx_http_taptalent_grpc_failed(ngx_http_upstream_t *u)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    if (u == NULL || u->schema.len < sizeof("grpc") - 1
        || ngx_strncmp(u->schema.data, "grpc", sizeof("grpc") - 1) != 0)
    {
        return 0;
    }

    part = &u->headers_in.trailers.part;

    if (part->nelts == 0) {
        part = &u->headers_in.headers.part;
    }

    for ( /* void */ ; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].key.len == sizeof("grpc-status") - 1
                && ngx_strncasecmp(h[i].key.data, (u_char *) "grpc-status",
                                   sizeof("grpc-status") - 1)
                   == 0)
            {
                return h[i].value.len != 1 || h[i].value.data[0] != '0';
            }
        }
    }

    return 0;
}


/*
 * By FastCGI, the end is END_REQUEST, or as much as Content-Length said.  nginx
 * takes the close of a connection that is not kept for the end too, and on one
 * that is kept it takes less than Content-Length for an error and the end.
 */

static ngx_uint_t
ngx_http_taptalent_upstream_ended(ngx_http_upstream_t *u)
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
ngx_http_taptalent_delivery_body(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t                         *b;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = ngx_http_taptalent_deliver_ctx(r);

    if (dctx == NULL || in == NULL) {
        return NGX_DECLINED;
    }

    for ( /* void */ ; in; in = in->next) {

        b = in->buf;

        ngx_http_taptalent_look(dctx, b);

        r->connection->sent += ngx_buf_size(b);

        b->pos = b->last;
        b->file_pos = b->file_last;
    }

    return NGX_OK;
}


static void
ngx_http_taptalent_look(ngx_http_taptalent_deliver_ctx_t *dctx, ngx_buf_t *b)
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

        dctx->matched = ngx_http_taptalent_match(text, dctx->matched, *p);
    }
}


/*
 * How much of the text's beginning has been seen with one more byte: if it is
 * not the next one, the longest beginning that what was seen ends with.
 */

static size_t
ngx_http_taptalent_match(ngx_str_t *text, size_t matched, u_char c)
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


ngx_uint_t
ngx_http_taptalent_delivery_blocked(ngx_http_taptalent_delivery_t *d)
{
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = d->ctx;

    /* one is ours */

    return dctx->request->blocked > 1;
}


/* as ngx_http_request_handler(): a limit_req may have set a timer */

static void
ngx_http_taptalent_event(ngx_event_t *ev)
{
    ngx_connection_t    *c;
    ngx_http_request_t  *r;

    c = ev->data;
    r = c->data;

    if (ev->delayed && ev->timedout) {
        ev->delayed = 0;
        ev->timedout = 0;
    }

    if (ev->write) {
        r->write_event_handler(r);
    }

    ngx_http_run_posted_requests(c);
}


static void
ngx_http_taptalent_no_request(ngx_http_request_t *r)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "taptalent no request to read");
}


static ssize_t
ngx_http_taptalent_no_recv(ngx_connection_t *c, u_char *buf, size_t size)
{
    return 0;
}


static ssize_t
ngx_http_taptalent_no_send(ngx_connection_t *c, u_char *buf, size_t size)
{
    c->sent += size;

    return size;
}


static ngx_chain_t *
ngx_http_taptalent_no_send_chain(ngx_connection_t *c, ngx_chain_t *in,
    off_t limit)
{
    for ( /* void */ ; in; in = in->next) {

        c->sent += ngx_buf_size(in->buf);

        in->buf->pos = in->buf->last;
        in->buf->file_pos = in->buf->file_last;
    }

    return NULL;
}


static u_char *
ngx_http_taptalent_deliver_log(ngx_log_t *log, u_char *buf, size_t len)
{
    u_char                    *p;
    ngx_err_t                  err;
    ngx_http_request_t        *r;
    ngx_http_log_ctx_t        *ctx;
    ngx_http_taptalent_ctx_t  *tctx;

    err = ngx_errno;

    p = buf;
    ctx = log->data;

    if (log->action) {
        p = ngx_snprintf(buf, len, " while %s", log->action);
        len -= p - buf;
        buf = p;
    }

    r = ctx->request;

    if (r == NULL) {
        return p;
    }

    tctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (tctx) {

        /*
         * Only the line of the allocation that failed says so: nginx takes
         * a value that it has no memory for as an empty one, and sends a
         * request without its Content-Length, which is one without a body.
         */

        if (err == NGX_ENOMEM) {
            tctx->failed = 1;
        }

        p = ngx_snprintf(buf, len, ", id %V", &tctx->event.id);
        len -= p - buf;
        buf = p;
    }

#if (angie_version >= 1012000)
    return r->log_handler(log, buf, buf + len, ctx);
#else
    return r->log_handler(r, ctx->current_request, buf, len);
#endif
}
