
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_conf.h"


/* The directives of the shared memory, and what is in it of each spool. */


static ngx_int_t ngx_http_taptalent_zone_conf_init(ngx_shm_zone_t *shm_zone,
    void *data);


char *
ngx_http_taptalent_webhook_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_main_conf_t *tmcf = conf;

    ngx_str_t  *value;

    if (tmcf->zone_size != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    tmcf->zone_file = cf->conf_file->file.name.data;
    tmcf->zone_line = cf->conf_file->line;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        tmcf->zone_size = 0;
        return NGX_CONF_OK;
    }

    tmcf->zone_size = ngx_parse_size(&value[1]);

    if (tmcf->zone_size == NGX_ERROR
        || tmcf->zone_size < NGX_HTTP_TAPTALENT_ZONE_MIN)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid size \"%V\", write \"off\" or a size of "
                           "at least %uz bytes, in k or m, such as \"1m\"",
                           &value[1],
                           (size_t) NGX_HTTP_TAPTALENT_ZONE_MIN);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_taptalent_webhook_dedup(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t  *value;

    if (tlcf->dedup != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        tlcf->dedup = 0;
        return NGX_CONF_OK;
    }

    tlcf->dedup = ngx_parse_time(&value[1], 0);

    if (tlcf->dedup == (ngx_msec_t) NGX_ERROR || tlcf->dedup == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid time \"%V\", write \"off\" or how long "
                           "an event is known, such as \"1h\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


ngx_int_t
ngx_http_taptalent_zone_conf_add(ngx_conf_t *cf,
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

    shm_zone->init = ngx_http_taptalent_zone_conf_init;
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
ngx_http_taptalent_zone_conf_init(ngx_shm_zone_t *shm_zone, void *data)
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
