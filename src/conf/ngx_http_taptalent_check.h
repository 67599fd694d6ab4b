
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_CHECK_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_CHECK_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"


/* remembers a location with "taptalent_webhook on"; NGX_ERROR without memory */
ngx_int_t ngx_http_taptalent_check_add_location(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);

/*
 * postconfiguration: no spool is another one, or inside of one, whatever their
 * names.  NGX_ERROR after a line that says what to write.
 */
ngx_int_t ngx_http_taptalent_check_spools(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf);

/* postconfiguration: events get into and out of these locations; the same */
ngx_int_t ngx_http_taptalent_check_locations(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf);

/* warn of a spool whose disk, or way there, has every event refused */
void ngx_http_taptalent_check_disk(ngx_http_taptalent_commit_t *c,
    ngx_log_t *log);
void ngx_http_taptalent_check_way(ngx_http_taptalent_commit_t *c,
    ngx_core_conf_t *ccf, ngx_log_t *log);


#endif /* _NGX_HTTP_TAPTALENT_CHECK_H_INCLUDED_ */
