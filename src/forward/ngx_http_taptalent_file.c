
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_queue.h"


/*
 * The files of the queue: what the scan and inotify have named, and what is
 * loaded.
 */


static void ngx_http_taptalent_file_insert(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel);
static ngx_http_taptalent_file_t *ngx_http_taptalent_file_find(
    ngx_rbtree_t *tree, u_char *name);


void
ngx_http_taptalent_file_init(ngx_http_taptalent_queue_t *q)
{
    ngx_rbtree_init(&q->pending, &q->sentinel,
                    ngx_http_taptalent_file_insert);
    ngx_rbtree_init(&q->active, &q->sentinel, ngx_http_taptalent_file_insert);
}


void
ngx_http_taptalent_file_seen(ngx_http_taptalent_queue_t *q, u_char *name,
    ngx_uint_t told)
{
    size_t                      len;
    ngx_http_taptalent_file_t  *file;

    len = ngx_strlen(name);

    if (!ngx_http_taptalent_spool_name_is_file(name, len)
        || ngx_http_taptalent_file_find(&q->pending, name))
    {
        return;
    }

    file = ngx_http_taptalent_file_find(&q->active, name);

    if (file) {

        if (file->state == NGX_HTTP_TAPTALENT_FILE_LEFT && !file->touched) {

            if (told || file->unreadable) {
                ngx_http_taptalent_file_read_again(q, file);
            }

        } else if (told) {
            file->changed = 1;
        }

        return;
    }

    if (q->npending >= NGX_HTTP_TAPTALENT_PENDING) {
        q->rescan = 1;
        return;
    }

    file = ngx_calloc(sizeof(ngx_http_taptalent_file_t) + len, q->log);
    if (file == NULL) {
        q->rescan = 1;
        return;
    }

    ngx_memcpy(file->name, name, len + 1);

    ngx_rbtree_insert(&q->pending, &file->node);
    q->npending++;

    ngx_log_debug2(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent file: \"%s\" is seen, told %ui", name, told);
}


static void
ngx_http_taptalent_file_insert(ngx_rbtree_node_t *temp,
    ngx_rbtree_node_t *node, ngx_rbtree_node_t *sentinel)
{
    ngx_rbtree_node_t          **p;
    ngx_http_taptalent_file_t   *n, *t;

    n = (ngx_http_taptalent_file_t *) node;

    for ( ;; ) {
        t = (ngx_http_taptalent_file_t *) temp;

        p = (ngx_strcmp(n->name, t->name) < 0) ? &temp->left : &temp->right;

        if (*p == sentinel) {
            break;
        }

        temp = *p;
    }

    *p = node;
    node->parent = temp;
    node->left = sentinel;
    node->right = sentinel;
    ngx_rbt_red(node);
}


static ngx_http_taptalent_file_t *
ngx_http_taptalent_file_find(ngx_rbtree_t *tree, u_char *name)
{
    ngx_int_t                   rc;
    ngx_rbtree_node_t          *node;
    ngx_http_taptalent_file_t  *file;

    node = tree->root;

    while (node != tree->sentinel) {

        file = (ngx_http_taptalent_file_t *) node;

        rc = ngx_strcmp(name, file->name);

        if (rc == 0) {
            return file;
        }

        node = (rc < 0) ? node->left : node->right;
    }

    return NULL;
}


void
ngx_http_taptalent_file_read_again(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file)
{
    ngx_uint_t  unreadable;

    ngx_log_debug1(NGX_LOG_DEBUG_CORE, q->log, 0,
                   "taptalent file: \"%s\" is to be read again", file->name);

    ngx_rbtree_delete(&q->active, &file->node);

    if (file->unsettled) {
        ngx_queue_remove(&file->resettle);
    }

    ngx_http_taptalent_file_unload(q, file);

    ngx_free(file->content.done);
    ngx_free(file->text);

    unreadable = file->unreadable;

    ngx_memzero(file, offsetof(ngx_http_taptalent_file_t, name));

    file->unreadable = unreadable;

    ngx_rbtree_insert(&q->pending, &file->node);
    q->npending++;
}


void
ngx_http_taptalent_file_forget(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file)
{
    if (file->changed) {
        ngx_http_taptalent_file_read_again(q, file);
        return;
    }

    ngx_rbtree_delete(&q->active, &file->node);

    ngx_http_taptalent_file_unload(q, file);

    ngx_free(file->content.done);
    ngx_free(file->text);
    ngx_free(file);
}


void
ngx_http_taptalent_file_unload(ngx_http_taptalent_queue_t *q,
    ngx_http_taptalent_file_t *file)
{
    if (file->content.data) {
        q->held -= file->content.len;

        ngx_free(file->content.data);
        file->content.data = NULL;
    }
}
