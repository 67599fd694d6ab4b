
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_ZONE_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_ZONE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_event.h"


/*
 * What is counted, in memory that all workers share and that a reload keeps.
 * It is never the truth about the spool: what waits there is measured on the
 * disk, and what a worker says of itself ends with the worker.
 *
 * Knows no requests.  Wherever a pointer to a part of the zone is taken, it may
 * be NULL, and nothing is counted then: "taptalent_webhook_zone off", or the
 * zone is full.
 */


#define NGX_HTTP_TAPTALENT_ZONE_SIZE     1048576  /* bytes, the default */
#define NGX_HTTP_TAPTALENT_ZONE_MIN      262144

#define NGX_HTTP_TAPTALENT_EVENT_TYPES   64       /* counted by name */
#define NGX_HTTP_TAPTALENT_ZONE_DESTS    64       /* of a spool, by name */
#define NGX_HTTP_TAPTALENT_ZONE_WORKERS  128      /* that tell of themselves */

#define NGX_HTTP_TAPTALENT_TAKEN         32       /* kept of the last ones */
#define NGX_HTTP_TAPTALENT_REFUSED       64
#define NGX_HTTP_TAPTALENT_WHY           192      /* bytes */

#define NGX_HTTP_TAPTALENT_HISTORY       121      /* one is being filled */
#define NGX_HTTP_TAPTALENT_STEP          5        /* seconds of each */

#define NGX_HTTP_TAPTALENT_BUCKETS       18


/*
 * A value that outgrows 32 bits: bytes, microseconds, milliseconds.  A word of
 * 64 bits holds it, elsewhere the processor changes eight bytes at once; where
 * it cannot, the mutex of the zone is taken, which the caller must not hold.
 */

#if (NGX_PTR_SIZE == 8 || defined __GCC_HAVE_SYNC_COMPARE_AND_SWAP_8)
#ifndef NGX_HTTP_TAPTALENT_WIDE_ATOMIC
#define NGX_HTTP_TAPTALENT_WIDE_ATOMIC   1
#endif
#endif

typedef volatile uint64_t  ngx_http_taptalent_wide_t
                           __attribute__((aligned(8)));

#if (NGX_HTTP_TAPTALENT_WIDE_ATOMIC)

#define ngx_http_taptalent_wide_get(w)                                        \
    __atomic_load_n(w, __ATOMIC_RELAXED)
#define ngx_http_taptalent_wide_set(w, n)                                     \
    __atomic_store_n(w, n, __ATOMIC_RELAXED)
#define ngx_http_taptalent_wide_add(w, n)                                     \
    (void) __atomic_fetch_add(w, n, __ATOMIC_RELAXED)

#else

uint64_t ngx_http_taptalent_wide_get(ngx_http_taptalent_wide_t *w);
void ngx_http_taptalent_wide_set(ngx_http_taptalent_wide_t *w, uint64_t n);
void ngx_http_taptalent_wide_add(ngx_http_taptalent_wide_t *w, uint64_t n);

#endif


/* a worker's word on its spool, see ngx_http_taptalent_zone_tell() */

#define NGX_HTTP_TAPTALENT_WORKS         0
#define NGX_HTTP_TAPTALENT_FAILED        1        /* tries once a second */
#define NGX_HTTP_TAPTALENT_BROKEN        2        /* until reload */


typedef enum {
    NGX_HTTP_TAPTALENT_DELIVERED = 0,
    NGX_HTTP_TAPTALENT_RETRY,                     /* it will be tried again */
    NGX_HTTP_TAPTALENT_GIVEN_UP,
    NGX_HTTP_TAPTALENT_OUTCOMES
} ngx_http_taptalent_outcome_e;


typedef enum {
    NGX_HTTP_TAPTALENT_PERMANENT = 0,
    NGX_HTTP_TAPTALENT_MAX_AGE,
    NGX_HTTP_TAPTALENT_REASONS
} ngx_http_taptalent_reason_e;


