
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_variables.h"


/* What is known of an event, as variables, here and in its delivery. */


static ngx_http_taptalent_ctx_t *ngx_http_taptalent_variables_ctx(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_taptalent_variables_get(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_taptalent_variables_base64(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_taptalent_variables_too_large(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx);
static ngx_int_t ngx_http_taptalent_variables_verdict(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);


/* they change while a request goes its way, so that none is cacheable */

static ngx_http_variable_t  ngx_http_taptalent_variables[] = {

    { ngx_string("taptalent_event"), NULL, ngx_http_taptalent_variables_get,
      offsetof(ngx_http_taptalent_ctx_t, event.name),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_timestamp"), NULL, ngx_http_taptalent_variables_get,
      offsetof(ngx_http_taptalent_ctx_t, event.timestamp),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_company_id"), NULL,
      ngx_http_taptalent_variables_get,
      offsetof(ngx_http_taptalent_ctx_t, event.company_id),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_event_id"), NULL, ngx_http_taptalent_variables_get,
      offsetof(ngx_http_taptalent_ctx_t, event.id),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_body"), NULL, ngx_http_taptalent_variables_get,
      offsetof(ngx_http_taptalent_ctx_t, event.body),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_body_base64"), NULL,
      ngx_http_taptalent_variables_base64, 0, NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_signature_timestamp"), NULL,
      ngx_http_taptalent_variables_get,
      offsetof(ngx_http_taptalent_ctx_t, signature_time),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_verdict"), NULL,
      ngx_http_taptalent_variables_verdict,
      offsetof(ngx_http_taptalent_ctx_t, verdict),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_unenforced"), NULL,
      ngx_http_taptalent_variables_verdict,
      offsetof(ngx_http_taptalent_ctx_t, unenforced),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


ngx_int_t
ngx_http_taptalent_variables_add(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_taptalent_variables; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


/* an internal redirect clears the context of a delivery, not its parent's */

static ngx_http_taptalent_ctx_t *
ngx_http_taptalent_variables_ctx(ngx_http_request_t *r)
{
    ngx_http_taptalent_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (ctx == NULL) {
        ctx = ngx_http_get_module_ctx(r->main,
                                      ngx_http_taptalent_webhook_module);
    }

    return ctx;
}


static ngx_int_t
ngx_http_taptalent_variables_get(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                 *value;
    ngx_http_taptalent_ctx_t  *ctx;

    ctx = ngx_http_taptalent_variables_ctx(r);

    value = ctx ? (ngx_str_t *) ((char *) ctx + data) : NULL;

    if (value == NULL || value->len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    if (value->len > NGX_HTTP_TAPTALENT_MAX_VALUE) {
        return ngx_http_taptalent_variables_too_large(r, ctx);
    }

    v->len = value->len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = value->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_variables_base64(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    size_t                     len;
    ngx_str_t                  text;
    ngx_http_taptalent_ctx_t  *ctx;

    ctx = ngx_http_taptalent_variables_ctx(r);

    if (ctx == NULL || ctx->event.body.len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    len = ngx_base64_encoded_length(ctx->event.body.len);

    if (len > NGX_HTTP_TAPTALENT_MAX_VALUE) {
        return ngx_http_taptalent_variables_too_large(r, ctx);
    }

    text.data = ngx_pnalloc(r->pool, len);

    if (text.data == NULL) {
        ctx->failed = 1;
        return NGX_ERROR;
    }

    ngx_encode_base64(&text, &ctx->event.body);

    v->len = text.len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = text.data;

    return NGX_OK;
}


/*
 * A part of a body is none: what would have been made of it is not signed, and
 * was not delivered.
 */

static ngx_int_t
ngx_http_taptalent_variables_too_large(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx)
{
    if (!ctx->failed) {
        ctx->failed = 1;

        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "a body of %uz bytes is too large for a variable, write "
                      "\"client_max_body_size 191m\", or leave "
                      "\"$taptalent_body\" out", ctx->event.body.len);
    }

    return NGX_ERROR;
}


static ngx_int_t
ngx_http_taptalent_variables_verdict(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                     *word;
    ngx_http_taptalent_ctx_t      *ctx;
    ngx_http_taptalent_verdict_e   verdict;

    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    verdict = NGX_HTTP_TAPTALENT_NONE;

    if (ctx) {
        verdict = *(ngx_http_taptalent_verdict_e *) ((char *) ctx + data);
    }

    if (verdict == NGX_HTTP_TAPTALENT_NONE) {
        v->not_found = 1;
        return NGX_OK;
    }

    word = &ngx_http_taptalent_verdicts[verdict].word;

    v->len = word->len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = word->data;

    return NGX_OK;
}
