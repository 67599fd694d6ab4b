
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
#include "ngx_http_taptalent_forward.h"
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
    struct ngx_http_taptalent_delivery_s  *delivery; /* it is one, or NULL */
    unsigned                      failed:1;  /* a value could not be had */
} ngx_http_taptalent_ctx_t;


extern ngx_module_t  ngx_http_taptalent_webhook_module;


#endif /* _NGX_HTTP_TAPTALENT_H_INCLUDED_ */
