
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_deliver_ctx.h"


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


static ngx_http_taptalent_deliver_ctx_t *ngx_http_taptalent_deliver_connection(
    ngx_http_taptalent_delivery_t *d, ngx_log_t *log);
static void ngx_http_taptalent_deliver_address(
    ngx_http_taptalent_deliver_ctx_t *dctx);
static ngx_socket_t ngx_http_taptalent_deliver_socket(ngx_log_t *log);
static ngx_int_t ngx_http_taptalent_deliver_create_request(
    ngx_http_taptalent_deliver_ctx_t *dctx);
static void ngx_http_taptalent_deliver_woken(ngx_http_request_t *r);
static void ngx_http_taptalent_deliver_terminated(void *data);
static void ngx_http_taptalent_deliver_timed_out(ngx_event_t *ev);
static void ngx_http_taptalent_delivery_done(ngx_event_t *ev);
static ngx_uint_t ngx_http_taptalent_deliver_connected(ngx_http_request_t *r);
static void ngx_http_taptalent_deliver_event(ngx_event_t *ev);
static void ngx_http_taptalent_deliver_no_request(ngx_http_request_t *r);
static ssize_t ngx_http_taptalent_deliver_no_recv(ngx_connection_t *c,
    u_char *buf, size_t size);
static ssize_t ngx_http_taptalent_deliver_no_send(ngx_connection_t *c,
    u_char *buf, size_t size);
static ngx_chain_t *ngx_http_taptalent_deliver_no_send_chain(
    ngx_connection_t *c, ngx_chain_t *in, off_t limit);
static u_char *ngx_http_taptalent_deliver_log(ngx_log_t *log, u_char *buf,
    size_t len);


static ngx_str_t  ngx_http_taptalent_deliver_addr = ngx_string("127.0.0.1");
static ngx_str_t  ngx_http_taptalent_deliver_post = ngx_string("POST");
static ngx_str_t  ngx_http_taptalent_deliver_protocol = ngx_string("HTTP/1.1");


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

    dctx = ngx_http_taptalent_deliver_connection(d, log);
    if (dctx == NULL) {
        return NGX_ERROR;
    }

    d->ctx = dctx;

    if (ngx_http_taptalent_deliver_create_request(dctx) != NGX_OK
        || ngx_http_taptalent_deliver_request_headers(dctx) != NGX_OK
        || ngx_http_taptalent_deliver_request_body(dctx) != NGX_OK
        || ngx_http_taptalent_deliver_request_uri(dctx) != NGX_OK)
    {
        ngx_http_taptalent_delivery_free(d);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_http_taptalent_deliver_ctx_t *
ngx_http_taptalent_deliver_connection(ngx_http_taptalent_delivery_t *d,
    ngx_log_t *log)
{
    ngx_pool_t                        *pool;
    ngx_event_t                       *rev, *wev;
    ngx_socket_t                       fd;
    ngx_connection_t                  *c;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    fd = ngx_http_taptalent_deliver_socket(log);
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
    rev->handler = ngx_http_taptalent_deliver_event;
    rev->index = NGX_INVALID_INDEX;
    rev->active = 1;

    wev->data = c;
    wev->log = &dctx->log;
    wev->handler = ngx_http_taptalent_deliver_event;
    wev->index = NGX_INVALID_INDEX;
    wev->write = 1;
    wev->ready = 1;
    wev->active = (ngx_event_flags & NGX_USE_CLEAR_EVENT) ? 1 : 0;

    dctx->done.data = dctx;
    dctx->done.log = &dctx->log;
    dctx->done.handler = ngx_http_taptalent_delivery_done;

    dctx->timer.data = dctx;
    dctx->timer.log = &dctx->log;
    dctx->timer.handler = ngx_http_taptalent_deliver_timed_out;

    c->data = &dctx->http_connection;
    c->read = rev;
    c->write = wev;
    c->fd = fd;
    c->recv = ngx_http_taptalent_deliver_no_recv;
    c->send = ngx_http_taptalent_deliver_no_send;
    c->send_chain = ngx_http_taptalent_deliver_no_send_chain;
    c->log = &dctx->log;
    c->pool = pool;
    c->number = dctx->log.connection;
    c->start_time = ngx_current_msec;
    c->sndlowat = 1;
    c->tcp_nodelay = NGX_TCP_NODELAY_DISABLED;
    c->tcp_nopush = NGX_TCP_NOPUSH_DISABLED;

    ngx_http_taptalent_deliver_address(dctx);

    return dctx;
}


static void
ngx_http_taptalent_deliver_address(ngx_http_taptalent_deliver_ctx_t *dctx)
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
    c->addr_text = ngx_http_taptalent_deliver_addr;
}


