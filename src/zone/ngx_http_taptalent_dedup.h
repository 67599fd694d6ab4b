
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_DEDUP_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_DEDUP_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_zone.h"


/*
 * Which events were committed of late, in the zone, so that each worker knows
 * what another one has stored.  An id is NGX_HTTP_TAPTALENT_ID_LEN bytes.
 */


/* for a new zone */
void ngx_http_taptalent_dedup_init(ngx_http_taptalent_zone_shared_t *sh);

/*
 * Memory of the zone, zeroed, for which ids are forgotten if need be; NULL if
 * that is not enough, or if a worker was killed while it changed the zone.  The
 * caller holds the mutex.
 */
void *ngx_http_taptalent_dedup_alloc(ngx_http_taptalent_zone_t *zone,
    size_t size);

/*
 * True if the event was added for this spool within the last "window"
 * milliseconds, and is still known.
 */
ngx_uint_t ngx_http_taptalent_dedup_seen(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, u_char *id, ngx_msec_t window);

/*
 * These "n" events, ids one after the other, are durable in the spool.  Where
 * the zone is full the oldest ones are forgotten.
 */
void ngx_http_taptalent_dedup_add(ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_zone_spool_t *s, u_char *ids, ngx_uint_t n);


#endif /* _NGX_HTTP_TAPTALENT_DEDUP_H_INCLUDED_ */
