
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_SPOOL_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_SPOOL_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_spool_name.h"


/*
 * The spool on disk, whose format is in docs/spool.md: directories are the
 * states, rename() is the transition.  Knows neither requests, nor events of
 * the loop, nor threads; all functions block, and log nothing but where they
 * have a log.
 */


typedef enum {
    NGX_HTTP_TAPTALENT_TMP = 0,    /* being written */
    NGX_HTTP_TAPTALENT_NEW,        /* the queue */
    NGX_HTTP_TAPTALENT_DEAD,       /* given up */
    NGX_HTTP_TAPTALENT_CORRUPT,    /* damaged */
    NGX_HTTP_TAPTALENT_DIRS
} ngx_http_taptalent_dir_e;


/* the names of the directories, and of the spool's own, which is "" */
extern const char  *ngx_http_taptalent_spool_dirs[];


typedef struct {
    /* the configuration */

    ngx_str_t         path;        /* absolute, with NUL at the end */
    ngx_path_t       *dirs[NGX_HTTP_TAPTALENT_DIRS];
    ngx_uint_t        access;      /* of files, as of chmod() */
    unsigned          sync:1;

    /* of this start of a worker, set by ngx_http_taptalent_spool_open() */

    unsigned          entered:1;   /* the directories, if not the lock */
    unsigned          opened:1;
    ngx_fd_t          fd[NGX_HTTP_TAPTALENT_DIRS];
    ngx_fd_t          lock;        /* of a file in tmp/, while we live */
    u_char            start[NGX_HTTP_TAPTALENT_START_LEN + 1];
    ngx_atomic_t      sequence;    /* two threads may want the next one */
} ngx_http_taptalent_spool_t;


/* what a failed call was, for the caller to log */

typedef struct {
    ngx_err_t         err;
    const char       *call;        /* "fdatasync()" */
    const char       *dir;         /* "tmp" */
} ngx_http_taptalent_spool_error_t;


typedef struct {
    u_char           *data;
    size_t            len;
    ngx_uint_t        events;
} ngx_http_taptalent_group_t;


/*
 * For the master, at configuration: makes path if it is missing and fsyncs
 * its parent; checks that workers cannot write to it, and that what exists of
 * the four directories is one filesystem.  "nginx -t" makes nothing, and says
 * what a start would make.  NGX_ERROR after a line of level emerg that says
 * what to do.
 */
ngx_int_t ngx_http_taptalent_spool_prepare(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log);

/*
 * For the master, when nothing of a start or a reload can fail any more: gives
 * the four directories to the user of the workers, after a line that says whose
 * they were.  "nginx -t" says it, and changes nothing.  Without a user, since
 * nginx is not root, says whether its own cannot use them.  NGX_ERROR after a
 * line of level emerg.
 */
ngx_int_t ngx_http_taptalent_spool_prepare_give(
    ngx_http_taptalent_spool_t *spool, ngx_uid_t user, ngx_log_t *log);

/* the directory above the spool, with "/." at its end, of NGX_MAX_PATH bytes */
void ngx_http_taptalent_spool_prepare_parent(ngx_http_taptalent_spool_t *spool,
    u_char *parent);

/*
 * For a worker, after the fork: opens the directories, takes the lock of this
 * start, and removes from tmp/ what dead workers have left behind.
 * A second call after NGX_OK does nothing.  NGX_ERROR with *error set leaves
 * nothing open, with one exception: if only a full disk has refused the lock,
 * "entered" is set, files may be read and removed, and a second call takes the
 * lock.
 */
ngx_int_t ngx_http_taptalent_spool_open(ngx_http_taptalent_spool_t *spool,
    ngx_log_t *log, ngx_http_taptalent_spool_error_t *error);

/* closes what was opened, removes the lock; does nothing if it was not */
void ngx_http_taptalent_spool_close(ngx_http_taptalent_spool_t *spool);

