
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_http_taptalent_status_measure.h"


/*
 * Each second one of the workers measures a spool, in a thread; with a backlog
 * so large that it takes long, for a twentieth of the time, or once a minute.
 * The worker that begins puts the next time far off, so that no other begins,
 * and sets it right at the end; if it dies meanwhile, another one goes on.
 */


#define NGX_HTTP_TAPTALENT_CENSUS         1000   /* ms between two */
#define NGX_HTTP_TAPTALENT_CENSUS_SHARE   20
#define NGX_HTTP_TAPTALENT_CENSUS_LOST    60000  /* ms till the next, at most */


typedef struct {
    ngx_http_taptalent_commit_t       *commit;
    ngx_http_taptalent_measure_t       measure;
    ngx_http_taptalent_counted_t      *counted;
    ngx_int_t                          rc;
    ngx_msec_t                         began;
    ngx_log_t                         *log;
#if (NGX_THREADS)
    ngx_thread_task_t                 *task;
#endif
    ngx_uint_t                         failed;     /* a bit for each part */
    unsigned                           running:1;
} ngx_http_taptalent_census_t;


typedef struct {
    void                              *ident[4];
    ngx_event_t                        timer;
    ngx_cycle_t                       *cycle;
    ngx_http_taptalent_zone_t         *zone;
    ngx_array_t                        spools;     /* of census_t */
} ngx_http_taptalent_census_conf_t;


static void ngx_http_taptalent_status_measure_timer(ngx_event_t *ev);
static void ngx_http_taptalent_status_measure_start(
    ngx_http_taptalent_census_t *cs);
static void ngx_http_taptalent_status_measure_run(void *data, ngx_log_t *log);
#if (NGX_THREADS)
static void ngx_http_taptalent_status_measure_done(ngx_event_t *ev);
#endif
static void ngx_http_taptalent_status_measure_publish(
    ngx_http_taptalent_census_t *cs);
static ngx_uint_t ngx_http_taptalent_status_measure_known(
    ngx_http_taptalent_census_t *cs);
static void ngx_http_taptalent_status_measure_cleanup(void *data);


/* in the order of ngx_http_taptalent_measure_e */

static ngx_uint_t  ngx_http_taptalent_status_measure_parts[] = {
    NGX_HTTP_TAPTALENT_KNOWN_NEW,
    NGX_HTTP_TAPTALENT_KNOWN_DEAD,
    NGX_HTTP_TAPTALENT_KNOWN_CORRUPT,
    NGX_HTTP_TAPTALENT_KNOWN_FREE
};


