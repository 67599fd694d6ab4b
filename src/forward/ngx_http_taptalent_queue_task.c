
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_queue.h"


/*
 * All work on the disk, which a thread does.
 *
 * One work at a time settles what is finished, loads the next files, goes on
 * with the scan.  While it runs, what it was given is the thread's, the rest
 * is the loop's.
 */


#define NGX_HTTP_TAPTALENT_LOADS     64       /* files in one work */
#define NGX_HTTP_TAPTALENT_LOAD      1048576  /* bytes in one work */
#define NGX_HTTP_TAPTALENT_READS     3        /* of one that cannot be read */
#define NGX_HTTP_TAPTALENT_UNREAD    64       /* such files that are a disk */
#define NGX_HTTP_TAPTALENT_READ_DELAY  1000   /* ms, after an error */
#define NGX_HTTP_TAPTALENT_LOG_DELAY  60000   /* ms, between equal errors */


static void ngx_http_taptalent_queue_task_collect(
    ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_queue_task_touch(ngx_http_taptalent_work_t *work,
    ngx_http_taptalent_file_t *file);
static void ngx_http_taptalent_queue_task_refill(ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_queue_task_run(void *data, ngx_log_t *log);
static void ngx_http_taptalent_queue_task_settle(ngx_http_taptalent_queue_t *q);
#if (NGX_THREADS)
static void ngx_http_taptalent_queue_task_done(ngx_event_t *ev);
#endif
static void ngx_http_taptalent_queue_task_finish(ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_queue_task_settled(
    ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_queue_task_failed(ngx_http_taptalent_queue_t *q);
static void ngx_http_taptalent_queue_task_loaded(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file);
static void ngx_http_taptalent_queue_task_unread(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file);


ngx_int_t
ngx_http_taptalent_queue_task_init(ngx_http_taptalent_queue_t *q)
{
#if (NGX_THREADS)

    q->task = ngx_thread_task_alloc(q->cycle->pool, 0);
    if (q->task == NULL) {
        return NGX_ERROR;
    }

    q->task->ctx = q;
    q->task->handler = ngx_http_taptalent_queue_task_run;
    q->task->event.handler = ngx_http_taptalent_queue_task_done;
    q->task->event.data = q;
    q->task->event.log = q->log;

#endif

    return NGX_OK;
}


void
ngx_http_taptalent_queue_task_start(ngx_http_taptalent_queue_t *q)
{
    ngx_http_taptalent_work_t  *work;

    work = &q->work;

    ngx_queue_init(&work->items);
    ngx_queue_init(&work->files);
    ngx_queue_init(&work->touched);

    work->scan = NULL;
    work->error.err = 0;

    ngx_http_taptalent_queue_task_collect(q);

    if (q->state == NGX_HTTP_TAPTALENT_QUEUE_OWNER && !q->broken
        && (ngx_msec_int_t) (q->read_after - ngx_current_msec) <= 0)
    {
        ngx_http_taptalent_queue_task_refill(q);
    }

    if (ngx_queue_empty(&work->touched) && ngx_queue_empty(&work->files)
        && work->scan == NULL)
    {
        return;
    }

    q->working = 1;

#if (NGX_THREADS)

    if (ngx_thread_task_post(q->commit->thread_pool, q->task) == NGX_OK) {
        return;
    }

    /* the pool is overloaded: do it here, what is sent must be settled */

#endif

    ngx_http_taptalent_queue_task_run(q, q->log);

    ngx_http_taptalent_queue_task_finish(q);
}


/* what is finished, and the files that it is of */

static void
ngx_http_taptalent_queue_task_collect(ngx_http_taptalent_queue_t *q)
{
    ngx_queue_t                *p;
    ngx_http_taptalent_file_t  *file;
    ngx_http_taptalent_item_t  *item;
    ngx_http_taptalent_work_t  *work;

    work = &q->work;

    if (!ngx_queue_empty(&q->finished)) {
        ngx_queue_add(&work->items, &q->finished);
        ngx_queue_init(&q->finished);
    }

    for (p = ngx_queue_head(&work->items);
         p != ngx_queue_sentinel(&work->items);
         p = ngx_queue_next(p))
    {
        item = ngx_queue_data(p, ngx_http_taptalent_item_t, queue);
        file = item->file;

        file->left--;

        ngx_http_taptalent_queue_task_touch(work, file);
    }

    /* what the disk did not take: now and then, and before leaving */

    while (!ngx_queue_empty(&q->unsettled) && q->resettle) {
        p = ngx_queue_head(&q->unsettled);

        ngx_http_taptalent_queue_task_touch(work,
                       ngx_queue_data(p, ngx_http_taptalent_file_t, resettle));
    }

    q->resettle = 0;

    while (!ngx_queue_empty(&q->ended)) {
        p = ngx_queue_head(&q->ended);
        ngx_queue_remove(p);

        ngx_http_taptalent_queue_task_touch(work,
                       ngx_queue_data(p, ngx_http_taptalent_file_t, queue));
    }

    for (p = ngx_queue_head(&work->touched);
         p != ngx_queue_sentinel(&work->touched);
         p = ngx_queue_next(p))
    {
        file = ngx_queue_data(p, ngx_http_taptalent_file_t, work);

        file->ending = (file->left == 0);
        file->failed = 0;
        file->rc = NGX_OK;
    }
}


static void
ngx_http_taptalent_queue_task_touch(ngx_http_taptalent_work_t *work,
    ngx_http_taptalent_file_t *file)
{
    if (file->unsettled) {
        file->unsettled = 0;
        ngx_queue_remove(&file->resettle);
    }

    if (!file->touched) {
        file->touched = 1;
        ngx_queue_insert_tail(&work->touched, &file->work);
    }
}


/* the scan, as long as there is room for names; files, as events are needed */

static void
ngx_http_taptalent_queue_task_refill(ngx_http_taptalent_queue_t *q)
{
    ngx_uint_t                  n;
    ngx_rbtree_node_t          *node;
    ngx_http_taptalent_file_t  *file;

    if ((q->rescan || q->scan.dir)
        && q->npending < NGX_HTTP_TAPTALENT_PENDING / 2)
    {
        if (q->scan.dir == NULL) {
            q->rescan = 0;
            q->scanned = ngx_current_msec;
        }

        q->work.scan = &q->scan;

        /* the oldest first, as far as the window reaches */

        if (q->work.scanned == NGX_OK) {
            return;
        }
    }

    for (n = 0;
         n < NGX_HTTP_TAPTALENT_LOADS
         && q->npending
         && q->lines < 2 * q->forward->concurrency
         && q->waiting < NGX_HTTP_TAPTALENT_WAITING
         && q->bytes < NGX_HTTP_TAPTALENT_BYTES
         && q->held < NGX_HTTP_TAPTALENT_BYTES;
         n++)
    {
        node = ngx_rbtree_min(q->pending.root, q->pending.sentinel);

        ngx_rbtree_delete(&q->pending, node);
        q->npending--;

        ngx_rbtree_insert(&q->active, node);

        file = (ngx_http_taptalent_file_t *) node;
        file->rc = NGX_AGAIN;
        file->state = NGX_HTTP_TAPTALENT_FILE_READING;

        ngx_queue_insert_tail(&q->work.files, &file->work);
    }
}


/* in a thread */

static void
ngx_http_taptalent_queue_task_run(void *data, ngx_log_t *log)
{
    ngx_http_taptalent_queue_t *q = data;

    size_t                            bytes;
    ngx_queue_t                      *p;
    ngx_http_taptalent_file_t        *file;
    ngx_http_taptalent_work_t        *work;
    ngx_http_taptalent_spool_error_t  error;

    work = &q->work;

    ngx_http_taptalent_queue_task_settle(q);

    bytes = 0;

    for (p = ngx_queue_head(&work->files);
         p != ngx_queue_sentinel(&work->files);
         p = ngx_queue_next(p))
    {
        if (bytes >= NGX_HTTP_TAPTALENT_LOAD) {
            break;
        }

        file = ngx_queue_data(p, ngx_http_taptalent_file_t, work);

        file->rc = ngx_http_taptalent_spool_read(q->spool, file->name,
                                                 &file->content, &error);
        file->err = error.err;
        bytes += file->content.len;

        if (file->rc == NGX_ABORT
            && !ngx_http_taptalent_spool_broken(error.err))
        {
            work->error = error;
        }
    }

    if (work->scan) {
        work->scanned = ngx_http_taptalent_spool_read_names(q->spool,
                                                            work->scan, &error);
        if (work->scanned != NGX_OK) {
            work->error = error;
        }
    }
}


static void
ngx_http_taptalent_queue_task_settle(ngx_http_taptalent_queue_t *q)
{
    u_char                           *text;
    ngx_int_t                         rc;
    ngx_uint_t                        ends;
    ngx_queue_t                      *p;
    ngx_http_taptalent_file_t        *file;
    ngx_http_taptalent_item_t        *item;
    ngx_http_taptalent_work_t        *work;
    ngx_http_taptalent_spool_error_t  error;

    work = &q->work;

    for (p = ngx_queue_head(&work->items);
         p != ngx_queue_sentinel(&work->items);
         p = ngx_queue_next(p))
    {
        item = ngx_queue_data(p, ngx_http_taptalent_item_t, queue);
        file = item->file;

        item->rc = NGX_OK;

        if (item->dead.len) {
            item->rc = ngx_http_taptalent_spool_write_dead(q->spool,
                                                           &item->dead,
                                                           file->name,
                                                           item->line, &error);
            if (item->rc != NGX_OK) {
                work->error = error;
                file->failed++;
                continue;
            }
        }

        text = realloc(file->text, file->len + NGX_HTTP_TAPTALENT_DONE_LEN);

        if (text) {
            file->text = text;
            file->len = ngx_sprintf(text + file->len,
                                    NGX_HTTP_TAPTALENT_DONE_FORMAT,
                                    item->line)
                        - text;
        }
    }

    for (p = ngx_queue_head(&work->touched);
         p != ngx_queue_sentinel(&work->touched);
         p = ngx_queue_next(p))
    {
        file = ngx_queue_data(p, ngx_http_taptalent_file_t, work);

        ends = (file->ending && file->failed == 0 && !file->foreign);

        if (ends) {
            file->rc = file->damaged
                       ? ngx_http_taptalent_spool_done_corrupt(q->spool,
                                                               file->name,
                                                               &file->content,
                                                               &error)
                       : ngx_http_taptalent_spool_done_remove(q->spool,
                                                              file->name,
                                                              &file->content,
                                                              &error);
            if (file->rc == NGX_ERROR) {
                work->error = error;

            } else {
                file->len = 0;
            }
        }

        /* one that cannot go must not be sent again either */

        if (file->len) {
            rc = ngx_http_taptalent_spool_done_note(q->spool, file->name,
                                                    &file->content, file->text,
                                                    file->len, &error);
            if (rc == NGX_ERROR) {
                work->error = error;

            } else {
                file->len = 0;
            }

            if (!ends) {
                file->rc = rc;
            }
        }
    }
}


#if (NGX_THREADS)

static void
ngx_http_taptalent_queue_task_done(ngx_event_t *ev)
{
    ev->complete = 0;

    ngx_http_taptalent_queue_task_finish(ev->data);
}

#endif


static void
ngx_http_taptalent_queue_task_finish(ngx_http_taptalent_queue_t *q)
{
    u_char                     *name;
    ngx_queue_t                *p;
    ngx_http_taptalent_work_t  *work;

    work = &q->work;
    q->working = 0;

    ngx_http_taptalent_queue_task_settled(q);

    while (!ngx_queue_empty(&work->files)) {
        p = ngx_queue_head(&work->files);
        ngx_queue_remove(p);

        ngx_http_taptalent_queue_task_loaded(q,
                        ngx_queue_data(p, ngx_http_taptalent_file_t, work));
    }

    if (work->scan && work->scanned != NGX_OK) {
        q->rescan = 1;
        q->read_after = ngx_current_msec + NGX_HTTP_TAPTALENT_READ_DELAY;

    } else if (work->scan) {

        for (name = work->scan->names; name < work->scan->last;
             name += ngx_strlen(name) + 1)
        {
            ngx_http_taptalent_file_seen(q, name, 0);
        }
    }

    ngx_http_taptalent_queue_task_failed(q);

    ngx_http_taptalent_queue_post(q);
}


static void
ngx_http_taptalent_queue_task_settled(ngx_http_taptalent_queue_t *q)
{
    ngx_queue_t                *p;
    ngx_http_taptalent_file_t  *file;
    ngx_http_taptalent_item_t  *item;
    ngx_http_taptalent_work_t  *work;

    work = &q->work;

    while (!ngx_queue_empty(&work->items)) {
        p = ngx_queue_head(&work->items);
        ngx_queue_remove(p);

        item = ngx_queue_data(p, ngx_http_taptalent_item_t, queue);

        /* dead/ could not take it: it stays in the queue */

        if (item->rc != NGX_OK) {
            item->file->left++;
        }

        q->settled(item);
    }

    while (!ngx_queue_empty(&work->touched)) {
        p = ngx_queue_head(&work->touched);
        ngx_queue_remove(p);

        file = ngx_queue_data(p, ngx_http_taptalent_file_t, work);
        file->touched = 0;

        if (file->rc == NGX_DECLINED) {
            file->rc = NGX_OK;
            file->changed = 1;
        }

        if (file->len || file->rc != NGX_OK) {
            ngx_queue_insert_tail(&q->unsettled, &file->resettle);
            file->unsettled = 1;
        }

        if (file->ending && file->failed == 0) {

            if (file->damaged && !file->counted) {
                file->counted = 1;

                ngx_http_taptalent_zone_count(q->forward->stats, corrupt, 1);

                ngx_log_error(NGX_LOG_CRIT, q->log, 0,
                              "\"%s\" is damaged and is in \"%V/%s\"",
                              file->name, &q->spool->path,
                              (file->rc == NGX_OK && !file->foreign)
                              ? "corrupt" : "new");
            }

            if (file->rc == NGX_OK && !file->foreign) {

                ngx_log_debug1(NGX_LOG_DEBUG_CORE, q->log, 0,
                               "taptalent file: \"%s\" is removed",
                               file->name);

                ngx_http_taptalent_file_forget(q, file);
                continue;
            }

            /* one that could not be removed must not be found again */

            file->state = NGX_HTTP_TAPTALENT_FILE_LEFT;

            if (file->changed) {
                ngx_http_taptalent_file_read_again(q, file);
            }

        } else if (!file->ending && file->left == 0 && file->out == 0
                   && file->state == NGX_HTTP_TAPTALENT_FILE_TAKEN)
        {
            /* its last lines, of no use, were taken meanwhile */
            ngx_queue_insert_tail(&q->ended, &file->queue);
            file->state = NGX_HTTP_TAPTALENT_FILE_ENDED;
        }
    }
}


static void
ngx_http_taptalent_queue_task_failed(ngx_http_taptalent_queue_t *q)
{
    ngx_http_taptalent_work_t  *work;

    work = &q->work;

    if (work->error.err == 0) {
        return;
    }

    if (ngx_http_taptalent_spool_broken(work->error.err)) {

        if (!q->broken) {
            q->broken = 1;

            ngx_log_error(NGX_LOG_CRIT, q->log, work->error.err,
                          "%s \"%V/%s\" failed, nothing is forwarded until "
                          "reload", work->error.call, &q->spool->path,
                          work->error.dir);
        }

        return;
    }

    /* a full disk says so once a minute, deliveries go on and free it */

    if (work->error.err != q->logged
        || ngx_current_msec - q->logged_at >= NGX_HTTP_TAPTALENT_LOG_DELAY)
    {
        q->logged = work->error.err;
        q->logged_at = ngx_current_msec;

        ngx_log_error(NGX_LOG_CRIT, q->log, work->error.err,
                      "%s \"%V/%s\" failed", work->error.call,
                      &q->spool->path, work->error.dir);
    }
}


static void
ngx_http_taptalent_queue_task_loaded(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file)
{
    ngx_uint_t  i;

    ngx_log_debug3(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent file: \"%s\" is read, rc %i, %ui lines",
                   file->name, file->rc, file->content.lines);

    switch (file->rc) {

    case NGX_OK:

        file->unreadable = 0;
        file->cursor = file->content.data;
        file->left = file->content.lines;

        for (i = 1; i <= file->content.lines; i++) {
            if (file->content.done[i / 8] & (1 << (i % 8))) {
                file->left--;
            }
        }

        q->lines += file->content.lines;
        q->held += file->content.len;
        q->unread = 0;

        ngx_queue_insert_tail(&q->loaded, &file->queue);
        file->state = NGX_HTTP_TAPTALENT_FILE_LOADED;
        return;

    case NGX_ABORT:

        /* one that fails for ever must not hold up the others */

        if (ngx_http_taptalent_spool_broken(file->err)
            || (file->err != NGX_EMFILE && file->err != NGX_ENFILE
                && (file->unreadable
                    || ++file->reads == NGX_HTTP_TAPTALENT_READS)))
        {
            ngx_http_taptalent_queue_task_unread(q, file);
            return;
        }

        q->read_after = ngx_current_msec + NGX_HTTP_TAPTALENT_READ_DELAY;

        /* fall through */

    case NGX_AGAIN:

        file->changed = 0;
        file->state = NGX_HTTP_TAPTALENT_FILE_NAMED;

        ngx_rbtree_delete(&q->active, &file->node);
        ngx_rbtree_insert(&q->pending, &file->node);
        q->npending++;
        return;

    case NGX_BUSY:
        ngx_http_taptalent_queue_task_unread(q, file);
        return;

    case NGX_ERROR:

        q->unread = 0;

        file->damaged = 1;
        file->counted = 1;

        ngx_http_taptalent_zone_count(q->forward->stats, corrupt, 1);

        ngx_log_error(NGX_LOG_CRIT, q->log, 0,
                      "\"%s\" is damaged and goes to \"%V/corrupt\"",
                      file->name, &q->spool->path);

        /* nothing of it is sent, so that this is the end of it */

        ngx_queue_insert_tail(&q->ended, &file->queue);
        file->state = NGX_HTTP_TAPTALENT_FILE_ENDED;
        return;

    default: /* NGX_DECLINED, gone */
        break;
    }

    ngx_http_taptalent_file_forget(q, file);
}


/* said once, and looked at again with the next scan */

static void
ngx_http_taptalent_queue_task_unread(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file)
{
    if (!file->unreadable && file->err == EFBIG
        && file->content.size > NGX_HTTP_TAPTALENT_FILE_MAX)
    {
        ngx_log_error(NGX_LOG_CRIT, q->log, 0,
                      "\"%V/new/%s\" is left alone, it has more than %O "
                      "bytes, split it into smaller files of whole lines",
                      &q->spool->path, file->name,
                      (off_t) NGX_HTTP_TAPTALENT_FILE_MAX);

    } else if (!file->unreadable && file->err == EFBIG) {
        ngx_log_error(NGX_LOG_CRIT, q->log, 0,
                      "\"%V/new/%s\" is left alone, the \".done\" beside it "
                      "has more than %O bytes, without that all of its lines "
                      "are sent again",
                      &q->spool->path, file->name,
                      (off_t) NGX_HTTP_TAPTALENT_FILE_MAX);

    } else if (!file->unreadable && file->err) {
        ngx_log_error(NGX_LOG_CRIT, q->log, file->err,
                      "\"%V/new/%s\" is left alone, it cannot be read",
                      &q->spool->path, file->name);

        /* some are broken themselves; so many of them, and the disk is */

        if (++q->unread == NGX_HTTP_TAPTALENT_UNREAD) {
            (void) ngx_http_taptalent_spool_failed(&q->work.error, file->err,
                                                   "read()",
                                                   NGX_HTTP_TAPTALENT_NEW);
        }

    } else if (!file->unreadable) {
        ngx_log_error(NGX_LOG_WARN, q->log, 0,
                      "\"%V/new/%s\" is left alone, it is not a file of "
                      "the worker's with one name",
                      &q->spool->path, file->name);
    }

    file->unreadable = 1;
    file->state = NGX_HTTP_TAPTALENT_FILE_LEFT;

    if (file->changed) {
        ngx_http_taptalent_file_read_again(q, file);
    }
}
