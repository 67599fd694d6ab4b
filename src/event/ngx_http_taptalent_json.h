
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_JSON_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_JSON_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <setjmp.h>
#include <yajl/yajl_parse.h>


/* yajl, held to RFC 8259 */


typedef struct ngx_http_taptalent_block_s  ngx_http_taptalent_block_t;

struct ngx_http_taptalent_block_s {
    ngx_http_taptalent_block_t   *next;
    size_t                        size;
};


typedef struct {
    yajl_handle                   yajl;       /* for the callbacks */
    ngx_str_t                     text;
    size_t                        end;        /* of the value */
    unsigned                      newline:1;  /* the text holds CR or LF */

    jmp_buf                       nomem;
    ngx_http_taptalent_block_t   *blocks;
    u_char                       *last;
    uint64_t                      arena[512];
} ngx_http_taptalent_json_t;


/*
 * Parses "text", which must be one JSON text in well-formed UTF-8, with the
 * callbacks, which must not set yajl_integer and yajl_double, and must call
 * ngx_http_taptalent_json_end() with the end of the outermost value.  "ctx" is
 * theirs, "json" needs no initialization.  NGX_OK, NGX_ERROR if it is not one,
 * or if a callback has returned 0, and NGX_ABORT without memory.
 */
ngx_int_t ngx_http_taptalent_json_parse(ngx_http_taptalent_json_t *json,
    yajl_callbacks *callbacks, void *ctx, ngx_str_t *text);


#define ngx_http_taptalent_json_end(json)                                     \
    (json)->end = yajl_get_bytes_consumed((json)->yajl)


#endif /* _NGX_HTTP_TAPTALENT_JSON_H_INCLUDED_ */
