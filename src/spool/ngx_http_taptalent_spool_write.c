
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_spool_private.h"


/*
 * A commit is: create in tmp/, write, fdatasync(), close(), rename to new/,
 * fsync(new/).  Each step is there because without it something acknowledged
 * was lost to a power cut: without fdatasync() the name may come back with no
 * content, without fsync() of the directory the content with no name in new/.
 * A file is renamed only when it is complete, so that new/ holds whole files
 * alone, and whoever takes them needs no lock.
 *
 * After an error nothing is tried again with the same descriptor: the kernel
 * reports a failed writeback once, marks the pages clean, and a second
 * fsync() succeeds without the data.
 */


static void ngx_http_taptalent_spool_write_name(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_group_t *group,
    uint32_t crc, u_char *name);
static ngx_int_t ngx_http_taptalent_spool_write_create(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_group_t *group,
    uint32_t crc, u_char *name, ngx_http_taptalent_spool_error_t *error);
static ngx_int_t ngx_http_taptalent_spool_write_data(
    ngx_http_taptalent_spool_t *spool, ngx_fd_t fd,
    ngx_http_taptalent_group_t *group,
    ngx_http_taptalent_spool_error_t *error);


ngx_int_t
ngx_http_taptalent_spool_write(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group,
    ngx_http_taptalent_spool_error_t *error)
{
    u_char      from[NGX_HTTP_TAPTALENT_NAME_LEN];
    u_char      to[NGX_HTTP_TAPTALENT_NAME_LEN];
    uint32_t    crc;
    ngx_int_t   rc;
    ngx_uint_t  i;

    crc = ngx_http_taptalent_spool_crc32(group->data, group->len);

    if (ngx_http_taptalent_spool_write_create(spool, group, crc, from, error)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    ngx_memcpy(to, from, sizeof(from));

    rc = NGX_ERROR;

    for (i = 0; i < NGX_HTTP_TAPTALENT_TRIES; i++) {

        rc = ngx_http_taptalent_spool_rename(spool, NGX_HTTP_TAPTALENT_TMP,
                                             from, NGX_HTTP_TAPTALENT_NEW, to,
                                             error);

        if (rc == NGX_OK || error->err != NGX_EEXIST) {
            break;
        }

        ngx_http_taptalent_spool_write_name(spool, group, crc, to);
    }

    if (rc != NGX_OK) {
        (void) unlinkat(spool->fd[NGX_HTTP_TAPTALENT_TMP], (char *) from, 0);
        return NGX_ERROR;
    }

    /* the name is there: from here on an error leaves the file */

    return ngx_http_taptalent_spool_sync(spool, NGX_HTTP_TAPTALENT_NEW,
                                         error);
}


ngx_int_t
ngx_http_taptalent_spool_write_dead(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group, u_char *source, ngx_uint_t line,
    ngx_http_taptalent_spool_error_t *error)
{
    u_char    from[NGX_HTTP_TAPTALENT_NAME_LEN];
    u_char    to[NAME_MAX + 1];
    uint32_t  crc;

    /* without our lock, another start would remove it from tmp/ as left over */

    if (!spool->opened) {
        return ngx_http_taptalent_spool_failed(error, ENOLCK, "flock()",
                                               NGX_HTTP_TAPTALENT_TMP);
    }

    crc = ngx_http_taptalent_spool_crc32(group->data, group->len);

    ngx_http_taptalent_spool_name_dead(to, source, line, crc);

    if (ngx_http_taptalent_spool_write_create(spool, group, crc, from, error)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_taptalent_spool_rename(spool, NGX_HTTP_TAPTALENT_TMP, from,
                                        NGX_HTTP_TAPTALENT_DEAD, to, error)
        != NGX_OK)
    {
        (void) unlinkat(spool->fd[NGX_HTTP_TAPTALENT_TMP], (char *) from, 0);

        /* a file with this name has these bytes, and is there already */

        if (error->err != NGX_EEXIST) {
            return NGX_ERROR;
        }
    }

    return ngx_http_taptalent_spool_sync(spool, NGX_HTTP_TAPTALENT_DEAD,
                                         error);
}


/* makes a whole and durable file in tmp/; after an error there is none */

static ngx_int_t
ngx_http_taptalent_spool_write_create(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group, uint32_t crc, u_char *name,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_fd_t    tmp, fd;
    ngx_int_t   rc;
    ngx_uint_t  i;

    tmp = spool->fd[NGX_HTTP_TAPTALENT_TMP];
    fd = NGX_INVALID_FILE;

    for (i = 0; i < NGX_HTTP_TAPTALENT_TRIES; i++) {

        ngx_http_taptalent_spool_write_name(spool, group, crc, name);

        fd = openat(tmp, (char *) name,
                    O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC, 0600);

        if (fd != NGX_INVALID_FILE || ngx_errno != NGX_EEXIST) {
            break;
        }
    }

    if (fd == NGX_INVALID_FILE) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "openat()",
                                               NGX_HTTP_TAPTALENT_TMP);
    }

    rc = ngx_http_taptalent_spool_write_data(spool, fd, group, error);

    if (ngx_close_file(fd) == NGX_FILE_ERROR && rc == NGX_OK) {
        rc = ngx_http_taptalent_spool_failed(error, ngx_errno, "close()",
                                             NGX_HTTP_TAPTALENT_TMP);
    }

    if (rc != NGX_OK) {
        (void) unlinkat(tmp, (char *) name, 0);
    }

    return rc;
}


static void
ngx_http_taptalent_spool_write_name(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group, uint32_t crc, u_char *name)
{
    uint64_t  sequence;

    sequence = (uint64_t) ngx_atomic_fetch_add(&spool->sequence, 1) + 1;

    ngx_http_taptalent_spool_name(name, spool->start, sequence, group->events,
                                  crc);
}


static ngx_int_t
ngx_http_taptalent_spool_write_data(ngx_http_taptalent_spool_t *spool,
    ngx_fd_t fd, ngx_http_taptalent_group_t *group,
    ngx_http_taptalent_spool_error_t *error)
{
    /* open() has made it 0600, or less with an odd umask */

    if (spool->access != 0600
        && fchmod(fd, spool->access) == -1)
    {
        return ngx_http_taptalent_spool_failed(error, ngx_errno, "fchmod()",
                                               NGX_HTTP_TAPTALENT_TMP);
    }

    if (ngx_http_taptalent_spool_append(fd, group->data, group->len,
                                        NGX_HTTP_TAPTALENT_TMP, error)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (spool->sync && fdatasync(fd) == -1) {
        return ngx_http_taptalent_spool_failed(error, ngx_errno,
                                               "fdatasync()",
                                               NGX_HTTP_TAPTALENT_TMP);
    }

    return NGX_OK;
}
