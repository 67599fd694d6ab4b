
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_HEADERS_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_HEADERS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_event.h"


/*
 * Sets the event's headers to those of the request that the spool keeps, in
 * memory of the request.  NGX_ERROR without memory.
 */
ngx_int_t ngx_http_taptalent_headers_keep(ngx_http_request_t *r,
    ngx_http_taptalent_event_t *ev);


#endif /* _NGX_HTTP_TAPTALENT_HEADERS_H_INCLUDED_ */
