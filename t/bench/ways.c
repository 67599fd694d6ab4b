
/*
 * Ways to make a file durable under its name, in turn, so that the disk is
 * quick or slow for all of them.
 *
 *     ways DIRECTORY SIZE SECONDS
 *
 * prints a line for each, "MEDIAN NAME", microseconds for a file of so many
 * bytes, or "- NAME" where the kernel or the filesystem has no such thing.  The
 * last three are for a pair of files, in two directories.  The files stay in
 * the directories, the pools aside.
 */


#define _GNU_SOURCE

#include <liburing.h>
#include <pthread.h>
#include "disk.h"


#define POOL     64
#define POOLS    2
#define NAME     64

#define FLAGS    (O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC)


typedef struct way_s  way_t;

struct way_s {
    const char  *name;
    void       (*commit)(way_t *way);
    size_t       pool;
    int          missing;
    times_t      times;
};


typedef struct {
    int          tmp;
    int          new;
} spool_t;


typedef struct {
    int          fd;
    char         name[NAME];
} file_t;


static void as_it_is(way_t *way);
static void dsync(way_t *way);
static void tmpfile_linked(way_t *way);
static void allocated(way_t *way);
static void pooled(way_t *way);
static void chain(way_t *way);
static void appended(way_t *way);
static void pair_threads(way_t *way);
static void pair_in_turn(way_t *way);
static void pair_syncfs(way_t *way);


static way_t  ways[] = {
    { .name = "as it is", .commit = as_it_is },
    { .name = "`RWF_DSYNC` for `fdatasync()`", .commit = dsync },
    { .name = "`O_TMPFILE` and `linkat()`", .commit = tmpfile_linked },
    { .name = "`fallocate()` first", .commit = allocated },
    { .name = "an empty file from a pool", .commit = pooled },
    { .name = "a file with blocks from a pool", .commit = pooled, .pool = 1 },
    { .name = "io_uring", .commit = chain },
    { .name = "appended to one file", .commit = appended },
    { .name = "two spools, two threads", .commit = pair_threads },
    { .name = "two spools, one thread", .commit = pair_in_turn },
    { .name = "two spools, one `syncfs()`", .commit = pair_syncfs },
};

#define NWAYS  (sizeof(ways) / sizeof(ways[0]))


static spool_t            spools[2], *const one = &spools[0];
static int                log_fd;
static char              *content;
static size_t             size, names;
static file_t             pools[POOLS][POOL];
static size_t             left[POOLS];
static struct io_uring    ring;
static pthread_barrier_t  begin, end;


static void
next_name(char *name)
{
    (void) snprintf(name, NAME, "%ld-%08zu-1-00000000.ndjson",
                    (long) getpid(),
                    __atomic_fetch_add(&names, 1, __ATOMIC_RELAXED));
}


static int
create(spool_t *spool, char *name)
{
    int  fd;

    next_name(name);

    fd = openat(spool->tmp, name, FLAGS, 0600);

    if (fd == -1) {
        failed("openat()");
    }

    return fd;
}


static void
put(int fd)
{
    if (write(fd, content, size) != (ssize_t) size) {
        failed("write()");
    }
}


static void
flush(int fd)
{
    if (fdatasync(fd) == -1) {
        failed("fdatasync()");
    }
}


static void
done(int fd)
{
    if (close(fd) == -1) {
        failed("close()");
    }
}


static void
publish(spool_t *spool, char *name)
{
    if (renameat2(spool->tmp, name, spool->new, name, RENAME_NOREPLACE) == -1) {
        failed("renameat2()");
    }
}


static void
flush_directory(int fd)
{
    if (fsync(fd) == -1) {
        failed("fsync()");
    }
}


static void
commit(spool_t *spool)
{
    int   fd;
    char  name[NAME];

    fd = create(spool, name);
    put(fd);
    flush(fd);
    done(fd);
    publish(spool, name);
    flush_directory(spool->new);
}


static void
as_it_is(way_t *way)
{
    (void) way;

    commit(one);
}


static void
dsync(way_t *way)
{
    int           fd;
    char          name[NAME];
    struct iovec  iov;

    (void) way;

    fd = create(one, name);

    iov.iov_base = content;
    iov.iov_len = size;

    if (pwritev2(fd, &iov, 1, 0, RWF_DSYNC) != (ssize_t) size) {
        failed("pwritev2()");
    }

    done(fd);
    publish(one, name);
    flush_directory(one->new);
}


static void
tmpfile_linked(way_t *way)
{
    int   fd;
    char  name[NAME], path[NAME];

    fd = openat(one->new, ".", O_WRONLY|O_TMPFILE|O_CLOEXEC, 0600);

    if (fd == -1) {
        way->missing = 1;
        return;
    }

    put(fd);
    flush(fd);

    next_name(name);
    (void) snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);

    if (linkat(AT_FDCWD, path, one->new, name, AT_SYMLINK_FOLLOW) == -1) {
        failed("linkat()");
    }

    /* fdatasync() had no link to flush, and the directory has only the name */

    if (fsync(fd) == -1) {
        failed("fsync()");
    }

    done(fd);
    flush_directory(one->new);
}


static void
allocated(way_t *way)
{
    int   fd;
    char  name[NAME];

    fd = create(one, name);

    if (fallocate(fd, 0, 0, size) == -1) {
        way->missing = 1;
    }

    put(fd);
    flush(fd);
    done(fd);
    publish(one, name);
    flush_directory(one->new);
}


/* not in the time that is taken: the pool is filled when it is empty */

