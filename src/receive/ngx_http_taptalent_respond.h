
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_RESPOND_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_RESPOND_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"


/* logs and sends the answer; what it returns is for finalization */
ngx_int_t ngx_http_taptalent_respond(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_verdict_e verdict);

/* postconfiguration: nginx's own 413 gets a verdict too */
void ngx_http_taptalent_respond_init(void);


#endif /* _NGX_HTTP_TAPTALENT_RESPOND_H_INCLUDED_ */
