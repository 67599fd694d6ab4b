
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#if (NGX_LINUX)
#include <sys/vfs.h>
#endif
#include "ngx_http_taptalent.h"
#include "ngx_http_taptalent_status_measure.h"


/*
 * What stands behind the directives, made from them at configuration, for each
 * cycle, and for each worker: spools, quarantines, destinations, the zone.
 */


#define NGX_HTTP_TAPTALENT_LARGE  8388608  /* bytes, a block for malloc() */

/* f_type of statfs(2), whose names are in the headers of the kernel */

#define NGX_HTTP_TAPTALENT_TMPFS  0x01021994
#define NGX_HTTP_TAPTALENT_RAMFS  0x858458f6


static char *ngx_http_taptalent_add_dirs(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_uint_t access);
static void ngx_http_taptalent_close(void *data);
static ngx_uint_t ngx_http_taptalent_same_forward(
    ngx_http_taptalent_forward_t *one, ngx_http_taptalent_forward_t *two);
static ngx_uint_t ngx_http_taptalent_in_memory(
    ngx_http_taptalent_spool_t *spool);
static ngx_int_t ngx_http_taptalent_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_int_t ngx_http_taptalent_init_census(ngx_cycle_t *cycle,
    ngx_http_taptalent_main_conf_t *tmcf);


/* what may be inherited becomes the location's own, with its server */

char *
ngx_http_taptalent_use_forward(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    ngx_http_taptalent_retry_t       *retry;
    ngx_http_taptalent_forward_t     *forward, **fp;
    ngx_http_taptalent_main_conf_t   *tmcf;

    retry = conf->retry;

    if (retry == NULL) {
        retry = ngx_http_taptalent_default_retry(cf);
        if (retry == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    forward = ngx_palloc(cf->pool, sizeof(ngx_http_taptalent_forward_t));
    if (forward == NULL) {
        return NGX_CONF_ERROR;
    }

    *forward = *conf->forward;

    forward->conf_ctx = conf->conf_ctx;
    forward->retry = *retry;

    conf->forward = forward;

    if (conf->spool) {
        return NGX_CONF_OK;
    }

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);

    fp = ngx_array_push(&tmcf->forwards);
    if (fp == NULL) {
        return NGX_CONF_ERROR;
    }

    *fp = forward;

    return NGX_CONF_OK;
}


char *
ngx_http_taptalent_use_spool(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    const char                   *other;
    ngx_http_taptalent_commit_t  *c;

    c = &conf->spool->commit;

    if (c->used) {

        other = NULL;

        if (c->spool.access != conf->access) {
            other = "taptalent_webhook_spool_access";

        } else if (!ngx_http_taptalent_same_forward(conf->spool->forward,
                                                    conf->forward))
        {
            other = "taptalent_webhook_forward\", another server or another "
                    "\"taptalent_webhook_retry";
        }

        if (other == NULL) {
            return NGX_CONF_OK;
        }

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook on\" in %s:%ui shares the spool "
                      "\"%V\" with another location, but has another "
                      "\"%s\", write the same in both, or another spool",
                      conf->file, conf->line, &c->spool.path, other);
        return NGX_CONF_ERROR;
    }

    conf->spool->forward = conf->forward;

    if (!c->spool.sync) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "the spool \"%V\" has \"sync=off\" in %s:%ui, "
                      "a power failure loses acknowledged events",
                      &c->spool.path, c->file, c->line);
    }

    return ngx_http_taptalent_add_dirs(cf, c, conf->access);
}


static ngx_uint_t
ngx_http_taptalent_same_forward(ngx_http_taptalent_forward_t *one,
    ngx_http_taptalent_forward_t *two)
{
    if (one == NULL || two == NULL) {
        return one == two;
    }

    return one->uri->value.len == two->uri->value.len
           && ngx_strncmp(one->uri->value.data, two->uri->value.data,
                          one->uri->value.len)
              == 0
           && one->conf_ctx->srv_conf == two->conf_ctx->srv_conf
           && one->concurrency == two->concurrency
           && one->queue == two->queue
           && one->timeout == two->timeout
           && one->confirm.len == two->confirm.len
           && ngx_memcmp(one->confirm.data, two->confirm.data,
                         one->confirm.len)
              == 0
           && one->retry.initial == two->retry.initial
           && one->retry.max == two->retry.max
           && one->retry.max_age == two->retry.max_age
           && one->retry.permanent->nelts == two->retry.permanent->nelts
           && ngx_memcmp(one->retry.permanent->elts,
                         two->retry.permanent->elts,
                         one->retry.permanent->nelts * sizeof(ngx_uint_t))
              == 0;
}


