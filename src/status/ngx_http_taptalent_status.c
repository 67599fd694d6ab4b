
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <openssl/evp.h>
#include "ngx_http_taptalent_request.h"
#include "ngx_http_taptalent_status.h"


/* The status location: the page, JSON, or metrics. */


#define NGX_HTTP_TAPTALENT_SHA256  32

#define NGX_HTTP_TAPTALENT_NAMED  3  /* a type, and not a range of them */


/* what an Accept header says of a format */

typedef struct {
    ngx_uint_t   format;
    ngx_str_t    type;
    ngx_uint_t   weight;     /* in thousandths */
    ngx_uint_t   match;      /* how exactly it is named, 0: not at all */
} ngx_http_taptalent_offer_t;


static ngx_uint_t ngx_http_taptalent_status_format(ngx_http_request_t *r,
    ngx_uint_t status);
static void ngx_http_taptalent_status_accept(ngx_http_request_t *r,
    ngx_http_taptalent_offer_t *offers);
static void ngx_http_taptalent_status_ranges(ngx_str_t *value,
    ngx_http_taptalent_offer_t *offers);
static u_char *ngx_http_taptalent_status_end(u_char *p, u_char *last,
    u_char separator);
static ngx_str_t ngx_http_taptalent_status_trim(u_char *p, u_char *last);
static ngx_int_t ngx_http_taptalent_status_weight(ngx_str_t *parameter);
static ngx_uint_t ngx_http_taptalent_status_matches(ngx_str_t *range,
    ngx_str_t *type);
static ngx_int_t ngx_http_taptalent_status_headers(ngx_http_request_t *r,
    ngx_uint_t format);
static ngx_int_t ngx_http_taptalent_status_hash(const char *start,
    const char *end, ngx_str_t *hash);


static ngx_conf_enum_t  ngx_http_taptalent_formats[] = {
    { ngx_string("html"), NGX_HTTP_TAPTALENT_HTML },
    { ngx_string("prometheus"), NGX_HTTP_TAPTALENT_PROMETHEUS },
    { ngx_string("json"), NGX_HTTP_TAPTALENT_STATUS_JSON },
    { ngx_null_string, 0 }
};


static ngx_str_t  ngx_http_taptalent_types[] = {
    ngx_null_string,
    ngx_null_string,
    ngx_string("text/html; charset=utf-8"),
    ngx_string("text/plain; version=0.0.4; charset=utf-8"),
    ngx_string("application/json")
};


static u_char  ngx_http_taptalent_page[] =
#include "ngx_http_taptalent_page.h"
;


/* the page needs nothing but itself and its figures, and may do nothing else */

#define NGX_HTTP_TAPTALENT_POLICY                                             \
    "default-src 'none'; style-src 'sha256-%V'; script-src 'sha256-%V'; "     \
    "connect-src 'self'; img-src data:; base-uri 'none'; "                    \
    "form-action 'none'; frame-ancestors 'none'"

static u_char  ngx_http_taptalent_policy[sizeof(NGX_HTTP_TAPTALENT_POLICY)
                          + 2 * ngx_base64_encoded_length(
                                    NGX_HTTP_TAPTALENT_SHA256)];


