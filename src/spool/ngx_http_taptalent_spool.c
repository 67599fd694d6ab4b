
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/statvfs.h>
#if (NGX_ZLIB)
#include <zlib.h>
#endif
#include "ngx_http_taptalent_spool_private.h"


/* What the other files of the spool are made of: each a call, and its error. */


/* the last one is the spool itself */

const char  *ngx_http_taptalent_spool_dirs[] = {
    "tmp", "new", "dead", "corrupt", ""
};


void
ngx_http_taptalent_spool_close(ngx_http_taptalent_spool_t *spool)
{
    u_char  name[NGX_HTTP_TAPTALENT_LOCK_LEN];

    if (!spool->entered) {
        return;
    }

    if (spool->opened) {
        ngx_http_taptalent_spool_name_lock(name, spool->start);

        (void) unlinkat(spool->fd[NGX_HTTP_TAPTALENT_TMP], (char *) name, 0);

        (void) ngx_close_file(spool->lock);
    }

    ngx_http_taptalent_spool_close_dirs(spool);

    spool->opened = 0;
}


void
ngx_http_taptalent_spool_close_dirs(ngx_http_taptalent_spool_t *spool)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {
        if (spool->fd[i] != NGX_INVALID_FILE) {
            (void) ngx_close_file(spool->fd[i]);
            spool->fd[i] = NGX_INVALID_FILE;
        }
    }

    spool->entered = 0;
}


DIR *
ngx_http_taptalent_spool_opendir(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_dir_e dir, ngx_http_taptalent_spool_error_t *error)
{
    DIR       *d;
    ngx_fd_t   fd;

    fd = openat(spool->fd[dir], ".", O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {
        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "openat()",
                                               dir);
        return NULL;
    }

    d = fdopendir(fd);

    if (d == NULL) {
        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "fdopendir()",
                                               dir);
        (void) ngx_close_file(fd);
    }

    return d;
}


ngx_int_t
ngx_http_taptalent_spool_readdir(DIR *d, u_char **name,
    ngx_http_taptalent_dir_e dir, ngx_http_taptalent_spool_error_t *error)
{
    struct dirent  *de;

    ngx_set_errno(0);

    de = readdir(d);

    if (de == NULL) {
        return ngx_errno ? ngx_http_taptalent_spool_failed(error, ngx_errno,
                                                           "readdir()", dir)
                         : NGX_DONE;
    }

    *name = (u_char *) de->d_name;

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_spool_rename(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_dir_e source, u_char *from,
    ngx_http_taptalent_dir_e dir, u_char *to,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_fd_t  old, fd;

    old = spool->fd[source];
    fd = spool->fd[dir];

#if (NGX_HTTP_TAPTALENT_HAVE_RENAMEAT2)

    if (renameat2(old, (char *) from, fd, (char *) to, RENAME_NOREPLACE)
        == 0)
    {
        return NGX_OK;
    }

    /* the kernel, or the filesystem, has not got it */

    if (ngx_errno != NGX_ENOSYS && ngx_errno != NGX_EINVAL) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno,
                                               "renameat2()", dir);
    }

#endif

    if (linkat(old, (char *) from, fd, (char *) to, 0) == -1) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "linkat()",
                                               dir);
    }

    /* if the old name stays, it does no harm: recovery will remove it */

    (void) unlinkat(old, (char *) from, 0);

    /*
     * Who watches the directory waits for a close: a name that appears may be
     * of a file that is still being written.
     */

    fd = openat(fd, (char *) to, O_WRONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (fd != NGX_INVALID_FILE) {
        (void) ngx_close_file(fd);
    }

    return NGX_OK;
}


/*
 * For fsync() of a directory XFS looks whether something of it is still to be
 * written.  When the filesystem has shut itself down, after an error in its
 * log, it has thrown that away: there is nothing to be written, and fsync()
 * returns 0.  fstat() returns EIO then.
 */

