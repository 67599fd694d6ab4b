
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <openssl/evp.h>
#include "ngx_http_taptalent_event.h"
#include "ngx_http_taptalent_json.h"


typedef enum {
    ngx_http_taptalent_member_other = 0,
    ngx_http_taptalent_member_event,
    ngx_http_taptalent_member_timestamp,
    ngx_http_taptalent_member_company_id,
    ngx_http_taptalent_member_data
} ngx_http_taptalent_member_e;


typedef enum {
    ngx_http_taptalent_type_string = 0,
    ngx_http_taptalent_type_number,
    ngx_http_taptalent_type_object,
    ngx_http_taptalent_type_other
} ngx_http_taptalent_type_e;


typedef struct {
    ngx_str_t                     name;
    const char                   *missing;
    const char                   *repeated;
    const char                   *invalid;
} ngx_http_taptalent_member_t;


typedef struct {
    ngx_http_taptalent_event_t   *event;
    ngx_http_taptalent_json_t     json;

    ngx_uint_t                    depth;
    ngx_uint_t                    seen;       /* a bit for each member */
    ngx_http_taptalent_member_e   member;     /* of the top-level object */
    u_char                       *member_end; /* of its name */

    const char                   *flaw;       /* JSON, but no event */
    unsigned                      mismatch:1;
} ngx_http_taptalent_parser_t;


static ngx_int_t ngx_http_taptalent_days(u_char *p, ngx_int_t *epoch);

static int ngx_http_taptalent_yajl_null(void *data);
static int ngx_http_taptalent_yajl_boolean(void *data, int value);
static int ngx_http_taptalent_yajl_number(void *data, const char *p,
    size_t len);
static int ngx_http_taptalent_yajl_string(void *data, const u_char *p,
    size_t len);
static int ngx_http_taptalent_yajl_key(void *data, const u_char *p,
    size_t len);
static int ngx_http_taptalent_yajl_start_map(void *data);
static int ngx_http_taptalent_yajl_start_array(void *data);
static int ngx_http_taptalent_yajl_end(void *data);

static void ngx_http_taptalent_value(ngx_http_taptalent_parser_t *p,
    ngx_http_taptalent_type_e type, const u_char *text, size_t len);
static ngx_int_t ngx_http_taptalent_company_string(
    ngx_http_taptalent_parser_t *p, const u_char *text, size_t len);
static ngx_int_t ngx_http_taptalent_company_number(
    ngx_http_taptalent_parser_t *p, const u_char *text, size_t len);
static ngx_uint_t ngx_http_taptalent_unpaired(u_char *p, u_char *last);


static EVP_MD_CTX  *ngx_http_taptalent_id_ctx;


static yajl_callbacks  ngx_http_taptalent_yajl = {
    ngx_http_taptalent_yajl_null,
    ngx_http_taptalent_yajl_boolean,
    NULL,                                  /* integer, a number below */
    NULL,                                  /* double, a number below */
    ngx_http_taptalent_yajl_number,
    ngx_http_taptalent_yajl_string,
    ngx_http_taptalent_yajl_start_map,
    ngx_http_taptalent_yajl_key,
    ngx_http_taptalent_yajl_end,
    ngx_http_taptalent_yajl_start_array,
    ngx_http_taptalent_yajl_end
};


static ngx_http_taptalent_member_t  ngx_http_taptalent_members[] = {

    { ngx_null_string, NULL, NULL, NULL },

    { ngx_string("event"),
      "the member \"event\" is missing",
      "the member \"event\" must appear once",
      "the member \"event\" must be a string" },

    { ngx_string("timestamp"),
      "the member \"timestamp\" is missing",
      "the member \"timestamp\" must appear once",
      "the member \"timestamp\" must be a date-time of RFC 3339, "
      "such as 2024-01-20T14:45:00Z" },

    { ngx_string("companyId"),
      "the member \"companyId\" is missing",
      "the member \"companyId\" must appear once",
      "the member \"companyId\" must be a string of 1 to 256 bytes "
      "without control characters, or an integer" },

    { ngx_string("data"),
      "the member \"data\" is missing",
      "the member \"data\" must appear once",
      "the member \"data\" must be an object" }
};


ngx_uint_t
ngx_http_taptalent_event_media_type(ngx_str_t *type)
{
    size_t  len;

    len = sizeof("application/json") - 1;

    if (type->len < len
        || ngx_strncasecmp(type->data, (u_char *) "application/json", len)
           != 0)
    {
        return 0;
    }

    return type->len == len
           || type->data[len] == ';'
           || type->data[len] == ' '
           || type->data[len] == '\t';
}


