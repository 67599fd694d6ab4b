
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_line.h"
#include "ngx_http_taptalent_spool_private.h"


/*
 * How much waits in the spool, for those who look.  A counter in memory would
 * be wrong after a crash, and would miss what is put there by hand.
 *
 * Somebody may wait for 0, so the result is never less than what waits: notes
 * of lines that are done count only for the file that they were written for,
 * and each file that is there has at least one line that is not done.
 */


#define NGX_HTTP_TAPTALENT_OFTEN  1024  /* entries between two looks */

#define NGX_HTTP_TAPTALENT_COUNTED  4096      /* files that are remembered */
#define NGX_HTTP_TAPTALENT_PROBES   8         /* places for each of them */
#define NGX_HTTP_TAPTALENT_BUDGET   16777216  /* bytes to be read in one call */
#define NGX_HTTP_TAPTALENT_DONE_MAX  16777216  /* of a sidecar */

#define NGX_HTTP_TAPTALENT_OLDEST  256   /* files removed in one pass */


typedef struct {
    off_t    size;
    u_char   name[NAME_MAX + 1];
} ngx_http_taptalent_old_t;


/* the first ones by name, in order */

struct ngx_http_taptalent_oldest_s {
    ngx_uint_t                n;
    ngx_http_taptalent_old_t  files[NGX_HTTP_TAPTALENT_OLDEST];
};


/* a file whose name says nothing; "last" is the call that has seen it */

typedef struct {
    ngx_file_uniq_t  uniq;
    time_t           mtime;
    off_t            size;
    off_t            read;        /* of it */
    uint64_t         lines;       /* in that */
    ngx_uint_t       last;
} ngx_http_taptalent_count_t;


struct ngx_http_taptalent_counted_s {
    ngx_uint_t                  call;
    off_t                       budget;
    ngx_http_taptalent_count_t  files[NGX_HTTP_TAPTALENT_COUNTED];
};


typedef ngx_int_t (*ngx_http_taptalent_entry_pt)(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, size_t len);


static ngx_int_t ngx_http_taptalent_spool_measure_dir(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_dir_e dir,
    ngx_http_taptalent_measure_t *m, ngx_http_taptalent_entry_pt handler,
    ngx_http_taptalent_spool_error_t *error);
static ngx_int_t ngx_http_taptalent_spool_measure_new(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, size_t len);
static ngx_int_t ngx_http_taptalent_spool_measure_dead(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, size_t len);
static ngx_int_t ngx_http_taptalent_spool_measure_corrupt(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, size_t len);
static void ngx_http_taptalent_spool_measure_oldest(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_oldest_t *oldest,
    u_char *name, size_t len, off_t size);
static ngx_uint_t ngx_http_taptalent_spool_measure_refused(
    ngx_http_taptalent_spool_t *spool, u_char *name);
static uint64_t ngx_http_taptalent_spool_measure_events(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, ngx_file_info_t *fi);
static uint64_t ngx_http_taptalent_spool_measure_lines(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_counted_t *counted,
    u_char *name, ngx_file_info_t *fi);
static ngx_http_taptalent_count_t *ngx_http_taptalent_spool_measure_place(
    ngx_http_taptalent_counted_t *counted, ngx_file_info_t *fi);
static void ngx_http_taptalent_spool_measure_read(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_counted_t *counted,
    ngx_http_taptalent_count_t *count, u_char *name);


