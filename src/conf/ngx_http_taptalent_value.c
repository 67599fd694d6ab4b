
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_value.h"


/* What the arguments of directives have in common. */


#define ngx_http_taptalent_value_is_blank(c)                                  \
    ((c) == ' ' || ((c) >= '\t' && (c) <= '\r'))


static ngx_int_t ngx_http_taptalent_value_read(ngx_conf_t *cf, ngx_str_t *name,
    u_char *buf, ngx_str_t *secret);
static const char *ngx_http_taptalent_value_fault(ngx_str_t *secret);


ngx_int_t
ngx_http_taptalent_value_compile(ngx_conf_t *cf, ngx_str_t *value,
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
ngx_http_taptalent_value_once(ngx_conf_t *cf, ngx_uint_t n, u_char separator)
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


ngx_int_t
ngx_http_taptalent_value_secret(ngx_conf_t *cf, ngx_str_t *value,
    u_char *buf, ngx_str_t *secret)
{
    ngx_str_t    name;
    const char  *fault;

    if (ngx_strncmp(value->data, "file:", 5) == 0) {
        name.len = value->len - 5;
        name.data = value->data + 5;

        return ngx_http_taptalent_value_read(cf, &name, buf, secret);
    }

    if (value->len == 0 || ngx_strcmp(value->data, "on") == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "there is no key, write the key itself, or "
                           "\"file:\" and the path of a file that holds it");
        return NGX_ERROR;
    }

    if (ngx_strlchr(value->data, value->data + value->len, '$')) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "a key may not hold variables, write one that has "
                           "a \"$\" in it into a file, and here \"file:\" and "
                           "its path");
        return NGX_ERROR;
    }

    if (value->data[0] == '/') {
        ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                           "the key begins with \"/\", write \"file:\" before "
                           "it if it is the path of a file that holds the key");
    }

    fault = ngx_http_taptalent_value_fault(value);

    if (fault) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "a key %s, write the key and nothing else", fault);
        return NGX_ERROR;
    }

    *secret = *value;

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_value_read(ngx_conf_t *cf, ngx_str_t *name,
    u_char *buf, ngx_str_t *secret)
{
    ssize_t          n;
    ngx_fd_t         fd;
    const char      *fault;
    ngx_file_info_t  fi;

    if (name->len == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no path after \"file:\", write that of a file "
                           "that holds the key");
        return NGX_ERROR;
    }

    if (ngx_conf_full_name(cf->cycle, name, 1) != NGX_OK) {
        return NGX_ERROR;
    }

    /* a pipe would be waited for */

    fd = ngx_open_file(name->data, NGX_FILE_RDONLY|NGX_FILE_NONBLOCK,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, ngx_errno,
                           ngx_open_file_n " \"%V\" failed, write the path of "
                           "a file that holds the key and that may be read",
                           name);
        return NGX_ERROR;
    }

    n = 0;
    fault = NULL;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR || !ngx_is_file(&fi)) {
        fault = "is not a regular file";

    } else {
        n = ngx_read_fd(fd, buf, NGX_HTTP_TAPTALENT_MAX_SECRET + 1);

        if (n == -1) {
            fault = "cannot be read";

        } else if (n > NGX_HTTP_TAPTALENT_MAX_SECRET) {
            fault = "is larger than 4096 bytes";
        }
    }

    if (ngx_close_file(fd) == NGX_FILE_ERROR) {
        ngx_conf_log_error(NGX_LOG_ALERT, cf, ngx_errno,
                           ngx_close_file_n " \"%V\" failed", name);
    }

    if (fault == NULL) {

        /* an editor adds a line break */

        if (n && buf[n - 1] == LF) {
            n--;

            if (n && buf[n - 1] == CR) {
                n--;
            }
        }

        secret->data = buf;
        secret->len = n;

        fault = n ? ngx_http_taptalent_value_fault(secret) : "is empty";
    }

    if (fault) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" %s, write the path of a file that holds "
                           "the key and nothing else", name, fault);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * What editors and shells put around a key, or NULL.  It would pass, and then
 * no event would.
 */

static const char *
ngx_http_taptalent_value_fault(ngx_str_t *secret)
{
    u_char      *p, *last;
    ngx_uint_t   lines, binary;

    p = secret->data;
    last = p + secret->len;

    if ((secret->len >= 3 && ngx_memcmp(p, "\xef\xbb\xbf", 3) == 0)
        || (secret->len >= 2 && (ngx_memcmp(p, "\xff\xfe", 2) == 0
                                 || ngx_memcmp(p, "\xfe\xff", 2) == 0)))
    {
        return "begins with a byte order mark";
    }

    if (ngx_http_taptalent_value_is_blank(*p)
        || ngx_http_taptalent_value_is_blank(last[-1]))
    {
        return "has white space at its beginning or its end";
    }

    lines = 0;
    binary = 0;

    for ( /* void */ ; p < last; p++) {

        if (*p == CR || *p == LF) {
            lines = 1;

        } else if (*p < 0x20 && *p != '\t') {
            binary = 1;
        }
    }

    return (lines && !binary) ? "has more than one line" : NULL;
}