ngx_int_t
ngx_http_taptalent_spool_sync(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_dir_e dir, ngx_http_taptalent_spool_error_t *error)
{
    ngx_file_info_t  fi;

    if (!spool->sync) {
        return NGX_OK;
    }

    if (fsync(spool->fd[dir]) == -1) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "fsync()",
                                               dir);
    }

    if (ngx_fd_info(spool->fd[dir], &fi) == NGX_FILE_ERROR) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "fstat()",
                                               dir);
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_spool_append(ngx_fd_t fd, u_char *data, size_t len,
    ngx_http_taptalent_dir_e dir, ngx_http_taptalent_spool_error_t *error)
{
    ssize_t  n;

    while (len) {

        n = write(fd, data, len);

        if (n == -1) {

            if (ngx_errno == NGX_EINTR) {
                continue;
            }

            return ngx_http_taptalent_spool_failed(error, ngx_errno,
                                                   "write()", dir);
        }

        if (n == 0) {
            return ngx_http_taptalent_spool_failed(error, NGX_ENOSPC,
                                                   "write()", dir);
        }

        data += n;
        len -= n;
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_spool_load(ngx_fd_t fd, u_char *p, size_t len,
    size_t *loaded)
{
    ssize_t  n;

    *loaded = 0;

    while (*loaded < len) {

        n = read(fd, p + *loaded, len - *loaded);

        if (n == -1) {

            if (ngx_errno == NGX_EINTR) {
                continue;
            }

            return NGX_ERROR;
        }

        if (n == 0) {
            break;
        }

        *loaded += n;
    }

    return NGX_OK;
}


/* a link, a socket, or a file that the worker may not read */

ngx_uint_t
ngx_http_taptalent_spool_foreign(ngx_err_t err)
{
    return err == NGX_ELOOP || err == NGX_EACCES || err == ENXIO;
}


/* a regular file with one name, and of the user who is to have written it */

ngx_uint_t
ngx_http_taptalent_spool_ours(ngx_file_info_t *fi)
{
    return ngx_is_file(fi)
           && fi->st_nlink == 1
           && (fi->st_uid == geteuid() || fi->st_uid == 0);
}


/* zlib's is ten times as fast, but an nginx without gzip is without zlib */

uint32_t
ngx_http_taptalent_spool_crc32(u_char *data, size_t len)
{
#if (NGX_ZLIB)

    size_t    n;
    uint32_t  crc;

    crc = 0;

    while (len) {
        n = ngx_min(len, NGX_MAX_INT32_VALUE);
        crc = crc32(crc, data, n);

        data += n;
        len -= n;
    }

    return crc;

#else

    return ngx_crc32_long(data, len);

#endif
}


ngx_int_t
ngx_http_taptalent_spool_free(ngx_http_taptalent_spool_t *spool,
    off_t *bytes, uint64_t *inodes)
{
    struct statvfs  st;

    if (fstatvfs(spool->fd[NGX_HTTP_TAPTALENT_NEW], &st) == -1) {
        return NGX_ERROR;
    }

    *bytes = (off_t) st.f_bavail * st.f_frsize;
    *inodes = st.f_files ? (uint64_t) st.f_favail : NGX_MAX_UINT32_VALUE;

    return NGX_OK;
}


ngx_uint_t
ngx_http_taptalent_spool_broken(ngx_err_t err)
{
    switch (err) {

    case EIO:
    case EROFS:
#ifdef EUCLEAN
    case EUCLEAN:
#endif
        return 1;

    default:
        return 0;
    }
}


ngx_int_t
ngx_http_taptalent_spool_failed(ngx_http_taptalent_spool_error_t *error,
    ngx_err_t err, const char *call, ngx_uint_t dir)
{
    error->err = err;
    error->call = call;
    error->dir = ngx_http_taptalent_spool_dirs[dir];

    return NGX_ERROR;
}
