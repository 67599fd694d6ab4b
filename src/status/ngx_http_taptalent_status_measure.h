
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_CENSUS_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_CENSUS_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include "ngx_http_taptalent_commit.h"
#include "ngx_http_taptalent_zone.h"


/*
 * For a worker, after the fork, where somebody may look: from now on it sees to
 * it that what waits in the spools is measured.  "commits" are pointers; those
 * without a part in the zone are left out.  NGX_ERROR without memory.
 */
ngx_int_t ngx_http_taptalent_status_measure_init(ngx_cycle_t *cycle,
    ngx_http_taptalent_zone_t *zone, ngx_http_taptalent_commit_t **commits,
    ngx_uint_t n);


#endif /* _NGX_HTTP_TAPTALENT_CENSUS_H_INCLUDED_ */
