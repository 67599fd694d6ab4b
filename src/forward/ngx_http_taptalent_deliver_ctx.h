
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_DELIVER_CTX_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_DELIVER_CTX_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent.h"
#include "ngx_http_taptalent_deliver.h"


/* a delivery that has begun, for the files deliver*.c */


typedef struct {
    ngx_http_taptalent_ctx_t         ctx;        /* for the variables */

    ngx_connection_t                 connection;
    ngx_event_t                      read;
    ngx_event_t                      write;
    ngx_event_t                      done;
    ngx_event_t                      timer;
    ngx_log_t                        log;
    ngx_http_log_ctx_t               log_ctx;
    ngx_http_connection_t            http_connection;
    struct sockaddr_in               sockaddr;
    struct sockaddr_in               local_sockaddr;

    ngx_http_request_t              *request;
    ngx_http_request_t              *subrequest;
    ngx_str_t                        args;
    ngx_int_t                        code;       /* instead of an answer */
    size_t                           matched;    /* of d->confirm */

    /* of the upstream that answers */

    void                           (*finalize_request)(ngx_http_request_t *r,
                                         ngx_int_t rc);

    unsigned                         sent:1;
    unsigned                         local:1;    /* no upstream answers */
    unsigned                         ended:1;    /* the answer of one */
    unsigned                         closed:1;
} ngx_http_taptalent_deliver_ctx_t;


/*
 * deliver_request: the delivery whose subrequest this is, or NULL.  The context
 * of the subrequest is gone after an internal redirect, that of its parent
 * stays.  Subrequests of the subrequest are not the answer.
 */
ngx_http_taptalent_deliver_ctx_t *ngx_http_taptalent_deliver_request_ctx(
    ngx_http_request_t *r);

/* the parts of dctx->request; NGX_ERROR without memory */

ngx_int_t ngx_http_taptalent_deliver_request_headers(
    ngx_http_taptalent_deliver_ctx_t *dctx);
ngx_int_t ngx_http_taptalent_deliver_request_body(
    ngx_http_taptalent_deliver_ctx_t *dctx);

/* the same for d->uri; r->uri is empty if it is not valid, which is logged */
ngx_int_t ngx_http_taptalent_deliver_request_uri(
    ngx_http_taptalent_deliver_ctx_t *dctx);


/*
 * deliver_answer: the handler of the subrequest, whose data is the context.
 * Sets what the answer says in the delivery.
 */
ngx_int_t ngx_http_taptalent_deliver_answer_ended(ngx_http_request_t *r,
    void *data, ngx_int_t rc);


#endif /* _NGX_HTTP_TAPTALENT_DELIVER_CTX_H_INCLUDED_ */
