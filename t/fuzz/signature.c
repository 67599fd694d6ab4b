
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include "fuzz.h"
#include "ngx_http_taptalent_signature.h"


/*
 * The header of a signature, taken apart a second time in the plainest way.
 *
 * The first byte of the input chooses a scheme.  A line of the rest is the
 * header, where "@" stands for the right signature and "!" for another one;
 * what follows is the text that is signed.  The whole of it is a key too.
 */


#define FUZZ_SCHEMES  8


static ngx_str_t fuzz_header(ngx_http_taptalent_scheme_t *scheme,
    const uint8_t *data, size_t len, u_char *digest);
static size_t fuzz_encode(ngx_http_taptalent_scheme_t *scheme, u_char *digest,
    char *buf);
static ngx_int_t fuzz_compare(ngx_http_taptalent_scheme_t *scheme,
    ngx_str_t *header, u_char *digest);
static ngx_int_t fuzz_param(ngx_http_taptalent_scheme_t *scheme,
    ngx_str_t *header, ngx_str_t *time);
static ngx_uint_t fuzz_element(ngx_http_taptalent_scheme_t *scheme,
    ngx_str_t *header, ngx_uint_t n, ngx_str_t *element);
static ssize_t fuzz_hex(ngx_str_t *s, u_char *dst);
static ssize_t fuzz_base64(ngx_str_t *s, u_char *dst);
static void fuzz_key(ngx_http_taptalent_encoding_e encoding,
    const uint8_t *data, size_t size);
static void fuzz_time(ngx_str_t *text);


static const char  fuzz_digits[] =
    "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";


/* those of the presets, and what else they may be */

static ngx_http_taptalent_scheme_t  fuzz_schemes[FUZZ_SCHEMES] = {

    { NULL, 32, NGX_HTTP_TAPTALENT_BASE64, ngx_string("v1,"),
      ngx_null_string, ' ' },

    { NULL, 32, NGX_HTTP_TAPTALENT_HEX, ngx_string("sha256="),
      ngx_null_string, '\0' },

    { NULL, 32, NGX_HTTP_TAPTALENT_HEX, ngx_string("v1="), ngx_string("t"),
      ',' },

    { NULL, 32, NGX_HTTP_TAPTALENT_BASE64, ngx_string(""),
      ngx_null_string, '\0' },

    { NULL, 32, NGX_HTTP_TAPTALENT_HEX, ngx_string("v0="),
      ngx_null_string, '\0' },

    { NULL, 64, NGX_HTTP_TAPTALENT_HEX, ngx_string(""), ngx_string("time"),
      ',' },

    { NULL, 64, NGX_HTTP_TAPTALENT_BASE64, ngx_string("s="), ngx_string("s"),
      ' ' },

    { NULL, 20, NGX_HTTP_TAPTALENT_BASE64, ngx_string(""), ngx_string("t"),
      ',' }
};


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t                        n;
    u_char                        digest[NGX_HTTP_TAPTALENT_MAX_DIGEST];
    ngx_str_t                     header, text, key, time, expected;
    ngx_int_t                     rc;
    const uint8_t                *lf;
    ngx_http_taptalent_scheme_t  *scheme;

    if (size == 0) {
        return 0;
    }

    scheme = &fuzz_schemes[data[0] % FUZZ_SCHEMES];

    scheme->md = (scheme->len == 64) ? EVP_sha512()
                 : (scheme->len == 32) ? EVP_sha256() : EVP_sha1();
    data++;
    size--;

    lf = size ? memchr(data, LF, size) : NULL;
    n = lf ? lf - data : (ssize_t) size;

    text = lf ? fuzz_copy(lf + 1, size - n - 1) : fuzz_copy(data, 0);

    ngx_str_set(&key, "key");

    fuzz_check(ngx_http_taptalent_signature_digest(scheme, &key, &text, digest)
               == NGX_OK);

    header = fuzz_header(scheme, data, n, digest);

    rc = ngx_http_taptalent_signature_compare(scheme, &header, digest);

    fuzz_check(rc == fuzz_compare(scheme, &header, digest));

    if (scheme->param.len) {
        rc = ngx_http_taptalent_signature_param(scheme, &header, &time);

        fuzz_check(rc == fuzz_param(scheme, &header, &expected));

        if (rc == NGX_OK) {
            fuzz_check(time.data == expected.data && time.len == expected.len);
            fuzz_time(&time);
        }
    }

    fuzz_time(&header);

    fuzz_key(NGX_HTTP_TAPTALENT_RAW, data, size);
    fuzz_key(NGX_HTTP_TAPTALENT_HEX, data, size);
    fuzz_key(NGX_HTTP_TAPTALENT_BASE64, data, size);
    fuzz_key(NGX_HTTP_TAPTALENT_WHSEC, data, size);

    free(text.data);
    free(header.data);

    return 0;
}


