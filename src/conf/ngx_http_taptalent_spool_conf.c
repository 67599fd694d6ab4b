
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_conf.h"
#include "ngx_http_taptalent_value.h"


/*
 * The directives that say where events are kept, and what stands behind them:
 * spools and quarantines, made from them at configuration.
 */


static char *ngx_http_taptalent_spool_conf_defaults(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_str_t *path);
static char *ngx_http_taptalent_spool_conf_parameter(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_str_t *value);
static ngx_http_taptalent_spool_conf_t *ngx_http_taptalent_spool_conf_add(
    ngx_conf_t *cf, ngx_http_taptalent_spool_conf_t *sc);
static char *ngx_http_taptalent_spool_conf_add_dirs(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_uint_t access);
static void ngx_http_taptalent_spool_conf_close(void *data);


char *
ngx_http_taptalent_webhook_spool(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                        *value;
    ngx_uint_t                        i;
    ngx_http_taptalent_commit_t      *c;
    ngx_http_taptalent_spool_conf_t  *sc;

    if (tlcf->spool != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    sc = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_spool_conf_t));
    if (sc == NULL) {
        return NGX_CONF_ERROR;
    }

    c = &sc->commit;

    if (ngx_http_taptalent_spool_conf_defaults(cf, c, &value[1])
        != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_taptalent_value_once(cf, i, '=') != NGX_OK
            || ngx_http_taptalent_spool_conf_parameter(cf, c, &value[i])
               != NGX_CONF_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    tlcf->spool = ngx_http_taptalent_spool_conf_add(cf, sc);

    return tlcf->spool ? NGX_CONF_OK : NGX_CONF_ERROR;
}


/* a spool of its own, that nobody forwards, and that is never full */

char *
ngx_http_taptalent_webhook_quarantine(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                        *value, s;
    ngx_http_taptalent_commit_t      *c;
    ngx_http_taptalent_spool_conf_t  *sc;

    if (tlcf->quarantine != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0 && cf->args->nelts == 2) {
        tlcf->quarantine = NULL;
        return NGX_CONF_OK;
    }

    sc = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_spool_conf_t));
    if (sc == NULL) {
        return NGX_CONF_ERROR;
    }

    c = &sc->commit;

    if (ngx_http_taptalent_spool_conf_defaults(cf, c, &value[1])
        != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    c->max_size = 64 * 1024 * 1024;

    if (cf->args->nelts == 3) {

        if (ngx_strncmp(value[2].data, "max_size=", 9) == 0) {
            s.len = value[2].len - 9;
            s.data = value[2].data + 9;

            c->max_size = ngx_parse_offset(&s);

        } else {
            c->max_size = NGX_ERROR;
        }

        if (c->max_size <= 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", write "
                               "\"max_size=size\", such as \"max_size=64m\"",
                               &value[2]);
            return NGX_CONF_ERROR;
        }
    }

    tlcf->quarantine = ngx_http_taptalent_spool_conf_add(cf, sc);

    return tlcf->quarantine ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static char *
ngx_http_taptalent_spool_conf_defaults(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_str_t *path)
{
    size_t  len;

    len = path->len;

    while (len && path->data[len - 1] == '/') {
        len--;
    }

    if (len == 0 || path->data[0] != '/'
        || ngx_http_script_variables_count(path))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid path \"%V\" of a spool, write that of a "
                           "directory, from the root and without variables, "
                           "such as \"/var/spool/taptalent\"", path);
        return NGX_CONF_ERROR;
    }

    path->data[len] = '\0';

    c->file = cf->conf_file->file.name.data;
    c->line = cf->conf_file->line;
    c->buffer = 16 * 1024 * 1024;
    c->min_free = 64 * 1024 * 1024;
    c->spool.sync = 1;
    c->spool.path.data = path->data;
    c->spool.path.len = len;

    return NGX_CONF_OK;
}


static char *
ngx_http_taptalent_spool_conf_parameter(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_str_t *value)
{
    ssize_t    size;
    ngx_str_t  s;

    if (ngx_strncmp(value->data, "threads=", 8) == 0) {

#if (NGX_THREADS)

        s.len = value->len - 8;
        s.data = value->data + 8;

        if (s.len == 0) {
            goto invalid;
        }

        c->thread_pool = ngx_thread_pool_add(cf, &s);

        return c->thread_pool ? NGX_CONF_OK : NGX_CONF_ERROR;

#else

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" is unsupported on this platform, nginx "
                           "is built without threads, leave it out", value);
        return NGX_CONF_ERROR;

#endif
    }

    if (ngx_strncmp(value->data, "min_free=", 9) == 0) {
        s.len = value->len - 9;
        s.data = value->data + 9;

        c->min_free = ngx_parse_offset(&s);

        if (c->min_free == NGX_ERROR) {
            goto invalid;
        }

        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value->data, "buffer=", 7) == 0) {
        s.len = value->len - 7;
        s.data = value->data + 7;

        size = ngx_parse_size(&s);

        if (size == NGX_ERROR || size == 0) {
            goto invalid;
        }

        /* what has gathered becomes one file */

        if (size > NGX_HTTP_TAPTALENT_FILE_MAX) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "\"%V\" is more than a file may have, it is "
                               "1g, write at most \"buffer=1024m\"", value);
            size = NGX_HTTP_TAPTALENT_FILE_MAX;
        }

        c->buffer = size;

        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "sync=on") == 0) {
        c->spool.sync = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value->data, "sync=off") == 0) {
        c->spool.sync = 0;
        return NGX_CONF_OK;
    }

