
/*
 * A library that is loaded before the others and lets one allocation of a
 * worker fail.  The file TEST_ALLOC, of eight bytes, says which: the n-th from
 * now.  0 is none; it is 0 again after that one.  The master was not forked,
 * and goes on: libcrypto and nginx do not bear it when they read a
 * configuration.
 */


#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>


extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);


static int64_t   alloc_none, *alloc_left = &alloc_none, *alloc_worker;


static void
alloc_forked(void)
{
    alloc_left = alloc_worker;
}


__attribute__((constructor)) static void
alloc_init(void)
{
    int    fd;
    char  *name;
    void  *p;

    name = getenv("TEST_ALLOC");

    if (name == NULL) {
        return;
    }

    fd = open(name, O_RDWR|O_CLOEXEC);
    p = mmap(NULL, 8, PROT_READ|PROT_WRITE, MAP_SHARED, fd, 0);

    if (fd == -1 || p == MAP_FAILED) {
        abort();
    }

    close(fd);

    alloc_worker = p;
    pthread_atfork(NULL, NULL, alloc_forked);
}


static int
alloc_fails(void)
{
    int64_t  n;

    n = __atomic_load_n(alloc_left, __ATOMIC_RELAXED);

    do {
        if (n <= 0) {
            return 0;
        }

    } while (!__atomic_compare_exchange_n(alloc_left, &n, n - 1, 0,
                                          __ATOMIC_RELAXED, __ATOMIC_RELAXED));

    if (n > 1) {
        return 0;
    }

    errno = ENOMEM;

    return 1;
}


void *
malloc(size_t size)
{
    return alloc_fails() ? NULL : __libc_malloc(size);
}


void *
calloc(size_t n, size_t size)
{
    return alloc_fails() ? NULL : __libc_calloc(n, size);
}


void *
realloc(void *p, size_t size)
{
    return alloc_fails() ? NULL : __libc_realloc(p, size);
}


void *
memalign(size_t alignment, size_t size)
{
    return alloc_fails() ? NULL : __libc_memalign(alignment, size);
}


void *
aligned_alloc(size_t alignment, size_t size)
{
    return memalign(alignment, size);
}


int
posix_memalign(void **p, size_t alignment, size_t size)
{
    *p = memalign(alignment, size);

    return *p ? 0 : ENOMEM;
}
