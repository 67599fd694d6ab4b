
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include "fuzz.h"


/*
 * The small questions about a text, each answered a second time in the plainest
 * way.  A line of the input is the text, what follows is the pattern.
 */


/* the pattern takes steps by its length times that of the text */

#define FUZZ_MAX  512


static ngx_uint_t fuzz_media_type(ngx_str_t *s);
static ngx_uint_t fuzz_name(ngx_str_t *s);
static ngx_uint_t fuzz_company(ngx_str_t *s);
static ngx_uint_t fuzz_match(ngx_str_t *pattern, ngx_str_t *text);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    size_t           n;
    ngx_str_t        text, pattern;
    const uint8_t   *lf;

    lf = size ? memchr(data, LF, size) : NULL;
    n = lf ? lf - data : (ssize_t) size;

    text = fuzz_copy(data, n);
    pattern = lf ? fuzz_copy(lf + 1, size - n - 1) : fuzz_copy(data, 0);

    fuzz_check(ngx_http_taptalent_event_media_type(&text)
               == fuzz_media_type(&text));
    fuzz_check(ngx_http_taptalent_event_name(&text) == fuzz_name(&text));

    /* bytes that cannot be in a line are in the pattern */

    fuzz_check(ngx_http_taptalent_event_company(text.data, text.len)
               == fuzz_company(&text));
    fuzz_check(ngx_http_taptalent_event_company(pattern.data, pattern.len)
               == fuzz_company(&pattern));

    if (size <= FUZZ_MAX) {
        fuzz_check(ngx_http_taptalent_event_match(&pattern, &text)
                   == fuzz_match(&pattern, &text));
    }

    free(text.data);
    free(pattern.data);

    return 0;
}


static ngx_uint_t
fuzz_media_type(ngx_str_t *s)
{
    size_t             i;
    static const char  name[] = "application/json";

    for (i = 0; name[i] != '\0'; i++) {
        if (i == s->len || tolower(s->data[i]) != name[i]) {
            return 0;
        }
    }

    return i == s->len || s->data[i] == ';' || s->data[i] == ' '
           || s->data[i] == '\t';
}


static ngx_uint_t
fuzz_name(ngx_str_t *s)
{
    size_t  i;

    for (i = 0; i < s->len; i++) {
        if (s->data[i] == '\0'
            || strchr("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                      "0123456789._:-", s->data[i])
               == NULL)
        {
            return 0;
        }
    }

    return s->len >= 1 && s->len <= 128;
}


static ngx_uint_t
fuzz_company(ngx_str_t *s)
{
    size_t  i;

    for (i = 0; i < s->len; i++) {
        if (s->data[i] < 0x80 && iscntrl(s->data[i])) {
            return 0;
        }
    }

    return s->len >= 1 && s->len <= 256;
}


/*
 * row[n] says whether the pattern, as far as it has been taken, matches the
 * first n characters of the text.
 */

static ngx_uint_t
fuzz_match(ngx_str_t *pattern, ngx_str_t *text)
{
    size_t   i, n;
    u_char   row[FUZZ_MAX + 1], next[FUZZ_MAX + 1];

    ngx_memzero(row, sizeof(row));
    row[0] = 1;

    for (i = 0; i < pattern->len; i++) {

        if (pattern->data[i] == '*') {
            next[0] = row[0];

            for (n = 1; n <= text->len; n++) {
                next[n] = row[n] || next[n - 1];
            }

        } else {
            next[0] = 0;

            for (n = 1; n <= text->len; n++) {
                next[n] = row[n - 1]
                          && pattern->data[i] == text->data[n - 1];
            }
        }

        ngx_memcpy(row, next, text->len + 1);
    }

    return row[text->len];
}
