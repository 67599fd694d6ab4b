
/*
 * What the programs that measure the disk share.  Included by one file each.
 */


#ifndef _DISK_H_INCLUDED_
#define _DISK_H_INCLUDED_


#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/stat.h>


#define MAX  1000000


/* microseconds each */

typedef struct {
    size_t  n;
    double  us[MAX];
} times_t;


static double
now(void)
{
    struct timespec  ts;

    (void) clock_gettime(CLOCK_MONOTONIC, &ts);

    return ts.tv_sec * 1e6 + ts.tv_nsec / 1e3;
}


/* tells of errno, and ends */

static void
failed(const char *what)
{
    fprintf(stderr, "%s failed: %s\n", what, strerror(errno));
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


/* a part of them, 0.5 for the median; there must be one */

static double
quantile(times_t *times, double part)
{
    qsort(times->us, times->n, sizeof(double), compare);

    return times->us[(size_t) (times->n * part)];
}


/* its descriptor, made if it is not there */

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


/* the caller's, of "size" bytes */

static char *
filled(size_t size)
{
    char  *content;

    content = malloc(size);

    if (content == NULL) {
        failed("malloc()");
    }

    memset(content, 'x', size);

    return content;
}


#endif /* _DISK_H_INCLUDED_ */