ngx_uint_t
ngx_http_taptalent_event_name(ngx_str_t *name)
{
    u_char      c;
    ngx_uint_t  i;

    if (name->len == 0 || name->len > NGX_HTTP_TAPTALENT_MAX_NAME) {
        return 0;
    }

    for (i = 0; i < name->len; i++) {
        c = name->data[i];

        if ((c >= 'a' && c <= 'z')
            || (c >= 'A' && c <= 'Z')
            || (c >= '0' && c <= '9')
            || c == '.' || c == '_' || c == ':' || c == '-')
        {
            continue;
        }

        return 0;
    }

    return 1;
}


ngx_uint_t
ngx_http_taptalent_event_header(const u_char *p, size_t len)
{
    size_t  i;

    if (len == sizeof("content-type") - 1
        && ngx_memcmp(p, "content-type", len) == 0)
    {
        return 1;
    }

    if (len <= sizeof("x-webhook-") - 1
        || ngx_memcmp(p, "x-webhook-", sizeof("x-webhook-") - 1) != 0)
    {
        return 0;
    }

    for (i = sizeof("x-webhook-") - 1; i < len; i++) {

        if (p[i] <= 0x20 || p[i] >= 0x7f || (p[i] >= 'A' && p[i] <= 'Z')
            || ngx_strchr("\"(),/:;<=>?@[\\]{}", p[i]))
        {
            return 0;
        }
    }

    return 1;
}


/* a variable with a line feed in it would make a header of its own */

ngx_uint_t
ngx_http_taptalent_event_company(const u_char *p, size_t len)
{
    size_t  i;

    if (len == 0 || len > NGX_HTTP_TAPTALENT_MAX_COMPANY_ID) {
        return 0;
    }

    for (i = 0; i < len; i++) {
        if (p[i] < 0x20 || p[i] == 0x7f) {
            return 0;
        }
    }

    return 1;
}


ngx_uint_t
ngx_http_taptalent_event_host(const u_char *p, size_t len, size_t *name_len)
{
    u_char      c;
    size_t      i, n;
    ngx_uint_t  literal;

    if (len == 0 || len > NGX_HTTP_TAPTALENT_MAX_HOST) {
        return 0;
    }

    literal = (p[0] == '[');

    for (i = literal; i < len && p[i] != (literal ? ']' : ':'); i++) {

        c = p[i] | 0x20;

        if ((p[i] >= '0' && p[i] <= '9')
            || (literal && ((c >= 'a' && c <= 'f') || p[i] == ':')))
        {
            continue;
        }

        if (p[i] == '.') {
            if (i == 0 || p[i - 1] == '.') {
                return 0;
            }

            continue;
        }

        if (literal || ((c < 'a' || c > 'z') && p[i] != '-' && p[i] != '_')) {
            return 0;
        }
    }

    if (i == literal || p[i - 1] == '.' || (literal && i == len)) {
        return 0;
    }

    i += literal;
    *name_len = i;

    if (i == len) {
        return 1;
    }

    if (p[i] != ':') {
        return 0;
    }

    n = len - i - 1;

    if (n == 0 || n > sizeof("65535") - 1) {
        return 0;
    }

    for (i++; i < len; i++) {
        if (p[i] < '0' || p[i] > '9') {
            return 0;
        }
    }

    return 1;
}


/* the patterns are the operator's, so that backtracking needs no bound */

ngx_uint_t
ngx_http_taptalent_event_match(ngx_str_t *pattern, ngx_str_t *text)
{
    u_char  *p, *pend, *t, *tend, *star, *mark;

    p = pattern->data;
    pend = p + pattern->len;
    t = text->data;
    tend = t + text->len;
    star = NULL;
    mark = NULL;

    while (t < tend) {

        if (p < pend && *p == '*') {
            star = ++p;
            mark = t;
            continue;
        }

        if (p < pend && *p == *t) {
            p++;
            t++;
            continue;
        }

        if (star == NULL) {
            return 0;
        }

        p = star;
        t = ++mark;
    }

    while (p < pend && *p == '*') {
        p++;
    }

    return p == pend;
}


