
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <nginx.h>
#include "ngx_http_taptalent_status.h"


/*
 * The status as metrics, in the text format 0.0.4 of Prometheus,
 * https://prometheus.io/docs/instrumenting/exposition_formats/.
 * All samples of a metric stand together, after its HELP and TYPE.
 */


#define NGX_HTTP_TAPTALENT_METRIC  "taptalent_webhook_"


typedef void (*ngx_http_taptalent_value_pt)(ngx_http_taptalent_writer_t *w,
    void *part, size_t offset);


/* of a spool or of a destination; those of one name follow each other */

typedef struct {
    const char                     *name;
    const char                     *type;
    const char                     *help;
    const char                     *label;      /* one more, or "" */
    ngx_http_taptalent_value_pt     print;
    size_t                          offset;     /* of what it prints */
    ngx_atomic_uint_t               known;      /* of a spool, must be */
} ngx_http_taptalent_metric_t;


typedef struct {
    const char                     *name;
    const char                     *help;
    size_t                          offset;
    ngx_http_taptalent_scale_t     *scale;
    unsigned                        memory:1;   /* without a spool too */
} ngx_http_taptalent_buckets_t;


static void ngx_http_taptalent_metrics_requests(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_shared_t *sh);
static void ngx_http_taptalent_metrics_spools(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone, ngx_uint_t kind,
    ngx_http_taptalent_metric_t *metric);
static void ngx_http_taptalent_metrics_histogram(
    ngx_http_taptalent_writer_t *w, ngx_http_taptalent_zone_t *zone,
    ngx_http_taptalent_buckets_t *metric);
static void ngx_http_taptalent_metrics_dests(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone, ngx_http_taptalent_metric_t *metric);

static void ngx_http_taptalent_metric_head(ngx_http_taptalent_writer_t *w,
    const char *name, const char *type, const char *help);
static void ngx_http_taptalent_metric_of(ngx_http_taptalent_writer_t *w,
    const char *name, const char *suffix, ngx_http_taptalent_zone_spool_t *s);

static void ngx_http_taptalent_print_number(ngx_http_taptalent_writer_t *w,
    void *part, size_t offset);
static void ngx_http_taptalent_print_wide(ngx_http_taptalent_writer_t *w,
    void *part, size_t offset);
static void ngx_http_taptalent_print_time(ngx_http_taptalent_writer_t *w,
    void *part, size_t offset);
static void ngx_http_taptalent_print_not(ngx_http_taptalent_writer_t *w,
    void *part, size_t offset);
static void ngx_http_taptalent_print_age(ngx_http_taptalent_writer_t *w,
    void *part, size_t offset);
static void ngx_http_taptalent_print_queued(ngx_http_taptalent_writer_t *w,
    void *part, size_t offset);
static void ngx_http_taptalent_print_state(ngx_http_taptalent_writer_t *w,
    void *part, size_t state);


#define ngx_http_taptalent_of_spool(member)                                   \
    offsetof(ngx_http_taptalent_zone_spool_t, member)

#define ngx_http_taptalent_of_dest(member)                                    \
    offsetof(ngx_http_taptalent_zone_dest_t, member)


