
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_LINE_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_LINE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_event.h"


/*
 * The line of an event in the spool, docs/spool.md: all that writes one or
 * reads one.  Knows neither requests nor files.
 */


/* the largest number of bytes that ngx_http_taptalent_event_write() writes */
size_t ngx_http_taptalent_event_len(ngx_http_taptalent_event_t *ev);

/*
 * Writes the event's line, with its LF, to "p", and returns the end of it.
 * The format is in docs/spool.md.  The event must have been parsed and have
 * its id.
 */
u_char *ngx_http_taptalent_event_write(ngx_http_taptalent_event_t *ev,
    u_char *p);

/*
 * Reads a line back, with or without its LF.  What the event and "received"
 * point to is in the line or in the pool; ev->received is to the microsecond,
 * or when the event was given up, to the second, if that is later.
 * NGX_DECLINED for a version that is not known, NGX_ERROR if this is no line of
 * a spool, NGX_ABORT without memory.
 */
ngx_int_t ngx_http_taptalent_event_read(ngx_http_taptalent_event_t *ev,
    ngx_str_t *received, ngx_str_t *line, ngx_pool_t *pool);


#endif /* _NGX_HTTP_TAPTALENT_LINE_H_INCLUDED_ */
