
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_COMMIT_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_COMMIT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#if (NGX_THREADS)
#include <ngx_thread_pool.h>
#endif
#include "ngx_http_taptalent_spool.h"
#include "ngx_http_taptalent_zone.h"
#include "ngx_http_taptalent_dedup.h"


/*
 * Group commit: while a group is being made durable, the lines that arrive
 * gather and become the next one.  Of the requests it knows only that somebody
 * waits.
 */


/* free inodes, fewer are too few; a quarantine leaves some for spools */

#define NGX_HTTP_TAPTALENT_INODES    16
#define NGX_HTTP_TAPTALENT_RESERVED  1024


typedef struct ngx_http_taptalent_waiter_s  ngx_http_taptalent_waiter_t;

/* rc: NGX_OK is durable, NGX_ERROR is not, NGX_AGAIN is not known in time */

typedef void (*ngx_http_taptalent_waiter_pt)(ngx_http_taptalent_waiter_t *w,
    ngx_int_t rc);

struct ngx_http_taptalent_waiter_s {
    ngx_queue_t                        queue;
    ngx_msec_t                         deadline;
    ngx_http_taptalent_waiter_pt       handler;
    void                              *data;
    unsigned                           waiting:1;
};


typedef struct {
    ngx_http_taptalent_group_t         group;
    size_t                             size;     /* of group.data */
    ngx_queue_t                        waiters;
    u_char                            *ids;      /* of its events, or NULL */
    ngx_uint_t                         nids;     /* that there is room for */
    unsigned                           forgetful:1;  /* there was no memory */
} ngx_http_taptalent_batch_t;


/*
 * What the last commit, or the last attempt to open the spool, has come to.
 * OK -> FAILED: an error, events are refused but for one each second, which
 * tries.  FAILED -> OK: that one is durable, or the spool is open.
 * OK, FAILED -> BROKEN: an error of the disk, until reload.
 */

typedef enum {
    NGX_HTTP_TAPTALENT_COMMIT_OK = 0,
    NGX_HTTP_TAPTALENT_COMMIT_FAILED,
    NGX_HTTP_TAPTALENT_COMMIT_BROKEN
} ngx_http_taptalent_commit_state_e;


typedef struct {
    /* ngx_event_ident() reads a timer's data as a connection */
    void                              *ident[4];

    ngx_http_taptalent_spool_t         spool;

    /* the configuration */

    size_t                             buffer;
    off_t                              min_free;
    off_t                              max_size; /* of a quarantine, or 0 */
    u_char                            *file;     /* where it is declared */
    ngx_uint_t                         line;
    unsigned                           used:1;
    unsigned                           dedup:1;  /* ids are remembered */
#if (NGX_THREADS)
    ngx_thread_pool_t                 *thread_pool;
    ngx_thread_task_t                 *task;
#endif
    ngx_http_taptalent_zone_t         *zone;     /* or NULL */
    ngx_http_taptalent_zone_spool_t   *stats;    /* or NULL */

    /* of a worker */

    ngx_http_taptalent_batch_t         batches[2];
    ngx_http_taptalent_batch_t        *gathering;
    ngx_http_taptalent_batch_t        *committing;  /* or NULL */

    ngx_event_t                        start;       /* posted */
    ngx_event_t                        timer;

    ngx_int_t                          rc;          /* of the last commit */
    uint64_t                           usec;        /* that it took */

    /* the thread's: what a quarantine held, and what has come since */

    off_t                              held;
    off_t                              added;
    ngx_int_t                          workers;
    ngx_http_taptalent_spool_error_t   error;

    ngx_msec_t                         probe;       /* next one if failed */
    ngx_http_taptalent_commit_state_e  state;
    unsigned                           slow:1;      /* and logged */

    ngx_msec_t                         measured;
    off_t                              free_bytes;
    uint64_t                           free_inodes;
    unsigned                           known:1;     /* the two above */
    unsigned                           low:1;       /* and they are */
} ngx_http_taptalent_commit_t;


/* for a worker, after the fork; "log" is the cycle's */
void ngx_http_taptalent_commit_init(ngx_http_taptalent_commit_t *c,
    ngx_log_t *log);

/* when no commit runs any more; does nothing without ..._commit_init() */
void ngx_http_taptalent_commit_close(ngx_http_taptalent_commit_t *c);

/*
 * Opens the spool, which may have failed before.  NGX_ERROR if it fails, which
 * has been counted and logged.
 */
ngx_int_t ngx_http_taptalent_commit_open(ngx_http_taptalent_commit_t *c);

/* whether so much free space is too little, and events are refused */
ngx_uint_t ngx_http_taptalent_commit_low(ngx_http_taptalent_commit_t *c,
    off_t bytes, uint64_t inodes);

/*
 * Whether an event of about "len" bytes may come: NGX_OK, or NGX_DECLINED
 * with *why set to a constant text for the log.
 */
ngx_int_t ngx_http_taptalent_commit_ready(ngx_http_taptalent_commit_t *c,
    size_t len, const char **why);

/*
 * Memory for a line of at most "len" bytes, valid until the next call of any
 * of these functions.  NULL, and *why as above, if there is none, or if the
 * buffer has been filled or the spool has failed since it was ready.  Call it
 * once for an event that is to be added: after a failure it lets one through
 * each second, to see.
 */
u_char *ngx_http_taptalent_commit_reserve(ngx_http_taptalent_commit_t *c,
    size_t len, const char **why);

/*
 * The event's line is there and ends before "last".  The waiter, whose memory
 * is the caller's, or NULL, is told once, at the latest after "timeout"
 * milliseconds, and never before this function has returned.
 */
void ngx_http_taptalent_commit_add(ngx_http_taptalent_commit_t *c,
    u_char *last, ngx_str_t *id, ngx_http_taptalent_waiter_t *w,
    ngx_msec_t timeout);

/* the number of events that wait for the disk, each in one of two commits */
ngx_uint_t ngx_http_taptalent_commit_waiting(ngx_http_taptalent_commit_t *c);

/* nobody waits any more; the line is committed all the same */
void ngx_http_taptalent_commit_detach(ngx_http_taptalent_waiter_t *w);


#endif /* _NGX_HTTP_TAPTALENT_COMMIT_H_INCLUDED_ */
