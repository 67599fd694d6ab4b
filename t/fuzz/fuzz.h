
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _FUZZ_H_INCLUDED_
#define _FUZZ_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_event.h"
#include "ngx_http_taptalent_line.h"


#define fuzz_check(ok)                                                        \
    ((ok) ? (void) 0 : fuzz_failed(#ok, __FILE__, __LINE__))

#define fuzz_same(a, b)                                                       \
    ((a)->len == (b)->len                                                     \
     && ((a)->len == 0 || ngx_memcmp((a)->data, (b)->data, (a)->len) == 0))


/* libFuzzer, or replay.c, calls it with one input after the other */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* says what did not hold, and aborts */
void fuzz_failed(const char *what, const char *file, int line);

/* memory of exactly this length, so that a byte beyond it is seen */
ngx_str_t fuzz_copy(const void *data, size_t len);

/* the pieces in a row, in memory of exactly their length */
ngx_str_t fuzz_join(ngx_str_t *first, ngx_str_t *second, ngx_str_t *third);

/* a pool that lasts until the next one is asked for */
ngx_pool_t *fuzz_pool(void);

/* reads all that is there, so that what may not be read is seen */
void fuzz_touch(ngx_str_t *s);

/* the n-th malloc() from here on fails, if n is not 0 */
void fuzz_fail_malloc(ngx_uint_t n);

/* true if it has failed since; no other will */
ngx_uint_t fuzz_malloc_failed(void);


#endif /* _FUZZ_H_INCLUDED_ */