/* a repetition of what is in quarantine is not kept there once more */

char *
ngx_http_taptalent_use_quarantine(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    ngx_http_taptalent_commit_t     *c;
    ngx_http_taptalent_main_conf_t  *tmcf;

    c = &conf->quarantine->commit;

    /* a stranger must not fill what the spool needs */

    if (conf->spool) {
        c->min_free = ngx_max(c->min_free, conf->spool->commit.min_free
                                           + 64 * 1024 * 1024);
    }

    if (c->used) {

        if (c->spool.access == conf->access) {
            return NGX_CONF_OK;
        }

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook on\" in %s:%ui shares the "
                      "quarantine \"%V\" with another location, but has "
                      "another \"taptalent_webhook_spool_access\", write the "
                      "same in both, or another quarantine",
                      conf->file, conf->line, &c->spool.path);
        return NGX_CONF_ERROR;
    }

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);

    if (tmcf->zone_size != 0) {
        tmcf->window = ngx_max(tmcf->window, NGX_HTTP_TAPTALENT_REPEATED);
        c->dedup = 1;
    }

    return ngx_http_taptalent_add_dirs(cf, c, conf->access);
}


static char *
ngx_http_taptalent_add_dirs(ngx_conf_t *cf, ngx_http_taptalent_commit_t *c,
    ngx_uint_t access)
{
    u_char              *p;
    ngx_uint_t           i;
    ngx_path_t          *path;
    ngx_pool_cleanup_t  *cln;

    c->used = 1;
    c->spool.access = access;

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {

        path = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
        if (path == NULL) {
            return NGX_CONF_ERROR;
        }

        p = ngx_pnalloc(cf->pool, c->spool.path.len + sizeof("/corrupt"));
        if (p == NULL) {
            return NGX_CONF_ERROR;
        }

        path->name.data = p;
        path->name.len = ngx_sprintf(p, "%V/%s%Z", &c->spool.path,
                                     ngx_http_taptalent_spool_dirs[i])
                         - p - 1;
        path->data = c;
        path->conf_file = c->file;
        path->line = c->line;

        c->spool.dirs[i] = path;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_http_taptalent_close;
    cln->data = c;

    return NGX_CONF_OK;
}


/* of the cycle's pool: the threads are gone by then */

static void
ngx_http_taptalent_close(void *data)
{
    ngx_http_taptalent_commit_t *c = data;

    ngx_http_taptalent_commit_close(c);
}


ngx_int_t
ngx_http_taptalent_add_zone(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf)
{
    ngx_uint_t                         i;
    ngx_shm_zone_t                    *shm_zone;
    ngx_http_taptalent_forward_t     **fp;
    ngx_http_taptalent_spool_conf_t  **scp;

    static ngx_str_t  name = ngx_string("taptalent_webhook");

    if (tmcf->zone_size == NGX_CONF_UNSET) {
        tmcf->zone_size = NGX_HTTP_TAPTALENT_ZONE_SIZE;
    }

    if (tmcf->status && tmcf->zone_size == 0) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook_status\" shows what the zone "
                      "counts, write a size instead of "
                      "\"taptalent_webhook_zone off\" in %s:%ui",
                      tmcf->zone_file, tmcf->zone_line);
        return NGX_ERROR;
    }

    if (tmcf->window && tmcf->zone_size == 0) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook_dedup\" keeps what it knows in the "
                      "zone, write a size instead of "
                      "\"taptalent_webhook_zone off\" in %s:%ui",
                      tmcf->zone_file, tmcf->zone_line);
        return NGX_ERROR;
    }

    if (!tmcf->used || tmcf->zone_size == 0) {
        return NGX_OK;
    }

    tmcf->zone = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_zone_t));
    if (tmcf->zone == NULL) {
        return NGX_ERROR;
    }

    if (ngx_array_init(&tmcf->zone->spools, cf->pool, 4,
                       sizeof(ngx_http_taptalent_zone_spool_t *))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    shm_zone = ngx_shared_memory_add(cf, &name, tmcf->zone_size,
                                     &ngx_http_taptalent_webhook_module);
    if (shm_zone == NULL) {
        return NGX_ERROR;
    }

    shm_zone->init = ngx_http_taptalent_init_zone;
    shm_zone->data = tmcf->zone;

    tmcf->zone->conf = tmcf;
    tmcf->zone->window = tmcf->window;

    scp = tmcf->spools.elts;

    for (i = 0; i < tmcf->spools.nelts; i++) {

        scp[i]->commit.zone = tmcf->zone;

        if (scp[i]->forward) {
            scp[i]->forward->zone = tmcf->zone;
        }
    }

    fp = tmcf->forwards.elts;

    for (i = 0; i < tmcf->forwards.nelts; i++) {
        fp[i]->zone = tmcf->zone;
    }

    return NGX_OK;
}


