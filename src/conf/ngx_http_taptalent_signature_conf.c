
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/crypto.h>
#include "ngx_http_taptalent_conf.h"
#include "ngx_http_taptalent_value.h"


/*
 * A signature is described by a preset, by parameters, or by both.  A word that
 * is no parameter could be a key, so that no message shows it.
 */


/* as written: what the presets fill in, and the parameters replace */

typedef struct {
    ngx_str_t                  header;
    ngx_str_t                  prefix;
    ngx_str_t                  text;
    ngx_str_t                  time;
    ngx_str_t                  tolerance;
    ngx_uint_t                 separator;
    ngx_uint_t                 encoding;
    ngx_uint_t                 key_format;
    ngx_uint_t                 algorithm;
} ngx_http_taptalent_parameters_t;


typedef struct {
    ngx_str_t                  name;
    ngx_conf_enum_t           *values;    /* or NULL for a text */
    size_t                     offset;
    const char                *write;     /* NULL: may be empty */
} ngx_http_taptalent_parameter_t;


typedef struct {
    ngx_str_t                        name;
    ngx_http_taptalent_parameters_t  parameters;
} ngx_http_taptalent_preset_t;


typedef struct {
    const EVP_MD           *(*md)(void);
    size_t                    len;
} ngx_http_taptalent_algorithm_t;


static ngx_int_t ngx_http_taptalent_signature_conf_preset(ngx_conf_t *cf,
    ngx_http_taptalent_parameters_t *p);
static ngx_int_t ngx_http_taptalent_signature_conf_parameters(ngx_conf_t *cf,
    ngx_http_taptalent_parameters_t *p);
static ngx_int_t ngx_http_taptalent_signature_conf_keys(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p);
static ngx_int_t ngx_http_taptalent_signature_conf_add_key(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p,
    ngx_str_t *value);
static ngx_int_t ngx_http_taptalent_signature_conf_scheme(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p);
static ngx_int_t ngx_http_taptalent_signature_conf_text(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p);
static ngx_int_t ngx_http_taptalent_signature_conf_headers(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_str_t *text);
static ngx_int_t ngx_http_taptalent_signature_conf_timestamp(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p);
static ngx_int_t ngx_http_taptalent_signature_conf_tolerance(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p);
static ngx_uint_t ngx_http_taptalent_signature_conf_time_signed(
    ngx_http_taptalent_parameters_t *p);
static ngx_uint_t ngx_http_taptalent_signature_conf_has(ngx_str_t *text,
    ngx_str_t *name);
static ngx_uint_t ngx_http_taptalent_signature_conf_variable(ngx_str_t *text,
    ngx_str_t *name);


static ngx_str_t  ngx_http_taptalent_signature_stamp =
    ngx_string("taptalent_signature_timestamp");

static ngx_str_t  ngx_http_taptalent_signature_body =
    ngx_string("taptalent_body");

static ngx_str_t  ngx_http_taptalent_signature_base64 =
    ngx_string("taptalent_body_base64");


