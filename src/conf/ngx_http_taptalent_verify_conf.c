
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include "ngx_http_taptalent_conf.h"
#include "ngx_http_taptalent_value.h"


/*
 * The directives that say who may send.  A secret is read once, by the master,
 * and no message shows any of it.
 */


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

    if (ngx_http_taptalent_value_secret(cf, value, buf, &key) != NGX_OK) {
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
