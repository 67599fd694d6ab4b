
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


static ngx_uint_t ngx_http_taptalent_upwards(ngx_str_t *uri);
static ngx_int_t ngx_http_taptalent_once(ngx_conf_t *cf, ngx_uint_t n,
    u_char separator);
static char *ngx_http_taptalent_spool_defaults(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_str_t *path);
static char *ngx_http_taptalent_spool_parameter(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_str_t *value);
static ngx_int_t ngx_http_taptalent_retry_parameter(
    ngx_http_taptalent_retry_t *retry, ngx_str_t *value);
static ngx_int_t ngx_http_taptalent_retry_permanent(
    ngx_http_taptalent_retry_t *retry, ngx_str_t *list);
static ngx_http_taptalent_spool_conf_t *ngx_http_taptalent_add_spool(
    ngx_conf_t *cf, ngx_http_taptalent_spool_conf_t *sc);


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

static ngx_int_t
ngx_http_taptalent_once(ngx_conf_t *cf, ngx_uint_t n, u_char separator)
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

        if (ngx_http_taptalent_once(cf, i, '=') != NGX_OK) {
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

    if (ngx_http_taptalent_spool_defaults(cf, c, &value[1]) != NGX_CONF_OK) {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_taptalent_once(cf, i, '=') != NGX_OK
            || ngx_http_taptalent_spool_parameter(cf, c, &value[i])
               != NGX_CONF_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    tlcf->spool = ngx_http_taptalent_add_spool(cf, sc);

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

    if (ngx_http_taptalent_spool_defaults(cf, c, &value[1]) != NGX_CONF_OK) {
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

    tlcf->quarantine = ngx_http_taptalent_add_spool(cf, sc);

    return tlcf->quarantine ? NGX_CONF_OK : NGX_CONF_ERROR;
}


static char *
ngx_http_taptalent_spool_defaults(ngx_conf_t *cf,
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
ngx_http_taptalent_spool_parameter(ngx_conf_t *cf,
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
ngx_http_taptalent_add_spool(ngx_conf_t *cf,
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


/* a ".." in the path, which nginx takes in no uri of a subrequest */

static ngx_uint_t
ngx_http_taptalent_upwards(ngx_str_t *uri)
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
ngx_http_taptalent_webhook_forward(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_int_t                      n;
    ngx_str_t                     *value, s;
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
        || ngx_http_taptalent_upwards(&value[1]))
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

    if (ngx_http_taptalent_compile(cf, &value[1], forward->uri) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {

        if (ngx_http_taptalent_once(cf, i, '=') != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        if (ngx_strncmp(value[i].data, "concurrency=", 12) == 0) {

            n = ngx_atoi(value[i].data + 12, value[i].len - 12);

            if (n > 0) {
                forward->concurrency = n;
                continue;
            }
        }

        if (ngx_strncmp(value[i].data, "queue=", 6) == 0) {

            n = ngx_atoi(value[i].data + 6, value[i].len - 6);

            if (n > 0) {
                forward->queue = n;
                forward->queued = 1;
                continue;
            }
        }

        if (ngx_strncmp(value[i].data, "timeout=", 8) == 0) {

            s.data = value[i].data + 8;
            s.len = value[i].len - 8;

            n = ngx_parse_time(&s, 0);

            if (n > 0) {
                forward->timeout = n;
                continue;
            }
        }

        if (ngx_strncmp(value[i].data, "confirm=", 8) == 0
            && value[i].len > 8)
        {
            forward->confirm.data = value[i].data + 8;
            forward->confirm.len = value[i].len - 8;
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

    retry = ngx_http_taptalent_default_retry(cf);
    if (retry == NULL) {
        return NGX_CONF_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_http_taptalent_once(cf, i, '=') != NGX_OK) {
            return NGX_CONF_ERROR;
        }

        if (ngx_http_taptalent_retry_parameter(retry, &value[i]) != NGX_OK) {
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
ngx_http_taptalent_retry_parameter(ngx_http_taptalent_retry_t *retry,
    ngx_str_t *value)
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
        return ngx_http_taptalent_retry_permanent(retry, &s);
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
ngx_http_taptalent_retry_permanent(ngx_http_taptalent_retry_t *retry,
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


ngx_http_taptalent_retry_t *
ngx_http_taptalent_default_retry(ngx_conf_t *cf)
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

        if (ngx_http_taptalent_once(cf, i, ':') != NGX_OK) {
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
