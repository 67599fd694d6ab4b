
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include "ngx_http_taptalent_verify.h"
#include "ngx_http_taptalent_headers.h"


/*
 * Which requests are events for us.  What the head tells is decided before
 * the body is read.
 */


/* one walk over the headers finds these, and counts what must be one */

typedef struct {
    ngx_str_t    content_type;
    ngx_str_t    event;
    ngx_str_t    timestamp;
    ngx_str_t    key;
    ngx_str_t    signature;
    ngx_uint_t   content_types;
    ngx_uint_t   events;
    ngx_uint_t   timestamps;
    ngx_uint_t   keys;
    ngx_uint_t   signatures;
    ngx_uint_t   encoded;
    ngx_uint_t   underscored;
} ngx_http_taptalent_head_t;


static void ngx_http_taptalent_verify_host(ngx_http_request_t *r,
    ngx_http_taptalent_event_t *ev);
static ngx_uint_t ngx_http_taptalent_verify_https(ngx_http_request_t *r,
    ngx_http_taptalent_loc_conf_t *tlcf);
static void ngx_http_taptalent_verify_read_head(ngx_http_request_t *r,
    ngx_http_taptalent_loc_conf_t *tlcf, ngx_http_taptalent_head_t *head);
static ngx_uint_t ngx_http_taptalent_verify_underscored(ngx_str_t *name);
static ngx_http_taptalent_verdict_e ngx_http_taptalent_verify_sender(
    ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx,
    ngx_http_taptalent_head_t *head, time_t sent);
static ngx_http_taptalent_verdict_e ngx_http_taptalent_verify_key(
    ngx_http_taptalent_loc_conf_t *tlcf, ngx_http_taptalent_ctx_t *ctx,
    ngx_http_taptalent_head_t *head);
static ngx_http_taptalent_verdict_e ngx_http_taptalent_verify_signature_head(
    ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx,
    ngx_http_taptalent_head_t *head);
static ngx_uint_t ngx_http_taptalent_verify_signed_once(ngx_http_request_t *r,
    ngx_http_taptalent_signature_t *sig);
static ngx_uint_t ngx_http_taptalent_verify_recent(time_t sec,
    time_t tolerance);
static ngx_http_taptalent_verdict_e ngx_http_taptalent_verify_signature_body(
    ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx);
static ngx_http_taptalent_verdict_e ngx_http_taptalent_verify_company(
    ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx);
static ngx_http_taptalent_verdict_e ngx_http_taptalent_verify_enforce(
    ngx_http_taptalent_loc_conf_t *tlcf, ngx_http_taptalent_ctx_t *ctx,
    ngx_http_taptalent_verdict_e verdict);


static const char  ngx_http_taptalent_no_memory[] =
    "there is no memory for the event now, send it again";

static const char  ngx_http_taptalent_too_long[] =
    "the body is too large to be checked here";


ngx_http_taptalent_verdict_e
ngx_http_taptalent_verify_head(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx)
{
    time_t                          sent;
    ngx_str_t                      *pattern;
    ngx_uint_t                      i;
    ngx_http_taptalent_head_t       head;
    ngx_http_taptalent_event_t     *ev;
    ngx_http_taptalent_verdict_e    verdict;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    ev = &ctx->event;

    if (r->method != NGX_HTTP_POST) {
        return NGX_HTTP_TAPTALENT_METHOD;
    }

    if (!ngx_http_taptalent_verify_https(r, tlcf)) {
        return NGX_HTTP_TAPTALENT_HTTPS_REQUIRED;
    }

    ngx_http_taptalent_verify_read_head(r, tlcf, &head);

    if (head.content_types != 1
        || !ngx_http_taptalent_event_media_type(&head.content_type))
    {
        return NGX_HTTP_TAPTALENT_CONTENT_TYPE;
    }

    if (head.encoded) {
        return NGX_HTTP_TAPTALENT_CONTENT_ENCODING;
    }

    if (head.underscored) {
        ctx->why = "send X-Webhook- headers with hyphens, not underscores";
        return NGX_HTTP_TAPTALENT_EVENT_HEADER;
    }

    /* what is in the event goes to logs and variables */

    if (head.events != 1 || !ngx_http_taptalent_event_name(&head.event)) {
        return NGX_HTTP_TAPTALENT_EVENT_HEADER;
    }

    ev->name = head.event;

    if (head.timestamps != 1
        || !ngx_http_taptalent_event_timestamp(head.timestamp.data,
                                               head.timestamp.len, &sent))
    {
        return NGX_HTTP_TAPTALENT_TIMESTAMP_HEADER;
    }

    ev->timestamp = head.timestamp;

    ngx_http_taptalent_verify_host(r, ev);

    verdict = ngx_http_taptalent_verify_sender(r, ctx, &head, sent);

    if (verdict != NGX_HTTP_TAPTALENT_NONE) {
        return verdict;
    }

    if (tlcf->events) {
        pattern = tlcf->events->elts;

        for (i = 0; i < tlcf->events->nelts; i++) {
            if (ngx_http_taptalent_event_match(&pattern[i], &ev->name)) {
                return NGX_HTTP_TAPTALENT_NONE;
            }
        }

        return NGX_HTTP_TAPTALENT_IGNORED;
    }

    return NGX_HTTP_TAPTALENT_NONE;
}


