
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_request.h"
#include "ngx_http_taptalent_verify.h"
#include "ngx_http_taptalent_respond.h"
#include "ngx_http_taptalent_variables.h"
#include "ngx_http_taptalent_status.h"
#include "ngx_http_taptalent_conf.h"
#include "ngx_http_taptalent_check.h"
#include "ngx_http_taptalent_process.h"
#include "ngx_http_taptalent_deliver.h"


/*
 * The way of an event: the content handler has the head verified and the body
 * read, the body handler has the body verified, writes the event's line into
 * the group of its spool and waits, the commit handler answers.
 */


static ngx_int_t ngx_http_taptalent_handler(ngx_http_request_t *r);
static ngx_http_taptalent_verdict_e ngx_http_taptalent_ready(
    ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx,
    ngx_http_taptalent_verdict_e verdict);
static ngx_uint_t ngx_http_taptalent_is_delivery(ngx_http_request_t *r);
static void ngx_http_taptalent_body_handler(ngx_http_request_t *r);
static ngx_uint_t ngx_http_taptalent_repeated(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx);
static void ngx_http_taptalent_keep(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx);
static ngx_http_taptalent_verdict_e ngx_http_taptalent_queue(
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_forward_t *forward);
static ngx_int_t ngx_http_taptalent_store(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx);
static void ngx_http_taptalent_commit_handler(ngx_http_taptalent_waiter_t *w,
    ngx_int_t rc);
static void ngx_http_taptalent_cleanup(void *data);
static void ngx_http_taptalent_log_payload(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx);

static void *ngx_http_taptalent_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_taptalent_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_taptalent_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);

