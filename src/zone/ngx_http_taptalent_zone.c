
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_zone.h"
#include "ngx_http_taptalent_dedup.h"


/*
 * Counters are atomic and need no mutex; a worker that is killed leaves each
 * as it is.  The mutex is for what is made once: the parts of spools and of
 * destinations, the names of event types, the steps of the history.
 *
 * The last verdicts are in rings.  A writer takes the next entry, makes its
 * sequence odd, and even when it is done; a reader takes no entry whose
 * sequence is odd or changes.  What a killed writer has left is overwritten.
 */


/* another layout must not be read as this one, after a reload with new code */

#define NGX_HTTP_TAPTALENT_LAYOUT                                             \
    (0x74770000 + 2 + sizeof(ngx_http_taptalent_zone_shared_t)                \
     + 31 * sizeof(ngx_http_taptalent_zone_spool_t)                           \
     + 961 * sizeof(ngx_http_taptalent_zone_dest_t))


static ngx_http_taptalent_bound_t  ngx_http_taptalent_duration_bounds[] = {
    { "0.0005", 500 }, { "0.001", 1000 }, { "0.0025", 2500 },
    { "0.005", 5000 }, { "0.01", 10000 }, { "0.025", 25000 },
    { "0.05", 50000 }, { "0.1", 100000 }, { "0.25", 250000 },
    { "0.5", 500000 }, { "1", 1000000 }, { "2.5", 2500000 },
    { "5", 5000000 }
};


static ngx_http_taptalent_bound_t  ngx_http_taptalent_events_bounds[] = {
    { "1", 1 }, { "2", 2 }, { "4", 4 }, { "8", 8 }, { "16", 16 },
    { "32", 32 }, { "64", 64 }, { "128", 128 }, { "256", 256 },
    { "512", 512 }, { "1024", 1024 }
};


static ngx_http_taptalent_bound_t  ngx_http_taptalent_latency_bounds[] = {
    { "0.005", 5000 }, { "0.01", 10000 }, { "0.025", 25000 },
    { "0.05", 50000 }, { "0.1", 100000 }, { "0.25", 250000 },
    { "0.5", 500000 }, { "1", 1000000 }, { "2.5", 2500000 },
    { "5", 5000000 }, { "10", 10000000 }, { "30", 30000000 },
    { "60", 60000000 }, { "300", 300000000 }, { "1800", 1800000000 },
    { "3600", 3600000000 }, { "21600", 21600000000 },
    { "86400", 86400000000 }
};


#define ngx_http_taptalent_scale(bounds, unit)                                \
    { bounds, sizeof(bounds) / sizeof(ngx_http_taptalent_bound_t), unit }


ngx_http_taptalent_scale_t  ngx_http_taptalent_duration_scale =
    ngx_http_taptalent_scale(ngx_http_taptalent_duration_bounds, 1000000);


ngx_http_taptalent_scale_t  ngx_http_taptalent_events_scale =
    ngx_http_taptalent_scale(ngx_http_taptalent_events_bounds, 1);


ngx_http_taptalent_scale_t  ngx_http_taptalent_latency_scale =
    ngx_http_taptalent_scale(ngx_http_taptalent_latency_bounds, 1000000);


static ngx_http_taptalent_history_t *ngx_http_taptalent_zone_step(
    ngx_http_taptalent_zone_t *zone);
static void ngx_http_taptalent_zone_type(ngx_http_taptalent_zone_t *zone,
    ngx_str_t *name);
static void ngx_http_taptalent_zone_note(ngx_http_taptalent_recent_t *entry,
    ngx_http_taptalent_verdict_e verdict, ngx_uint_t status,
    ngx_http_taptalent_event_t *ev, const char *why);
static size_t ngx_http_taptalent_zone_copy(u_char *dst, u_char *src,
    size_t len, size_t max);
