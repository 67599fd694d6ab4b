
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_spool_private.h"


/*
 * A file stays as it is until all its lines are done.  Which are is noted in a
 * sidecar beside it, which is written and not synced: kill -9 forgets nothing
 * of it, and after a power failure some events may be sent again.
 */


#define NGX_HTTP_TAPTALENT_NAMES  100  /* of one name, in corrupt/ */


/* what a sidecar says */

typedef struct {
    u_char           *done;        /* a bit for each line */
    ngx_uint_t        lines;
    uint32_t         *crc;         /* of the file, or NULL: of any */
    ngx_uint_t        bound;       /* it has the crc */
} ngx_http_taptalent_records_t;


static int ngx_http_taptalent_spool_done_forget(
    ngx_http_taptalent_spool_t *spool, u_char *name);
static ngx_int_t ngx_http_taptalent_spool_done_same(
    ngx_http_taptalent_spool_t *spool, u_char *name,
    ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error);
static ngx_int_t ngx_http_taptalent_spool_done_records(
    ngx_http_taptalent_spool_t *spool, u_char *name,
    ngx_http_taptalent_records_t *r, off_t max,
    ngx_http_taptalent_spool_error_t *error);
static ngx_int_t ngx_http_taptalent_spool_done_open(
    ngx_http_taptalent_spool_t *spool, u_char *name, off_t max, ngx_fd_t *file,
    ngx_http_taptalent_spool_error_t *error);
static ngx_int_t ngx_http_taptalent_spool_done_parse(ngx_fd_t fd,
    ngx_http_taptalent_records_t *r, ngx_http_taptalent_spool_error_t *error);
static ngx_int_t ngx_http_taptalent_spool_done_record(
    ngx_http_taptalent_records_t *r, u_char *text, size_t len);


ngx_int_t
ngx_http_taptalent_spool_done_note(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_content_t *content, u_char *text,
    size_t len, ngx_http_taptalent_spool_error_t *error)
{
    u_char     bound[NGX_HTTP_TAPTALENT_BOUND_LEN];
    u_char     sidecar[NGX_HTTP_TAPTALENT_SIDECAR_LEN];
    ngx_fd_t   fd;
    ngx_int_t  rc;

    rc = ngx_http_taptalent_spool_done_same(spool, name, content, error);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_http_taptalent_spool_name_sidecar(sidecar, name);

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) sidecar,
                O_WRONLY|O_CREAT|O_APPEND|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC,
                0600);

    if (fd == NGX_INVALID_FILE) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "openat()",
                                               NGX_HTTP_TAPTALENT_NEW);
    }

    if (!content->bound) {
        ngx_sprintf(bound, NGX_HTTP_TAPTALENT_BOUND_FORMAT, content->crc);

        rc = ngx_http_taptalent_spool_append(fd, bound, sizeof(bound),
                                             NGX_HTTP_TAPTALENT_NEW, error);
        content->bound = (rc == NGX_OK);
    }

    if (rc == NGX_OK) {
        rc = ngx_http_taptalent_spool_append(fd, text, len,
                                             NGX_HTTP_TAPTALENT_NEW, error);
    }

    (void) ngx_close_file(fd);

    return rc;
}


ngx_int_t
ngx_http_taptalent_spool_done_remove(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_fd_t   fd;
    ngx_int_t  rc;

    rc = ngx_http_taptalent_spool_done_same(spool, name, content, error);

    if (rc != NGX_OK) {
        return rc;
    }

    fd = spool->fd[NGX_HTTP_TAPTALENT_NEW];

    /* the file first: a sidecar alone says nothing */

    if (unlinkat(fd, (char *) name, 0) == -1 && ngx_errno != NGX_ENOENT) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "unlinkat()",
                                               NGX_HTTP_TAPTALENT_NEW);
    }

    (void) ngx_http_taptalent_spool_done_forget(spool, name);

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_spool_done_corrupt(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error)
{
    u_char      sidecar[NGX_HTTP_TAPTALENT_SIDECAR_LEN];
    u_char      to[NAME_MAX + NGX_INT_T_LEN + 2];
    ngx_int_t   rc;
    ngx_uint_t  i;

    rc = ngx_http_taptalent_spool_done_same(spool, name, content, error);

    if (rc != NGX_OK) {
        return rc;
    }

    ngx_http_taptalent_spool_name_corrupt(to, name, 0);

    rc = NGX_ERROR;

    for (i = 1; i < NGX_HTTP_TAPTALENT_NAMES; i++) {

        rc = ngx_http_taptalent_spool_rename(spool, NGX_HTTP_TAPTALENT_NEW,
                                             name, NGX_HTTP_TAPTALENT_CORRUPT,
                                             to, error);

        if (rc == NGX_OK || error->err != NGX_EEXIST) {
            break;
        }

        ngx_http_taptalent_spool_name_corrupt(to, name, i);
    }

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    error->err = 0;

    ngx_http_taptalent_spool_name_sidecar(sidecar, name);

    (void) renameat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) sidecar,
                    spool->fd[NGX_HTTP_TAPTALENT_CORRUPT], (char *) sidecar);

    return ngx_http_taptalent_spool_sync(spool, NGX_HTTP_TAPTALENT_CORRUPT,
                                         error);
}