static ngx_str_t
fuzz_header(ngx_http_taptalent_scheme_t *scheme, const uint8_t *data,
    size_t len, u_char *digest)
{
    char       sign[NGX_HTTP_TAPTALENT_MAX_DIGEST * 2 + 1];
    size_t     i, n;
    u_char    *buf, *p, other[NGX_HTTP_TAPTALENT_MAX_DIGEST];
    ngx_str_t  s;

    buf = malloc(len * (sizeof(sign) - 1) + 1);

    fuzz_check(buf != NULL);

    ngx_memcpy(other, digest, sizeof(other));
    other[scheme->len - 1] ^= 1;

    p = buf;

    for (i = 0; i < len; i++) {

        if (data[i] != '@' && data[i] != '!') {
            *p++ = data[i];
            continue;
        }

        n = fuzz_encode(scheme, data[i] == '@' ? digest : other, sign);
        p = ngx_cpymem(p, sign, n);
    }

    s = fuzz_copy(buf, p - buf);

    free(buf);

    return s;
}


static size_t
fuzz_encode(ngx_http_taptalent_scheme_t *scheme, u_char *digest, char *buf)
{
    size_t  i;

    if (scheme->encoding == NGX_HTTP_TAPTALENT_BASE64) {
        return EVP_EncodeBlock((u_char *) buf, digest, scheme->len);
    }

    for (i = 0; i < scheme->len; i++) {
        sprintf(buf + 2 * i, "%02x", digest[i]);
    }

    return 2 * scheme->len;
}


static ngx_int_t
fuzz_compare(ngx_http_taptalent_scheme_t *scheme, ngx_str_t *header,
    u_char *digest)
{
    u_char      *buf;
    ssize_t      len;
    ngx_int_t    rc;
    ngx_str_t    element;
    ngx_uint_t   n;

    rc = NGX_DECLINED;

    for (n = 0; fuzz_element(scheme, header, n, &element); n++) {

        if (element.len < scheme->prefix.len
            || memcmp(element.data, scheme->prefix.data, scheme->prefix.len)
               != 0)
        {
            continue;
        }

        element.data += scheme->prefix.len;
        element.len -= scheme->prefix.len;

        buf = malloc(element.len + 1);

        fuzz_check(buf != NULL);

        len = (scheme->encoding == NGX_HTTP_TAPTALENT_BASE64)
              ? fuzz_base64(&element, buf) : fuzz_hex(&element, buf);

        if (len == (ssize_t) scheme->len) {

            if (memcmp(buf, digest, len) == 0) {
                free(buf);
                return NGX_OK;
            }

            rc = NGX_ERROR;
        }

        free(buf);
    }

    return rc;
}


static ngx_int_t
fuzz_param(ngx_http_taptalent_scheme_t *scheme, ngx_str_t *header,
    ngx_str_t *time)
{
    size_t      i;
    ngx_str_t   element;
    ngx_uint_t  n, found;

    found = 0;

    for (n = 0; fuzz_element(scheme, header, n, &element); n++) {

        i = 0;

        while (i < element.len && element.data[i] != '=') {
            i++;
        }

        if (i < element.len && i == scheme->param.len
            && memcmp(element.data, scheme->param.data, i) == 0)
        {
            time->data = element.data + i + 1;
            time->len = element.len - i - 1;
            found++;
        }
    }

    return found == 1 ? NGX_OK : NGX_DECLINED;
}


/* the n-th, counted from the start each time */

static ngx_uint_t
fuzz_element(ngx_http_taptalent_scheme_t *scheme, ngx_str_t *header,
    ngx_uint_t n, ngx_str_t *element)
{
    size_t  i, start;

    start = 0;

    for (i = 0; n && i < header->len; i++) {
        if (scheme->separator && header->data[i] == scheme->separator) {
            start = i + 1;
            n--;
        }
    }

    if (n || start == header->len) {
        return 0;
    }

    for (i = start; i < header->len; i++) {
        if (scheme->separator && header->data[i] == scheme->separator) {
            break;
        }
    }

    while (start < i && strchr(" \t", header->data[start])
           && header->data[start] != '\0')
    {
        start++;
    }

    while (start < i && strchr(" \t", header->data[i - 1])
           && header->data[i - 1] != '\0')
    {
        i--;
    }

    element->data = header->data + start;
    element->len = i - start;

    return 1;
}