char *
ngx_http_taptalent_webhook_status(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf)
{
    ngx_http_taptalent_loc_conf_t *tlcf = conf;

    ngx_str_t                       *value;
    ngx_uint_t                       i;
    ngx_http_core_loc_conf_t        *clcf;
    ngx_http_taptalent_main_conf_t  *tmcf;

    if (tlcf->status != NGX_HTTP_TAPTALENT_NO_STATUS) {
        return "is duplicate";
    }

    tlcf->status = NGX_HTTP_TAPTALENT_ACCEPT;
    tlcf->status_file = cf->conf_file->file.name.data;
    tlcf->status_line = cf->conf_file->line;

    value = cf->args->elts;

    if (cf->args->nelts == 2) {

        for (i = 0; ngx_http_taptalent_formats[i].name.len; i++) {

            if (ngx_strcmp(value[1].data,
                           ngx_http_taptalent_formats[i].name.data)
                == 0)
            {
                tlcf->status = ngx_http_taptalent_formats[i].value;
                break;
            }
        }

        if (tlcf->status == NGX_HTTP_TAPTALENT_ACCEPT) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid format \"%V\", write \"html\", "
                               "\"json\", \"prometheus\", or nothing",
                               &value[1]);
            return NGX_CONF_ERROR;
        }
    }

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /* another one, before it or after it, is found when it is merged */

    if (clcf->handler == NULL) {
        clcf->handler = ngx_http_taptalent_status_handler;
    }

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);
    tmcf->used = 1;
    tmcf->status = 1;

    return NGX_CONF_OK;
}


/* the hashes allow the page's own style and script, and no others */

ngx_int_t
ngx_http_taptalent_status_init(ngx_conf_t *cf)
{
    u_char     style_text[ngx_base64_encoded_length(
                                                NGX_HTTP_TAPTALENT_SHA256)];
    u_char     script_text[ngx_base64_encoded_length(
                                                NGX_HTTP_TAPTALENT_SHA256)];
    ngx_str_t  style, script;

    style.data = style_text;
    script.data = script_text;

    if (ngx_http_taptalent_status_hash("<style>", "</style>", &style) != NGX_OK
        || ngx_http_taptalent_status_hash("<script>", "</script>", &script)
           != NGX_OK)
    {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0, "EVP_Digest() failed");
        return NGX_ERROR;
    }

    ngx_sprintf(ngx_http_taptalent_policy, NGX_HTTP_TAPTALENT_POLICY "%Z",
                &style, &script);

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_status_hash(const char *start, const char *end,
    ngx_str_t *hash)
{
    u_char     *p, *last;
    u_char      digest[NGX_HTTP_TAPTALENT_SHA256];
    ngx_str_t   d;

    p = (u_char *) ngx_strstr(ngx_http_taptalent_page, start);
    last = (u_char *) ngx_strstr(ngx_http_taptalent_page, end);

    if (p == NULL || last == NULL) {
        return NGX_ERROR;
    }

    p += ngx_strlen(start);

    if (EVP_Digest(p, last - p, digest, NULL, EVP_sha256(), NULL) != 1) {
        return NGX_ERROR;
    }

    d.data = digest;
    d.len = sizeof(digest);

    ngx_encode_base64(hash, &d);

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_status_handler(ngx_http_request_t *r)
{
    ngx_int_t                        rc;
    ngx_buf_t                       *b;
    ngx_uint_t                       format;
    ngx_chain_t                      out, *cl;
    ngx_http_taptalent_writer_t      w;
    ngx_http_taptalent_loc_conf_t   *tlcf;
    ngx_http_taptalent_main_conf_t  *tmcf;

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_HTTP_NOT_ALLOWED;
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    tlcf = ngx_http_get_module_loc_conf(r, ngx_http_taptalent_webhook_module);
    tmcf = ngx_http_get_module_main_conf(r, ngx_http_taptalent_webhook_module);

    format = ngx_http_taptalent_status_format(r, tlcf->status);

    ngx_memzero(&w, sizeof(ngx_http_taptalent_writer_t));

    w.pool = r->pool;
    w.last = &w.out;

    switch (format) {

    case NGX_HTTP_TAPTALENT_HTML:

        b = ngx_calloc_buf(r->pool);
        if (b == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        b->pos = ngx_http_taptalent_page;
        b->last = b->pos + sizeof(ngx_http_taptalent_page) - 1;
        b->memory = 1;

        out.buf = b;
        out.next = NULL;

        w.out = &out;
        w.size = b->last - b->pos;

        break;

    case NGX_HTTP_TAPTALENT_STATUS_JSON:
        ngx_http_taptalent_status_json(&w, tmcf);
        break;

    default: /* NGX_HTTP_TAPTALENT_PROMETHEUS */
        ngx_http_taptalent_status_prometheus(&w, tmcf);
        break;
    }

    if (w.failed
        || ngx_http_taptalent_status_headers(r, format) != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    /* whatever has led here, and whatever the client has already */

    r->err_status = 0;
    r->disable_not_modified = 1;
    r->allow_ranges = 0;

    r->headers_out.status = NGX_HTTP_OK;
    r->headers_out.content_length_n = w.size;
    r->headers_out.content_type = ngx_http_taptalent_types[format];
    r->headers_out.content_type_len = r->headers_out.content_type.len;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    for (cl = w.out; cl->next; cl = cl->next) { /* void */ }

    cl->buf->last_buf = (r == r->main);
    cl->buf->last_in_chain = 1;

    return ngx_http_output_filter(r, w.out);
}


/*
 * A browser asks for HTML, the page for JSON, Prometheus for text.  Of what is
 * wanted as much, that which is named more exactly comes first, then what is
 * first here.  Who names none of them gets text.
 */

static ngx_uint_t
ngx_http_taptalent_status_format(ngx_http_request_t *r, ngx_uint_t status)
{
    ngx_uint_t                   i, n;
    ngx_http_taptalent_offer_t  *best, *other;
    ngx_http_taptalent_offer_t   offers[] = {
        { NGX_HTTP_TAPTALENT_HTML, ngx_string("text/html"), 0, 0 },
        { NGX_HTTP_TAPTALENT_STATUS_JSON, ngx_string("application/json"),
          0, 0 },
        { NGX_HTTP_TAPTALENT_PROMETHEUS, ngx_string("text/plain"), 0, 0 }
    };

    switch (status) {

    case NGX_HTTP_TAPTALENT_ACCEPT:
        n = 3;
        other = &offers[2];
        break;

    case NGX_HTTP_TAPTALENT_HTML:

        /* the page needs its figures */

        n = 2;
        other = &offers[0];
        break;

    default:
        return status;
    }

    ngx_http_taptalent_status_accept(r, offers);

    best = &offers[0];

    for (i = 1; i < n; i++) {

        if (offers[i].weight > best->weight
            || (offers[i].weight == best->weight
                && offers[i].match > best->match))
        {
            best = &offers[i];
        }
    }

    if (best->weight == 0
        || (best->match != NGX_HTTP_TAPTALENT_NAMED
            && other->weight == best->weight && other->match == best->match))
    {
        best = other;
    }

    return best->format;
}


static void
ngx_http_taptalent_status_accept(ngx_http_request_t *r,
    ngx_http_taptalent_offer_t *offers)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (h[i].hash && h[i].key.len == sizeof("accept") - 1
                && ngx_strncmp(h[i].lowcase_key, "accept",
                               sizeof("accept") - 1)
                   == 0)
            {
                ngx_http_taptalent_status_ranges(&h[i].value, offers);
            }
        }
    }
}


