
/*
 * A library that is loaded before the others and adds to the clock what stands
 * in the file TEST_CLOCK: seconds, in eight bytes.  With TEST_CLOCK_FILES the
 * times of files are so much later too, as where the clock has always been so.
 */


#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>


static volatile int64_t   clock_none, *clock_offset = &clock_none;
static int                clock_files;


__attribute__((constructor)) static void
clock_init(void)
{
    int    fd;
    char  *name;
    void  *p;

    name = getenv("TEST_CLOCK");

    if (name == NULL) {
        return;
    }

    fd = open(name, O_RDONLY|O_CLOEXEC);
    p = mmap(NULL, 8, PROT_READ, MAP_SHARED, fd, 0);

    if (fd == -1 || p == MAP_FAILED) {
        abort();
    }

    close(fd);

    clock_files = (getenv("TEST_CLOCK_FILES") != NULL);
    clock_offset = p;
}


int
clock_gettime(clockid_t id, struct timespec *ts)
{
    int  rc;

    rc = syscall(SYS_clock_gettime, id, ts);

    if (rc == 0 && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) {
        ts->tv_sec += *clock_offset;
    }

    return rc;
}


int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
    struct timespec  ts;

    (void) tz;

    clock_gettime(CLOCK_REALTIME, &ts);

    tv->tv_sec = ts.tv_sec;
    tv->tv_usec = ts.tv_nsec / 1000;

    return 0;
}


time_t
time(time_t *t)
{
    struct timespec  ts;

    clock_gettime(CLOCK_REALTIME, &ts);

    if (t) {
        *t = ts.tv_sec;
    }

    return ts.tv_sec;
}


int
fstatat(int dir, const char *restrict name, struct stat *restrict st, int flags)
{
    int  rc;

    rc = syscall(SYS_newfstatat, dir, name, st, flags);

    if (rc == 0 && clock_files) {
        st->st_atime += *clock_offset;
        st->st_mtime += *clock_offset;
        st->st_ctime += *clock_offset;
    }

    return rc;
}


int
stat(const char *restrict name, struct stat *restrict st)
{
    return fstatat(AT_FDCWD, name, st, 0);
}


int
lstat(const char *restrict name, struct stat *restrict st)
{
    return fstatat(AT_FDCWD, name, st, AT_SYMLINK_NOFOLLOW);
}


int
fstat(int fd, struct stat *st)
{
    return fstatat(fd, "", st, AT_EMPTY_PATH);
}


int
statx(int dir, const char *restrict name, int flags, unsigned int mask,
    struct statx *restrict st)
{
    int  rc;

    rc = syscall(SYS_statx, dir, name, flags, mask, st);

    if (rc == 0 && clock_files) {
        st->stx_atime.tv_sec += *clock_offset;
        st->stx_btime.tv_sec += *clock_offset;
        st->stx_ctime.tv_sec += *clock_offset;
        st->stx_mtime.tv_sec += *clock_offset;
    }

    return rc;
}


/* what is set comes from a clock that is so much later */

static int
clock_set(int dir, const char *name, const struct timespec *ts, int flags)
{
    int              i;
    struct timespec  set[2];

    if (ts == NULL || !clock_files) {
        return syscall(SYS_utimensat, dir, name, ts, flags);
    }

    for (i = 0; i < 2; i++) {
        set[i] = ts[i];

        if (ts[i].tv_nsec != UTIME_NOW && ts[i].tv_nsec != UTIME_OMIT) {
            set[i].tv_sec -= *clock_offset;
        }
    }

    return syscall(SYS_utimensat, dir, name, set, flags);
}


int
utimensat(int dir, const char *name, const struct timespec ts[2], int flags)
{
    return clock_set(dir, name, ts, flags);
}


int
futimens(int fd, const struct timespec ts[2])
{
    return clock_set(fd, NULL, ts, 0);
}


static int
clock_utimes(int dir, const char *name, const struct timeval tv[2])
{
    int              i;
    struct timespec  ts[2];

    if (tv == NULL) {
        return clock_set(dir, name, NULL, 0);
    }

    for (i = 0; i < 2; i++) {
        ts[i].tv_sec = tv[i].tv_sec;
        ts[i].tv_nsec = tv[i].tv_usec * 1000;
    }

    return clock_set(dir, name, ts, 0);
}


int
utimes(const char *name, const struct timeval tv[2])
{
    return clock_utimes(AT_FDCWD, name, tv);
}


int
futimes(int fd, const struct timeval tv[2])
{
    return clock_utimes(fd, NULL, tv);
}


int
utime(const char *name, const struct utimbuf *times)
{
    struct timeval  tv[2];

    if (times == NULL) {
        return utimes(name, NULL);
    }

    tv[0].tv_sec = times->actime;
    tv[1].tv_sec = times->modtime;
    tv[0].tv_usec = tv[1].tv_usec = 0;

    return utimes(name, tv);
}


/* the same calls by the names they have for who asks for large files */

int
stat64(const char *restrict name, struct stat64 *restrict st)
{
    return stat(name, (struct stat *) st);
}


int
lstat64(const char *restrict name, struct stat64 *restrict st)
{
    return lstat(name, (struct stat *) st);
}


int
fstat64(int fd, struct stat64 *st)
{
    return fstat(fd, (struct stat *) st);
}


int
fstatat64(int dir, const char *restrict name, struct stat64 *restrict st,
    int flags)
{
    return fstatat(dir, name, (struct stat *) st, flags);
}
