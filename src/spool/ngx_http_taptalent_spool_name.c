
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


/*
 * The names of a spool, which docs/spool.md promises to consumers:
 *
 *   <time>-<start>-<sequence>-<events>-<crc32>.ndjson    a commit
 *   <time>-<start>-<sequence>.<line>-1-<crc32>.ndjson    a dead letter
 *   <any>.ndjson                                         put there by hand
 *   <file>.done                                          what is done of it
 *   <file>.<n>                                           in corrupt/, if the
 *                                                        name is there already
 *   <start>.lock                                         a worker that lives
 *   recover.lock, forward.lock                           who recovers, forwards
 *
 *   <time>      20261123T081113.123Z, UTC, when the commit began
 *   <start>     16 lower-case hex digits, random, of one start of a worker
 *   <sequence>  at least 10 digits, from 1, counts within a start
 *   <events>    how many lines
 *   <crc32>     8 hex digits, of the content
 *   <line>      of the file that the dead letter comes from, from 1
 *
 * As bytes, names of commits sort by time.
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_spool_name.h"


#define NGX_HTTP_TAPTALENT_FILE_SUFFIX     ".ndjson"
#define NGX_HTTP_TAPTALENT_SIDECAR_SUFFIX  ".done"
#define NGX_HTTP_TAPTALENT_LOCK_SUFFIX     ".lock"

#define NGX_HTTP_TAPTALENT_TIME_LEN  (sizeof("20261123T081113.123Z-") - 1)
#define NGX_HTTP_TAPTALENT_CRC_LEN   (sizeof("-01234567.ndjson") - 1)


#define ngx_http_taptalent_spool_name_ends(name, len, s)                      \
    ((len) > sizeof(s) - 1                                                    \
     && ngx_strcmp((name) + (len) - (sizeof(s) - 1), s) == 0)


/* worker numbers, pids and clocks repeat, the random bits of a start do not */

void
ngx_http_taptalent_spool_name(u_char *name, u_char *start, uint64_t sequence,
    ngx_uint_t events, uint32_t crc)
{
    ngx_tm_t         tm;
    struct timespec  ts;

    (void) clock_gettime(CLOCK_REALTIME, &ts);

    ngx_gmtime(ts.tv_sec, &tm);

    ngx_sprintf(name, "%4d%02d%02dT%02d%02d%02d.%03uiZ-%s-%010uL-%ui-%08xD"
                NGX_HTTP_TAPTALENT_FILE_SUFFIX "%Z",
                tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday,
                tm.ngx_tm_hour, tm.ngx_tm_min, tm.ngx_tm_sec,
                (ngx_uint_t) ts.tv_nsec / 1000000,
                start, sequence, events, crc);
}


void
ngx_http_taptalent_spool_name_dead(u_char *name, u_char *source,
    ngx_uint_t line, uint32_t crc)
{
    u_char      *p, *last;
    ngx_uint_t   n;

    /* "<time>-<start>-<sequence>" of the source, what comes after is ours */

    last = source + ngx_strlen(source);
    n = 0;

    for (p = source; p < last; p++) {
        if (*p == '-' && ++n == 3) {
            last = p;
        }
    }

    last = ngx_min(last, source + NAME_MAX - 2 * NGX_INT_T_LEN - 32);

    ngx_sprintf(name, "%*s.%ui-1-%08xD" NGX_HTTP_TAPTALENT_FILE_SUFFIX "%Z",
                (size_t) (last - source), source, line, crc);
}


void
ngx_http_taptalent_spool_name_corrupt(u_char *to, u_char *name, ngx_uint_t n)
{
    if (n == 0) {
        ngx_sprintf(to, "%s%Z", name);
        return;
    }

    ngx_sprintf(to, "%s.%ui%Z", name, n);
}


void
ngx_http_taptalent_spool_name_lock(u_char *name, u_char *start)
{
    ngx_sprintf(name, "%*s" NGX_HTTP_TAPTALENT_LOCK_SUFFIX "%Z",
                (size_t) NGX_HTTP_TAPTALENT_START_LEN, start);
}


void
ngx_http_taptalent_spool_name_sidecar(u_char *sidecar, u_char *name)
{
    ngx_sprintf(sidecar, "%s" NGX_HTTP_TAPTALENT_SIDECAR_SUFFIX "%Z", name);
}


ngx_uint_t
ngx_http_taptalent_spool_name_is_file(u_char *name, size_t len)
{
    return ngx_http_taptalent_spool_name_ends(name, len,
                                              NGX_HTTP_TAPTALENT_FILE_SUFFIX);
}