invalid:

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"%V\", write \"threads=pool\", "
                       "\"min_free=size\" in k, m or g, \"buffer=size\" in k "
                       "or m, \"sync=on\" or \"sync=off\"", value);
    return NGX_CONF_ERROR;
}


/* a path is one spool, wherever it is named */

static ngx_http_taptalent_spool_conf_t *
ngx_http_taptalent_spool_conf_add(ngx_conf_t *cf,
    ngx_http_taptalent_spool_conf_t *sc)
{
    ngx_uint_t                         i, same;
    ngx_http_taptalent_commit_t       *c, *old;
    ngx_http_taptalent_main_conf_t    *tmcf;
    ngx_http_taptalent_spool_conf_t  **scp;

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);

    c = &sc->commit;
    scp = tmcf->spools.elts;

#if (NGX_THREADS)

    if (c->thread_pool == NULL) {
        c->thread_pool = ngx_thread_pool_add(cf, NULL);
        if (c->thread_pool == NULL) {
            return NULL;
        }
    }

    c->task = ngx_thread_task_alloc(cf->pool, 0);
    if (c->task == NULL) {
        return NULL;
    }

#endif

    for (i = 0; i < tmcf->spools.nelts; i++) {

        old = &scp[i]->commit;

        if (old->spool.path.len != c->spool.path.len
            || ngx_strcmp(old->spool.path.data, c->spool.path.data) != 0)
        {
            continue;
        }

        if ((old->max_size == 0) != (c->max_size == 0)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "the path \"%V\" is that of a spool and of a "
                               "quarantine, write another one here, see %s:%ui",
                               &c->spool.path, old->file, old->line);
            return NULL;
        }

        same = (old->min_free == c->min_free
                && old->max_size == c->max_size
                && old->buffer == c->buffer
                && old->spool.sync == c->spool.sync);

#if (NGX_THREADS)
        same = same && old->thread_pool == c->thread_pool;
#endif

        if (same) {
            return scp[i];
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the spool \"%V\" has other parameters in %s:%ui, "
                           "write the same in both",
                           &c->spool.path, old->file, old->line);
        return NULL;
    }

    scp = ngx_array_push(&tmcf->spools);
    if (scp == NULL) {
        return NULL;
    }

    *scp = sc;

    return sc;
}


/* what ngx_conf_set_access_slot() takes, with what to write instead */

char *
ngx_http_taptalent_webhook_spool_access(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    u_char      *p;
    ngx_str_t   *value;
    ngx_uint_t   i;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_taptalent_value_once(cf, i, ':') != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        p = value[i].data;

        if (ngx_strncmp(p, "user:", 5) == 0) {
            p += 5;

        } else if (ngx_strncmp(p, "group:", 6) == 0) {
            p += 6;

        } else if (ngx_strncmp(p, "all:", 4) == 0) {
            p += 4;
        }

        if (p == value[i].data
            || (ngx_strcmp(p, "r") != 0 && ngx_strcmp(p, "rw") != 0))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid value \"%V\", write \"user:\", "
                               "\"group:\" or \"all:\" with \"r\" or \"rw\" "
                               "after it, such as \"group:rw\"", &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    return ngx_conf_set_access_slot(cf, cmd, conf);
}


char *
ngx_http_taptalent_spool_conf_use(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    const char                   *other;
    ngx_http_taptalent_commit_t  *c;

    c = &conf->spool->commit;

    if (c->used) {

        other = NULL;

        if (c->spool.access != conf->access) {
            other = "taptalent_webhook_spool_access";

        } else if (!ngx_http_taptalent_forward_conf_same(conf->spool->forward,
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

    return ngx_http_taptalent_spool_conf_add_dirs(cf, c, conf->access);
}


/* a repetition of what is in quarantine is not kept there once more */

char *
ngx_http_taptalent_spool_conf_use_quarantine(ngx_conf_t *cf,
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

    return ngx_http_taptalent_spool_conf_add_dirs(cf, c, conf->access);
}


static char *
ngx_http_taptalent_spool_conf_add_dirs(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_uint_t access)
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

    cln->handler = ngx_http_taptalent_spool_conf_close;
    cln->data = c;

    return NGX_CONF_OK;
}


/* of the cycle's pool: the threads are gone by then */

static void
ngx_http_taptalent_spool_conf_close(void *data)
{
    ngx_http_taptalent_commit_t *c = data;

    ngx_http_taptalent_commit_close(c);
}


/*
 * nginx makes the directories that are missing, for their user.  It must not
 * know of the others, nor of any with "nginx -t": it would give them to the
 * user of a configuration that does not run, perhaps, and may never.
 */

ngx_int_t
ngx_http_taptalent_spool_conf_make(ngx_conf_t *cf,
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
