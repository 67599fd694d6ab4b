
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_STATUS_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_STATUS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"
#include "ngx_http_taptalent_status_writer.h"


/* What the zone has counted, as text: status pages and metrics. */


char *ngx_http_taptalent_webhook_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* the content handler of a status location */
ngx_int_t ngx_http_taptalent_status_handler(ngx_http_request_t *r);

/* postconfiguration: what the page says of itself; NGX_ERROR without OpenSSL */
ngx_int_t ngx_http_taptalent_status_init(ngx_conf_t *cf);


/* for the status location: the forms */
void ngx_http_taptalent_status_json(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_main_conf_t *tmcf);
void ngx_http_taptalent_status_prometheus(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_main_conf_t *tmcf);


#endif /* _NGX_HTTP_TAPTALENT_STATUS_H_INCLUDED_ */