static void ngx_http_taptalent_zone_observe(
    ngx_http_taptalent_histogram_t *h, ngx_http_taptalent_scale_t *scale,
    uint64_t value);


#if !(NGX_HTTP_TAPTALENT_WIDE_ATOMIC)

static ngx_shmtx_t  *ngx_http_taptalent_zone_mutex;

#endif


ngx_int_t
ngx_http_taptalent_zone_init(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_t *old, ngx_shm_zone_t *shm_zone)
{
    ngx_http_taptalent_zone_shared_t  *sh;

    zone->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

#if !(NGX_HTTP_TAPTALENT_WIDE_ATOMIC)
    ngx_http_taptalent_zone_mutex = &zone->shpool->mutex;
#endif

    sh = NULL;

    if (old) {
        sh = old->sh;

    } else if (shm_zone->shm.exists) {
        sh = zone->shpool->data;
    }

    if (sh && sh->layout == NGX_HTTP_TAPTALENT_LAYOUT) {
        zone->sh = sh;
        return NGX_OK;
    }

    /* the one of another layout stays: workers that leave still count in it */

    sh = ngx_slab_calloc(zone->shpool,
                         sizeof(ngx_http_taptalent_zone_shared_t));
    if (sh == NULL) {
        ngx_log_error(NGX_LOG_EMERG, shm_zone->shm.log, 0,
                      "\"taptalent_webhook_zone\" is too small, write a size "
                      "above %uz", shm_zone->shm.size);
        return NGX_ERROR;
    }

    sh->layout = NGX_HTTP_TAPTALENT_LAYOUT;
    sh->since = ngx_time();

    ngx_queue_init(&sh->spools);
    ngx_http_taptalent_dedup_init(sh);

    zone->sh = sh;
    zone->shpool->data = sh;
    zone->shpool->log_nomem = 0;

    return NGX_OK;
}


ngx_http_taptalent_zone_spool_t *
ngx_http_taptalent_zone_spool(ngx_http_taptalent_zone_t *zone,
    ngx_str_t *name, ngx_uint_t kind)
{
    ngx_uint_t                         i;
    ngx_queue_t                       *q;
    ngx_http_taptalent_zone_spool_t   *s, **sp;

    /* two locations may forward to one uri from memory */

    sp = zone->spools.elts;

    for (i = 0; i < zone->spools.nelts; i++) {

        if (sp[i]->kind == kind
            && sp[i]->name.len == name->len
            && ngx_memcmp(sp[i]->name.data, name->data, name->len) == 0)
        {
            return sp[i];
        }
    }

    sp = ngx_array_push(&zone->spools);
    if (sp == NULL) {
        return NULL;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    for (q = ngx_queue_head(&zone->sh->spools);
         q != ngx_queue_sentinel(&zone->sh->spools);
         q = ngx_queue_next(q))
    {
        s = ngx_queue_data(q, ngx_http_taptalent_zone_spool_t, queue);

        if (s->kind == kind
            && s->name.len == name->len
            && ngx_memcmp(s->name.data, name->data, name->len) == 0)
        {
            goto done;
        }
    }

    s = ngx_http_taptalent_dedup_alloc(zone,
                                       sizeof(ngx_http_taptalent_zone_spool_t)
                                       + name->len);
    if (s == NULL) {
        goto done;
    }

    s->kind = kind;
    s->due = ngx_current_msec;
    s->name.len = name->len;
    s->name.data = (u_char *) s + sizeof(ngx_http_taptalent_zone_spool_t);
    ngx_memcpy(s->name.data, name->data, name->len);

    ngx_queue_init(&s->dests);
    ngx_queue_insert_tail(&zone->sh->spools, &s->queue);

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);

    if (s == NULL) {
        zone->spools.nelts--;
        return NULL;
    }

    s->limit = 0;

    *sp = s;

    return s;
}


