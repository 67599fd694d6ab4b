
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "src/ngx_http_taptalent.h"


/*
 * The way of an event: the content handler has the head verified and the body
 * read, the body handler has the body verified, writes the event's line into
 * the group of its spool and waits, the commit handler answers.
 */


static ngx_int_t ngx_http_taptalent_handler(ngx_http_request_t *r);
static void ngx_http_taptalent_body_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_taptalent_read_body(ngx_http_request_t *r,
    ngx_str_t *body);
static ngx_int_t ngx_http_taptalent_store(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx);
static void ngx_http_taptalent_commit_handler(ngx_http_taptalent_waiter_t *w,
    ngx_int_t rc);
static void ngx_http_taptalent_cleanup(void *data);
static void ngx_http_taptalent_log_payload(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx);

static ngx_int_t ngx_http_taptalent_add_variables(ngx_conf_t *cf);
static ngx_int_t ngx_http_taptalent_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_int_t ngx_http_taptalent_verdict_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);

static void *ngx_http_taptalent_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_taptalent_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_taptalent_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);
static char *ngx_http_taptalent_use_spool(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);

static char *ngx_http_taptalent_webhook(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_taptalent_webhook_https(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_taptalent_webhook_company_id(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_taptalent_webhook_events(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_taptalent_webhook_spool(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
static char *ngx_http_taptalent_spool_parameter(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c, ngx_str_t *value);
static ngx_http_taptalent_commit_t *ngx_http_taptalent_add_spool(
    ngx_conf_t *cf, ngx_http_taptalent_commit_t *c);

static char *ngx_http_taptalent_ack_timeout(ngx_conf_t *cf, void *post,
    void *data);

static ngx_int_t ngx_http_taptalent_init(ngx_conf_t *cf);
static ngx_int_t ngx_http_taptalent_init_process(ngx_cycle_t *cycle);
static void ngx_http_taptalent_close(void *data);


static ngx_conf_post_t  ngx_http_taptalent_ack_timeout_post = {
    ngx_http_taptalent_ack_timeout
};


static ngx_conf_enum_t  ngx_http_taptalent_response[] = {
    { ngx_string("brief"), NGX_HTTP_TAPTALENT_BRIEF },
    { ngx_string("full"), NGX_HTTP_TAPTALENT_FULL },
    { ngx_null_string, 0 }
};


static char  *ngx_http_taptalent_dirs[] = {
    "tmp", "new", "dead", "corrupt"
};


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
      ngx_conf_set_access_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_taptalent_loc_conf_t, access),
      NULL },

    { ngx_string("taptalent_webhook_ack_timeout"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_msec_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_taptalent_loc_conf_t, ack_timeout),
      &ngx_http_taptalent_ack_timeout_post },

    { ngx_string("taptalent_webhook_response"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_conf_set_enum_slot,
      NGX_HTTP_LOC_CONF_OFFSET,
      offsetof(ngx_http_taptalent_loc_conf_t, response),
      &ngx_http_taptalent_response },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_taptalent_webhook_module_ctx = {
    ngx_http_taptalent_add_variables,      /* preconfiguration */
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
    NULL,                                  /* init module */
    ngx_http_taptalent_init_process,       /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    NULL,                                  /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


/* they change while a request goes its way, so that none is cacheable */

static ngx_http_variable_t  ngx_http_taptalent_variables[] = {

    { ngx_string("taptalent_event"), NULL, ngx_http_taptalent_variable,
      offsetof(ngx_http_taptalent_ctx_t, event.name),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_timestamp"), NULL, ngx_http_taptalent_variable,
      offsetof(ngx_http_taptalent_ctx_t, event.timestamp),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_company_id"), NULL, ngx_http_taptalent_variable,
      offsetof(ngx_http_taptalent_ctx_t, event.company_id),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_event_id"), NULL, ngx_http_taptalent_variable,
      offsetof(ngx_http_taptalent_ctx_t, event.id),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_body"), NULL, ngx_http_taptalent_variable,
      offsetof(ngx_http_taptalent_ctx_t, event.body),
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("taptalent_verdict"), NULL,
      ngx_http_taptalent_verdict_variable, 0,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


static ngx_int_t
ngx_http_taptalent_handler(ngx_http_request_t *r)
{
    size_t                          len;
    ngx_int_t                       rc;
    ngx_http_taptalent_ctx_t       *ctx;
    ngx_http_taptalent_verdict_e    verdict;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    ctx = ngx_http_taptalent_ctx(r);
    if (ctx == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    verdict = ngx_http_taptalent_verify_head(r, ctx);

    if (verdict == NGX_HTTP_TAPTALENT_NONE
        && tlcf->mode == NGX_HTTP_TAPTALENT_ON)
    {
        len = ngx_max(r->headers_in.content_length_n, 0);

        if (ngx_http_taptalent_commit_ready(tlcf->commit, len, &ctx->why)
            != NGX_OK)
        {
            verdict = NGX_HTTP_TAPTALENT_UNAVAILABLE;
        }
    }

    if (verdict != NGX_HTTP_TAPTALENT_NONE) {
        return ngx_http_taptalent_respond(r, ctx, verdict);
    }

    rc = ngx_http_read_client_request_body(r, ngx_http_taptalent_body_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


static void
ngx_http_taptalent_body_handler(ngx_http_request_t *r)
{
    ngx_http_taptalent_ctx_t       *ctx;
    ngx_http_taptalent_verdict_e    verdict;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);
    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (ngx_http_taptalent_read_body(r, &ctx->event.body) != NGX_OK) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    verdict = ngx_http_taptalent_verify_body(r, ctx);

    if (verdict == NGX_HTTP_TAPTALENT_NONE) {

        if (tlcf->mode == NGX_HTTP_TAPTALENT_RECEIVER) {
            ngx_http_taptalent_log_payload(r, ctx);
            verdict = NGX_HTTP_TAPTALENT_ACCEPTED;

        } else if (ngx_http_taptalent_store(r, ctx) == NGX_OK) {
            return;

        } else {
            verdict = NGX_HTTP_TAPTALENT_UNAVAILABLE;
        }
    }

    ngx_http_finalize_request(r, ngx_http_taptalent_respond(r, ctx, verdict));
}


/* in one piece: mostly it is, or it is in a file, and rarely in two buffers */

static ngx_int_t
ngx_http_taptalent_read_body(ngx_http_request_t *r, ngx_str_t *body)
{
    u_char       *p;
    size_t        len;
    ssize_t       n;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    if (r->request_body == NULL || r->request_body->bufs == NULL) {
        return NGX_OK;
    }

    cl = r->request_body->bufs;
    b = cl->buf;

    if (cl->next == NULL && !b->in_file) {
        body->data = b->pos;
        body->len = b->last - b->pos;
        return NGX_OK;
    }

    len = 0;

    for ( /* void */ ; cl; cl = cl->next) {
        len += ngx_buf_size(cl->buf);
    }

    p = ngx_pnalloc(r->pool, len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    body->data = p;
    body->len = len;

    for (cl = r->request_body->bufs; cl; cl = cl->next) {

        b = cl->buf;

        if (ngx_buf_in_memory(b)) {
            p = ngx_cpymem(p, b->pos, b->last - b->pos);
            continue;
        }

        if (!b->in_file) {
            continue;
        }

        len = b->file_last - b->file_pos;

        n = ngx_read_file(b->file, p, len, b->file_pos);

        if (n != (ssize_t) len) {

            if (n != NGX_ERROR) {
                ngx_log_error(NGX_LOG_CRIT, r->connection->log, 0,
                              ngx_read_file_n " \"%V\" returned only %z bytes "
                              "instead of %uz", &b->file->name, n, len);
            }

            return NGX_ERROR;
        }

        p += len;
    }

    return NGX_OK;
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

    p = ngx_http_taptalent_commit_reserve(tlcf->commit,
                                     ngx_http_taptalent_event_len(&ctx->event),
                                     &ctx->why);
    if (p == NULL) {
        return NGX_ERROR;
    }

    p = ngx_http_taptalent_event_write(&ctx->event, p);

    ctx->waiter.handler = ngx_http_taptalent_commit_handler;
    ctx->waiter.data = r;

    ngx_http_taptalent_commit_add(tlcf->commit, p, &ctx->waiter,
                                  tlcf->ack_timeout);

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


ngx_http_taptalent_ctx_t *
ngx_http_taptalent_ctx(ngx_http_request_t *r)
{
    ngx_http_taptalent_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (ctx == NULL) {
        ctx = ngx_pcalloc(r->pool, sizeof(ngx_http_taptalent_ctx_t));
        if (ctx == NULL) {
            return NULL;
        }

        ngx_http_set_ctx(r, ctx, ngx_http_taptalent_webhook_module);
    }

    return ctx;
}


static ngx_int_t
ngx_http_taptalent_add_variables(ngx_conf_t *cf)
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


static ngx_int_t
ngx_http_taptalent_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                 *value;
    ngx_http_taptalent_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    value = ctx ? (ngx_str_t *) ((char *) ctx + data) : NULL;

    if (value == NULL || value->len == 0) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->len = value->len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = value->data;

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_verdict_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    ngx_str_t                 *word;
    ngx_http_taptalent_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (ctx == NULL || ctx->verdict == NGX_HTTP_TAPTALENT_NONE) {
        v->not_found = 1;
        return NGX_OK;
    }

    word = ngx_http_taptalent_verdict(ctx->verdict);

    v->len = word->len;
    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;
    v->data = word->data;

    return NGX_OK;
}


static void *
ngx_http_taptalent_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_taptalent_main_conf_t  *tmcf;

    tmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_main_conf_t));
    if (tmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&tmcf->commits, cf->pool, 2,
                       sizeof(ngx_http_taptalent_commit_t *))
        != NGX_OK)
    {
        return NULL;
    }

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
    conf->events = NGX_CONF_UNSET_PTR;
    conf->commit = NGX_CONF_UNSET_PTR;
    conf->access = NGX_CONF_UNSET_UINT;
    conf->ack_timeout = NGX_CONF_UNSET_MSEC;
    conf->response = NGX_CONF_UNSET_UINT;

    return conf;
}


static char *
ngx_http_taptalent_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_taptalent_loc_conf_t *prev = parent;
    ngx_http_taptalent_loc_conf_t *conf = child;

    ngx_http_core_loc_conf_t  *clcf;

    if (conf->https == NGX_CONF_UNSET) {
        conf->https_value = prev->https_value;
    }

    ngx_conf_merge_value(conf->https, prev->https, 1);

    /* the three are of one directive */

    if (conf->companies == NGX_CONF_UNSET_PTR) {
        conf->any_company = prev->any_company;
        conf->missing_company = prev->missing_company;
    }

    ngx_conf_merge_ptr_value(conf->companies, prev->companies, NULL);

    ngx_conf_merge_ptr_value(conf->events, prev->events, NULL);
    ngx_conf_merge_ptr_value(conf->commit, prev->commit, NULL);
    ngx_conf_merge_uint_value(conf->access, prev->access, 0600);
    ngx_conf_merge_msec_value(conf->ack_timeout, prev->ack_timeout, 4000);
    ngx_conf_merge_uint_value(conf->response, prev->response,
                              NGX_HTTP_TAPTALENT_BRIEF);

    if (conf->companies == NULL) {
        conf->any_company = 1;
        conf->missing_company = 0;
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->noname && conf->file == NULL) {

        /* "if" and "limit_except" are of the location that they stand in */

        if (clcf->handler == NULL) {
            conf->mode = prev->mode;
            conf->file = prev->file;
            conf->line = prev->line;
        }

        if (clcf->lmt_excpt && conf->mode != NGX_HTTP_TAPTALENT_OFF) {
            clcf->handler = ngx_http_taptalent_handler;
        }
    }

    if (conf->mode == NGX_HTTP_TAPTALENT_OFF) {
        return NGX_CONF_OK;
    }

    if (clcf->handler && clcf->handler != ngx_http_taptalent_handler) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook\" in %s:%ui shares its location "
                      "with a directive such as \"proxy_pass\", which would "
                      "take the requests instead, write that one in another "
                      "location", conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    if (conf->mode != NGX_HTTP_TAPTALENT_ON) {
        return NGX_CONF_OK;
    }

    if (conf->companies == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no \"taptalent_webhook_company_id\" for "
                      "\"taptalent_webhook on\" in %s:%ui, write the "
                      "companyId of your events, or \"any\"",
                      conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    if (conf->commit == NULL) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no destination for \"taptalent_webhook on\" in %s:%ui, "
                      "write \"taptalent_webhook_spool\" with the path of "
                      "a directory",
                      conf->file, conf->line);
        return NGX_CONF_ERROR;
    }

    return ngx_http_taptalent_use_spool(cf, conf);
}


static char *
ngx_http_taptalent_use_spool(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    u_char                       *p;
    ngx_uint_t                    i;
    ngx_path_t                   *path;
    ngx_pool_cleanup_t           *cln;
    ngx_http_taptalent_commit_t  *c;

    c = conf->commit;

    if (c->used) {

        if (c->spool.access == conf->access) {
            return NGX_CONF_OK;
        }

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook on\" in %s:%ui shares the spool "
                      "\"%V\" with another location, but has another "
                      "\"taptalent_webhook_spool_access\", write the same "
                      "in both",
                      conf->file, conf->line, &c->spool.path);
        return NGX_CONF_ERROR;
    }

    c->used = 1;
    c->spool.access = conf->access;

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {

        path = ngx_pcalloc(cf->pool, sizeof(ngx_path_t));
        if (path == NULL) {
            return NGX_CONF_ERROR;
        }

        p = ngx_pnalloc(cf->pool, c->spool.path.len + sizeof("/corrupt"));
        if (p == NULL) {
            return NGX_CONF_ERROR;
        }

        path->name.data = p;
        path->name.len = ngx_sprintf(p, "%V/%s%Z", &c->spool.path,
                                     ngx_http_taptalent_dirs[i])
                         - p - 1;
        path->data = c;
        path->conf_file = c->file;
        path->line = c->line;

        c->spool.dirs[i] = path;

        /* the master makes it, the worker's user owns it */

        if (ngx_add_path(cf, &c->spool.dirs[i]) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    if (!c->spool.sync) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "the spool \"%V\" has \"sync=off\" in %s:%ui, "
                      "a power failure loses acknowledged events",
                      &c->spool.path, c->file, c->line);
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        return NGX_CONF_ERROR;
    }

    cln->handler = ngx_http_taptalent_close;
    cln->data = c;

    return NGX_CONF_OK;
}


static char *
ngx_http_taptalent_webhook(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (tlcf->file) {
        return "is duplicate";
    }

    value = cf->args->elts;

    tlcf->file = cf->conf_file->file.name.data;
    tlcf->line = cf->conf_file->line;

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
    clcf->handler = ngx_http_taptalent_handler;

    return NGX_CONF_OK;
}


static char *
ngx_http_taptalent_webhook_https(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                         *value;
    ngx_http_compile_complex_value_t   ccv;

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

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = tlcf->https_value;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static char *
ngx_http_taptalent_webhook_company_id(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                         *value;
    ngx_uint_t                         i;
    ngx_http_complex_value_t          *cv;
    ngx_http_compile_complex_value_t   ccv;

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

        ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

        ccv.cf = cf;
        ccv.value = &value[i];
        ccv.complex_value = cv;

        if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
            return NGX_CONF_ERROR;
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


static char *
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

        if (n == 0 || n < value[i].len) {
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


static char *
ngx_http_taptalent_webhook_spool(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                    *value;
    ngx_uint_t                    i;
    ngx_http_taptalent_commit_t  *c;

    if (tlcf->commit != NGX_CONF_UNSET_PTR) {
        return "is duplicate";
    }

    value = cf->args->elts;

    c = ngx_pcalloc(cf->pool, sizeof(ngx_http_taptalent_commit_t));
    if (c == NULL) {
        return NGX_CONF_ERROR;
    }

    c->file = cf->conf_file->file.name.data;
    c->line = cf->conf_file->line;
    c->buffer = 16 * 1024 * 1024;
    c->min_free = 64 * 1024 * 1024;
    c->spool.sync = 1;
    c->spool.path = value[1];

    while (c->spool.path.len
           && c->spool.path.data[c->spool.path.len - 1] == '/')
    {
        c->spool.path.data[--c->spool.path.len] = '\0';
    }

    if (c->spool.path.len == 0 || c->spool.path.data[0] != '/'
        || ngx_http_script_variables_count(&c->spool.path))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the path \"%V\" of a spool is not absolute, write "
                           "it from the root and without variables, such as "
                           "\"/var/spool/taptalent\"", &value[1]);
        return NGX_CONF_ERROR;
    }

    for (i = 2; i < cf->args->nelts; i++) {
        if (ngx_http_taptalent_spool_parameter(cf, c, &value[i])
            != NGX_CONF_OK)
        {
            return NGX_CONF_ERROR;
        }
    }

#if (NGX_THREADS)

    if (c->thread_pool == NULL) {
        c->thread_pool = ngx_thread_pool_add(cf, NULL);
        if (c->thread_pool == NULL) {
            return NGX_CONF_ERROR;
        }
    }

    c->task = ngx_thread_task_alloc(cf->pool, 0);
    if (c->task == NULL) {
        return NGX_CONF_ERROR;
    }

#endif

    tlcf->commit = ngx_http_taptalent_add_spool(cf, c);

    return tlcf->commit ? NGX_CONF_OK : NGX_CONF_ERROR;
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
                       "\"min_free=size\", \"buffer=size\", \"sync=on\" or "
                       "\"sync=off\"", value);
    return NGX_CONF_ERROR;
}


/* a path is one spool, wherever it is named */

static ngx_http_taptalent_commit_t *
ngx_http_taptalent_add_spool(ngx_conf_t *cf, ngx_http_taptalent_commit_t *c)
{
    ngx_uint_t                       i, same;
    ngx_http_taptalent_commit_t    **cp, *old;
    ngx_http_taptalent_main_conf_t  *tmcf;

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);

    cp = tmcf->commits.elts;

    for (i = 0; i < tmcf->commits.nelts; i++) {

        old = cp[i];

        if (old->spool.path.len != c->spool.path.len
            || ngx_strcmp(old->spool.path.data, c->spool.path.data) != 0)
        {
            continue;
        }

        same = (old->min_free == c->min_free
                && old->buffer == c->buffer
                && old->spool.sync == c->spool.sync);

#if (NGX_THREADS)
        same = same && old->thread_pool == c->thread_pool;
#endif

        if (same) {
            return old;
        }

        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "the spool \"%V\" has other parameters in %s:%ui, "
                           "write the same in both",
                           &c->spool.path, old->file, old->line);
        return NULL;
    }

    cp = ngx_array_push(&tmcf->commits);
    if (cp == NULL) {
        return NULL;
    }

    *cp = c;

    return c;
}


static char *
ngx_http_taptalent_ack_timeout(ngx_conf_t *cf, void *post, void *data)
{
    ngx_msec_t  *timeout = data;

    if (*timeout == 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "no event could be stored in time, write a time "
                           "below the 5s of the sender, such as \"4s\"");
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_taptalent_init(ngx_conf_t *cf)
{
    ngx_uint_t                        i;
    ngx_http_taptalent_commit_t     **c;
    ngx_http_taptalent_main_conf_t   *tmcf;

    ngx_http_taptalent_respond_init();

    /* "nginx -s" reads the configuration too */

    if (ngx_process == NGX_PROCESS_SIGNALLER) {
        return NGX_OK;
    }

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);

    c = tmcf->commits.elts;

    for (i = 0; i < tmcf->commits.nelts; i++) {
        if (c[i]->used
            && ngx_http_taptalent_spool_prepare(&c[i]->spool, cf->log)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_init_process(ngx_cycle_t *cycle)
{
    ngx_uint_t                        i;
    ngx_http_taptalent_commit_t     **c;
    ngx_http_taptalent_main_conf_t   *tmcf;

    if (ngx_process != NGX_PROCESS_WORKER
        && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    tmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                           ngx_http_taptalent_webhook_module);

    if (tmcf == NULL) {
        return NGX_OK;
    }

    /* a file that grows too large is an error of write(), not a death */

    (void) signal(SIGXFSZ, SIG_IGN);

    c = tmcf->commits.elts;

    for (i = 0; i < tmcf->commits.nelts; i++) {
        if (c[i]->used) {
            ngx_http_taptalent_commit_init(c[i], cycle->log);
        }
    }

    return NGX_OK;
}


/* of the cycle's pool: the threads are gone by then */

static void
ngx_http_taptalent_close(void *data)
{
    ngx_http_taptalent_commit_t *c = data;

    ngx_http_taptalent_commit_close(c);
}