ngx_uint_t
ngx_http_taptalent_event_timestamp(u_char *p, size_t len, time_t *sec)
{
    u_char     *last;
    int64_t     t;
    ngx_int_t   days, hour, min, n;

    /* "2024-01-20T14:45:00Z" */

    if (len < sizeof("2024-01-20T14:45:00Z") - 1) {
        return 0;
    }

    last = p + len;

    hour = ngx_atoi(p + 11, 2);
    min = ngx_atoi(p + 14, 2);
    n = ngx_atoi(p + 17, 2);

    if (ngx_http_taptalent_days(p, &days) != NGX_OK
        || (p[10] != 'T' && p[10] != 't')
        || hour == NGX_ERROR || hour > 23 || p[13] != ':'
        || min == NGX_ERROR || min > 59 || p[16] != ':'
        || n == NGX_ERROR || n > 60)
    {
        return 0;
    }

    t = (int64_t) days * 86400 + hour * 3600 + min * 60 + n;

    p += sizeof("2024-01-20T14:45:00") - 1;

    if (*p == '.') {
        p++;

        if (p == last || *p < '0' || *p > '9') {
            return 0;
        }

        while (p < last && *p >= '0' && *p <= '9') {
            p++;
        }
    }

    if (last - p == 6 && (*p == '+' || *p == '-') && p[3] == ':') {

        /* "+hh:mm" */

        hour = ngx_atoi(p + 1, 2);
        min = ngx_atoi(p + 4, 2);

        if (hour == NGX_ERROR || hour > 23 || min == NGX_ERROR || min > 59) {
            return 0;
        }

        n = hour * 3600 + min * 60;
        t -= (*p == '+') ? n : -n;

    } else if (last - p != 1 || (*p != 'Z' && *p != 'z')) {
        return 0;
    }

    if (sec) {

        /* far off is not to become now where time_t has 32 bits */

        t = ngx_max(t, -(int64_t) NGX_MAX_TIME_T_VALUE);
        *sec = (time_t) ngx_min(t, (int64_t) NGX_MAX_TIME_T_VALUE);
    }

    return 1;
}


/* "2024-01-20" to days since the epoch; NGX_ERROR if there is no such day */