static ngx_conf_enum_t  ngx_http_taptalent_separators[] = {
    { ngx_string("none"), '\0' },
    { ngx_string("comma"), ',' },
    { ngx_string("space"), ' ' },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_taptalent_encodings[] = {
    { ngx_string("hex"), NGX_HTTP_TAPTALENT_HEX },
    { ngx_string("base64"), NGX_HTTP_TAPTALENT_BASE64 },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_taptalent_key_formats[] = {
    { ngx_string("raw"), NGX_HTTP_TAPTALENT_RAW },
    { ngx_string("hex"), NGX_HTTP_TAPTALENT_HEX },
    { ngx_string("base64"), NGX_HTTP_TAPTALENT_BASE64 },
    { ngx_string("whsec"), NGX_HTTP_TAPTALENT_WHSEC },
    { ngx_null_string, 0 }
};


static ngx_conf_enum_t  ngx_http_taptalent_algorithm_names[] = {
    { ngx_string("sha256"), 0 },
    { ngx_string("sha512"), 1 },
    { ngx_string("sha1"), 2 },
    { ngx_null_string, 0 }
};


static ngx_http_taptalent_algorithm_t  ngx_http_taptalent_algorithms[] = {
    { EVP_sha256, 32 },
    { EVP_sha512, 64 },
    { EVP_sha1, 20 }
};


static ngx_http_taptalent_parameter_t  ngx_http_taptalent_parameters[] = {

    { ngx_string("header="), NULL,
      offsetof(ngx_http_taptalent_parameters_t, header),
      "\"header=\" and the name of the header" },

    { ngx_string("prefix="), NULL,
      offsetof(ngx_http_taptalent_parameters_t, prefix), NULL },

    { ngx_string("signed="), NULL,
      offsetof(ngx_http_taptalent_parameters_t, text),
      "\"signed=\" and what is signed, such as \"$taptalent_body\"" },

    { ngx_string("timestamp="), NULL,
      offsetof(ngx_http_taptalent_parameters_t, time),
      "\"timestamp=$http_name\" or \"timestamp=param:name\"" },

    { ngx_string("tolerance="), NULL,
      offsetof(ngx_http_taptalent_parameters_t, tolerance),
      "\"tolerance=off\" or a time, such as \"tolerance=5m\"" },

    { ngx_string("separator="), ngx_http_taptalent_separators,
      offsetof(ngx_http_taptalent_parameters_t, separator),
      "\"separator=none\", \"separator=comma\" or \"separator=space\"" },

    { ngx_string("encoding="), ngx_http_taptalent_encodings,
      offsetof(ngx_http_taptalent_parameters_t, encoding),
      "\"encoding=hex\" or \"encoding=base64\"" },

    { ngx_string("key_format="), ngx_http_taptalent_key_formats,
      offsetof(ngx_http_taptalent_parameters_t, key_format),
      "\"key_format=raw\", \"key_format=hex\", \"key_format=base64\" or "
      "\"key_format=whsec\"" },

    { ngx_string("algorithm="), ngx_http_taptalent_algorithm_names,
      offsetof(ngx_http_taptalent_parameters_t, algorithm),
      "\"algorithm=sha256\", \"algorithm=sha512\" or \"algorithm=sha1\"" }
};


#define NGX_HTTP_TAPTALENT_PARAMETERS                                         \
    (sizeof(ngx_http_taptalent_parameters)                                    \
     / sizeof(ngx_http_taptalent_parameter_t))


/* the first is for those without a preset */

static ngx_http_taptalent_preset_t  ngx_http_taptalent_presets[] = {

    { ngx_string(""),
      { ngx_string(""), ngx_string(""),
        ngx_string("$taptalent_body"),
        ngx_string(""), ngx_string(""),
        '\0', NGX_HTTP_TAPTALENT_HEX, NGX_HTTP_TAPTALENT_RAW, 0 } },

    { ngx_string("standard-webhooks"),
      { ngx_string("webhook-signature"), ngx_string("v1,"),
        ngx_string("$http_webhook_id.$taptalent_signature_timestamp."
                   "$taptalent_body"),
        ngx_string("$http_webhook_timestamp"), ngx_string(""),
        ' ', NGX_HTTP_TAPTALENT_BASE64, NGX_HTTP_TAPTALENT_WHSEC, 0 } },

    { ngx_string("github"),
      { ngx_string("X-Hub-Signature-256"), ngx_string("sha256="),
        ngx_string("$taptalent_body"),
        ngx_string(""), ngx_string(""),
        '\0', NGX_HTTP_TAPTALENT_HEX, NGX_HTTP_TAPTALENT_RAW, 0 } },

    { ngx_string("stripe"),
      { ngx_string("Stripe-Signature"), ngx_string("v1="),
        ngx_string("$taptalent_signature_timestamp.$taptalent_body"),
        ngx_string("param:t"), ngx_string(""),
        ',', NGX_HTTP_TAPTALENT_HEX, NGX_HTTP_TAPTALENT_RAW, 0 } },

    { ngx_string("shopify"),
      { ngx_string("X-Shopify-Hmac-SHA256"), ngx_string(""),
        ngx_string("$taptalent_body"),
        ngx_string(""), ngx_string(""),
        '\0', NGX_HTTP_TAPTALENT_BASE64, NGX_HTTP_TAPTALENT_RAW, 0 } },

    { ngx_string("slack"),
      { ngx_string("X-Slack-Signature"), ngx_string("v0="),
        ngx_string("v0:$taptalent_signature_timestamp:$taptalent_body"),
        ngx_string("$http_x_slack_request_timestamp"), ngx_string(""),
        '\0', NGX_HTTP_TAPTALENT_HEX, NGX_HTTP_TAPTALENT_RAW, 0 } }
};


#define NGX_HTTP_TAPTALENT_PRESETS                                            \
    (sizeof(ngx_http_taptalent_presets) / sizeof(ngx_http_taptalent_preset_t))


char *
ngx_http_taptalent_webhook_signature(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                        *value;
    ngx_http_taptalent_signature_t   *sig;
    ngx_http_taptalent_parameters_t   p;

    if (tlcf->signature != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2 && ngx_strcmp(value[1].data, "off") == 0) {
        tlcf->signature = NULL;
        return NGX_CONF_OK;
    }

    sig = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_signature_t));
    if (sig == NULL) {
        return NGX_CONF_ERROR;
    }

    if (ngx_http_taptalent_signature_conf_preset(cf, &p) != NGX_OK
        || ngx_http_taptalent_signature_conf_parameters(cf, &p) != NGX_OK
        || ngx_http_taptalent_signature_conf_keys(cf, sig, &p) != NGX_OK
        || ngx_http_taptalent_signature_conf_scheme(cf, sig, &p) != NGX_OK
        || ngx_http_taptalent_signature_conf_timestamp(cf, sig, &p) != NGX_OK
        || ngx_http_taptalent_signature_conf_tolerance(cf, sig, &p) != NGX_OK
        || ngx_http_taptalent_signature_conf_text(cf, sig, &p) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    tlcf->signature = sig;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_taptalent_signature_conf_preset(ngx_conf_t *cf,
    ngx_http_taptalent_parameters_t *p)
{
    ngx_str_t   *value, *name;
    ngx_uint_t   i, n, found;

    *p = ngx_http_taptalent_presets[0].parameters;

    value = cf->args->elts;
    found = 0;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "preset=", 7) != 0) {
            continue;
        }

        for (n = 1; n < NGX_HTTP_TAPTALENT_PRESETS; n++) {

            name = &ngx_http_taptalent_presets[n].name;

            if (value[i].len - 7 == name->len
                && ngx_strcmp(value[i].data + 7, name->data) == 0)
            {
                *p = ngx_http_taptalent_presets[n].parameters;
                break;
            }
        }

        if (n == NGX_HTTP_TAPTALENT_PRESETS || found++) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", write one of "
                               "\"preset=standard-webhooks\", "
                               "\"preset=github\", \"preset=stripe\", "
                               "\"preset=shopify\" or \"preset=slack\"",
                               &value[i]);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/* all but "key=" and "preset=" */