typedef struct {
    const char                   *text;       /* in the unit that is shown */
    uint64_t                      value;      /* in the unit of observation */
} ngx_http_taptalent_bound_t;


typedef struct {
    ngx_http_taptalent_bound_t   *bounds;
    ngx_uint_t                    n;
    ngx_uint_t                    unit;       /* observed in one shown */
} ngx_http_taptalent_scale_t;


/* the last bucket is for what is above all bounds */

typedef struct {
    ngx_http_taptalent_wide_t     sum;
    ngx_atomic_t                  buckets[NGX_HTTP_TAPTALENT_BUCKETS + 1];
} ngx_http_taptalent_histogram_t;


/* microseconds, events, microseconds */

extern ngx_http_taptalent_scale_t  ngx_http_taptalent_duration_scale;
extern ngx_http_taptalent_scale_t  ngx_http_taptalent_events_scale;
extern ngx_http_taptalent_scale_t  ngx_http_taptalent_latency_scale;


typedef struct {
    ngx_atomic_t                  pid;        /* 0 if it says nothing */
    ngx_atomic_t                  value;
} ngx_http_taptalent_zone_worker_t;


typedef struct {
    ngx_queue_t                   queue;
    ngx_atomic_t                  outcomes[NGX_HTTP_TAPTALENT_OUTCOMES];
    ngx_atomic_t                  retries;
    ngx_atomic_t                  timeouts;
    ngx_atomic_t                  down;
    ngx_http_taptalent_wide_t     paused_until;   /* ms since 1970, or 0 */
    ngx_http_taptalent_wide_t     error_time;     /* ms since 1970, or 0 */
    ngx_atomic_t                  error_status;   /* 0: no answer */
    ngx_str_t                     name;
} ngx_http_taptalent_zone_dest_t;


/* what is known of a spool: it was measured, and could be */

#define NGX_HTTP_TAPTALENT_KNOWN_NEW      1
#define NGX_HTTP_TAPTALENT_KNOWN_DEAD     2
#define NGX_HTTP_TAPTALENT_KNOWN_CORRUPT  4
#define NGX_HTTP_TAPTALENT_KNOWN_FREE     8


/* what a part is of */

#define NGX_HTTP_TAPTALENT_SPOOL         0
#define NGX_HTTP_TAPTALENT_MEMORY        1        /* forwarded without one */
#define NGX_HTTP_TAPTALENT_QUARANTINE    2


typedef struct {
    ngx_queue_t                   queue;

    ngx_atomic_t                  commits;
    ngx_atomic_t                  commit_errors;
    ngx_atomic_t                  committed;      /* events */
    ngx_atomic_t                  dead[NGX_HTTP_TAPTALENT_REASONS];
    ngx_atomic_t                  corrupt;
    ngx_http_taptalent_histogram_t  duration;
    ngx_http_taptalent_histogram_t  events;
    ngx_http_taptalent_histogram_t  latency;

    ngx_queue_t                   dests;
    ngx_uint_t                    ndests;

    /* events waiting in a worker's memory, or the state of its spool */

    ngx_http_taptalent_zone_worker_t  workers[NGX_HTTP_TAPTALENT_ZONE_WORKERS];

    /* what a worker has measured, which the next one may do when it is due */

    ngx_atomic_t                  due;            /* an ngx_msec_t */
    ngx_atomic_t                  measurer;       /* pid, or 0 */
    ngx_atomic_t                  known;          /* a bit for each part */
    ngx_http_taptalent_wide_t     measured;       /* ms since 1970 */
    ngx_atomic_t                  files;
    ngx_atomic_t                  waiting;        /* events */
    ngx_http_taptalent_wide_t     bytes;
    ngx_atomic_t                  oldest;         /* s since 1970, or 0 */
    ngx_atomic_t                  dead_files;
    ngx_atomic_t                  corrupt_files;
    ngx_http_taptalent_wide_t     free_bytes;
    ngx_atomic_t                  low;

    ngx_http_taptalent_wide_t     min_free;       /* as it is configured */
    ngx_http_taptalent_wide_t     max_size;       /* of a quarantine */
    ngx_atomic_t                  limit;          /* of queues in memory */
    ngx_uint_t                    kind;
    ngx_str_t                     name;
} ngx_http_taptalent_zone_spool_t;