/*
 * "Host" as it came, with its port, unless the request line names another, or
 * what nginx has made of it.
 */

static void
ngx_http_taptalent_verify_host(ngx_http_request_t *r,
    ngx_http_taptalent_event_t *ev)
{
    size_t      n;
    ngx_str_t  *host, *server;

    server = &r->headers_in.server;

    if (!ngx_http_taptalent_event_host(server->data, server->len, &n)) {
        return;
    }

    ev->host = *server;

    if (r->headers_in.host == NULL) {
        return;
    }

    host = &r->headers_in.host->value;

    if (ngx_http_taptalent_event_host(host->data, host->len, &n)
        && n == server->len
        && ngx_strncasecmp(host->data, server->data, n) == 0)
    {
        ev->host = *host;
    }
}


static ngx_uint_t
ngx_http_taptalent_verify_https(ngx_http_request_t *r,
    ngx_http_taptalent_loc_conf_t *tlcf)
{
    ngx_str_t   value;
    ngx_uint_t  i;

    /* also what $scheme, X-Forwarded-Proto and X-Forwarded-Ssl may say */

    static const ngx_str_t  plain[] = {
        ngx_string(""),
        ngx_string("0"),
        ngx_string("off"),
        ngx_string("http"),
        ngx_null_string
    };

    if (tlcf->https_value) {

        if (ngx_http_complex_value(r, tlcf->https_value, &value) != NGX_OK) {
            return 0;
        }

        for (i = 0; plain[i].data; i++) {
            if (value.len == plain[i].len
                && ngx_strncasecmp(value.data, plain[i].data, value.len) == 0)
            {
                return 0;
            }
        }

        return 1;
    }

    if (!tlcf->https) {
        return 1;
    }

#if (NGX_HTTP_SSL)
    return r->connection->ssl != NULL;
#else
    return 0;
#endif
}


static void
ngx_http_taptalent_verify_read_head(ngx_http_request_t *r,
    ngx_http_taptalent_loc_conf_t *tlcf, ngx_http_taptalent_head_t *head)
{
    ngx_str_t         name;
    ngx_uint_t        i, signature;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    ngx_memzero(head, sizeof(ngx_http_taptalent_head_t));

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash == 0) {
                continue;
            }

            name.len = h[i].key.len;
            name.data = h[i].lowcase_key;

            signature = tlcf->signature
                        && name.len == tlcf->signature->header.len
                        && ngx_memcmp(name.data,
                                      tlcf->signature->header.data, name.len)
                           == 0;

            if (signature) {
                head->signature = h[i].value;
                head->signatures++;
            }

            if (ngx_http_taptalent_name_is(&name, "content-type")) {
                head->content_type = h[i].value;
                head->content_types++;

            } else if (ngx_http_taptalent_name_is(&name, "content-encoding")) {

                if (h[i].value.len != sizeof("identity") - 1
                    || ngx_strncasecmp(h[i].value.data, (u_char *) "identity",
                                       sizeof("identity") - 1)
                       != 0)
                {
                    head->encoded = 1;
                }

            } else if (ngx_http_taptalent_name_is(&name, "x-webhook-event")) {
                head->event = h[i].value;
                head->events++;

            } else if (ngx_http_taptalent_name_is(&name,
                                                  "x-webhook-timestamp"))
            {
                head->timestamp = h[i].value;
                head->timestamps++;

            } else if (ngx_http_taptalent_name_is(&name, "x-webhook-key")) {
                head->key = h[i].value;
                head->keys++;

            } else if (!signature
                       && ngx_http_taptalent_verify_underscored(&name))
            {
                head->underscored = 1;
            }
        }
    }
}


