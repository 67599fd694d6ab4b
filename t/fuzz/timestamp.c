
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include "fuzz.h"


/*
 * The date-time of RFC 3339, compared with what timegm() makes of it.
 *
 * After a "#" the input is numbers, of which a date-time is made that is right
 * or almost; else it is the text itself.
 */


#define FUZZ_NUMBERS  9


static ngx_uint_t fuzz_expected(ngx_str_t *text, time_t *sec);
static ngx_uint_t fuzz_form(u_char *p, size_t len, const char *form);
static ngx_str_t fuzz_text(const uint8_t *data);


int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    time_t      sec, expected;
    ngx_str_t   text;
    ngx_uint_t  rc;

    if (size == 1 + FUZZ_NUMBERS && data[0] == '#') {
        text = fuzz_text(data + 1);

    } else {
        text = fuzz_copy(data, size);
    }

    sec = -1;
    expected = -1;

    rc = ngx_http_taptalent_event_timestamp(text.data, text.len, &sec);

    fuzz_check(rc == fuzz_expected(&text, &expected));
    fuzz_check(sec == expected);
    fuzz_check(rc == ngx_http_taptalent_event_timestamp(text.data, text.len,
                                                        NULL));
    free(text.data);

    return 0;
}


/* the largest that a number may be, and one more, and some of no sense */

static ngx_str_t
fuzz_text(const uint8_t *data)
{
    int           n, hour, min;
    char          buf[128];
    const char   *sign;

    hour = data[6] % 26;
    min = data[7] % 62;
    sign = (data[8] & 1) ? "+" : "-";

    n = snprintf(buf, sizeof(buf), "%04d-%02d-%02dT%02d:%02d:%02d",
                 (data[0] * 256 + data[8]) % 10000, data[1] % 14,
                 data[2] % 33, data[3] % 26, data[4] % 62, data[5] % 63);

    switch (data[8] >> 1 & 3) {

    case 0:
        n += snprintf(buf + n, sizeof(buf) - n, "Z");
        break;

    case 1:
        n += snprintf(buf + n, sizeof(buf) - n, ".%d%s%02d:%02d", data[8],
                      sign, hour, min);
        break;

    default:
        n += snprintf(buf + n, sizeof(buf) - n, "%s%02d:%02d", sign, hour,
                      min);
    }

    return fuzz_copy(buf, n);
}


static ngx_uint_t
fuzz_expected(ngx_str_t *text, time_t *sec)
{
    int         n[6], hour, min, i;
    char        buf[32];
    size_t      len;
    time_t      t;
    u_char     *p;
    struct tm   tm, again;

    len = sizeof("2024-01-20T14:45:00") - 1;

    if (text->len <= len
        || !(fuzz_form(text->data, len, "0000-00-00T00:00:00")
             || fuzz_form(text->data, len, "0000-00-00t00:00:00")))
    {
        return 0;
    }

    ngx_memcpy(buf, text->data, len);
    buf[len] = '\0';

    if (sscanf(buf, "%d-%d-%d%*c%d:%d:%d", &n[0], &n[1], &n[2], &n[3], &n[4],
               &n[5])
        != 6)
    {
        fuzz_check(!"six numbers");
    }

    /* a day, an hour, a minute that there is not would become another one */

    ngx_memzero(&tm, sizeof(struct tm));

    tm.tm_year = n[0] - 1900;
    tm.tm_mon = n[1] - 1;
    tm.tm_mday = n[2];
    tm.tm_hour = n[3];
    tm.tm_min = n[4];

    again = tm;
    t = timegm(&again);

    if (again.tm_year != tm.tm_year || again.tm_mon != tm.tm_mon
        || again.tm_mday != tm.tm_mday || again.tm_hour != tm.tm_hour
        || again.tm_min != tm.tm_min || n[5] > 60)
    {
        return 0;
    }

    t += n[5];

    p = text->data + len;
    len = text->len - len;

    if (*p == '.') {
        for (i = 1; i < (int) len && isdigit(p[i]); i++) { /* void */ }

        if (i == 1) {
            return 0;
        }

        p += i;
        len -= i;
    }

    if (fuzz_form(p, len, "Z") || fuzz_form(p, len, "z")) {
        *sec = t;
        return 1;
    }

    if (!fuzz_form(p, len, "+00:00") && !fuzz_form(p, len, "-00:00")) {
        return 0;
    }

    ngx_memcpy(buf, p, len);
    buf[len] = '\0';

    if (sscanf(buf + 1, "%d:%d", &hour, &min) != 2) {
        fuzz_check(!"two numbers");
    }

    if (hour > 23 || min > 59) {
        return 0;
    }

    *sec = (*p == '+') ? t - hour * 3600 - min * 60
                       : t + hour * 3600 + min * 60;

    return 1;
}


/* "0" stands for any digit */

static ngx_uint_t
fuzz_form(u_char *p, size_t len, const char *form)
{
    size_t  i;

    if (len != ngx_strlen(form)) {
        return 0;
    }

    for (i = 0; i < len; i++) {
        if (form[i] == '0' ? !isdigit(p[i]) : p[i] != (u_char) form[i]) {
            return 0;
        }
    }

    return 1;
}
