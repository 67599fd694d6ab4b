
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_http_taptalent_commit.h"


/*
 * There are two batches: one gathers, one is perhaps being committed.  The
 * lines are copies, the requests only wait: a client that goes away takes its
 * waiter out of the queue and changes nothing else.
 *
 * A commit starts at the end of the event-loop turn, so that all that came in
 * this turn is in it, and a turn after the one before has ended.  It runs in a
 * thread, and in the loop where there are none.
 *
 * The timer is for those who wait.  It is not cancelable: without it a worker
 * that has been told to quit would leave with the commit running.
 */


#define NGX_HTTP_TAPTALENT_BATCH      65536     /* bytes at first */
#define NGX_HTTP_TAPTALENT_BATCH_MAX  1048576   /* kept for the next one */
#define NGX_HTTP_TAPTALENT_PROBE      1000      /* ms between attempts */
#define NGX_HTTP_TAPTALENT_MEASURE    1000      /* ms that figures are good */
#define NGX_HTTP_TAPTALENT_LATE       1000      /* ms between looks for it */


static void ngx_http_taptalent_commit_measured(
    ngx_http_taptalent_commit_t *c);
static ngx_int_t ngx_http_taptalent_commit_probed(
    ngx_http_taptalent_commit_t *c, const char **why);
static ngx_int_t ngx_http_taptalent_commit_room(
    ngx_http_taptalent_commit_t *c, size_t len, const char **why);
static void ngx_http_taptalent_commit_remember(
    ngx_http_taptalent_commit_t *c, ngx_str_t *id);
static void ngx_http_taptalent_commit_start(ngx_event_t *ev);
static void ngx_http_taptalent_commit_run(void *data, ngx_log_t *log);
static void ngx_http_taptalent_commit_trim(ngx_http_taptalent_commit_t *c);
#if (NGX_THREADS)
static void ngx_http_taptalent_commit_done(ngx_event_t *ev);
#endif
static void ngx_http_taptalent_commit_result(ngx_http_taptalent_commit_t *c,
    ngx_queue_t *waiters);
static void ngx_http_taptalent_commit_mended(ngx_http_taptalent_commit_t *c);
static void ngx_http_taptalent_commit_failed(ngx_http_taptalent_commit_t *c);
static void ngx_http_taptalent_commit_take(ngx_http_taptalent_batch_t *batch,
    ngx_queue_t *waiters);
static void ngx_http_taptalent_commit_wake(ngx_queue_t *waiters,
    ngx_int_t rc);
static void ngx_http_taptalent_commit_timer(ngx_event_t *ev);
static ngx_msec_t ngx_http_taptalent_commit_late(
    ngx_http_taptalent_batch_t *batch, ngx_queue_t *late, ngx_msec_t next);


void
ngx_http_taptalent_commit_init(ngx_http_taptalent_commit_t *c, ngx_log_t *log)
{
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(ngx_cycle->conf_ctx,
                                           ngx_core_module);

    c->ident[3] = (void *) -1;

    c->held = NGX_ERROR;
    c->workers = ngx_max(ccf->worker_processes, 1);

    ngx_queue_init(&c->batches[0].waiters);
    ngx_queue_init(&c->batches[1].waiters);

    c->gathering = &c->batches[0];

    c->start.handler = ngx_http_taptalent_commit_start;
    c->start.data = c;
    c->start.log = log;

    c->timer.handler = ngx_http_taptalent_commit_timer;
    c->timer.data = c;
    c->timer.log = log;

#if (NGX_THREADS)
    c->task->ctx = c;
    c->task->handler = ngx_http_taptalent_commit_run;
    c->task->event.handler = ngx_http_taptalent_commit_done;
    c->task->event.data = c;
    c->task->event.log = log;
#endif

    ngx_http_taptalent_zone_tell(c->stats, NGX_HTTP_TAPTALENT_WORKS);

    (void) ngx_http_taptalent_commit_open(c);
}


void
ngx_http_taptalent_commit_close(ngx_http_taptalent_commit_t *c)
{
    ngx_uint_t  i;

    for (i = 0; i < 2; i++) {
        if (c->batches[i].size) {
            ngx_free(c->batches[i].group.data);
            c->batches[i].size = 0;
        }

        if (c->batches[i].nids) {
            ngx_free(c->batches[i].ids);
            c->batches[i].nids = 0;
        }
    }

    ngx_http_taptalent_spool_close(&c->spool);
}


