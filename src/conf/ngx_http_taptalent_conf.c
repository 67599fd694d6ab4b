
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_status.h"
#include "ngx_http_taptalent_conf.h"
#include "ngx_http_taptalent_value.h"
#include "ngx_http_taptalent_check.h"


/*
 * The directives for which nginx has no setter, or none that says what to write
 * instead; and what a location has inherited, and lacks.
 */


static char *ngx_http_taptalent_conf_mode(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *prev, ngx_http_taptalent_loc_conf_t *conf,
    ngx_http_handler_pt handler);
static char *ngx_http_taptalent_conf_location(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
static char *ngx_http_taptalent_conf_forward(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
static void ngx_http_taptalent_conf_error_pages(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
static void ngx_http_taptalent_conf_dedup(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
static char *ngx_http_taptalent_conf_use(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);


char *
ngx_http_taptalent_webhook_https(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t  *value;

    if (tlcf->https != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "on") == 0) {
        tlcf->https = 1;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "off") == 0) {
        tlcf->https = 0;
        return NGX_CONF_OK;
    }

    if (ngx_http_script_variables_count(&value[1]) == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\", write \"on\", \"off\" "
                           "or a variable", &value[1]);
        return NGX_CONF_ERROR;
    }

    tlcf->https = 1;
    tlcf->https_value = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (tlcf->https_value == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_taptalent_value_compile(cf, &value[1], tlcf->https_value)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_taptalent_webhook_company_id(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                 *value;
    ngx_uint_t                 i;
    ngx_http_complex_value_t  *cv;

    if (tlcf->companies != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    tlcf->companies = ngx_array_create(cf->pool, 4,
                                       sizeof(ngx_http_complex_value_t));
    if (tlcf->companies == NULL) {
        return NGX_CONF_ERROR;
    }

    tlcf->any_company = 0;
    tlcf->missing_company = 0;

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_taptalent_value_once(cf, i, '=') != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        if (ngx_strcmp(value[i].data, "any") == 0) {
            tlcf->any_company = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "missing=accept") == 0) {
            tlcf->missing_company = 1;
            continue;
        }

        if (ngx_strcmp(value[i].data, "missing=reject") == 0) {
            tlcf->missing_company = 0;
            continue;
        }

        if (value[i].len == 0
            || ngx_strlchr(value[i].data, value[i].data + value[i].len, '='))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", write a companyId, "
                               "\"any\", \"missing=accept\" or "
                               "\"missing=reject\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        cv = ngx_array_push(tlcf->companies);
        if (cv == NULL) {
            return NGX_CONF_ERROR;
        }

        if (ngx_http_taptalent_value_compile(cf, &value[i], cv) != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        if (ngx_strcmp(value[i].data, "company-uuid") == 0) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "\"%V\" is the companyId of the examples, "
                               "write that of your events", &value[i]);
        }
    }

    if (tlcf->any_company == (tlcf->companies->nelts != 0)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" needs either companyIds or \"any\"",
                           &value[0]);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


char *
ngx_http_taptalent_webhook_events(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    u_char       c;
    ngx_str_t   *value, *pattern;
    ngx_uint_t   i, n;

    if (tlcf->events != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    tlcf->events = ngx_array_create(cf->pool, 4, sizeof(ngx_str_t));
    if (tlcf->events == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        for (n = 0; n < value[i].len; n++) {
            c = value[i].data[n];

            if ((c < 'a' || c > 'z') && (c < 'A' || c > 'Z')
                && (c < '0' || c > '9')
                && c != '.' && c != '_' && c != ':' && c != '-' && c != '*')
            {
                break;
            }
        }

        /* what can be switched off has that word, and here it would drop all */

        if (n == 0 || n < value[i].len
            || ngx_strcmp(value[i].data, "off") == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid pattern \"%V\", write the name of "
                               "an event, with \"*\" for any characters, "
                               "such as \"resume.*\"", &value[i]);
            return NGX_CONF_ERROR;
        }

        pattern = ngx_array_push(tlcf->events);
        if (pattern == NULL) {
            return NGX_CONF_ERROR;
        }

        *pattern = value[i];
    }

    return NGX_CONF_OK;
}


char *
ngx_http_taptalent_webhook_ack_timeout(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t   *value;
    ngx_msec_t   timeout;

    if (tlcf->ack_timeout != NGX_CONF_UNSET_MSEC) {
        return "is duplicate";
    }

    value = cf->args->elts;

    timeout = ngx_parse_time(&value[1], 0);

    if (timeout == (ngx_msec_t) NGX_ERROR || timeout == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid time \"%V\", write one below the 5s that "
                           "the sender waits for, such as \"4s\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    if (timeout >= 5000) {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "the sender waits for 5 seconds only, write a "
                           "time below them, such as \"4s\"");
    }

    tlcf->ack_timeout = timeout;

    return NGX_CONF_OK;
}


char *
ngx_http_taptalent_webhook_response(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t  *value;

    if (tlcf->response != NGX_CONF_UNSET_UINT) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "brief") == 0) {
        tlcf->response = NGX_HTTP_TAPTALENT_BRIEF;
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "full") == 0) {
        tlcf->response = NGX_HTTP_TAPTALENT_FULL;
        return NGX_CONF_OK;
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid value \"%V\", write \"brief\" or \"full\"",
                       &value[1]);
    return NGX_CONF_ERROR;
}


