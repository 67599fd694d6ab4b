
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <nginx.h>
#include "ngx_http_taptalent_status.h"


/* The status as JSON, in the form that docs/monitoring.md says. */


static void ngx_http_taptalent_status_json_counters(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_shared_t *sh);
static void ngx_http_taptalent_status_json_spools(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_t *zone);
static void ngx_http_taptalent_status_json_spool(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_spool_t *s);
static void ngx_http_taptalent_status_json_backlog(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_spool_t *s);
static void ngx_http_taptalent_status_json_known(ngx_http_taptalent_writer_t *w,
    ngx_uint_t known, uint64_t n);
static void ngx_http_taptalent_status_json_histogram(
    ngx_http_taptalent_writer_t *w, const char *name,
    ngx_http_taptalent_histogram_t *h, ngx_http_taptalent_scale_t *scale);
static void ngx_http_taptalent_status_json_queues(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_t *zone);
static void ngx_http_taptalent_status_json_quarantines(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_t *zone);
static void ngx_http_taptalent_status_json_dests(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone);
static void ngx_http_taptalent_status_json_dest(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_spool_t *s, ngx_http_taptalent_zone_dest_t *dest);
static void ngx_http_taptalent_status_json_recent(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_shared_t *sh);
static ngx_uint_t ngx_http_taptalent_status_json_collect(
    ngx_http_taptalent_recent_t *ring, ngx_uint_t size, ngx_uint_t next,
    ngx_http_taptalent_recent_t *found);
static ngx_int_t ngx_http_taptalent_status_json_newer(const void *one,
    const void *two);
static void ngx_http_taptalent_status_json_entry(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_recent_t *entry);
static void ngx_http_taptalent_status_json_history(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_shared_t *sh);
static void ngx_http_taptalent_status_json_series(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_shared_t *sh,
    ngx_atomic_uint_t now, const char *name, size_t offset);
static void ngx_http_taptalent_status_json_member(
    ngx_http_taptalent_writer_t *w, const char *name, u_char *data, size_t len);


/* of ngx_http_taptalent_zone_told() */

static const char  *ngx_http_taptalent_states[] = {
    "ok", "failed", "broken"
};


void
ngx_http_taptalent_status_json(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_main_conf_t *tmcf)
{
    uint64_t                           now;
    ngx_http_taptalent_zone_shared_t  *sh;

    sh = tmcf->zone->sh;
    now = ngx_http_taptalent_zone_now();

    ngx_http_taptalent_status_write(w, "{\"version\":\"%s\",\"nginx\":\"%s\","
                                    "\"time\":%uL.%03uL,\"since\":%T,",
                                    NGX_HTTP_TAPTALENT_VERSION, NGINX_VERSION,
                                    now / 1000, now % 1000, sh->since);

    ngx_http_taptalent_status_json_counters(w, sh);
    ngx_http_taptalent_status_json_spools(w, tmcf->zone);
    ngx_http_taptalent_status_json_queues(w, tmcf->zone);
    ngx_http_taptalent_status_json_quarantines(w, tmcf->zone);
    ngx_http_taptalent_status_json_dests(w, tmcf->zone);
    ngx_http_taptalent_status_json_recent(w, sh);
    ngx_http_taptalent_status_json_history(w, sh);

    ngx_http_taptalent_status_write(w, "}\n");
}


static void
ngx_http_taptalent_status_json_counters(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_shared_t *sh)
{
    ngx_uint_t  i, n;

    ngx_http_taptalent_status_write(w, "\"verdicts\":{");

    for (i = NGX_HTTP_TAPTALENT_ACCEPTED; i < NGX_HTTP_TAPTALENT_VERDICTS; i++)
    {
        ngx_http_taptalent_status_write(w, "%s\"%V\":%uA",
                                   i == NGX_HTTP_TAPTALENT_ACCEPTED ? "" : ",",
                                        &ngx_http_taptalent_verdicts[i].word,
                                        sh->verdicts[i]);
    }

    ngx_http_taptalent_status_write(w, "},\"unenforced\":{");

    n = 0;

    for (i = NGX_HTTP_TAPTALENT_ACCEPTED; i < NGX_HTTP_TAPTALENT_VERDICTS; i++)
    {
        if (ngx_http_taptalent_verdict_enforceable(i)) {
            ngx_http_taptalent_status_write(w, "%s\"%V\":%uA", n++ ? "," : "",
                                          &ngx_http_taptalent_verdicts[i].word,
                                            sh->unenforced[i]);
        }
    }

    ngx_http_taptalent_status_write(w, "},\"events\":{");

    n = sh->ntypes;

    for (i = 0; i < n; i++) {
        ngx_http_taptalent_status_write(w, "\"%V\":%uA,", &sh->types[i].name,
                                        sh->types[i].count);
    }

    ngx_http_taptalent_status_write(w, "\"other\":%uA},\"bytes\":%uL,",
                                    sh->other,
                                    ngx_http_taptalent_wide_get(&sh->bytes));
}