void
ngx_http_taptalent_zone_verdict(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_verdict_e verdict, ngx_uint_t status,
    ngx_http_taptalent_event_t *ev, const char *why)
{
    ngx_uint_t                         n;
    ngx_http_taptalent_history_t      *step;
    ngx_http_taptalent_zone_shared_t  *sh;

    if (zone == NULL) {
        return;
    }

    sh = zone->sh;

    (void) ngx_atomic_fetch_add(&sh->verdicts[verdict], 1);

    step = ngx_http_taptalent_zone_step(zone);

    if (status >= 300) {
        (void) ngx_atomic_fetch_add(&step->refused, 1);

        n = ngx_atomic_fetch_add(&sh->nrefused, 1)
            % NGX_HTTP_TAPTALENT_REFUSED;

        ngx_http_taptalent_zone_note(&sh->refused[n], verdict, status, ev,
                                     why);
        return;
    }

    n = ngx_atomic_fetch_add(&sh->ntaken, 1) % NGX_HTTP_TAPTALENT_TAKEN;

    ngx_http_taptalent_zone_note(&sh->taken[n], verdict, status, ev, why);

    if (verdict != NGX_HTTP_TAPTALENT_ACCEPTED) {
        return;
    }

    (void) ngx_atomic_fetch_add(&step->accepted, 1);
    ngx_http_taptalent_wide_add(&sh->bytes, ev->body.len);

    ngx_http_taptalent_zone_type(zone, &ev->name);
}


/* what is counted while a step begins may be counted in none */

