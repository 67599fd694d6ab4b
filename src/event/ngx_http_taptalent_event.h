
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_EVENT_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_EVENT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_verdict.h"


/*
 * An event: from the bytes of a body to a verdict.  Knows neither requests nor
 * files; calls nothing of nginx but its string functions.
 */


#define NGX_HTTP_TAPTALENT_MAX_DEPTH       64
#define NGX_HTTP_TAPTALENT_MAX_NAME        128
#define NGX_HTTP_TAPTALENT_MAX_COMPANY_ID  256
#define NGX_HTTP_TAPTALENT_MAX_HOST        261   /* 255, ":", 5 digits */
#define NGX_HTTP_TAPTALENT_ID_LEN          32


typedef struct {
    ngx_str_t                      name;          /* in lower case */
    ngx_str_t                      value;
} ngx_http_taptalent_header_t;


typedef struct {
    /* set by the caller, who owns the memory */

    ngx_str_t                      body;
    ngx_str_t                      name;          /* X-Webhook-Event */
    ngx_str_t                      timestamp;     /* X-Webhook-Timestamp */
    ngx_str_t                      host;          /* Host, or empty */
    ngx_http_taptalent_header_t   *headers;
    ngx_uint_t                     nheaders;
    struct timespec                received;

    /* set by ngx_http_taptalent_event_id() */

    ngx_str_t                      id;            /* in id_text */

    /* set by ngx_http_taptalent_event_parse() */

    ngx_str_t                      company_id;    /* empty if missing */
    ngx_str_t                      company_json;  /* as in the body */

    u_char                         id_text[NGX_HTTP_TAPTALENT_ID_LEN];
    u_char                         company_text[
                                        NGX_HTTP_TAPTALENT_MAX_COMPANY_ID];

    unsigned                       missing_company_id:1;  /* in: allowed */
    unsigned                       newline:1;             /* out */
} ngx_http_taptalent_event_t;


#define ngx_http_taptalent_name_is(name, s)                                   \
    ((name)->len == sizeof(s) - 1                                             \
     && ngx_strncmp((name)->data, s, sizeof(s) - 1) == 0)


/*
 * RFC 9110, 8.3.1, says what a media type is; true for application/json with
 * or without parameters.
 */
ngx_uint_t ngx_http_taptalent_event_media_type(ngx_str_t *type);

/* true for 1 to 128 characters out of A-Z a-z 0-9 . _ : - */
ngx_uint_t ngx_http_taptalent_event_name(ngx_str_t *name);

/*
 * True for the name of a header that the spool keeps: Content-Type and
 * X-Webhook-*, a token (RFC 9110, 5.6.2) in lower case.
 */
ngx_uint_t ngx_http_taptalent_event_header(const u_char *p, size_t len);

/* true for 1 to 256 bytes without control characters */
ngx_uint_t ngx_http_taptalent_event_company(const u_char *p, size_t len);

/*
 * True for a name, an IPv4 or a bracketed IPv6 address, with or without a
 * port, of at most 261 bytes that need no escapes in a header or in JSON.
 * Sets "name_len" to the length of what is before the port.
 */
ngx_uint_t ngx_http_taptalent_event_host(const u_char *p, size_t len,
    size_t *name_len);

/*
 * True for a date-time of RFC 3339, 5.6, of a day that exists.  If "sec" is
 * not NULL it is set to the seconds since the epoch, without the fraction.
 */
ngx_uint_t ngx_http_taptalent_event_timestamp(u_char *p, size_t len,
    time_t *sec);

/* true if the text matches the pattern, where "*" stands for any characters */
ngx_uint_t ngx_http_taptalent_event_match(ngx_str_t *pattern,
    ngx_str_t *text);

/*
 * Sets ev->id to the first 32 hex digits of the SHA-256 of ev->body.
 * NGX_ERROR if OpenSSL has no memory or no SHA-256.
 */
ngx_int_t ngx_http_taptalent_event_id(ngx_http_taptalent_event_t *ev);

/* Frees what a process keeps for these: a module that is unloaded loses it. */
void ngx_http_taptalent_event_free_id(void);

/*
 * Parses ev->body.  Returns NGX_HTTP_TAPTALENT_NONE and sets what the struct
 * says, pointing into the body or into the struct; or JSON, PAYLOAD,
 * EVENT_MISMATCH, and UNAVAILABLE without memory, with *why set to a constant
 * sentence.
 */
ngx_http_taptalent_verdict_e ngx_http_taptalent_event_parse(
    ngx_http_taptalent_event_t *ev, const char **why);

#endif /* _NGX_HTTP_TAPTALENT_EVENT_H_INCLUDED_ */
