
/*
 * A library that is loaded before the others and lets one allocation fail.  The
 * file TEST_ALLOC says which, in three numbers of eight bytes: the n-th from
 * now of a worker, the n-th from now of the master, and whether those alone are
 * counted that are the module's.  0 is none; it is 0 again after that one.
 *
 * The module's are those that nginx makes, and not libcrypto, for a function of
 * the module: one of the innermost frames lies between the two addresses of
 * TEST_ALLOC_CODE, in hexadecimal, as nm(1) prints them.
 */


#define _GNU_SOURCE
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <link.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>


extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void *__libc_memalign(size_t alignment, size_t size);


#define ALLOC_FRAMES  10

#define alloc_fails()  alloc_fails_for(__builtin_return_address(0))


typedef struct {
    int64_t  worker;
    int64_t  master;
    int64_t  module;
} alloc_t;


typedef struct {
    uintptr_t  first;
    uintptr_t  last;
} alloc_range_t;


static alloc_t         alloc_none, *alloc = &alloc_none;
static int64_t        *alloc_left = &alloc_none.master;
static alloc_range_t   alloc_program, alloc_module;

static __thread int    alloc_looks;


static void
alloc_forked(void)
{
    alloc_left = &alloc->worker;
}


/* the first of them is the program */

static int
alloc_object(struct dl_phdr_info *info, size_t size, void *data)
{
    int                i;
    const ElfW(Phdr)  *header;

    for (i = 0; i < info->dlpi_phnum; i++) {

        header = &info->dlpi_phdr[i];

        if (header->p_type == PT_LOAD && (header->p_flags & PF_X)) {
            alloc_program.first = info->dlpi_addr + header->p_vaddr;
            alloc_program.last = alloc_program.first + header->p_memsz;
        }
    }

    alloc_module.first += info->dlpi_addr;
    alloc_module.last += info->dlpi_addr;

    return 1;
}


/* says where, on standard error, and dies by the signal all the same */

static void
alloc_crashed(int signo)
{
    int    n;
    void  *frames[32];

    n = backtrace(frames, 32);
    backtrace_symbols_fd(frames, n, 2);

    (void) signal(signo, SIG_DFL);
    (void) raise(signo);
}


__attribute__((constructor)) static void
alloc_init(void)
{
    int    fd;
    char  *name, *code;
    void  *p, *frame;

    name = getenv("TEST_ALLOC");

    if (name == NULL) {
        return;
    }

    /* backtrace(3) loads a library when it is first called */

    (void) backtrace(&frame, 1);

    code = getenv("TEST_ALLOC_CODE");

    if (code
        && sscanf(code, "%lx-%lx", &alloc_module.first, &alloc_module.last)
           == 2)
    {
        dl_iterate_phdr(alloc_object, NULL);
    }

    fd = open(name, O_RDWR|O_CLOEXEC);
    p = mmap(NULL, sizeof(alloc_t), PROT_READ|PROT_WRITE, MAP_SHARED, fd, 0);

    if (fd == -1 || p == MAP_FAILED) {
        abort();
    }

    close(fd);

    (void) signal(SIGSEGV, alloc_crashed);

    alloc = p;
    alloc_left = &alloc->master;
    pthread_atfork(NULL, NULL, alloc_forked);
}


static int
alloc_within(alloc_range_t *range, void *address)
{
    return (uintptr_t) address >= range->first
           && (uintptr_t) address < range->last;
}


static int
alloc_of_module(void *caller)
{
    int    i, n;
    void  *frames[ALLOC_FRAMES];

    if (!alloc_within(&alloc_program, caller)) {
        return 0;
    }

    alloc_looks = 1;
    n = backtrace(frames, ALLOC_FRAMES);
    alloc_looks = 0;

    for (i = 0; i < n; i++) {
        if (alloc_within(&alloc_module, frames[i])) {
            return 1;
        }
    }

    return 0;
}


static int
alloc_fails_for(void *caller)
{
    int64_t  n;

    n = __atomic_load_n(alloc_left, __ATOMIC_RELAXED);

    if (n <= 0 || alloc_looks || (alloc->module && !alloc_of_module(caller))) {
        return 0;
    }

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
    return alloc_fails() ? NULL : __libc_memalign(alignment, size);
}


int
posix_memalign(void **p, size_t alignment, size_t size)
{
    *p = alloc_fails() ? NULL : __libc_memalign(alignment, size);

    return *p ? 0 : ENOMEM;
}
