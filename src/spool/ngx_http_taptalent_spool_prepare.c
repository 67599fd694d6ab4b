
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_spool_private.h"


/* What the master does for the spool, as root perhaps, and what "nginx -t". */


#define NGX_HTTP_TAPTALENT_USER_LEN  64


static ngx_int_t ngx_http_taptalent_spool_prepare_check(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static ngx_int_t ngx_http_taptalent_spool_prepare_make(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static ngx_int_t ngx_http_taptalent_spool_prepare_missing(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static void ngx_http_taptalent_spool_prepare_owners(
    ngx_http_taptalent_spool_t *spool, ngx_file_info_t *fi, ngx_uid_t user,
    ngx_log_t *log);
static void ngx_http_taptalent_spool_prepare_usable(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static void ngx_http_taptalent_spool_prepare_user(u_char *name, ngx_uid_t uid);


ngx_int_t
ngx_http_taptalent_spool_prepare(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    ngx_file_info_t  fi;

    if (ngx_test_config) {

        if (lstat((char *) spool->path.data, &fi) == -1
            && (ngx_errno == NGX_ENOENT || ngx_errno == NGX_ENOTDIR))
        {
            return ngx_http_taptalent_spool_prepare_missing(spool, log);
        }

    } else if (ngx_http_taptalent_spool_prepare_make(spool, log) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_taptalent_spool_prepare_check(spool, log);
}


/* "nginx -t" makes nothing, and looks whether a start can */

static ngx_int_t
ngx_http_taptalent_spool_prepare_missing(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    u_char  parent[NGX_MAX_PATH];

    ngx_http_taptalent_spool_prepare_parent(spool, parent);

    if (access((char *) parent, W_OK|X_OK) == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "the spool \"%V\" in %s:%ui cannot be made, make the "
                      "directory above it first", &spool->path,
                      spool->dirs[0]->conf_file, spool->dirs[0]->line);
        return NGX_ERROR;
    }

    ngx_log_error(NGX_LOG_NOTICE, log, 0,
                  "a start would make the spool \"%V\" in %s:%ui",
                  &spool->path, spool->dirs[0]->conf_file,
                  spool->dirs[0]->line);

    return NGX_OK;
}


void
ngx_http_taptalent_spool_prepare_parent(ngx_http_taptalent_spool_t *spool,
    u_char *parent)
{
    u_char  *last;

    last = ngx_cpystrn(parent, spool->path.data, NGX_MAX_PATH - 2);

    while (*last != '/') {
        last--;
    }

    /* what is "dir/." has to be a directory, and one to pass through */

    ngx_memcpy(last, "/.", 3);
}


static ngx_int_t
ngx_http_taptalent_spool_prepare_make(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    u_char    parent[NGX_MAX_PATH];
    ngx_fd_t  fd;

    if (ngx_create_dir(spool->path.data, 0755) == NGX_FILE_ERROR) {

        if (ngx_errno == NGX_EEXIST) {
            return NGX_OK;
        }

        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "the spool \"%V\" in %s:%ui cannot be made, make the "
                      "directory above it first", &spool->path,
                      spool->dirs[0]->conf_file, spool->dirs[0]->line);
        return NGX_ERROR;
    }

    /* workers have to pass, whatever the umask */

    if (chmod((char *) spool->path.data, 0755) == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "chmod() \"%V\" failed", &spool->path);
        return NGX_ERROR;
    }

    ngx_http_taptalent_spool_prepare_parent(spool, parent);

    fd = open((char *) parent, O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (fd == NGX_INVALID_FILE || fsync(fd) == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "fsync() of the directory above \"%V\" failed",
                      &spool->path);

        if (fd != NGX_INVALID_FILE) {
            (void) ngx_close_file(fd);
        }

        return NGX_ERROR;
    }

    (void) ngx_close_file(fd);

    return NGX_OK;
}


/*
 * The master makes and chowns the four directories by name.  This is safe
 * only in a directory where a worker cannot put a link in their place,
 * CVE-2016-1247.
 */

static ngx_int_t
ngx_http_taptalent_spool_prepare_check(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    dev_t             dev;
    u_char           *name, *tmp;
    ngx_uint_t        i;
    ngx_file_info_t   fi;

    if (lstat((char *) spool->path.data, &fi) == -1) {
        ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                      "lstat() \"%V\" failed", &spool->path);
        return NGX_ERROR;
    }

    if (!S_ISDIR(fi.st_mode)) {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "the spool \"%V\" in %s:%ui is not a directory, write "
                      "the path of a directory itself, not of a link to it",
                      &spool->path, spool->dirs[0]->conf_file,
                      spool->dirs[0]->line);
        return NGX_ERROR;
    }

    if (geteuid() == 0
        && (fi.st_uid != 0 || (fi.st_mode & (S_IWGRP|S_IWOTH))))
    {
        ngx_log_error(NGX_LOG_EMERG, log, 0,
                      "the spool \"%V\" in %s:%ui must be root's and "
                      "writable by root alone, run \"chown root %V && "
                      "chmod 755 %V\"", &spool->path,
                      spool->dirs[0]->conf_file, spool->dirs[0]->line,
                      &spool->path, &spool->path);
        return NGX_ERROR;
    }

    dev = 0;
    tmp = NULL;

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {

        name = spool->dirs[i]->name.data;

        if (lstat((char *) name, &fi) == -1) {

            if (ngx_errno == NGX_ENOENT) {
                continue;
            }

            ngx_log_error(NGX_LOG_EMERG, log, ngx_errno,
                          "lstat() \"%s\" failed", name);
            return NGX_ERROR;
        }

        if (!S_ISDIR(fi.st_mode)) {
            ngx_log_error(NGX_LOG_EMERG, log, 0,
                          "\"%s\" must be a directory, not a link or a file",
                          name);
            return NGX_ERROR;
        }

        if (tmp == NULL) {
            tmp = name;
            dev = fi.st_dev;
            continue;
        }

        if (fi.st_dev != dev) {
            ngx_log_error(NGX_LOG_EMERG, log, 0,
                          "\"%s\" and \"%s\" are on different filesystems, "
                          "mount one filesystem at \"%V\" instead",
                          tmp, name, &spool->path);
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


/*
 * As late as can be: from here on workers that run with the old user cannot
 * add to the spool.
 */

ngx_int_t
ngx_http_taptalent_spool_prepare_give(ngx_http_taptalent_spool_t *spool,
    ngx_uid_t user, ngx_log_t *log)
{
    char             *name;
    const char       *call;
    ngx_uint_t        i;
    ngx_file_info_t   fi[NGX_HTTP_TAPTALENT_DIRS];

    if (user == (ngx_uid_t) NGX_CONF_UNSET_UINT) {
        ngx_http_taptalent_spool_prepare_usable(spool, log);
        return NGX_OK;
    }

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {

        name = (char *) spool->dirs[i]->name.data;

        if (lstat(name, &fi[i]) == -1) {

            if (ngx_test_config && ngx_errno == NGX_ENOENT) {
                fi[i].st_uid = user;
                continue;
            }

            call = "lstat()";
            goto failed;
        }
    }

    ngx_http_taptalent_spool_prepare_owners(spool, fi, user, log);

    if (ngx_test_config) {
        return NGX_OK;
    }

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {

        name = (char *) spool->dirs[i]->name.data;

        if (fi[i].st_uid != user && lchown(name, user, -1) == -1) {
            call = "lchown()";
            goto failed;
        }

        if ((fi[i].st_mode & S_IRWXU) != S_IRWXU
            && chmod(name, (fi[i].st_mode & 07777) | S_IRWXU) == -1)
        {
            call = "chmod()";
            goto failed;
        }
    }

    return NGX_OK;

failed:

    ngx_log_error(NGX_LOG_EMERG, log, ngx_errno, "%s \"%s\" failed", call,
                  name);

    return NGX_ERROR;
}


/* a line for each user that has directories now, most often one */

static void
ngx_http_taptalent_spool_prepare_owners(ngx_http_taptalent_spool_t *spool,
    ngx_file_info_t *fi, ngx_uid_t user, ngx_log_t *log)
{
    u_char      *p;
    u_char       dirs[sizeof("tmp/, new/, dead/, corrupt/, ")];
    u_char       from[NGX_HTTP_TAPTALENT_USER_LEN];
    u_char       to[NGX_HTTP_TAPTALENT_USER_LEN];
    ngx_uint_t   i, k;

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {

        for (k = 0; k < i && fi[k].st_uid != fi[i].st_uid; k++) { /* void */ }

        if (fi[i].st_uid == user || k < i) {
            continue;
        }

        p = dirs;

        for ( /* void */ ; k < NGX_HTTP_TAPTALENT_DIRS; k++) {
            if (fi[k].st_uid == fi[i].st_uid) {
                p = ngx_sprintf(p, "%s%s/", p == dirs ? "" : ", ",
                                ngx_http_taptalent_spool_dirs[k]);
            }
        }

        *p = '\0';

        ngx_http_taptalent_spool_prepare_user(from, fi[i].st_uid);
        ngx_http_taptalent_spool_prepare_user(to, user);

        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "%s of the spool \"%V\" in %s:%ui %s from the user "
                      "\"%s\" to \"%s\": workers of \"%s\" refuse all events "
                      "from then on, write that one as \"user\", or, when "
                      "they are gone, run \"chown -R %ui %V/*\"",
                      dirs, &spool->path, spool->dirs[i]->conf_file,
                      spool->dirs[i]->line,
                      ngx_test_config ? "would go" : "go", from, to, from,
                      (ngx_uint_t) user, &spool->path);
    }
}


/* whoever is not root can give nothing away, and is the user of the workers */

static void
ngx_http_taptalent_spool_prepare_usable(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    u_char      *name;
    u_char       user[NGX_HTTP_TAPTALENT_USER_LEN];
    ngx_uint_t   i;

    for (i = 0; i < NGX_HTTP_TAPTALENT_DIRS; i++) {

        name = spool->dirs[i]->name.data;

        if (access((char *) name, R_OK|W_OK|X_OK) == 0
            || ngx_errno == NGX_ENOENT)
        {
            continue;
        }

        ngx_http_taptalent_spool_prepare_user(user, geteuid());

        ngx_log_error(NGX_LOG_WARN, log, ngx_errno,
                      "\"%s\" in %s:%ui is not for the user \"%s\", whose "
                      "workers refuse all events, start nginx as root, or run "
                      "\"chown -R %ui %V/*\"", name,
                      spool->dirs[i]->conf_file, spool->dirs[i]->line, user,
                      (ngx_uint_t) geteuid(), &spool->path);
        return;
    }
}


static void
ngx_http_taptalent_spool_prepare_user(u_char *name, ngx_uid_t uid)
{
    struct passwd  *pwd;

    pwd = getpwuid(uid);

    if (pwd) {
        (void) ngx_cpystrn(name, (u_char *) pwd->pw_name,
                           NGX_HTTP_TAPTALENT_USER_LEN);
        return;
    }

    ngx_sprintf(name, "%ui%Z", (ngx_uint_t) uid);
}
