
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_FORWARD_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_FORWARD_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_event.h"
#include "ngx_http_taptalent_zone.h"
#include "ngx_http_taptalent_commit.h"


/*
 * The events of a spool go to the application.  One worker of all forwards a
 * spool; what fails it tries again, and gives up in the end.  This header is
 * for those who configure that and start it.
 */


typedef struct {
    ngx_msec_t                     initial;
    ngx_msec_t                     max;
    time_t                         max_age;
    ngx_array_t                   *permanent;   /* of ngx_uint_t, statuses */
} ngx_http_taptalent_retry_t;


typedef struct ngx_http_taptalent_queue_s  ngx_http_taptalent_queue_t;


typedef struct {
    ngx_http_complex_value_t      *uri;
    ngx_uint_t                     concurrency;
    ngx_uint_t                     queue;       /* events, without a spool */
    ngx_msec_t                     timeout;     /* of one attempt */
    ngx_str_t                      confirm;     /* or empty */
    ngx_http_conf_ctx_t           *conf_ctx;    /* of the location */
    ngx_http_taptalent_retry_t     retry;
    ngx_http_taptalent_zone_t     *zone;        /* or NULL */
    ngx_http_taptalent_zone_spool_t  *stats;    /* or NULL */
    ngx_http_taptalent_queue_t    *q;           /* of a worker */
    unsigned                       queued:1;    /* "queue" is set */
} ngx_http_taptalent_forward_t;


/*
 * For a worker, after the fork and ngx_http_taptalent_commit_init(): from now
 * on it tries to be the one who forwards.  Without a spool, "commit" is NULL,
 * each worker forwards what it is given.  "forward" stays the caller's.
 * NGX_ERROR without memory.
 */
ngx_int_t ngx_http_taptalent_owner_init(ngx_http_taptalent_commit_t *commit,
    ngx_http_taptalent_forward_t *forward, ngx_cycle_t *cycle);

/*
 * Without a spool: whether there is room for one more event, and the event
 * into the queue, of which a copy is made.  NGX_DECLINED if it is full,
 * NGX_ERROR without memory.
 */
ngx_int_t ngx_http_taptalent_queue_room(ngx_http_taptalent_forward_t *forward);
ngx_int_t ngx_http_taptalent_queue_put(ngx_http_taptalent_forward_t *forward,
    ngx_http_taptalent_event_t *ev);


#endif /* _NGX_HTTP_TAPTALENT_FORWARD_H_INCLUDED_ */