static ngx_int_t
ngx_http_taptalent_days(u_char *p, ngx_int_t *epoch)
{
    ngx_int_t  year, month, day, n;

    static ngx_int_t  days[] = {
        31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31
    };

    year = ngx_atoi(p, 4);
    month = ngx_atoi(p + 5, 2);
    day = ngx_atoi(p + 8, 2);

    if (year == NGX_ERROR || p[4] != '-' || p[7] != '-'
        || month < 1 || month > 12)
    {
        return NGX_ERROR;
    }

    n = days[month - 1];

    if (month == 2
        && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
    {
        n++;
    }

    if (day < 1 || day > n) {
        return NGX_ERROR;
    }

    /* Gauss' formula, with the year from March on, as ngx_parse_http_time() */

    if (month <= 2) {
        month += 12;
        year--;
    }

    /* January of the year 0 is in the year -1: 400 years are 146097 days */

    year += 400;

    *epoch = 365 * year + year / 4 - year / 100 + year / 400
             + (153 * (month - 3) + 2) / 5 + day - 1 - 719468 - 146097;

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_event_id(ngx_http_taptalent_event_t *ev)
{
    u_char        md[EVP_MAX_MD_SIZE];
    const EVP_MD *type;

    /* the type is looked up once: this takes longer than a small body */

    type = NULL;

    if (ngx_http_taptalent_id_ctx == NULL) {

        ngx_http_taptalent_id_ctx = EVP_MD_CTX_new();
        if (ngx_http_taptalent_id_ctx == NULL) {
            return NGX_ERROR;
        }

        type = EVP_sha256();
    }

    if (EVP_DigestInit_ex(ngx_http_taptalent_id_ctx, type, NULL) != 1
        || EVP_DigestUpdate(ngx_http_taptalent_id_ctx, ev->body.data,
                            ev->body.len)
           != 1
        || EVP_DigestFinal_ex(ngx_http_taptalent_id_ctx, md, NULL) != 1)
    {
        ngx_http_taptalent_event_free_id();
        return NGX_ERROR;
    }

    ngx_hex_dump(ev->id_text, md, NGX_HTTP_TAPTALENT_ID_LEN / 2);

    ev->id.data = ev->id_text;
    ev->id.len = NGX_HTTP_TAPTALENT_ID_LEN;

    return NGX_OK;
}


void
ngx_http_taptalent_event_free_id(void)
{
    EVP_MD_CTX_free(ngx_http_taptalent_id_ctx);
    ngx_http_taptalent_id_ctx = NULL;
}


ngx_http_taptalent_verdict_e
ngx_http_taptalent_event_parse(ngx_http_taptalent_event_t *ev,
    const char **why)
{
    ngx_int_t                    rc;
    ngx_uint_t                   i;
    ngx_http_taptalent_parser_t  p;

    ev->company_id.len = 0;
    ev->company_json.len = 0;

    p.event = ev;
    p.depth = 0;
    p.seen = 0;
    p.member = ngx_http_taptalent_member_other;
    p.flaw = NULL;
    p.mismatch = 0;

    rc = ngx_http_taptalent_json_parse(&p.json, &ngx_http_taptalent_yajl, &p,
                                       &ev->body);

    ev->newline = p.json.newline;

    if (rc == NGX_ABORT) {
        *why = "there is no memory for the event now, send it again";
        return NGX_HTTP_TAPTALENT_UNAVAILABLE;
    }

    if (rc != NGX_OK) {
        *why = (p.depth > NGX_HTTP_TAPTALENT_MAX_DEPTH)
               ? "the body must not be nested deeper than 64"
               : "the body must be one JSON text in well-formed UTF-8";
        return NGX_HTTP_TAPTALENT_JSON;
    }

    if (p.flaw) {
        *why = p.flaw;
        return NGX_HTTP_TAPTALENT_PAYLOAD;
    }

    for (i = ngx_http_taptalent_member_event;
         i <= ngx_http_taptalent_member_data;
         i++)
    {
        if ((p.seen & (1 << i))
            || (i == ngx_http_taptalent_member_company_id
                && ev->missing_company_id))
        {
            continue;
        }

        *why = ngx_http_taptalent_members[i].missing;
        return NGX_HTTP_TAPTALENT_PAYLOAD;
    }

    if (p.mismatch) {
        *why = "X-Webhook-Event and the member \"event\" must be equal";
        return NGX_HTTP_TAPTALENT_EVENT_MISMATCH;
    }

    return NGX_HTTP_TAPTALENT_NONE;
}


static int
ngx_http_taptalent_yajl_null(void *data)
{
    ngx_http_taptalent_value(data, ngx_http_taptalent_type_other, NULL, 0);

    return 1;
}


static int
ngx_http_taptalent_yajl_boolean(void *data, int value)
{
    ngx_http_taptalent_value(data, ngx_http_taptalent_type_other, NULL, 0);

    return 1;
}


static int
ngx_http_taptalent_yajl_number(void *data, const char *p, size_t len)
{
    ngx_http_taptalent_value(data, ngx_http_taptalent_type_number,
                             (const u_char *) p, len);

    return 1;
}


static int
ngx_http_taptalent_yajl_string(void *data, const u_char *p, size_t len)
{
    ngx_http_taptalent_value(data, ngx_http_taptalent_type_string, p, len);

    return 1;
}


static int
ngx_http_taptalent_yajl_key(void *data, const u_char *p, size_t len)
{
    ngx_uint_t                    i;
    ngx_http_taptalent_member_t  *member;
    ngx_http_taptalent_parser_t  *parser;

    parser = data;

    if (parser->depth != 1) {
        return 1;
    }

    parser->member = ngx_http_taptalent_member_other;

    for (i = ngx_http_taptalent_member_event;
         i <= ngx_http_taptalent_member_data;
         i++)
    {
        member = &ngx_http_taptalent_members[i];

        if (len != member->name.len
            || ngx_memcmp(p, member->name.data, len) != 0)
        {
            continue;
        }

        if ((parser->seen & (1 << i)) && parser->flaw == NULL) {
            parser->flaw = member->repeated;
        }

        parser->seen |= 1 << i;
        parser->member = i;
        parser->member_end = parser->event->body.data
                             + yajl_get_bytes_consumed(parser->json.yajl);
        break;
    }

    return 1;
}


static int
ngx_http_taptalent_yajl_start_map(void *data)
{
    ngx_http_taptalent_parser_t *p = data;

    ngx_http_taptalent_value(p, ngx_http_taptalent_type_object, NULL, 0);

    return ++p->depth <= NGX_HTTP_TAPTALENT_MAX_DEPTH;
}


static int
ngx_http_taptalent_yajl_start_array(void *data)
{
    ngx_http_taptalent_parser_t *p = data;

    ngx_http_taptalent_value(p, ngx_http_taptalent_type_other, NULL, 0);

    return ++p->depth <= NGX_HTTP_TAPTALENT_MAX_DEPTH;
}


static int
ngx_http_taptalent_yajl_end(void *data)
{
    ngx_http_taptalent_parser_t *p = data;

    if (--p->depth == 0) {
        ngx_http_taptalent_json_end(&p->json);
    }

    return 1;
}


static void
ngx_http_taptalent_value(ngx_http_taptalent_parser_t *p,
    ngx_http_taptalent_type_e type, const u_char *text, size_t len)
{
    ngx_int_t                    rc;
    ngx_http_taptalent_event_t  *ev;

    if (p->depth == 0) {

        if (type != ngx_http_taptalent_type_object) {
            p->flaw = "the body must be a JSON object";
            ngx_http_taptalent_json_end(&p->json);
        }

        return;
    }

    if (p->depth != 1 || p->flaw) {
        return;
    }

    ev = p->event;
    rc = NGX_ERROR;

    switch (p->member) {

    case ngx_http_taptalent_member_other:
        return;

    case ngx_http_taptalent_member_event:

        if (type == ngx_http_taptalent_type_string) {
            p->mismatch = (len != ev->name.len
                           || ngx_memcmp(text, ev->name.data, len) != 0);
            rc = NGX_OK;
        }

        break;

    case ngx_http_taptalent_member_timestamp:

        if (type == ngx_http_taptalent_type_string
            && ngx_http_taptalent_event_timestamp((u_char *) text, len, NULL))
        {
            rc = NGX_OK;
        }

        break;

    case ngx_http_taptalent_member_company_id:

        if (type == ngx_http_taptalent_type_string) {
            rc = ngx_http_taptalent_company_string(p, text, len);

        } else if (type == ngx_http_taptalent_type_number) {
            rc = ngx_http_taptalent_company_number(p, text, len);
        }

        break;

    case ngx_http_taptalent_member_data:

        if (type == ngx_http_taptalent_type_object) {
            rc = NGX_OK;
        }

        break;
    }

    if (rc != NGX_OK) {
        p->flaw = ngx_http_taptalent_members[p->member].invalid;
    }
}


/*
 * The text is the unescaped one, in yajl's memory if there was anything to
 * unescape.  The line of the spool takes the string as it stands in the body.
 */

static ngx_int_t
ngx_http_taptalent_company_string(ngx_http_taptalent_parser_t *p,
    const u_char *text, size_t len)
{
    u_char                      *start, *last;
    ngx_http_taptalent_event_t  *ev;

    if (!ngx_http_taptalent_event_company(text, len)) {
        return NGX_ERROR;
    }

    ev = p->event;

    /* between the name and the value is a colon and white space */

    last = ev->body.data + yajl_get_bytes_consumed(p->json.yajl);
    start = p->member_end;

    while (*start != '"') {
        start++;
    }

    if (ngx_http_taptalent_unpaired(start, last)) {
        return NGX_ERROR;
    }

    ev->company_json.data = start;
    ev->company_json.len = last - start;

    ngx_memcpy(ev->company_text, text, len);

    ev->company_id.data = ev->company_text;
    ev->company_id.len = len;

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_company_number(ngx_http_taptalent_parser_t *p,
    const u_char *text, size_t len)
{
    ngx_uint_t                   i;
    ngx_http_taptalent_event_t  *ev;

    if (len > NGX_HTTP_TAPTALENT_MAX_COMPANY_ID) {
        return NGX_ERROR;
    }

    for (i = 0; i < len; i++) {
        if (text[i] != '-' && (text[i] < '0' || text[i] > '9')) {
            return NGX_ERROR;
        }
    }

    ev = p->event;

    ngx_memcpy(ev->company_text, text, len);

    ev->company_id.data = ev->company_text;
    ev->company_id.len = len;
    ev->company_json = ev->company_id;

    return NGX_OK;
}


/*
 * An escape of half a surrogate pair stands for no character.  yajl makes a
 * question mark of it, and so another company's id might become ours.
 */

static ngx_uint_t
ngx_http_taptalent_unpaired(u_char *p, u_char *last)
{
    ngx_int_t   n;
    ngx_uint_t  high;

    high = 0;

    while (p < last) {

        if (*p != '\\' || p[1] != 'u') {

            if (high) {
                return 1;
            }

            p += (*p == '\\') ? 2 : 1;
            continue;
        }

        n = ngx_hextoi(p + 2, 4);

        if (high != (n >= 0xdc00 && n <= 0xdfff)) {
            return 1;
        }

        high = (n >= 0xd800 && n <= 0xdbff);

        p += 6;
    }

    return 0;
}
