
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_conf.h"
#include "ngx_http_taptalent_value.h"


/* The directives that say where events are sent, and how often. */


static ngx_int_t ngx_http_taptalent_forward_conf_parameter(
    ngx_http_taptalent_forward_t *forward, ngx_str_t *value);
static ngx_uint_t ngx_http_taptalent_forward_conf_upwards(ngx_str_t *uri);
static ngx_int_t ngx_http_taptalent_forward_conf_retry_parameter(
    ngx_http_taptalent_retry_t *retry, ngx_str_t *value);
static ngx_int_t ngx_http_taptalent_forward_conf_permanent(
    ngx_http_taptalent_retry_t *retry, ngx_str_t *list);
static ngx_http_taptalent_retry_t *
    ngx_http_taptalent_forward_conf_default_retry(ngx_conf_t *cf);


char *
ngx_http_taptalent_webhook_forward(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                     *value;
    ngx_uint_t                     i;
    ngx_http_taptalent_forward_t  *forward;

    if (tlcf->forward != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    forward = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_forward_t));
    if (forward == NULL) {
        return NGX_CONF_ERROR;
    }

    forward->concurrency = 16;
    forward->queue = 1024;
    forward->timeout = 60000;
    ngx_str_set(&forward->confirm, "");

    if (value[1].len == 0
        || (value[1].data[0] != '/'
            && ngx_http_script_variables_count(&value[1]) == 0)
        || ngx_http_taptalent_forward_conf_upwards(&value[1]))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid uri \"%V\", write the path of an internal "
                           "location, such as \"/taptalent\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    forward->uri = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (forward->uri == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_taptalent_value_compile(cf, &value[1], forward->uri)
        != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_http_taptalent_value_once(cf, i, '=') != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        if (ngx_http_taptalent_forward_conf_parameter(forward, &value[i])
            == NGX_OK)
        {
            continue;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\", write "
                           "\"concurrency=number\" or \"queue=number\", both "
                           "at least 1, \"timeout=time\" such as \"60s\", or "
                           "\"confirm=text\"", &value[i]);
        return NGX_CONF_ERROR;
    }

    tlcf->forward = forward;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_taptalent_forward_conf_parameter(
    ngx_http_taptalent_forward_t *forward, ngx_str_t *value)
{
    ngx_int_t  n;
    ngx_str_t  s;

    if (ngx_strncmp(value->data, "concurrency=", 12) == 0) {

        n = ngx_atoi(value->data + 12, value->len - 12);

        if (n > 0) {
            forward->concurrency = n;
            return NGX_OK;
        }
    }

    if (ngx_strncmp(value->data, "queue=", 6) == 0) {

        n = ngx_atoi(value->data + 6, value->len - 6);

        if (n > 0) {
            forward->queue = n;
            forward->queued = 1;
            return NGX_OK;
        }
    }

    if (ngx_strncmp(value->data, "timeout=", 8) == 0) {

        s.data = value->data + 8;
        s.len = value->len - 8;

        n = ngx_parse_time(&s, 0);

        if (n > 0) {
            forward->timeout = n;
            return NGX_OK;
        }
    }

    if (ngx_strncmp(value->data, "confirm=", 8) == 0 && value->len > 8) {
        forward->confirm.data = value->data + 8;
        forward->confirm.len = value->len - 8;
        return NGX_OK;
    }

    return NGX_ERROR;
}


/* a ".." in the path, which nginx takes in no uri of a subrequest */

static ngx_uint_t
ngx_http_taptalent_forward_conf_upwards(ngx_str_t *uri)
{
    u_char  *p, *last;

    last = uri->data + uri->len;

    for (p = uri->data; p < last && *p != '?'; p++) {

        if (last - p >= 3 && ngx_strncmp(p, "/..", 3) == 0
            && (p + 3 == last || p[3] == '/' || p[3] == '?'))
        {
            return 1;
        }
    }

    return 0;
}


