
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <openssl/crypto.h>
#include <openssl/hmac.h>
#include "ngx_http_taptalent_event.h"
#include "ngx_http_taptalent_signature.h"


/*
 * What is secret here are keys and digests, never a header: only the bytes of
 * a digest are compared in constant time.
 */


static ngx_uint_t ngx_http_taptalent_signature_next(
    ngx_http_taptalent_scheme_t *scheme, ngx_str_t *rest, ngx_str_t *element);
static ssize_t ngx_http_taptalent_decode_hex(u_char *dst, u_char *src,
    size_t len);
static ngx_int_t ngx_http_taptalent_hex_digit(u_char c);
static ssize_t ngx_http_taptalent_decode_base64(u_char *dst, u_char *src,
    size_t len);
static ngx_int_t ngx_http_taptalent_base64_digit(u_char c);


ngx_int_t
ngx_http_taptalent_signature_key(ngx_http_taptalent_encoding_e encoding,
    ngx_str_t *key)
{
    ssize_t  n;

    switch (encoding) {

    case NGX_HTTP_TAPTALENT_HEX:
        n = ngx_http_taptalent_decode_hex(key->data, key->data, key->len);
        break;

    case NGX_HTTP_TAPTALENT_WHSEC:

        if (key->len < sizeof("whsec_") - 1
            || ngx_memcmp(key->data, "whsec_", sizeof("whsec_") - 1) != 0)
        {
            return NGX_ERROR;
        }

        key->data += sizeof("whsec_") - 1;
        key->len -= sizeof("whsec_") - 1;

        /* fall through */

    case NGX_HTTP_TAPTALENT_BASE64:
        n = ngx_http_taptalent_decode_base64(key->data, key->data, key->len);
        break;

    default:
        n = key->len;
    }

    if (n <= 0) {
        return NGX_ERROR;
    }

    key->len = n;

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_signature_param(ngx_http_taptalent_scheme_t *scheme,
    ngx_str_t *header, ngx_str_t *time)
{
    size_t      len;
    ngx_str_t   rest, element;
    ngx_uint_t  n;

    n = 0;
    len = scheme->param.len;
    rest = *header;

    while (ngx_http_taptalent_signature_next(scheme, &rest, &element)) {

        if (element.len > len
            && ngx_memcmp(element.data, scheme->param.data, len) == 0
            && element.data[len] == '=')
        {
            time->data = element.data + len + 1;
            time->len = element.len - len - 1;
            n++;
        }
    }

    return (n == 1) ? NGX_OK : NGX_DECLINED;
}


ngx_uint_t
ngx_http_taptalent_signature_time(ngx_str_t *time, time_t *sec)
{
    off_t  t;

    if (time->len > 13) {
        return ngx_http_taptalent_event_timestamp(time->data, time->len, sec);
    }

    /* time_t may have 32 bits, which are too few for milliseconds */

    t = ngx_atoof(time->data, time->len);

    if (t == NGX_ERROR) {
        return 0;
    }

    if (time->len == 13) {
        t /= 1000;
    }

    *sec = (time_t) ngx_min(t, (off_t) NGX_MAX_TIME_T_VALUE);

    return 1;
}


ngx_int_t
ngx_http_taptalent_signature_digest(ngx_http_taptalent_scheme_t *scheme,
    ngx_str_t *key, ngx_str_t *text, u_char *digest)
{
    unsigned int  len;

    if (HMAC(scheme->md, key->data, key->len, text->data, text->len, digest,
             &len)
        == NULL)
    {
        return NGX_ERROR;
    }

    return (len == scheme->len) ? NGX_OK : NGX_ERROR;
}


ngx_int_t
ngx_http_taptalent_signature_compare(ngx_http_taptalent_scheme_t *scheme,
    ngx_str_t *header, u_char *digest)
{
    ssize_t     n;
    u_char     *p, buf[NGX_HTTP_TAPTALENT_MAX_DIGEST * 2];
    size_t      len;
    ngx_str_t   rest, element;
    ngx_uint_t  found, same;

    found = 0;
    same = 0;
    rest = *header;

    while (ngx_http_taptalent_signature_next(scheme, &rest, &element)) {

        if (element.len < scheme->prefix.len
            || ngx_memcmp(element.data, scheme->prefix.data,
                          scheme->prefix.len)
               != 0)
        {
            continue;
        }

        p = element.data + scheme->prefix.len;
        len = element.len - scheme->prefix.len;

        /* the longest is SHA-512 in hexadecimal */

        if (len > sizeof(buf)) {
            continue;
        }

        if (scheme->encoding == NGX_HTTP_TAPTALENT_BASE64) {
            n = ngx_http_taptalent_decode_base64(buf, p, len);

        } else {
            n = ngx_http_taptalent_decode_hex(buf, p, len);
        }

        if (n != (ssize_t) scheme->len) {
            continue;
        }

        found = 1;
        same |= (CRYPTO_memcmp(buf, digest, scheme->len) == 0);
    }

    if (same) {
        return NGX_OK;
    }

    return found ? NGX_ERROR : NGX_DECLINED;
}


/* the next element, without the blanks around it; false at the end */

static ngx_uint_t
ngx_http_taptalent_signature_next(ngx_http_taptalent_scheme_t *scheme,
    ngx_str_t *rest, ngx_str_t *element)
{
    u_char  *p, *end, *last;

    if (rest->len == 0) {
        return 0;
    }

    p = rest->data;
    last = p + rest->len;
    end = last;

    if (scheme->separator) {
        end = ngx_strlchr(p, last, scheme->separator);

        if (end == NULL) {
            end = last;
        }
    }

    rest->data = (end == last) ? last : end + 1;
    rest->len = last - rest->data;

    while (p < end && (*p == ' ' || *p == '\t')) {
        p++;
    }

    while (p < end && (end[-1] == ' ' || end[-1] == '\t')) {
        end--;
    }

    element->data = p;
    element->len = end - p;

    return 1;
}


/* as many bytes as there are pairs of digits, of either case, or NGX_ERROR */

static ssize_t
ngx_http_taptalent_decode_hex(u_char *dst, u_char *src, size_t len)
{
    size_t     i;
    ngx_int_t  high, low;

    if (len % 2) {
        return NGX_ERROR;
    }

    for (i = 0; i < len; i += 2) {

        high = ngx_http_taptalent_hex_digit(src[i]);
        low = ngx_http_taptalent_hex_digit(src[i + 1]);

        if (high == NGX_ERROR || low == NGX_ERROR) {
            return NGX_ERROR;
        }

        *dst++ = (u_char) (high << 4 | low);
    }

    return len / 2;
}


static ngx_int_t
ngx_http_taptalent_hex_digit(u_char c)
{
    if (c >= '0' && c <= '9') {
        return c - '0';
    }

    c |= 0x20;

    if (c >= 'a' && c <= 'f') {
        return c - 'a' + 10;
    }

    return NGX_ERROR;
}


/*
 * RFC 4648, 4, where ngx_decode_base64() would take anything after a "=".  The
 * padding may be left out, but not in part.
 */

static ssize_t
ngx_http_taptalent_decode_base64(u_char *dst, u_char *src, size_t len)
{
    size_t      i, n;
    u_char     *p;
    uint32_t    bits;
    ngx_int_t   digit;

    if (len % 4 == 0) {

        for (i = 0; i < 2 && len && src[len - 1] == '='; i++) {
            len--;
        }
    }

    if (len % 4 == 1) {
        return NGX_ERROR;
    }

    p = dst;
    n = 0;
    bits = 0;

    for (i = 0; i < len; i++) {

        digit = ngx_http_taptalent_base64_digit(src[i]);

        if (digit == NGX_ERROR) {
            return NGX_ERROR;
        }

        bits = bits << 6 | digit;
        n += 6;

        if (n >= 8) {
            n -= 8;
            *p++ = (u_char) (bits >> n);
        }
    }

    return p - dst;
}


static ngx_int_t
ngx_http_taptalent_base64_digit(u_char c)
{
    if (c >= 'A' && c <= 'Z') {
        return c - 'A';
    }

    if (c >= 'a' && c <= 'z') {
        return c - 'a' + 26;
    }

    if (c >= '0' && c <= '9') {
        return c - '0' + 52;
    }

    if (c == '+') {
        return 62;
    }

    return (c == '/') ? 63 : NGX_ERROR;
}