char *
ngx_http_taptalent_conf_merge(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *prev, ngx_http_taptalent_loc_conf_t *conf,
    ngx_http_handler_pt handler)
{
    if (conf->https == NGX_CONF_UNSET) {
        conf->https_value = prev->https_value;
    }

    ngx_conf_merge_value(conf->https, prev->https, 1);

    /* the three are of one directive */

    if (conf->companies == NGX_CONF_UNSET_PTR) {
        conf->any_company = prev->any_company;
        conf->missing_company = prev->missing_company;
    }

    ngx_conf_merge_ptr_value(conf->companies, prev->companies, NULL);

    ngx_conf_merge_ptr_value(conf->keys, prev->keys, NULL);
    ngx_conf_merge_sec_value(conf->tolerance, prev->tolerance, 0);
    ngx_conf_merge_ptr_value(conf->signature, prev->signature, NULL);
    ngx_conf_merge_value(conf->enforce, prev->enforce, 1);

    ngx_conf_merge_ptr_value(conf->events, prev->events, NULL);
    ngx_conf_merge_ptr_value(conf->spool, prev->spool, NULL);
    ngx_conf_merge_ptr_value(conf->quarantine, prev->quarantine, NULL);
    ngx_conf_merge_ptr_value(conf->forward, prev->forward, NULL);
    ngx_conf_merge_ptr_value(conf->retry, prev->retry, NULL);
    ngx_conf_merge_uint_value(conf->access, prev->access, 0600);
    ngx_conf_merge_msec_value(conf->ack_timeout, prev->ack_timeout, 4000);
    ngx_conf_merge_uint_value(conf->response, prev->response,
                              NGX_HTTP_TAPTALENT_BRIEF);

    ngx_conf_merge_msec_value(conf->dedup, prev->dedup, 0);

    if (conf->companies == NULL) {
        conf->any_company = 1;
        conf->missing_company = 0;
    }

    if (ngx_http_taptalent_conf_mode(cf, prev, conf, handler) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    if (conf->mode != NGX_HTTP_TAPTALENT_ON) {
        return NGX_CONF_OK;
    }

    if (ngx_http_taptalent_check_add_location(cf, conf) != NGX_OK
        || ngx_http_taptalent_conf_location(cf, conf) != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    ngx_http_taptalent_conf_dedup(cf, conf);

    return ngx_http_taptalent_conf_use(cf, conf);
}


static char *
ngx_http_taptalent_conf_mode(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *prev, ngx_http_taptalent_loc_conf_t *conf,
    ngx_http_handler_pt handler)
{
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (conf->status && clcf->handler != ngx_http_taptalent_status_handler) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook_status\" in %s:%ui shares its "
                      "location with another directive that answers, write it "
                      "in a location of its own",
                      conf->status_file, conf->status_line);
        return NGX_CONF_ERROR;
    }

    if (clcf->noname && conf->file == NULL) {

        /* "if" and "limit_except" are of the location that they stand in */

        if (clcf->handler == NULL) {
            conf->mode = prev->mode;
            conf->status = prev->status;
            conf->file = prev->file;
            conf->line = prev->line;
            conf->conf_ctx = prev->conf_ctx;
        }

        if (clcf->lmt_excpt && conf->mode != NGX_HTTP_TAPTALENT_OFF) {
            clcf->handler = handler;

        } else if (clcf->lmt_excpt && conf->status) {
            clcf->handler = ngx_http_taptalent_status_handler;
        }
    }

    if (conf->mode == NGX_HTTP_TAPTALENT_OFF) {
        return NGX_CONF_OK;
    }

    if (clcf->handler && clcf->handler != handler) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook\" in %s:%ui shares its location "
                      "with a directive such as \"proxy_pass\", which would "
                      "take the requests instead, write that one in another "
                      "location", conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


/* what a location with "taptalent_webhook on" needs, and what is odd there */

static char *
ngx_http_taptalent_conf_location(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    if (conf->companies == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"taptalent_webhook_company_id\" for "
                      "\"taptalent_webhook on\" in %s:%ui, write the "
                      "companyId of your events, or \"any\"",
                      conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    if (!conf->enforce) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "\"taptalent_webhook on\" in %s:%ui has "
                      "\"taptalent_webhook_enforce off\", events of anybody "
                      "are accepted", conf->file, conf->line);
    }

    if (conf->spool == NULL && conf->forward == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no destination for \"taptalent_webhook on\" in %s:%ui, "
                      "write \"taptalent_webhook_spool\" with the path of "
                      "a directory, \"taptalent_webhook_forward\" with the "
                      "uri of an internal location, or both",
                      conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    if (conf->forward
        && ngx_http_taptalent_conf_forward(cf, conf) != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    ngx_http_taptalent_conf_error_pages(cf, conf);

    return NGX_CONF_OK;
}


/* other uris may lead here all the same: see the handler */

static char *
ngx_http_taptalent_conf_forward(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    ngx_str_t                 *uri;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    uri = &conf->forward->uri->value;

    /* of a prefix, there may be an exact location beside it */

    if (clcf->exact_match
        && uri->len == clcf->name.len
        && ngx_strncmp(uri->data, clcf->name.data, uri->len) == 0)
    {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook_forward %V\" leads back to the "
                      "location of \"taptalent_webhook on\" in %s:%ui, write "
                      "the path of another one, that passes events to the "
                      "application", uri, conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    if (conf->spool && conf->forward->queued) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "\"queue\" of \"taptalent_webhook_forward\" has no "
                      "effect for \"taptalent_webhook on\" in %s:%ui, which "
                      "has a spool", conf->file, conf->line);
    }

    return NGX_CONF_OK;
}


/*
 * What nginx refuses before the module is asked: the address, a limit, a size.
 * Nothing there says 404 or 405.
 */

static void
ngx_http_taptalent_conf_error_pages(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    ngx_uint_t                 i;
    ngx_http_err_page_t       *page;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->error_pages == NULL) {
        return;
    }

    page = clcf->error_pages->elts;

    for (i = 0; i < clcf->error_pages->nelts; i++) {

        if (page[i].overwrite < 200 || page[i].overwrite >= 300
            || page[i].status == NGX_HTTP_NOT_FOUND
            || page[i].status == NGX_HTTP_NOT_ALLOWED)
        {
            continue;
        }

        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "\"error_page\" makes %i of %i for \"taptalent_webhook "
                      "on\" in %s:%ui, which the sender takes for a receipt "
                      "of an event that nobody has, write \"error_page\" "
                      "without \"=%i\" in that location",
                      page[i].overwrite, page[i].status, conf->file,
                      conf->line, page[i].overwrite);
        return;
    }
}


static void
ngx_http_taptalent_conf_dedup(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    ngx_http_taptalent_main_conf_t  *tmcf;

    if (conf->dedup == 0) {
        return;
    }

    /* what is in memory only may be lost when the sender comes again */

    if (conf->spool == NULL) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "\"taptalent_webhook_dedup\" has no effect for "
                      "\"taptalent_webhook on\" in %s:%ui, which has no spool",
                      conf->file, conf->line);
        conf->dedup = 0;
        return;
    }

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);

    tmcf->window = ngx_max(tmcf->window, conf->dedup);

    conf->spool->commit.dedup = 1;
}


static char *
ngx_http_taptalent_conf_use(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    if (conf->quarantine
        && ngx_http_taptalent_spool_conf_use_quarantine(cf, conf)
           != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (conf->forward
        && ngx_http_taptalent_forward_conf_use(cf, conf) != NGX_CONF_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (conf->spool) {
        return ngx_http_taptalent_spool_conf_use(cf, conf);
    }

    ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                  "\"taptalent_webhook on\" in %s:%ui has no spool, a crash "
                  "loses acknowledged events", conf->file, conf->line);

    return NGX_CONF_OK;
}