char *
ngx_http_taptalent_webhook_retry(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                   *value;
    ngx_uint_t                   i;
    ngx_http_taptalent_retry_t  *retry;

    if (tlcf->retry != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    retry = ngx_http_taptalent_forward_conf_default_retry(cf);
    if (retry == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_taptalent_value_once(cf, i, '=') != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        if (ngx_http_taptalent_forward_conf_retry_parameter(retry, &value[i])
            != NGX_OK)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", write "
                               "\"initial=time\" or \"max=time\" such as "
                               "\"500ms\", \"max_age=time\" in whole seconds "
                               "such as \"3d\", no time of 0, or "
                               "\"permanent=status,...\" of 300 to 599",
                               &value[i]);
            return NGX_CONF_ERROR;
        }
    }

    if (retry->max < retry->initial) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"max\" of \"%V\" must not be less than "
                           "\"initial\", and they are %Mms and %Mms, write "
                           "both", &value[0], retry->max, retry->initial);
        return NGX_CONF_ERROR;
    }

    tlcf->retry = retry;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_taptalent_forward_conf_retry_parameter(
    ngx_http_taptalent_retry_t *retry, ngx_str_t *value)
{
    u_char     *p;
    ngx_int_t   n;
    ngx_str_t   s;

    p = ngx_strlchr(value->data, value->data + value->len, '=');

    if (p == NULL) {
        return NGX_ERROR;
    }

    s.data = p + 1;
    s.len = value->data + value->len - s.data;

    if (ngx_strncmp(value->data, "permanent=", 10) == 0) {
        return ngx_http_taptalent_forward_conf_permanent(retry, &s);
    }

    if (ngx_strncmp(value->data, "max_age=", 8) == 0) {

        n = ngx_parse_time(&s, 1);
        retry->max_age = n;

    } else if (ngx_strncmp(value->data, "initial=", 8) == 0) {

        n = ngx_parse_time(&s, 0);
        retry->initial = n;

    } else if (ngx_strncmp(value->data, "max=", 4) == 0) {

        n = ngx_parse_time(&s, 0);
        retry->max = n;

    } else {
        return NGX_ERROR;
    }

    return (n == NGX_ERROR || n == 0) ? NGX_ERROR : NGX_OK;
}


/* a list instead of the default, perhaps an empty one */

static ngx_int_t
ngx_http_taptalent_forward_conf_permanent(ngx_http_taptalent_retry_t *retry,
    ngx_str_t *list)
{
    u_char      *p, *last, *comma;
    ngx_int_t    n;
    ngx_uint_t  *status;

    retry->permanent->nelts = 0;

    p = list->data;
    last = p + list->len;

    while (p < last) {

        comma = ngx_strlchr(p, last, ',');

        if (comma == NULL) {
            comma = last;
        }

        n = ngx_atoi(p, comma - p);

        if (n < 300 || n > 599) {
            return NGX_ERROR;
        }

        status = ngx_array_push(retry->permanent);
        if (status == NULL) {
            return NGX_ERROR;
        }

        *status = n;

        p = comma + 1;
    }

    return NGX_OK;
}


static ngx_http_taptalent_retry_t *
ngx_http_taptalent_forward_conf_default_retry(ngx_conf_t *cf)
{
    ngx_uint_t                   i, *status;
    ngx_http_taptalent_retry_t  *retry;

    static ngx_uint_t  permanent[] = { 400, 410, 413, 415, 422 };

    retry = ngx_palloc(cf->pool, sizeof(ngx_http_taptalent_retry_t));
    if (retry == NULL) {
        return NULL;
    }

    retry->initial = 1000;
    retry->max = 300 * 1000;
    retry->max_age = 3 * 24 * 3600;

    retry->permanent = ngx_array_create(cf->pool, 5, sizeof(ngx_uint_t));
    if (retry->permanent == NULL) {
        return NULL;
    }

    for (i = 0; i < sizeof(permanent) / sizeof(permanent[0]); i++) {

        status = ngx_array_push(retry->permanent);
        if (status == NULL) {
            return NULL;
        }

        *status = permanent[i];
    }

    return retry;
}


/* what may be inherited becomes the location's own, with its server */

char *
ngx_http_taptalent_forward_conf_use(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    ngx_http_taptalent_retry_t       *retry;
    ngx_http_taptalent_forward_t     *forward, **fp;
    ngx_http_taptalent_main_conf_t   *tmcf;

    retry = conf->retry;

    if (retry == NULL) {
        retry = ngx_http_taptalent_forward_conf_default_retry(cf);
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


ngx_uint_t
ngx_http_taptalent_forward_conf_same(ngx_http_taptalent_forward_t *one,
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
