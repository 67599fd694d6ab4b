
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include "fuzz.h"


/*
 * What the targets share.  Linked to them are the module's parsers, and of
 * nginx the files with its strings, pools, arrays and times; the log is here,
 * since nginx's own needs all the rest of it.
 */


void *__real_malloc(size_t size);
void *__wrap_malloc(size_t size);


static ngx_uint_t   fuzz_fails_at;
static ngx_uint_t   fuzz_failed_once;
static ngx_pool_t  *fuzz_current_pool;

/* so that the compiler does not leave the reading out */
static volatile u_char  fuzz_sum;


void
fuzz_failed(const char *what, const char *file, int line)
{
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, what);
    abort();
}


ngx_str_t
fuzz_copy(const void *data, size_t len)
{
    ngx_str_t  s;

    s.len = len;
    s.data = malloc(len);

    fuzz_check(s.data != NULL);

    ngx_memcpy(s.data, data, len);

    return s;
}


ngx_str_t
fuzz_join(ngx_str_t *first, ngx_str_t *second, ngx_str_t *third)
{
    u_char     *p;
    ngx_str_t   s;

    s.len = first->len + second->len + third->len;
    s.data = malloc(s.len);

    fuzz_check(s.data != NULL);

    p = ngx_cpymem(s.data, first->data, first->len);
    p = ngx_cpymem(p, second->data, second->len);
    ngx_memcpy(p, third->data, third->len);

    return s;
}


ngx_pool_t *
fuzz_pool(void)
{
    static ngx_log_t  log;

    if (fuzz_current_pool) {
        ngx_destroy_pool(fuzz_current_pool);
    }

    fuzz_current_pool = ngx_create_pool(1024, &log);

    fuzz_check(fuzz_current_pool != NULL);

    return fuzz_current_pool;
}


void
fuzz_touch(ngx_str_t *s)
{
    size_t  i;

    for (i = 0; i < s->len; i++) {
        fuzz_sum += s->data[i];
    }
}


void
fuzz_fail_malloc(ngx_uint_t n)
{
    fuzz_fails_at = n;
    fuzz_failed_once = 0;
}


ngx_uint_t
fuzz_malloc_failed(void)
{
    fuzz_fails_at = 0;

    return fuzz_failed_once;
}


/* the linker puts it in the place of malloc() */

void *
__wrap_malloc(size_t size)
{
    if (fuzz_fails_at && --fuzz_fails_at == 0) {
        fuzz_failed_once = 1;
        return NULL;
    }

    return __real_malloc(size);
}


/* pools log that there is no memory, and nothing else */

void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    fuzz_check(fuzz_failed_once);
}
