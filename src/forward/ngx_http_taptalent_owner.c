
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#if (NGX_LINUX)
#include <sys/inotify.h>
#endif
#include "ngx_http_taptalent_queue.h"


/*
 * Who forwards: one worker of all has the lock of the spool.  inotify tells it
 * of files, and a scan of those that nobody told.  A worker that is to leave
 * ends what is in flight, then unlocks, so that the next one goes on.
 */


#define NGX_HTTP_TAPTALENT_POLL      500      /* ms, for the lock */
#define NGX_HTTP_TAPTALENT_RESCAN    60000    /* ms, with inotify */
#define NGX_HTTP_TAPTALENT_SCANNING  1000     /* ms, without */


static void ngx_http_taptalent_owner_poll(ngx_event_t *ev);
static ngx_uint_t ngx_http_taptalent_owner_entered(
    ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_owner_take(ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_owner_watch(ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_owner_notified(ngx_event_t *ev);
static void ngx_http_taptalent_owner_drain(ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_owner_hold(ngx_event_t *ev);
static void ngx_http_taptalent_owner_release(ngx_http_taptalent_queue_t *q);


ngx_int_t
ngx_http_taptalent_owner_init(ngx_http_taptalent_commit_t *commit,
    ngx_http_taptalent_forward_t *forward, ngx_cycle_t *cycle)
{
    ngx_core_conf_t             *ccf;
    ngx_http_taptalent_queue_t  *q;

    q = ngx_pcalloc(cycle->pool, sizeof(ngx_http_taptalent_queue_t));
    if (q == NULL) {
        return NGX_ERROR;
    }

    q->ident[3] = (void *) -1;
    q->commit = commit;
    q->spool = commit ? &commit->spool : NULL;
    q->forward = forward;
    q->cycle = cycle;
    q->log = cycle->log;
    q->read_after = ngx_current_msec;
    q->lock = NGX_INVALID_FILE;

    /* what a timer of a millisecond takes */

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);
    q->tick = (uint64_t) ngx_max(ccf->timer_resolution, 1) * 1000;

    ngx_queue_init(&q->loaded);
    ngx_queue_init(&q->ended);
    ngx_queue_init(&q->unsettled);
    ngx_queue_init(&q->fresh);
    ngx_queue_init(&q->ready);
    ngx_queue_init(&q->flying);
    ngx_queue_init(&q->finished);

    q->poll.handler = ngx_http_taptalent_owner_poll;
    q->poll.data = q;
    q->poll.log = q->log;
    q->poll.cancelable = 1;

    q->hold.handler = ngx_http_taptalent_owner_hold;
    q->hold.data = q;
    q->hold.log = q->log;

    q->drained = ngx_http_taptalent_owner_release;

    q->run.handler = ngx_http_taptalent_queue_run;
    q->run.data = q;
    q->run.log = q->log;

    q->pause.handler = ngx_http_taptalent_queue_run;
    q->pause.data = q;
    q->pause.log = q->log;
    q->pause.cancelable = 1;

    forward->q = q;

    ngx_http_taptalent_attempt_init(q);

    if (commit == NULL) {
        ngx_http_taptalent_zone_tell(forward->stats, 0);
        return NGX_OK;
    }

    ngx_http_taptalent_file_init(q);

    if (ngx_http_taptalent_queue_task_init(q) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_add_timer(&q->poll, 1);

    return NGX_OK;
}


/* without the lock: tries to get it; with it: looks for what nobody told */

static void
ngx_http_taptalent_owner_poll(ngx_event_t *ev)
{
    ngx_msec_t                   rescan;
    ngx_http_taptalent_queue_t  *q;

    q = ev->data;

    if (ngx_exiting || ngx_terminate) {
        ngx_http_taptalent_owner_drain(q);
        return;
    }

    if (q->state == NGX_HTTP_TAPTALENT_QUEUE_IDLE) {
        ngx_http_taptalent_owner_take(q);

    } else if (!q->spool->opened) {
        (void) ngx_http_taptalent_owner_entered(q);
    }

    if (q->state == NGX_HTTP_TAPTALENT_QUEUE_OWNER) {
        rescan = q->notify ? NGX_HTTP_TAPTALENT_RESCAN
                           : NGX_HTTP_TAPTALENT_SCANNING;

        if (ngx_current_msec - q->scanned >= rescan) {
            q->rescan = 1;
        }

        q->resettle = 1;

        /* where ngx_msec_t has 32 bits, long ago looks like the future */

        if ((ngx_msec_int_t) (q->read_after - ngx_current_msec) < 0) {
            q->read_after = ngx_current_msec;
        }

        if (q->rescan || q->npending || !ngx_queue_empty(&q->loaded)
            || !ngx_queue_empty(&q->unsettled))
        {
            ngx_http_taptalent_queue_post(q);
        }
    }

    ngx_add_timer(ev, NGX_HTTP_TAPTALENT_POLL);
}


/*
 * What could not be opened when the worker began is tried again, whether or
 * not events come.  A disk that is too full for our lock can be forwarded from.
 */

static ngx_uint_t
ngx_http_taptalent_owner_entered(ngx_http_taptalent_queue_t *q)
{
    ngx_http_taptalent_commit_t  *c;

    c = q->commit;

    if (!c->spool.opened && c->state != NGX_HTTP_TAPTALENT_COMMIT_BROKEN
        && (ngx_msec_int_t) (c->probe - ngx_current_msec) <= 0)
    {
        (void) ngx_http_taptalent_commit_open(c);
    }

    return c->spool.entered;
}


static void
ngx_http_taptalent_owner_take(ngx_http_taptalent_queue_t *q)
{
    ngx_fd_t                          fd;
    ngx_http_taptalent_spool_error_t  error;

    if (!ngx_http_taptalent_owner_entered(q)) {
        return;
    }

    fd = ngx_http_taptalent_spool_read_lock(q->spool, &error);

    if (fd == NGX_DECLINED) {
        return;
    }

    if (fd == NGX_ERROR) {

        if (q->broken) {
            return;
        }

        q->broken = 1;

        if (error.err == NGX_EACCES) {
            ngx_log_error(NGX_LOG_CRIT, q->log, error.err,
                          "%s \"%V/%s/forward.lock\" failed, nothing is "
                          "forwarded: if the files are another user's, run "
                          "\"chown -R %ui %V/*\"", error.call,
                          &q->spool->path, error.dir, (ngx_uint_t) geteuid(),
                          &q->spool->path);
            return;
        }

        ngx_log_error(NGX_LOG_CRIT, q->log, error.err,
                      "%s \"%V/%s/forward.lock\" failed, nothing is forwarded",
                      error.call, &q->spool->path, error.dir);
        return;
    }

    q->broken = 0;
    q->lock = fd;
    q->state = NGX_HTTP_TAPTALENT_QUEUE_OWNER;

    ngx_log_debug1(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent owner: has \"%V\"", &q->spool->path);
    q->rescan = 1;

    ngx_http_taptalent_zone_forwards(q->forward->stats);

    ngx_log_error(NGX_LOG_NOTICE, q->log, 0,
                  "this worker forwards \"%V\"", &q->spool->path);

    ngx_http_taptalent_owner_watch(q);
    ngx_http_taptalent_queue_post(q);
}


/*
 * The connection is idle, so that the core calls its handler when the worker
 * is to leave.
 */

static void
ngx_http_taptalent_owner_watch(ngx_http_taptalent_queue_t *q)
{
#if (NGX_LINUX)

    int                fd;
    ngx_connection_t  *c;

    fd = inotify_init1(IN_NONBLOCK|IN_CLOEXEC);

    if (fd == -1
        || inotify_add_watch(fd,
                (char *) q->spool->dirs[NGX_HTTP_TAPTALENT_NEW]->name.data,
                IN_MOVED_TO|IN_CLOSE_WRITE|IN_ONLYDIR)
           == -1)
    {
        ngx_log_error(NGX_LOG_WARN, q->log, ngx_errno,
                      "inotify of \"%V/new\" failed, it is scanned instead",
                      &q->spool->path);
        goto failed;
    }

    c = ngx_get_connection(fd, q->log);
    if (c == NULL) {
        goto failed;
    }

    c->data = q;
    c->log = q->log;
    c->idle = 1;
    c->recv = ngx_recv;
    c->read->log = q->log;
    c->write->log = q->log;
    c->read->handler = ngx_http_taptalent_owner_notified;

    if (ngx_add_event(c->read, NGX_READ_EVENT, NGX_LEVEL_EVENT) != NGX_OK) {
        ngx_free_connection(c);
        goto failed;
    }

    q->notify = c;
    return;

failed:

    if (fd != -1) {
        (void) close(fd);
    }

#endif
}


static void
ngx_http_taptalent_owner_notified(ngx_event_t *ev)
{
#if (NGX_LINUX)

    char                        *p, *last;
    ssize_t                      n;
    ngx_connection_t            *c;
    struct inotify_event        *in;
    ngx_http_taptalent_queue_t  *q;
    char                         buf[8192]
                               __attribute__((aligned(sizeof(uint64_t))));

    c = ev->data;
    q = c->data;

    if (c->close) {
        c->close = 0;
        ngx_http_taptalent_owner_drain(q);
        return;
    }

    n = read(c->fd, buf, sizeof(buf));

    if (n <= 0) {
        return;
    }

    last = buf + n;

    for (p = buf; p < last; p += sizeof(struct inotify_event) + in->len) {

        in = (struct inotify_event *) p;

        if (in->mask & IN_Q_OVERFLOW) {
            q->rescan = 1;
            continue;
        }

        if (in->len) {
            ngx_http_taptalent_file_seen(q, (u_char *) in->name, 1);
        }
    }

    ngx_http_taptalent_queue_post(q);

#endif
}


static void
ngx_http_taptalent_owner_drain(ngx_http_taptalent_queue_t *q)
{
    ngx_core_conf_t  *ccf;

    if (q->state >= NGX_HTTP_TAPTALENT_QUEUE_DRAINING) {
        return;
    }

    q->state = NGX_HTTP_TAPTALENT_QUEUE_DRAINING;

    ngx_log_debug1(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent owner: draining, %ui in flight", q->inflight);

    ccf = (ngx_core_conf_t *) ngx_get_conf(q->cycle->conf_ctx,
                                           ngx_core_module);

    q->deadline = ccf->shutdown_timeout
                  ? ngx_current_msec + ccf->shutdown_timeout : 0;

    /* not posted: a worker with no timer left ends before posted events run */

    ngx_http_taptalent_queue_run(&q->run);
}


/*
 * As long as something is in flight, a worker stays.  worker_shutdown_timeout
 * ends the connections of the core only, so that ours are ended here.
 */

static void
ngx_http_taptalent_owner_hold(ngx_event_t *ev)
{
    ngx_http_taptalent_queue_t  *q;

    q = ev->data;

    if (ngx_exiting) {
        ngx_http_taptalent_owner_drain(q);
    }

    if (q->state >= NGX_HTTP_TAPTALENT_QUEUE_DRAINING && q->deadline
        && (ngx_msec_int_t) (q->deadline - ngx_current_msec) <= 0)
    {
        if (q->spool == NULL && q->items) {
            ngx_log_error(NGX_LOG_CRIT, q->log, 0,
                          "%ui events are lost, that were acknowledged "
                          "from memory, at \"worker_shutdown_timeout\"",
                          q->items);
        }

        ngx_http_taptalent_attempt_break_off(q);

        if (q->spool == NULL) {
            q->state = NGX_HTTP_TAPTALENT_QUEUE_LOST;
            return;
        }
    }

    ngx_http_taptalent_queue_post(q);
}


/* at once, not when the worker finally ends: the next one waits for it */

static void
ngx_http_taptalent_owner_release(ngx_http_taptalent_queue_t *q)
{
    ngx_connection_t  *c;

    if (q->lock == NGX_INVALID_FILE) {
        return;
    }

    q->state = NGX_HTTP_TAPTALENT_QUEUE_RELEASED;

    ngx_log_debug1(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent owner: hands \"%V\" over", &q->spool->path);

    if (q->scan.dir) {
        (void) closedir(q->scan.dir);
        q->scan.dir = NULL;
    }

    (void) ngx_close_file(q->lock);
    q->lock = NGX_INVALID_FILE;

    c = q->notify;

    if (c) {
        q->notify = NULL;

        ngx_close_connection(c);
    }

    ngx_log_error(NGX_LOG_NOTICE, q->log, 0,
                  "this worker forwards \"%V\" no longer", &q->spool->path);
}
