
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_spool.h"


/*
 * How much waits in the spool, for those who look.  What is counted in memory
 * would be wrong after a crash, and of what was put there by hand.
 */


#define NGX_HTTP_TAPTALENT_OFTEN  1024  /* entries between two looks */

#define NGX_HTTP_TAPTALENT_OLDEST  256   /* files removed in one pass */

#define NGX_HTTP_TAPTALENT_TIME_LEN  (sizeof("20261123T081113.123Z-") - 1)


typedef struct {
    off_t    size;
    u_char   name[NAME_MAX + 1];
} ngx_http_taptalent_old_t;


/* the first ones, in order */

struct ngx_http_taptalent_oldest_s {
    ngx_uint_t                n;
    ngx_http_taptalent_old_t  files[NGX_HTTP_TAPTALENT_OLDEST];
};


typedef ngx_int_t (*ngx_http_taptalent_entry_pt)(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, size_t len);


static ngx_int_t ngx_http_taptalent_measure_dir(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_dir_e dir,
    ngx_http_taptalent_measure_t *m, ngx_http_taptalent_entry_pt handler,
    ngx_http_taptalent_spool_error_t *error);
static ngx_int_t ngx_http_taptalent_measure_new(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, size_t len);
static ngx_int_t ngx_http_taptalent_measure_dead(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, size_t len);
static ngx_int_t ngx_http_taptalent_measure_corrupt(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_measure_t *m,
    u_char *name, size_t len);
static void ngx_http_taptalent_measure_keep(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_oldest_t *oldest,
    u_char *name, size_t len, off_t size);
static ngx_uint_t ngx_http_taptalent_measure_refused(
    ngx_http_taptalent_spool_t *spool, u_char *name);
static ngx_uint_t ngx_http_taptalent_measure_events(u_char *name, size_t len);
static time_t ngx_http_taptalent_measure_time(u_char *name, size_t len);


#define ngx_http_taptalent_ends_with(name, len, s)                            \
    ((len) > sizeof(s) - 1                                                    \
     && ngx_strcmp((name) + (len) - (sizeof(s) - 1), s) == 0)


ngx_int_t
ngx_http_taptalent_spool_measure(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, ngx_http_taptalent_spool_error_t *error)
{
    ngx_int_t  rc;

    ngx_memzero(m, sizeof(ngx_http_taptalent_measure_t));

    rc = ngx_http_taptalent_measure_dir(spool, NGX_HTTP_TAPTALENT_NEW, m,
                                        ngx_http_taptalent_measure_new, error);
    if (rc != NGX_OK) {
        return rc;
    }

    /* a record may be there twice, or its file just be gone */

    m->events -= ngx_min(m->done, m->events);

    rc = ngx_http_taptalent_measure_dir(spool, NGX_HTTP_TAPTALENT_DEAD, m,
                                        ngx_http_taptalent_measure_dead,
                                        error);
    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_http_taptalent_measure_dir(spool, NGX_HTTP_TAPTALENT_CORRUPT, m,
                                        ngx_http_taptalent_measure_corrupt,
                                        error);
    if (rc != NGX_OK) {
        return rc;
    }

    if (ngx_http_taptalent_spool_free(spool, &m->free_bytes, &m->free_inodes)
        != NGX_OK)
    {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "fstatvfs()",
                                               NGX_HTTP_TAPTALENT_NEW);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_measure_dir(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_dir_e d, ngx_http_taptalent_measure_t *m,
    ngx_http_taptalent_entry_pt handler,
    ngx_http_taptalent_spool_error_t *error)
{
    DIR            *dir;
    ngx_fd_t        fd;
    ngx_int_t       rc;
    ngx_uint_t      n;
    struct dirent  *de;

    fd = openat(spool->fd[d], ".", O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "openat()",
                                               d);
    }

    dir = fdopendir(fd);

    if (dir == NULL) {
        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "fdopendir()",
                                               d);
        (void) ngx_close_file(fd);
        return NGX_ERROR;
    }

    for (n = 1; /* void */ ; n++) {

        if (n % NGX_HTTP_TAPTALENT_OFTEN == 0
            && (ngx_quit || ngx_terminate || ngx_exiting))
        {
            rc = NGX_ABORT;
            break;
        }

        ngx_set_errno(0);

        de = readdir(dir);

        if (de == NULL) {
            rc = ngx_errno ? ngx_http_taptalent_spool_failed(error, ngx_errno,
                                                             "readdir()", d)
                           : NGX_OK;
            break;
        }

        rc = handler(spool, m, (u_char *) de->d_name, ngx_strlen(de->d_name));

        if (rc != NGX_OK) {
            (void) ngx_http_taptalent_spool_failed(error, ngx_errno,
                                                   "fstatat()", d);
            break;
        }
    }

    (void) closedir(dir);

    return rc;
}


