
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <openssl/rand.h>
#if (NGX_ZLIB)
#include <zlib.h>
#endif
#include "ngx_http_taptalent_spool.h"


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


#define NGX_HTTP_TAPTALENT_TRIES     16
#define NGX_HTTP_TAPTALENT_USER_LEN  64
#define NGX_HTTP_TAPTALENT_PATIENCE  200  /* times 10 ms, for a lock */


/* the last one is the spool itself */

const char  *ngx_http_taptalent_spool_dirs[] = {
    "tmp", "new", "dead", "corrupt", ""
};


static ngx_int_t ngx_http_taptalent_spool_check(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static ngx_int_t ngx_http_taptalent_spool_make(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static ngx_int_t ngx_http_taptalent_spool_missing(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static void ngx_http_taptalent_spool_owners(
    ngx_http_taptalent_spool_t *spool, ngx_file_info_t *fi, ngx_uid_t user,
    ngx_log_t *log);
static void ngx_http_taptalent_spool_usable(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static void ngx_http_taptalent_spool_user(u_char *name, ngx_uid_t uid);

static ngx_int_t ngx_http_taptalent_spool_open_dirs(
    ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_spool_error_t *error);
static void ngx_http_taptalent_spool_close_dirs(
    ngx_http_taptalent_spool_t *spool);
static void ngx_http_taptalent_spool_permit(ngx_fd_t fd, ngx_uint_t access);
static ngx_int_t ngx_http_taptalent_spool_lock(
    ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_spool_error_t *error);
static void ngx_http_taptalent_spool_recover(
    ngx_http_taptalent_spool_t *spool, ngx_log_t *log);
static ngx_fd_t ngx_http_taptalent_spool_dead(
    ngx_http_taptalent_spool_t *spool, u_char *start);
static ngx_fd_t ngx_http_taptalent_spool_lock_recovery(
    ngx_http_taptalent_spool_t *spool);

static void ngx_http_taptalent_spool_next(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group, uint32_t crc, u_char *name);
static ngx_int_t ngx_http_taptalent_spool_create(
    ngx_http_taptalent_spool_t *spool, ngx_http_taptalent_group_t *group,
    uint32_t crc, u_char *name, ngx_http_taptalent_spool_error_t *error);
static ngx_int_t ngx_http_taptalent_spool_write(
    ngx_http_taptalent_spool_t *spool, ngx_fd_t fd,
    ngx_http_taptalent_group_t *group,
    ngx_http_taptalent_spool_error_t *error);


ngx_int_t
ngx_http_taptalent_spool_prepare(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    ngx_file_info_t  fi;

    if (ngx_test_config) {

        if (lstat((char *) spool->path.data, &fi) == -1
            && (ngx_errno == NGX_ENOENT || ngx_errno == NGX_ENOTDIR))
        {
            return ngx_http_taptalent_spool_missing(spool, log);
        }

    } else if (ngx_http_taptalent_spool_make(spool, log) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_taptalent_spool_check(spool, log);
}


/* "nginx -t" makes nothing, and looks whether a start can */

static ngx_int_t
ngx_http_taptalent_spool_missing(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    u_char  parent[NGX_MAX_PATH];

    ngx_http_taptalent_spool_parent(spool, parent);

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
ngx_http_taptalent_spool_parent(ngx_http_taptalent_spool_t *spool,
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
ngx_http_taptalent_spool_make(ngx_http_taptalent_spool_t *spool,
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

    ngx_http_taptalent_spool_parent(spool, parent);

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
ngx_http_taptalent_spool_check(ngx_http_taptalent_spool_t *spool,
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
ngx_http_taptalent_spool_give(ngx_http_taptalent_spool_t *spool,
    ngx_uid_t user, ngx_log_t *log)
{
    char             *name;
    const char       *call;
    ngx_uint_t        i;
    ngx_file_info_t   fi[NGX_HTTP_TAPTALENT_DIRS];

    if (user == (ngx_uid_t) NGX_CONF_UNSET_UINT) {
        ngx_http_taptalent_spool_usable(spool, log);
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

    ngx_http_taptalent_spool_owners(spool, fi, user, log);

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
ngx_http_taptalent_spool_owners(ngx_http_taptalent_spool_t *spool,
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

        ngx_http_taptalent_spool_user(from, fi[i].st_uid);
        ngx_http_taptalent_spool_user(to, user);

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
ngx_http_taptalent_spool_usable(ngx_http_taptalent_spool_t *spool,
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

        ngx_http_taptalent_spool_user(user, geteuid());

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
ngx_http_taptalent_spool_user(u_char *name, ngx_uid_t uid)
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

    rc = ngx_http_taptalent_spool_lock(spool, error);

    if (rc == NGX_OK) {
        spool->sequence = 0;
        spool->opened = 1;

    } else if (spool->entered) {

        /* the thread that forwards has the directories */
        return NGX_ERROR;

    } else if (error->err != NGX_ENOSPC && error->err != EDQUOT) {

        /* by their names again, when it is tried again */

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

        ngx_http_taptalent_spool_permit(fd, spool->access);
    }

    return NGX_OK;
}


static void
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


/*
 * The directories are as open as the files in them.  An operator's own group
 * stays where the setgid bit says that it was meant.  The directories are the
 * worker's, so this fails only where it was set up by hand, on purpose.
 */

static void
ngx_http_taptalent_spool_permit(ngx_fd_t fd, ngx_uint_t access)
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
 * dead one and unlink it; one that meets a file of ours before we have locked
 * it does the same, so look whether the file still has its name.
 */

static ngx_int_t
ngx_http_taptalent_spool_lock(ngx_http_taptalent_spool_t *spool,
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

        /* one that somebody else has, or has unlinked, is left to that one */

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


/*
 * What is in tmp/ was never acknowledged.  A file goes only if the start that
 * wrote it is dead, which its lock tells, not the age.  Names that are not
 * ours stay.
 */

static void
ngx_http_taptalent_spool_recover(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log)
{
    DIR            *dir;
    u_char         *name, *start;
    ngx_fd_t        fd, lock;
    ngx_uint_t      removed;
    struct dirent  *de;

    fd = openat(spool->fd[NGX_HTTP_TAPTALENT_TMP], ".",
                O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    dir = (fd == NGX_INVALID_FILE) ? NULL : fdopendir(fd);

    if (dir == NULL) {
        ngx_log_error(NGX_LOG_CRIT, log, ngx_errno,
                      "opendir() \"%V/tmp\" failed", &spool->path);

        if (fd != NGX_INVALID_FILE) {
            (void) ngx_close_file(fd);
        }

        return;
    }

    lock = ngx_http_taptalent_spool_lock_recovery(spool);

    removed = 0;

    while ((de = readdir(dir)) != NULL) {

        name = (u_char *) de->d_name;
        start = ngx_http_taptalent_spool_name_start(name);

        if (start == NULL
            || ngx_memcmp(start, spool->start, NGX_HTTP_TAPTALENT_START_LEN)
               == 0)
        {
            continue;
        }

        fd = ngx_http_taptalent_spool_dead(spool, start);

        if (fd == NGX_ERROR) {
            continue;
        }

        if (unlinkat(spool->fd[NGX_HTTP_TAPTALENT_TMP], de->d_name, 0) == 0) {
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
 * One worker at a time, or each takes a lock that the other tries.  Not a lock
 * of the directory, which anybody can have who may read it.  Without it, since
 * the disk is full or somebody does not let go of it, a file may be left for
 * the next start: better than a worker that does not begin.
 */

static ngx_fd_t
ngx_http_taptalent_spool_lock_recovery(ngx_http_taptalent_spool_t *spool)
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

        /* if the one who had it has unlinked it, all who wait begin anew */

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
 * A descriptor that holds the lock of a dead start, NGX_DECLINED if it is
 * dead and has no lock any more, NGX_ERROR if it lives, or may live.
 */

static ngx_fd_t
ngx_http_taptalent_spool_dead(ngx_http_taptalent_spool_t *spool,
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


ngx_int_t
ngx_http_taptalent_spool_commit(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group,
    ngx_http_taptalent_spool_error_t *error)
{
    u_char      from[NGX_HTTP_TAPTALENT_NAME_LEN];
    u_char      to[NGX_HTTP_TAPTALENT_NAME_LEN];
    uint32_t    crc;
    ngx_int_t   rc;
    ngx_uint_t  i;

    crc = ngx_http_taptalent_spool_crc32(group->data, group->len);

    if (ngx_http_taptalent_spool_create(spool, group, crc, from, error)
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

        ngx_http_taptalent_spool_next(spool, group, crc, to);
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
ngx_http_taptalent_spool_bury(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group, u_char *source, ngx_uint_t line,
    ngx_http_taptalent_spool_error_t *error)
{
    u_char    from[NGX_HTTP_TAPTALENT_NAME_LEN];
    u_char    to[NAME_MAX + 1];
    uint32_t  crc;

    /* without our lock, a start that recovers would take it for left over */

    if (!spool->opened) {
        return ngx_http_taptalent_spool_failed(error, ENOLCK, "flock()",
                                               NGX_HTTP_TAPTALENT_TMP);
    }

    crc = ngx_http_taptalent_spool_crc32(group->data, group->len);

    ngx_http_taptalent_spool_name_dead(to, source, line, crc);

    if (ngx_http_taptalent_spool_create(spool, group, crc, from, error)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_taptalent_spool_rename(spool, NGX_HTTP_TAPTALENT_TMP, from,
                                        NGX_HTTP_TAPTALENT_DEAD, to, error)
        != NGX_OK)
    {
        (void) unlinkat(spool->fd[NGX_HTTP_TAPTALENT_TMP], (char *) from, 0);

        /* of these bytes and this name there is one already */

        if (error->err != NGX_EEXIST) {
            return NGX_ERROR;
        }
    }

    return ngx_http_taptalent_spool_sync(spool, NGX_HTTP_TAPTALENT_DEAD,
                                         error);
}


/* a whole and durable file in tmp/; after an error there is none */

static ngx_int_t
ngx_http_taptalent_spool_create(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group, uint32_t crc, u_char *name,
    ngx_http_taptalent_spool_error_t *error)
{
    ngx_fd_t    tmp, fd;
    ngx_int_t   rc;
    ngx_uint_t  i;

    tmp = spool->fd[NGX_HTTP_TAPTALENT_TMP];
    fd = NGX_INVALID_FILE;

    for (i = 0; i < NGX_HTTP_TAPTALENT_TRIES; i++) {

        ngx_http_taptalent_spool_next(spool, group, crc, name);

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

    rc = ngx_http_taptalent_spool_write(spool, fd, group, error);

    if (ngx_close_file(fd) == NGX_FILE_ERROR && rc == NGX_OK) {
        rc = ngx_http_taptalent_spool_failed(error, ngx_errno, "close()",
                                             NGX_HTTP_TAPTALENT_TMP);
    }

    if (rc != NGX_OK) {
        (void) unlinkat(tmp, (char *) name, 0);
    }

    return rc;
}


/*
 * fsync() of a directory asks XFS whether something of it is still to be
 * written.  When the filesystem has shut itself down, after an error in its
 * log, nothing is, since it was thrown away, and fsync() returns 0.  fstat()
 * returns EIO then.
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


static void
ngx_http_taptalent_spool_next(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group, uint32_t crc, u_char *name)
{
    uint64_t  sequence;

    sequence = (uint64_t) ngx_atomic_fetch_add(&spool->sequence, 1) + 1;

    ngx_http_taptalent_spool_name(name, spool->start, sequence, group->events,
                                  crc);
}


static ngx_int_t
ngx_http_taptalent_spool_write(ngx_http_taptalent_spool_t *spool,
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

    /* a second name in tmp/ does no harm, recovery will remove it */

    (void) unlinkat(old, (char *) from, 0);

    /*
     * Who watches the directory looks at a file that is closed there: a link
     * alone is what a file that is still being written may be as well.
     */

    fd = openat(fd, (char *) to, O_WRONLY|O_NOFOLLOW|O_NONBLOCK|O_CLOEXEC);

    if (fd != NGX_INVALID_FILE) {
        (void) ngx_close_file(fd);
    }

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
ngx_http_taptalent_spool_failed(ngx_http_taptalent_spool_error_t *error,
    ngx_err_t err, const char *call, ngx_uint_t dir)
{
    error->err = err;
    error->call = call;
    error->dir = ngx_http_taptalent_spool_dirs[dir];

    return NGX_ERROR;
}