ngx_int_t
ngx_http_taptalent_status_measure_init(ngx_cycle_t *cycle,
    ngx_http_taptalent_zone_t *zone, ngx_http_taptalent_commit_t **commits,
    ngx_uint_t n)
{
    ngx_uint_t                         i;
    ngx_pool_cleanup_t                *cln;
    ngx_http_taptalent_census_t       *cs;
    ngx_http_taptalent_census_conf_t  *conf;

    conf = ngx_pcalloc(cycle->pool, sizeof(ngx_http_taptalent_census_conf_t));
    if (conf == NULL) {
        return NGX_ERROR;
    }

    if (ngx_array_init(&conf->spools, cycle->pool, n + 1,
                       sizeof(ngx_http_taptalent_census_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < n; i++) {

        if (commits[i]->stats == NULL) {
            continue;
        }

        cs = ngx_array_push(&conf->spools);
        if (cs == NULL) {
            return NGX_ERROR;
        }

        ngx_memzero(cs, sizeof(ngx_http_taptalent_census_t));

        cs->commit = commits[i];
        cs->log = cycle->log;

#if (NGX_THREADS)

        cs->task = ngx_thread_task_alloc(cycle->pool, 0);
        if (cs->task == NULL) {
            return NGX_ERROR;
        }

        cs->task->ctx = cs;
        cs->task->handler = ngx_http_taptalent_status_measure_run;
        cs->task->event.handler = ngx_http_taptalent_status_measure_done;
        cs->task->event.data = cs;
        cs->task->event.log = cycle->log;

#endif
    }

    cln = ngx_pool_cleanup_add(cycle->pool, 0);
    if (cln == NULL) {
        return NGX_ERROR;
    }

    cln->handler = ngx_http_taptalent_status_measure_cleanup;
    cln->data = &conf->spools;

    conf->ident[3] = (void *) -1;
    conf->cycle = cycle;
    conf->zone = zone;

    conf->timer.handler = ngx_http_taptalent_status_measure_timer;
    conf->timer.data = conf;
    conf->timer.log = cycle->log;
    conf->timer.cancelable = 1;

    ngx_add_timer(&conf->timer, 1);

    return NGX_OK;
}


static void
ngx_http_taptalent_status_measure_timer(ngx_event_t *ev)
{
    ngx_uint_t                         i;
    ngx_msec_int_t                     left;
    ngx_atomic_uint_t                  due;
    ngx_http_taptalent_census_t       *cs;
    ngx_http_taptalent_zone_spool_t   *s;
    ngx_http_taptalent_census_conf_t  *conf;

    conf = ev->data;

    /* a single process goes on with the next cycle, whose zone is another */

    if (ngx_exiting || conf->cycle != ngx_cycle) {
        return;
    }

    cs = conf->spools.elts;

    for (i = 0; i < conf->spools.nelts; i++) {

        s = cs[i].commit->stats;
        due = s->due;
        left = (ngx_msec_int_t) (due - ngx_current_msec);

        /*
         * It is not to wait for one who has died meanwhile, nor, where there is
         * no monotonic clock, until one that was set back is there again.
         */

        if (left > 0 && left <= NGX_HTTP_TAPTALENT_CENSUS_LOST
            && (s->measurer == 0
                || ngx_http_taptalent_zone_alive(s->measurer)))
        {
            continue;
        }

        if (!cs[i].running
            && cs[i].commit->spool.entered
            && ngx_atomic_cmp_set(&s->due, due,
                                  ngx_current_msec
                                  + NGX_HTTP_TAPTALENT_CENSUS_LOST))
        {
            ngx_http_taptalent_status_measure_start(&cs[i]);
        }
    }

    ngx_http_taptalent_zone_waiting(conf->zone);

    ngx_add_timer(ev, NGX_HTTP_TAPTALENT_CENSUS / 4);
}


static void
ngx_http_taptalent_status_measure_start(ngx_http_taptalent_census_t *cs)
{
    cs->running = 1;
    cs->began = ngx_current_msec;
    cs->commit->stats->measurer = ngx_pid;

#if (NGX_THREADS)

    if (ngx_thread_task_post(cs->commit->thread_pool, cs->task) == NGX_OK) {
        return;
    }

    /* the queue of the pool is full: commits go first */

    cs->running = 0;
    cs->commit->stats->measurer = 0;
    cs->commit->stats->due = ngx_current_msec + NGX_HTTP_TAPTALENT_CENSUS;

#else

    ngx_http_taptalent_status_measure_run(cs, cs->log);

    ngx_time_update();

    ngx_http_taptalent_status_measure_publish(cs);

#endif
}


/* in a thread */

static void
ngx_http_taptalent_status_measure_run(void *data, ngx_log_t *log)
{
    ngx_http_taptalent_census_t *cs = data;

    cs->rc = ngx_http_taptalent_spool_measure(&cs->commit->spool, &cs->measure,
                                              &cs->counted);
}


#if (NGX_THREADS)

static void
ngx_http_taptalent_status_measure_done(ngx_event_t *ev)
{
    ev->complete = 0;

    ngx_http_taptalent_status_measure_publish(ev->data);
}

#endif


static void
ngx_http_taptalent_status_measure_publish(ngx_http_taptalent_census_t *cs)
{
    ngx_msec_t                        took;
    ngx_uint_t                        known;
    ngx_http_taptalent_measure_t     *m;
    ngx_http_taptalent_zone_spool_t  *s;

    cs->running = 0;

    s = cs->commit->stats;
    m = &cs->measure;

    took = (ngx_current_msec - cs->began) * NGX_HTTP_TAPTALENT_CENSUS_SHARE;

    took = ngx_min(took, NGX_HTTP_TAPTALENT_CENSUS_LOST);

    s->measurer = 0;
    s->due = ngx_current_msec + ngx_max(took, NGX_HTTP_TAPTALENT_CENSUS);

    if (cs->rc == NGX_ABORT) {
        s->due = ngx_current_msec;
        return;
    }

    known = ngx_http_taptalent_status_measure_known(cs);

    /* of what is not known the figures are not looked at */

    s->known &= known;

    s->files = m->files;
    s->waiting = m->events;
    s->oldest = m->oldest;
    s->dead_files = m->dead;
    s->corrupt_files = m->corrupt;
    s->low = ngx_http_taptalent_commit_low(cs->commit, m->free_bytes,
                                           m->free_inodes);

    ngx_http_taptalent_wide_set(&s->bytes, m->bytes);
    ngx_http_taptalent_wide_set(&s->free_bytes, m->free_bytes);
    ngx_http_taptalent_wide_set(&s->measured, ngx_http_taptalent_zone_now());

    ngx_memory_barrier();

    s->known = known;
}


/* a line for what cannot be measured when that begins */

static ngx_uint_t
ngx_http_taptalent_status_measure_known(ngx_http_taptalent_census_t *cs)
{
    ngx_uint_t                         i, bit, known;
    ngx_http_taptalent_spool_error_t  *error;

    known = 0;

    for (i = 0; i < NGX_HTTP_TAPTALENT_MEASURES; i++) {

        bit = ngx_http_taptalent_status_measure_parts[i];
        error = &cs->measure.errors[i];

        if (error->call == NULL) {
            known |= bit;
            cs->failed &= ~bit;
            continue;
        }

        if (cs->failed & bit) {
            continue;
        }

        cs->failed |= bit;

        ngx_log_error(NGX_LOG_ERR, cs->log, error->err,
                      "%s \"%V/%s\" failed, what waits there is not known",
                      error->call, &cs->commit->spool.path, error->dir);
    }

    return known;
}


static void
ngx_http_taptalent_status_measure_cleanup(void *data)
{
    ngx_array_t *spools = data;

    ngx_uint_t                    i;
    ngx_http_taptalent_census_t  *cs;

    cs = spools->elts;

    for (i = 0; i < spools->nelts; i++) {
        ngx_free(cs[i].counted);
    }
}
