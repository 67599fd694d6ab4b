
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_QUEUE_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_QUEUE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_line.h"
#include "ngx_http_taptalent_forward.h"
#include "ngx_http_taptalent_deliver.h"


/*
 * The queue of a worker and what is in it, for the files of this room.  The
 * public half is ngx_http_taptalent_forward.h.
 */


#define NGX_HTTP_TAPTALENT_DESTS     64       /* destinations told apart */
#define NGX_HTTP_TAPTALENT_WAITING   4096     /* events that wait */
#define NGX_HTTP_TAPTALENT_BYTES     8388608  /* of events in memory */
#define NGX_HTTP_TAPTALENT_PENDING   4096     /* names in the window */


/*
 * A file of new/.  NAMED -> READING: a work reads it.  READING -> LOADED: it
 * has lines.  LOADED -> TAKEN: each line has been taken, events of it are out.
 * READING, LOADED, TAKEN -> ENDED: no event of it is out, nor can be, it is to
 * be removed.  READING -> NAMED: it could not be read this time.
 * READING, TAKEN, ENDED -> LEFT: it stays in new/, and is left alone.
 * LEFT -> NAMED: there is something new at its name.  One that is removed is
 * forgotten, or NAMED if there is something new.
 */

typedef enum {
    NGX_HTTP_TAPTALENT_FILE_NAMED = 0,
    NGX_HTTP_TAPTALENT_FILE_READING,
    NGX_HTTP_TAPTALENT_FILE_LOADED,
    NGX_HTTP_TAPTALENT_FILE_TAKEN,
    NGX_HTTP_TAPTALENT_FILE_ENDED,
    NGX_HTTP_TAPTALENT_FILE_LEFT
} ngx_http_taptalent_file_state_e;


typedef struct {
    ngx_rbtree_node_t                 node;     /* first: see file_insert() */
    ngx_queue_t                       queue;    /* loaded or ended */

    ngx_http_taptalent_file_state_e   state;
    ngx_http_taptalent_content_t      content;
    u_char                           *cursor;   /* of the next line */
    ngx_uint_t                        line;     /* before it */
    ngx_uint_t                        out;      /* events not settled */
    ngx_uint_t                        left;     /* lines not done */

    /* of a work: the thread's while it runs */

    ngx_queue_t                       work;
    ngx_queue_t                       resettle; /* unsettled */
    ngx_int_t                         rc;
    ngx_uint_t                        failed;   /* items of it */
    ngx_err_t                         err;      /* of reading it, or 0 */
    ngx_uint_t                        reads;    /* that failed */
    u_char                           *text;     /* for the sidecar */
    size_t                            len;

    unsigned                          touched:1;    /* a work has it */
    unsigned                          unsettled:1;  /* is in q->unsettled */
    unsigned                          ending:1;
    unsigned                          damaged:1;
    unsigned                          counted:1;  /* as damaged, and logged */
    unsigned                          foreign:1;  /* lines of another version */
    unsigned                          unreadable:1;  /* and that is logged */
    unsigned                          changed:1;  /* told of meanwhile */

    u_char                            name[1];
} ngx_http_taptalent_file_t;


/*
 * A destination.  UP -> DOWN: it cannot be reached, or fails with several
 * events in a row.  DOWN, PROBING -> DUE: its timer, an event may be sent to
 * see.  DUE -> PROBING: one is sent.  PROBING -> DOWN: the last of these has
 * failed.  Any -> UP: an answer that is no failure of the destination.
 */

typedef enum {
    NGX_HTTP_TAPTALENT_DEST_UP = 0,
    NGX_HTTP_TAPTALENT_DEST_DOWN,
    NGX_HTTP_TAPTALENT_DEST_DUE,
    NGX_HTTP_TAPTALENT_DEST_PROBING
} ngx_http_taptalent_dest_state_e;


/*
 * "run" is the number of the current run of failures, which an answer that is
 * none ends.  While the destination is down its events wait in the two queues,
 * and one of them is sent when it is due.
 */

typedef struct {
    ngx_str_t                         uri;
    ngx_queue_t                       fresh;    /* not tried yet */
    ngx_queue_t                       failed;
    ngx_event_t                       timer;
    void                             *ident[4];
    ngx_http_taptalent_queue_t       *owner;
    ngx_http_taptalent_zone_dest_t   *stats;    /* or NULL */
    ngx_uint_t                        run;
    ngx_uint_t                        failures; /* events of this run */
    ngx_uint_t                        asked;    /* those with Retry-After */
    ngx_uint_t                        probes;   /* since it is down */
    ngx_uint_t                        trials;   /* in flight while down */
    ngx_msec_t                        tried;    /* when the last one began */
    ngx_msec_t                        probe_at; /* the next one, at last */
    ngx_http_taptalent_dest_state_e   state;
    unsigned                          reached:1;  /* down, but it answers */
} ngx_http_taptalent_dest_t;


