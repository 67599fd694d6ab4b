
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


/* the bytes by which ngx_http_taptalent_line_is_refused() knows a line */

#define NGX_HTTP_TAPTALENT_REFUSED_LEN  (sizeof("{\"refused\":") - 1)


/* the largest number of bytes that ngx_http_taptalent_line_write() writes */
size_t ngx_http_taptalent_line_len(ngx_http_taptalent_event_t *ev);

/*
 * Writes the event's line, with its LF, to "p", and returns the end of it.
 * The format is in docs/spool.md.  The event must have been parsed and have
 * its id.
 */
u_char *ngx_http_taptalent_line_write(ngx_http_taptalent_event_t *ev,
    u_char *p);

/*
 * The same for the line of a quarantine, which begins with the verdict of the
 * event that was refused.
 */
size_t ngx_http_taptalent_line_refused_len(ngx_http_taptalent_event_t *ev,
    ngx_str_t *verdict);
u_char *ngx_http_taptalent_line_write_refused(ngx_http_taptalent_event_t *ev,
    ngx_str_t *verdict, u_char *p);

/*
 * True if the line is one of a quarantine; its first
 * NGX_HTTP_TAPTALENT_REFUSED_LEN bytes tell.
 */
ngx_uint_t ngx_http_taptalent_line_is_refused(u_char *data, size_t len);

/* the most bytes that ngx_http_taptalent_line_write_dead() writes */
size_t ngx_http_taptalent_line_dead_len(ngx_str_t *line, const char *reason);

/*
 * Writes the line of a dead letter, with its LF, to "p", and returns the end of
 * it: "line", which has no LF, with the reason, the last status, the number of
 * attempts and the time before all else.  What the line says of an earlier time
 * that it was given up is left out.
 */
u_char *ngx_http_taptalent_line_write_dead(u_char *p, ngx_str_t *line,
    const char *reason, ngx_uint_t status, ngx_uint_t attempts, time_t at);

/*
 * Reads a line back, with or without its LF.  What the event and "received"
 * point to is in the line or in the pool; ev->received is to the microsecond,
 * or when the event was given up, to the second, if that is later.
 * NGX_DECLINED for a version that is not known, NGX_ERROR if this is no line of
 * a spool, NGX_ABORT without memory.
 */
ngx_int_t ngx_http_taptalent_line_read(ngx_http_taptalent_event_t *ev,
    ngx_str_t *received, ngx_str_t *line, ngx_pool_t *pool);


#endif /* _NGX_HTTP_TAPTALENT_LINE_H_INCLUDED_ */