ngx_uint_t
ngx_http_taptalent_spool_name_is_sidecar(u_char *name, size_t len)
{
    return ngx_http_taptalent_spool_name_ends(name, len,
                                            NGX_HTTP_TAPTALENT_SIDECAR_SUFFIX);
}


ngx_int_t
ngx_http_taptalent_spool_name_of_sidecar(u_char *name, u_char *sidecar,
    size_t len)
{
    if (!ngx_http_taptalent_spool_name_is_sidecar(sidecar, len)) {
        return NGX_DECLINED;
    }

    len -= sizeof(NGX_HTTP_TAPTALENT_SIDECAR_SUFFIX) - 1;

    ngx_memcpy(name, sidecar, len);
    name[len] = '\0';

    return ngx_http_taptalent_spool_name_is_file(name, len) ? NGX_OK
                                                            : NGX_DECLINED;
}


u_char *
ngx_http_taptalent_spool_name_start(u_char *name)
{
    size_t      len, skip;
    u_char     *start;
    ngx_uint_t  i;

    len = ngx_strlen(name);
    skip = NGX_HTTP_TAPTALENT_TIME_LEN;

    if (len == NGX_HTTP_TAPTALENT_LOCK_LEN - 1
        && ngx_strcmp(name + NGX_HTTP_TAPTALENT_START_LEN,
                      NGX_HTTP_TAPTALENT_LOCK_SUFFIX)
           == 0)
    {
        start = name;

    } else if (len > skip + NGX_HTTP_TAPTALENT_START_LEN + sizeof("-.ndjson")
               && name[8] == 'T' && name[skip - 1] == '-'
               && name[skip + NGX_HTTP_TAPTALENT_START_LEN] == '-'
               && ngx_http_taptalent_spool_name_is_file(name, len))
    {
        start = name + skip;

    } else {
        return NULL;
    }

    for (i = 0; i < NGX_HTTP_TAPTALENT_START_LEN; i++) {

        if ((start[i] < '0' || start[i] > '9')
            && (start[i] < 'a' || start[i] > 'f'))
        {
            return NULL;
        }
    }

    return start;
}


ngx_int_t
ngx_http_taptalent_spool_name_crc(u_char *name, uint32_t *crc)
{
    size_t       len;
    u_char      *p, *last;
    ngx_uint_t   n;

    len = ngx_strlen(name);

    if (len < sizeof("20261123T081113.123Z---1-01234567.ndjson") - 1
        || name[8] != 'T' || name[15] != '.' || name[19] != 'Z')
    {
        return NGX_DECLINED;
    }

    last = name + len - NGX_HTTP_TAPTALENT_CRC_LEN;
    n = 0;

    for (p = name + NGX_HTTP_TAPTALENT_TIME_LEN - 1; p <= last; p++) {
        n += (*p == '-');
    }

    if (n < 4 || *last != '-') {
        return NGX_DECLINED;
    }

    return ngx_http_taptalent_spool_name_hex(last + 1, crc);
}


ngx_int_t
ngx_http_taptalent_spool_name_events(u_char *name, uint32_t *crc)
{
    u_char  *p, *last;

    if (ngx_http_taptalent_spool_name_crc(name, crc) != NGX_OK) {
        return NGX_DECLINED;
    }

    last = name + ngx_strlen(name) - NGX_HTTP_TAPTALENT_CRC_LEN;

    for (p = last; p[-1] != '-'; p--) { /* void */ }

    return ngx_atoi(p, last - p);
}


time_t
ngx_http_taptalent_spool_name_time(u_char *name, size_t len)
{
    struct tm  tm;

    if (len < NGX_HTTP_TAPTALENT_TIME_LEN
        || name[NGX_HTTP_TAPTALENT_TIME_LEN - 1] != '-')
    {
        return NGX_ERROR;
    }

    ngx_memzero(&tm, sizeof(struct tm));

    if (strptime((char *) name, "%Y%m%dT%H%M%S", &tm)
        != (char *) name + sizeof("20261123T081113") - 1)
    {
        return NGX_ERROR;
    }

    return timegm(&tm);
}


/* ngx_hextoi() takes eight digits only where a word has 64 bits */

ngx_int_t
ngx_http_taptalent_spool_name_hex(u_char *p, uint32_t *value)
{
    ngx_int_t  high, low;

    high = ngx_hextoi(p, 4);
    low = ngx_hextoi(p + 4, 4);

    if (high == NGX_ERROR || low == NGX_ERROR) {
        return NGX_DECLINED;
    }

    *value = ((uint32_t) high << 16) | low;

    return NGX_OK;
}
