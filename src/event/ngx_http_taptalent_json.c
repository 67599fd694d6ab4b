
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_json.h"


/*
 * yajl is more liberal than RFC 8259 in white space and in UTF-8, takes an
 * unfinished token after the text, and does not look at what its allocator
 * returns.  The first two are settled by a pass of our own over the bytes,
 * before yajl sees them; the third by looking at the rest; the last by an
 * allocator that does not return without memory.
 */


static ngx_int_t ngx_http_taptalent_run_yajl(ngx_http_taptalent_json_t *json,
    yajl_callbacks *callbacks, void *ctx);
static ngx_int_t ngx_http_taptalent_trailing(ngx_http_taptalent_json_t *json);
static ngx_int_t ngx_http_taptalent_check_bytes(
    ngx_http_taptalent_json_t *json);
static u_char *ngx_http_taptalent_utf8(u_char *p, u_char *last);

static void *ngx_http_taptalent_malloc(void *data, size_t size);
static void *ngx_http_taptalent_realloc(void *data, void *old, size_t size);
static void ngx_http_taptalent_free(void *data, void *old);


ngx_int_t
ngx_http_taptalent_json_parse(ngx_http_taptalent_json_t *json,
    yajl_callbacks *callbacks, void *ctx, ngx_str_t *text)
{
    ngx_int_t  rc;

    json->text = *text;
    json->end = 0;
    json->blocks = NULL;
    json->last = (u_char *) json->arena;

    if (ngx_http_taptalent_check_bytes(json) != NGX_OK) {
        return NGX_ERROR;
    }

    rc = ngx_http_taptalent_run_yajl(json, callbacks, ctx);

    while (json->blocks) {
        ngx_http_taptalent_free(json, json->blocks + 1);
    }

    return rc;
}


/* what changes after setjmp() is not in variables of this function */

static ngx_int_t
ngx_http_taptalent_run_yajl(ngx_http_taptalent_json_t *json,
    yajl_callbacks *callbacks, void *ctx)
{
    yajl_status       status;
    yajl_alloc_funcs  funcs;

    if (setjmp(json->nomem) != 0) {
        return NGX_ABORT;
    }

    funcs.malloc = ngx_http_taptalent_malloc;
    funcs.realloc = ngx_http_taptalent_realloc;
    funcs.free = ngx_http_taptalent_free;
    funcs.ctx = json;

    json->yajl = yajl_alloc(callbacks, &funcs, ctx);

    yajl_config(json->yajl, yajl_dont_validate_strings, 1);

    status = yajl_parse(json->yajl, json->text.data, json->text.len);

    if (status == yajl_status_ok) {

        if (ngx_http_taptalent_trailing(json) != NGX_OK) {
            return NGX_ERROR;
        }

        status = yajl_complete_parse(json->yajl);
    }

    return (status == yajl_status_ok) ? NGX_OK : NGX_ERROR;
}


/* yajl takes an unfinished token after the text for more to come */

static ngx_int_t
ngx_http_taptalent_trailing(ngx_http_taptalent_json_t *json)
{
    u_char  *c, *last;

    if (json->end == 0) {
        return NGX_OK;
    }

    c = json->text.data + json->end;
    last = json->text.data + json->text.len;

    while (c < last) {

        if (*c != ' ' && *c != '\t' && *c != CR && *c != LF) {
            return NGX_ERROR;
        }

        c++;
    }

    return NGX_OK;
}


/*
 * RFC 8259, 8.1: UTF-8; 2: no control characters but HT, LF, CR, and those
 * only between tokens, which yajl sees to.
 */

static ngx_int_t
ngx_http_taptalent_check_bytes(ngx_http_taptalent_json_t *json)
{
    u_char    *p, *last;
    uint64_t   w;

    p = json->text.data;
    last = p + json->text.len;

    json->newline = 0;

    while (p < last) {

        if (last - p >= (ssize_t) sizeof(uint64_t)) {

            ngx_memcpy(&w, p, sizeof(uint64_t));

            /* no byte of the eight is below 0x20 or above 0x7f */

            if (((w | (w - 0x2020202020202020)) & 0x8080808080808080) == 0) {
                p += sizeof(uint64_t);
                continue;
            }
        }

        if (*p >= 0x80) {
            p = ngx_http_taptalent_utf8(p, last);
            if (p == NULL) {
                return NGX_ERROR;
            }

            continue;
        }

        if (*p < 0x20) {

            if (*p == CR || *p == LF) {
                json->newline = 1;

            } else if (*p != '\t') {
                return NGX_ERROR;
            }
        }

        p++;
    }

    return NGX_OK;
}


/* RFC 3629, 4: UTF8-2, UTF8-3 and UTF8-4 of the grammar */

static u_char *
ngx_http_taptalent_utf8(u_char *p, u_char *last)
{
    u_char      min, max;
    ngx_uint_t  n;

    min = 0x80;
    max = 0xbf;

    if (*p >= 0xc2 && *p <= 0xdf) {
        n = 1;

    } else if (*p >= 0xe0 && *p <= 0xef) {
        n = 2;

        if (*p == 0xe0) {
            min = 0xa0;

        } else if (*p == 0xed) {
            max = 0x9f;
        }

    } else if (*p >= 0xf0 && *p <= 0xf4) {
        n = 3;

        if (*p == 0xf0) {
            min = 0x90;

        } else if (*p == 0xf4) {
            max = 0x8f;
        }

    } else {
        return NULL;
    }

    for (p++; n; n--, p++) {

        if (p == last || *p < min || *p > max) {
            return NULL;
        }

        min = 0x80;
        max = 0xbf;
    }

    return p;
}


/*
 * A typical payload needs less than the arena.  What does not fit there is
 * allocated, and freed with the parser, if not before.
 */

static void *
ngx_http_taptalent_malloc(void *data, size_t size)
{
    ngx_http_taptalent_json_t *json = data;

    size_t                       n;
    u_char                      *end;
    ngx_http_taptalent_block_t  *block;

    end = (u_char *) json->arena + sizeof(json->arena);

    n = ngx_align(sizeof(ngx_http_taptalent_block_t) + size,
                  sizeof(uint64_t));

    if (n <= (size_t) (end - json->last)) {
        block = (ngx_http_taptalent_block_t *) json->last;
        json->last += n;
        block->next = NULL;

    } else {
        block = malloc(n);
        if (block == NULL) {
            longjmp(json->nomem, 1);
        }

        block->next = json->blocks;
        json->blocks = block;
    }

    block->size = size;

    return block + 1;
}


static void *
ngx_http_taptalent_realloc(void *data, void *old, size_t size)
{
    void                        *new;
    ngx_http_taptalent_block_t  *block;

    new = ngx_http_taptalent_malloc(data, size);

    if (old) {
        block = (ngx_http_taptalent_block_t *) old - 1;
        ngx_memcpy(new, old, ngx_min(block->size, size));
        ngx_http_taptalent_free(data, old);
    }

    return new;
}


static void
ngx_http_taptalent_free(void *data, void *old)
{
    ngx_http_taptalent_json_t *json = data;

    ngx_http_taptalent_block_t  *block, **prev;

    if (old == NULL) {
        return;
    }

    block = (ngx_http_taptalent_block_t *) old - 1;

    for (prev = &json->blocks; *prev; prev = &(*prev)->next) {

        if (*prev == block) {
            *prev = block->next;
            free(block);
            return;
        }
    }
}