static void
ngx_http_taptalent_status_json_spools(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone)
{
    ngx_uint_t                         i, n;
    ngx_http_taptalent_zone_spool_t  **sp;

    ngx_http_taptalent_status_write(w, "\"spools\":[");

    n = 0;
    sp = zone->spools.elts;

    for (i = 0; i < zone->spools.nelts; i++) {

        if (sp[i]->kind != NGX_HTTP_TAPTALENT_SPOOL) {
            continue;
        }

        ngx_http_taptalent_status_write(w, n++ ? "," : "");
        ngx_http_taptalent_status_json_spool(w, sp[i]);
    }

    ngx_http_taptalent_status_write(w, "],");
}


static void
ngx_http_taptalent_status_json_spool(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_spool_t *s)
{
    ngx_uint_t   told, workers;
    const char  *state;

    told = ngx_http_taptalent_zone_told(s, &workers);

    state = ngx_http_taptalent_states[ngx_min(told,
                                              NGX_HTTP_TAPTALENT_BROKEN)];

    if (told == NGX_HTTP_TAPTALENT_WORKS
        && (s->known & NGX_HTTP_TAPTALENT_KNOWN_FREE) && s->low)
    {
        state = "low";
    }

    ngx_http_taptalent_status_write(w, "{\"path\":");
    ngx_http_taptalent_status_write_string(w, &s->name);
    ngx_http_taptalent_status_write(w, ",\"state\":\"%s\",\"commits\":%uA,"
                                    "\"commit_errors\":%uA,\"committed\":%uA,",
                                    state, s->commits, s->commit_errors,
                                    s->committed);

    ngx_http_taptalent_status_json_histogram(w, "commit_duration", &s->duration,
                                           &ngx_http_taptalent_duration_scale);
    ngx_http_taptalent_status_json_histogram(w, "commit_events", &s->events,
                                             &ngx_http_taptalent_events_scale);
    ngx_http_taptalent_status_json_histogram(w, "delivery_latency", &s->latency,
                                             &ngx_http_taptalent_latency_scale);

    ngx_http_taptalent_status_write(w, "\"dead_permanent\":%uA,"
                                    "\"dead_max_age\":%uA,\"corrupt\":%uA,",
                                    s->dead[NGX_HTTP_TAPTALENT_PERMANENT],
                                    s->dead[NGX_HTTP_TAPTALENT_MAX_AGE],
                                    s->corrupt);

    ngx_http_taptalent_status_json_backlog(w, s);

    ngx_http_taptalent_status_write(w, "}");
}


static void
ngx_http_taptalent_status_json_backlog(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_spool_t *s)
{
    uint64_t           measured;
    ngx_atomic_uint_t  known;

    known = s->known;

    if (!(known & NGX_HTTP_TAPTALENT_KNOWN_NEW)) {
        ngx_http_taptalent_status_write(w, "\"backlog\":null");
        return;
    }

    measured = ngx_http_taptalent_wide_get(&s->measured);

    ngx_http_taptalent_status_write(w, "\"backlog\":{\"time\":%uL.%03uL,"
                                    "\"files\":%uA,\"events\":%uA,"
                                    "\"bytes\":%uL,\"oldest\":%uA,\"dead\":",
                                    measured / 1000, measured % 1000,
                                    s->files, s->waiting,
                                    ngx_http_taptalent_wide_get(&s->bytes),
                                    ngx_http_taptalent_zone_age(s));

    ngx_http_taptalent_status_json_known(w,
                                         known & NGX_HTTP_TAPTALENT_KNOWN_DEAD,
                                         s->dead_files);
    ngx_http_taptalent_status_write(w, ",\"corrupt_files\":");
    ngx_http_taptalent_status_json_known(w,
                                      known & NGX_HTTP_TAPTALENT_KNOWN_CORRUPT,
                                         s->corrupt_files);
    ngx_http_taptalent_status_write(w, ",\"free\":");
    ngx_http_taptalent_status_json_known(w,
                                         known & NGX_HTTP_TAPTALENT_KNOWN_FREE,
                                  ngx_http_taptalent_wide_get(&s->free_bytes));
    ngx_http_taptalent_status_write(w, ",\"min_free\":%uL}",
                                    ngx_http_taptalent_wide_get(&s->min_free));
}


