
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_VERIFY_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_VERIFY_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"


/*
 * All that the head of a request can tell.  Sets the name and the timestamp
 * in the context's event, in memory of the request.
 */
ngx_http_taptalent_verdict_e ngx_http_taptalent_verify_head(
    ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx);

/*
 * The same for the body, which is read and contiguous in the event.  Sets the
 * rest of the event, its headers too, if there is nothing against it.
 */
ngx_http_taptalent_verdict_e ngx_http_taptalent_verify_body(
    ngx_http_request_t *r, ngx_http_taptalent_ctx_t *ctx);


#endif /* _NGX_HTTP_TAPTALENT_VERIFY_H_INCLUDED_ */
