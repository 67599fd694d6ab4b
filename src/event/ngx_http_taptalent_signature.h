
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_SIGNATURE_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_SIGNATURE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <openssl/evp.h>


/*
 * The header of a signature: a list of elements, of which some are signatures
 * and one may be the time.  Knows no requests; calls nothing of nginx but its
 * string functions.
 */


#define NGX_HTTP_TAPTALENT_MAX_DIGEST  64    /* of SHA-512 */


typedef enum {
    NGX_HTTP_TAPTALENT_RAW = 0,
    NGX_HTTP_TAPTALENT_HEX,
    NGX_HTTP_TAPTALENT_BASE64,
    NGX_HTTP_TAPTALENT_WHSEC                 /* base64 after "whsec_" */
} ngx_http_taptalent_encoding_e;


typedef struct {
    const EVP_MD                  *md;
    size_t                         len;      /* of a digest */
    ngx_http_taptalent_encoding_e  encoding; /* of a signature */
    ngx_str_t                      prefix;   /* of a signature */
    ngx_str_t                      param;    /* whose element is the time */
    u_char                         separator;    /* of elements, or '\0' */
} ngx_http_taptalent_scheme_t;


/*
 * Decodes a key where it is.  NGX_ERROR if it is not of this encoding or
 * there is nothing in it.
 */
ngx_int_t ngx_http_taptalent_signature_key(
    ngx_http_taptalent_encoding_e encoding, ngx_str_t *key);

/*
 * Sets "time" to what stands in the element "param=".  NGX_DECLINED if there
 * is no such element, or more than one.
 */
ngx_int_t ngx_http_taptalent_signature_param(
    ngx_http_taptalent_scheme_t *scheme, ngx_str_t *header, ngx_str_t *time);

/*
 * True for seconds since the epoch, for milliseconds, which have 13 digits,
 * and for a date-time of RFC 3339.
 */
ngx_uint_t ngx_http_taptalent_signature_time(ngx_str_t *time, time_t *sec);

/* NGX_ERROR if OpenSSL has no memory or does not do this */
ngx_int_t ngx_http_taptalent_signature_digest(
    ngx_http_taptalent_scheme_t *scheme, ngx_str_t *key, ngx_str_t *text,
    u_char *digest);

/*
 * NGX_OK if a signature of the header is this digest, NGX_ERROR if none is,
 * NGX_DECLINED if it holds none of this scheme.  Takes the same time for each
 * digest.
 */
ngx_int_t ngx_http_taptalent_signature_compare(
    ngx_http_taptalent_scheme_t *scheme, ngx_str_t *header, u_char *digest);


#endif /* _NGX_HTTP_TAPTALENT_SIGNATURE_H_INCLUDED_ */
