
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_dedup.h"


/*
 * An id is added when its commit has ended, and not when it begins: an event
 * that comes again while it is being stored is stored twice, but one that was
 * not stored is never taken for one that was.  It is added also when nobody
 * waits for the commit any more, since that is the sender who comes again.
 *
 * Time is that of the event loop, which is monotonic and the same in all
 * workers: a clock that is set neither forgets nor keeps.
 *
 * The master takes the mutex from a worker that was killed with it, and what
 * that one was changing stays half changed.  Who finds it so leaves it alone:
 * without ids events are stored twice, which is not the end of anything.
 */


#define NGX_HTTP_TAPTALENT_EXPIRE  2   /* looked at for each that is added */
#define NGX_HTTP_TAPTALENT_EVICT   16  /* forgotten for one, at most */


typedef struct {
    ngx_rbtree_node_t                 node;
    ngx_queue_t                       queue;     /* the oldest is the last */
    ngx_msec_t                        added;
    ngx_http_taptalent_zone_spool_t  *spool;
    u_char                            id[NGX_HTTP_TAPTALENT_ID_LEN];
} ngx_http_taptalent_dedup_node_t;


static ngx_uint_t ngx_http_taptalent_dedup_whole(
    ngx_http_taptalent_zone_t *zone);
static void ngx_http_taptalent_dedup_begin(ngx_http_taptalent_zone_t *zone);
static void ngx_http_taptalent_dedup_end(ngx_http_taptalent_zone_t *zone);
static void *ngx_http_taptalent_dedup_take(ngx_http_taptalent_zone_t *zone,
    size_t size);
static ngx_http_taptalent_dedup_node_t *ngx_http_taptalent_dedup_find(
    ngx_http_taptalent_zone_shared_t *sh, ngx_http_taptalent_zone_spool_t *s,
    u_char *id);
static void ngx_http_taptalent_dedup_insert(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, u_char *id);
static ngx_uint_t ngx_http_taptalent_dedup_forget(
    ngx_http_taptalent_zone_t *zone, ngx_uint_t n, ngx_uint_t force);
static ngx_uint_t ngx_http_taptalent_dedup_expire(
    ngx_http_taptalent_zone_t *zone, ngx_queue_t *added, ngx_uint_t n,
    ngx_uint_t force);
static void ngx_http_taptalent_dedup_insert_value(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);
static ngx_rbtree_key_t ngx_http_taptalent_dedup_key(u_char *id);
static ngx_int_t ngx_http_taptalent_dedup_compare(
    ngx_http_taptalent_dedup_node_t *node, ngx_http_taptalent_zone_spool_t *s,
    u_char *id);


void
ngx_http_taptalent_dedup_init(ngx_http_taptalent_zone_shared_t *sh)
{
    ngx_rbtree_init(&sh->ids, &sh->sentinel,
                    ngx_http_taptalent_dedup_insert_value);
    ngx_queue_init(&sh->added);
    ngx_queue_init(&sh->refused_added);
}


/* with the mutex, like the two below */

static ngx_uint_t
ngx_http_taptalent_dedup_whole(ngx_http_taptalent_zone_t *zone)
{
    if (!zone->sh->changing) {
        return 1;
    }

    if (!zone->torn) {
        zone->torn = 1;

        ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                      "a worker was killed while it changed the zone of "
                      "\"taptalent_webhook_zone\", what is repeated is stored "
                      "again until nginx is restarted");
    }

    return 0;
}


static void
ngx_http_taptalent_dedup_begin(ngx_http_taptalent_zone_t *zone)
{
    zone->sh->changing = 1;

    ngx_memory_barrier();
}


static void
ngx_http_taptalent_dedup_end(ngx_http_taptalent_zone_t *zone)
{
    ngx_memory_barrier();

    zone->sh->changing = 0;
}


void *
ngx_http_taptalent_dedup_alloc(ngx_http_taptalent_zone_t *zone, size_t size)
{
    void  *p;

    if (!ngx_http_taptalent_dedup_whole(zone)) {
        return NULL;
    }

    ngx_http_taptalent_dedup_begin(zone);

    p = ngx_http_taptalent_dedup_take(zone, size);

    ngx_http_taptalent_dedup_end(zone);

    return p;
}


/* what becomes free may be in several pages, so it may take some of them */

static void *
ngx_http_taptalent_dedup_take(ngx_http_taptalent_zone_t *zone, size_t size)
{
    void  *p;

    do {
        p = ngx_slab_calloc_locked(zone->shpool, size);

    } while (p == NULL
             && ngx_http_taptalent_dedup_forget(zone,
                                                NGX_HTTP_TAPTALENT_EVICT, 1));

    return p;
}