ngx_uint_t
ngx_http_taptalent_spool_done_count(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_uint_t lines, uint32_t *crc, off_t max)
{
    ngx_uint_t                        i, n;
    ngx_http_taptalent_records_t      r;
    ngx_http_taptalent_spool_error_t  error;

    r.done = calloc(1, lines / 8 + 1);
    r.lines = lines;
    r.crc = crc;

    if (r.done == NULL) {
        return 0;
    }

    n = 0;

    if (ngx_http_taptalent_spool_done_records(spool, name, &r, max, &error)
        == NGX_OK)
    {
        for (i = 1; i <= lines; i++) {
            n += (r.done[i / 8] >> (i % 8)) & 1;
        }
    }

    ngx_free(r.done);

    return n;
}


ngx_int_t
ngx_http_taptalent_spool_done_read(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_int_t                     rc;
    ngx_http_taptalent_records_t  r;

    content->done = calloc(1, content->lines / 8 + 1);

    if (content->done == NULL) {
        (void) ngx_http_taptalent_spool_failed(error, NGX_ENOMEM, "calloc()",
                                               NGX_HTTP_TAPTALENT_NEW);
        return NGX_ABORT;
    }

    r.done = content->done;
    r.lines = content->lines;
    r.crc = &content->crc;

    rc = ngx_http_taptalent_spool_done_records(spool, name, &r,
                                               NGX_HTTP_TAPTALENT_FILE_MAX,
                                               error);

    if (rc == NGX_OK || rc == NGX_DECLINED) {
        content->bound = r.bound;
        return NGX_OK;
    }

    if (rc == NGX_ERROR) {

        /* what is done of this one must not be added to what was of another */

        ngx_memzero(content->done, content->lines / 8 + 1);
        content->bound = 0;

        if (ngx_http_taptalent_spool_done_forget(spool, name) == 0) {
            return NGX_OK;
        }

        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "unlinkat()",
                                               NGX_HTTP_TAPTALENT_NEW);
        rc = NGX_ABORT;
    }

    ngx_free(content->done);
    content->done = NULL;

    return rc;
}


/*
 * NGX_DECLINED if there is no sidecar, or none of ours, NGX_ERROR if it is of
 * another file.  NGX_ABORT if it cannot be read now, NGX_BUSY if it has more
 * bytes than "max": neither may be taken for no sidecar, or events that are
 * done would be sent again.
 */

static ngx_int_t
ngx_http_taptalent_spool_done_records(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_records_t *r, off_t max,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_fd_t   fd;
    ngx_int_t  rc;

    r->bound = 0;

    rc = ngx_http_taptalent_spool_done_open(spool, name, max, &fd, error);

    if (rc != NGX_OK) {
        return rc;
    }

    rc = ngx_http_taptalent_spool_done_parse(fd, r, error);

    (void) ngx_close_file(fd);

    return rc;
}


