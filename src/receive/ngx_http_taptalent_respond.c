
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_respond.h"
#include "ngx_http_taptalent_request.h"
#include "ngx_http_taptalent_deliver.h"


/* The answer: one word and one status for each outcome. */


#define NGX_HTTP_TAPTALENT_QUIET  1000  /* ms between lines of an outage */


static void ngx_http_taptalent_respond_count(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx);
static ngx_uint_t ngx_http_taptalent_respond_quiet(
    ngx_http_taptalent_ctx_t *ctx, ngx_uint_t *more);
static void ngx_http_taptalent_respond_log(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_verdict_e verdict,
    const char *why);
static ngx_int_t ngx_http_taptalent_respond_answer(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_str_t *text);
static ngx_int_t ngx_http_taptalent_respond_full(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_str_t *text);
static ngx_int_t ngx_http_taptalent_respond_header_filter(
    ngx_http_request_t *r);
static ngx_int_t ngx_http_taptalent_respond_body_filter(ngx_http_request_t *r,
    ngx_chain_t *in);


static ngx_http_output_header_filter_pt  ngx_http_next_header_filter;
static ngx_http_output_body_filter_pt    ngx_http_next_body_filter;


static ngx_str_t  ngx_http_taptalent_json = ngx_string("application/json");


static ngx_str_t  ngx_http_taptalent_accepted =
    ngx_string("{\"received\":true}");

static ngx_str_t  ngx_http_taptalent_duplicate =
    ngx_string("{\"received\":true,\"duplicate\":true}");

static ngx_str_t  ngx_http_taptalent_ignored =
    ngx_string("{\"received\":true,\"ignored\":true}");