static void
ngx_http_taptalent_status_json_known(ngx_http_taptalent_writer_t *w,
    ngx_uint_t known, uint64_t n)
{
    if (known) {
        ngx_http_taptalent_status_write(w, "%uL", n);

    } else {
        ngx_http_taptalent_status_write(w, "null");
    }
}


static void
ngx_http_taptalent_status_json_histogram(ngx_http_taptalent_writer_t *w,
    const char *name, ngx_http_taptalent_histogram_t *h,
    ngx_http_taptalent_scale_t *scale)
{
    ngx_uint_t                         i;
    ngx_http_taptalent_distribution_t  d;

    ngx_http_taptalent_status_write_histogram(h, scale, &d);

    ngx_http_taptalent_status_write(w, "\"%s\":{\"buckets\":[", name);

    for (i = 0; i < scale->n; i++) {
        ngx_http_taptalent_status_write(w, "%s[%s,%uA]", i ? "," : "",
                                        scale->bounds[i].text, d.buckets[i]);
    }

    ngx_http_taptalent_status_write(w, "],\"sum\":");
    ngx_http_taptalent_status_write_sum(w, &d, scale);
    ngx_http_taptalent_status_write(w, ",\"count\":%uA},", d.count);
}


static void
ngx_http_taptalent_status_json_queues(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone)
{
    ngx_uint_t                         i, n, events, workers;
    ngx_http_taptalent_zone_spool_t  **sp;

    ngx_http_taptalent_status_write(w, "\"queues\":[");

    n = 0;
    sp = zone->spools.elts;

    for (i = 0; i < zone->spools.nelts; i++) {

        if (sp[i]->kind != NGX_HTTP_TAPTALENT_MEMORY) {
            continue;
        }

        events = ngx_http_taptalent_zone_told(sp[i], &workers);

        ngx_http_taptalent_status_write(w, "%s{\"forward\":", n++ ? "," : "");
        ngx_http_taptalent_status_write_string(w, &sp[i]->name);
        ngx_http_taptalent_status_write(w, ",\"events\":%ui,\"limit\":%uA,"
                                        "\"workers\":%ui}",
                                        events, sp[i]->limit, workers);
    }

    ngx_http_taptalent_status_write(w, "],");
}


static void
ngx_http_taptalent_status_json_quarantines(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone)
{
    ngx_uint_t                         i, n;
    ngx_http_taptalent_zone_spool_t  **sp;

    ngx_http_taptalent_status_write(w, "\"quarantines\":[");

    n = 0;
    sp = zone->spools.elts;

    for (i = 0; i < zone->spools.nelts; i++) {

        if (sp[i]->kind != NGX_HTTP_TAPTALENT_QUARANTINE) {
            continue;
        }

        ngx_http_taptalent_status_write(w, "%s{\"path\":", n++ ? "," : "");
        ngx_http_taptalent_status_write_string(w, &sp[i]->name);
        ngx_http_taptalent_status_write(w, ",\"kept\":%uA,"
                                        "\"commit_errors\":%uA,"
                                        "\"max_size\":%uL,", sp[i]->committed,
                                        sp[i]->commit_errors,
                             ngx_http_taptalent_wide_get(&sp[i]->max_size));
        ngx_http_taptalent_status_json_backlog(w, sp[i]);
        ngx_http_taptalent_status_write(w, "}");
    }

    ngx_http_taptalent_status_write(w, "],");
}