static ngx_http_taptalent_history_t *
ngx_http_taptalent_zone_step(ngx_http_taptalent_zone_t *zone)
{
    ngx_atomic_uint_t              now;
    ngx_http_taptalent_history_t  *step;

    now = ngx_time() / NGX_HTTP_TAPTALENT_STEP;
    step = &zone->sh->history[now % NGX_HTTP_TAPTALENT_HISTORY];

    if (step->step == now) {
        return step;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    if (step->step != now) {
        step->accepted = 0;
        step->refused = 0;
        step->delivered = 0;
        step->waiting = 0;

        ngx_memory_barrier();

        step->step = now;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return step;
}


/*
 * Of what was accepted only: a sender that is not ours cannot fill the table.
 * An entry is complete when it is counted in, and stays.
 */

static void
ngx_http_taptalent_zone_type(ngx_http_taptalent_zone_t *zone, ngx_str_t *name)
{
    ngx_uint_t                         i, k, n;
    ngx_http_taptalent_event_type_t   *type;
    ngx_http_taptalent_zone_shared_t  *sh;

    sh = zone->sh;
    n = sh->ntypes;

    /* a type of this name is one of the others */

    if (ngx_http_taptalent_name_is(name, "other")) {
        (void) ngx_atomic_fetch_add(&sh->other, 1);
        return;
    }

    for (k = 0; k < n; k++) {

        /* mostly it is the one of the event before */

        i = (zone->type + k) % n;
        type = &sh->types[i];

        if (type->name.len == name->len
            && ngx_memcmp(type->name.data, name->data, name->len) == 0)
        {
            zone->type = i;
            (void) ngx_atomic_fetch_add(&type->count, 1);
            return;
        }
    }

    if (n == NGX_HTTP_TAPTALENT_EVENT_TYPES) {
        (void) ngx_atomic_fetch_add(&sh->other, 1);
        return;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    if (sh->ntypes == n) {
        type = &sh->types[n];
        type->name.len = name->len;
        type->name.data = type->text;
        ngx_memcpy(type->text, name->data, name->len);

        ngx_memory_barrier();

        sh->ntypes = n + 1;
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);

    /* another worker may have added one, perhaps the same */

    ngx_http_taptalent_zone_type(zone, name);
}


static void
ngx_http_taptalent_zone_note(ngx_http_taptalent_recent_t *entry,
    ngx_http_taptalent_verdict_e verdict, ngx_uint_t status,
    ngx_http_taptalent_event_t *ev, const char *why)
{
    entry->sequence |= 1;

    ngx_memory_barrier();

    entry->verdict = verdict;
    entry->status = status;
    entry->time = ngx_http_taptalent_zone_now();

    entry->event_len = ngx_http_taptalent_zone_copy(entry->event,
                                                    ev->name.data,
                                                    ev->name.len,
                                                    sizeof(entry->event));

    entry->company_id_len = ngx_http_taptalent_zone_copy(entry->company_id,
                                                  ev->company_id.data,
                                                  ev->company_id.len,
                                                  sizeof(entry->company_id));

    entry->id_len = ngx_http_taptalent_zone_copy(entry->id, ev->id.data,
                                                 ev->id.len,
                                                 sizeof(entry->id));

    entry->why_len = 0;

    if (why) {
        entry->why_len = ngx_http_taptalent_zone_copy(entry->why,
                                                      (u_char *) why,
                                                      ngx_strlen(why),
                                                      sizeof(entry->why));
    }

    ngx_memory_barrier();

    entry->sequence++;
}


static size_t
ngx_http_taptalent_zone_copy(u_char *dst, u_char *src, size_t len, size_t max)
{
    len = ngx_min(len, max);

    if (len) {
        ngx_memcpy(dst, src, len);
    }

    return len;
}


ngx_int_t
ngx_http_taptalent_zone_recent(ngx_http_taptalent_recent_t *entry,
    ngx_http_taptalent_recent_t *copy)
{
    ngx_uint_t         i;
    ngx_atomic_uint_t  sequence;

    /* a writer is quick, or dead */

    for (i = 0; i < 100; i++) {

        sequence = entry->sequence;

        ngx_memory_barrier();

        *copy = *entry;

        ngx_memory_barrier();

        if ((sequence & 1) == 0 && entry->sequence == sequence) {
            return sequence ? NGX_OK : NGX_DECLINED;
        }

        ngx_cpu_pause();
    }

    return NGX_DECLINED;
}


static void
ngx_http_taptalent_zone_observe(ngx_http_taptalent_histogram_t *h,
    ngx_http_taptalent_scale_t *scale, uint64_t value)
{
    ngx_uint_t  i;

    for (i = 0; i < scale->n; i++) {
        if (value <= scale->bounds[i].value) {
            break;
        }
    }

    (void) ngx_atomic_fetch_add(&h->buckets[i], 1);
    ngx_http_taptalent_wide_add(&h->sum, value);
}


void
ngx_http_taptalent_zone_commit(ngx_http_taptalent_zone_spool_t *s,
    ngx_int_t rc, ngx_uint_t events, uint64_t usec)
{
    if (s == NULL) {
        return;
    }

    ngx_http_taptalent_zone_observe(&s->duration,
                                    &ngx_http_taptalent_duration_scale, usec);

    if (rc != NGX_OK) {
        return;
    }

    (void) ngx_atomic_fetch_add(&s->commits, 1);
    (void) ngx_atomic_fetch_add(&s->committed, events);

    ngx_http_taptalent_zone_observe(&s->events,
                                    &ngx_http_taptalent_events_scale, events);
}


void
ngx_http_taptalent_zone_tell(ngx_http_taptalent_zone_spool_t *s,
    ngx_uint_t value)
{
    ngx_http_taptalent_zone_worker_t  *w;

    if (s == NULL || ngx_process_slot >= NGX_HTTP_TAPTALENT_ZONE_WORKERS) {
        return;
    }

    w = &s->workers[ngx_process_slot];

    w->value = value;
    w->pid = ngx_pid;
}


void
ngx_http_taptalent_zone_queued(ngx_http_taptalent_zone_spool_t *s,
    ngx_int_t n)
{
    if (s && ngx_process_slot < NGX_HTTP_TAPTALENT_ZONE_WORKERS) {
        s->workers[ngx_process_slot].value += n;
    }
}


ngx_uint_t
ngx_http_taptalent_zone_alive(ngx_atomic_uint_t pid)
{
    return pid && (kill((ngx_pid_t) pid, 0) == 0 || ngx_errno != NGX_ESRCH);
}


/* a worker that is dead says nothing, nor does one that was killed */

ngx_uint_t
ngx_http_taptalent_zone_told(ngx_http_taptalent_zone_spool_t *s,
    ngx_uint_t *workers)
{
    ngx_uint_t                         i, value;
    ngx_http_taptalent_zone_worker_t  *w;

    value = 0;
    *workers = 0;

    for (i = 0; i < NGX_HTTP_TAPTALENT_ZONE_WORKERS; i++) {

        w = &s->workers[i];

        if (!ngx_http_taptalent_zone_alive(w->pid)) {
            continue;
        }

        (*workers)++;

        value = (s->kind == NGX_HTTP_TAPTALENT_MEMORY)
                ? value + w->value : ngx_max(value, w->value);
    }

    return value;
}


ngx_http_taptalent_zone_dest_t *
ngx_http_taptalent_zone_dest(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, ngx_str_t *name)
{
    ngx_queue_t                     *q;
    ngx_http_taptalent_zone_dest_t  *dest;

    if (s == NULL) {
        return NULL;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    for (q = ngx_queue_head(&s->dests);
         q != ngx_queue_sentinel(&s->dests);
         q = ngx_queue_next(q))
    {
        dest = ngx_queue_data(q, ngx_http_taptalent_zone_dest_t, queue);

        if (dest->name.len == name->len
            && ngx_memcmp(dest->name.data, name->data, name->len) == 0)
        {
            goto done;
        }
    }

    dest = NULL;

    if (s->ndests < NGX_HTTP_TAPTALENT_ZONE_DESTS) {
        dest = ngx_http_taptalent_dedup_alloc(zone,
                                        sizeof(ngx_http_taptalent_zone_dest_t)
                                        + name->len);
    }

    if (dest == NULL) {
        goto done;
    }

    dest->name.len = name->len;
    dest->name.data = (u_char *) dest + sizeof(ngx_http_taptalent_zone_dest_t);
    ngx_memcpy(dest->name.data, name->data, name->len);

    /* one that reads takes no mutex: the entry is complete before it is met */

    dest->queue.prev = ngx_queue_last(&s->dests);
    dest->queue.next = ngx_queue_sentinel(&s->dests);

    ngx_memory_barrier();

    s->dests.prev->next = &dest->queue;
    s->dests.prev = &dest->queue;
    s->ndests++;

done:

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return dest;
}


void
ngx_http_taptalent_zone_attempt(ngx_http_taptalent_zone_dest_t *dest,
    ngx_http_taptalent_outcome_e outcome, ngx_uint_t attempt,
    ngx_uint_t status)
{
    if (dest == NULL) {
        return;
    }

    (void) ngx_atomic_fetch_add(&dest->outcomes[outcome], 1);

    if (attempt > 1) {
        (void) ngx_atomic_fetch_add(&dest->retries, 1);
    }

    if (outcome != NGX_HTTP_TAPTALENT_DELIVERED) {
        dest->error_status = status;
        ngx_http_taptalent_wide_set(&dest->error_time,
                                    ngx_http_taptalent_zone_now());

    } else if (dest->down) {

        /* it was so for a worker that may be dead */

        ngx_http_taptalent_zone_up(dest);
    }
}


void
ngx_http_taptalent_zone_delivered(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, struct timespec *received)
{
    int64_t          usec;
    struct timespec  now;

    if (s == NULL) {
        return;
    }

    (void) ngx_atomic_fetch_add(&ngx_http_taptalent_zone_step(zone)->delivered,
                                1);

    (void) clock_gettime(CLOCK_REALTIME, &now);

    usec = (int64_t) (now.tv_sec - received->tv_sec) * 1000000
           + (now.tv_nsec - received->tv_nsec) / 1000;

    /* the clock may have been set back */

    ngx_http_taptalent_zone_observe(&s->latency,
                                    &ngx_http_taptalent_latency_scale,
                                    (uint64_t) ngx_max(usec, 0));
}


void
ngx_http_taptalent_zone_down(ngx_http_taptalent_zone_dest_t *dest,
    ngx_msec_t delay)
{
    if (dest) {
        ngx_http_taptalent_wide_set(&dest->paused_until,
                                    ngx_http_taptalent_zone_now() + delay);
        dest->down = 1;
    }
}


void
ngx_http_taptalent_zone_up(ngx_http_taptalent_zone_dest_t *dest)
{
    if (dest) {
        dest->down = 0;
        ngx_http_taptalent_wide_set(&dest->paused_until, 0);
    }
}


void
ngx_http_taptalent_zone_forwards(ngx_http_taptalent_zone_spool_t *s)
{
    ngx_queue_t  *q;

    if (s == NULL) {
        return;
    }

    for (q = ngx_queue_head(&s->dests);
         q != ngx_queue_sentinel(&s->dests);
         q = ngx_queue_next(q))
    {
        ngx_http_taptalent_zone_up(
                    ngx_queue_data(q, ngx_http_taptalent_zone_dest_t, queue));
    }
}


void
ngx_http_taptalent_zone_waiting(ngx_http_taptalent_zone_t *zone)
{
    ngx_uint_t                         i, workers;
    ngx_atomic_uint_t                  waiting;
    ngx_http_taptalent_zone_spool_t  **sp;

    sp = zone->spools.elts;
    waiting = 0;

    for (i = 0; i < zone->spools.nelts; i++) {
        if (sp[i]->kind == NGX_HTTP_TAPTALENT_MEMORY) {
            waiting += ngx_http_taptalent_zone_told(sp[i], &workers);

        } else if (sp[i]->kind == NGX_HTTP_TAPTALENT_SPOOL
                   && (sp[i]->known & NGX_HTTP_TAPTALENT_KNOWN_NEW))
        {
            waiting += sp[i]->waiting;
        }
    }

    ngx_http_taptalent_zone_step(zone)->waiting = waiting + 1;
}


ngx_atomic_uint_t
ngx_http_taptalent_zone_age(ngx_http_taptalent_zone_spool_t *s)
{
    ngx_atomic_uint_t  now, oldest;

    now = ngx_time();
    oldest = s->oldest;

    return (oldest && now > oldest) ? now - oldest : 0;
}


uint64_t
ngx_http_taptalent_zone_now(void)
{
    ngx_time_t  *tp;

    tp = ngx_timeofday();

    return (uint64_t) tp->sec * 1000 + tp->msec;
}


#if !(NGX_HTTP_TAPTALENT_WIDE_ATOMIC)

uint64_t
ngx_http_taptalent_wide_get(ngx_http_taptalent_wide_t *w)
{
    uint64_t  n;

    ngx_shmtx_lock(ngx_http_taptalent_zone_mutex);
    n = *w;
    ngx_shmtx_unlock(ngx_http_taptalent_zone_mutex);

    return n;
}


void
ngx_http_taptalent_wide_set(ngx_http_taptalent_wide_t *w, uint64_t n)
{
    ngx_shmtx_lock(ngx_http_taptalent_zone_mutex);
    *w = n;
    ngx_shmtx_unlock(ngx_http_taptalent_zone_mutex);
}


void
ngx_http_taptalent_wide_add(ngx_http_taptalent_wide_t *w, uint64_t n)
{
    ngx_shmtx_lock(ngx_http_taptalent_zone_mutex);
    *w += n;
    ngx_shmtx_unlock(ngx_http_taptalent_zone_mutex);
}

#endif
