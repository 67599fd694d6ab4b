
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include "ngx_http_taptalent_headers.h"


/* The headers of a request that go with its event. */


/* a header that is kept, found by its name */

typedef struct {
    ngx_str_node_t                sn;
    ngx_http_taptalent_header_t  *header;
    u_char                       *last;      /* of a joined value, or NULL */
    ngx_uint_t                    repeated;
} ngx_http_taptalent_name_t;


static ngx_uint_t ngx_http_taptalent_headers_kept(ngx_table_elt_t *h,
    ngx_str_t *name);
static ngx_int_t ngx_http_taptalent_headers_join(ngx_http_request_t *r,
    ngx_rbtree_t *names);


/*
 * What the spool keeps.  There may be thousands of them, and as many names: a
 * tree keeps the work in bounds, whatever the sender has chosen.
 */

ngx_int_t
ngx_http_taptalent_headers_keep(ngx_http_request_t *r,
    ngx_http_taptalent_event_t *ev)
{
    uint32_t                    hash;
    ngx_str_t                   s;
    ngx_uint_t                  i, n, repeated;
    ngx_rbtree_t                tree;
    ngx_list_part_t            *part;
    ngx_table_elt_t            *h;
    ngx_rbtree_node_t           sentinel;
    ngx_http_taptalent_name_t  *name, *names;

    n = 0;

    for (part = &r->headers_in.headers.part; part; part = part->next) {
        n += part->nelts;
    }

    ev->nheaders = 0;
    ev->headers = ngx_palloc(r->pool, n * sizeof(ngx_http_taptalent_header_t));
    names = ngx_palloc(r->pool, n * sizeof(ngx_http_taptalent_name_t));

    if (ev->headers == NULL || names == NULL) {
        return NGX_ERROR;
    }

    ngx_rbtree_init(&tree, &sentinel, ngx_str_rbtree_insert_value);

    repeated = 0;

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (!ngx_http_taptalent_headers_kept(&h[i], &s)) {
                continue;
            }

            hash = ngx_crc32_short(s.data, s.len);

            name = (ngx_http_taptalent_name_t *)
                       ngx_str_rbtree_lookup(&tree, &s, hash);

            if (name) {
                name->header->value.len += sizeof(", ") - 1 + h[i].value.len;
                name->repeated = 1;
                repeated = 1;
                continue;
            }

            name = &names[ev->nheaders];

            name->sn.node.key = hash;
            name->sn.str = s;
            name->header = &ev->headers[ev->nheaders];
            name->header->name = s;
            name->header->value = h[i].value;
            name->last = NULL;
            name->repeated = 0;

            ngx_rbtree_insert(&tree, &name->sn.node);

            ev->nheaders++;
        }
    }

    return repeated ? ngx_http_taptalent_headers_join(r, &tree) : NGX_OK;
}


/*
 * Not the key.  With "ignore_invalid_headers off" there are names that would
 * damage a line of the spool.
 */

static ngx_uint_t
ngx_http_taptalent_headers_kept(ngx_table_elt_t *h, ngx_str_t *name)
{
    name->len = h->key.len;
    name->data = h->lowcase_key;

    return h->hash
           && ngx_http_taptalent_event_header(name->data, name->len)
           && !ngx_http_taptalent_name_is(name, "x-webhook-key");
}


/* RFC 9110, 5.3: fields of one name are one list */

static ngx_int_t
ngx_http_taptalent_headers_join(ngx_http_request_t *r, ngx_rbtree_t *names)
{
    u_char                     *p;
    ngx_str_t                   s;
    ngx_uint_t                  i;
    ngx_list_part_t            *part;
    ngx_table_elt_t            *h;
    ngx_http_taptalent_name_t  *name;

    for (part = &r->headers_in.headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++) {

            if (!ngx_http_taptalent_headers_kept(&h[i], &s)) {
                continue;
            }

            name = (ngx_http_taptalent_name_t *)
                       ngx_str_rbtree_lookup(names, &s,
                                             ngx_crc32_short(s.data, s.len));

            if (name == NULL || !name->repeated) {
                continue;
            }

            p = name->last;

            if (p == NULL) {
                p = ngx_pnalloc(r->pool, name->header->value.len);
                if (p == NULL) {
                    return NGX_ERROR;
                }

                name->header->value.data = p;

            } else {
                p = ngx_cpymem(p, ", ", sizeof(", ") - 1);
            }

            name->last = ngx_cpymem(p, h[i].value.data, h[i].value.len);
        }
    }

    return NGX_OK;
}