static char *ngx_http_taptalent_webhook(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

static ngx_int_t ngx_http_taptalent_init(ngx_conf_t *cf);


static ngx_command_t  ngx_http_taptalent_commands[] = {

    { ngx_string("taptalent_webhook"),
      NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_taptalent_webhook,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_https"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_taptalent_webhook_https,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_company_id"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_taptalent_webhook_company_id,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_events"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_taptalent_webhook_events,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_spool"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_taptalent_webhook_spool,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_spool_access"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE123,
      ngx_http_taptalent_webhook_spool_access,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_taptalent_loc_conf_t, access),
      NULL },

    { ngx_string("taptalent_webhook_forward"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_taptalent_webhook_forward,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_retry"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_taptalent_webhook_retry,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_ack_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_taptalent_webhook_ack_timeout,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_response"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_taptalent_webhook_response,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_key"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_taptalent_webhook_key,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_signature"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_1MORE,
      ngx_http_taptalent_webhook_signature,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_tolerance"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_taptalent_webhook_tolerance,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_enforce"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_FLAG,
      ngx_conf_set_flag_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_taptalent_loc_conf_t, enforce),
      NULL },

    { ngx_string("taptalent_webhook_dedup"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_taptalent_webhook_dedup,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_quarantine"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE12,
      ngx_http_taptalent_webhook_quarantine,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_zone"),
      NGX_HTTP_MAIN_CONF|NGX_CONF_TAKE1,
      ngx_http_taptalent_webhook_zone,
      NGX_HTTP_MAIN_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("taptalent_webhook_status"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_taptalent_webhook_status,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_taptalent_webhook_module_ctx = {
    ngx_http_taptalent_variables_add,      /* preconfiguration */
    ngx_http_taptalent_init,               /* postconfiguration */

    ngx_http_taptalent_create_main_conf,   /* create main configuration */
    NULL,                                  /* init main configuration */

    NULL,                                  /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_taptalent_create_loc_conf,    /* create location configuration */
    ngx_http_taptalent_merge_loc_conf      /* merge location configuration */
};


ngx_module_t  ngx_http_taptalent_webhook_module = {
    NGX_MODULE_V1,
    &ngx_http_taptalent_webhook_module_ctx, /* module context */
    ngx_http_taptalent_commands,           /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_taptalent_process_init_module, /* init module */
    ngx_http_taptalent_process_init,       /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_taptalent_process_exit,       /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static ngx_int_t
ngx_http_taptalent_handler(ngx_http_request_t *r)
{
    ngx_int_t                       rc;
    ngx_http_taptalent_ctx_t       *ctx;
    ngx_http_taptalent_verdict_e    verdict;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    /*
     * The status says whether the event is stored: an error_page that has led
     * here does not set it, and none makes something else of it.
     */

    r->err_status = 0;
    r->error_page = 1;

    if (tlcf->mode == NGX_HTTP_TAPTALENT_ON && tlcf->forward
        && ngx_http_taptalent_is_delivery(r))
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "\"taptalent_webhook_forward\" leads to a location that "
                      "has one itself, write the path of one that passes "
                      "events to the application");
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* as nginx answers what is beyond client_max_body_size */

    if (r->headers_in.content_length_n > NGX_HTTP_TAPTALENT_FILE_MAX) {
        return NGX_HTTP_REQUEST_ENTITY_TOO_LARGE;
    }

    ctx = ngx_http_taptalent_request_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    verdict = ngx_http_taptalent_verify_head(r, ctx);

    if (verdict == NGX_HTTP_TAPTALENT_NONE
        && !ngx_http_taptalent_request_body_is_whole(r))
    {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "the request has come to \"taptalent_webhook\" without "
                      "its whole body, which another location has begun to "
                      "read or to discard, write \"proxy_request_buffering "
                      "on\", or what is like it, in that location");

        verdict = NGX_HTTP_TAPTALENT_UNAVAILABLE;
        ctx->why = "another location has begun to read the body";
    }

    verdict = ngx_http_taptalent_ready(r, ctx, verdict);

    if (verdict != NGX_HTTP_TAPTALENT_NONE) {
        return ngx_http_taptalent_respond(r, ctx, verdict);
    }

    rc = ngx_http_read_client_request_body(r, ngx_http_taptalent_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


/* whether the body is to be read, or what the answer is without it */

static ngx_http_taptalent_verdict_e
ngx_http_taptalent_ready(ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx,
    ngx_http_taptalent_verdict_e verdict)
{
    size_t                          len;
    ngx_int_t                       rc;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    len = ngx_max(r->headers_in.content_length_n, 0);

    if (ctx->refused != NGX_HTTP_TAPTALENT_NONE) {

        /* the body is read for the quarantine only, if that can take it */

        if (verdict != NGX_HTTP_TAPTALENT_NONE
            || ngx_http_taptalent_commit_ready(&tlcf->quarantine->commit, len,
                                               &ctx->why)
               != NGX_OK)
        {
            verdict = ctx->refused;
            ctx->why = ctx->refused_why;
        }

        ctx->ready = 1;

        return verdict;
    }

    if (verdict != NGX_HTTP_TAPTALENT_NONE
        || tlcf->mode != NGX_HTTP_TAPTALENT_ON)
    {
        return verdict;
    }

    if (tlcf->spool == NULL) {
        rc = ngx_http_taptalent_queue_room(tlcf->forward);

        if (rc != NGX_OK) {
            ctx->why = "the queue is full";
        }

    } else {
        rc = ngx_http_taptalent_commit_ready(&tlcf->spool->commit, len,
                                             &ctx->why);
    }

    return (rc == NGX_OK) ? NGX_HTTP_TAPTALENT_NONE
                          : NGX_HTTP_TAPTALENT_UNAVAILABLE;
}


/* its parent is: an internal redirect has cleared its own context */

static ngx_uint_t
ngx_http_taptalent_is_delivery(ngx_http_request_t *r)
{
    ngx_http_taptalent_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r->main, ngx_http_taptalent_webhook_module);

    return ctx && ctx->delivery;
}


static void
ngx_http_taptalent_body_handler(ngx_http_request_t *r)
{
    ngx_int_t                       rc;
    ngx_http_taptalent_ctx_t       *ctx;
    ngx_http_taptalent_verdict_e    verdict;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);
    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    rc = ngx_http_taptalent_request_read_body(r, &ctx->event.body);

    if (rc == NGX_HTTP_REQUEST_ENTITY_TOO_LARGE) {
        ngx_http_finalize_request(r, rc);
        return;
    }

    if (rc == NGX_OK) {
        verdict = ngx_http_taptalent_verify_body(r, ctx);

    } else {
        verdict = NGX_HTTP_TAPTALENT_UNAVAILABLE;
        ctx->why = "the body cannot be read into memory";
    }

    if (ctx->refused != NGX_HTTP_TAPTALENT_NONE) {

        if (verdict == NGX_HTTP_TAPTALENT_NONE) {
            ngx_http_taptalent_keep(r, ctx);
        }

        verdict = ctx->refused;
        ctx->why = ctx->refused_why;

    } else if (verdict == NGX_HTTP_TAPTALENT_NONE) {

        if (tlcf->mode == NGX_HTTP_TAPTALENT_RECEIVER) {
            ngx_http_taptalent_log_payload(r, ctx);
            verdict = NGX_HTTP_TAPTALENT_ACCEPTED;

        } else if (ngx_http_taptalent_repeated(r, ctx)) {
            verdict = NGX_HTTP_TAPTALENT_DUPLICATE;

        } else if (tlcf->spool == NULL) {
            verdict = ngx_http_taptalent_queue(ctx, tlcf->forward);

        } else if (ngx_http_taptalent_store(r, ctx) == NGX_OK) {
            return;

        } else {
            verdict = NGX_HTTP_TAPTALENT_UNAVAILABLE;
        }
    }

    ngx_http_finalize_request(r, ngx_http_taptalent_respond(r, ctx, verdict));
}


/* an event that is durable already, and that the sender has sent again */

static ngx_uint_t
ngx_http_taptalent_repeated(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx)
{
    ngx_http_taptalent_loc_conf_t   *tlcf;
    ngx_http_taptalent_main_conf_t  *tmcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    if (tlcf->dedup == 0) {
        return 0;
    }

    tmcf = ngx_http_get_module_main_conf(r, ngx_http_taptalent_webhook_module);

    return ngx_http_taptalent_dedup_seen(tmcf->zone, tlcf->spool->commit.stats,
                                         ctx->event.id.data, tlcf->dedup);
}


/*
 * An event that is refused goes into quarantine, if that can take it: its line
 * begins with the verdict.  The answer does not wait for the commit.
 */

static void
ngx_http_taptalent_keep(ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx)
{
    u_char                          *p;
    ngx_str_t                       *verdict;
    ngx_http_taptalent_commit_t     *c;
    ngx_http_taptalent_loc_conf_t   *tlcf;
    ngx_http_taptalent_main_conf_t  *tmcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);
    tmcf = ngx_http_get_module_main_conf(r, ngx_http_taptalent_webhook_module);

    c = &tlcf->quarantine->commit;

    if (ngx_http_taptalent_dedup_seen(tmcf->zone, c->stats, ctx->event.id.data,
                                      NGX_HTTP_TAPTALENT_REPEATED))
    {
        return;
    }

    if (!ctx->ready
        && ngx_http_taptalent_commit_ready(c, 0, &ctx->why) != NGX_OK)
    {
        return;
    }

    (void) clock_gettime(CLOCK_REALTIME, &ctx->event.received);

    verdict = &ngx_http_taptalent_verdicts[ctx->refused].word;

    p = ngx_http_taptalent_commit_reserve(c,
                        ngx_http_taptalent_line_refused_len(&ctx->event,
                                                            verdict),
                        &ctx->why);
    if (p == NULL) {
        return;
    }

    p = ngx_http_taptalent_line_write_refused(&ctx->event, verdict, p);

    ngx_http_taptalent_commit_add(c, p, &ctx->event.id, NULL,
                                  tlcf->ack_timeout);
}


/* without a spool: acknowledged from memory */

static ngx_http_taptalent_verdict_e
ngx_http_taptalent_queue(ngx_http_taptalent_ctx_t *ctx,
    ngx_http_taptalent_forward_t *forward)
{
    (void) clock_gettime(CLOCK_REALTIME, &ctx->event.received);

    switch (ngx_http_taptalent_queue_put(forward, &ctx->event)) {

    case NGX_OK:
        return NGX_HTTP_TAPTALENT_ACCEPTED;

    case NGX_DECLINED:
        ctx->why = "the queue is full";
        break;

    default:
        ctx->why = "there is no memory for the event";
    }

    return NGX_HTTP_TAPTALENT_UNAVAILABLE;
}


/* NGX_ERROR with the reason in the context if nobody is waiting then */

static ngx_int_t
ngx_http_taptalent_store(ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx)
{
    u_char                         *p;
    ngx_http_cleanup_t             *cln;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    cln = ngx_http_cleanup_add(r, 0);
    if (cln == NULL) {
        ctx->why = "there is no memory for the event";
        return NGX_ERROR;
    }

    cln->handler = ngx_http_taptalent_cleanup;
    cln->data = ctx;

    (void) clock_gettime(CLOCK_REALTIME, &ctx->event.received);

    p = ngx_http_taptalent_commit_reserve(&tlcf->spool->commit,
                                     ngx_http_taptalent_line_len(&ctx->event),
                                     &ctx->why);
    if (p == NULL) {
        return NGX_ERROR;
    }

    p = ngx_http_taptalent_line_write(&ctx->event, p);

    ctx->waiter.handler = ngx_http_taptalent_commit_handler;
    ctx->waiter.data = r;

    ngx_http_taptalent_commit_add(&tlcf->spool->commit, p, &ctx->event.id,
                                  &ctx->waiter, tlcf->ack_timeout);

    r->connection->log->action = "waiting for the commit of an event";

    r->read_event_handler = ngx_http_block_reading;
    r->write_event_handler = ngx_http_request_empty_handler;

    return NGX_OK;
}


static void
ngx_http_taptalent_commit_handler(ngx_http_taptalent_waiter_t *w,
    ngx_int_t rc)
{
    ngx_connection_t              *c;
    ngx_http_request_t            *r;
    ngx_http_taptalent_ctx_t      *ctx;
    ngx_http_taptalent_verdict_e   verdict;

    r = w->data;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    c->log->action = "sending the answer to an event";

    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    verdict = NGX_HTTP_TAPTALENT_ACCEPTED;

    if (rc != NGX_OK) {
        verdict = NGX_HTTP_TAPTALENT_UNAVAILABLE;
        ctx->why = (rc == NGX_AGAIN) ? "the commit takes too long"
                                     : "the commit has failed";
    }

    ngx_http_finalize_request(r, ngx_http_taptalent_respond(r, ctx, verdict));

    ngx_http_run_posted_requests(c);
}


static void
ngx_http_taptalent_cleanup(void *data)
{
    ngx_http_taptalent_ctx_t *ctx = data;

    ngx_http_taptalent_commit_detach(&ctx->waiter);
}


/* what a test receiver is for; a line of the log is one line */

static void
ngx_http_taptalent_log_payload(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx)
{
    u_char      *p;
    ngx_str_t    payload;
    ngx_uint_t   i;

    payload = ctx->event.body;

    if (ctx->event.newline) {

        p = ngx_pnalloc(r->pool, payload.len);
        if (p == NULL) {
            return;
        }

        for (i = 0; i < payload.len; i++) {
            p[i] = (payload.data[i] == CR || payload.data[i] == LF)
                   ? ' ' : payload.data[i];
        }

        payload.data = p;
    }

    ngx_log_error(NGX_LOG_NOTICE, r->connection->log, 0,
                  "webhook received: event \"%V\", id %V, payload %V",
                  &ctx->event.name, &ctx->event.id, &payload);
}


static void *
ngx_http_taptalent_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_taptalent_main_conf_t  *tmcf;

    tmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_main_conf_t));
    if (tmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&tmcf->spools, cf->pool, 2,
                       sizeof(ngx_http_taptalent_spool_conf_t *))
        != NGX_OK
        || ngx_array_init(&tmcf->forwards, cf->pool, 2,
                          sizeof(ngx_http_taptalent_forward_t *))
           != NGX_OK
        || ngx_array_init(&tmcf->locations, cf->pool, 2,
                          sizeof(ngx_http_taptalent_loc_conf_t *))
           != NGX_OK)
    {
        return NULL;
    }

    tmcf->zone_size = NGX_CONF_UNSET;

    return tmcf;
}


