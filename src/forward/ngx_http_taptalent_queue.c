
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_queue.h"


/*
 * Files wait in "pending", a bounded window over what is in new/.  Those being
 * worked on are in "active".  Events are taken from the oldest active file as
 * there is room to send them; each is in flight, or waits for its own next
 * attempt, or for its destination, or is finished and waits to be settled.
 *
 * All that may block is done in a thread, one work at a time: settle what is
 * finished, load the next files, go on with the scan.  An event counts as in
 * flight until it is settled, so that kill -9 has no more sent again than that.
 *
 * Who sends an event waits for the answer, and not for long.  What is in the
 * spool can wait.  So while events are accepted faster than one after another,
 * deliveries have a share of the time.
 */


#define NGX_HTTP_TAPTALENT_HOLD      200      /* ms, for the shutdown */
#define NGX_HTTP_TAPTALENT_SHARE     8        /* of a tick, to start some */
#define NGX_HTTP_TAPTALENT_KEPT      4        /* of the places, for the first
                                                 attempts */


static ngx_uint_t ngx_http_taptalent_queue_may_send(
    ngx_http_taptalent_queue_t *q);
static ngx_uint_t ngx_http_taptalent_queue_gives_way(
    ngx_http_taptalent_queue_t *q);
static ngx_http_taptalent_item_t *ngx_http_taptalent_queue_next(
    ngx_http_taptalent_queue_t *q);
static ngx_http_taptalent_item_t *ngx_http_taptalent_queue_next_failed(
    ngx_http_taptalent_queue_t *q);
static ngx_http_taptalent_item_t *ngx_http_taptalent_queue_next_fresh(
    ngx_http_taptalent_queue_t *q);


ngx_int_t
ngx_http_taptalent_queue_room(ngx_http_taptalent_forward_t *forward)
{
    return (forward->q && forward->q->items < forward->queue) ? NGX_OK
                                                             : NGX_DECLINED;
}


ngx_int_t
ngx_http_taptalent_queue_put(ngx_http_taptalent_forward_t *forward,
    ngx_http_taptalent_event_t *ev)
{
    ngx_str_t                    text;
    ngx_pool_t                  *pool;
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    if (ngx_http_taptalent_queue_room(forward) != NGX_OK) {
        return NGX_DECLINED;
    }

    q = forward->q;

    pool = ngx_create_pool(1024, q->log);
    if (pool == NULL) {
        return NGX_ERROR;
    }

    text.data = ngx_pnalloc(pool, ngx_http_taptalent_line_len(ev));
    if (text.data == NULL) {
        ngx_destroy_pool(pool);
        return NGX_ERROR;
    }

    text.len = ngx_http_taptalent_line_write(ev, text.data) - text.data;

    if (ngx_http_taptalent_item_create(q, pool, &text, &item) != NGX_OK) {
        ngx_destroy_pool(pool);
        return NGX_ERROR;
    }

    ngx_http_taptalent_item_ready(item);
    ngx_http_taptalent_queue_post(q);

    return NGX_OK;
}


void
ngx_http_taptalent_queue_run(ngx_event_t *ev)
{
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    q = ev->data;

    if (q->state == NGX_HTTP_TAPTALENT_QUEUE_LOST) {
        return;
    }

    while (ngx_http_taptalent_queue_may_send(q)
           && !ngx_http_taptalent_queue_gives_way(q))
    {
        item = ngx_http_taptalent_queue_next(q);

        if (item == NULL) {
            break;
        }

        ngx_http_taptalent_attempt_send(item);
    }

    if (q->state == NGX_HTTP_TAPTALENT_QUEUE_DRAINING
        && ngx_queue_empty(&q->flying))
    {
        q->state = NGX_HTTP_TAPTALENT_QUEUE_PARTING;

        ngx_log_debug0(NGX_LOG_DEBUG_CORE, q->log, 0,
                       "taptalent queue: parting, nothing is in flight");

        q->resettle = 1;
    }

    if (q->lock != NGX_INVALID_FILE && !q->working) {
        ngx_http_taptalent_queue_task_start(q);
    }

    if (q->inflight || q->working || (q->spool == NULL && q->items)) {

        if (!q->hold.timer_set) {
            ngx_add_timer(&q->hold, NGX_HTTP_TAPTALENT_HOLD);
        }

        return;
    }

    if (q->hold.timer_set) {
        ngx_del_timer(&q->hold);
    }

    if (q->state >= NGX_HTTP_TAPTALENT_QUEUE_DRAINING) {
        q->drained(q);
    }
}