static ssize_t
fuzz_hex(ngx_str_t *s, u_char *dst)
{
    char    pair[3];
    size_t  i;

    for (i = 0; i + 1 < s->len; i += 2) {

        if (!isxdigit(s->data[i]) || !isxdigit(s->data[i + 1])) {
            return -1;
        }

        pair[0] = s->data[i];
        pair[1] = s->data[i + 1];
        pair[2] = '\0';

        dst[i / 2] = strtol(pair, NULL, 16);
    }

    return s->len % 2 ? -1 : (ssize_t) s->len / 2;
}


/* bit by bit */

static ssize_t
fuzz_base64(ngx_str_t *s, u_char *dst)
{
    size_t       i, n, len, bits;
    const char  *digit;

    len = s->len;

    if (len % 4 == 0 && len >= 1 && s->data[len - 1] == '=') {
        len--;

        if (s->data[len - 1] == '=') {
            len--;
        }
    }

    bits = 6 * len;

    if (bits % 8 >= 6) {
        return -1;
    }

    for (i = 0; i < len; i++) {
        if (s->data[i] == '\0' || strchr(fuzz_digits, s->data[i]) == NULL) {
            return -1;
        }
    }

    for (n = 0; n < bits / 8; n++) {
        dst[n] = 0;

        for (i = 8 * n; i < 8 * n + 8; i++) {
            digit = strchr(fuzz_digits, s->data[i / 6]);
            dst[n] = dst[n] << 1 | ((digit - fuzz_digits) >> (5 - i % 6) & 1);
        }
    }

    return bits / 8;
}


static void
fuzz_key(ngx_http_taptalent_encoding_e encoding, const uint8_t *data,
    size_t size)
{
    u_char     *start, *buf;
    ssize_t     len;
    ngx_str_t   key, copy, rest;
    ngx_int_t   rc;

    key = fuzz_copy(data, size);
    copy = fuzz_copy(data, size);
    start = key.data;
    rest = copy;
    buf = malloc(size + 1);

    fuzz_check(buf != NULL);

    switch (encoding) {

    case NGX_HTTP_TAPTALENT_RAW:
        len = size;
        ngx_memcpy(buf, data, size);
        break;

    case NGX_HTTP_TAPTALENT_HEX:
        len = fuzz_hex(&rest, buf);
        break;

    case NGX_HTTP_TAPTALENT_WHSEC:

        if (size < 6 || memcmp(data, "whsec_", 6) != 0) {
            len = -1;
            break;
        }

        rest.data += 6;
        rest.len -= 6;

        /* fall through */

    default:
        len = fuzz_base64(&rest, buf);
    }

    rc = ngx_http_taptalent_signature_key(encoding, &key);

    fuzz_check((rc == NGX_OK) == (len > 0));

    if (rc == NGX_OK) {
        fuzz_check(key.len == (size_t) len);
        fuzz_check(memcmp(key.data, buf, len) == 0);
    }

    free(start);
    free(copy.data);
    free(buf);
}


static void
fuzz_time(ngx_str_t *text)
{
    char        buf[14];
    size_t      i;
    time_t      sec, expected;
    ngx_uint_t  rc;

    sec = -1;
    expected = -1;

    rc = ngx_http_taptalent_signature_time(text, &sec);

    if (text->len > 13) {
        fuzz_check(rc == ngx_http_taptalent_event_timestamp(text->data,
                                                            text->len,
                                                            &expected));
        fuzz_check(sec == expected);
        return;
    }

    for (i = 0; i < text->len && isdigit(text->data[i]); i++) { /* void */ }

    fuzz_check(rc == (i == text->len && i > 0));

    if (rc == 0) {
        return;
    }

    ngx_memcpy(buf, text->data, text->len);
    buf[text->len] = '\0';
    expected = strtoll(buf, NULL, 10);

    if (text->len == 13) {
        expected /= 1000;
    }

    fuzz_check(sec == expected);
}
