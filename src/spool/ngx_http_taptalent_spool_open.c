
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/file.h>
#include <openssl/rand.h>
#include "ngx_http_taptalent_spool_private.h"


/* How a worker enters the spool: its directories, and the lock of its start. */


static ngx_int_t ngx_http_taptalent_spool_open_dirs(
    ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_spool_error_t *error);
static void ngx_http_taptalent_spool_open_permit(ngx_fd_t fd,
    ngx_uint_t access);
static ngx_int_t ngx_http_taptalent_spool_open_lock(
    ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_spool_error_t *error);


ngx_int_t
ngx_http_taptalent_spool_open(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log, ngx_http_taptalent_spool_error_t *error)
{
    ngx_int_t  rc;

    if (spool->opened) {
        return NGX_OK;
    }

    if (!spool->entered
        && ngx_http_taptalent_spool_open_dirs(spool, error) != NGX_OK)
    {
        ngx_http_taptalent_spool_close_dirs(spool);
        return NGX_ERROR;
    }

    rc = ngx_http_taptalent_spool_open_lock(spool, error);

    if (rc == NGX_OK) {
        spool->sequence = 0;
        spool->opened = 1;

    } else if (spool->entered) {

        /* the thread that forwards has the directories */
        return NGX_ERROR;

    } else if (error->err != NGX_ENOSPC && error->err != EDQUOT) {

        /* the next try opens them by their names again */

        ngx_http_taptalent_spool_close_dirs(spool);
        return NGX_ERROR;
    }

    spool->entered = 1;

    ngx_http_taptalent_spool_recover(spool, log);

    return rc;
}


static ngx_int_t
ngx_http_taptalent_spool_open_dirs(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_spool_error_t *error)
{
    char        *name;
    ngx_fd_t     fd;
    ngx_uint_t   i;

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {
        spool->fd[i] = NGX_INVALID_FILE;
    }

    /* the master has just made the directories in it, perhaps */

    fd = open((char *) spool->path.data,
              O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "open()",
                                               NGX_HTTP_TAPTALENT_DIRS);
    }

    if (spool->sync && fsync(fd) == -1) {
        (void) ngx_http_taptalent_spool_failed(error, ngx_errno,
                                               "fsync()",
                                               NGX_HTTP_TAPTALENT_DIRS);
        (void) ngx_close_file(fd);
        return NGX_ERROR;
    }

    (void) ngx_close_file(fd);

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {

        name = (char *) spool->dirs[i]->name.data;

        fd = open(name, O_RDONLY|O_DIRECTORY|O_NOFOLLOW|O_CLOEXEC);

        if (fd == NGX_INVALID_FILE) {
            return ngx_http_taptalent_spool_failed(error, ngx_errno, "open()",
                                                   i);
        }

        spool->fd[i] = fd;

        ngx_http_taptalent_spool_open_permit(fd, spool->access);
    }

    return NGX_OK;
}


/*
 * The directories are as open as the files in them.  A group that an operator
 * has given to a directory stays if the setgid bit says that it is meant.  The
 * worker owns the directories, so this fails only where somebody has set them
 * up otherwise, on purpose.
 */

static void
ngx_http_taptalent_spool_open_permit(ngx_fd_t fd, ngx_uint_t access)
{
    mode_t           mode;
    ngx_file_info_t  fi;

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        return;
    }

    if ((access & 0070) && fi.st_gid != getegid()
        && !(fi.st_mode & S_ISGID))
    {
        (void) !fchown(fd, -1, getegid());
    }

    mode = S_IRWXU | access | ((access & 0444) >> 2);

    if ((fi.st_mode & 0777) != mode) {
        (void) !fchmod(fd, (fi.st_mode & 07000) | mode);
    }
}


/*
 * The lock tells other starts that ours is alive.  They take the lock of a
 * dead start and unlink it.  One that finds the file before we have locked it
 * does the same, so look whether the file still has its name.
 */

static ngx_int_t
ngx_http_taptalent_spool_open_lock(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_spool_error_t *error)
{
    u_char           name[NGX_HTTP_TAPTALENT_LOCK_LEN];
    u_char           random[NGX_HTTP_TAPTALENT_START_LEN / 2];
    ngx_fd_t         fd;
    ngx_err_t        err;
    ngx_uint_t       i;
    ngx_file_info_t  fi;

    for (i = 0; i < NGX_HTTP_TAPTALENT_TRIES; i++) {

        if (RAND_bytes(random, sizeof(random)) != 1) {
            return ngx_http_taptalent_spool_failed(error, 0, "RAND_bytes()",
                                                   NGX_HTTP_TAPTALENT_TMP);
        }

        *ngx_hex_dump(spool->start, random, sizeof(random)) = '\0';
        ngx_http_taptalent_spool_name_lock(name, spool->start);

        fd = openat(spool->fd[NGX_HTTP_TAPTALENT_TMP], (char *) name,
                    O_RDWR|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);

        if (fd == NGX_INVALID_FILE) {

            if (ngx_errno == NGX_EEXIST) {
                continue;
            }

            return ngx_http_taptalent_spool_failed(error, ngx_errno,
                                                   "openat()",
                                                   NGX_HTTP_TAPTALENT_TMP);
        }

        err = 0;

        if (flock(fd, LOCK_EX|LOCK_NB) == -1
            || ngx_fd_info(fd, &fi) == NGX_FILE_ERROR)
        {
            err = ngx_errno;

        } else if (fi.st_nlink == 1) {
            spool->lock = fd;
            return NGX_OK;
        }

        (void) ngx_http_taptalent_spool_failed(error, err, "flock()",
                                               NGX_HTTP_TAPTALENT_TMP);

        /* a lock that another start has taken, or unlinked, is left to it */

        if (err && err != EWOULDBLOCK) {
            (void) unlinkat(spool->fd[NGX_HTTP_TAPTALENT_TMP], (char *) name,
                            0);
            (void) ngx_close_file(fd);
            return NGX_ERROR;
        }

        (void) ngx_close_file(fd);
    }

    return NGX_ERROR;
}