ngx_int_t
ngx_http_taptalent_commit_ready(ngx_http_taptalent_commit_t *c, size_t len,
    const char **why)
{
    if (c->gathering == NULL) {
        /* a new cycle in a single process */
        ngx_http_taptalent_commit_init(c, ngx_cycle->log);
    }

    if (c->state != NGX_HTTP_TAPTALENT_COMMIT_OK) {

        if (c->state == NGX_HTTP_TAPTALENT_COMMIT_BROKEN) {
            *why = "the spool has failed, until reload";
            return NGX_DECLINED;
        }

        if (ngx_http_taptalent_commit_probed(c, why) != NGX_OK) {
            return NGX_DECLINED;
        }

        if (ngx_http_taptalent_commit_open(c) != NGX_OK) {
            *why = "the spool cannot be opened";
            return NGX_DECLINED;
        }
    }

    if (!c->known
        || ngx_current_msec - c->measured >= NGX_HTTP_TAPTALENT_MEASURE)
    {
        if (ngx_http_taptalent_spool_free(&c->spool, &c->free_bytes,
                                          &c->free_inodes)
            != NGX_OK)
        {
            *why = "the free space of the spool is not known";
            return NGX_DECLINED;
        }

        ngx_http_taptalent_commit_measured(c);
    }

    if (c->low) {
        *why = "the disk of the spool is low";
        return NGX_DECLINED;
    }

    return ngx_http_taptalent_commit_room(c, len, why);
}