static ngx_int_t
ngx_http_taptalent_spool_done_open(ngx_http_taptalent_spool_t *spool,
    u_char *name, off_t max, ngx_fd_t *file,
    ngx_http_taptalent_spool_error_t *error)
{
    u_char           sidecar[NGX_HTTP_TAPTALENT_SIDECAR_LEN];
    ngx_fd_t         fd;
    ngx_int_t        rc;
    ngx_file_info_t  fi;

    ngx_http_taptalent_spool_name_sidecar(sidecar, name);

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) sidecar,
                O_RDONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {

        /* of a name that leaves no room for it there is none */

        if (ngx_errno == NGX_ENOENT || ngx_errno == NGX_ENAMETOOLONG
            || ngx_http_taptalent_spool_foreign(ngx_errno))
        {
            return NGX_DECLINED;
        }

        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "openat()",
                                               NGX_HTTP_TAPTALENT_NEW);
        return NGX_ABORT;
    }

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "fstat()",
                                               NGX_HTTP_TAPTALENT_NEW);
        rc = NGX_ABORT;

    } else if (!ngx_http_taptalent_spool_ours(&fi)) {
        rc = NGX_DECLINED;

    } else if (ngx_file_size(&fi) > max) {
        (void) ngx_http_taptalent_spool_failed(error, EFBIG, "read()",
                                               NGX_HTTP_TAPTALENT_NEW);
        rc = NGX_BUSY;

    } else {
        *file = fd;
        return NGX_OK;
    }

    (void) ngx_close_file(fd);

    return rc;
}


static ngx_int_t
ngx_http_taptalent_spool_done_parse(ngx_fd_t fd,
    ngx_http_taptalent_records_t *r, ngx_http_taptalent_spool_error_t *error)
{
    u_char  *p, *start, *last;
    size_t   n;
    u_char   buf[16384];

    /* a line that is longer than a record says nothing, nor does its end */

    start = buf;
    last = buf;

    for ( ;; ) {

        if (ngx_http_taptalent_spool_load(fd, last, buf + sizeof(buf) - last,
                                          &n)
            != NGX_OK)
        {
            (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "read()",
                                                   NGX_HTTP_TAPTALENT_NEW);
            return NGX_ABORT;
        }

        if (n == 0) {
            return NGX_OK;
        }

        p = last;
        last += n;

        for ( /* void */ ; p < last; p++) {

            if (*p != LF) {
                continue;
            }

            if (ngx_http_taptalent_spool_done_record(r, start, p - start)
                != NGX_OK)
            {
                return NGX_ERROR;
            }

            start = p + 1;
        }

        n = ngx_min(last - start, NGX_HTTP_TAPTALENT_DONE_LEN);

        ngx_memmove(buf, start, n);

        start = buf;
        last = buf + n;
    }
}


/*
 * A power failure may have left anything: only whole records count.
 * NGX_DECLINED if they are of another file.
 */

static ngx_int_t
ngx_http_taptalent_spool_done_record(ngx_http_taptalent_records_t *r,
    u_char *text, size_t len)
{
    uint32_t   crc;
    ngx_int_t  line;

    switch (len) {

    case NGX_HTTP_TAPTALENT_DONE_LEN - 2:

        line = ngx_atoi(text, len);

        if (line > 0 && (ngx_uint_t) line <= r->lines) {
            r->done[line / 8] |= 1 << (line % 8);
        }

        break;

    case NGX_HTTP_TAPTALENT_BOUND_LEN - 2:

        if (*text != '='
            || ngx_http_taptalent_spool_name_hex(text + 1, &crc) != NGX_OK)
        {
            break;
        }

        if (r->crc && crc != *r->crc) {
            return NGX_DECLINED;
        }

        r->bound = 1;
        break;
    }

    return NGX_OK;
}


/* somebody may have moved another file over the one that is being sent */

static ngx_int_t
ngx_http_taptalent_spool_done_same(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_fd_t         fd;
    ngx_file_info_t  fi;

    fd = spool->fd[NGX_HTTP_TAPTALENT_NEW];

    if (fstatat(fd, (char *) name, &fi, AT_SYMLINK_NOFOLLOW) == 0) {

        if (ngx_file_uniq(&fi) == content->uniq
            && ngx_file_mtime(&fi) == content->mtime
            && ngx_file_size(&fi) == content->size)
        {
            return NGX_OK;
        }

    } else if (ngx_errno != NGX_ENOENT) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "fstatat()",
                                               NGX_HTTP_TAPTALENT_NEW);
    }

    (void) ngx_http_taptalent_spool_done_forget(spool, name);

    return NGX_DECLINED;
}


static int
ngx_http_taptalent_spool_done_forget(ngx_http_taptalent_spool_t *spool,
    u_char *name)
{
    u_char  sidecar[NGX_HTTP_TAPTALENT_SIDECAR_LEN];

    ngx_http_taptalent_spool_name_sidecar(sidecar, name);

    return unlinkat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) sidecar, 0);
}
