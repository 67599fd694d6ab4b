
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_VARIABLES_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_VARIABLES_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"


/* preconfiguration; NGX_ERROR without memory */
ngx_int_t ngx_http_taptalent_variables_add(ngx_conf_t *cf);


#endif /* _NGX_HTTP_TAPTALENT_VARIABLES_H_INCLUDED_ */