static ngx_int_t
ngx_http_taptalent_commit_probed(ngx_http_taptalent_commit_t *c,
    const char **why)
{
    if ((ngx_msec_int_t) (c->probe - ngx_current_msec) > 0) {
        *why = "the spool has failed, it will be tried again";
        return NGX_DECLINED;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_commit_open(ngx_http_taptalent_commit_t *c)
{
    if (c->spool.opened) {
        return NGX_OK;
    }

    if (ngx_http_taptalent_spool_open(&c->spool, ngx_cycle->log, &c->error)
        != NGX_OK)
    {
        ngx_http_taptalent_commit_failed(c);
        return NGX_ERROR;
    }

    if (c->state == NGX_HTTP_TAPTALENT_COMMIT_FAILED) {
        ngx_http_taptalent_commit_mended(c);
    }

    return NGX_OK;
}


ngx_uint_t
ngx_http_taptalent_commit_low(ngx_http_taptalent_commit_t *c, off_t bytes,
    uint64_t inodes)
{
    return bytes < c->min_free
           || inodes < (c->max_size ? NGX_HTTP_TAPTALENT_RESERVED
                                    : NGX_HTTP_TAPTALENT_INODES);
}


/* a line when it becomes low, one when it is over */

static void
ngx_http_taptalent_commit_measured(ngx_http_taptalent_commit_t *c)
{
    ngx_uint_t  low;

    c->measured = ngx_current_msec;
    c->known = 1;

    low = ngx_http_taptalent_commit_low(c, c->free_bytes, c->free_inodes);

    if (low == c->low) {
        return;
    }

    c->low = low;

    if (low) {
        ngx_log_error(NGX_LOG_CRIT, c->start.log, 0,
                      "spool \"%V\" has %O bytes and %uL inodes left, %s, "
                      "\"min_free\" is %O",
                      &c->spool.path, c->free_bytes, c->free_inodes,
                      c->max_size ? "nothing is put into quarantine"
                                  : "events are refused",
                      c->min_free);

    } else {
        ngx_log_error(NGX_LOG_NOTICE, c->start.log, 0,
                      "spool \"%V\" has room for events again",
                      &c->spool.path);
    }
}


/* an event larger than the buffer comes when it is alone */

static ngx_int_t
ngx_http_taptalent_commit_room(ngx_http_taptalent_commit_t *c, size_t len,
    const char **why)
{
    size_t  waiting;

    /* it could not be taken out again */

    if (len > NGX_HTTP_TAPTALENT_FILE_MAX) {
        *why = "the event is larger than a file of the spool may be";
        return NGX_DECLINED;
    }

    waiting = c->batches[0].group.len + c->batches[1].group.len;

    if (waiting && (waiting >= c->buffer || len > c->buffer - waiting)) {
        *why = "as much as \"buffer\" waits for the disk";
        return NGX_DECLINED;
    }

    return NGX_OK;
}


u_char *
ngx_http_taptalent_commit_reserve(ngx_http_taptalent_commit_t *c, size_t len,
    const char **why)
{
    size_t                       size;
    u_char                      *data;
    ngx_http_taptalent_batch_t  *batch;

    /* it may have changed while the body was read */

    if (c->state == NGX_HTTP_TAPTALENT_COMMIT_BROKEN || !c->spool.opened) {
        *why = "the spool has failed, until reload";
        return NULL;
    }

    if (c->state != NGX_HTTP_TAPTALENT_COMMIT_OK
        && ngx_http_taptalent_commit_probed(c, why) != NGX_OK)
    {
        return NULL;
    }

    if (ngx_http_taptalent_commit_room(c, len, why) != NGX_OK) {
        return NULL;
    }

    batch = c->gathering;

    if (len > batch->size - batch->group.len) {

        size = ngx_max(batch->size, NGX_HTTP_TAPTALENT_BATCH);

        while (size - batch->group.len < len) {
            size *= 2;
        }

        data = ngx_alloc(size, c->start.log);
        if (data == NULL) {
            *why = "there is no memory for the event";
            return NULL;
        }

        if (batch->size) {
            ngx_memcpy(data, batch->group.data, batch->group.len);
            ngx_free(batch->group.data);
        }

        batch->group.data = data;
        batch->size = size;
    }

    /* who was let in and is refused for its body has tried nothing */

    if (c->state != NGX_HTTP_TAPTALENT_COMMIT_OK) {
        c->probe = ngx_current_msec + NGX_HTTP_TAPTALENT_PROBE;
    }

    return batch->group.data + batch->group.len;
}


void
ngx_http_taptalent_commit_add(ngx_http_taptalent_commit_t *c, u_char *last,
    ngx_str_t *id, ngx_http_taptalent_waiter_t *w, ngx_msec_t timeout)
{
    ngx_msec_t                   next;
    ngx_http_taptalent_batch_t  *batch;

    batch = c->gathering;

    if (c->dedup) {
        ngx_http_taptalent_commit_remember(c, id);
    }

    batch->group.len = last - batch->group.data;
    batch->group.events++;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, c->start.log, 0,
                   "taptalent commit: event %V gathers, %ui in its batch",
                   id, batch->group.events);

    if (w) {
        w->deadline = ngx_current_msec + timeout;
        w->waiting = 1;

        ngx_queue_insert_tail(&batch->waiters, &w->queue);
    }

    next = ngx_min(timeout, NGX_HTTP_TAPTALENT_LATE);

    /* ngx_add_timer() would keep one that is up to 300 ms later */

    if (c->timer.timer_set
        && (ngx_msec_int_t) (ngx_current_msec + next - c->timer.timer.key) < 0)
    {
        ngx_del_timer(&c->timer);
    }

    if (!c->timer.timer_set) {
        ngx_add_timer(&c->timer, next);
    }

    if (c->committing == NULL && !c->start.posted) {
        ngx_post_event(&c->start, &ngx_posted_events);
    }
}


/*
 * For when it is durable.  Without memory none of the group is: an event that
 * comes again is stored again, which is better than that it is not.
 */

static void
ngx_http_taptalent_commit_remember(ngx_http_taptalent_commit_t *c,
    ngx_str_t *id)
{
    u_char                      *ids;
    ngx_uint_t                   n;
    ngx_http_taptalent_batch_t  *batch;

    batch = c->gathering;
    n = batch->group.events;

    if (n == 0) {
        batch->forgetful = 0;
    }

    if (batch->forgetful) {
        return;
    }

    if (n == batch->nids) {

        ids = realloc(batch->ids, 2 * (n + 16) * NGX_HTTP_TAPTALENT_ID_LEN);

        if (ids == NULL) {
            batch->forgetful = 1;
            return;
        }

        batch->ids = ids;
        batch->nids = 2 * (n + 16);
    }

    ngx_memcpy(batch->ids + n * NGX_HTTP_TAPTALENT_ID_LEN, id->data,
               NGX_HTTP_TAPTALENT_ID_LEN);
}


ngx_uint_t
ngx_http_taptalent_commit_waiting(ngx_http_taptalent_commit_t *c)
{
    return c->batches[0].group.events + c->batches[1].group.events;
}


void
ngx_http_taptalent_commit_detach(ngx_http_taptalent_waiter_t *w)
{
    if (w->waiting) {
        w->waiting = 0;
        ngx_queue_remove(&w->queue);
    }
}


static void
ngx_http_taptalent_commit_start(ngx_event_t *ev)
{
    ngx_queue_t                  waiters;
    ngx_http_taptalent_commit_t  *c;

    c = ev->data;

    if (c->committing || c->gathering->group.len == 0) {
        return;
    }

    c->committing = c->gathering;
    c->gathering = (c->committing == &c->batches[0]) ? &c->batches[1]
                                                     : &c->batches[0];

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, ev->log, 0,
                   "taptalent commit: %ui events, %uz bytes",
                   c->committing->group.events, c->committing->group.len);

    ngx_queue_init(&waiters);

#if (NGX_THREADS)

    if (ngx_thread_task_post(c->thread_pool, c->task) == NGX_OK) {
        return;
    }

    /* the queue of the pool is full, which has been logged */

    ngx_http_taptalent_commit_take(c->committing, &waiters);
    c->committing = NULL;

    ngx_http_taptalent_commit_wake(&waiters, NGX_ERROR);

#else

    ngx_http_taptalent_commit_run(c, ev->log);
    ngx_http_taptalent_commit_result(c, &waiters);
    ngx_http_taptalent_commit_wake(&waiters, c->rc);

#endif
}


