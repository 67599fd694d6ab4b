
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_SPOOL_NAME_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_SPOOL_NAME_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * The names of the files of a spool.  All that makes a name or takes one apart
 * is here; nothing here touches a file.  The caller owns the memory of a name,
 * and each name that is made has NUL at its end.
 */


#define NGX_HTTP_TAPTALENT_START_LEN  16

/* with NUL, as the two below */

#define NGX_HTTP_TAPTALENT_NAME_LEN                                           \
    (sizeof("20261123T081113.123Z-0123456789abcdef-0123456789-"               \
            "-01234567.ndjson") + NGX_INT64_LEN)

#define NGX_HTTP_TAPTALENT_LOCK_LEN                                           \
    (NGX_HTTP_TAPTALENT_START_LEN + sizeof(".lock"))

#define NGX_HTTP_TAPTALENT_SIDECAR_LEN  (NAME_MAX + sizeof(".done"))

/* the locks in tmp/ that are of no start */

#define NGX_HTTP_TAPTALENT_RECOVER_LOCK  "recover.lock"
#define NGX_HTTP_TAPTALENT_FORWARD_LOCK  "forward.lock"


/*
 * Writes the name of a commit that begins now, of NGX_HTTP_TAPTALENT_NAME_LEN
 * bytes at most.  "start" is the random part that a worker takes when it
 * starts, in hex digits.
 */
void ngx_http_taptalent_spool_name(u_char *name, u_char *start,
    uint64_t sequence, ngx_uint_t events, uint32_t crc);

/*
 * Writes the name of a dead letter, of at most NAME_MAX + 1 bytes: after the
 * name of the file and the line that it comes from, so that two equal lines are
 * two dead letters, and a line that is given up again has the name it had.
 */
void ngx_http_taptalent_spool_name_dead(u_char *name, u_char *source,
    ngx_uint_t line, uint32_t crc);

/*
 * Writes the name of a file in corrupt/, the n-th one that is tried, counted
 * from 0: its own, and then others.
 */
void ngx_http_taptalent_spool_name_corrupt(u_char *to, u_char *name,
    ngx_uint_t n);

/* writes the name of the lock of a start; "start" needs no NUL */
void ngx_http_taptalent_spool_name_lock(u_char *name, u_char *start);

/* writes the name of the sidecar of a file, which says what is done of it */
void ngx_http_taptalent_spool_name_sidecar(u_char *sidecar, u_char *name);


/* true for a file of events, whoever has named it; "len" is without NUL */
ngx_uint_t ngx_http_taptalent_spool_name_is_file(u_char *name, size_t len);

/* true for what is beside a file */
ngx_uint_t ngx_http_taptalent_spool_name_is_sidecar(u_char *name, size_t len);

/*
 * Writes the name of the file that a sidecar belongs to, of NAME_MAX + 1 bytes
 * at most.  NGX_DECLINED if this is no sidecar of a file of events.
 */
ngx_int_t ngx_http_taptalent_spool_name_of_sidecar(u_char *name,
    u_char *sidecar, size_t len);

/*
 * The start in the name of a lock or of a file that nginx writes, a pointer
 * into the name; NULL for any other name.
 */
u_char *ngx_http_taptalent_spool_name_start(u_char *name);

/*
 * Sets *crc to the checksum in a name that nginx has made, before which there
 * is the number of events.  NGX_DECLINED for any other name: its last word may
 * be a date.
 */
ngx_int_t ngx_http_taptalent_spool_name_crc(u_char *name, uint32_t *crc);

/*
 * As above, and returns the number of events; NGX_ERROR if that is no number.
 */
ngx_int_t ngx_http_taptalent_spool_name_events(u_char *name, uint32_t *crc);

/*
 * The time at the front of a name, in seconds since the epoch.  NGX_ERROR for a
 * name that does not begin with one.
 */
time_t ngx_http_taptalent_spool_name_time(u_char *name, size_t len);

/*
 * Sets *value to what eight hex digits say, as a checksum is written.
 * NGX_DECLINED for other characters.
 */
ngx_int_t ngx_http_taptalent_spool_name_hex(u_char *p, uint32_t *value);


#endif /* _NGX_HTTP_TAPTALENT_SPOOL_NAME_H_INCLUDED_ */
