
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"


/*
 * The directives for which nginx has no setter, or none that says what to write
 * instead.
 */


ngx_int_t
ngx_http_taptalent_compile(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv)
{
    ngx_http_compile_complex_value_t  ccv;

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = value;
    ccv.complex_value = cv;

    return ngx_http_compile_complex_value(&ccv);
}


/* no argument before the n-th one may set the same parameter */

ngx_int_t
ngx_http_taptalent_conf_once(ngx_conf_t *cf, ngx_uint_t n, u_char separator)
{
    u_char     *p;
    ngx_str_t  *value, name;

    value = cf->args->elts;

    name.data = value[n].data;

    p = ngx_strlchr(name.data, name.data + value[n].len, separator);

    if (p == NULL) {
        return NGX_OK;
    }

    name.len = p + 1 - name.data;

    while (--n) {

        if (ngx_strncmp(value[n].data, name.data, name.len) == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" is there twice, write it once", &name);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


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

    if (ngx_http_taptalent_compile(cf, &value[1], tlcf->https_value)
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

        if (ngx_http_taptalent_conf_once(cf, i, '=') != NGX_OK) {
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

        if (ngx_http_taptalent_compile(cf, &value[i], cv) != NGX_OK) {
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