static void
fill(way_t *way)
{
    size_t   i;
    file_t  *file;

    for (i = 0; i < POOL; i++) {
        file = &pools[way->pool][i];
        file->fd = create(one, file->name);

        if (way->pool
            && fallocate(file->fd, FALLOC_FL_KEEP_SIZE, 0, size) == -1)
        {
            way->missing = 1;
        }
    }

    left[way->pool] = POOL;
}


static void
pooled(way_t *way)
{
    file_t  *file;

    file = &pools[way->pool][--left[way->pool]];

    put(file->fd);
    flush(file->fd);
    done(file->fd);
    publish(one, file->name);
    flush_directory(one->new);
}


/* what follows an error in a chain is not done */

static void
chain(way_t *way)
{
    int                   fd, i;
    char                  name[NAME];
    struct io_uring_sqe  *sqe;
    struct io_uring_cqe  *cqe;

    fd = create(one, name);

    sqe = io_uring_get_sqe(&ring);
    io_uring_prep_write(sqe, fd, content, size, 0);
    sqe->flags |= IOSQE_IO_LINK;

    sqe = io_uring_get_sqe(&ring);
    io_uring_prep_fsync(sqe, fd, IORING_FSYNC_DATASYNC);
    sqe->flags |= IOSQE_IO_LINK;

    sqe = io_uring_get_sqe(&ring);
    io_uring_prep_renameat(sqe, one->tmp, name, one->new, name,
                           RENAME_NOREPLACE);
    sqe->flags |= IOSQE_IO_LINK;

    sqe = io_uring_get_sqe(&ring);
    io_uring_prep_fsync(sqe, one->new, 0);

    if (io_uring_submit_and_wait(&ring, 4) != 4) {
        failed("io_uring_submit_and_wait()");
    }

    for (i = 0; i < 4; i++) {

        if (io_uring_peek_cqe(&ring, &cqe) != 0) {
            failed("io_uring_peek_cqe()");
        }

        if (cqe->res < 0) {
            errno = -cqe->res;
            failed("io_uring");
        }

        io_uring_cqe_seen(&ring, cqe);
    }

    (void) way;

    done(fd);
}


/* what the name of its own costs */

static void
appended(way_t *way)
{
    (void) way;

    put(log_fd);
    flush(log_fd);
}


static void *
another(void *data)
{
    for ( ;; ) {
        (void) pthread_barrier_wait(&begin);

        commit(&spools[1]);

        (void) pthread_barrier_wait(&end);
    }

    return data;
}


static void
pair_threads(way_t *way)
{
    (void) way;

    (void) pthread_barrier_wait(&begin);

    commit(one);

    (void) pthread_barrier_wait(&end);
}


static void
pair_in_turn(way_t *way)
{
    (void) way;

    commit(one);
    commit(&spools[1]);
}


static void
pair_syncfs(way_t *way)
{
    int   fd[2], i;
    char  name[2][NAME];

    (void) way;

    for (i = 0; i < 2; i++) {
        fd[i] = create(&spools[i], name[i]);
        put(fd[i]);
    }

    for (i = 0; i < 2; i++) {
        flush(fd[i]);
        done(fd[i]);
        publish(&spools[i], name[i]);
    }

    if (syncfs(one->new) == -1) {
        failed("syncfs()");
    }
}


static void
prepare(const char *path)
{
    int        i;
    pthread_t  thread;

    static const char *const names[2][2] = { { "tmp", "new" },
                                             { "tmp2", "new2" } };

    if (chdir(path) == -1) {
        failed("chdir()");
    }

    for (i = 0; i < 2; i++) {
        spools[i].tmp = directory(names[i][0]);
        spools[i].new = directory(names[i][1]);
    }

    log_fd = open("log", O_WRONLY|O_CREAT|O_TRUNC|O_APPEND|O_CLOEXEC, 0600);

    if (log_fd == -1) {
        failed("open()");
    }

    errno = -io_uring_queue_init(8, &ring, 0);

    if (errno) {
        failed("io_uring_queue_init()");
    }

    (void) pthread_barrier_init(&begin, NULL, 2);
    (void) pthread_barrier_init(&end, NULL, 2);

    errno = pthread_create(&thread, NULL, another, NULL);

    if (errno) {
        failed("pthread_create()");
    }
}


int
main(int argc, char **argv)
{
    way_t   *way;
    double   began, until;
    size_t   i, turn;

    if (argc != 4) {
        fprintf(stderr, "usage: ways DIRECTORY SIZE SECONDS\n");
        return 2;
    }

    size = strtoul(argv[2], NULL, 10);
    content = filled(size);

    prepare(argv[1]);

    until = now() + atof(argv[3]) * 1e6;

    /* the number of ways is a prime: in some turn each follows each other */

    for (turn = 0; turn == 0 || now() < until; turn++) {

        for (i = 0; i < NWAYS; i++) {
            way = &ways[(i * (turn % (NWAYS - 1) + 1) + turn) % NWAYS];

            if (way->missing) {
                continue;
            }

            if (way->commit == pooled && left[way->pool] == 0) {
                fill(way);
            }

            began = now();
            way->commit(way);
            way->times.us[way->times.n++] = now() - began;
        }
    }

    for (i = 0; i < NWAYS; i++) {

        if (ways[i].missing) {
            printf("- %s\n", ways[i].name);

        } else {
            printf("%.1f %s\n", quantile(&ways[i].times, 0.5), ways[i].name);
        }
    }

    return 0;
}