/*
 * With "underscores_in_headers on" X_Webhook_Event is another header, but the
 * same $http_x_webhook_event: what is signed would not be what is stored.
 */

static ngx_uint_t
ngx_http_taptalent_verify_underscored(ngx_str_t *name)
{
    size_t  i;

    static const char  prefix[] = "x-webhook-";

    if (name->len < sizeof(prefix) - 1) {
        return 0;
    }

    for (i = 0; i < sizeof(prefix) - 1; i++) {

        if (name->data[i] != prefix[i]
            && (prefix[i] != '-' || name->data[i] != '_'))
        {
            return 0;
        }
    }

    return ngx_strlchr(name->data, name->data + name->len, '_') != NULL;
}


/* what the head tells of who has sent it, and when */

static ngx_http_taptalent_verdict_e
ngx_http_taptalent_verify_sender(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_head_t *head, time_t sent)
{
    ngx_http_taptalent_verdict_e    verdict;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    verdict = ngx_http_taptalent_verify_key(tlcf, ctx, head);
    verdict = ngx_http_taptalent_verify_enforce(tlcf, ctx, verdict);

    if (verdict != NGX_HTTP_TAPTALENT_NONE) {
        return verdict;
    }

    if (!ngx_http_taptalent_verify_recent(sent, tlcf->tolerance)) {
        verdict = ngx_http_taptalent_verify_enforce(tlcf, ctx,
                                                    NGX_HTTP_TAPTALENT_STALE);

        if (verdict != NGX_HTTP_TAPTALENT_NONE) {
            return verdict;
        }
    }

    verdict = ngx_http_taptalent_verify_signature_head(r, ctx, head);

    return ngx_http_taptalent_verify_enforce(tlcf, ctx, verdict);
}


/* digests have one length, and how far two are the same tells nothing */

static ngx_http_taptalent_verdict_e
ngx_http_taptalent_verify_key(ngx_http_taptalent_loc_conf_t *tlcf,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_head_t *head)
{
    u_char      *key, digest[SHA256_DIGEST_LENGTH];
    ngx_uint_t   i, same;

    if (tlcf->keys == NULL) {
        return NGX_HTTP_TAPTALENT_NONE;
    }

    if (head->keys != 1 || head->key.len == 0) {
        return NGX_HTTP_TAPTALENT_KEY;
    }

    if (EVP_Digest(head->key.data, head->key.len, digest, NULL, EVP_sha256(),
                   NULL)
        != 1)
    {
        ctx->why = ngx_http_taptalent_no_memory;
        return NGX_HTTP_TAPTALENT_UNAVAILABLE;
    }

    same = 0;
    key = tlcf->keys->elts;

    for (i = 0; i < tlcf->keys->nelts; i++) {
        same |= (CRYPTO_memcmp(key, digest, SHA256_DIGEST_LENGTH) == 0);
        key += SHA256_DIGEST_LENGTH;
    }

    if (same) {
        return NGX_HTTP_TAPTALENT_NONE;
    }

    ctx->why = "the X-Webhook-Key is not that of this endpoint";

    return NGX_HTTP_TAPTALENT_KEY;
}


