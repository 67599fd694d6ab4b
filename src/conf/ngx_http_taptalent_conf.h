
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
 * all that it needs.  NGX_CONF_ERROR after a line that says what to write.
 */
char *ngx_http_taptalent_conf_merge(ngx_conf_t *cf, void *parent,
    void *child);

/* "value" with its variables; NGX_ERROR after a line, or without memory */
ngx_int_t ngx_http_taptalent_conf_compile(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv);

/*
 * Whether no argument before the n-th one sets the same parameter: what stands
 * before the separator.  NGX_ERROR after a line that says so.
 */
ngx_int_t ngx_http_taptalent_conf_once(ngx_conf_t *cf, ngx_uint_t n,
    u_char separator);


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

#define NGX_HTTP_TAPTALENT_MAX_SECRET  4096

/*
 * Sets "secret" to the value itself, or, after "file:", to what is in the
 * file, in a buffer of NGX_HTTP_TAPTALENT_MAX_SECRET + 1 bytes.
 */
ngx_int_t ngx_http_taptalent_verify_conf_secret(ngx_conf_t *cf,
    ngx_str_t *value, u_char *buf, ngx_str_t *secret);


/* signature_conf.c */

char *ngx_http_taptalent_webhook_signature(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


#endif /* _NGX_HTTP_TAPTALENT_CONF_H_INCLUDED_ */