/*
 * Makes the group a durable file in new/.  Uses nothing but the spool and the
 * group, so that it may run in a thread, one at a time for each spool.  With
 * NGX_ERROR, and *error set, the group must not be acknowledged: nothing is
 * left of it, or, if the last fsync() failed, a file that is perhaps durable.
 */
ngx_int_t ngx_http_taptalent_spool_write(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group,
    ngx_http_taptalent_spool_error_t *error);

/*
 * Makes the group, which is one event, a durable file in dead/, with a name
 * after the file and the line that it comes from.  The rest as above.
 */
ngx_int_t ngx_http_taptalent_spool_write_dead(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_group_t *group, u_char *source, ngx_uint_t line,
    ngx_http_taptalent_spool_error_t *error);

/*
 * True for an error that stays until somebody has looked after the disk: EIO,
 * EROFS, EUCLEAN.
 */
ngx_uint_t ngx_http_taptalent_spool_broken(ngx_err_t err);

/*
 * Sets *bytes and *inodes to what a user has left in the filesystem;
 * filesystems without a number of inodes have as many as there can be.
 */
ngx_int_t ngx_http_taptalent_spool_free(ngx_http_taptalent_spool_t *spool,
    off_t *bytes, uint64_t *inodes);

/* sets *error, and returns NGX_ERROR */
ngx_int_t ngx_http_taptalent_spool_failed(
    ngx_http_taptalent_spool_error_t *error, ngx_err_t err, const char *call,
    ngx_uint_t dir);


/*
 * What takes events out of the spool.  Only the process that has the lock of
 * ngx_http_taptalent_spool_read_lock() may call it.
 */


#define NGX_HTTP_TAPTALENT_SCAN  65536


/*
 * A file is read in one piece, so one with more bytes is left alone; no commit
 * makes one.  What is beside it has the same bound.
 */

#define NGX_HTTP_TAPTALENT_FILE_MAX  1073741824


/*
 * Of a fixed width, with LF on both sides: half a record, left by a full disk
 * or a power failure, must not become another number with the next one.
 */

#define NGX_HTTP_TAPTALENT_DONE_FORMAT  "\n%010ui\n"
#define NGX_HTTP_TAPTALENT_DONE_LEN     12

/* before the first one: the checksum of the whole file that they are of */

#define NGX_HTTP_TAPTALENT_BOUND_FORMAT  "\n=%08xD\n"
#define NGX_HTTP_TAPTALENT_BOUND_LEN     11


typedef struct {
    DIR              *dir;         /* NULL between two scans */
    u_char           *last;        /* of the names, each with NUL at its end */
    u_char            names[NGX_HTTP_TAPTALENT_SCAN];
} ngx_http_taptalent_scan_t;


typedef struct {
    u_char           *data;        /* of malloc() */
    size_t            len;
    u_char           *done;        /* a bit for each line, of malloc() */
    ngx_uint_t        lines;
    ngx_uint_t        bound;       /* the sidecar has the crc */
    uint32_t          crc;
    ngx_file_uniq_t   uniq;        /* with these two: which file it was */
    time_t            mtime;
    off_t             size;
} ngx_http_taptalent_content_t;


/*
 * The lock of the one who forwards: a descriptor, to be closed to unlock;
 * NGX_DECLINED if another has it, NGX_ERROR with *error set.
 */
ngx_fd_t ngx_http_taptalent_spool_read_lock(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_spool_error_t *error);

/*
 * The next names of new/, none if it is the end.  Removes sidecars that are
 * left without a file.
 */
ngx_int_t ngx_http_taptalent_spool_read_names(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_scan_t *scan, ngx_http_taptalent_spool_error_t *error);

/*
 * Reads a file of new/ and what its sidecar says is done; a sidecar of another
 * file that had the name goes.  NGX_DECLINED: it is gone.  NGX_BUSY: it is none
 * of ours, a link say, or *error is EFBIG: it has more bytes than are read,
 * which content->size tells, or what is beside it has; it is left alone.
 * NGX_ABORT: not now, *error is set.  NGX_ERROR: damaged, for
 * ngx_http_taptalent_spool_done_corrupt().
 */