static void
ngx_http_taptalent_status_json_dests(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone)
{
    ngx_uint_t                         i, n;
    ngx_queue_t                       *q;
    ngx_http_taptalent_zone_spool_t  **sp;

    ngx_http_taptalent_status_write(w, "\"destinations\":[");

    n = 0;
    sp = zone->spools.elts;

    for (i = 0; i < zone->spools.nelts; i++) {

        for (q = ngx_queue_head(&sp[i]->dests);
             q != ngx_queue_sentinel(&sp[i]->dests);
             q = ngx_queue_next(q))
        {
            ngx_http_taptalent_status_write(w, n++ ? "," : "");

            ngx_http_taptalent_status_json_dest(w, sp[i],
                    ngx_queue_data(q, ngx_http_taptalent_zone_dest_t, queue));
        }
    }

    ngx_http_taptalent_status_write(w, "],");
}


static void
ngx_http_taptalent_status_json_dest(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_spool_t *s, ngx_http_taptalent_zone_dest_t *dest)
{
    uint64_t  error, until;

    ngx_http_taptalent_status_write(w, "{\"spool\":");

    if (s->kind == NGX_HTTP_TAPTALENT_MEMORY) {
        ngx_http_taptalent_status_write(w, "\"\"");

    } else {
        ngx_http_taptalent_status_write_string(w, &s->name);
    }

    ngx_http_taptalent_status_write(w, ",\"destination\":");
    ngx_http_taptalent_status_write_string(w, &dest->name);

    until = ngx_http_taptalent_wide_get(&dest->paused_until);

    ngx_http_taptalent_status_write(w, ",\"up\":%s,\"paused_until\":%uL.%03uL,",
                                    dest->down ? "false" : "true",
                                    until / 1000, until % 1000);

    error = ngx_http_taptalent_wide_get(&dest->error_time);

    if (error) {
        ngx_http_taptalent_status_write(w, "\"last_error\":{\"time\":%uL.%03uL,"
                                        "\"status\":%uA},", error / 1000,
                                        error % 1000, dest->error_status);

    } else {
        ngx_http_taptalent_status_write(w, "\"last_error\":null,");
    }

    ngx_http_taptalent_status_write(w, "\"delivered\":%uA,\"retry\":%uA,"
                                    "\"dead\":%uA,\"retries\":%uA,"
                                    "\"timeouts\":%uA}",
                                  dest->outcomes[NGX_HTTP_TAPTALENT_DELIVERED],
                                    dest->outcomes[NGX_HTTP_TAPTALENT_RETRY],
                                    dest->outcomes[NGX_HTTP_TAPTALENT_GIVEN_UP],
                                    dest->retries, dest->timeouts);
}


static void
ngx_http_taptalent_status_json_recent(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_shared_t *sh)
{
    ngx_uint_t                    i, n;
    ngx_http_taptalent_recent_t  *found;

    ngx_http_taptalent_status_write(w, "\"recent\":[");

    found = ngx_palloc(w->pool, sizeof(ngx_http_taptalent_recent_t)
                                * (NGX_HTTP_TAPTALENT_TAKEN
                                   + NGX_HTTP_TAPTALENT_REFUSED));
    if (found == NULL) {
        w->failed = 1;
        return;
    }

    n = ngx_http_taptalent_status_json_collect(sh->taken,
                                               NGX_HTTP_TAPTALENT_TAKEN,
                                               sh->ntaken, found);

    n += ngx_http_taptalent_status_json_collect(sh->refused,
                                                NGX_HTTP_TAPTALENT_REFUSED,
                                                sh->nrefused, &found[n]);

    ngx_sort(found, n, sizeof(ngx_http_taptalent_recent_t),
             ngx_http_taptalent_status_json_newer);

    for (i = 0; i < n; i++) {
        ngx_http_taptalent_status_write(w, i ? "," : "");
        ngx_http_taptalent_status_json_entry(w, &found[i]);
    }

    ngx_http_taptalent_status_write(w, "],");
}


/* copies of the entries of a ring, the newest first */

static ngx_uint_t
ngx_http_taptalent_status_json_collect(ngx_http_taptalent_recent_t *ring,
    ngx_uint_t size, ngx_uint_t next, ngx_http_taptalent_recent_t *found)
{
    ngx_uint_t  i, n;

    n = 0;

    for (i = 1; i <= size; i++) {

        if (ngx_http_taptalent_zone_recent(&ring[(next + size - i) % size],
                                           &found[n])
            == NGX_OK)
        {
            n++;
        }
    }

    return n;
}