ngx_uint_t
ngx_http_taptalent_dedup_seen(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, u_char *id, ngx_msec_t window)
{
    ngx_uint_t                        seen;
    ngx_http_taptalent_dedup_node_t  *node;

    if (s == NULL) {
        return 0;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    node = ngx_http_taptalent_dedup_whole(zone)
           ? ngx_http_taptalent_dedup_find(zone->sh, s, id) : NULL;

    /* another worker may be a tick ahead */

    seen = (node
            && (ngx_msec_int_t) (ngx_current_msec - node->added)
               <= (ngx_msec_int_t) window);

    ngx_shmtx_unlock(&zone->shpool->mutex);

    return seen;
}


void
ngx_http_taptalent_dedup_add(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, u_char *ids, ngx_uint_t n)
{
    if (s == NULL) {
        return;
    }

    ngx_shmtx_lock(&zone->shpool->mutex);

    if (ngx_http_taptalent_dedup_whole(zone)) {
        ngx_http_taptalent_dedup_begin(zone);

        while (n--) {
            ngx_http_taptalent_dedup_insert(zone, s, ids);
            ids += NGX_HTTP_TAPTALENT_ID_LEN;
        }

        ngx_http_taptalent_dedup_end(zone);
    }

    ngx_shmtx_unlock(&zone->shpool->mutex);
}


static void
ngx_http_taptalent_dedup_insert(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, u_char *id)
{
    ngx_http_taptalent_dedup_node_t   *node;
    ngx_http_taptalent_zone_shared_t  *sh;

    sh = zone->sh;

    (void) ngx_http_taptalent_dedup_forget(zone, NGX_HTTP_TAPTALENT_EXPIRE, 0);

    node = ngx_http_taptalent_dedup_find(sh, s, id);

    if (node) {
        ngx_queue_remove(&node->queue);
        goto done;
    }

    node = ngx_http_taptalent_dedup_take(zone,
                                      sizeof(ngx_http_taptalent_dedup_node_t));
    if (node == NULL) {
        return;
    }

    node->node.key = ngx_http_taptalent_dedup_key(id);
    node->spool = s;
    ngx_memcpy(node->id, id, NGX_HTTP_TAPTALENT_ID_LEN);

    ngx_rbtree_insert(&sh->ids, &node->node);

done:

    node->added = ngx_current_msec;

    ngx_queue_insert_head(s->kind == NGX_HTTP_TAPTALENT_QUARANTINE
                          ? &sh->refused_added : &sh->added, &node->queue);
}


/*
 * Up to "n" of the oldest: those that are too old, or any; how many.  Those of
 * a quarantine go first: a stranger is not to make us forget what is genuine.
 */

static ngx_uint_t
ngx_http_taptalent_dedup_forget(ngx_http_taptalent_zone_t *zone, ngx_uint_t n,
    ngx_uint_t force)
{
    ngx_uint_t  i;

    i = ngx_http_taptalent_dedup_expire(zone, &zone->sh->refused_added, n,
                                        force);

    return i + ngx_http_taptalent_dedup_expire(zone, &zone->sh->added, n - i,
                                               force);
}


static ngx_uint_t
ngx_http_taptalent_dedup_expire(ngx_http_taptalent_zone_t *zone,
    ngx_queue_t *added, ngx_uint_t n, ngx_uint_t force)
{
    ngx_uint_t                        i;
    ngx_queue_t                      *q;
    ngx_http_taptalent_dedup_node_t  *node;

    for (i = 0; i < n && !ngx_queue_empty(added); i++) {

        q = ngx_queue_last(added);
        node = ngx_queue_data(q, ngx_http_taptalent_dedup_node_t, queue);

        if (!force
            && (ngx_msec_int_t) (ngx_current_msec - node->added)
               <= (ngx_msec_int_t) zone->window)
        {
            break;
        }

        ngx_queue_remove(q);
        ngx_rbtree_delete(&zone->sh->ids, &node->node);
        ngx_slab_free_locked(zone->shpool, node);
    }

    return i;
}


static ngx_http_taptalent_dedup_node_t *
ngx_http_taptalent_dedup_find(ngx_http_taptalent_zone_shared_t *sh,
    ngx_http_taptalent_zone_spool_t *s, u_char *id)
{
    ngx_int_t                         rc;
    ngx_rbtree_key_t                  key;
    ngx_rbtree_node_t                *node, *sentinel;
    ngx_http_taptalent_dedup_node_t  *found;

    key = ngx_http_taptalent_dedup_key(id);

    node = sh->ids.root;
    sentinel = sh->ids.sentinel;

    while (node != sentinel) {

        if (key != node->key) {
            node = (key < node->key) ? node->left : node->right;
            continue;
        }

        found = (ngx_http_taptalent_dedup_node_t *) node;

        rc = ngx_http_taptalent_dedup_compare(found, s, id);

        if (rc == 0) {
            return found;
        }

        node = (rc < 0) ? node->left : node->right;
    }

    return NULL;
}


static void
ngx_http_taptalent_dedup_insert_value(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t                **p;
    ngx_http_taptalent_dedup_node_t   *n, *t;

    n = (ngx_http_taptalent_dedup_node_t *) node;

    for ( ;; ) {

        if (node->key != temp->key) {
            p = (node->key < temp->key) ? &temp->left : &temp->right;

        } else {
            t = (ngx_http_taptalent_dedup_node_t *) temp;

            p = (ngx_http_taptalent_dedup_compare(t, n->spool, n->id) < 0)
                ? &temp->left : &temp->right;
        }

        if (*p == sentinel) {
            break;
        }

        temp = *p;
    }

    *p = node;
    node->parent = temp;
    node->left = sentinel;
    node->right = sentinel;
    ngx_rbt_red(node);
}


static ngx_rbtree_key_t
ngx_http_taptalent_dedup_key(u_char *id)
{
    return ngx_crc32_short(id, NGX_HTTP_TAPTALENT_ID_LEN);
}


/* whether the id of that spool comes before the node's */

static ngx_int_t
ngx_http_taptalent_dedup_compare(ngx_http_taptalent_dedup_node_t *node,
    ngx_http_taptalent_zone_spool_t *s, u_char *id)
{
    if (s != node->spool) {
        return (s < node->spool) ? -1 : 1;
    }

    return ngx_memcmp(id, node->id, NGX_HTTP_TAPTALENT_ID_LEN);
}