typedef struct {
    void                             *ident[4];
    ngx_queue_t                       queue;
    ngx_event_t                       timer;
    ngx_pool_t                       *pool;
    ngx_http_taptalent_queue_t       *owner;
    ngx_http_taptalent_file_t        *file;
    ngx_http_taptalent_dest_t        *dest;
    ngx_uint_t                        line;
    ngx_str_t                         text;     /* the line */
    ngx_http_taptalent_delivery_t     delivery;
    ngx_http_taptalent_group_t        dead;     /* the line with the reason,
                                                   of ngx_alloc() */
    ngx_http_taptalent_reason_e       reason;   /* of it */
    ngx_int_t                         rc;       /* of the work */
    time_t                            age;      /* when it was created */
    ngx_msec_t                        created;
    ngx_msec_t                        next;     /* not before, if it failed */
    ngx_uint_t                        run;      /* that it has failed in */
    unsigned                          trial:1;  /* while dest is down */
    unsigned                          asked:1;  /* "next" is Retry-After's */
} ngx_http_taptalent_item_t;


/* for the file above: the spool knows of the item, or item->rc says why not */

typedef void (*ngx_http_taptalent_settled_pt)(ngx_http_taptalent_item_t *item);

/* for the file above: nothing is in flight, and the worker is to leave */

typedef void (*ngx_http_taptalent_drained_pt)(ngx_http_taptalent_queue_t *q);


typedef struct {
    ngx_queue_t                       items;    /* finished */
    ngx_queue_t                       files;    /* to be loaded */
    ngx_queue_t                       touched;
    ngx_http_taptalent_scan_t        *scan;     /* or NULL */
    ngx_int_t                         scanned;
    ngx_http_taptalent_spool_error_t  error;    /* the last one, or 0 */
} ngx_http_taptalent_work_t;


/*
 * What a worker is to a spool.  IDLE -> OWNER: it has the lock.  OWNER ->
 * DRAINING: the worker is to leave, takes nothing new and waits for what is in
 * flight.  DRAINING -> PARTING: nothing is in flight, what the disk has not
 * taken is tried once more.  PARTING -> RELEASED: unlocked.
 *
 * IDLE -> DRAINING too: one that forwards nothing leaves as well.  Without a
 * spool a queue is never OWNER, and sends all that it has while it is DRAINING
 * or PARTING; then -> LOST: at the end of "worker_shutdown_timeout".
 */

typedef enum {
    NGX_HTTP_TAPTALENT_QUEUE_IDLE = 0,
    NGX_HTTP_TAPTALENT_QUEUE_OWNER,
    NGX_HTTP_TAPTALENT_QUEUE_DRAINING,
    NGX_HTTP_TAPTALENT_QUEUE_PARTING,
    NGX_HTTP_TAPTALENT_QUEUE_RELEASED,
    NGX_HTTP_TAPTALENT_QUEUE_LOST
} ngx_http_taptalent_queue_state_e;


struct ngx_http_taptalent_queue_s {
    void                             *ident[4];

    ngx_http_taptalent_spool_t       *spool;
    ngx_http_taptalent_forward_t     *forward;
    ngx_http_taptalent_commit_t      *commit;
    ngx_cycle_t                      *cycle;
    ngx_log_t                        *log;

    ngx_http_taptalent_drained_pt     drained;  /* set by owner */
    ngx_http_taptalent_settled_pt     settled;  /* set by attempt */

    ngx_fd_t                          lock;     /* or NGX_INVALID_FILE */
    ngx_connection_t                 *notify;
    ngx_event_t                       poll;     /* cancelable */
    ngx_event_t                       hold;     /* not cancelable */
    ngx_event_t                       run;      /* posted */
    ngx_event_t                       pause;    /* cancelable */
    ngx_msec_t                        scanned;
    ngx_msec_t                        deadline; /* of the shutdown */
    ngx_msec_t                        read_after;  /* no file before */
    uint64_t                          slot;     /* us, when it began */
    uint64_t                          tick;     /* us, how long it is */

    ngx_rbtree_t                      pending;
    ngx_rbtree_t                      active;
    ngx_rbtree_node_t                 sentinel;
    ngx_uint_t                        npending;

    ngx_queue_t                       loaded;   /* files with lines to take */
    ngx_queue_t                       ended;    /* files with none at all */
    ngx_queue_t                       unsettled; /* files, after an error */
    ngx_uint_t                        lines;    /* in them */
    size_t                            held;     /* bytes of these files */
    ngx_uint_t                        unread;   /* files, in a row */
    ngx_queue_t                       fresh;    /* items not tried yet */
    ngx_queue_t                       ready;    /* items to be tried again */
    ngx_queue_t                       flying;   /* items in flight */
    ngx_queue_t                       finished; /* items to be settled */
    ngx_uint_t                        inflight; /* the two above, and work */
    ngx_uint_t                        retrying; /* of flying, not the first
                                                   attempt */
    ngx_uint_t                        waiting;
    ngx_uint_t                        items;
    size_t                            bytes;