static ngx_http_taptalent_metric_t  ngx_http_taptalent_spool_metrics[] = {

    { "commits_total", "counter", "Commits of groups of events, by result.",
      ",result=\"ok\"", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(commits), 0 },

    { "commits_total", "counter", "",
      ",result=\"error\"", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(commit_errors), 0 },

    { "dead_letters_total", "counter", "Events that were given up, by reason.",
      ",reason=\"permanent\"", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(dead[NGX_HTTP_TAPTALENT_PERMANENT]), 0 },

    { "dead_letters_total", "counter", "",
      ",reason=\"max_age\"", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(dead[NGX_HTTP_TAPTALENT_MAX_AGE]), 0 },

    { "corrupt_files_total", "counter",
      "Damaged files that were put into corrupt/.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(corrupt), 0 },

    { "backlog_files", "gauge", "Files that wait in new/.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(files),
      NGX_HTTP_TAPTALENT_KNOWN_NEW },

    { "backlog_events", "gauge", "Events that wait in new/.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(waiting),
      NGX_HTTP_TAPTALENT_KNOWN_NEW },

    { "backlog_bytes", "gauge", "Size of the files that wait in new/.",
      "", ngx_http_taptalent_print_wide,
      ngx_http_taptalent_of_spool(bytes),
      NGX_HTTP_TAPTALENT_KNOWN_NEW },

    { "backlog_oldest_age_seconds", "gauge",
      "Age of the oldest event that waits, 0 if there is none.",
      "", ngx_http_taptalent_print_age, 0,
      NGX_HTTP_TAPTALENT_KNOWN_NEW },

    { "backlog_measured_timestamp_seconds", "gauge",
      "When the disk was measured, Unix time.",
      "", ngx_http_taptalent_print_time,
      ngx_http_taptalent_of_spool(measured),
      NGX_HTTP_TAPTALENT_KNOWN_NEW },

    { "spool_dead_letters", "gauge", "Files in dead/.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(dead_files),
      NGX_HTTP_TAPTALENT_KNOWN_DEAD },

    { "spool_corrupt_files", "gauge", "Files in corrupt/.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(corrupt_files),
      NGX_HTTP_TAPTALENT_KNOWN_CORRUPT },

    { "spool_free_bytes", "gauge", "Free space of the spool's filesystem.",
      "", ngx_http_taptalent_print_wide,
      ngx_http_taptalent_of_spool(free_bytes),
      NGX_HTTP_TAPTALENT_KNOWN_FREE },

    { "spool_min_free_bytes", "gauge",
      "Free space below which events are refused.",
      "", ngx_http_taptalent_print_wide,
      ngx_http_taptalent_of_spool(min_free), 0 },

    { "spool_low", "gauge",
      "1 while the disk is low and events are refused.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(low),
      NGX_HTTP_TAPTALENT_KNOWN_FREE },

    { "spool_failed", "gauge",
      "1 while events are refused after an error, but for one a second.",
      "", ngx_http_taptalent_print_state, NGX_HTTP_TAPTALENT_FAILED, 0 },

    { "spool_broken", "gauge",
      "1 while events are refused until nginx is reloaded.",
      "", ngx_http_taptalent_print_state, NGX_HTTP_TAPTALENT_BROKEN, 0 },

    { NULL, NULL, NULL, NULL, NULL, 0, 0 }
};


static ngx_http_taptalent_metric_t  ngx_http_taptalent_quarantine_metrics[] = {

    { "quarantined_events_total", "counter",
      "Refused events that were put into quarantine.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(committed), 0 },

    { "quarantine_errors_total", "counter",
      "Commits of refused events that failed.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(commit_errors), 0 },

    { "quarantine_events", "gauge", "Refused events that are in quarantine.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(waiting),
      NGX_HTTP_TAPTALENT_KNOWN_NEW },

    { "quarantine_bytes", "gauge", "Size of the files in quarantine.",
      "", ngx_http_taptalent_print_wide,
      ngx_http_taptalent_of_spool(bytes),
      NGX_HTTP_TAPTALENT_KNOWN_NEW },

    { "quarantine_max_bytes", "gauge",
      "Size beyond which the oldest files are removed.",
      "", ngx_http_taptalent_print_wide,
      ngx_http_taptalent_of_spool(max_size), 0 },

    { NULL, NULL, NULL, NULL, NULL, 0, 0 }
};


static ngx_http_taptalent_metric_t  ngx_http_taptalent_queue_metrics[] = {

    { "queue_events", "gauge", "Events that wait in memory, of all workers.",
      "", ngx_http_taptalent_print_queued, 0, 0 },

    { "queue_limit", "gauge", "Events that may wait in memory of a worker.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_spool(limit), 0 },

    { NULL, NULL, NULL, NULL, NULL, 0, 0 }
};


static ngx_http_taptalent_buckets_t  ngx_http_taptalent_histograms[] = {

    { "commit_duration_seconds",
      "How long a commit takes: write, fsync, rename, fsync.",
      ngx_http_taptalent_of_spool(duration),
      &ngx_http_taptalent_duration_scale, 0 },

    { "commit_events", "Events in a commit.",
      ngx_http_taptalent_of_spool(events),
      &ngx_http_taptalent_events_scale, 0 },

    { "delivery_latency_seconds",
      "From the receipt of an event until the application has confirmed it.",
      ngx_http_taptalent_of_spool(latency),
      &ngx_http_taptalent_latency_scale, 1 },

    { NULL, NULL, 0, NULL, 0 }
};


static ngx_http_taptalent_metric_t  ngx_http_taptalent_dest_metrics[] = {

    { "deliveries_total", "counter",
      "Attempts to deliver an event, by outcome.",
      ",outcome=\"delivered\"", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_dest(outcomes[NGX_HTTP_TAPTALENT_DELIVERED]), 0 },

    { "deliveries_total", "counter", "",
      ",outcome=\"retry\"", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_dest(outcomes[NGX_HTTP_TAPTALENT_RETRY]), 0 },

    { "deliveries_total", "counter", "",
      ",outcome=\"dead\"", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_dest(outcomes[NGX_HTTP_TAPTALENT_GIVEN_UP]), 0 },

    { "delivery_retries_total", "counter",
      "Attempts that were not the first one of their event.",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_dest(retries), 0 },

    { "delivery_timeouts_total", "counter",
      "Attempts whose answer was not complete after \"timeout\".",
      "", ngx_http_taptalent_print_number,
      ngx_http_taptalent_of_dest(timeouts), 0 },

    { "destination_up", "gauge",
      "0 while deliveries to the destination are paused after failures.",
      "", ngx_http_taptalent_print_not,
      ngx_http_taptalent_of_dest(down), 0 },

    { "destination_paused_until_timestamp_seconds", "gauge",
      "Next attempt at a destination that is paused, Unix time, or 0.",
      "", ngx_http_taptalent_print_time,
      ngx_http_taptalent_of_dest(paused_until), 0 },

    { NULL, NULL, NULL, NULL, NULL, 0, 0 }
};


void
ngx_http_taptalent_status_prometheus(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_main_conf_t *tmcf)
{
    ngx_http_taptalent_zone_t         *zone;
    ngx_http_taptalent_buckets_t      *buckets;
    ngx_http_taptalent_zone_shared_t  *sh;

    zone = tmcf->zone;
    sh = zone->sh;

    ngx_http_taptalent_metric_head(w, "build_info", "gauge",
                                   "Versions of the module and of nginx.");
    ngx_http_taptalent_status_write(w, NGX_HTTP_TAPTALENT_METRIC
                                 "build_info{version=\"%s\",nginx=\"%s\"} 1\n",
                                    NGX_HTTP_TAPTALENT_VERSION, NGINX_VERSION);

    ngx_http_taptalent_metric_head(w, "start_time_seconds", "gauge",
                                   "Since when is counted, Unix time.");
    ngx_http_taptalent_status_write(w, NGX_HTTP_TAPTALENT_METRIC
                                    "start_time_seconds %T\n", sh->since);

    ngx_http_taptalent_metrics_requests(w, sh);
    ngx_http_taptalent_metrics_spools(w, zone, NGX_HTTP_TAPTALENT_SPOOL,
                                      ngx_http_taptalent_spool_metrics);
    ngx_http_taptalent_metrics_spools(w, zone, NGX_HTTP_TAPTALENT_QUARANTINE,
                                      ngx_http_taptalent_quarantine_metrics);

    for (buckets = ngx_http_taptalent_histograms; buckets->name; buckets++) {
        ngx_http_taptalent_metrics_histogram(w, zone, buckets);
    }

    ngx_http_taptalent_metrics_dests(w, zone, ngx_http_taptalent_dest_metrics);
    ngx_http_taptalent_metrics_spools(w, zone, NGX_HTTP_TAPTALENT_MEMORY,
                                      ngx_http_taptalent_queue_metrics);
}


static void
ngx_http_taptalent_metrics_requests(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_shared_t *sh)
{
    ngx_uint_t  i, n;

    ngx_http_taptalent_metric_head(w, "requests_total", "counter",
                                   "Requests, by what was decided on them.");

    for (i = NGX_HTTP_TAPTALENT_ACCEPTED; i < NGX_HTTP_TAPTALENT_VERDICTS; i++)
    {
        ngx_http_taptalent_status_write(w, NGX_HTTP_TAPTALENT_METRIC
                                        "requests_total{verdict=\"%V\"} %uA\n",
                                        &ngx_http_taptalent_verdicts[i].word,
                                        sh->verdicts[i]);
    }

    ngx_http_taptalent_metric_head(w, "unenforced_total", "counter",
                                   "Requests that would have been refused, "
                                   "with taptalent_webhook_enforce off.");

    for (i = NGX_HTTP_TAPTALENT_ACCEPTED; i < NGX_HTTP_TAPTALENT_VERDICTS; i++)
    {
        if (ngx_http_taptalent_verdict_enforceable(i)) {
            ngx_http_taptalent_status_write(w, NGX_HTTP_TAPTALENT_METRIC
                                      "unenforced_total{verdict=\"%V\"} %uA\n",
                                          &ngx_http_taptalent_verdicts[i].word,
                                            sh->unenforced[i]);
        }
    }

    ngx_http_taptalent_metric_head(w, "events_total", "counter",
                                   "Events that were accepted, by type.");

    n = sh->ntypes;

    for (i = 0; i < n; i++) {
        ngx_http_taptalent_status_write(w, NGX_HTTP_TAPTALENT_METRIC
                                        "events_total{event=\"%V\"} %uA\n",
                                        &sh->types[i].name, sh->types[i].count);
    }

    ngx_http_taptalent_status_write(w, NGX_HTTP_TAPTALENT_METRIC
                                    "events_total{event=\"other\"} %uA\n",
                                    sh->other);

    ngx_http_taptalent_metric_head(w, "received_bytes_total", "counter",
                                   "Bytes of the bodies of accepted events.");
    ngx_http_taptalent_status_write(w, NGX_HTTP_TAPTALENT_METRIC
                                    "received_bytes_total %uL\n",
                                    ngx_http_taptalent_wide_get(&sh->bytes));
}


static void
ngx_http_taptalent_metrics_spools(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone, ngx_uint_t kind,
    ngx_http_taptalent_metric_t *metric)
{
    ngx_uint_t                         i;
    ngx_http_taptalent_zone_spool_t  **sp;

    sp = zone->spools.elts;

    for ( /* void */ ; metric->name; metric++) {

        if (metric->help[0]) {
            ngx_http_taptalent_metric_head(w, metric->name, metric->type,
                                           metric->help);
        }

        for (i = 0; i < zone->spools.nelts; i++) {

            if (sp[i]->kind != kind
                || (metric->known & ~sp[i]->known))
            {
                continue;
            }

            ngx_http_taptalent_metric_of(w, metric->name, "", sp[i]);
            ngx_http_taptalent_status_write(w, "%s} ", metric->label);
            metric->print(w, sp[i], metric->offset);
        }
    }
}


static void
ngx_http_taptalent_metrics_histogram(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone, ngx_http_taptalent_buckets_t *metric)
{
    ngx_uint_t                          i, n;
    ngx_http_taptalent_scale_t         *scale;
    ngx_http_taptalent_histogram_t     *h;
    ngx_http_taptalent_zone_spool_t   **sp;
    ngx_http_taptalent_distribution_t   d;

    ngx_http_taptalent_metric_head(w, metric->name, "histogram", metric->help);

    sp = zone->spools.elts;
    scale = metric->scale;

    for (i = 0; i < zone->spools.nelts; i++) {

        if (sp[i]->kind == NGX_HTTP_TAPTALENT_QUARANTINE
            || (sp[i]->kind == NGX_HTTP_TAPTALENT_MEMORY && !metric->memory))
        {
            continue;
        }

        h = (ngx_http_taptalent_histogram_t *) ((char *) sp[i]
                                                + metric->offset);

        ngx_http_taptalent_status_write_histogram(h, scale, &d);

        for (n = 0; n < scale->n; n++) {
            ngx_http_taptalent_metric_of(w, metric->name, "_bucket", sp[i]);
            ngx_http_taptalent_status_write(w, ",le=\"%s\"} %uA\n",
                                            scale->bounds[n].text,
                                            d.buckets[n]);
        }

        ngx_http_taptalent_metric_of(w, metric->name, "_bucket", sp[i]);
        ngx_http_taptalent_status_write(w, ",le=\"+Inf\"} %uA\n", d.count);

        ngx_http_taptalent_metric_of(w, metric->name, "_sum", sp[i]);
        ngx_http_taptalent_status_write(w, "} ");
        ngx_http_taptalent_status_write_sum(w, &d, scale);
        ngx_http_taptalent_status_write(w, "\n");

        ngx_http_taptalent_metric_of(w, metric->name, "_count", sp[i]);
        ngx_http_taptalent_status_write(w, "} %uA\n", d.count);
    }
}


static void
ngx_http_taptalent_metrics_dests(ngx_http_taptalent_writer_t *w,
    ngx_http_taptalent_zone_t *zone, ngx_http_taptalent_metric_t *metric)
{
    ngx_uint_t                         i;
    ngx_queue_t                       *q;
    ngx_http_taptalent_zone_dest_t    *dest;
    ngx_http_taptalent_zone_spool_t  **sp;

    sp = zone->spools.elts;

    for ( /* void */ ; metric->name; metric++) {

        if (metric->help[0]) {
            ngx_http_taptalent_metric_head(w, metric->name, metric->type,
                                           metric->help);
        }

        for (i = 0; i < zone->spools.nelts; i++) {

            for (q = ngx_queue_head(&sp[i]->dests);
                 q != ngx_queue_sentinel(&sp[i]->dests);
                 q = ngx_queue_next(q))
            {
                dest = ngx_queue_data(q, ngx_http_taptalent_zone_dest_t,
                                      queue);

                ngx_http_taptalent_metric_of(w, metric->name, "", sp[i]);
                ngx_http_taptalent_status_write(w, ",destination=");
                ngx_http_taptalent_status_write_label(w, &dest->name);
                ngx_http_taptalent_status_write(w, "%s} ", metric->label);
                metric->print(w, dest, metric->offset);
            }
        }
    }
}


static void
ngx_http_taptalent_metric_head(ngx_http_taptalent_writer_t *w,
    const char *name, const char *type, const char *help)
{
    ngx_http_taptalent_status_write(w,
                                "# HELP " NGX_HTTP_TAPTALENT_METRIC "%s %s\n"
                                "# TYPE " NGX_HTTP_TAPTALENT_METRIC "%s %s\n",
                                    name, help, name, type);
}


/* the name and what tells the part: without a spool it is "forward" */

static void
ngx_http_taptalent_metric_of(ngx_http_taptalent_writer_t *w, const char *name,
    const char *suffix, ngx_http_taptalent_zone_spool_t *s)
{
    static const char  *labels[] = { "spool=", "spool=\"\",forward=",
                                     "quarantine=" };

    ngx_http_taptalent_status_write(w, NGX_HTTP_TAPTALENT_METRIC "%s%s{%s",
                                    name, suffix, labels[s->kind]);
    ngx_http_taptalent_status_write_label(w, &s->name);
}


static void
ngx_http_taptalent_print_number(ngx_http_taptalent_writer_t *w, void *part,
    size_t offset)
{
    ngx_http_taptalent_status_write(w, "%uA\n",
                                    *(ngx_atomic_t *) ((char *) part + offset));
}


static void
ngx_http_taptalent_print_wide(ngx_http_taptalent_writer_t *w, void *part,
    size_t offset)
{
    ngx_http_taptalent_wide_t  *wide;

    wide = (ngx_http_taptalent_wide_t *) ((char *) part + offset);

    ngx_http_taptalent_status_write(w, "%uL\n",
                                    ngx_http_taptalent_wide_get(wide));
}


static void
ngx_http_taptalent_print_time(ngx_http_taptalent_writer_t *w, void *part,
    size_t offset)
{
    uint64_t                    msec;
    ngx_http_taptalent_wide_t  *wide;

    wide = (ngx_http_taptalent_wide_t *) ((char *) part + offset);

    msec = ngx_http_taptalent_wide_get(wide);

    ngx_http_taptalent_status_write(w, "%uL.%03uL\n", msec / 1000, msec % 1000);
}


static void
ngx_http_taptalent_print_not(ngx_http_taptalent_writer_t *w, void *part,
    size_t offset)
{
    ngx_http_taptalent_status_write(w, "%d\n",
                              *(ngx_atomic_t *) ((char *) part + offset) == 0);
}


static void
ngx_http_taptalent_print_age(ngx_http_taptalent_writer_t *w, void *part,
    size_t offset)
{
    ngx_http_taptalent_status_write(w, "%uA\n",
                                    ngx_http_taptalent_zone_age(part));
}


static void
ngx_http_taptalent_print_queued(ngx_http_taptalent_writer_t *w, void *part,
    size_t offset)
{
    ngx_uint_t  workers;

    ngx_http_taptalent_status_write(w, "%ui\n",
                                 ngx_http_taptalent_zone_told(part, &workers));
}


static void
ngx_http_taptalent_print_state(ngx_http_taptalent_writer_t *w, void *part,
    size_t state)
{
    ngx_uint_t  workers;

    ngx_http_taptalent_status_write(w, "%d\n",
                    ngx_http_taptalent_zone_told(part, &workers) == state);
}