/*
 * One for all deliveries of a worker, in no epoll: Lua takes a connection whose
 * descriptor is -1 for one of its own, where most of its API is disabled.  It
 * is a socket that nobody can send to or close, so that to whoever asks the
 * client seems to be there, and silent.
 */

static ngx_socket_t
ngx_http_taptalent_deliver_socket(ngx_log_t *log)
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
ngx_http_taptalent_deliver_create_request(
    ngx_http_taptalent_deliver_ctx_t *dctx)
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
    r->method_name = ngx_http_taptalent_deliver_post;
    r->http_version = NGX_HTTP_VERSION_11;
    r->http_protocol = ngx_http_taptalent_deliver_protocol;

    r->read_event_handler = ngx_http_taptalent_deliver_no_request;
    r->write_event_handler = ngx_http_taptalent_deliver_woken;

    r->header_in = ngx_create_temp_buf(r->pool, 1);
    if (r->header_in == NULL) {
        return NGX_ERROR;
    }

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_taptalent_deliver_terminated;
    cln->data = dctx;

    dctx->ctx.event = dctx->ctx.delivery->event;

    /* these two point into the struct itself */

    dctx->ctx.event.id.data = dctx->ctx.event.id_text;
    dctx->ctx.event.company_id.data = dctx->ctx.event.company_text;

    ngx_http_set_ctx(r, &dctx->ctx, ngx_http_taptalent_webhook_module);

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

    ps->handler = ngx_http_taptalent_deliver_answer_ended;
    ps->data = dctx;

    if (ngx_http_subrequest(r, &r->uri, &dctx->args, &sr, ps, 0) != NGX_OK) {
        ngx_post_event(&dctx->done, &ngx_posted_events);
        return;
    }

    /* a subrequest is made a GET without a length */

    sr->method = NGX_HTTP_POST;
    sr->method_name = ngx_http_taptalent_deliver_post;
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


static void
ngx_http_taptalent_deliver_woken(ngx_http_request_t *r)
{
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = (ngx_http_taptalent_deliver_ctx_t *)
             ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (!dctx->done.posted) {
        ngx_post_event(&dctx->done, &ngx_posted_events);
    }
}


static void
ngx_http_taptalent_deliver_terminated(void *data)
{
    ngx_http_taptalent_deliver_ctx_t *dctx = data;

    if (!dctx->closed && !dctx->done.posted) {
        ngx_post_event(&dctx->done, &ngx_posted_events);
    }
}


/* from the timer, so that nothing of the core is about to return to it */

static void
ngx_http_taptalent_deliver_timed_out(ngx_event_t *ev)
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

    ngx_http_taptalent_delivery_done(&dctx->done);
}


static void
ngx_http_taptalent_delivery_done(ngx_event_t *ev)
{
    ngx_http_taptalent_delivery_t     *d;
    ngx_http_taptalent_deliver_ctx_t  *dctx;

    dctx = ev->data;
    d = dctx->ctx.delivery;

    d->connected = ngx_http_taptalent_deliver_connected(dctx->subrequest);

    ngx_http_taptalent_delivery_free(d);

    d->handler(d);
}


/*
 * A request is sent as soon as there is a connection, and after the handshake
 * of TLS.  A connect_time says less: one that is refused may have that, too.
 */

static ngx_uint_t
ngx_http_taptalent_deliver_connected(ngx_http_request_t *r)
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
ngx_http_taptalent_deliver_event(ngx_event_t *ev)
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
ngx_http_taptalent_deliver_no_request(ngx_http_request_t *r)
{
    ngx_log_debug0(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "taptalent no request to read");
}


static ssize_t
ngx_http_taptalent_deliver_no_recv(ngx_connection_t *c, u_char *buf,
    size_t size)
{
    return 0;
}


static ssize_t
ngx_http_taptalent_deliver_no_send(ngx_connection_t *c, u_char *buf,
    size_t size)
{
    c->sent += size;

    return size;
}


static ngx_chain_t *
ngx_http_taptalent_deliver_no_send_chain(ngx_connection_t *c, ngx_chain_t *in,
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
