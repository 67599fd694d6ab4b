
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_STATUS_WRITER_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_STATUS_WRITER_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_zone.h"


typedef struct {
    ngx_pool_t      *pool;
    ngx_chain_t     *out;
    ngx_chain_t    **last;
    ngx_buf_t       *buf;
    off_t            size;      /* of all */
    unsigned         failed:1;  /* no memory */
} ngx_http_taptalent_writer_t;


/* a value that changes as it is read is read once */

typedef struct {
    uint64_t           sum;
    ngx_atomic_uint_t  buckets[NGX_HTTP_TAPTALENT_BUCKETS];  /* cumulative */
    ngx_atomic_uint_t  count;
} ngx_http_taptalent_distribution_t;


/* appends what the format of ngx_sprintf() makes, up to 4 kilobytes */
void ngx_http_taptalent_status_write(ngx_http_taptalent_writer_t *w,
    const char *fmt, ...);

/*
 * Appends the string in quotes, escaped for JSON or as the value of a label of
 * Prometheus.  What is not UTF-8 becomes question marks.
 */
void ngx_http_taptalent_status_write_string(ngx_http_taptalent_writer_t *w,
    ngx_str_t *s);
void ngx_http_taptalent_status_write_label(ngx_http_taptalent_writer_t *w,
    ngx_str_t *s);

/* the same of a distribution's sum, in the unit that is shown */
void ngx_http_taptalent_status_write_sum(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_distribution_t *d, ngx_http_taptalent_scale_t *scale);

void ngx_http_taptalent_status_write_histogram(
    ngx_http_taptalent_histogram_t *h, ngx_http_taptalent_scale_t *scale,
    ngx_http_taptalent_distribution_t *d);


#endif /* _NGX_HTTP_TAPTALENT_STATUS_WRITER_H_INCLUDED_ */
