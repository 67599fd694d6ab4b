
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <setjmp.h>
#include <openssl/evp.h>
#include <yajl/yajl_parse.h>
#include "ngx_http_taptalent_event.h"


/*
 * The payload is parsed by yajl, which is more liberal than RFC 8259 in white
 * space and in UTF-8, has no limit of depth, and does not look at what its
 * allocator returns.  The first two are settled by a pass of our own over the
 * bytes, before yajl sees them; the third in the callbacks; the last by an
 * allocator that does not return without memory.
 */


#define NGX_HTTP_TAPTALENT_ARENA  4096


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


typedef struct ngx_http_taptalent_block_s  ngx_http_taptalent_block_t;

struct ngx_http_taptalent_block_s {
    ngx_http_taptalent_block_t   *next;
    size_t                        size;
};


typedef struct {
    ngx_http_taptalent_event_t   *event;
    yajl_handle                   yajl;

    ngx_uint_t                    depth;
    ngx_uint_t                    seen;       /* a bit for each member */
    ngx_http_taptalent_member_e   member;     /* of the top-level object */
    u_char                       *member_end; /* of its name */

    size_t                        length;     /* of the text, 0 if unknown */

    const char                   *flaw;       /* JSON, but no event */
    unsigned                      mismatch:1;

    jmp_buf                       nomem;
    ngx_http_taptalent_block_t   *blocks;
    u_char                       *pos;
    u_char                       *last;
    u_char                       *end;
    uint64_t                      arena[NGX_HTTP_TAPTALENT_ARENA
                                        / sizeof(uint64_t)];
} ngx_http_taptalent_parser_t;


static yajl_status ngx_http_taptalent_run_yajl(
    ngx_http_taptalent_parser_t *p, yajl_alloc_funcs *funcs);
static ngx_int_t ngx_http_taptalent_trailing(ngx_http_taptalent_parser_t *p);
static ngx_int_t ngx_http_taptalent_check_bytes(
    ngx_http_taptalent_event_t *ev);
static u_char *ngx_http_taptalent_utf8(u_char *p, u_char *last);

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

static void *ngx_http_taptalent_malloc(void *data, size_t size);
static void *ngx_http_taptalent_realloc(void *data, void *old, size_t size);
static void ngx_http_taptalent_free(void *data, void *p);

static u_char *ngx_http_taptalent_write_headers(u_char *p,
    ngx_http_taptalent_event_t *ev);
static u_char *ngx_http_taptalent_write_payload(u_char *p,
    ngx_http_taptalent_event_t *ev);


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
      "or an integer" },

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
ngx_http_taptalent_event_timestamp(u_char *p, size_t len)
{
    u_char               *last;
    ngx_int_t             year, month, day, n;

    static const ngx_int_t  days[] = {
        31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31
    };

    /* "2024-01-20T14:45:00Z" */

    if (len < sizeof("2024-01-20T14:45:00Z") - 1) {
        return 0;
    }

    last = p + len;

    year = ngx_atoi(p, 4);
    month = ngx_atoi(p + 5, 2);
    day = ngx_atoi(p + 8, 2);

    if (year == NGX_ERROR || p[4] != '-' || p[7] != '-'
        || month < 1 || month > 12)
    {
        return 0;
    }

    n = days[month - 1];

    if (month == 2
        && year % 4 == 0 && (year % 100 != 0 || year % 400 == 0))
    {
        n++;
    }

    if (day < 1 || day > n || (p[10] != 'T' && p[10] != 't')) {
        return 0;
    }

    n = ngx_atoi(p + 11, 2);

    if (n == NGX_ERROR || n > 23 || p[13] != ':') {
        return 0;
    }

    n = ngx_atoi(p + 14, 2);

    if (n == NGX_ERROR || n > 59 || p[16] != ':') {
        return 0;
    }

    n = ngx_atoi(p + 17, 2);

    if (n == NGX_ERROR || n > 60) {
        return 0;
    }

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

    if (last - p == 1) {
        return *p == 'Z' || *p == 'z';
    }

    /* "+hh:mm" */

    if (last - p != 6 || (*p != '+' && *p != '-') || p[3] != ':') {
        return 0;
    }

    n = ngx_atoi(p + 1, 2);

    if (n == NGX_ERROR || n > 23) {
        return 0;
    }

    n = ngx_atoi(p + 4, 2);

    return n != NGX_ERROR && n <= 59;
}


