
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#if (NGX_LINUX)
#include <sys/vfs.h>
#endif
#include "ngx_http_taptalent_check.h"
#include "ngx_http_taptalent_process.h"
#include "ngx_http_taptalent_status_measure.h"


/*
 * The life of a process: what is checked when a cycle begins, what a worker
 * begins with, and what it frees at its end.
 */


#define NGX_HTTP_TAPTALENT_LARGE  8388608  /* bytes, a block for malloc() */

/* f_type of statfs(2), whose names are in the headers of the kernel */

#define NGX_HTTP_TAPTALENT_TMPFS  0x01021994
#define NGX_HTTP_TAPTALENT_RAMFS  0x858458f6


static ngx_uint_t ngx_http_taptalent_process_in_memory(
    ngx_http_taptalent_spool_t *spool);
static ngx_int_t ngx_http_taptalent_process_init_measure(ngx_cycle_t *cycle,
    ngx_http_taptalent_main_conf_t *tmcf);


/*
 * What can be told only when all is read, and done only when nothing can fail
 * any more.  An error here ends a master that runs, and its workers.
 */

ngx_int_t
ngx_http_taptalent_process_init_module(ngx_cycle_t *cycle)
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

        if (ngx_http_taptalent_spool_prepare_give(&c->spool, ccf->user,
                                                  cycle->log)
            != NGX_OK
            && ngx_is_init_cycle(cycle->old_cycle))
        {
            return NGX_ERROR;
        }

        if (c->max_size == 0 && c->spool.sync
            && ngx_http_taptalent_process_in_memory(&c->spool))
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
ngx_http_taptalent_process_in_memory(ngx_http_taptalent_spool_t *spool)
{
#if (NGX_LINUX)

    u_char         parent[NGX_MAX_PATH];
    struct statfs  fs;

    if (statfs((char *) spool->path.data, &fs) == -1) {

        /* "nginx -t" has not made it */

        ngx_http_taptalent_spool_prepare_parent(spool, parent);

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
ngx_http_taptalent_process_init(ngx_cycle_t *cycle)
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
            && ngx_http_taptalent_owner_init(&scp[i]->commit, scp[i]->forward,
                                             cycle)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    fp = tmcf->forwards.elts;

    for (i = 0; i < tmcf->forwards.nelts; i++) {
        if (ngx_http_taptalent_owner_init(NULL, fp[i], cycle) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (tmcf->zone && tmcf->status) {
        return ngx_http_taptalent_process_init_measure(cycle, tmcf);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_process_init_measure(ngx_cycle_t *cycle,
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

    return ngx_http_taptalent_status_measure_init(cycle, tmcf->zone,
                                                  commits.elts,
                                                  commits.nelts);
}


void
ngx_http_taptalent_process_exit(ngx_cycle_t *cycle)
{
    ngx_http_taptalent_event_free_id();
}
