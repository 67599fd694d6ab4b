
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_SPOOL_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_SPOOL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>


/*
 * The spool on disk, whose format is in docs/spool.md: directories are the
 * states, rename() is the transition.  Knows neither requests, nor events of
 * the loop, nor threads; all functions block, and log nothing but where they
 * have a log.
 */


/* "20261123T081113.123Z-<start>-<sequence>-<events>-<crc32>.ndjson" */

#define NGX_HTTP_TAPTALENT_START_LEN  16
#define NGX_HTTP_TAPTALENT_NAME_LEN                                           \
    (sizeof("20261123T081113.123Z-0123456789abcdef-0123456789-"               \
            "-01234567.ndjson") + NGX_INT64_LEN)


typedef enum {
    NGX_HTTP_TAPTALENT_TMP = 0,    /* being written */
    NGX_HTTP_TAPTALENT_NEW,        /* the queue */
    NGX_HTTP_TAPTALENT_DEAD,       /* given up */
    NGX_HTTP_TAPTALENT_CORRUPT,    /* damaged */
    NGX_HTTP_TAPTALENT_DIRS
} ngx_http_taptalent_dir_e;


typedef struct {
    /* the configuration */

    ngx_str_t         path;        /* absolute, with NUL at the end */
    ngx_path_t       *dirs[NGX_HTTP_TAPTALENT_DIRS];
    ngx_uint_t        access;      /* of files, as of chmod() */
    unsigned          sync:1;

    /* of this start of a worker, set by ngx_http_taptalent_spool_open() */

    unsigned          opened:1;
    ngx_fd_t          tmp;
    ngx_fd_t          new;
    ngx_fd_t          lock;        /* of a file in tmp/, while we live */
    u_char            start[NGX_HTTP_TAPTALENT_START_LEN + 1];
    uint64_t          sequence;
} ngx_http_taptalent_spool_t;


/* what a failed call was, for the caller to log */

typedef struct {
    ngx_err_t         err;
    const char       *call;        /* "fdatasync()" */
    const char       *dir;         /* "tmp" */
} ngx_http_taptalent_spool_error_t;


typedef struct {
    u_char           *data;
    size_t            len;
    ngx_uint_t        events;
} ngx_http_taptalent_group_t;


/*
 * For the master, at configuration: makes path if it is missing and fsyncs
 * its parent; checks that workers cannot write to it, and that what exists of
 * the four directories is one filesystem.  NGX_ERROR after a line of level
 * emerg that says what to do.
 */
ngx_int_t ngx_http_taptalent_spool_prepare(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log);

/*
 * For a worker, after the fork: opens tmp/ and new/, takes the lock of this
 * start, and removes from tmp/ what starts have left behind that are dead.
 * A second call after NGX_OK does nothing.  NGX_ERROR with *error set leaves
 * nothing open.
 */
ngx_int_t ngx_http_taptalent_spool_open(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log, ngx_http_taptalent_spool_error_t *error);

/* closes what was opened, removes the lock; does nothing if it was not */
void ngx_http_taptalent_spool_close(ngx_http_taptalent_spool_t *spool);

/*
 * Makes the group a durable file in new/.  Uses nothing but the spool and the
 * group, so that it may run in a thread, one at a time for each spool.  With
 * NGX_ERROR, and *error set, the group must not be acknowledged: nothing is
 * left of it, or, if the last fsync() failed, a file that is perhaps durable.
 */
ngx_int_t ngx_http_taptalent_spool_commit(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group,
    ngx_http_taptalent_spool_error_t *error);

/*
 * Sets *bytes and *inodes to what a user has left in the filesystem;
 * filesystems without a number of inodes have as many as there can be.
 */
ngx_int_t ngx_http_taptalent_spool_free(ngx_http_taptalent_spool_t *spool,
    off_t *bytes, uint64_t *inodes);


#endif /* _NGX_HTTP_TAPTALENT_SPOOL_H_INCLUDED_ */
