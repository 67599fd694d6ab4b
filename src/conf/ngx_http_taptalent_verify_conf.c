
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include "ngx_http_taptalent_conf.h"


/*
 * The directives that say who may send.  A secret is read once, by the master,
 * and no message shows any of it.
 */


#define ngx_http_taptalent_verify_conf_is_blank(c)                            \
    ((c) == ' ' || ((c) >= '\t' && (c) <= '\r'))


static ngx_int_t ngx_http_taptalent_verify_conf_read(ngx_conf_t *cf,
    ngx_str_t *name, u_char *buf, ngx_str_t *secret);
static const char *ngx_http_taptalent_verify_conf_fault(ngx_str_t *secret);
static ngx_int_t ngx_http_taptalent_verify_conf_add_key(ngx_conf_t *cf,
    ngx_array_t *keys, ngx_str_t *value, ngx_uint_t n);


char *
ngx_http_taptalent_webhook_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t   *value;
    ngx_uint_t   i;

    if (tlcf->keys != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        tlcf->keys = NULL;
        return NGX_CONF_OK;
    }

    tlcf->keys = ngx_array_create(cf->pool, 2, SHA256_DIGEST_LENGTH);
    if (tlcf->keys == NULL) {
        return NGX_CONF_ERROR;
    }

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strcmp(value[i].data, "off") == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" has keys and \"off\", write either of "
                               "them", &value[0]);
            return NGX_CONF_ERROR;
        }

        if (ngx_http_taptalent_verify_conf_add_key(cf, tlcf->keys, &value[i], i)
            != NGX_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

    return NGX_CONF_OK;
}


/* what is kept is a digest, which has one length and does not tell the key */

static ngx_int_t
ngx_http_taptalent_verify_conf_add_key(ngx_conf_t *cf, ngx_array_t *keys,
    ngx_str_t *value, ngx_uint_t n)
{
    u_char      *p, *digest, buf[NGX_HTTP_TAPTALENT_MAX_SECRET + 1];
    ngx_str_t    key;
    ngx_int_t    rc;
    ngx_uint_t   i;

    if (ngx_http_taptalent_verify_conf_secret(cf, value, buf, &key) != NGX_OK) {
        rc = NGX_ERROR;
        goto done;
    }

    for (i = 0; i < key.len; i++) {
        if (key.data[i] < 0x20 || key.data[i] == 0x7f) {
            break;
        }
    }

    if (i < key.len || key.data[0] == ' ' || key.data[key.len - 1] == ' ') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key %ui of \"taptalent_webhook_key\" has a line "
                           "break or another control character in it, or a "
                           "space at an end, so that no header can hold it, "
                           "write one key on one line", n);
        rc = NGX_ERROR;
        goto done;
    }

    digest = ngx_array_push(keys);
    if (digest == NULL
        || EVP_Digest(key.data, key.len, digest, NULL, EVP_sha256(), NULL)
           != 1)
    {
        rc = NGX_ERROR;
        goto done;
    }

    p = keys->elts;

    for (i = 1; p < digest; i++) {

        if (CRYPTO_memcmp(p, digest, SHA256_DIGEST_LENGTH) == 0) {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "keys %ui and %ui of \"taptalent_webhook_key\" "
                               "are the same", i, n);
        }

        p += SHA256_DIGEST_LENGTH;
    }

    rc = NGX_OK;

done:

    ngx_explicit_memzero(buf, sizeof(buf));

    return rc;
}


ngx_int_t
ngx_http_taptalent_verify_conf_secret(ngx_conf_t *cf, ngx_str_t *value,
    u_char *buf, ngx_str_t *secret)
{
    ngx_str_t    name;
    const char  *fault;

    if (ngx_strncmp(value->data, "file:", 5) == 0) {
        name.len = value->len - 5;
        name.data = value->data + 5;

        return ngx_http_taptalent_verify_conf_read(cf, &name, buf, secret);
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

    fault = ngx_http_taptalent_verify_conf_fault(value);

    if (fault) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "a key %s, write the key and nothing else", fault);
        return NGX_ERROR;
    }

    *secret = *value;

    return NGX_OK;
}


/*
 * What editors and shells put around a key, or NULL.  It would pass, and then
 * no event would.
 */

static const char *
ngx_http_taptalent_verify_conf_fault(ngx_str_t *secret)
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

    if (ngx_http_taptalent_verify_conf_is_blank(*p)
        || ngx_http_taptalent_verify_conf_is_blank(last[-1]))
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


static ngx_int_t
ngx_http_taptalent_verify_conf_read(ngx_conf_t *cf, ngx_str_t *name,
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

        fault = n ? ngx_http_taptalent_verify_conf_fault(secret) : "is empty";
    }

    if (fault) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"%V\" %s, write the path of a file that holds "
                           "the key and nothing else", name, fault);
        return NGX_ERROR;
    }

    return NGX_OK;
}


char *
ngx_http_taptalent_webhook_tolerance(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    time_t      tolerance;
    ngx_str_t  *value;

    if (tlcf->tolerance != NGX_CONF_UNSET) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        tlcf->tolerance = 0;
        return NGX_CONF_OK;
    }

    tolerance = ngx_parse_time(&value[1], 1);

    if (tolerance == NGX_ERROR || tolerance == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\", write \"off\" or how far "
                           "the timestamp may be from now, such as \"5m\"",
                           &value[1]);
        return NGX_CONF_ERROR;
    }

    tlcf->tolerance = tolerance;

    return NGX_CONF_OK;
}
