
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_PROCESS_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_PROCESS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"


/* for the module */
ngx_int_t ngx_http_taptalent_process_init_module(ngx_cycle_t *cycle);
ngx_int_t ngx_http_taptalent_process_init(ngx_cycle_t *cycle);
void ngx_http_taptalent_process_exit(ngx_cycle_t *cycle);


#endif /* _NGX_HTTP_TAPTALENT_PROCESS_H_INCLUDED_ */