static ngx_http_taptalent_verdict_e
ngx_http_taptalent_verify_signature_head(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_head_t *head)
{
    time_t                           sec;
    ngx_http_taptalent_loc_conf_t   *tlcf;
    ngx_http_taptalent_signature_t  *sig;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    sig = tlcf->signature;

    if (sig == NULL) {
        return NGX_HTTP_TAPTALENT_NONE;
    }

    if (head->signatures != 1) {
        ctx->why = head->signatures ? "the header of the signature is repeated"
                                    : "the header of the signature is missing";
        return NGX_HTTP_TAPTALENT_SIGNATURE;
    }

    ctx->signature = head->signature;

    if (!ngx_http_taptalent_verify_signed_once(r, sig)) {
        ctx->why = "a header that is signed is repeated";
        return NGX_HTTP_TAPTALENT_SIGNATURE;
    }

    if (sig->time
        && ngx_http_complex_value(r, sig->time, &ctx->signature_time)
           != NGX_OK)
    {
        ctx->why = ngx_http_taptalent_no_memory;
        return NGX_HTTP_TAPTALENT_UNAVAILABLE;
    }

    if (sig->scheme.param.len
        && ngx_http_taptalent_signature_param(&sig->scheme, &ctx->signature,
                                              &ctx->signature_time)
           != NGX_OK)
    {
        goto malformed;
    }

    if (sig->tolerance == 0) {
        return NGX_HTTP_TAPTALENT_NONE;
    }

    if (!ngx_http_taptalent_signature_time(&ctx->signature_time, &sec)) {
        goto malformed;
    }

    if (!ngx_http_taptalent_verify_recent(sec, sig->tolerance)) {
        ctx->why = "the time of the signature is too far from now";
        return NGX_HTTP_TAPTALENT_STALE;
    }

    return NGX_HTTP_TAPTALENT_NONE;

malformed:

    ctx->why = "the time of the signature is missing or malformed";
    return NGX_HTTP_TAPTALENT_SIGNATURE;
}


/* a variable may be the first of them only, and all are stored */

