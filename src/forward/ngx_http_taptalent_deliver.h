
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_DELIVER_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_DELIVER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_event.h"


/*
 * One event to one internal location, once.  Knows neither the spool nor when
 * to try again.
 */


typedef struct ngx_http_taptalent_delivery_s  ngx_http_taptalent_delivery_t;

typedef void (*ngx_http_taptalent_delivery_pt)(
    ngx_http_taptalent_delivery_t *d);

struct ngx_http_taptalent_delivery_s {
    /* set by the caller, who keeps what they point to until the end */

    ngx_http_taptalent_event_t       event;      /* with its id */
    ngx_str_t                        received;   /* for X-Webhook-Received */
    ngx_uint_t                       attempt;    /* 1, 2, ... */
    ngx_http_conf_ctx_t             *conf_ctx;   /* of the server */
    ngx_http_complex_value_t        *forward;
    ngx_str_t                        confirm;    /* in a 2xx, or empty */
    ngx_msec_t                       timeout;    /* of all of it, 0: none */
    ngx_http_taptalent_delivery_pt   handler;
    void                            *data;

    /* set by ngx_http_taptalent_delivery_create(), until sent or freed */

    ngx_str_t                        uri;

    /* set for the handler */

    ngx_uint_t                       status;       /* of HTTP, 0 for none */
    ngx_uint_t                       retry_after;  /* seconds, 0 for none */
    unsigned                         unconfirmed:1;  /* a 2xx that is none */
    unsigned                         timed_out:1;  /* the status is 0 then */

    /*
     * Unset if nginx has got no connection to any peer: refused, timed out, no
     * live upstreams, a name that is not known, no handshake of TLS.  Set where
     * no upstream was asked.
     */

    unsigned                         connected:1;

    void                            *ctx;
};


/* postconfiguration; NGX_ERROR without memory */
ngx_int_t ngx_http_taptalent_deliver_request_init(ngx_conf_t *cf);

/* makes the request and evaluates its uri; NGX_ERROR without memory */
ngx_int_t ngx_http_taptalent_delivery_create(
    ngx_http_taptalent_delivery_t *d, ngx_log_t *log);

/*
 * Sends it.  The handler is called once, from the event loop, never before
 * this function has returned; the delivery is freed by then.  With a timeout
 * that is at the latest when it has passed, or, if a thread works for the
 * delivery then, soon after that.
 */
void ngx_http_taptalent_delivery_send(ngx_http_taptalent_delivery_t *d);

/* instead of sending it, or to break it off: the handler is not called */
void ngx_http_taptalent_delivery_free(ngx_http_taptalent_delivery_t *d);

/*
 * For the filters, of any request: before the header of an answer is sent, and
 * with its body, bit by bit, which is taken.  NGX_DECLINED if it is not that of
 * the answer to a delivery and has to go on.
 */
void ngx_http_taptalent_deliver_answer_header(ngx_http_request_t *r);
ngx_int_t ngx_http_taptalent_deliver_answer_body(ngx_http_request_t *r,
    ngx_chain_t *in);

/* true while a thread works for it, and it must not be freed */
ngx_uint_t ngx_http_taptalent_delivery_blocked(
    ngx_http_taptalent_delivery_t *d);


#endif /* _NGX_HTTP_TAPTALENT_DELIVER_H_INCLUDED_ */
