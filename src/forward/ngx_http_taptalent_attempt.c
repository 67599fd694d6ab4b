
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_queue.h"


/*
 * The events of the queue: each is sent, and finished, or waits for its own
 * next attempt, or for its destination.
 *
 * An event that fails by itself waits by itself.  A destination is down if it
 * cannot be reached, or fails with several events in a row.  An event counts
 * once: if another one has been answered since it failed, it is the event and
 * not the destination that fails.
 *
 * A destination that is down is probed with one event after ever longer
 * delays, with one that has not been tried, if there is any.  If it answers,
 * however wrongly, and does not ask for time, perhaps only these events are
 * wrong: then those that have not been tried follow one another quickly, until
 * one of them succeeds.
 */


#define NGX_HTTP_TAPTALENT_FAILURES  3        /* events that mean down */
#define NGX_HTTP_TAPTALENT_DUE       1000     /* ms, until something probes */
#define NGX_HTTP_TAPTALENT_PACE      64       /* first attempts in "initial" */
#define NGX_HTTP_TAPTALENT_TRIALS    4        /* the part of "concurrency" */


static ngx_http_taptalent_dest_t *ngx_http_taptalent_dest(
    ngx_http_taptalent_queue_t *q, ngx_str_t *uri);
static void ngx_http_taptalent_park(ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_sent(ngx_http_taptalent_delivery_t *d);
static void ngx_http_taptalent_failed(ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_dest_up(ngx_http_taptalent_dest_t *dest);
static void ngx_http_taptalent_dest_failed(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_dest_down(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_dest_log(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_delivery_t *d, ngx_uint_t level);
static void ngx_http_taptalent_dest_try(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_dest_probe(ngx_http_taptalent_dest_t *dest,
    ngx_msec_t delay);
static void ngx_http_taptalent_dest_arm(ngx_http_taptalent_dest_t *dest);
static void ngx_http_taptalent_dest_timer(ngx_event_t *ev);
static void ngx_http_taptalent_item_timer(ngx_event_t *ev);
static ngx_msec_t ngx_http_taptalent_backoff(ngx_http_taptalent_queue_t *q,
    ngx_uint_t failures, ngx_uint_t retry_after);
static void ngx_http_taptalent_bury(ngx_http_taptalent_item_t *item,
    ngx_http_taptalent_reason_e reason);
static void ngx_http_taptalent_finish(ngx_http_taptalent_item_t *item);


/* in the order of ngx_http_taptalent_reason_e */

static const char  *ngx_http_taptalent_reasons[] = {
    "permanent", "max_age"
};


/* the text is in the pool, which the item has then, and is an event's line */

ngx_int_t
ngx_http_taptalent_create_item(ngx_http_taptalent_queue_t *q,
    ngx_pool_t *pool, ngx_str_t *text, ngx_http_taptalent_item_t **created)
{
    ngx_int_t                   rc;
    ngx_http_taptalent_item_t  *item;

    item = ngx_pcalloc(pool, sizeof(ngx_http_taptalent_item_t));
    if (item == NULL) {
        return NGX_ABORT;
    }

    rc = ngx_http_taptalent_event_read(&item->delivery.event,
                                       &item->delivery.received, text, pool);
    if (rc != NGX_OK) {
        return rc;
    }

    item->ident[3] = (void *) -1;
    item->pool = pool;
    item->owner = q;
    item->text = *text;
    item->delivery.conf_ctx = q->forward->conf_ctx;
    item->delivery.forward = q->forward->uri;
    item->delivery.confirm = q->forward->confirm;
    item->delivery.timeout = q->forward->timeout;
    item->delivery.handler = ngx_http_taptalent_sent;
    item->delivery.data = item;

    /* from here on it ages by itself: the clock may be set */

    item->age = ngx_max(ngx_time() - item->delivery.event.received.tv_sec, 0);

    /* who takes one out of quarantine does not want it to be too old */

    if (ngx_http_taptalent_line_is_refused(text->data, text->len)) {
        item->age = 0;
    }

    item->created = ngx_current_msec;

    item->timer.handler = ngx_http_taptalent_item_timer;
    item->timer.data = item;
    item->timer.log = q->log;
    item->timer.cancelable = 1;

    q->bytes += text->len;
    q->items++;

    /* what is in the spool is measured there */

    if (q->spool == NULL) {
        ngx_http_taptalent_zone_queued(q->forward->stats, 1);
    }

    *created = item;

    return NGX_OK;
}


void
ngx_http_taptalent_free_item(ngx_http_taptalent_item_t *item)
{
    item->owner->bytes -= item->text.len;
    item->owner->items--;

    if (item->owner->spool == NULL) {
        ngx_http_taptalent_zone_queued(item->owner->forward->stats, -1);
    }

    if (item->file) {
        item->file->out--;
    }

    ngx_free(item->dead.data);
    ngx_destroy_pool(item->pool);
}


void
ngx_http_taptalent_send(ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_dest_t   *dest;
    ngx_http_taptalent_queue_t  *q;

    q = item->owner;

    item->delivery.attempt++;

    if (ngx_http_taptalent_delivery_create(&item->delivery, q->log) != NGX_OK)
    {
        item->delivery.attempt--;
        ngx_http_taptalent_wait(item, 1000);
        return;
    }

    dest = ngx_http_taptalent_dest(q, &item->delivery.uri);

    if (item->dest != dest) {
        item->dest = dest;
        item->run = 0;
    }

    item->trial = 0;

    if (dest && dest->down) {

        if (!dest->due) {
            ngx_http_taptalent_delivery_free(&item->delivery);
            item->delivery.attempt--;

            ngx_http_taptalent_park(item);
            return;
        }

        ngx_http_taptalent_dest_try(dest, item);
    }

    q->inflight++;
    q->retrying += (item->delivery.attempt > 1);
    ngx_queue_insert_tail(&q->flying, &item->queue);

    ngx_http_taptalent_delivery_send(&item->delivery);
}


void
ngx_http_taptalent_item_landed(ngx_http_taptalent_item_t *item)
{
    ngx_queue_remove(&item->queue);

    item->owner->retrying -= (item->delivery.attempt > 1);

    if (item->trial) {
        item->dest->trials--;
    }
}


void
ngx_http_taptalent_item_ready(ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_queue_t  *q;

    q = item->owner;

    ngx_queue_insert_tail(item->delivery.attempt ? &q->ready : &q->fresh,
                          &item->queue);
}


/* waits for its destination, which is down */

static void
ngx_http_taptalent_park(ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_dest_t  *dest;

    dest = item->dest;

    item->owner->waiting++;

    if (item->delivery.attempt) {
        ngx_queue_insert_tail(&dest->failed, &item->queue);
        return;
    }

    ngx_queue_insert_tail(&dest->fresh, &item->queue);
    ngx_http_taptalent_dest_arm(dest);
}


/* NULL without memory, or if there are too many to be told apart */

static ngx_http_taptalent_dest_t *
ngx_http_taptalent_dest(ngx_http_taptalent_queue_t *q, ngx_str_t *uri)
{
    u_char                     *args;
    ngx_str_t                   path;
    ngx_uint_t                  i;
    ngx_http_taptalent_dest_t  *dest;

    path = *uri;

    args = ngx_strlchr(path.data, path.data + path.len, '?');

    if (args) {
        path.len = args - path.data;
    }

    for (i = 0; i < q->ndests; i++) {
        dest = &q->dests[i];

        if (dest->uri.len == path.len
            && ngx_memcmp(dest->uri.data, path.data, path.len) == 0)
        {
            return dest;
        }
    }

    if (q->ndests == NGX_HTTP_TAPTALENT_DESTS) {
        return NULL;
    }

    dest = &q->dests[q->ndests];

    dest->uri.data = ngx_pstrdup(q->cycle->pool, &path);
    if (dest->uri.data == NULL) {
        return NULL;
    }

    dest->uri.len = path.len;
    dest->owner = q;
    dest->ident[3] = (void *) -1;

    dest->stats = ngx_http_taptalent_zone_dest(q->forward->zone,
                                               q->forward->stats, &path);

    ngx_queue_init(&dest->fresh);
    ngx_queue_init(&dest->failed);

    dest->run = 1;

    dest->timer.handler = ngx_http_taptalent_dest_timer;
    dest->timer.data = &dest->ident;
    dest->timer.log = q->log;
    dest->timer.cancelable = 1;

    q->ndests++;

    return dest;
}


static void
ngx_http_taptalent_sent(ngx_http_taptalent_delivery_t *d)
{
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    item = d->data;
    q = item->owner;

    ngx_http_taptalent_item_landed(item);

    if (d->timed_out && item->dest) {
        ngx_http_taptalent_zone_count(item->dest->stats, timeouts, 1);
    }

    if (d->status >= 200 && d->status < 300 && !d->unconfirmed) {

        if (item->dest) {
            ngx_http_taptalent_dest_up(item->dest);
        }

        ngx_http_taptalent_attempt(item, NGX_HTTP_TAPTALENT_DELIVERED);
        ngx_http_taptalent_zone_delivered(q->forward->zone, q->forward->stats,
                                          &d->event.received);

        ngx_http_taptalent_finish(item);

    } else {
        ngx_http_taptalent_failed(item);
    }

    ngx_http_taptalent_queue_post(q);
}


void
ngx_http_taptalent_attempt(ngx_http_taptalent_item_t *item,
    ngx_http_taptalent_outcome_e outcome)
{
    if (item->dest) {
        ngx_http_taptalent_zone_attempt(item->dest->stats, outcome,
                                        item->delivery.attempt,
                                        item->delivery.status);
    }
}


static void
ngx_http_taptalent_failed(ngx_http_taptalent_item_t *item)
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

            ngx_http_taptalent_bury(item, NGX_HTTP_TAPTALENT_PERMANENT);
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
        ngx_http_taptalent_bury(item, NGX_HTTP_TAPTALENT_MAX_AGE);
        return;
    }

    ngx_http_taptalent_attempt(item, NGX_HTTP_TAPTALENT_RETRY);

    q->inflight--;

    delay = ngx_http_taptalent_backoff(q, d->attempt, d->retry_after);

    if (dest && dest->down) {

        item->next = ngx_current_msec + delay;
        item->asked = (d->retry_after > 0);

        ngx_http_taptalent_park(item);
        return;
    }

    ngx_http_taptalent_wait(item, delay);
}


static void
ngx_http_taptalent_dest_up(ngx_http_taptalent_dest_t *dest)
{
    ngx_queue_t                 *p;
    ngx_msec_int_t               left;
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    dest->run++;
    dest->failures = 0;
    dest->asked = 0;

    if (!dest->down) {
        return;
    }

    q = dest->owner;

    dest->down = 0;
    dest->due = 0;

    if (dest->timer.timer_set) {
        ngx_del_timer(&dest->timer);
    }

    ngx_http_taptalent_zone_up(dest->stats);

    ngx_log_error(NGX_LOG_NOTICE, q->log, 0,
                  "destination \"%V\" is up again", &dest->uri);

    while (!ngx_queue_empty(&dest->fresh)) {
        p = ngx_queue_head(&dest->fresh);
        ngx_queue_remove(p);
        ngx_queue_insert_tail(&q->fresh, p);
        q->waiting--;
    }

    while (!ngx_queue_empty(&dest->failed)) {
        p = ngx_queue_head(&dest->failed);
        ngx_queue_remove(p);
        q->waiting--;

        item = ngx_queue_data(p, ngx_http_taptalent_item_t, queue);

        left = (ngx_msec_int_t) (item->next - ngx_current_msec);

        if (left > 0) {
            ngx_http_taptalent_wait(item, left);

        } else {
            ngx_http_taptalent_item_ready(item);
        }
    }
}


/*
 * An event that could not be sent says nothing of itself, and all of the
 * destination.  One that was sent says something of the destination only as
 * long as none has been answered since it failed for the first time.
 */

static void
ngx_http_taptalent_dest_failed(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item)
{
    ngx_uint_t                      itself;
    ngx_http_taptalent_delivery_t  *d;

    d = &item->delivery;

    if (d->connected && item->run == 0) {
        item->run = dest->run;
        dest->failures++;
        dest->asked += (d->retry_after > 0);
    }

    itself = (d->connected && item->run != dest->run);

    if (!dest->down) {

        if (!d->connected
            || (!itself && dest->failures >= NGX_HTTP_TAPTALENT_FAILURES))
        {
            ngx_http_taptalent_dest_down(dest, item);
        }

        return;
    }

    if (item->trial) {
        dest->reached = (d->connected && (itself || d->retry_after == 0));

        if (d->connected && !dest->reached) {
            ngx_http_taptalent_dest_probe(dest,
                              ngx_http_taptalent_backoff(dest->owner, 1,
                                                         d->retry_after));
        }

        ngx_http_taptalent_dest_log(dest, d, dest->reached ? NGX_LOG_DEBUG
                                                           : NGX_LOG_INFO);
    }

    ngx_http_taptalent_dest_arm(dest);
}


static void
ngx_http_taptalent_dest_down(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_delivery_t  *d;

    d = &item->delivery;

    dest->down = 1;
    dest->due = 0;
    dest->reached = (d->connected && dest->asked < dest->failures);
    dest->probes = 1;
    dest->tried = ngx_current_msec;
    dest->probe_at = ngx_current_msec;

    ngx_http_taptalent_dest_probe(dest,
              ngx_http_taptalent_backoff(dest->owner, 1,
                                         dest->reached ? 0 : d->retry_after));

    ngx_http_taptalent_dest_log(dest, d, NGX_LOG_WARN);

    ngx_http_taptalent_dest_arm(dest);
}


static void
ngx_http_taptalent_dest_log(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_delivery_t *d, ngx_uint_t level)
{
    ngx_msec_int_t  left;

    left = (ngx_msec_int_t) (dest->probe_at - ngx_current_msec);

    ngx_log_error(level, dest->owner->log, 0,
                  "destination \"%V\" is down, status %ui%s, "
                  "next attempt in %M ms", &dest->uri, d->status,
                  d->unconfirmed ? " without what \"confirm\" asks for" : "",
                  (ngx_msec_t) ngx_max(left, 0));
}


/* the event is sent although the destination is down, since one is due */

static void
ngx_http_taptalent_dest_try(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_queue_t  *q;

    q = dest->owner;

    item->trial = 1;

    dest->trials++;
    dest->due = 0;
    dest->tried = ngx_current_msec;

    if ((ngx_msec_int_t) (dest->probe_at - ngx_current_msec) <= 0) {
        dest->probes++;
        ngx_http_taptalent_dest_probe(dest,
                           ngx_http_taptalent_backoff(q, dest->probes, 0));
    }

    ngx_http_taptalent_dest_arm(dest);
}


/* not sooner than another one has asked for */

static void
ngx_http_taptalent_dest_probe(ngx_http_taptalent_dest_t *dest,
    ngx_msec_t delay)
{
    ngx_msec_t  at;

    at = ngx_current_msec + delay;

    if ((ngx_msec_int_t) (at - dest->probe_at) > 0) {
        dest->probe_at = at;

        ngx_http_taptalent_zone_down(dest->stats, delay);
    }
}


/* when the next one is due */

static void
ngx_http_taptalent_dest_arm(ngx_http_taptalent_dest_t *dest)
{
    ngx_msec_t                     at;
    ngx_msec_int_t                 left;
    ngx_http_taptalent_forward_t  *forward;

    if (dest->due) {
        return;
    }

    forward = dest->owner->forward;
    at = dest->probe_at;

    if (dest->reached && !ngx_queue_empty(&dest->fresh)
        && dest->trials < ngx_max(forward->concurrency
                                  / NGX_HTTP_TAPTALENT_TRIALS, 1))
    {
        at = dest->tried + forward->retry.initial / NGX_HTTP_TAPTALENT_PACE;

        if ((ngx_msec_int_t) (dest->probe_at - at) < 0) {
            at = dest->probe_at;
        }
    }

    left = (ngx_msec_int_t) (at - ngx_current_msec);

    /* a timer that is set keeps its time if the new one is close to it */

    if (dest->timer.timer_set) {
        ngx_del_timer(&dest->timer);
    }

    ngx_add_timer(&dest->timer, ngx_max(left, 1));
}


static void
ngx_http_taptalent_dest_timer(ngx_event_t *ev)
{
    ngx_queue_t                 *p;
    ngx_http_taptalent_dest_t   *dest;
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    dest = (ngx_http_taptalent_dest_t *)
               ((char *) ev->data - offsetof(ngx_http_taptalent_dest_t, ident));
    q = dest->owner;

    dest->due = 1;

    /*
     * The event may go elsewhere by now, or there is none, and one that is in
     * flight yet comes to wait: until one probes.
     */

    ngx_add_timer(ev, NGX_HTTP_TAPTALENT_DUE);

    if (!ngx_queue_empty(&dest->fresh)) {
        p = ngx_queue_head(&dest->fresh);
        ngx_queue_remove(p);
        ngx_queue_insert_head(&q->fresh, p);
        q->waiting--;

        ngx_http_taptalent_queue_post(q);
        return;
    }

    /* one that has asked for time has it */

    for (p = ngx_queue_head(&dest->failed);
         p != ngx_queue_sentinel(&dest->failed);
         p = ngx_queue_next(p))
    {
        item = ngx_queue_data(p, ngx_http_taptalent_item_t, queue);

        if (item->asked
            && (ngx_msec_int_t) (item->next - ngx_current_msec) > 0)
        {
            continue;
        }

        ngx_queue_remove(p);
        ngx_queue_insert_head(&q->ready, p);
        q->waiting--;
        break;
    }

    ngx_http_taptalent_queue_post(q);
}


void
ngx_http_taptalent_wait(ngx_http_taptalent_item_t *item, ngx_msec_t delay)
{
    item->owner->waiting++;

    ngx_add_timer(&item->timer, delay);
}


static void
ngx_http_taptalent_item_timer(ngx_event_t *ev)
{
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    item = ev->data;
    q = item->owner;

    q->waiting--;

    ngx_http_taptalent_item_ready(item);
    ngx_http_taptalent_queue_post(q);
}


/* "equal jitter": half of the delay is certain, half is by chance */

static ngx_msec_t
ngx_http_taptalent_backoff(ngx_http_taptalent_queue_t *q,
    ngx_uint_t failures, ngx_uint_t retry_after)
{
    ngx_msec_t  delay, max;

    max = q->forward->retry.max;
    delay = q->forward->retry.initial;

    while (--failures && delay < max) {
        delay *= 2;
    }

    delay = ngx_min(delay, max);
    delay = delay / 2 + ngx_random() % (delay / 2 + 1);

    /* as long as it asks, but no longer than ours may be */

    if (retry_after > max / 1000) {
        return max;
    }

    return ngx_max(delay, retry_after * 1000);
}


/* the line, with the reason before the payload, is a file that can be sent */

static void
ngx_http_taptalent_bury(ngx_http_taptalent_item_t *item,
    ngx_http_taptalent_reason_e reason)
{
    u_char                      *p;
    const char                  *why;
    ngx_http_taptalent_queue_t  *q;

    q = item->owner;

    if (q->spool == NULL) {
        ngx_http_taptalent_attempt(item, NGX_HTTP_TAPTALENT_GIVEN_UP);
        ngx_http_taptalent_zone_count(q->forward->stats, dead[reason], 1);

        ngx_log_error(NGX_LOG_ERR, q->log, 0,
                      "event \"%V\", id %V, is given up with status %ui after "
                      "%ui attempts and is lost, there is no spool",
                      &item->delivery.event.name, &item->delivery.event.id,
                      item->delivery.status, item->delivery.attempt);

        ngx_http_taptalent_finish(item);
        return;
    }

    why = ngx_http_taptalent_reasons[reason];

    p = ngx_alloc(ngx_http_taptalent_line_dead_len(&item->text, why), q->log);

    if (p == NULL) {
        ngx_http_taptalent_attempt(item, NGX_HTTP_TAPTALENT_RETRY);

        q->inflight--;
        ngx_http_taptalent_wait(item, q->forward->retry.max);
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

    ngx_http_taptalent_finish(item);
}


/* it counts as in flight until the spool knows */

static void
ngx_http_taptalent_finish(ngx_http_taptalent_item_t *item)
{
    if (item->owner->spool == NULL) {
        item->owner->inflight--;
        ngx_http_taptalent_free_item(item);
        return;
    }

    ngx_queue_insert_tail(&item->owner->finished, &item->queue);
}