ngx_int_t ngx_http_taptalent_spool_read(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error);

/*
 * Appends "text" to the sidecar of a file: records of lines that are done, as
 * NGX_HTTP_TAPTALENT_DONE_FORMAT makes them.  After an error call it again
 * with the same text, which may then be there twice.  NGX_DECLINED: what was
 * read is gone, and another file, which the records do not mean, may have its
 * name; then there is no sidecar any more.
 */
ngx_int_t ngx_http_taptalent_spool_done_note(ngx_http_taptalent_spool_t *spool,
    u_char *name, ngx_http_taptalent_content_t *content, u_char *text,
    size_t len, ngx_http_taptalent_spool_error_t *error);

/* removes a file whose lines are all done, and its sidecar; as above */
ngx_int_t ngx_http_taptalent_spool_done_remove(
    ngx_http_taptalent_spool_t *spool, u_char *name,
    ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error);

/* moves a file and its sidecar to corrupt/; as above */
ngx_int_t ngx_http_taptalent_spool_done_corrupt(
    ngx_http_taptalent_spool_t *spool, u_char *name,
    ngx_http_taptalent_content_t *content,
    ngx_http_taptalent_spool_error_t *error);


typedef struct ngx_http_taptalent_oldest_s  ngx_http_taptalent_oldest_t;
typedef struct ngx_http_taptalent_counted_s  ngx_http_taptalent_counted_t;


typedef enum {
    NGX_HTTP_TAPTALENT_MEASURE_NEW = 0,
    NGX_HTTP_TAPTALENT_MEASURE_DEAD,
    NGX_HTTP_TAPTALENT_MEASURE_CORRUPT,
    NGX_HTTP_TAPTALENT_MEASURE_FREE,
    NGX_HTTP_TAPTALENT_MEASURES
} ngx_http_taptalent_measure_e;


typedef struct {
    uint64_t          files;       /* in new/ */
    uint64_t          events;      /* in them, and not done */
    uint64_t          bytes;       /* of these files */
    time_t            oldest;      /* when the oldest came, 0 without any */
    uint64_t          dead;        /* files in dead/ */
    uint64_t          corrupt;     /* and in corrupt/ */
    off_t             free_bytes;
    uint64_t          free_inodes;

    /* what could not be measured has an error */

    ngx_http_taptalent_spool_error_t  errors[NGX_HTTP_TAPTALENT_MEASURES];

    ngx_http_taptalent_oldest_t   *trim;     /* what a trim removes, or NULL */
    ngx_http_taptalent_counted_t  *counted;  /* files that were read, or NULL */
} ngx_http_taptalent_measure_t;


/*
 * Measures what is in the spool; for whoever looks, with no lock, so it is a
 * little behind.  A file tells by its name how many events it has and when they
 * came; the lines of one that is put there by hand under another name are
 * counted, of large ones over several calls.  A file that is there counts as
 * one event at least.
 *
 * *counted is NULL at the first call; the caller keeps it for the next one, and
 * gives it to ngx_free() in the end.  NGX_ABORT soon after this process is told
 * to end.
 */
ngx_int_t ngx_http_taptalent_spool_measure(ngx_http_taptalent_spool_t *spool,
    ngx_http_taptalent_measure_t *m, ngx_http_taptalent_counted_t **counted);

/*
 * If the files in new/ have more than "max" bytes, removes the oldest until a
 * tenth of "max" is free, but no more than some hundreds in one call, and only
 * those that a quarantine has written.  Returns how many bytes are left in
 * new/, or NGX_ERROR.
 */
off_t ngx_http_taptalent_spool_measure_trim(ngx_http_taptalent_spool_t *spool,
    off_t max);


#endif /* _NGX_HTTP_TAPTALENT_SPOOL_H_INCLUDED_ */
