
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/file.h>
#include "ngx_http_taptalent_spool_private.h"


#define NGX_HTTP_TAPTALENT_PATIENCE  200  /* times 10 ms, for a lock */


static ngx_fd_t ngx_http_taptalent_spool_recover_dead(
    ngx_http_taptalent_spool_t *spool, u_char *start);
static ngx_fd_t ngx_http_taptalent_spool_recover_lock(
    ngx_http_taptalent_spool_t *spool);


/*
 * What is in tmp/ was never acknowledged.  A file is removed only if the start
 * that wrote it is dead; its lock tells that, its age does not.  Names that are
 * not ours stay.
 */

void
ngx_http_taptalent_spool_recover(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    DIR                               *dir;
    u_char                            *name, *start;
    ngx_fd_t                           fd, lock;
    ngx_uint_t                         removed;
    ngx_http_taptalent_spool_error_t   error;

    dir = ngx_http_taptalent_spool_opendir(spool, NGX_HTTP_TAPTALENT_TMP,
                                           &error);

    if (dir == NULL) {
        ngx_log_error(NGX_LOG_CRIT, log, error.err,
                      "opendir() \"%V/tmp\" failed", &spool->path);
        return;
    }

    lock = ngx_http_taptalent_spool_recover_lock(spool);

    removed = 0;

    /* what is not read now is left for the next start */

    while (ngx_http_taptalent_spool_readdir(dir, &name, NGX_HTTP_TAPTALENT_TMP,
                                            &error)
           == NGX_OK)
    {
        start = ngx_http_taptalent_spool_name_start(name);

        if (start == NULL
            || ngx_memcmp(start, spool->start, NGX_HTTP_TAPTALENT_START_LEN)
               == 0)
        {
            continue;
        }

        fd = ngx_http_taptalent_spool_recover_dead(spool, start);

        if (fd == NGX_ERROR) {
            continue;
        }

        if (unlinkat(spool->fd[NGX_HTTP_TAPTALENT_TMP], (char *) name, 0) == 0)
        {
            removed += (start != name);
        }

        if (fd != NGX_DECLINED) {
            (void) ngx_close_file(fd);
        }
    }

    (void) closedir(dir);

    if (lock != NGX_INVALID_FILE) {
        (void) unlinkat(spool->fd[NGX_HTTP_TAPTALENT_TMP],
                        NGX_HTTP_TAPTALENT_RECOVER_LOCK, 0);
        (void) ngx_close_file(lock);
    }

    if (removed) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "removed %ui unfinished files of dead workers "
                      "from \"%V/tmp\"", removed, &spool->path);
    }
}


/*
 * One worker at a time recovers: of two, each would hold locks that the other
 * tries, and take the start for alive.  It is not a lock of the directory,
 * which anybody could take who may read that.  If the disk is full or somebody
 * does not release the lock, recovery goes on without it: a file may be left
 * for the next start, which is better than a worker that does not begin.
 */

static ngx_fd_t
ngx_http_taptalent_spool_recover_lock(ngx_http_taptalent_spool_t *spool)
{
    ngx_fd_t         fd;
    ngx_err_t        err;
    ngx_uint_t       i;
    ngx_file_info_t  fi;

    for (i = 0; i < NGX_HTTP_TAPTALENT_PATIENCE; i++) {

        fd = openat(spool->fd[NGX_HTTP_TAPTALENT_TMP],
                    NGX_HTTP_TAPTALENT_RECOVER_LOCK,
                    O_RDWR|O_CREAT|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC, 0600);

        if (fd == NGX_INVALID_FILE) {
            return NGX_INVALID_FILE;
        }

        err = (flock(fd, LOCK_EX|LOCK_NB) == -1
               || ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) ? ngx_errno : 0;

        if (err == 0 && fi.st_nlink) {
            return fd;
        }

        /* the worker that had it has unlinked it: all who wait begin anew */

        if (err == EWOULDBLOCK) {
            ngx_msleep(10);
        }

        (void) ngx_close_file(fd);

        if (err && err != EWOULDBLOCK) {
            break;
        }
    }

    return NGX_INVALID_FILE;
}


/*
 * Returns a descriptor that holds the lock of a dead start, NGX_DECLINED if it
 * is dead and its lock is gone, NGX_ERROR if it lives, or may live.
 */

static ngx_fd_t
ngx_http_taptalent_spool_recover_dead(ngx_http_taptalent_spool_t *spool,
    u_char *start)
{
    u_char    name[NGX_HTTP_TAPTALENT_LOCK_LEN];
    ngx_fd_t  fd;

    ngx_http_taptalent_spool_name_lock(name, start);

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_TMP], (char *) name,
                O_RDWR|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {
        return (ngx_errno == NGX_ENOENT) ? NGX_DECLINED : NGX_ERROR;
    }

    if (flock(fd, LOCK_EX|LOCK_NB) == -1) {
        (void) ngx_close_file(fd);
        return NGX_ERROR;
    }

    return fd;
}