static ngx_int_t
ngx_http_taptalent_status_json_newer(const void *one, const void *two)
{
    const ngx_http_taptalent_recent_t  *first, *second;

    first = one;
    second = two;

    return (first->time < second->time) - (first->time > second->time);
}


static void
ngx_http_taptalent_status_json_entry(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_recent_t *entry)
{
    u_char  *last;
    u_char   buf[NGX_HTTP_TAPTALENT_WHY + sizeof("not enforced: ")];

    if (entry->verdict >= NGX_HTTP_TAPTALENT_VERDICTS) {
        entry->verdict = NGX_HTTP_TAPTALENT_NONE;
    }

    ngx_http_taptalent_status_write(w, "{\"time\":%uL.%03uL,\"verdict\":\"%V\","
                                    "\"status\":%ui", entry->time / 1000,
                                    entry->time % 1000,
                             &ngx_http_taptalent_verdicts[entry->verdict].word,
                                    entry->status);

    ngx_http_taptalent_status_json_member(w, "event", entry->event,
                                          entry->event_len);
    ngx_http_taptalent_status_json_member(w, "company", entry->company_id,
                                          entry->company_id_len);
    ngx_http_taptalent_status_json_member(w, "id", entry->id, entry->id_len);

    /* what was taken has a reason only with "taptalent_webhook_enforce off" */

    last = buf;

    if (entry->status < 300 && entry->why_len) {
        last = ngx_cpymem(last, "not enforced: ", sizeof("not enforced: ") - 1);
    }

    last = ngx_cpymem(last, entry->why, entry->why_len);

    ngx_http_taptalent_status_json_member(w, "why", buf, last - buf);

    ngx_http_taptalent_status_write(w, ",\"hint\":\"%s\"}",
                             ngx_http_taptalent_verdicts[entry->verdict].hint);
}


static void
ngx_http_taptalent_status_json_member(ngx_http_taptalent_writer_t *w,
    const char *name, u_char *data, size_t len)
{
    ngx_str_t  value;

    value.data = data;
    value.len = len;

    ngx_http_taptalent_status_write(w, ",\"%s\":", name);
    ngx_http_taptalent_status_write_string(w, &value);
}


static void
ngx_http_taptalent_status_json_history(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_shared_t *sh)
{
    ngx_atomic_uint_t  now;

    now = ngx_time() / NGX_HTTP_TAPTALENT_STEP;

    ngx_http_taptalent_status_write(w, "\"history\":{\"step\":%d,\"time\":%uA",
                                    NGX_HTTP_TAPTALENT_STEP,
                                    (now + 1) * NGX_HTTP_TAPTALENT_STEP);

    ngx_http_taptalent_status_json_series(w, sh, now, "accepted",
                          offsetof(ngx_http_taptalent_history_t, accepted));
    ngx_http_taptalent_status_json_series(w, sh, now, "refused",
                          offsetof(ngx_http_taptalent_history_t, refused));
    ngx_http_taptalent_status_json_series(w, sh, now, "delivered",
                          offsetof(ngx_http_taptalent_history_t, delivered));
    ngx_http_taptalent_status_json_series(w, sh, now, "backlog",
                          offsetof(ngx_http_taptalent_history_t, waiting));

    ngx_http_taptalent_status_write(w, "}");
}


/* a step that nobody has begun had no event; of the backlog nothing is known */

static void
ngx_http_taptalent_status_json_series(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_shared_t *sh, ngx_atomic_uint_t now,
    const char *name, size_t offset)
{
    ngx_uint_t                     backlog;
    ngx_atomic_uint_t              value, step;
    ngx_http_taptalent_history_t  *h;

    backlog = (offset == offsetof(ngx_http_taptalent_history_t, waiting));

    ngx_http_taptalent_status_write(w, ",\"%s\":[", name);

    for (step = now - NGX_HTTP_TAPTALENT_HISTORY + 2; step <= now; step++) {

        h = &sh->history[step % NGX_HTTP_TAPTALENT_HISTORY];

        value = (h->step == step) ? *(ngx_atomic_t *) ((char *) h + offset)
                                  : 0;

        if (backlog && value == 0) {
            ngx_http_taptalent_status_write(w, "null");

        } else {
            ngx_http_taptalent_status_write(w, "%uA", value - backlog);
        }

        if (step < now) {
            ngx_http_taptalent_status_write(w, ",");
        }
    }

    ngx_http_taptalent_status_write(w, "]");
}