/* one that is to leave takes nothing new, but what only it has it sends */

static ngx_uint_t
ngx_http_taptalent_queue_may_send(ngx_http_taptalent_queue_t *q)
{
    if (q->inflight >= q->forward->concurrency) {
        return 0;
    }

    return q->spool == NULL
           || (q->state == NGX_HTTP_TAPTALENT_QUEUE_OWNER && !q->broken);
}


/* an eighth of each tick, and at least one in each */

static ngx_uint_t
ngx_http_taptalent_queue_gives_way(ngx_http_taptalent_queue_t *q)
{
    uint64_t         now;
    struct timespec  ts;

    if (q->commit == NULL || ngx_http_taptalent_commit_waiting(q->commit) < 2) {
        return 0;
    }

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    now = (uint64_t) ts.tv_sec * 1000000 + ts.tv_nsec / 1000;

    if (now - q->slot >= q->tick) {
        q->slot = now;
    }

    if (now - q->slot < q->tick / NGX_HTTP_TAPTALENT_SHARE) {
        return 0;
    }

    if (!q->pause.timer_set) {
        ngx_log_debug0(NGX_LOG_DEBUG_CORE, q->log, 0,
                       "taptalent queue: gives way");

        ngx_add_timer(&q->pause, 1);
    }

    return 1;
}


/* those that have failed take turns with those that have not been tried */

static ngx_http_taptalent_item_t *
ngx_http_taptalent_queue_next(ngx_http_taptalent_queue_t *q)
{
    ngx_http_taptalent_item_t  *item;

    if (q->turn) {
        q->turn = 0;

        item = ngx_http_taptalent_queue_next_failed(q);

        return item ? item : ngx_http_taptalent_queue_next_fresh(q);
    }

    item = ngx_http_taptalent_queue_next_fresh(q);

    if (item) {
        q->turn = 1;
        return item;
    }

    return ngx_http_taptalent_queue_next_failed(q);
}


/*
 * What failed before may fail again, and take long: some of the places are
 * for others.
 */

static ngx_http_taptalent_item_t *
ngx_http_taptalent_queue_next_failed(ngx_http_taptalent_queue_t *q)
{
    ngx_uint_t    n;
    ngx_queue_t  *p;

    n = q->forward->concurrency;

    if (n > 1) {
        n -= (n + NGX_HTTP_TAPTALENT_KEPT - 1) / NGX_HTTP_TAPTALENT_KEPT;
    }

    if (ngx_queue_empty(&q->ready) || q->retrying >= n) {
        return NULL;
    }

    p = ngx_queue_head(&q->ready);
    ngx_queue_remove(p);

    return ngx_queue_data(p, ngx_http_taptalent_item_t, queue);
}


static ngx_http_taptalent_item_t *
ngx_http_taptalent_queue_next_fresh(ngx_http_taptalent_queue_t *q)
{
    ngx_queue_t                *p;
    ngx_http_taptalent_file_t  *file;
    ngx_http_taptalent_item_t  *item;

    if (!ngx_queue_empty(&q->fresh)) {
        p = ngx_queue_head(&q->fresh);
        ngx_queue_remove(p);

        return ngx_queue_data(p, ngx_http_taptalent_item_t, queue);
    }

    if (q->waiting >= NGX_HTTP_TAPTALENT_WAITING
        || q->bytes >= NGX_HTTP_TAPTALENT_BYTES)
    {
        /* too many fail: what is new waits as well */
        return NULL;
    }

    while (!ngx_queue_empty(&q->loaded)) {

        p = ngx_queue_head(&q->loaded);
        file = ngx_queue_data(p, ngx_http_taptalent_file_t, queue);

        item = ngx_http_taptalent_item_take(q, file);

        if (item) {
            return item;
        }

        if (file->state == NGX_HTTP_TAPTALENT_FILE_LOADED) {
            /* no memory */
            return NULL;
        }
    }

    return NULL;
}
