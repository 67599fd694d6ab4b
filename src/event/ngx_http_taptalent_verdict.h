
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_VERDICT_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_VERDICT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/* What becomes of an event: one word and one status for each outcome. */


/* the order is that of the table, and that of the checks */

typedef enum {
    NGX_HTTP_TAPTALENT_NONE = 0,
    NGX_HTTP_TAPTALENT_ACCEPTED,
    NGX_HTTP_TAPTALENT_DUPLICATE,
    NGX_HTTP_TAPTALENT_IGNORED,
    NGX_HTTP_TAPTALENT_METHOD,
    NGX_HTTP_TAPTALENT_HTTPS_REQUIRED,
    NGX_HTTP_TAPTALENT_CONTENT_TYPE,
    NGX_HTTP_TAPTALENT_CONTENT_ENCODING,
    NGX_HTTP_TAPTALENT_EVENT_HEADER,
    NGX_HTTP_TAPTALENT_TIMESTAMP_HEADER,
    NGX_HTTP_TAPTALENT_KEY,
    NGX_HTTP_TAPTALENT_SIGNATURE,
    NGX_HTTP_TAPTALENT_TOO_LARGE,
    NGX_HTTP_TAPTALENT_JSON,
    NGX_HTTP_TAPTALENT_PAYLOAD,
    NGX_HTTP_TAPTALENT_EVENT_MISMATCH,
    NGX_HTTP_TAPTALENT_COMPANY_ID,
    NGX_HTTP_TAPTALENT_STALE,
    NGX_HTTP_TAPTALENT_UNAVAILABLE,
    NGX_HTTP_TAPTALENT_VERDICTS
} ngx_http_taptalent_verdict_e;


typedef struct {
    ngx_str_t     word;
    ngx_uint_t    status;    /* of HTTP */
    ngx_uint_t    level;     /* of the log, 0: not logged */
    const char   *message;   /* what the sender can do, or NULL */
    const char   *hint;      /* what the operator can do, or "" */
} ngx_http_taptalent_verdict_t;


/* indexed by ngx_http_taptalent_verdict_e, below NGX_HTTP_TAPTALENT_VERDICTS */
extern ngx_http_taptalent_verdict_t  ngx_http_taptalent_verdicts[];

/* whether it is one of those that "taptalent_webhook_enforce off" reports */
ngx_uint_t ngx_http_taptalent_verdict_enforceable(
    ngx_http_taptalent_verdict_e verdict);


#endif /* _NGX_HTTP_TAPTALENT_VERDICT_H_INCLUDED_ */