ngx_int_t
ngx_http_taptalent_spool_measure(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, ngx_http_taptalent_counted_t **counted)
{
    ngx_uint_t                         i;
    ngx_http_taptalent_spool_error_t  *error;

    static const struct {
        ngx_http_taptalent_dir_e       dir;
        ngx_http_taptalent_entry_pt    handler;
    } dirs[] = {
        { NGX_HTTP_TAPTALENT_NEW, ngx_http_taptalent_spool_measure_new },
        { NGX_HTTP_TAPTALENT_DEAD, ngx_http_taptalent_spool_measure_dead },
        { NGX_HTTP_TAPTALENT_CORRUPT, ngx_http_taptalent_spool_measure_corrupt }
    };

    ngx_memzero(m, sizeof(ngx_http_taptalent_measure_t));

    /* without memory each counts as one event */

    if (*counted == NULL) {
        *counted = calloc(1, sizeof(ngx_http_taptalent_counted_t));
    }

    m->counted = *counted;

    if (m->counted) {
        m->counted->call++;
        m->counted->budget = NGX_HTTP_TAPTALENT_BUDGET;
    }

    for (i = 0; i < sizeof(dirs) / sizeof(dirs[0]); i++) {

        if (ngx_http_taptalent_spool_measure_dir(spool, dirs[i].dir, m,
                                                 dirs[i].handler, &m->errors[i])
            == NGX_ABORT)
        {
            return NGX_ABORT;
        }
    }

    error = &m->errors[NGX_HTTP_TAPTALENT_MEASURE_FREE];

    if (ngx_http_taptalent_spool_free(spool, &m->free_bytes, &m->free_inodes)
        != NGX_OK)
    {
        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "fstatvfs()",
                                               NGX_HTTP_TAPTALENT_NEW);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_spool_measure_dir(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_dir_e d, ngx_http_taptalent_measure_t *m,
    ngx_http_taptalent_entry_pt handler,
    ngx_http_taptalent_spool_error_t *error)
{
    DIR         *dir;
    u_char      *name;
    ngx_int_t    rc;
    ngx_uint_t   n;

    dir = ngx_http_taptalent_spool_opendir(spool, d, error);

    if (dir == NULL) {
        return NGX_ERROR;
    }

    for (n = 1; /* void */ ; n++) {

        if (n % NGX_HTTP_TAPTALENT_OFTEN == 0
            && (ngx_quit || ngx_terminate || ngx_exiting))
        {
            rc = NGX_ABORT;
            break;
        }

        rc = ngx_http_taptalent_spool_readdir(dir, &name, d, error);

        if (rc != NGX_OK) {
            break;
        }

        rc = handler(spool, m, name, ngx_strlen(name));

        if (rc != NGX_OK) {
            (void) ngx_http_taptalent_spool_failed(error, ngx_errno,
                                                   "fstatat()", d);
            break;
        }
    }

    (void) closedir(dir);

    return (rc == NGX_DONE) ? NGX_OK : rc;
}


/* what forwarding leaves alone, such as a directory, does not wait either */

static ngx_int_t
ngx_http_taptalent_spool_measure_new(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, u_char *name, size_t len)
{
    time_t           came;
    ngx_file_info_t  fi;

    if (!ngx_http_taptalent_spool_name_is_file(name, len)) {
        return NGX_OK;
    }

    if (fstatat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) name, &fi,
                AT_SYMLINK_NOFOLLOW)
        == -1)
    {
        if (ngx_errno == NGX_ENOENT) {
            /* it has just been taken */
            return NGX_OK;
        }

        if (!ngx_http_taptalent_spool_broken(ngx_errno)
            && ngx_errno != EBADMSG)
        {
            return NGX_ERROR;
        }

        /* this one is damaged, and it is there */

        m->files++;
        m->events++;

        return NGX_OK;
    }

    if (!ngx_is_file(&fi)) {
        return NGX_OK;
    }

    if (m->trim) {
        ngx_http_taptalent_spool_measure_oldest(spool, m->trim, name, len,
                                                ngx_file_size(&fi));
    }

    m->files++;
    m->bytes += ngx_file_size(&fi);
    m->events += ngx_http_taptalent_spool_measure_events(spool, m, name, &fi);

    came = ngx_http_taptalent_spool_name_time(name, len);

    if (came == NGX_ERROR) {
        came = ngx_file_mtime(&fi);
    }

    if (m->oldest == 0 || came < m->oldest) {
        m->oldest = came;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_spool_measure_dead(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, u_char *name, size_t len)
{
    m->dead += ngx_http_taptalent_spool_name_is_file(name, len);

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_spool_measure_corrupt(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, u_char *name, size_t len)
{
    m->corrupt += (name[0] != '.'
                   && !ngx_http_taptalent_spool_name_is_sidecar(name, len));

    return NGX_OK;
}


/*
 * Names sort by time.  The oldest files go now, more of them after the next
 * commit.  A file that is gone already counts as removed: another worker
 * removes the same files at the same time, and this one must not remove newer
 * ones instead.
 */

off_t
ngx_http_taptalent_spool_measure_trim(ngx_http_taptalent_spool_t *spool,
    off_t max)
{
    ngx_fd_t                           fd;
    ngx_int_t                          rc;
    ngx_uint_t                         i;
    ngx_http_taptalent_oldest_t       *oldest;
    ngx_http_taptalent_measure_t       m;
    ngx_http_taptalent_spool_error_t   error;

    oldest = malloc(sizeof(ngx_http_taptalent_oldest_t));
    if (oldest == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(&m, sizeof(ngx_http_taptalent_measure_t));

    oldest->n = 0;
    m.trim = oldest;

    rc = ngx_http_taptalent_spool_measure_dir(spool, NGX_HTTP_TAPTALENT_NEW, &m,
                                         ngx_http_taptalent_spool_measure_new,
                                         &error);

    if (rc == NGX_OK && (off_t) m.bytes > max) {

        fd = spool->fd[NGX_HTTP_TAPTALENT_NEW];

        /* the last of them may be the newest: it stays, however large it is */

        for (i = 0;
             i + 1 < oldest->n && (off_t) m.bytes > max - max / 10;
             i++)
        {
            if (unlinkat(fd, (char *) oldest->files[i].name, 0) == 0
                || ngx_errno == NGX_ENOENT)
            {
                m.bytes -= oldest->files[i].size;
            }
        }
    }

    ngx_free(oldest);

    return (rc == NGX_OK) ? (off_t) m.bytes : NGX_ERROR;
}


static void
ngx_http_taptalent_spool_measure_oldest(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_oldest_t *oldest, u_char *name, size_t len, off_t size)
{
    ngx_uint_t                 i;
    ngx_http_taptalent_old_t  *files;

    files = oldest->files;

    if (oldest->n == NGX_HTTP_TAPTALENT_OLDEST
        && ngx_strcmp(name, files[oldest->n - 1].name) > 0)
    {
        return;
    }

    if (!ngx_http_taptalent_spool_measure_refused(spool, name)) {
        return;
    }

    if (oldest->n == NGX_HTTP_TAPTALENT_OLDEST) {
        oldest->n--;
    }

    for (i = oldest->n; i > 0; i--) {

        if (ngx_strcmp(files[i - 1].name, name) < 0) {
            break;
        }

        files[i] = files[i - 1];
    }

    ngx_memcpy(files[i].name, name, len + 1);
    files[i].size = size;

    oldest->n++;
}


/*
 * True if a quarantine has written the file, or if the file is gone: then
 * another worker has removed it as such.  All other files stay, in case the
 * path of a quarantine leads to a spool.
 */

static ngx_uint_t
ngx_http_taptalent_spool_measure_refused(ngx_http_taptalent_spool_t *spool,
    u_char *name)
{
    ssize_t   n;
    ngx_fd_t  fd;
    u_char    buf[NGX_HTTP_TAPTALENT_REFUSED_LEN];

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) name,
                O_RDONLY|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {
        return (ngx_errno == NGX_ENOENT);
    }

    n = read(fd, buf, sizeof(buf));

    (void) ngx_close_file(fd);

    return n > 0 && ngx_http_taptalent_line_is_refused(buf, n);
}


/* at least one: a file whose lines are all done would be gone */

static uint64_t
ngx_http_taptalent_spool_measure_events(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, u_char *name, ngx_file_info_t *fi)
{
    uint32_t   crc;
    uint64_t   events, done;
    ngx_int_t  named;

    named = ngx_http_taptalent_spool_name_events(name, &crc);

    if (named > 0) {
        events = named;

    } else {
        events = ngx_http_taptalent_spool_measure_lines(spool, m->counted, name,
                                                        fi);
    }

    /* no line is shorter than this, whatever a name says */

    events = ngx_min(events, (uint64_t) ngx_file_size(fi) / 2);

    if (events <= 1) {
        return 1;
    }

    if (events > NGX_HTTP_TAPTALENT_DONE_MAX) {
        return events;
    }

    done = ngx_http_taptalent_spool_done_count(spool, name, events,
                                               (named > 0) ? &crc : NULL,
                                               NGX_HTTP_TAPTALENT_DONE_MAX);

    return ngx_max(events - done, 1);
}


static uint64_t
ngx_http_taptalent_spool_measure_lines(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_counted_t *counted, u_char *name, ngx_file_info_t *fi)
{
    ngx_http_taptalent_count_t  *count;

    if (counted == NULL || ngx_file_size(fi) > NGX_HTTP_TAPTALENT_FILE_MAX) {
        return 1;
    }

    count = ngx_http_taptalent_spool_measure_place(counted, fi);

    if (count == NULL) {
        return 1;
    }

    count->last = counted->call;

    if (count->read < count->size && counted->budget > 0) {
        ngx_http_taptalent_spool_measure_read(spool, counted, count, name);
    }

    return count->lines;
}


/* the entry of the file, or one whose file is gone; NULL if there is no room */

static ngx_http_taptalent_count_t *
ngx_http_taptalent_spool_measure_place(ngx_http_taptalent_counted_t *counted,
    ngx_file_info_t *fi)
{
    uint32_t                     hash;
    ngx_uint_t                   i;
    ngx_file_uniq_t              uniq;
    ngx_http_taptalent_count_t  *count, *found;

    uniq = ngx_file_uniq(fi);
    hash = ngx_murmur_hash2((u_char *) &uniq, sizeof(ngx_file_uniq_t));
    found = NULL;

    for (i = 0; i < NGX_HTTP_TAPTALENT_PROBES; i++) {

        count = &counted->files[(hash + i) % NGX_HTTP_TAPTALENT_COUNTED];

        if (count->last && count->uniq == uniq
            && count->mtime == ngx_file_mtime(fi)
            && count->size == ngx_file_size(fi))
        {
            return count;
        }

        if (found == NULL
            && (count->last == 0 || count->last + 1 < counted->call))
        {
            found = count;
        }
    }

    if (found) {
        ngx_memzero(found, sizeof(ngx_http_taptalent_count_t));

        found->uniq = uniq;
        found->mtime = ngx_file_mtime(fi);
        found->size = ngx_file_size(fi);
    }

    return found;
}


/* goes on where the call before has ended; what cannot be read has no lines */

static void
ngx_http_taptalent_spool_measure_read(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_counted_t *counted, ngx_http_taptalent_count_t *count,
    u_char *name)
{
    u_char           *p;
    ssize_t           n;
    ngx_fd_t          fd;
    ngx_file_info_t   fi;
    u_char            buf[16384];

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) name,
                O_RDONLY|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {

        if (ngx_errno != NGX_EMFILE && ngx_errno != NGX_ENFILE) {
            count->read = count->size;
        }

        return;
    }

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR
        || ngx_file_uniq(&fi) != count->uniq)
    {
        count->read = count->size;
    }

    while (count->read < count->size && counted->budget > 0
           && !ngx_quit && !ngx_terminate && !ngx_exiting)
    {
        n = pread(fd, buf, sizeof(buf), count->read);

        if (n <= 0) {
            count->read = count->size;
            break;
        }

        for (p = buf; p < buf + n; p++) {
            count->lines += (*p == LF);
        }

        count->read += n;
        counted->budget -= n;
    }

    (void) ngx_close_file(fd);
}