ngx_int_t
ngx_http_taptalent_event_id(ngx_http_taptalent_event_t *ev)
{
    u_char        md[EVP_MAX_MD_SIZE];
    const EVP_MD *type;

    static EVP_MD_CTX  *ctx;

    /* the type is looked up once: this takes longer than a small body */

    type = NULL;

    if (ctx == NULL) {
        ctx = EVP_MD_CTX_new();
        if (ctx == NULL) {
            return NGX_ERROR;
        }

        type = EVP_sha256();
    }

    if (EVP_DigestInit_ex(ctx, type, NULL) != 1
        || EVP_DigestUpdate(ctx, ev->body.data, ev->body.len) != 1
        || EVP_DigestFinal_ex(ctx, md, NULL) != 1)
    {
        EVP_MD_CTX_free(ctx);
        ctx = NULL;
        return NGX_ERROR;
    }

    ngx_hex_dump(ev->id_text, md, NGX_HTTP_TAPTALENT_ID_LEN / 2);

    ev->id.data = ev->id_text;
    ev->id.len = NGX_HTTP_TAPTALENT_ID_LEN;

    return NGX_OK;
}


ngx_http_taptalent_verdict_e
ngx_http_taptalent_event_parse(ngx_http_taptalent_event_t *ev,
    const char **why)
{
    ngx_uint_t                   i;
    yajl_status                  status;
    yajl_alloc_funcs             funcs;
    ngx_http_taptalent_parser_t  p;

    ev->company_id.len = 0;
    ev->company_json.len = 0;

    if (ngx_http_taptalent_check_bytes(ev) != NGX_OK) {
        *why = "the body must be well-formed UTF-8 without control characters";
        return NGX_HTTP_TAPTALENT_JSON;
    }

    ngx_memzero(&p, offsetof(ngx_http_taptalent_parser_t, nomem));

    p.event = ev;
    p.blocks = NULL;
    p.pos = (u_char *) p.arena;
    p.last = p.pos;
    p.end = p.pos + sizeof(p.arena);

    funcs.malloc = ngx_http_taptalent_malloc;
    funcs.realloc = ngx_http_taptalent_realloc;
    funcs.free = ngx_http_taptalent_free;
    funcs.ctx = &p;

    status = ngx_http_taptalent_run_yajl(&p, &funcs);

    while (p.blocks) {
        ngx_http_taptalent_free(&p, p.blocks + 1);
    }

    if (p.yajl == NULL) {
        *why = "there is no memory for the event now, send it again";
        return NGX_HTTP_TAPTALENT_UNAVAILABLE;
    }

    if (status != yajl_status_ok) {
        *why = (p.depth > NGX_HTTP_TAPTALENT_MAX_DEPTH)
               ? "the body must not be nested deeper than 64"
               : "the body must be one JSON text";
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


/* on return p->yajl is not valid any more, and NULL without memory */

static yajl_status
ngx_http_taptalent_run_yajl(ngx_http_taptalent_parser_t *p,
    yajl_alloc_funcs *funcs)
{
    yajl_status  status;

    if (setjmp(p->nomem) != 0) {
        p->yajl = NULL;
        return yajl_status_error;
    }

    p->yajl = yajl_alloc(&ngx_http_taptalent_yajl, funcs, p);

    yajl_config(p->yajl, yajl_dont_validate_strings, 1);

    status = yajl_parse(p->yajl, p->event->body.data, p->event->body.len);

    if (status == yajl_status_ok
        && ngx_http_taptalent_trailing(p) == NGX_OK)
    {
        status = yajl_complete_parse(p->yajl);

    } else {
        status = yajl_status_error;
    }

    yajl_free(p->yajl);

    return status;
}


/* yajl takes an unfinished token after the text for more to come */

static ngx_int_t
ngx_http_taptalent_trailing(ngx_http_taptalent_parser_t *p)
{
    u_char  *c, *last;

    if (p->length == 0) {
        return NGX_OK;
    }

    c = p->event->body.data + p->length;
    last = p->event->body.data + p->event->body.len;

    while (c < last) {

        if (*c != ' ' && *c != '\t' && *c != CR && *c != LF) {
            return NGX_ERROR;
        }

        c++;
    }

    return NGX_OK;
}


/*
 * RFC 8259, 8.1: UTF-8; 2: no control characters but HT, LF, CR, and those
 * only between tokens, which yajl sees to.
 */

static ngx_int_t
ngx_http_taptalent_check_bytes(ngx_http_taptalent_event_t *ev)
{
    u_char    *p, *last;
    uint64_t   w;

    p = ev->body.data;
    last = p + ev->body.len;

    ev->newline = 0;

    while (p < last) {

        if (last - p >= (ssize_t) sizeof(uint64_t)) {

            ngx_memcpy(&w, p, sizeof(uint64_t));

            /* no byte of the eight is below 0x20 or above 0x7f */

            if (((w | (w - 0x2020202020202020)) & 0x8080808080808080) == 0) {
                p += sizeof(uint64_t);
                continue;
            }
        }

        if (*p >= 0x80) {
            p = ngx_http_taptalent_utf8(p, last);
            if (p == NULL) {
                return NGX_ERROR;
            }

            continue;
        }

        if (*p < 0x20) {

            if (*p == CR || *p == LF) {
                ev->newline = 1;

            } else if (*p != '\t') {
                return NGX_ERROR;
            }
        }

        p++;
    }

    return NGX_OK;
}


/* RFC 3629, 4: UTF8-2, UTF8-3 and UTF8-4 of the grammar */

static u_char *
ngx_http_taptalent_utf8(u_char *p, u_char *last)
{
    u_char      min, max;
    ngx_uint_t  n;

    min = 0x80;
    max = 0xbf;

    if (*p >= 0xc2 && *p <= 0xdf) {
        n = 1;

    } else if (*p >= 0xe0 && *p <= 0xef) {
        n = 2;

        if (*p == 0xe0) {
            min = 0xa0;

        } else if (*p == 0xed) {
            max = 0x9f;
        }

    } else if (*p >= 0xf0 && *p <= 0xf4) {
        n = 3;

        if (*p == 0xf0) {
            min = 0x90;

        } else if (*p == 0xf4) {
            max = 0x8f;
        }

    } else {
        return NULL;
    }

    for (p++; n; n--, p++) {

        if (p == last || *p < min || *p > max) {
            return NULL;
        }

        min = 0x80;
        max = 0xbf;
    }

    return p;
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
                             + yajl_get_bytes_consumed(parser->yajl);
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
        p->length = yajl_get_bytes_consumed(p->yajl);
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
            p->length = yajl_get_bytes_consumed(p->yajl);
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
            && ngx_http_taptalent_event_timestamp((u_char *) text, len))
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

    if (len == 0 || len > NGX_HTTP_TAPTALENT_MAX_COMPANY_ID) {
        return NGX_ERROR;
    }

    ev = p->event;

    /* between the name and the value is a colon and white space */

    last = ev->body.data + yajl_get_bytes_consumed(p->yajl);
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


/*
 * A typical payload needs less than the arena.  What does not fit there is
 * allocated, and freed with the parser.
 */

static void *
ngx_http_taptalent_malloc(void *data, size_t size)
{
    ngx_http_taptalent_parser_t *p = data;

    size_t                       n;
    ngx_http_taptalent_block_t  *block;

    n = ngx_align(sizeof(ngx_http_taptalent_block_t) + size,
                  sizeof(uint64_t));

    if (n <= (size_t) (p->end - p->last)) {
        block = (ngx_http_taptalent_block_t *) p->last;
        p->last += n;
        block->next = NULL;

    } else {
        block = malloc(n);
        if (block == NULL) {
            longjmp(p->nomem, 1);
        }

        block->next = p->blocks;
        p->blocks = block;
    }

    block->size = size;

    return block + 1;
}


static void *
ngx_http_taptalent_realloc(void *data, void *old, size_t size)
{
    void                        *new;
    ngx_http_taptalent_block_t  *block;

    new = ngx_http_taptalent_malloc(data, size);

    if (old) {
        block = (ngx_http_taptalent_block_t *) old - 1;
        ngx_memcpy(new, old, ngx_min(block->size, size));
        ngx_http_taptalent_free(data, old);
    }

    return new;
}


static void
ngx_http_taptalent_free(void *data, void *old)
{
    ngx_http_taptalent_parser_t *p = data;

    ngx_http_taptalent_block_t  *block, **prev;

    if (old == NULL
        || ((u_char *) old > p->pos && (u_char *) old < p->end))
    {
        return;
    }

    block = (ngx_http_taptalent_block_t *) old - 1;

    for (prev = &p->blocks; *prev; prev = &(*prev)->next) {

        if (*prev == block) {
            *prev = block->next;
            free(block);
            return;
        }
    }
}


size_t
ngx_http_taptalent_event_len(ngx_http_taptalent_event_t *ev)
{
    size_t      len;
    ngx_uint_t  i;

    len = sizeof("{\"v\":1,\"id\":\"\""
                 ",\"received\":\"2026-11-23T08:11:13.123456Z\""
                 ",\"event\":\"\",\"timestamp\":\"\",\"companyId\":\"null\""
                 ",\"headers\":{},\"raw\":\"\",\"payload\":}\n")
          + ev->id.len + ev->name.len + ev->timestamp.len
          + ev->company_json.len + ev->body.len;

    /* "\u00XX" is the longest that a byte becomes */

    for (i = 0; i < ev->nheaders; i++) {
        len += sizeof("\"\":\"\",") + ev->headers[i].name.len
               + 6 * ev->headers[i].value.len;
    }

    if (ev->newline) {
        len += ngx_base64_encoded_length(ev->body.len);
    }

    return len;
}


u_char *
ngx_http_taptalent_event_write(ngx_http_taptalent_event_t *ev, u_char *p)
{
    ngx_tm_t  tm;

    ngx_gmtime(ev->received.tv_sec, &tm);

    p = ngx_sprintf(p, "{\"v\":1,\"id\":\"%V\",\"received\":"
                    "\"%4d-%02d-%02dT%02d:%02d:%02d.%06uiZ\","
                    "\"event\":\"%V\",\"timestamp\":\"%V\",\"companyId\":",
                    &ev->id,
                    tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday,
                    tm.ngx_tm_hour, tm.ngx_tm_min, tm.ngx_tm_sec,
                    (ngx_uint_t) ev->received.tv_nsec / 1000,
                    &ev->name, &ev->timestamp);

    if (ev->company_json.len == 0) {
        p = ngx_cpymem(p, "null", sizeof("null") - 1);

    } else if (ev->company_json.data[0] == '"') {
        p = ngx_cpymem(p, ev->company_json.data, ev->company_json.len);

    } else {
        *p++ = '"';
        p = ngx_cpymem(p, ev->company_json.data, ev->company_json.len);
        *p++ = '"';
    }

    p = ngx_http_taptalent_write_headers(p, ev);
    p = ngx_http_taptalent_write_payload(p, ev);

    *p++ = '}';
    *p++ = LF;

    return p;
}


/*
 * A value of a header is bytes (RFC 9110, 5.5), a string of JSON characters:
 * each byte becomes the character of its number, so that it can be restored.
 */

static u_char *
ngx_http_taptalent_write_headers(u_char *p, ngx_http_taptalent_event_t *ev)
{
    u_char       c;
    ngx_str_t   *value;
    ngx_uint_t   i, n;

    p = ngx_cpymem(p, ",\"headers\":{", sizeof(",\"headers\":{") - 1);

    for (i = 0; i < ev->nheaders; i++) {

        if (i) {
            *p++ = ',';
        }

        /* a token (RFC 9110, 5.6.2) has nothing to escape */

        *p++ = '"';
        p = ngx_cpymem(p, ev->headers[i].name.data, ev->headers[i].name.len);
        *p++ = '"';
        *p++ = ':';
        *p++ = '"';

        value = &ev->headers[i].value;

        for (n = 0; n < value->len; n++) {
            c = value->data[n];

            if (c < 0x20 || c >= 0x7f) {
                p = ngx_sprintf(p, "\\u%04xi", (ngx_int_t) c);
                continue;
            }

            if (c == '"' || c == '\\') {
                *p++ = '\\';
            }

            *p++ = c;
        }

        *p++ = '"';
    }

    *p++ = '}';

    return p;
}


static u_char *
ngx_http_taptalent_write_payload(u_char *p, ngx_http_taptalent_event_t *ev)
{
    u_char     *payload;
    ngx_str_t   raw;

    if (ev->newline) {
        p = ngx_cpymem(p, ",\"raw\":\"", sizeof(",\"raw\":\"") - 1);

        raw.data = p;
        ngx_encode_base64(&raw, &ev->body);
        p += raw.len;

        *p++ = '"';
    }

    p = ngx_cpymem(p, ",\"payload\":", sizeof(",\"payload\":") - 1);

    payload = p;
    p = ngx_cpymem(p, ev->body.data, ev->body.len);

    if (ev->newline) {
        for ( /* void */ ; payload < p; payload++) {
            if (*payload == CR || *payload == LF) {
                *payload = ' ';
            }
        }
    }

    return p;
}
