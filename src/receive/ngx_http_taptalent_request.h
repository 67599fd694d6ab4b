
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_REQUEST_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_REQUEST_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"


/* the context of the request, made if there is none; NULL without memory */
ngx_http_taptalent_ctx_t *ngx_http_taptalent_request_ctx(ngx_http_request_t *r);

/*
 * Whether all of the body can still be read, or has been: another handler may
 * have begun to read it.
 */
ngx_uint_t ngx_http_taptalent_request_body_is_whole(ngx_http_request_t *r);

/*
 * Sets "body" to the body that nginx has read, in one piece, in memory of the
 * request.  NGX_OK, or the status of the error.
 */
ngx_int_t ngx_http_taptalent_request_read_body(ngx_http_request_t *r,
    ngx_str_t *body);

/* adds a header to the answer, of constant strings; NGX_ERROR without memory */
ngx_int_t ngx_http_taptalent_request_add_header(ngx_http_request_t *r,
    char *name, char *value);


#endif /* _NGX_HTTP_TAPTALENT_REQUEST_H_INCLUDED_ */
