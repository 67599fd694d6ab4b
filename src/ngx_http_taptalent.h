
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_event.h"
#include "ngx_http_taptalent_line.h"
#include "ngx_http_taptalent_signature.h"
#include "ngx_http_taptalent_commit.h"
#include "ngx_http_taptalent_queue.h"
#include "ngx_http_taptalent_zone.h"


#define NGX_HTTP_TAPTALENT_VERSION    "0.1.1"


#define NGX_HTTP_TAPTALENT_OFF        0
#define NGX_HTTP_TAPTALENT_ON         1
#define NGX_HTTP_TAPTALENT_RECEIVER   2

/* 255m: v->len has 28 bits, and "set" may put some text around it */

#define NGX_HTTP_TAPTALENT_MAX_VALUE  267386880

#define NGX_HTTP_TAPTALENT_REPEATED   3600000  /* ms, known in quarantine */

#define NGX_HTTP_TAPTALENT_BRIEF      0
#define NGX_HTTP_TAPTALENT_FULL       1

#define NGX_HTTP_TAPTALENT_NO_STATUS  0
#define NGX_HTTP_TAPTALENT_ACCEPT     1   /* the Accept header decides */
#define NGX_HTTP_TAPTALENT_HTML       2
#define NGX_HTTP_TAPTALENT_PROMETHEUS 3
#define NGX_HTTP_TAPTALENT_STATUS_JSON  4


typedef struct {
    ngx_http_taptalent_commit_t   commit;
    ngx_http_taptalent_forward_t *forward;   /* or NULL */
} ngx_http_taptalent_spool_conf_t;


typedef struct {
    ngx_array_t                   spools;    /* of spool_conf_t * */
    ngx_array_t                   forwards;  /* of forward_t *, no spool */
    ngx_array_t                   locations; /* of loc_conf_t *, on */
    ssize_t                       zone_size; /* 0: off */
    u_char                       *zone_file; /* where it is set */
    ngx_uint_t                    zone_line;
    ngx_http_taptalent_zone_t    *zone;      /* or NULL */
    ngx_msec_t                    window;    /* the longest of dedup */
    unsigned                      used:1;
    unsigned                      status:1;  /* somebody may look */
} ngx_http_taptalent_main_conf_t;


typedef struct {
    ngx_str_t                     header;    /* in lower case */
    ngx_http_taptalent_scheme_t   scheme;
    ngx_array_t                   keys;      /* of ngx_str_t, decoded */
    ngx_array_t                   headers;   /* that are signed and stored */
    ngx_http_complex_value_t     *text;      /* what is signed, or the body */
    ngx_http_complex_value_t     *time;      /* or NULL */
    time_t                        tolerance; /* 0: any time */
} ngx_http_taptalent_signature_t;


typedef struct {
    ngx_uint_t                    mode;      /* not inherited */
    u_char                       *file;      /* where the mode is set */
    ngx_uint_t                    line;
    ngx_http_conf_ctx_t          *conf_ctx;

    ngx_flag_t                    https;
    ngx_http_complex_value_t     *https_value;   /* instead, or NULL */

    ngx_array_t                  *companies; /* of complex values */
    ngx_flag_t                    any_company;
    ngx_flag_t                    missing_company;

    ngx_array_t                  *keys;      /* of digests of X-Webhook-Key */
    time_t                        tolerance; /* 0: any time */
    ngx_http_taptalent_signature_t *signature;   /* or NULL */
    ngx_flag_t                    enforce;

    ngx_array_t                  *events;    /* of patterns, ngx_str_t */

    ngx_http_taptalent_spool_conf_t  *spool;
    ngx_http_taptalent_spool_conf_t  *quarantine;    /* or NULL */
    ngx_uint_t                    access;
    ngx_http_taptalent_forward_t *forward;
    ngx_http_taptalent_retry_t   *retry;
    ngx_msec_t                    ack_timeout;
    ngx_uint_t                    response;
    ngx_msec_t                    dedup;     /* 0: off */

    ngx_uint_t                    status;    /* not inherited */
    u_char                       *status_file;
    ngx_uint_t                    status_line;
} ngx_http_taptalent_loc_conf_t;


typedef struct {
    ngx_http_taptalent_verdict_e  verdict;
    const char                   *why;       /* of the verdict, or NULL */
    ngx_http_taptalent_verdict_e  unenforced;    /* the first, or NONE */
    const char                   *unenforced_why;
    ngx_http_taptalent_verdict_e  refused;   /* but for the quarantine */
    const char                   *refused_why;
    unsigned                      ready:1;   /* the quarantine */
    ngx_str_t                     signature; /* its header, or empty */
    ngx_str_t                     signature_time;
    ngx_http_taptalent_event_t    event;
    ngx_http_taptalent_waiter_t   waiter;
    ngx_str_t                     answer;    /* of a filter, or empty */
    ngx_http_taptalent_delivery_t  *delivery;    /* that it is, or NULL */
    unsigned                      failed:1;  /* a value could not be had */
} ngx_http_taptalent_ctx_t;