static ngx_int_t
ngx_http_taptalent_signature_conf_parameters(ngx_conf_t *cf,
    ngx_http_taptalent_parameters_t *p)
{
    ngx_str_t                       *value, s;
    ngx_uint_t                       i, n, seen;
    ngx_conf_enum_t                 *e;
    ngx_http_taptalent_parameter_t  *param;

    value = cf->args->elts;
    seen = 0;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "key=", 4) == 0
            || ngx_strncmp(value[i].data, "preset=", 7) == 0)
        {
            continue;
        }

        param = ngx_http_taptalent_parameters;

        for (n = 0; n < NGX_HTTP_TAPTALENT_PARAMETERS; n++, param++) {
            if (ngx_strncmp(value[i].data, param->name.data, param->name.len)
                == 0)
            {
                break;
            }
        }

        if (n == NGX_HTTP_TAPTALENT_PARAMETERS) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "parameter %ui is not known, write it as "
                               "\"name=value\", where the name is preset, key, "
                               "key_format, header, prefix, separator, "
                               "encoding, algorithm, signed, timestamp or "
                               "tolerance", i);
            return NGX_ERROR;
        }

        if (seen & 1 << n) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" is there twice, write it once",
                               &param->name);
            return NGX_ERROR;
        }

        seen |= 1 << n;

        s.data = value[i].data + param->name.len;
        s.len = value[i].len - param->name.len;

        if (param->values == NULL && (s.len || param->write == NULL)) {
            *(ngx_str_t *) ((char *) p + param->offset) = s;
            continue;
        }

        for (e = param->values; e && e->name.len; e++) {
            if (e->name.len == s.len
                && ngx_strcmp(e->name.data, s.data) == 0)
            {
                break;
            }
        }

        if (e == NULL || e->name.len == 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\", write %s",
                               &value[i], param->write);
            return NGX_ERROR;
        }

        *(ngx_uint_t *) ((char *) p + param->offset) = e->value;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_signature_conf_keys(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p)
{
    u_char       buf[NGX_HTTP_TAPTALENT_MAX_SECRET + 1];
    ngx_int_t    rc;
    ngx_str_t   *value, key;
    ngx_uint_t   i;

    if (ngx_array_init(&sig->keys, cf->pool, 2, sizeof(ngx_str_t)) != NGX_OK) {
        return NGX_ERROR;
    }

    value = cf->args->elts;

    for (i = 1; i < cf->args->nelts; i++) {

        if (ngx_strncmp(value[i].data, "key=", 4) != 0) {
            continue;
        }

        key.data = value[i].data + 4;
        key.len = value[i].len - 4;

        rc = ngx_http_taptalent_value_secret(cf, &key, buf, &key);

        if (rc == NGX_OK) {
            rc = ngx_http_taptalent_signature_conf_add_key(cf, sig, p, &key);
        }

        ngx_explicit_memzero(buf, sizeof(buf));

        if (rc != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (sig->keys.nelts == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "a signature needs a key, write \"key=\" and the "
                           "key itself, or \"key=file:\" and the path of a "
                           "file that holds it");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_signature_conf_add_key(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p,
    ngx_str_t *value)
{
    ngx_str_t   *key, *other;
    ngx_uint_t   i, n;

    key = ngx_array_push(&sig->keys);
    if (key == NULL) {
        return NGX_ERROR;
    }

    n = sig->keys.nelts;

    key->len = value->len;
    key->data = ngx_pstrdup(cf->pool, value);
    if (key->data == NULL) {
        return NGX_ERROR;
    }

    if (ngx_http_taptalent_signature_key(p->key_format, key) != NGX_OK) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "key %ui of the signature is not of the format "
                           "\"%V\", write the key as it was given to you, "
                           "or another \"key_format=\"", n,
                           &ngx_http_taptalent_key_formats[p->key_format].name);
        return NGX_ERROR;
    }

    other = sig->keys.elts;

    for (i = 1; i < n; i++, other++) {

        if (other->len == key->len
            && CRYPTO_memcmp(other->data, key->data, key->len) == 0)
        {
            ngx_conf_log_error(NGX_LOG_WARN, cf, 0,
                               "keys %ui and %ui of the signature are the "
                               "same", i, n);
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_signature_conf_scheme(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p)
{
    u_char                       c;
    ngx_uint_t                   i;
    ngx_http_taptalent_scheme_t  *scheme;

    sig->header.len = p->header.len;
    sig->header.data = ngx_pnalloc(cf->pool, p->header.len);
    if (sig->header.data == NULL) {
        return NGX_ERROR;
    }

    for (i = 0; i < p->header.len; i++) {
        c = ngx_tolower(p->header.data[i]);

        if ((c < 'a' || c > 'z') && (c < '0' || c > '9')
            && c != '-' && c != '_')
        {
            break;
        }

        sig->header.data[i] = c;
    }

    if (i == 0 || i < p->header.len) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid header \"%V\" of a signature, write "
                           "\"header=\" and its name, such as "
                           "\"header=X-Webhook-Signature\", or a \"preset=\"",
                           &p->header);
        return NGX_ERROR;
    }

    scheme = &sig->scheme;

    scheme->md = ngx_http_taptalent_algorithms[p->algorithm].md();
    scheme->len = ngx_http_taptalent_algorithms[p->algorithm].len;
    scheme->encoding = p->encoding;
    scheme->prefix = p->prefix;
    scheme->separator = (u_char) p->separator;

    if (scheme->separator
        && ngx_strlchr(p->prefix.data, p->prefix.data + p->prefix.len,
                       scheme->separator))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the prefix \"%V\" holds the separator, so that no "
                           "signature would be found, write another "
                           "\"prefix=\" or \"separator=\"", &p->prefix);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_signature_conf_timestamp(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p)
{
    if (p->time.len == 0) {
        return NGX_OK;
    }

    if (ngx_strncmp(p->time.data, "param:", 6) == 0) {

        sig->scheme.param.data = p->time.data + 6;
        sig->scheme.param.len = p->time.len - 6;

        if (sig->scheme.param.len && sig->scheme.separator) {
            return NGX_OK;
        }

    } else if (ngx_http_script_variables_count(&p->time)) {

        sig->time = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
        if (sig->time == NULL) {
            return NGX_ERROR;
        }

        return ngx_http_taptalent_value_compile(cf, &p->time, sig->time);
    }

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "invalid parameter \"timestamp=%V\", write "
                       "\"timestamp=$http_name\" with the name of a header, "
                       "or, together with a \"separator=\", "
                       "\"timestamp=param:name\" with the name of an element "
                       "of the signature's header", &p->time);
    return NGX_ERROR;
}


static ngx_int_t
ngx_http_taptalent_signature_conf_tolerance(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p)
{
    if (p->time.len == 0) {

        if (p->tolerance.len == 0
            && !ngx_http_taptalent_signature_conf_has(&p->text,
                                          &ngx_http_taptalent_signature_stamp))
        {
            return NGX_OK;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the signature has no time, write \"timestamp=\" "
                           "and where it is, or leave out \"tolerance=\" and "
                           "\"$taptalent_signature_timestamp\"");
        return NGX_ERROR;
    }

    if (ngx_strcmp(p->tolerance.data, "off") == 0) {
        sig->tolerance = 0;
        return NGX_OK;
    }

    if (p->tolerance.len == 0) {
        sig->tolerance = 300;

    } else {
        sig->tolerance = ngx_parse_time(&p->tolerance, 1);
    }

    if (sig->tolerance == NGX_ERROR || sig->tolerance == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"tolerance=%V\", write "
                           "\"tolerance=off\" or how far the time of the "
                           "signature may be from now, such as "
                           "\"tolerance=5m\"", &p->tolerance);
        return NGX_ERROR;
    }

    /* a time that is not signed is anybody's */

    if (!ngx_http_taptalent_signature_conf_time_signed(p)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the time of the signature is not in what is "
                           "signed, so that anybody can change it, write "
                           "\"$taptalent_signature_timestamp\" into "
                           "\"signed=\", or \"tolerance=off\"");
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* as it was found, or as all of the variables that it is made of */

static ngx_uint_t
ngx_http_taptalent_signature_conf_time_signed(
    ngx_http_taptalent_parameters_t *p)
{
    ngx_str_t  rest, name;

    if (ngx_http_taptalent_signature_conf_has(&p->text,
                                          &ngx_http_taptalent_signature_stamp))
    {
        return 1;
    }

    if (ngx_strncmp(p->time.data, "param:", 6) == 0) {
        return 0;
    }

    rest = p->time;

    while (ngx_http_taptalent_signature_conf_variable(&rest, &name)) {

        if (!ngx_http_taptalent_signature_conf_has(&p->text, &name)) {
            return 0;
        }
    }

    return 1;
}


/* whether the variable is in the text; cases do not differ, as for nginx */

static ngx_uint_t
ngx_http_taptalent_signature_conf_has(ngx_str_t *text, ngx_str_t *name)
{
    ngx_str_t  rest, found;

    rest = *text;

    while (ngx_http_taptalent_signature_conf_variable(&rest, &found)) {

        if (found.len == name->len
            && ngx_strncasecmp(found.data, name->data, name->len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


/*
 * The name of the next variable, $name or ${name}, which "text" then begins
 * after; false if there is none.
 */

static ngx_uint_t
ngx_http_taptalent_signature_conf_variable(ngx_str_t *text, ngx_str_t *name)
{
    u_char  *p, *last;

    last = text->data + text->len;
    p = ngx_strlchr(text->data, last, '$');

    if (p == NULL) {
        return 0;
    }

    p++;

    if (p < last && *p == '{') {
        p++;
    }

    name->data = p;

    while (p < last
           && ((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z')
               || (*p >= '0' && *p <= '9') || *p == '_'))
    {
        p++;
    }

    name->len = p - name->data;

    text->data = p;
    text->len = last - p;

    return 1;
}


static ngx_int_t
ngx_http_taptalent_signature_conf_text(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_http_taptalent_parameters_t *p)
{
    if (!ngx_http_taptalent_signature_conf_has(&p->text,
                                          &ngx_http_taptalent_signature_body)
        && !ngx_http_taptalent_signature_conf_has(&p->text,
                                         &ngx_http_taptalent_signature_base64))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"signed=%V\" is without the body, so that the "
                           "signature of one event would do for all, write "
                           "\"$taptalent_body\" into it", &p->text);
        return NGX_ERROR;
    }

    if (ngx_array_init(&sig->headers, cf->pool, 1, sizeof(ngx_str_t)) != NGX_OK
        || ngx_http_taptalent_signature_conf_headers(cf, sig, &p->text)
           != NGX_OK
        || ngx_http_taptalent_signature_conf_headers(cf, sig, &p->time)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    /* the body alone is not copied */

    if (ngx_strcmp(p->text.data, "$taptalent_body") == 0) {
        return NGX_OK;
    }

    sig->text = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (sig->text == NULL) {
        return NGX_ERROR;
    }

    return ngx_http_taptalent_value_compile(cf, &p->text, sig->text);
}


/* the names of those headers in it that are stored, in lower case */

static ngx_int_t
ngx_http_taptalent_signature_conf_headers(ngx_conf_t *cf,
    ngx_http_taptalent_signature_t *sig, ngx_str_t *text)
{
    size_t      i;
    ngx_str_t   rest, name, *header;

    rest = *text;

    while (ngx_http_taptalent_signature_conf_variable(&rest, &name)) {

        if (name.len < sizeof("http_x_webhook_") - 1
            || ngx_strncasecmp(name.data, (u_char *) "http_x_webhook_",
                               sizeof("http_x_webhook_") - 1)
               != 0)
        {
            continue;
        }

        header = ngx_array_push(&sig->headers);
        if (header == NULL) {
            return NGX_ERROR;
        }

        header->len = name.len - (sizeof("http_") - 1);
        header->data = ngx_pnalloc(cf->pool, header->len);
        if (header->data == NULL) {
            return NGX_ERROR;
        }

        for (i = 0; i < header->len; i++) {
            header->data[i] = ngx_tolower(name.data[sizeof("http_") - 1 + i]);

            if (header->data[i] == '_') {
                header->data[i] = '-';
            }
        }
    }

    return NGX_OK;
}