/* without room for one of them the rest is counted all the same */

static ngx_int_t
ngx_http_taptalent_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_uint_t                         i, full;
    ngx_http_taptalent_zone_t         *zone;
    ngx_http_taptalent_commit_t       *c;
    ngx_http_taptalent_forward_t     **fp;
    ngx_http_taptalent_main_conf_t    *tmcf;
    ngx_http_taptalent_spool_conf_t  **scp;

    zone = shm_zone->data;
    tmcf = zone->conf;

    if (ngx_http_taptalent_zone_init(zone, data, shm_zone) != NGX_OK) {
        return NGX_ERROR;
    }

    full = 0;
    scp = tmcf->spools.elts;

    for (i = 0; i < tmcf->spools.nelts; i++) {

        if (!scp[i]->commit.used) {
            continue;
        }

        c = &scp[i]->commit;

        c->stats = ngx_http_taptalent_zone_spool(zone, &c->spool.path,
                                   c->max_size ? NGX_HTTP_TAPTALENT_QUARANTINE
                                               : NGX_HTTP_TAPTALENT_SPOOL);
        full |= (c->stats == NULL);

        if (c->stats) {
            ngx_http_taptalent_wide_set(&c->stats->min_free, c->min_free);
            ngx_http_taptalent_wide_set(&c->stats->max_size, c->max_size);
        }

        if (scp[i]->forward) {
            scp[i]->forward->stats = c->stats;
        }
    }

    fp = tmcf->forwards.elts;

    for (i = 0; i < tmcf->forwards.nelts; i++) {
        fp[i]->stats = ngx_http_taptalent_zone_spool(zone,
                                                     &fp[i]->uri->value,
                                                     NGX_HTTP_TAPTALENT_MEMORY);
        full |= (fp[i]->stats == NULL);

        if (fp[i]->stats) {
            fp[i]->stats->limit += fp[i]->queue;
        }
    }

    if (full) {
        ngx_log_error(NGX_LOG_WARN, shm_zone->shm.log, 0,
                      "\"taptalent_webhook_zone\" is too small, some spools "
                      "are not in the status and have no "
                      "\"taptalent_webhook_dedup\", write a larger size than "
                      "%uz", shm_zone->shm.size);
    }

    return NGX_OK;
}


/*
 * nginx makes the directories that are missing, for their user.  It must not
 * know of the others, nor of any with "nginx -t": it would give them to the
 * user of a configuration that does not run, perhaps, and may never.
 */