/* conf */

/* the setters, NGX_CONF_ERROR after a line that says what to write */

char *ngx_http_taptalent_webhook_https(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_company_id(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_events(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_spool(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_quarantine(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_forward(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_retry(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_spool_access(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_ack_timeout(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_response(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_dedup(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);
char *ngx_http_taptalent_webhook_zone(ngx_conf_t *cf,
    ngx_command_t *cmd, void *conf);

/*
 * For the module: what a location inherits, and, where it is on, whether it has
 * all that it needs.  NGX_CONF_ERROR after a line that says what to write.
 */
char *ngx_http_taptalent_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);

ngx_int_t ngx_http_taptalent_compile(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv);

/*
 * Whether no argument before the n-th one sets the same parameter: what stands
 * before the separator.  NGX_ERROR after a line that says so.
 */
ngx_int_t ngx_http_taptalent_conf_once(ngx_conf_t *cf, ngx_uint_t n,
    u_char separator);

/* NULL without memory */
ngx_http_taptalent_retry_t *ngx_http_taptalent_default_retry(
    ngx_conf_t *cf);


/* whether both, or NULL, send an event to the same place in the same way */
ngx_uint_t ngx_http_taptalent_forward_conf_same(
    ngx_http_taptalent_forward_t *one, ngx_http_taptalent_forward_t *two);

/*
 * What the location uses becomes its own, or what another one uses already.
 * NGX_CONF_ERROR after a line that says what to write.
 */
char *ngx_http_taptalent_use_forward(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
char *ngx_http_taptalent_use_spool(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
char *ngx_http_taptalent_use_quarantine(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);

/* postconfiguration: the shared memory, if anything is counted */
ngx_int_t ngx_http_taptalent_add_zone(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf);

/* postconfiguration: makes what is missing, or, with "nginx -t", says it */
ngx_int_t ngx_http_taptalent_make_spools(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf);


/* process */

/* for the module */
ngx_int_t ngx_http_taptalent_init_module(ngx_cycle_t *cycle);
ngx_int_t ngx_http_taptalent_init_process(ngx_cycle_t *cycle);
void ngx_http_taptalent_exit_process(ngx_cycle_t *cycle);


/* check */

/* remembers a location with "taptalent_webhook on"; NGX_ERROR without memory */
ngx_int_t ngx_http_taptalent_add_location(ngx_conf_t *cf,
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


/* verify_conf */

#define NGX_HTTP_TAPTALENT_MAX_SECRET  4096

/*
 * Sets "secret" to the value itself, or, after "file:", to what is in the
 * file, in a buffer of NGX_HTTP_TAPTALENT_MAX_SECRET + 1 bytes.
 */
ngx_int_t ngx_http_taptalent_secret(ngx_conf_t *cf, ngx_str_t *value,
    u_char *buf, ngx_str_t *secret);

char *ngx_http_taptalent_webhook_key(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
char *ngx_http_taptalent_webhook_tolerance(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* signature_conf */

char *ngx_http_taptalent_webhook_signature(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);


/* verify */

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


/* respond */

/* logs and sends the answer; what it returns is for finalization */
ngx_int_t ngx_http_taptalent_respond(ngx_http_request_t *r,
    ngx_http_taptalent_ctx_t *ctx, ngx_http_taptalent_verdict_e verdict);

/* postconfiguration: nginx's own 413 gets a verdict too */
void ngx_http_taptalent_respond_init(void);


/* status */

char *ngx_http_taptalent_webhook_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* the content handler of a status location */
ngx_int_t ngx_http_taptalent_status_handler(ngx_http_request_t *r);

/* postconfiguration: what the page says of itself; NGX_ERROR without OpenSSL */
ngx_int_t ngx_http_taptalent_status_init(ngx_conf_t *cf);


/* variables */

/* preconfiguration; NGX_ERROR without memory */
ngx_int_t ngx_http_taptalent_add_variables(ngx_conf_t *cf);


/* the module */

/* the content handler of a location with "taptalent_webhook" */
ngx_int_t ngx_http_taptalent_handler(ngx_http_request_t *r);


extern ngx_module_t  ngx_http_taptalent_webhook_module;


#endif /* _NGX_HTTP_TAPTALENT_H_INCLUDED_ */