    ngx_uint_t                        ndests;
    ngx_http_taptalent_dest_t         dests[NGX_HTTP_TAPTALENT_DESTS];

    ngx_http_taptalent_scan_t         scan;
    ngx_http_taptalent_work_t         work;
#if (NGX_THREADS)
    ngx_thread_task_t                *task;
#endif

    ngx_err_t                         logged;   /* the last error, and when */
    ngx_msec_t                        logged_at;

    ngx_http_taptalent_queue_state_e  state;

    unsigned                          turn:1;   /* of those that failed */
    unsigned                          working:1;
    unsigned                          rescan:1;
    unsigned                          resettle:1;
    unsigned                          broken:1; /* nothing is forwarded */
};


/* what follows is in the order of the files: each calls those below it only */


/* queue */

/* the handler of q->run: sends what there is room for, starts a work */
void ngx_http_taptalent_queue_run(ngx_event_t *ev);

/* something has changed: sees what can be done at the end of this turn */
#define ngx_http_taptalent_queue_post(q)                                      \
    ngx_post_event(&(q)->run, &ngx_posted_events)


/* attempt */

/* sets q->settled */
void ngx_http_taptalent_attempt_init(ngx_http_taptalent_queue_t *q);

/* sends it, or has it wait for its destination; it must be in no queue */
void ngx_http_taptalent_attempt_send(ngx_http_taptalent_item_t *item);

/* frees all that is in flight, but what a thread works for */
void ngx_http_taptalent_attempt_break_off(ngx_http_taptalent_queue_t *q);


/* queue_task */

/* NGX_ERROR without memory */
ngx_int_t ngx_http_taptalent_queue_task_init(ngx_http_taptalent_queue_t *q);

/* starts a work if there is something to do; none may be running */
void ngx_http_taptalent_queue_task_start(ngx_http_taptalent_queue_t *q);


/* dest */

/* NULL without memory, or if there are too many to be told apart */
ngx_http_taptalent_dest_t *ngx_http_taptalent_dest_find(
    ngx_http_taptalent_queue_t *q, ngx_str_t *uri);

/* has it wait for its destination, which is down */
void ngx_http_taptalent_dest_park(ngx_http_taptalent_item_t *item);

/* the event is sent although the destination is down, since one is due */
void ngx_http_taptalent_dest_try(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item);

/* an answer that is no failure of the destination */
void ngx_http_taptalent_dest_up(ngx_http_taptalent_dest_t *dest);

/* no answer, or one that says that it may be down */
void ngx_http_taptalent_dest_failed(ngx_http_taptalent_dest_t *dest,
    ngx_http_taptalent_item_t *item);

/* counts what the last attempt has come to */
void ngx_http_taptalent_dest_count(ngx_http_taptalent_item_t *item,
    ngx_http_taptalent_outcome_e outcome);

/* the delay in ms after so many failures; "retry_after" is in seconds, or 0 */
ngx_msec_t ngx_http_taptalent_dest_backoff(ngx_http_taptalent_queue_t *q,
    ngx_uint_t failures, ngx_uint_t retry_after);


/* item */

/*
 * An item of a line of the spool, which is in the pool.  The item owns the
 * pool, unless this is not NGX_OK: then as ngx_http_taptalent_line_read().
 */
ngx_int_t ngx_http_taptalent_item_create(ngx_http_taptalent_queue_t *q,
    ngx_pool_t *pool, ngx_str_t *text, ngx_http_taptalent_item_t **created);

/* the item must be in no queue and not in flight */
void ngx_http_taptalent_item_free(ngx_http_taptalent_item_t *item);

/*
 * The next event of a loaded file, or NULL: without memory, or, with
 * the file not LOADED, at the end of it.
 */
ngx_http_taptalent_item_t *ngx_http_taptalent_item_take(
    ngx_http_taptalent_queue_t *q, ngx_http_taptalent_file_t *file);

/* it is to be sent; those that have not been tried do not wait for others */
void ngx_http_taptalent_item_ready(ngx_http_taptalent_item_t *item);

/* has it wait for "delay" milliseconds */
void ngx_http_taptalent_item_wait(ngx_http_taptalent_item_t *item,
    ngx_msec_t delay);


/* file */

void ngx_http_taptalent_file_init(ngx_http_taptalent_queue_t *q);

/*
 * A name that was found, or, with "told", one at which there is something new;
 * it is known from now on.
 */
void ngx_http_taptalent_file_seen(ngx_http_taptalent_queue_t *q,
    u_char *name, ngx_uint_t told);

/* nothing is being done with the file: as if its name had just been found */
void ngx_http_taptalent_file_read_again(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file);

/* frees it; one that there is something new at is read again instead */
void ngx_http_taptalent_file_forget(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file);

/* frees what was read of it */
void ngx_http_taptalent_file_unload(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file);


#endif /* _NGX_HTTP_TAPTALENT_QUEUE_H_INCLUDED_ */