/* in a thread: touches nothing that the loop may touch while it runs */

static void
ngx_http_taptalent_commit_run(void *data, ngx_log_t *log)
{
    ngx_http_taptalent_commit_t *c = data;

    struct timespec  start, end;

    (void) clock_gettime(CLOCK_MONOTONIC, &start);

    c->rc = ngx_http_taptalent_spool_write(&c->spool, &c->committing->group,
                                           &c->error);

    (void) clock_gettime(CLOCK_MONOTONIC, &end);

    if (c->max_size && c->rc == NGX_OK) {
        ngx_http_taptalent_commit_trim(c);
    }

    c->usec = (int64_t) (end.tv_sec - start.tv_sec) * 1000000
              + (end.tv_nsec - start.tv_nsec) / 1000;
}


/*
 * Each worker knows what it has added itself, and takes the others to have
 * added as much.  What a quarantine holds is looked up when it may be too much.
 */

static void
ngx_http_taptalent_commit_trim(ngx_http_taptalent_commit_t *c)
{
    c->added += c->committing->group.len;

    if (c->held != NGX_ERROR
        && c->held + c->added * (off_t) c->workers <= c->max_size)
    {
        return;
    }

    c->held = ngx_http_taptalent_spool_measure_trim(&c->spool, c->max_size);
    c->added = 0;
}


#if (NGX_THREADS)

static void
ngx_http_taptalent_commit_done(ngx_event_t *ev)
{
    ngx_int_t                     rc;
    ngx_queue_t                   waiters;
    ngx_http_taptalent_commit_t  *c;

    c = ev->data;

    ev->complete = 0;

    /* the result is taken before the next commit uses the same place */

    rc = c->rc;

    ngx_queue_init(&waiters);
    ngx_http_taptalent_commit_result(c, &waiters);

    /*
     * Senders that are answered now send their next events at once: a turn
     * later these are in the same commit as those that have gathered.  Started
     * now, a commit would have half of the events, and take as long.
     */

    if (c->gathering->group.len) {
        ngx_post_event(&c->start, &ngx_posted_next_events);
    }

    ngx_http_taptalent_commit_wake(&waiters, rc);
}

#endif


/* moves those to "waiters" whose result it is */

static void
ngx_http_taptalent_commit_result(ngx_http_taptalent_commit_t *c,
    ngx_queue_t *waiters)
{
    ngx_log_debug3(NGX_LOG_DEBUG_CORE, c->start.log, 0,
                   "taptalent commit: rc %i, %ui events, %uL us",
                   c->rc, c->committing->group.events, c->usec);

    ngx_http_taptalent_zone_commit(c->stats, c->rc,
                                   c->committing->group.events, c->usec);

    if (c->dedup && c->rc == NGX_OK && !c->committing->forgetful) {
        ngx_http_taptalent_dedup_add(c->zone, c->stats, c->committing->ids,
                                     c->committing->group.events);
    }

    ngx_http_taptalent_commit_take(c->committing, waiters);

    c->committing = NULL;
    c->slow = 0;

    if (c->rc != NGX_OK) {

        ngx_http_taptalent_commit_failed(c);

        /* what has gathered since would go the same way */

        ngx_http_taptalent_commit_take(c->gathering, waiters);

    } else if (c->state == NGX_HTTP_TAPTALENT_COMMIT_FAILED) {
        ngx_http_taptalent_commit_mended(c);
    }

    if (c->gathering->group.len == 0 && c->timer.timer_set) {
        ngx_del_timer(&c->timer);
    }
}


static void
ngx_http_taptalent_commit_mended(ngx_http_taptalent_commit_t *c)
{
    c->state = NGX_HTTP_TAPTALENT_COMMIT_OK;

    ngx_http_taptalent_zone_tell(c->stats, NGX_HTTP_TAPTALENT_WORKS);

    ngx_log_error(NGX_LOG_NOTICE, c->start.log, 0,
                  "spool \"%V\" takes events again", &c->spool.path);
}


