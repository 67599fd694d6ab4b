
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_SPOOL_PRIVATE_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_SPOOL_PRIVATE_H_INCLUDED_


#include "ngx_http_taptalent_spool.h"


/* What the files of the spool share, and nobody else calls. */


#define NGX_HTTP_TAPTALENT_TRIES  16  /* of a name */


/* closes what was opened, the lock excepted */
void ngx_http_taptalent_spool_close_dirs(ngx_http_taptalent_spool_t *spool);

/*
 * Opens a directory of the spool to be read, for closedir() in the end.  NULL
 * with *error set.
 */
DIR *ngx_http_taptalent_spool_opendir(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_dir_e dir, ngx_http_taptalent_spool_error_t *error);

/*
 * Sets *name to the next name in it, which stays until the next call.  NGX_DONE
 * after the last one, NGX_ERROR with *error set.
 */
ngx_int_t ngx_http_taptalent_spool_readdir(DIR *d, u_char **name,
    ngx_http_taptalent_dir_e dir, ngx_http_taptalent_spool_error_t *error);

/* a rename from one directory to another that replaces nothing */
ngx_int_t ngx_http_taptalent_spool_rename(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_dir_e source, u_char *from,
    ngx_http_taptalent_dir_e dir, u_char *to,
    ngx_http_taptalent_spool_error_t *error);

/* makes the names in a directory durable, unless the spool has sync=off */
ngx_int_t ngx_http_taptalent_spool_sync(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_dir_e dir, ngx_http_taptalent_spool_error_t *error);

/* the checksum of a name: that of zlib, and of ISO 3309 */
uint32_t ngx_http_taptalent_spool_crc32(u_char *data, size_t len);

/* writes all of it, to a file in that directory, which is for *error */
ngx_int_t ngx_http_taptalent_spool_append(ngx_fd_t fd, u_char *data,
    size_t len, ngx_http_taptalent_dir_e dir,
    ngx_http_taptalent_spool_error_t *error);

/*
 * Reads to the end of a file, "len" bytes at most, and sets *loaded to how many
 * these were.  NGX_ERROR with errno.
 */
ngx_int_t ngx_http_taptalent_spool_load(ngx_fd_t fd, u_char *p, size_t len,
    size_t *loaded);

/* true for the error of a link, a socket, or a file the worker may not read */
ngx_uint_t ngx_http_taptalent_spool_foreign(ngx_err_t err);

/* true for a regular file with one name, of the user of the workers or root */
ngx_uint_t ngx_http_taptalent_spool_ours(ngx_file_info_t *fi);

/*
 * Removes from tmp/ what dead starts have left behind; logs what it has
 * removed, and that it cannot look.
 */
void ngx_http_taptalent_spool_recover(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log);

/*
 * Sets content->done and content->bound from the sidecar of the file, whose
 * content has been read; as ngx_http_taptalent_spool_read().  content->done is
 * of malloc().
 */
ngx_int_t ngx_http_taptalent_spool_done_read(
    ngx_http_taptalent_spool_t *spool, u_char *name,
    ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error);

/*
 * How many of the "lines" of a file of new/ are done, as its sidecar says, if
 * that has at most "max" bytes, can be read, and is of "crc", or "crc" is NULL.
 */
ngx_uint_t ngx_http_taptalent_spool_done_count(
    ngx_http_taptalent_spool_t *spool, u_char *name, ngx_uint_t lines,
    uint32_t *crc, off_t max);


#endif /* _NGX_HTTP_TAPTALENT_SPOOL_PRIVATE_H_INCLUDED_ */