ngx_int_t
ngx_http_taptalent_respond(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_verdict_e verdict)
{
    ngx_int_t                 rc;
    ngx_http_complex_value_t  cv;

    ctx->verdict = verdict;

    if (ctx->unenforced != NGX_HTTP_TAPTALENT_NONE
        && ngx_http_taptalent_verdicts[verdict].status == NGX_HTTP_OK)
    {
        ngx_http_taptalent_respond_log(r, ctx, ctx->unenforced,
                                       ctx->unenforced_why);
    }

    ngx_http_taptalent_respond_count(r, ctx);

    rc = NGX_OK;

    if (verdict == NGX_HTTP_TAPTALENT_METHOD) {
        rc = ngx_http_taptalent_request_add_header(r, "Allow", "POST");

    } else if (verdict == NGX_HTTP_TAPTALENT_UNAVAILABLE) {
        rc = ngx_http_taptalent_request_add_header(r, "Retry-After", "1");
    }

    ngx_memzero(&cv, sizeof(ngx_http_complex_value_t));

    if (rc != NGX_OK
        || ngx_http_taptalent_respond_answer(r, ctx, &cv.value) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* a condition or a range of the client's would make a 412, 304 or 206 */

    r->disable_not_modified = 1;
    r->allow_ranges = 0;

    return ngx_http_send_response(r,
                                  ngx_http_taptalent_verdicts[verdict].status,
                                  &ngx_http_taptalent_json, &cv);
}


/* before it is sent: whoever has the answer finds it counted */

static void
ngx_http_taptalent_respond_count(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx)
{
    const char                      *why;
    ngx_http_taptalent_verdict_t     *answer;
    ngx_http_taptalent_main_conf_t  *tmcf;

    tmcf = ngx_http_get_module_main_conf(r, ngx_http_taptalent_webhook_module);

    if (tmcf->zone == NULL) {
        return;
    }

    answer = &ngx_http_taptalent_verdicts[ctx->verdict];

    why = ctx->why ? ctx->why : answer->message;

    if (ctx->unenforced != NGX_HTTP_TAPTALENT_NONE
        && answer->status == NGX_HTTP_OK)
    {
        ngx_http_taptalent_zone_count(tmcf->zone->sh,
                                      unenforced[ctx->unenforced], 1);

        why = ctx->unenforced_why
              ? ctx->unenforced_why
              : ngx_http_taptalent_verdicts[ctx->unenforced].message;
    }

    ngx_http_taptalent_zone_verdict(tmcf->zone, ctx->verdict, answer->status,
                                    &ctx->event, why);
}


/* logs a refusal and makes the text of the answer */

static ngx_int_t
ngx_http_taptalent_respond_answer(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_str_t *text)
{
    u_char                         *p;
    size_t                          len, escape;
    const char                     *message;
    ngx_http_taptalent_verdict_t    *answer;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    switch (ctx->verdict) {

    case NGX_HTTP_TAPTALENT_ACCEPTED:

        tlcf = ngx_http_get_module_loc_conf(r,
                                           ngx_http_taptalent_webhook_module);

        if (tlcf->mode == NGX_HTTP_TAPTALENT_RECEIVER
            || tlcf->response == NGX_HTTP_TAPTALENT_FULL)
        {
            return ngx_http_taptalent_respond_full(r, ctx, text);
        }

        *text = ngx_http_taptalent_accepted;
        return NGX_OK;

    case NGX_HTTP_TAPTALENT_DUPLICATE:
        *text = ngx_http_taptalent_duplicate;
        return NGX_OK;

    case NGX_HTTP_TAPTALENT_IGNORED:
        *text = ngx_http_taptalent_ignored;
        return NGX_OK;

    default:
        break;
    }

    ngx_http_taptalent_respond_log(r, ctx, ctx->verdict, ctx->why);

    answer = &ngx_http_taptalent_verdicts[ctx->verdict];
    message = answer->message;

    /* what ails the spool is for the log only */

    if (ctx->why && ctx->verdict != NGX_HTTP_TAPTALENT_UNAVAILABLE) {
        message = ctx->why;
    }

    len = ngx_strlen(message);
    escape = ngx_escape_json(NULL, (u_char *) message, len);

    p = ngx_pnalloc(r->pool, sizeof("{\"received\":false,\"error\":\"\""
                                    ",\"message\":\"\"}")
                             + answer->word.len + len + escape);
    if (p == NULL) {
        return NGX_ERROR;
    }

    text->data = p;

    p = ngx_sprintf(p, "{\"received\":false,\"error\":\"%V\",\"message\":\"",
                    &answer->word);
    p = (u_char *) ngx_escape_json(p, (u_char *) message, len);
    p = ngx_cpymem(p, "\"}", sizeof("\"}") - 1);

    text->len = p - text->data;

    return NGX_OK;
}


/* as the sender's own test receiver answers */

static ngx_int_t
ngx_http_taptalent_respond_full(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_str_t *text)
{
    u_char  *p;

    text->len = sizeof("{\"received\":true,"
                       "\"message\":\"Webhook received successfully\","
                       "\"payload\":}") - 1
                + ctx->event.body.len;

    p = ngx_pnalloc(r->pool, text->len);
    if (p == NULL) {
        return NGX_ERROR;
    }

    text->data = p;

    ngx_sprintf(p, "{\"received\":true,"
                "\"message\":\"Webhook received successfully\","
                "\"payload\":%V}", &ctx->event.body);

    return NGX_OK;
}


/*
 * While the spool takes nothing each event is refused, and a line for each
 * would fill the disk that is perhaps full already: one a second.
 */

static ngx_uint_t
ngx_http_taptalent_respond_quiet(ngx_http_taptalent_ctx_t *ctx,
    ngx_uint_t *more)
{
    static ngx_uint_t  unsaid, said;
    static ngx_msec_t  last;

    *more = 0;

    if (ctx->verdict != NGX_HTTP_TAPTALENT_UNAVAILABLE) {
        return 0;
    }

    if (said && ngx_current_msec - last < NGX_HTTP_TAPTALENT_QUIET) {
        unsaid++;
        return 1;
    }

    *more = unsaid;

    said = 1;
    unsaid = 0;
    last = ngx_current_msec;

    return 0;
}


/*
 * A refusal, or what would have been one.  Ids, never bodies; a companyId is
 * the sender's text, so it is escaped.
 */

static void
ngx_http_taptalent_respond_log(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_verdict_e verdict,
    const char *why)
{
    u_char                       *p, *last;
    u_char                        buf[NGX_HTTP_TAPTALENT_MAX_NAME
                                     + NGX_HTTP_TAPTALENT_ID_LEN
                                     + 6 * NGX_HTTP_TAPTALENT_MAX_COMPANY_ID
                                     + NGX_INT_T_LEN
                                     + sizeof(", event \"\", companyId \"\""
                                              ", id , after  more")];
    ngx_uint_t                    more;
    ngx_http_taptalent_event_t   *ev;
    ngx_http_taptalent_verdict_t  *answer;

    answer = &ngx_http_taptalent_verdicts[verdict];

    if (r->connection->log->log_level < answer->level
        || ngx_http_taptalent_respond_quiet(ctx, &more))
    {
        return;
    }

    ev = &ctx->event;

    p = buf;
    last = buf + sizeof(buf);

    if (ev->name.len) {
        p = ngx_slprintf(p, last, ", event \"%V\"", &ev->name);
    }

    if (ev->company_id.len) {
        p = ngx_slprintf(p, last, ", companyId \"");
        p = (u_char *) ngx_escape_json(p, ev->company_id.data,
                                       ev->company_id.len);
        *p++ = '"';
    }

    if (ev->id.len) {
        p = ngx_slprintf(p, last, ", id %V", &ev->id);
    }

    if (more) {
        p = ngx_slprintf(p, last, ", after %ui more", more);
    }

    if (why == NULL) {
        why = answer->message;
    }

    if (verdict == ctx->verdict) {
        ngx_log_error(answer->level, r->connection->log, 0,
                      "webhook refused: %V: %s%*s", &answer->word, why,
                      (size_t) (p - buf), buf);
        return;
    }

    ngx_log_error(answer->level, r->connection->log, 0,
                  "webhook %V all the same: %V: %s%*s",
                  &ngx_http_taptalent_verdicts[ctx->verdict].word,
                  &answer->word, why, (size_t) (p - buf), buf);
}


void
ngx_http_taptalent_respond_init(void)
{
    ngx_http_next_header_filter = ngx_http_top_header_filter;
    ngx_http_top_header_filter = ngx_http_taptalent_respond_header_filter;

    ngx_http_next_body_filter = ngx_http_top_body_filter;
    ngx_http_top_body_filter = ngx_http_taptalent_respond_body_filter;
}


/*
 * nginx compares a body with client_max_body_size before the module is asked,
 * and a chunked one while it reads.  Its 413 is given our body here.
 */

static ngx_int_t
ngx_http_taptalent_respond_header_filter(ngx_http_request_t *r)
{
    ngx_http_taptalent_ctx_t       *ctx;
    ngx_http_taptalent_loc_conf_t  *tlcf;

    ngx_http_taptalent_deliver_answer_header(r);

    if (r->headers_out.status != NGX_HTTP_REQUEST_ENTITY_TOO_LARGE
        || r != r->main)
    {
        return ngx_http_next_header_filter(r);
    }

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);

    if (tlcf->mode == NGX_HTTP_TAPTALENT_OFF) {
        return ngx_http_next_header_filter(r);
    }

    ctx = ngx_http_taptalent_request_ctx(r);
    if (ctx == NULL) {
        return NGX_ERROR;
    }

    ctx->verdict = NGX_HTTP_TAPTALENT_TOO_LARGE;

    ngx_http_taptalent_respond_count(r, ctx);

    if (ngx_http_taptalent_respond_answer(r, ctx, &ctx->answer) != NGX_OK) {
        return NGX_ERROR;
    }

    ngx_http_clear_content_length(r);

    r->headers_out.content_length_n = ctx->answer.len;
    r->headers_out.content_type = ngx_http_taptalent_json;
    r->headers_out.content_type_len = ngx_http_taptalent_json.len;
    r->headers_out.content_type_lowcase = NULL;
    r->headers_out.charset.len = 0;

    return ngx_http_next_header_filter(r);
}


static ngx_int_t
ngx_http_taptalent_respond_body_filter(ngx_http_request_t *r, ngx_chain_t *in)
{
    ngx_buf_t                 *b;
    ngx_chain_t                out, *cl;
    ngx_http_taptalent_ctx_t  *ctx;

    if (ngx_http_taptalent_deliver_answer_body(r, in) == NGX_OK) {
        return NGX_OK;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_taptalent_webhook_module);

    if (in == NULL || ctx == NULL || ctx->answer.len == 0) {
        return ngx_http_next_body_filter(r, in);
    }

    for (cl = in; cl; cl = cl->next) {
        cl->buf->pos = cl->buf->last;
    }

    b = ngx_calloc_buf(r->pool);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->pos = ctx->answer.data;
    b->last = b->pos + ctx->answer.len;
    b->memory = 1;
    b->last_buf = 1;
    b->last_in_chain = 1;

    ctx->answer.len = 0;

    out.buf = b;
    out.next = NULL;

    return ngx_http_next_body_filter(r, &out);
}