typedef struct {
    ngx_atomic_t                  sequence;       /* odd while it is written */
    ngx_uint_t                    verdict;
    ngx_uint_t                    status;
    uint64_t                      time;           /* ms since 1970 */
    size_t                        event_len;
    size_t                        company_id_len;
    size_t                        id_len;
    size_t                        why_len;
    u_char                        event[NGX_HTTP_TAPTALENT_MAX_NAME];
    u_char                        company_id[
                                        NGX_HTTP_TAPTALENT_MAX_COMPANY_ID];
    u_char                        id[NGX_HTTP_TAPTALENT_ID_LEN];
    u_char                        why[NGX_HTTP_TAPTALENT_WHY];
} ngx_http_taptalent_recent_t;


typedef struct {
    ngx_atomic_t                  count;
    ngx_str_t                     name;
    u_char                        text[NGX_HTTP_TAPTALENT_MAX_NAME];
} ngx_http_taptalent_event_type_t;


typedef struct {
    ngx_atomic_t                  step;           /* the time of it, / STEP */
    ngx_atomic_t                  accepted;
    ngx_atomic_t                  refused;
    ngx_atomic_t                  delivered;
    ngx_atomic_t                  waiting;        /* plus one, 0: not known */
} ngx_http_taptalent_history_t;


typedef struct {
    ngx_uint_t                    layout;
    time_t                        since;

    ngx_atomic_t                  verdicts[NGX_HTTP_TAPTALENT_VERDICTS];
    ngx_atomic_t                  unenforced[NGX_HTTP_TAPTALENT_VERDICTS];
    ngx_http_taptalent_wide_t     bytes;

    ngx_atomic_t                  ntypes;
    ngx_atomic_t                  other;
    ngx_http_taptalent_event_type_t  types[NGX_HTTP_TAPTALENT_EVENT_TYPES];

    ngx_atomic_t                  ntaken;
    ngx_atomic_t                  nrefused;
    ngx_http_taptalent_recent_t   taken[NGX_HTTP_TAPTALENT_TAKEN];
    ngx_http_taptalent_recent_t   refused[NGX_HTTP_TAPTALENT_REFUSED];

    ngx_http_taptalent_history_t  history[NGX_HTTP_TAPTALENT_HISTORY];

    ngx_atomic_t                  changing;       /* what follows */

    ngx_rbtree_t                  ids;            /* of what is committed */
    ngx_rbtree_node_t             sentinel;

    /* the same by their age, of spools, and of quarantines, which go first */

    ngx_queue_t                   added;
    ngx_queue_t                   refused_added;

    ngx_queue_t                   spools;
} ngx_http_taptalent_zone_shared_t;


typedef struct {
    ngx_http_taptalent_zone_shared_t  *sh;
    ngx_slab_pool_t                   *shpool;
    ngx_array_t                        spools;    /* configured, pointers */
    ngx_msec_t                         window;    /* the longest for an id */
    ngx_uint_t                         type;      /* of the last event */
    ngx_uint_t                         torn;      /* and logged */
    void                              *conf;      /* the caller's */
} ngx_http_taptalent_zone_t;


/*
 * For the init handler of a shared memory zone: "old" is what the last cycle
 * had, or NULL.  NGX_ERROR after a line that says what to write.
 */
ngx_int_t ngx_http_taptalent_zone_init(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_t *old, ngx_shm_zone_t *shm_zone);