static void *
ngx_http_taptalent_create_loc_conf(ngx_conf_t *cf)
{
    ngx_http_taptalent_loc_conf_t  *conf;

    conf = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_loc_conf_t));
    if (conf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     conf->mode = NGX_HTTP_TAPTALENT_OFF;
     *     conf->file = NULL;
     *     conf->https_value = NULL;
     */

    conf->https = NGX_CONF_UNSET;
    conf->companies = NGX_CONF_UNSET_PTR;
    conf->any_company = NGX_CONF_UNSET;
    conf->missing_company = NGX_CONF_UNSET;
    conf->keys = NGX_CONF_UNSET_PTR;
    conf->tolerance = NGX_CONF_UNSET;
    conf->signature = NGX_CONF_UNSET_PTR;
    conf->enforce = NGX_CONF_UNSET;
    conf->events = NGX_CONF_UNSET_PTR;
    conf->spool = NGX_CONF_UNSET_PTR;
    conf->quarantine = NGX_CONF_UNSET_PTR;
    conf->forward = NGX_CONF_UNSET_PTR;
    conf->retry = NGX_CONF_UNSET_PTR;
    conf->access = NGX_CONF_UNSET_UINT;
    conf->ack_timeout = NGX_CONF_UNSET_MSEC;
    conf->response = NGX_CONF_UNSET_UINT;
    conf->dedup = NGX_CONF_UNSET_MSEC;

    return conf;
}


