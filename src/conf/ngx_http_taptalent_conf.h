
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_CONF_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_CONF_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"


/*
 * The directives.  A setter, webhook_*, returns NGX_CONF_ERROR after a line
 * that says what to write, or a text that nginx puts into its own line.
 */


/* conf.c */

char *ngx_http_taptalent_webhook_https(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_company_id(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_events(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_ack_timeout(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_response(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/*
 * For the module: what a location inherits, and, where it is on, whether it has
 * all that it needs.  "handler" is the content handler of a location that is on
 * or a receiver.  NGX_CONF_ERROR after a line that says what to write.
 */
char *ngx_http_taptalent_conf_merge(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *prev, ngx_http_taptalent_loc_conf_t *conf,
    ngx_http_handler_pt handler);


/* spool_conf.c */

char *ngx_http_taptalent_webhook_spool(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_spool_access(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_quarantine(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/*
 * What the location uses becomes its own, or what another one uses already.
 * NGX_CONF_ERROR after a line that says what to write.
 */
char *ngx_http_taptalent_spool_conf_use(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
char *ngx_http_taptalent_spool_conf_use_quarantine(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);

/* postconfiguration: makes what is missing, or, with "nginx -t", says it */
ngx_int_t ngx_http_taptalent_spool_conf_make(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf);


/* forward_conf.c */

char *ngx_http_taptalent_webhook_forward(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_retry(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* the same for the destination; NGX_CONF_ERROR without memory */
char *ngx_http_taptalent_forward_conf_use(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);

/* whether both, or NULL, send an event to the same place in the same way */
ngx_uint_t ngx_http_taptalent_forward_conf_same(
    ngx_http_taptalent_forward_t *one, ngx_http_taptalent_forward_t *two);


/* zone_conf.c */

char *ngx_http_taptalent_webhook_dedup(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* postconfiguration: the shared memory, if anything is counted */
ngx_int_t ngx_http_taptalent_zone_conf_add(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf);


/* verify_conf.c */

char *ngx_http_taptalent_webhook_key(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_tolerance(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* signature_conf.c */

char *ngx_http_taptalent_webhook_signature(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


#endif /* _NGX_HTTP_TAPTALENT_CONF_H_INCLUDED_ */