static void
ngx_http_taptalent_commit_failed(ngx_http_taptalent_commit_t *c)
{
    ngx_uint_t  level, broken;

    /* a line for the first failure, not for each attempt after it */

    level = (c->state == NGX_HTTP_TAPTALENT_COMMIT_OK) ? NGX_LOG_CRIT
                                                       : NGX_LOG_INFO;

    if (ngx_http_taptalent_spool_broken(c->error.err)) {

        /* pages may be marked clean that never reached the disk */
        c->state = NGX_HTTP_TAPTALENT_COMMIT_BROKEN;
        level = NGX_LOG_CRIT;

    } else if (c->state == NGX_HTTP_TAPTALENT_COMMIT_OK) {
        c->state = NGX_HTTP_TAPTALENT_COMMIT_FAILED;
    }

    broken = (c->state == NGX_HTTP_TAPTALENT_COMMIT_BROKEN);

    c->probe = ngx_current_msec + NGX_HTTP_TAPTALENT_PROBE;

    /* what was measured did not help */

    c->known = 0;

    ngx_http_taptalent_zone_count(c->stats, commit_errors, 1);

    ngx_http_taptalent_zone_tell(c->stats,
                                 broken ? NGX_HTTP_TAPTALENT_BROKEN
                                        : NGX_HTTP_TAPTALENT_FAILED);

    ngx_log_error(level, c->start.log, c->error.err,
                  "%s \"%V/%s\" failed, %s %s",
                  c->error.call, &c->spool.path, c->error.dir,
                  c->max_size ? "nothing is put into quarantine"
                              : "events are refused",
                  broken ? "until reload" : "but for one a second");
}


static void
ngx_http_taptalent_commit_take(ngx_http_taptalent_batch_t *batch,
    ngx_queue_t *waiters)
{
    if (!ngx_queue_empty(&batch->waiters)) {
        ngx_queue_add(waiters, &batch->waiters);
        ngx_queue_init(&batch->waiters);
    }

    batch->group.len = 0;
    batch->group.events = 0;

    if (batch->size > NGX_HTTP_TAPTALENT_BATCH_MAX) {
        ngx_free(batch->group.data);
        batch->group.data = NULL;
        batch->size = 0;
    }
}


/* a handler may detach any other, so the head is looked up each time */

static void
ngx_http_taptalent_commit_wake(ngx_queue_t *waiters, ngx_int_t rc)
{
    ngx_queue_t                  *q;
    ngx_http_taptalent_waiter_t  *w;

    while (!ngx_queue_empty(waiters)) {

        q = ngx_queue_head(waiters);
        w = ngx_queue_data(q, ngx_http_taptalent_waiter_t, queue);

        ngx_http_taptalent_commit_detach(w);

        w->handler(w, rc);
    }
}


static void
ngx_http_taptalent_commit_timer(ngx_event_t *ev)
{
    ngx_msec_t                    next;
    ngx_queue_t                   late;
    ngx_http_taptalent_commit_t  *c;

    c = ev->data;

    ngx_queue_init(&late);

    /* again and again, for as long as a commit runs */

    next = NGX_HTTP_TAPTALENT_LATE;
    next = ngx_http_taptalent_commit_late(&c->batches[0], &late, next);
    next = ngx_http_taptalent_commit_late(&c->batches[1], &late, next);

    if (c->committing || c->gathering->group.len) {
        ngx_add_timer(ev, next);
    }

    if (!ngx_queue_empty(&late) && !c->slow) {
        c->slow = 1;

        ngx_log_error(NGX_LOG_CRIT, ev->log, 0,
                      "spool \"%V\" is too slow, events are refused",
                      &c->spool.path);
    }

    ngx_http_taptalent_commit_wake(&late, NGX_AGAIN);
}


static ngx_msec_t
ngx_http_taptalent_commit_late(ngx_http_taptalent_batch_t *batch,
    ngx_queue_t *late, ngx_msec_t next)
{
    ngx_queue_t                  *q, *following;
    ngx_msec_int_t                left;
    ngx_http_taptalent_waiter_t  *w;

    for (q = ngx_queue_head(&batch->waiters);
         q != ngx_queue_sentinel(&batch->waiters);
         q = following)
    {
        following = ngx_queue_next(q);

        w = ngx_queue_data(q, ngx_http_taptalent_waiter_t, queue);

        left = (ngx_msec_int_t) (w->deadline - ngx_current_msec);

        if (left > 0) {
            next = ngx_min(next, (ngx_msec_t) left);
            continue;
        }

        ngx_queue_remove(q);
        ngx_queue_insert_tail(late, q);
    }

    return next;
}