/*
 * RFC 9110, 12.5.1: "type/subtype;parameter;q=0.5, ...".  Of the ranges that a
 * type is in, the one that names it most exactly counts, and of equal ones that
 * with the largest weight.  Parameters other than "q" make no difference here.
 */

static void
ngx_http_taptalent_status_ranges(ngx_str_t *value,
    ngx_http_taptalent_offer_t *offers)
{
    u_char      *p, *end, *last, *next;
    ngx_int_t    weight;
    ngx_str_t    range, parameter;
    ngx_uint_t   i, match;

    last = value->data + value->len;

    for (p = value->data; p < last; p = end + 1) {

        end = ngx_http_taptalent_status_end(p, last, ',');
        next = ngx_http_taptalent_status_end(p, end, ';');

        range = ngx_http_taptalent_status_trim(p, next);
        weight = 1000;

        while (next < end) {
            p = next + 1;
            next = ngx_http_taptalent_status_end(p, end, ';');

            parameter = ngx_http_taptalent_status_trim(p, next);

            if (parameter.len > 1 && parameter.data[1] == '='
                && (parameter.data[0] | 0x20) == 'q')
            {
                weight = ngx_http_taptalent_status_weight(&parameter);
                break;
            }
        }

        if (weight == NGX_ERROR) {
            continue;
        }

        for (i = 0; i < 3; i++) {

            match = ngx_http_taptalent_status_matches(&range, &offers[i].type);

            if (match > offers[i].match) {
                offers[i].match = match;
                offers[i].weight = weight;

            } else if (match && match == offers[i].match) {
                offers[i].weight = ngx_max(offers[i].weight,
                                           (ngx_uint_t) weight);
            }
        }
    }
}


