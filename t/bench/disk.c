
/*
 * What the disk itself takes for what a commit does, one after another:
 * create in tmp/, write, fdatasync(), close(), rename to new/, fsync(new/).
 *
 *     disk DIRECTORY SIZE SECONDS
 *
 * prints "N MEDIAN P99", both in microseconds.  The files stay in new/.
 */


#define _GNU_SOURCE

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/stat.h>


#define MAX  1000000


static double  times[MAX];


static double
now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}


static void
failed(const char *what)
{
    fprintf(stderr, "disk: %s failed: %s\n", what, strerror(errno));
    exit(1);
}


static int
compare(const void *one, const void *two)
{
    double  a, b;

    a = *(const double *) one;
    b = *(const double *) two;

    return (a > b) - (a < b);
}


static int
directory(const char *name)
{
    int  fd;

    if (mkdir(name, 0700) == -1 && errno != EEXIST) {
        failed("mkdir()");
    }

    fd = open(name, O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (fd == -1) {
        failed("open()");
    }

    return fd;
}


int
main(int argc, char **argv)
{
    int      fd, tmp, new;
    char    *content, name[64];
    size_t   size;
    double   began, end;
    size_t   n;

    if (argc != 4 || chdir(argv[1]) == -1) {
        fprintf(stderr, "usage: disk DIRECTORY SIZE SECONDS\n");
        return 2;
    }

    tmp = directory("tmp");
    new = directory("new");

    size = strtoul(argv[2], NULL, 10);
    content = malloc(size);

    if (content == NULL) {
        failed("malloc()");
    }

    memset(content, 'x', size);

    end = now() + atof(argv[3]) * 1e6;
    began = now();

    for (n = 0; n < MAX && began < end; n++) {

        (void) snprintf(name, sizeof(name), "%ld-%08zu-%08x.ndjson",
                        (long) getpid(), n, 0x1c291ca3);

        fd = openat(tmp, name, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC,
                    0600);

        if (fd == -1) {
            failed("openat()");
        }

        if (write(fd, content, size) != (ssize_t) size) {
            failed("write()");
        }

        if (fdatasync(fd) == -1) {
            failed("fdatasync()");
        }

        if (close(fd) == -1) {
            failed("close()");
        }

        if (renameat2(tmp, name, new, name, RENAME_NOREPLACE) == -1) {
            failed("renameat2()");
        }

        if (fsync(new) == -1) {
            failed("fsync()");
        }

        times[n] = now() - began;
        began = now();
    }

    if (n == 0) {
        fprintf(stderr, "disk: SECONDS is nothing\n");
        return 2;
    }

    qsort(times, n, sizeof(double), compare);

    printf("%zu %.1f %.1f\n", n, times[n / 2], times[n * 99 / 100]);

    return 0;
}
