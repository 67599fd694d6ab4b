
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_queue.h"


/*
 * The events of the queue in memory: each is a line of a file, or, without a
 * spool, of none.
 */


static ngx_int_t ngx_http_taptalent_item_copy(ngx_http_taptalent_queue_t *q,
    ngx_str_t *text, ngx_http_taptalent_item_t **created);
static void ngx_http_taptalent_item_timer(ngx_event_t *ev);


/* the text is in the pool, which the item has then, and is an event's line */

ngx_int_t
ngx_http_taptalent_item_create(ngx_http_taptalent_queue_t *q,
    ngx_pool_t *pool, ngx_str_t *text, ngx_http_taptalent_item_t **created)
{
    ngx_int_t                   rc;
    ngx_http_taptalent_item_t  *item;

    item = ngx_pcalloc(pool, sizeof(ngx_http_taptalent_item_t));
    if (item == NULL) {
        return NGX_ABORT;
    }

    rc = ngx_http_taptalent_line_read(&item->delivery.event,
                                      &item->delivery.received, text, pool);
    if (rc != NGX_OK) {
        return rc;
    }

    item->ident[3] = (void *) -1;
    item->pool = pool;
    item->owner = q;
    item->text = *text;
    item->delivery.conf_ctx = q->forward->conf_ctx;
    item->delivery.forward = q->forward->uri;
    item->delivery.confirm = q->forward->confirm;
    item->delivery.timeout = q->forward->timeout;

    /* from here on it ages by itself: the clock may be set */

    item->age = ngx_max(ngx_time() - item->delivery.event.received.tv_sec, 0);

    /* who takes one out of quarantine does not want it to be too old */

    if (ngx_http_taptalent_line_is_refused(text->data, text->len)) {
        item->age = 0;
    }

    item->created = ngx_current_msec;

    item->timer.handler = ngx_http_taptalent_item_timer;
    item->timer.data = item;
    item->timer.log = q->log;
    item->timer.cancelable = 1;

    q->bytes += text->len;
    q->items++;

    /* what is in the spool is measured there */

    if (q->spool == NULL) {
        ngx_http_taptalent_zone_queued(q->forward->stats, 1);
    }

    *created = item;

    return NGX_OK;
}


void
ngx_http_taptalent_item_free(ngx_http_taptalent_item_t *item)
{
    item->owner->bytes -= item->text.len;
    item->owner->items--;

    if (item->owner->spool == NULL) {
        ngx_http_taptalent_zone_queued(item->owner->forward->stats, -1);
    }

    if (item->file) {
        item->file->out--;
    }

    ngx_free(item->dead.data);
    ngx_destroy_pool(item->pool);
}


/*
 * The next line of the file that is not done.  The last of these ends the
 * loading, with the done ones behind it: when its event is settled, the file
 * may be removed.
 */

ngx_http_taptalent_item_t *
ngx_http_taptalent_item_take(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file)
{
    u_char                     *end, *next;
    ngx_int_t                   rc;
    ngx_str_t                   text;
    ngx_http_taptalent_item_t  *item;

    end = file->content.data + file->content.len;
    item = NULL;

    while (file->cursor < end) {

        next = ngx_strlchr(file->cursor, end, LF);

        text.data = file->cursor;
        text.len = next - file->cursor;

        if (file->content.done[(file->line + 1) / 8]
            & (1 << ((file->line + 1) % 8)))
        {
            file->line++;
            q->lines--;
            file->cursor = next + 1;
            continue;
        }

        if (item) {
            break;
        }

        rc = ngx_http_taptalent_item_copy(q, &text, &item);

        if (rc == NGX_ABORT) {
            return NULL;
        }

        file->line++;
        q->lines--;
        file->cursor = next + 1;

        if (rc == NGX_OK) {
            item->file = file;
            item->line = file->line;
            continue;
        }

        if (rc == NGX_DECLINED) {

            if (!file->foreign) {
                ngx_log_error(NGX_LOG_WARN, q->log, 0,
                              "\"%V/new/%s\" has lines of a version that is "
                              "not known, they stay there",
                              &q->spool->path, file->name);
            }

            file->foreign = 1;

        } else {
            file->damaged = 1;
        }

        file->left--;
    }

    if (file->cursor == end) {
        ngx_queue_remove(&file->queue);
        ngx_http_taptalent_file_unload(q, file);
        file->cursor = NULL;
        file->state = NGX_HTTP_TAPTALENT_FILE_TAKEN;

        /* one that a work has is looked at again when that is done */

        if (item == NULL && file->out == 0 && !file->touched) {
            ngx_queue_insert_tail(&q->ended, &file->queue);
            file->state = NGX_HTTP_TAPTALENT_FILE_ENDED;
        }
    }

    if (item) {
        file->out++;
    }

    return item;
}


/* the text is copied into a pool of the item's own; NGX_ABORT without memory */

static ngx_int_t
ngx_http_taptalent_item_copy(ngx_http_taptalent_queue_t *q, ngx_str_t *text,
    ngx_http_taptalent_item_t **created)
{
    ngx_int_t    rc;
    ngx_str_t    copy;
    ngx_pool_t  *pool;

    *created = NULL;

    pool = ngx_create_pool(1024, q->log);
    if (pool == NULL) {
        return NGX_ABORT;
    }

    copy.len = text->len;
    copy.data = ngx_pstrdup(pool, text);

    rc = copy.data ? ngx_http_taptalent_item_create(q, pool, &copy, created)
                   : NGX_ABORT;

    if (rc != NGX_OK) {
        ngx_destroy_pool(pool);
    }

    return rc;
}


void
ngx_http_taptalent_item_ready(ngx_http_taptalent_item_t *item)
{
    ngx_http_taptalent_queue_t  *q;

    q = item->owner;

    ngx_queue_insert_tail(item->delivery.attempt ? &q->ready : &q->fresh,
                          &item->queue);
}


void
ngx_http_taptalent_item_wait(ngx_http_taptalent_item_t *item, ngx_msec_t delay)
{
    item->owner->waiting++;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, item->timer.log, 0,
                   "taptalent item: event %V waits for %M ms",
                   &item->delivery.event.id, delay);

    ngx_add_timer(&item->timer, delay);
}


static void
ngx_http_taptalent_item_timer(ngx_event_t *ev)
{
    ngx_http_taptalent_item_t   *item;
    ngx_http_taptalent_queue_t  *q;

    item = ev->data;
    q = item->owner;

    q->waiting--;

    ngx_http_taptalent_item_ready(item);
    ngx_http_taptalent_queue_post(q);
}
