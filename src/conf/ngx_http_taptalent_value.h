
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#ifndef _NGX_HTTP_TAPTALENT_VALUE_H_INCLUDED_
#define _NGX_HTTP_TAPTALENT_VALUE_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>


/* What the arguments of directives have in common, for the files of conf/. */


#define NGX_HTTP_TAPTALENT_MAX_SECRET  4096  /* bytes */


/* "value" with its variables; NGX_ERROR after a line, or without memory */
ngx_int_t ngx_http_taptalent_value_compile(ngx_conf_t *cf, ngx_str_t *value,
    ngx_http_complex_value_t *cv);

/*
 * Whether no argument before the n-th one sets the same parameter: what stands
 * before the separator.  NGX_ERROR after a line that says so.
 */
ngx_int_t ngx_http_taptalent_value_once(ngx_conf_t *cf, ngx_uint_t n,
    u_char separator);

/*
 * Sets "secret" to the value itself, or, after "file:", to what is in the
 * file, in the caller's buffer of NGX_HTTP_TAPTALENT_MAX_SECRET + 1 bytes.
 * NGX_ERROR after a line that says what to write.
 */
ngx_int_t ngx_http_taptalent_value_secret(ngx_conf_t *cf,
    ngx_str_t *value, u_char *buf, ngx_str_t *secret);


#endif /* _NGX_HTTP_TAPTALENT_VALUE_H_INCLUDED_ */