/*
 * The part of a spool or a quarantine, by its path, or of what is forwarded
 * from memory, by its uri; made if there is none.  For the init handler; adds
 * it to zone->spools, which is the caller's array.
 */
ngx_http_taptalent_zone_spool_t *ngx_http_taptalent_zone_spool(
    ngx_http_taptalent_zone_t *zone, ngx_str_t *name, ngx_uint_t kind);

/*
 * An answer was decided on; "status" is its HTTP status.  "why" is the reason
 * of a refusal, or of what would have been one, or NULL.
 */
void ngx_http_taptalent_zone_verdict(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_verdict_e verdict, ngx_uint_t status,
    ngx_http_taptalent_event_t *ev, const char *why);

/* a commit has ended, after so many microseconds; not the errors' counter */
void ngx_http_taptalent_zone_commit(ngx_http_taptalent_zone_spool_t *s,
    ngx_int_t rc, ngx_uint_t events, uint64_t usec);

/*
 * What the worker itself has to say: how many events wait in its memory, or
 * whether its spool takes any.  It ends with the worker.
 */
void ngx_http_taptalent_zone_tell(ngx_http_taptalent_zone_spool_t *s,
    ngx_uint_t value);

/* so many events more, or fewer, wait in the worker's memory */
void ngx_http_taptalent_zone_queued(ngx_http_taptalent_zone_spool_t *s,
    ngx_int_t n);

/* false for 0 and for a process that is no more */
ngx_uint_t ngx_http_taptalent_zone_alive(ngx_atomic_uint_t pid);

/* the sum, or the largest, of what the living workers say, and how many do */
ngx_uint_t ngx_http_taptalent_zone_told(ngx_http_taptalent_zone_spool_t *s,
    ngx_uint_t *workers);

/* the part of a destination, made if there is none */
ngx_http_taptalent_zone_dest_t *ngx_http_taptalent_zone_dest(
    ngx_http_taptalent_zone_t *zone, ngx_http_taptalent_zone_spool_t *s,
    ngx_str_t *name);

/* an attempt has ended, the first one has the number 1 */
void ngx_http_taptalent_zone_attempt(ngx_http_taptalent_zone_dest_t *dest,
    ngx_http_taptalent_outcome_e outcome, ngx_uint_t attempt,
    ngx_uint_t status);

/* an event that came then is confirmed by the application */
void ngx_http_taptalent_zone_delivered(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, struct timespec *received);

/* a destination is down, until the next attempt in "delay" ms, or is up */
void ngx_http_taptalent_zone_down(ngx_http_taptalent_zone_dest_t *dest,
    ngx_msec_t delay);
void ngx_http_taptalent_zone_up(ngx_http_taptalent_zone_dest_t *dest);

/* a worker begins to forward: what another one thought of it is over */
void ngx_http_taptalent_zone_forwards(ngx_http_taptalent_zone_spool_t *s);

/* how many wait in all, for the history */
void ngx_http_taptalent_zone_waiting(ngx_http_taptalent_zone_t *zone);

/* the age of the oldest event that waits, in seconds */
ngx_atomic_uint_t ngx_http_taptalent_zone_age(
    ngx_http_taptalent_zone_spool_t *s);

/* a copy of an entry of the last verdicts; NGX_DECLINED if there is none */
ngx_int_t ngx_http_taptalent_zone_recent(ngx_http_taptalent_recent_t *entry,
    ngx_http_taptalent_recent_t *copy);

/* milliseconds since 1970, as of this turn of the event loop */
uint64_t ngx_http_taptalent_zone_now(void);


#define ngx_http_taptalent_zone_count(s, member, n)                           \
    if ((s) != NULL) {                                                        \
        (void) ngx_atomic_fetch_add(&(s)->member, n);                         \
    }


#endif /* _NGX_HTTP_TAPTALENT_ZONE_H_INCLUDED_ */