/* the next separator that is not in a quoted string, or the end */

static u_char *
ngx_http_taptalent_status_end(u_char *p, u_char *last, u_char separator)
{
    ngx_uint_t  quoted;

    quoted = 0;

    for ( /* void */ ; p < last; p++) {

        if (*p == '"') {
            quoted = !quoted;

        } else if (*p == '\\' && quoted && p + 1 < last) {
            p++;

        } else if (*p == separator && !quoted) {
            break;
        }
    }

    return p;
}


static ngx_str_t
ngx_http_taptalent_status_trim(u_char *p, u_char *last)
{
    ngx_str_t  s;

    while (p < last && (*p == ' ' || *p == '\t')) {
        p++;
    }

    while (p < last && (last[-1] == ' ' || last[-1] == '\t')) {
        last--;
    }

    s.data = p;
    s.len = last - p;

    return s;
}


/* "q=0.123" in thousandths, NGX_ERROR if it is no weight */

static ngx_int_t
ngx_http_taptalent_status_weight(ngx_str_t *parameter)
{
    u_char     *p, *last;
    ngx_int_t   weight, digit;

    p = parameter->data + 2;
    last = parameter->data + parameter->len;

    if (p == last || (*p != '0' && *p != '1')) {
        return NGX_ERROR;
    }

    weight = (*p++ - '0') * 1000;

    if (p == last) {
        return weight;
    }

    if (*p++ != '.' || last - p > 3) {
        return NGX_ERROR;
    }

    for (digit = 100; p < last; p++, digit /= 10) {

        if (*p < '0' || *p > '9') {
            return NGX_ERROR;
        }

        weight += (*p - '0') * digit;
    }

    return (weight > 1000) ? NGX_ERROR : weight;
}


static ngx_uint_t
ngx_http_taptalent_status_matches(ngx_str_t *range, ngx_str_t *type)
{
    size_t  len;

    if (range->len == type->len
        && ngx_strncasecmp(range->data, type->data, type->len) == 0)
    {
        return NGX_HTTP_TAPTALENT_NAMED;
    }

    if (range->len == 3 && ngx_strncmp(range->data, "*/*", 3) == 0) {
        return 1;
    }

    /* "text/" and a star */

    len = range->len - 1;

    return range->len > 2 && range->data[len] == '*'
           && range->data[len - 1] == '/' && len < type->len
           && ngx_strncasecmp(range->data, type->data, len) == 0
           ? 2 : 0;
}


static ngx_int_t
ngx_http_taptalent_status_headers(ngx_http_request_t *r, ngx_uint_t format)
{
    if (ngx_http_taptalent_request_add_header(r, "Cache-Control", "no-store")
        != NGX_OK
        || ngx_http_taptalent_request_add_header(r, "Vary", "Accept") != NGX_OK
        || ngx_http_taptalent_request_add_header(r, "X-Content-Type-Options",
                                                 "nosniff")
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (format != NGX_HTTP_TAPTALENT_HTML) {
        return NGX_OK;
    }

    if (ngx_http_taptalent_request_add_header(r, "Referrer-Policy",
                                              "no-referrer")
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_taptalent_request_add_header(r, "Content-Security-Policy",
                                          (char *) ngx_http_taptalent_policy);
}