static ngx_uint_t
ngx_http_taptalent_verify_signed_once(ngx_http_request_t *r,
    ngx_http_taptalent_signature_t *sig)
{
    ngx_str_t        *name;
    ngx_uint_t        i, n, found;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    name = sig->headers.elts;

    for (n = 0; n < sig->headers.nelts; n++) {

        found = 0;

        for (part = &r->headers_in.headers.part; part; part = part->next) {

            h = part->elts;

            for (i = 0; i < part->nelts; i++) {

                if (h[i].hash
                    && h[i].key.len == name[n].len
                    && ngx_memcmp(h[i].lowcase_key, name[n].data, name[n].len)
                       == 0)
                {
                    found++;
                }
            }
        }

        if (found > 1) {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_taptalent_verify_recent(time_t sec, time_t tolerance)
{
    int64_t  distance;

    if (tolerance == 0) {
        return 1;
    }

    /* a sum with a tolerance could be more than there is */

    distance = (int64_t) sec - ngx_time();

    return distance >= -tolerance && distance <= tolerance;
}


ngx_http_taptalent_verdict_e
ngx_http_taptalent_verify_body(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx)
{
    ngx_http_taptalent_event_t     *ev;
    ngx_http_taptalent_verdict_e    verdict;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    ev = &ctx->event;
    ev->missing_company_id = tlcf->missing_company;

    if (ngx_http_taptalent_event_id(ev) != NGX_OK) {
        ctx->why = ngx_http_taptalent_no_memory;
        return NGX_HTTP_TAPTALENT_UNAVAILABLE;
    }

    verdict = ngx_http_taptalent_verify_signature_body(r, ctx);
    verdict = ngx_http_taptalent_verify_enforce(tlcf, ctx, verdict);

    if (verdict != NGX_HTTP_TAPTALENT_NONE) {
        return verdict;
    }

    verdict = ngx_http_taptalent_event_parse(ev, &ctx->why);

    if (verdict != NGX_HTTP_TAPTALENT_NONE) {
        return verdict;
    }

    verdict = ngx_http_taptalent_verify_company(r, ctx);
    verdict = ngx_http_taptalent_verify_enforce(tlcf, ctx, verdict);

    if (verdict != NGX_HTTP_TAPTALENT_NONE) {
        return verdict;
    }

    if (ngx_http_taptalent_headers_keep(r, ev) != NGX_OK) {
        ctx->why = ngx_http_taptalent_no_memory;
        return NGX_HTTP_TAPTALENT_UNAVAILABLE;
    }

    return NGX_HTTP_TAPTALENT_NONE;
}


static ngx_http_taptalent_verdict_e
ngx_http_taptalent_verify_signature_body(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx)
{
    u_char                           digest[NGX_HTTP_TAPTALENT_MAX_DIGEST];
    ngx_int_t                        rc;
    ngx_str_t                       *key, text;
    ngx_uint_t                       i;
    ngx_http_taptalent_loc_conf_t   *tlcf;
    ngx_http_taptalent_signature_t  *sig;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    sig = tlcf->signature;

    /* where it is missing the head has been refused, or reported */

    if (sig == NULL || ctx->signature.data == NULL) {
        return NGX_HTTP_TAPTALENT_NONE;
    }

    text = ctx->event.body;

    if (sig->text && ngx_http_complex_value(r, sig->text, &text) != NGX_OK) {
        ctx->why = ngx_http_taptalent_no_memory;
        return NGX_HTTP_TAPTALENT_UNAVAILABLE;
    }

    if (ctx->failed) {
        ctx->why = ngx_http_taptalent_too_long;
        return NGX_HTTP_TAPTALENT_TOO_LARGE;
    }

    rc = NGX_DECLINED;
    key = sig->keys.elts;

    for (i = 0; i < sig->keys.nelts; i++) {

        if (ngx_http_taptalent_signature_digest(&sig->scheme, &key[i], &text,
                                                digest)
            != NGX_OK)
        {
            ctx->why = ngx_http_taptalent_no_memory;
            return NGX_HTTP_TAPTALENT_UNAVAILABLE;
        }

        rc = ngx_http_taptalent_signature_compare(&sig->scheme,
                                                  &ctx->signature, digest);
        if (rc != NGX_ERROR) {
            break;
        }
    }

    /* a copy of the body is not kept until the commit */

    if (sig->text) {
        (void) ngx_pfree(r->pool, text.data);
    }

    if (rc == NGX_OK) {
        return NGX_HTTP_TAPTALENT_NONE;
    }

    ctx->why = (rc == NGX_ERROR) ? "the signature is not that of the event"
                                 : "the header holds no such signature";

    return NGX_HTTP_TAPTALENT_SIGNATURE;
}


static ngx_http_taptalent_verdict_e
ngx_http_taptalent_verify_company(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx)
{
    ngx_str_t                       value;
    ngx_uint_t                      i;
    ngx_http_complex_value_t       *cv;
    ngx_http_taptalent_event_t     *ev;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    ev = &ctx->event;

    /* it may be missing where the parser has been told so */

    if (tlcf->any_company || ev->company_id.len == 0) {
        return NGX_HTTP_TAPTALENT_NONE;
    }

    cv = tlcf->companies->elts;

    for (i = 0; i < tlcf->companies->nelts; i++) {

        if (ngx_http_complex_value(r, &cv[i], &value) != NGX_OK) {
            ctx->why = ngx_http_taptalent_no_memory;
            return NGX_HTTP_TAPTALENT_UNAVAILABLE;
        }

        if (ctx->failed) {
            ctx->why = ngx_http_taptalent_too_long;
            return NGX_HTTP_TAPTALENT_TOO_LARGE;
        }

        if (value.len == ev->company_id.len
            && ngx_memcmp(value.data, ev->company_id.data, value.len) == 0)
        {
            return NGX_HTTP_TAPTALENT_NONE;
        }
    }

    return NGX_HTTP_TAPTALENT_COMPANY_ID;
}


/*
 * What is only reported is no verdict, nor is, until the event is known to be
 * one, what is refused into quarantine.  The first is what is, or would be.
 */

static ngx_http_taptalent_verdict_e
ngx_http_taptalent_verify_enforce(ngx_http_taptalent_loc_conf_t *tlcf,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_verdict_e verdict)
{
    if (!ngx_http_taptalent_verdict_enforceable(verdict)) {
        return verdict;
    }

    if (tlcf->enforce) {

        if (tlcf->quarantine == NULL || tlcf->mode != NGX_HTTP_TAPTALENT_ON) {
            return verdict;
        }

        if (ctx->refused == NGX_HTTP_TAPTALENT_NONE) {
            ctx->refused = verdict;
            ctx->refused_why = ctx->why;
        }

        ctx->why = NULL;

        return NGX_HTTP_TAPTALENT_NONE;
    }

    if (ctx->unenforced == NGX_HTTP_TAPTALENT_NONE) {
        ctx->unenforced = verdict;
        ctx->unenforced_why = ctx->why;
    }

    ctx->why = NULL;

    return NGX_HTTP_TAPTALENT_NONE;
}