/* what is left alone, such as a directory, does not wait either */

static ngx_int_t
ngx_http_taptalent_measure_new(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, u_char *name, size_t len)
{
    time_t           came;
    ngx_uint_t       sidecar;
    ngx_file_info_t  fi;

    sidecar = ngx_http_taptalent_ends_with(name, len, ".ndjson.done");

    if (!sidecar && !ngx_http_taptalent_ends_with(name, len, ".ndjson")) {
        return NGX_OK;
    }

    if (fstatat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) name, &fi,
                AT_SYMLINK_NOFOLLOW)
        == -1)
    {
        /* it has just been taken */

        return (ngx_errno == NGX_ENOENT) ? NGX_OK : NGX_ERROR;
    }

    if (!ngx_is_file(&fi)) {
        return NGX_OK;
    }

    if (sidecar) {
        m->done += ngx_file_size(&fi) / NGX_HTTP_TAPTALENT_DONE_LEN;
        return NGX_OK;
    }

    if (m->keep) {
        ngx_http_taptalent_measure_keep(spool, m->keep, name, len,
                                        ngx_file_size(&fi));
    }

    m->files++;
    m->bytes += ngx_file_size(&fi);
    m->events += ngx_http_taptalent_measure_events(name, len);

    came = ngx_http_taptalent_measure_time(name, len);

    if (came == NGX_ERROR) {
        came = ngx_file_mtime(&fi);
    }

    if (m->oldest == 0 || came < m->oldest) {
        m->oldest = came;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_measure_dead(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, u_char *name, size_t len)
{
    m->dead += ngx_http_taptalent_ends_with(name, len, ".ndjson");

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_measure_corrupt(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, u_char *name, size_t len)
{
    m->corrupt += (name[0] != '.'
                   && !ngx_http_taptalent_ends_with(name, len, ".done"));

    return NGX_OK;
}


/*
 * Names sort by time; the oldest go, more of them with the next commit.  One
 * that is gone counts as removed: another worker removes the same ones, and
 * who finds them gone must not take more for it.
 */

off_t
ngx_http_taptalent_spool_trim(ngx_http_taptalent_spool_t *spool, off_t max)
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
    m.keep = oldest;

    rc = ngx_http_taptalent_measure_dir(spool, NGX_HTTP_TAPTALENT_NEW, &m,
                                        ngx_http_taptalent_measure_new,
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
ngx_http_taptalent_measure_keep(ngx_http_taptalent_spool_t *spool,
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

    if (!ngx_http_taptalent_measure_refused(spool, name)) {
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
 * Whether a quarantine has written the file, or it is gone, and so has been of
 * one.  The others stay: a spool under another name is none.
 */

static ngx_uint_t
ngx_http_taptalent_measure_refused(ngx_http_taptalent_spool_t *spool,
    u_char *name)
{
    ssize_t   n;
    ngx_fd_t  fd;
    u_char    buf[sizeof("{\"refused\":") - 1];

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) name,
                O_RDONLY|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {
        return (ngx_errno == NGX_ENOENT);
    }

    n = read(fd, buf, sizeof(buf));

    (void) ngx_close_file(fd);

    return n == (ssize_t) sizeof(buf)
           && ngx_strncmp(buf, "{\"refused\":", sizeof(buf)) == 0;
}


/* "...-<events>-<crc32>.ndjson" */

static ngx_uint_t
ngx_http_taptalent_measure_events(u_char *name, size_t len)
{
    u_char     *p, *last;
    ngx_int_t   n;

    if (len < sizeof("-1-01234567.ndjson")) {
        return 1;
    }

    last = name + len - (sizeof("-01234567.ndjson") - 1);

    if (*last != '-') {
        return 1;
    }

    for (p = last; p > name && p[-1] >= '0' && p[-1] <= '9'; p--) {
        /* void */
    }

    n = ngx_atoi(p, last - p);

    return (n < 1 || p == name || p[-1] != '-') ? 1 : n;
}


/* "20261123T081113.123Z-..." */

static time_t
ngx_http_taptalent_measure_time(u_char *name, size_t len)
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
