
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_queue.h"


/*
 * The health of the destinations.
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


static void ngx_http_taptalent_dest_down(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item);
static void ngx_http_taptalent_dest_log(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_delivery_t *d, ngx_uint_t level);
static void ngx_http_taptalent_dest_probe(ngx_http_taptalent_dest_t *dest,
    ngx_msec_t delay);
static void ngx_http_taptalent_dest_arm(ngx_http_taptalent_dest_t *dest);
static void ngx_http_taptalent_dest_timer(ngx_event_t *ev);


ngx_http_taptalent_dest_t *
ngx_http_taptalent_dest_find(ngx_http_taptalent_queue_t *q, ngx_str_t *uri)
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


/* waits for its destination, which is down */

void
ngx_http_taptalent_dest_park(ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_dest_t  *dest;

    dest = item->dest;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, item->owner->log, 0,
                   "taptalent dest: event %V waits for \"%V\"",
                   &item->delivery.event.id, &dest->uri);

    item->owner->waiting++;

    if (item->delivery.attempt) {
        ngx_queue_insert_tail(&dest->failed, &item->queue);
        return;
    }

    ngx_queue_insert_tail(&dest->fresh, &item->queue);
    ngx_http_taptalent_dest_arm(dest);
}


void
ngx_http_taptalent_dest_up(ngx_http_taptalent_dest_t *dest)
{
    ngx_queue_t                 *p;
    ngx_msec_int_t               left;
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    dest->run++;
    dest->failures = 0;
    dest->asked = 0;

    if (dest->state == NGX_HTTP_TAPTALENT_DEST_UP) {
        return;
    }

    q = dest->owner;

    dest->state = NGX_HTTP_TAPTALENT_DEST_UP;

    ngx_log_debug1(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent dest: \"%V\" up", &dest->uri);

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
            ngx_http_taptalent_item_wait(item, left);

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

void
ngx_http_taptalent_dest_failed(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item)
{
    ngx_msec_t                      delay;
    ngx_uint_t                      itself;
    ngx_http_taptalent_delivery_t  *d;

    d = &item->delivery;

    if (d->connected && item->run == 0) {
        item->run = dest->run;
        dest->failures++;
        dest->asked += (d->retry_after > 0);
    }

    itself = (d->connected && item->run != dest->run);

    if (dest->state == NGX_HTTP_TAPTALENT_DEST_UP) {

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
            delay = ngx_http_taptalent_dest_backoff(dest->owner, 1,
                                                    d->retry_after);
            ngx_http_taptalent_dest_probe(dest, delay);
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
    ngx_msec_t                      delay;
    ngx_http_taptalent_delivery_t  *d;

    d = &item->delivery;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, dest->owner->log, 0,
                   "taptalent dest: \"%V\" down, %ui events have failed",
                   &dest->uri, dest->failures);

    dest->state = NGX_HTTP_TAPTALENT_DEST_DOWN;
    dest->reached = (d->connected && dest->asked < dest->failures);
    dest->probes = 1;
    dest->tried = ngx_current_msec;
    dest->probe_at = ngx_current_msec;

    delay = ngx_http_taptalent_dest_backoff(dest->owner, 1,
                                            dest->reached ? 0
                                                          : d->retry_after);
    ngx_http_taptalent_dest_probe(dest, delay);

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

void
ngx_http_taptalent_dest_try(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_queue_t  *q;

    q = dest->owner;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent dest: \"%V\" probing, event %V",
                   &dest->uri, &item->delivery.event.id);

    item->trial = 1;

    dest->trials++;
    dest->state = NGX_HTTP_TAPTALENT_DEST_PROBING;
    dest->tried = ngx_current_msec;

    if ((ngx_msec_int_t) (dest->probe_at - ngx_current_msec) <= 0) {
        dest->probes++;
        ngx_http_taptalent_dest_probe(dest,
                           ngx_http_taptalent_dest_backoff(q, dest->probes, 0));
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

    if (dest->state == NGX_HTTP_TAPTALENT_DEST_DUE) {
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

    dest->state = NGX_HTTP_TAPTALENT_DEST_DUE;

    ngx_log_debug1(NGX_LOG_DEBUG_CORE, ev->log, 0,
                   "taptalent dest: \"%V\" due", &dest->uri);

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


/* "equal jitter": half of the delay is certain, half is by chance */

ngx_msec_t
ngx_http_taptalent_dest_backoff(ngx_http_taptalent_queue_t *q,
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


void
ngx_http_taptalent_dest_count(ngx_http_taptalent_item_t *item,
    ngx_http_taptalent_outcome_e outcome)
{
    if (item->dest) {
        ngx_http_taptalent_zone_attempt(item->dest->stats, outcome,
                                        item->delivery.attempt,
                                        item->delivery.status);
    }
}
