
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/file.h>
#include "ngx_http_taptalent_spool_private.h"


/* What waits in new/: who may take it, the names of the files, their lines. */


static ngx_uint_t ngx_http_taptalent_spool_read_cut(ngx_fd_t fd, off_t size);
static ngx_int_t ngx_http_taptalent_spool_read_check(u_char *name,
    ngx_http_taptalent_content_t *content);


ngx_fd_t
ngx_http_taptalent_spool_read_lock(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_fd_t  fd;

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_TMP],
                NGX_HTTP_TAPTALENT_FORWARD_LOCK,
                O_RDWR|O_CREAT|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC, 0600);

    if (fd == NGX_INVALID_FILE) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "openat()",
                                               NGX_HTTP_TAPTALENT_TMP);
    }

    if (flock(fd, LOCK_EX|LOCK_NB) == 0) {
        return fd;
    }

    if (ngx_errno == EWOULDBLOCK) {
        (void) ngx_close_file(fd);
        return NGX_DECLINED;
    }

    (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "flock()",
                                           NGX_HTTP_TAPTALENT_TMP);
    (void) ngx_close_file(fd);

    return NGX_ERROR;
}


ngx_int_t
ngx_http_taptalent_spool_read_names(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_scan_t *scan, ngx_http_taptalent_spool_error_t *error)
{
    size_t      len;
    u_char     *name, *end;
    u_char      file[NAME_MAX + 1];
    ngx_int_t   rc;

    scan->last = scan->names;
    end = scan->names + sizeof(scan->names);

    if (scan->dir == NULL) {

        scan->dir = ngx_http_taptalent_spool_opendir(spool,
                                                     NGX_HTTP_TAPTALENT_NEW,
                                                     error);
        if (scan->dir == NULL) {
            return NGX_ERROR;
        }
    }

    while (end - scan->last > NAME_MAX) {

        rc = ngx_http_taptalent_spool_readdir(scan->dir, &name,
                                              NGX_HTTP_TAPTALENT_NEW, error);

        if (rc != NGX_OK) {
            (void) closedir(scan->dir);
            scan->dir = NULL;

            if (rc == NGX_ERROR) {
                return NGX_ERROR;
            }

            break;
        }

        len = ngx_strlen(name);

        if (ngx_http_taptalent_spool_name_is_file(name, len)) {
            scan->last = ngx_cpymem(scan->last, name, len + 1);
            continue;
        }

        if (ngx_http_taptalent_spool_name_of_sidecar(file, name, len)
            != NGX_OK)
        {
            continue;
        }

        if (faccessat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) file, F_OK,
                      AT_SYMLINK_NOFOLLOW)
            == -1 && ngx_errno == NGX_ENOENT)
        {
            (void) unlinkat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) name,
                            0);
        }
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_spool_read(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_fd_t         fd;
    ngx_int_t        rc;
    ngx_file_info_t  fi;

    ngx_memzero(content, sizeof(ngx_http_taptalent_content_t));

    error->err = 0;

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_NEW], (char *) name,
                O_RDONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE) {

        if (ngx_errno == NGX_ENOENT) {
            return NGX_DECLINED;
        }

        if (ngx_http_taptalent_spool_foreign(ngx_errno)) {
            return NGX_BUSY;
        }

        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "openat()",
                                               NGX_HTTP_TAPTALENT_NEW);
        return NGX_ABORT;
    }

    if (ngx_fd_info(fd, &fi) == NGX_FILE_ERROR) {
        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "fstat()",
                                               NGX_HTTP_TAPTALENT_NEW);
        (void) ngx_close_file(fd);
        return NGX_ABORT;
    }

    if (!ngx_http_taptalent_spool_ours(&fi)) {
        (void) ngx_close_file(fd);
        return NGX_BUSY;
    }

    content->uniq = ngx_file_uniq(&fi);
    content->mtime = ngx_file_mtime(&fi);
    content->size = ngx_file_size(&fi);

    if (content->size > NGX_HTTP_TAPTALENT_FILE_MAX) {
        (void) ngx_http_taptalent_spool_failed(error, EFBIG, "read()",
                                               NGX_HTTP_TAPTALENT_NEW);
        (void) ngx_close_file(fd);
        return NGX_BUSY;
    }

    if (ngx_http_taptalent_spool_read_cut(fd, content->size)) {
        (void) ngx_close_file(fd);
        return NGX_ERROR;
    }

    content->data = malloc(content->size + 1);

    if (content->data == NULL) {
        (void) ngx_http_taptalent_spool_failed(error, NGX_ENOMEM, "malloc()",
                                               NGX_HTTP_TAPTALENT_NEW);
        (void) ngx_close_file(fd);
        return NGX_ABORT;
    }

    rc = ngx_http_taptalent_spool_load(fd, content->data, content->size,
                                       &content->len);
    if (rc != NGX_OK) {
        (void) ngx_http_taptalent_spool_failed(error, ngx_errno, "read()",
                                               NGX_HTTP_TAPTALENT_NEW);
    }

    (void) ngx_close_file(fd);

    if (rc == NGX_OK) {

        if (ngx_http_taptalent_spool_read_check(name, content) != NGX_OK) {
            rc = NGX_ERROR;

        } else {
            rc = ngx_http_taptalent_spool_done_read(spool, name, content,
                                                    error);
        }

    } else {
        rc = NGX_ABORT;
    }

    if (rc != NGX_OK) {
        ngx_free(content->data);
        content->data = NULL;
    }

    return rc;
}


/* whether it does not end with a line, for which it need not be read */

static ngx_uint_t
ngx_http_taptalent_spool_read_cut(ngx_fd_t fd, off_t size)
{
    u_char  c;

    return size == 0 || (pread(fd, &c, 1, size - 1) == 1 && c != LF);
}


static ngx_int_t
ngx_http_taptalent_spool_read_check(u_char *name,
    ngx_http_taptalent_content_t *content)
{
    u_char    *p, *end;
    uint32_t   crc;

    if (content->len == 0 || content->data[content->len - 1] != LF) {
        return NGX_ERROR;
    }

    end = content->data + content->len;

    for (p = content->data; p < end; p++) {
        content->lines += (*p == LF);
    }

    content->crc = ngx_http_taptalent_spool_crc32(content->data, content->len);

    if (ngx_http_taptalent_spool_name_crc(name, &crc) != NGX_OK) {
        return NGX_OK;
    }

    return (crc == content->crc) ? NGX_OK : NGX_ERROR;
}
