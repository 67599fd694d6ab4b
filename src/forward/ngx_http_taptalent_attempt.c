
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_queue.h"


/*
 * The attempts: an event is sent, and finished, or waits for its own next
 * attempt, or for its destination, or is given up.
 */


#define ngx_http_taptalent_attempt_word(n)                                    \
    ((n) == 1 ? "attempt" : "attempts")


static void ngx_http_taptalent_attempt_landed(ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_attempt_done(ngx_http_taptalent_delivery_t *d);
static void ngx_http_taptalent_attempt_failed(ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_attempt_give_up(ngx_http_taptalent_item_t *item,
    ngx_http_taptalent_reason_e reason);
static void ngx_http_taptalent_attempt_finish(ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_attempt_settled(
    ngx_http_taptalent_item_t *item);


/* in the order of ngx_http_taptalent_reason_e */

static const char  *ngx_http_taptalent_attempt_reasons[] = {
    "permanent", "max_age"
};


void
ngx_http_taptalent_attempt_init(ngx_http_taptalent_queue_t *q)
{
    q->settled = ngx_http_taptalent_attempt_settled;
}


void
ngx_http_taptalent_attempt_send(ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_dest_t   *dest;
    ngx_http_taptalent_queue_t  *q;

    q = item->owner;

    item->delivery.attempt++;
    item->delivery.handler = ngx_http_taptalent_attempt_done;
    item->delivery.data = item;

    if (ngx_http_taptalent_delivery_create(&item->delivery, q->log) != NGX_OK)
    {
        item->delivery.attempt--;
        ngx_http_taptalent_item_wait(item, 1000);
        return;
    }

    dest = ngx_http_taptalent_dest_find(q, &item->delivery.uri);

    if (item->dest != dest) {
        item->dest = dest;
        item->run = 0;
    }

    item->trial = 0;

    if (dest && dest->state != NGX_HTTP_TAPTALENT_DEST_UP) {

        if (dest->state != NGX_HTTP_TAPTALENT_DEST_DUE) {
            ngx_http_taptalent_delivery_free(&item->delivery);
            item->delivery.attempt--;

            ngx_http_taptalent_dest_park(item);
            return;
        }

        ngx_http_taptalent_dest_try(dest, item);
    }

    q->inflight++;
    q->retrying += (item->delivery.attempt > 1);
    ngx_queue_insert_tail(&q->flying, &item->queue);

    ngx_log_debug3(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent attempt: event %V, attempt %ui begins, "
                   "%ui in flight", &item->delivery.event.id,
                   item->delivery.attempt, q->inflight);

    ngx_http_taptalent_delivery_send(&item->delivery);
}


void
ngx_http_taptalent_attempt_break_off(ngx_http_taptalent_queue_t *q)
{
    ngx_queue_t                *p, *next;
    ngx_http_taptalent_item_t  *item;

    for (p = ngx_queue_head(&q->flying);
         p != ngx_queue_sentinel(&q->flying);
         p = next)
    {
        next = ngx_queue_next(p);

        item = ngx_queue_data(p, ngx_http_taptalent_item_t, queue);

        if (ngx_http_taptalent_delivery_blocked(&item->delivery)) {
            continue;
        }

        ngx_http_taptalent_attempt_landed(item);
        q->inflight--;

        ngx_http_taptalent_delivery_free(&item->delivery);
        ngx_http_taptalent_item_free(item);
    }
}


static void
ngx_http_taptalent_attempt_landed(ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_dest_t  *dest;

    ngx_queue_remove(&item->queue);

    item->owner->retrying -= (item->delivery.attempt > 1);

    if (item->trial) {
        dest = item->dest;

        if (--dest->trials == 0
            && dest->state == NGX_HTTP_TAPTALENT_DEST_PROBING)
        {
            dest->state = NGX_HTTP_TAPTALENT_DEST_DOWN;
        }
    }
}


static void
ngx_http_taptalent_attempt_done(ngx_http_taptalent_delivery_t *d)
{
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    item = d->data;
    q = item->owner;

    ngx_log_debug3(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent attempt: event %V, attempt %ui ends, status %ui",
                   &d->event.id, d->attempt, d->status);

    ngx_http_taptalent_attempt_landed(item);

    if (d->timed_out && item->dest) {
        ngx_http_taptalent_zone_count(item->dest->stats, timeouts, 1);
    }

    if (d->status >= 200 && d->status < 300 && !d->unconfirmed) {

        if (item->dest) {
            ngx_http_taptalent_dest_up(item->dest);
        }

        ngx_http_taptalent_dest_count(item, NGX_HTTP_TAPTALENT_DELIVERED);
        ngx_http_taptalent_zone_delivered(q->forward->zone, q->forward->stats,
                                          &d->event.received);

        ngx_http_taptalent_attempt_finish(item);

    } else {
        ngx_http_taptalent_attempt_failed(item);
    }

    ngx_http_taptalent_queue_post(q);
}


static void
ngx_http_taptalent_attempt_failed(ngx_http_taptalent_item_t *item)
{
    time_t                          age;
    ngx_uint_t                      i, *status;
    ngx_msec_t                      delay;
    ngx_http_taptalent_dest_t      *dest;
    ngx_http_taptalent_queue_t     *q;
    ngx_http_taptalent_retry_t     *retry;
    ngx_http_taptalent_delivery_t  *d;

    q = item->owner;
    d = &item->delivery;
    dest = item->dest;
    retry = &q->forward->retry;

    status = retry->permanent->elts;

    for (i = 0; i < retry->permanent->nelts; i++) {
        if (status[i] == d->status) {

            /* it has answered */

            if (dest) {
                ngx_http_taptalent_dest_up(dest);
            }

            ngx_http_taptalent_attempt_give_up(item,
                                               NGX_HTTP_TAPTALENT_PERMANENT);
            return;
        }
    }

    if (d->status == 0 || d->status == 429 || d->status >= 500
        || d->unconfirmed)
    {

        if (dest) {
            ngx_http_taptalent_dest_failed(dest, item);
        }

    } else if (dest) {
        ngx_http_taptalent_dest_up(dest);
    }

    age = item->age + (time_t) ((ngx_current_msec - item->created) / 1000);

    if (age >= retry->max_age) {
        ngx_http_taptalent_attempt_give_up(item, NGX_HTTP_TAPTALENT_MAX_AGE);
        return;
    }

    ngx_http_taptalent_dest_count(item, NGX_HTTP_TAPTALENT_RETRY);

    q->inflight--;

    delay = ngx_http_taptalent_dest_backoff(q, d->attempt, d->retry_after);

    if (dest && dest->state != NGX_HTTP_TAPTALENT_DEST_UP) {

        item->next = ngx_current_msec + delay;
        item->asked = (d->retry_after > 0);

        ngx_http_taptalent_dest_park(item);
        return;
    }

    ngx_http_taptalent_item_wait(item, delay);
}


/* the line, with the reason before the payload, is a file that can be sent */

static void
ngx_http_taptalent_attempt_give_up(ngx_http_taptalent_item_t *item,
    ngx_http_taptalent_reason_e reason)
{
    u_char                      *p;
    const char                  *why;
    ngx_http_taptalent_queue_t  *q;

    q = item->owner;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent attempt: event %V is given up, %s",
                   &item->delivery.event.id,
                   ngx_http_taptalent_attempt_reasons[reason]);

    if (q->spool == NULL) {
        ngx_http_taptalent_dest_count(item, NGX_HTTP_TAPTALENT_GIVEN_UP);
        ngx_http_taptalent_zone_count(q->forward->stats, dead[reason], 1);

        ngx_log_error(NGX_LOG_ERR, q->log, 0,
                      "event \"%V\", id %V, is given up with status %ui after "
                      "%ui %s and is lost, there is no spool",
                      &item->delivery.event.name, &item->delivery.event.id,
                      item->delivery.status, item->delivery.attempt,
                      ngx_http_taptalent_attempt_word(item->delivery.attempt));

        ngx_http_taptalent_attempt_finish(item);
        return;
    }

    why = ngx_http_taptalent_attempt_reasons[reason];

    p = ngx_alloc(ngx_http_taptalent_line_dead_len(&item->text, why), q->log);

    if (p == NULL) {
        ngx_http_taptalent_dest_count(item, NGX_HTTP_TAPTALENT_RETRY);

        q->inflight--;
        ngx_http_taptalent_item_wait(item, q->forward->retry.max);
        return;
    }

    /* what it is counted as is known when it is in dead/, or is not */

    item->reason = reason;
    item->dead.data = p;
    item->dead.events = 1;

    p = ngx_http_taptalent_line_write_dead(p, &item->text, why,
                                           item->delivery.status,
                                           item->delivery.attempt, ngx_time());

    item->dead.len = p - item->dead.data;

    ngx_http_taptalent_attempt_finish(item);
}


/* it counts as in flight until the spool knows */

static void
ngx_http_taptalent_attempt_finish(ngx_http_taptalent_item_t *item)
{
    if (item->owner->spool == NULL) {
        item->owner->inflight--;
        ngx_http_taptalent_item_free(item);
        return;
    }

    ngx_queue_insert_tail(&item->owner->finished, &item->queue);
}


/* a handler of the work on the disk: the spool knows, or dead/ has failed */

static void
ngx_http_taptalent_attempt_settled(ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_queue_t  *q;

    q = item->owner;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent attempt: event %V is settled, rc %i",
                   &item->delivery.event.id, item->rc);

    q->inflight--;

    if (item->rc != NGX_OK) {

        ngx_http_taptalent_dest_count(item, NGX_HTTP_TAPTALENT_RETRY);

        item->dead.len = 0;
        ngx_free(item->dead.data);
        item->dead.data = NULL;

        ngx_http_taptalent_item_wait(item, q->forward->retry.max);
        return;
    }

    if (item->dead.len) {
        ngx_http_taptalent_dest_count(item, NGX_HTTP_TAPTALENT_GIVEN_UP);
        ngx_http_taptalent_zone_count(q->forward->stats, dead[item->reason], 1);

        ngx_log_error(NGX_LOG_ERR, q->log, 0,
                      "event \"%V\", id %V, is given up with status "
                      "%ui after %ui %s and is in \"%V/dead\"",
                      &item->delivery.event.name, &item->delivery.event.id,
                      item->delivery.status, item->delivery.attempt,
                      ngx_http_taptalent_attempt_word(item->delivery.attempt),
                      &q->spool->path);
    }

    ngx_http_taptalent_item_free(item);
}