ngx_int_t
ngx_http_taptalent_make_spools(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf)
{
    ngx_uint_t                         i, k;
    ngx_file_info_t                    fi;
    ngx_http_taptalent_spool_t        *spool;
    ngx_http_taptalent_spool_conf_t  **scp;

    scp = tmcf->spools.elts;

    for (i = 0; i < tmcf->spools.nelts; i++) {

        spool = &scp[i]->commit.spool;

        if (!scp[i]->commit.used) {
            continue;
        }

        if (ngx_http_taptalent_spool_prepare(spool, cf->log) != NGX_OK) {
            return NGX_ERROR;
        }

        for (k = 0; k < NGX_HTTP_TAPTALENT_DIRS && !ngx_test_config; k++) {

            if (lstat((char *) spool->dirs[k]->name.data, &fi) == -1
                && ngx_errno == NGX_ENOENT
                && ngx_add_path(cf, &spool->dirs[k]) != NGX_OK)
            {
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


/*
 * What can be told only when all is read, and done only when nothing can fail
 * any more.  An error here ends a master that runs, and its workers.
 */

ngx_int_t
ngx_http_taptalent_init_module(ngx_cycle_t *cycle)
{
    ngx_uint_t                         i, n;
    ngx_core_conf_t                   *ccf;
    ngx_http_taptalent_commit_t       *c;
    ngx_http_taptalent_forward_t     **fp;
    ngx_http_taptalent_main_conf_t    *tmcf;
    ngx_http_taptalent_spool_conf_t  **scp;

    tmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                           ngx_http_taptalent_webhook_module);

    if (tmcf == NULL) {
        return NGX_OK;
    }

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    n = 0;
    scp = tmcf->spools.elts;

    for (i = 0; i < tmcf->spools.nelts; i++) {

        c = &scp[i]->commit;

        if (!c->used) {
            continue;
        }

        if (ngx_http_taptalent_spool_give(&c->spool, ccf->user, cycle->log)
            != NGX_OK
            && ngx_is_init_cycle(cycle->old_cycle))
        {
            return NGX_ERROR;
        }

        if (c->max_size == 0 && c->spool.sync
            && ngx_http_taptalent_in_memory(&c->spool))
        {
            ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                          "the spool \"%V\" in %s:%ui is on a filesystem in "
                          "memory, a power failure loses acknowledged events, "
                          "write the path of a directory on a disk",
                          &c->spool.path, c->file, c->line);
        }

        ngx_http_taptalent_check_disk(c, cycle->log);
        ngx_http_taptalent_check_way(c, ccf, cycle->log);

        if (scp[i]->forward) {
            n += scp[i]->forward->concurrency;
        }
    }

    /* each delivery takes a connection, and so does any other request */

    fp = tmcf->forwards.elts;

    for (i = 0; i < tmcf->forwards.nelts; i++) {
        n += fp[i]->concurrency;
    }

    if (n >= cycle->connection_n) {
        ngx_log_error(NGX_LOG_WARN, cycle->log, 0,
                      "\"taptalent_webhook_forward\" may need %ui connections "
                      "at once, and \"worker_connections\" is %ui: write "
                      "more of them, or a smaller \"concurrency\"",
                      n, cycle->connection_n);
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_taptalent_in_memory(ngx_http_taptalent_spool_t *spool)
{
#if (NGX_LINUX)

    u_char         parent[NGX_MAX_PATH];
    struct statfs  fs;

    if (statfs((char *) spool->path.data, &fs) == -1) {

        /* "nginx -t" has not made it */

        ngx_http_taptalent_spool_parent(spool, parent);

        if (statfs((char *) parent, &fs) == -1) {
            return 0;
        }
    }

    return (uint32_t) fs.f_type == NGX_HTTP_TAPTALENT_TMPFS
           || (uint32_t) fs.f_type == NGX_HTTP_TAPTALENT_RAMFS;

#else

    return 0;

#endif
}


ngx_int_t
ngx_http_taptalent_init_process(ngx_cycle_t *cycle)
{
    void                              *p;
    ngx_uint_t                         i;
    ngx_http_taptalent_forward_t     **fp;
    ngx_http_taptalent_main_conf_t    *tmcf;
    ngx_http_taptalent_spool_conf_t  **scp;

    if (ngx_process != NGX_PROCESS_WORKER
        && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    tmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                           ngx_http_taptalent_webhook_module);

    if (tmcf == NULL) {
        return NGX_OK;
    }

    /* a file that grows too large is an error of write(), not a death */

    (void) signal(SIGXFSZ, SIG_IGN);

    /*
     * With each group the memory of its requests is freed at once.  glibc
     * would give it back to the kernel, page by page to be faulted in again
     * for the next group, unless it has seen that large blocks come and go:
     * mallopt(3), M_MMAP_THRESHOLD.
     */

    p = ngx_alloc(NGX_HTTP_TAPTALENT_LARGE, cycle->log);

    if (p) {
        ngx_free(p);
    }

    scp = tmcf->spools.elts;

    for (i = 0; i < tmcf->spools.nelts; i++) {

        if (!scp[i]->commit.used) {
            continue;
        }

        ngx_http_taptalent_commit_init(&scp[i]->commit, cycle->log);

        if (scp[i]->forward
            && ngx_http_taptalent_queue_init(&scp[i]->commit, scp[i]->forward,
                                             cycle)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    fp = tmcf->forwards.elts;

    for (i = 0; i < tmcf->forwards.nelts; i++) {
        if (ngx_http_taptalent_queue_init(NULL, fp[i], cycle) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (tmcf->zone && tmcf->status) {
        return ngx_http_taptalent_init_census(cycle, tmcf);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_init_census(ngx_cycle_t *cycle,
    ngx_http_taptalent_main_conf_t *tmcf)
{
    ngx_uint_t                         i;
    ngx_array_t                        commits;
    ngx_http_taptalent_commit_t      **c;
    ngx_http_taptalent_spool_conf_t  **scp;

    if (ngx_array_init(&commits, cycle->pool, tmcf->spools.nelts + 1,
                       sizeof(ngx_http_taptalent_commit_t *))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    scp = tmcf->spools.elts;

    for (i = 0; i < tmcf->spools.nelts; i++) {

        if (!scp[i]->commit.used) {
            continue;
        }

        c = ngx_array_push(&commits);
        if (c == NULL) {
            return NGX_ERROR;
        }

        *c = &scp[i]->commit;
    }

    return ngx_http_taptalent_census_init(cycle, tmcf->zone, commits.elts,
                                          commits.nelts);
}


void
ngx_http_taptalent_exit_process(ngx_cycle_t *cycle)
{
    ngx_http_taptalent_event_free_id();
}