static char *
ngx_http_taptalent_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    return ngx_http_taptalent_conf_merge(cf, parent, child,
                                         ngx_http_taptalent_handler);
}


static char *
ngx_http_taptalent_webhook(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                       *value;
    ngx_http_core_loc_conf_t        *clcf;
    ngx_http_taptalent_main_conf_t  *tmcf;

    if (tlcf->file) {
        return "is duplicate";
    }

    value = cf->args->elts;

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);
    tmcf->used = 1;

    tlcf->file = cf->conf_file->file.name.data;
    tlcf->line = cf->conf_file->line;
    tlcf->conf_ctx = cf->ctx;

    if (ngx_strcmp(value[1].data, "off") == 0) {
        return NGX_CONF_OK;
    }

    if (ngx_strcmp(value[1].data, "on") == 0) {
        tlcf->mode = NGX_HTTP_TAPTALENT_ON;

    } else if (ngx_strcmp(value[1].data, "receiver") == 0) {
        tlcf->mode = NGX_HTTP_TAPTALENT_RECEIVER;

    } else {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid value \"%V\", write \"on\", \"off\" "
                           "or \"receiver\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /* another one is told of when the location is merged */

    if (clcf->handler == NULL) {
        clcf->handler = ngx_http_taptalent_handler;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_taptalent_init(ngx_conf_t *cf)
{
    ngx_http_taptalent_main_conf_t  *tmcf;

    ngx_http_taptalent_respond_init();

    /* "nginx -s" reads the configuration too */

    if (ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_OK;
    }

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);

    if (ngx_http_taptalent_deliver_request_init(cf) != NGX_OK
        || ngx_http_taptalent_zone_conf_add(cf, tmcf) != NGX_OK
        || ngx_http_taptalent_status_init(cf) != NGX_OK
        || ngx_http_taptalent_check_locations(cf, tmcf) != NGX_OK
        || ngx_http_taptalent_check_spools(cf, tmcf) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_taptalent_spool_conf_make(cf, tmcf);
}
