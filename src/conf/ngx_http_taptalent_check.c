
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>
#include <sys/statvfs.h>
#include "ngx_http_taptalent_check.h"


/*
 * What only the whole configuration tells: spools inside of each other, and
 * locations that are right by themselves and lose or refuse every event.
 *
 * An error is what cannot work.  The rest are warnings: other modules may do
 * what is not seen here.
 */


#define NGX_HTTP_TAPTALENT_SAME   1
#define NGX_HTTP_TAPTALENT_BELOW  2


/* Angie has an object between the tree of locations and a configuration */

#if (defined angie_version && angie_version >= 1003000)

typedef ngx_http_core_loc_t  ngx_http_taptalent_check_loc_t;

#define ngx_http_taptalent_check_conf(loc)  (loc)->conf

#else

typedef ngx_http_core_loc_conf_t  ngx_http_taptalent_check_loc_t;

#define ngx_http_taptalent_check_conf(loc)  (loc)

#endif


static ngx_int_t ngx_http_taptalent_check_nested(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *inner, ngx_http_taptalent_commit_t *outer);
static ngx_int_t ngx_http_taptalent_check_paths(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *c);
static ngx_uint_t ngx_http_taptalent_check_inside(ngx_str_t *inner,
    ngx_str_t *outer);
static void ngx_http_taptalent_check_real(ngx_str_t *path, u_char *real);

static ngx_uint_t ngx_http_taptalent_check_tls(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
static void ngx_http_taptalent_check_before(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
static ngx_int_t ngx_http_taptalent_check_target(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf);
static void ngx_http_taptalent_check_found(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf, ngx_http_core_loc_conf_t *clcf);
static ngx_int_t ngx_http_taptalent_check_find(
    ngx_http_core_loc_conf_t *pclcf, ngx_str_t *uri,
    ngx_http_taptalent_check_loc_t **found);
static ngx_int_t ngx_http_taptalent_check_find_static(
    ngx_http_location_tree_node_t *node, ngx_str_t *uri,
    ngx_http_taptalent_check_loc_t **found);
static ngx_uint_t ngx_http_taptalent_check_return(ngx_conf_t *cf,
    void **loc_conf);
static void *ngx_http_taptalent_check_private(ngx_conf_t *cf, void **loc_conf,
    const char *name);


/*
 * A spool under another name would be forwarded by two, a quarantine in new/
 * forwarded, and as a quarantine, or below a cache, a spool would be trimmed.
 */

ngx_int_t
ngx_http_taptalent_check_spools(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf)
{
    ngx_uint_t                         i, k;
    ngx_http_taptalent_spool_conf_t  **scp;

    scp = tmcf->spools.elts;

    for (i = 0; i < tmcf->spools.nelts; i++) {

        if (!scp[i]->commit.used) {
            continue;
        }

        if (ngx_http_taptalent_check_paths(cf, &scp[i]->commit) != NGX_OK) {
            return NGX_ERROR;
        }

        for (k = 0; k < tmcf->spools.nelts; k++) {

            if (k != i && scp[k]->commit.used
                && ngx_http_taptalent_check_nested(cf, &scp[i]->commit,
                                                   &scp[k]->commit)
                   != NGX_OK)
            {
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_taptalent_check_nested(ngx_conf_t *cf,
    ngx_http_taptalent_commit_t *inner, ngx_http_taptalent_commit_t *outer)
{
    switch (ngx_http_taptalent_check_inside(&inner->spool.path,
                                            &outer->spool.path))
    {

    case NGX_HTTP_TAPTALENT_SAME:

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"%V\" in %s:%ui and \"%V\" in %s:%ui are one "
                      "directory, write it in the same way in both, or "
                      "another one", &inner->spool.path, inner->file,
                      inner->line, &outer->spool.path, outer->file,
                      outer->line);
        return NGX_ERROR;

    case NGX_HTTP_TAPTALENT_BELOW:

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"%V\" in %s:%ui is inside of the %s \"%V\" in "
                      "%s:%ui, write the path of a directory beside it",
                      &inner->spool.path, inner->file, inner->line,
                      outer->max_size ? "quarantine" : "spool",
                      &outer->spool.path, outer->file, outer->line);
        return NGX_ERROR;

    default:
        return NGX_OK;
    }
}


/* nginx's own files: temporary ones, and caches, which it empties */

static ngx_int_t
ngx_http_taptalent_check_paths(ngx_conf_t *cf, ngx_http_taptalent_commit_t *c)
{
    ngx_uint_t    i;
    ngx_path_t  **path;

    path = cf->cycle->paths.elts;

    for (i = 0; i < cf->cycle->paths.nelts; i++) {

        if (!ngx_http_taptalent_check_inside(&path[i]->name, &c->spool.path)
            && (path[i]->loader == NULL
                || !ngx_http_taptalent_check_inside(&c->spool.path,
                                                    &path[i]->name)))
        {
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "the spool \"%V\" in %s:%ui and \"%V\", where nginx "
                      "keeps other files, are inside of each other, write "
                      "another path", &c->spool.path, c->file, c->line,
                      &path[i]->name);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* whether the inner path is that of the other directory, or is below it */

static ngx_uint_t
ngx_http_taptalent_check_inside(ngx_str_t *inner, ngx_str_t *outer)
{
    u_char           *p;
    u_char            path[NGX_MAX_PATH * 2], real[NGX_MAX_PATH * 2];
    ngx_uint_t        depth, there;
    ngx_file_info_t   fi, other;

    ngx_http_taptalent_check_real(inner, path);
    ngx_http_taptalent_check_real(outer, real);

    there = (stat((char *) real, &other) == 0);
    depth = NGX_HTTP_TAPTALENT_SAME;

    /* a directory may be mounted at two places, so names are not enough */

    while (path[0]) {

        if (ngx_strcmp(path, real) == 0
            || (there && stat((char *) path, &fi) == 0
                && fi.st_dev == other.st_dev
                && ngx_file_uniq(&fi) == ngx_file_uniq(&other)))
        {
            return depth;
        }

        depth = NGX_HTTP_TAPTALENT_BELOW;

        p = (u_char *) strrchr((char *) path, '/');

        if (p == NULL) {
            break;
        }

        *p = '\0';
    }

    return 0;
}


/* without links, as far as it is there */

static void
ngx_http_taptalent_check_real(ngx_str_t *path, u_char *real)
{
    char    *r, *p;
    size_t   len;
    u_char   there[NGX_MAX_PATH];

    (void) ngx_cpystrn(there, path->data, NGX_MAX_PATH);

    len = ngx_strlen(there);

    for ( ;; ) {

        r = realpath(len ? (char *) there : "/", NULL);

        p = strrchr((char *) there, '/');

        if (r || p == NULL) {
            break;
        }

        *p = '\0';
        len = p - (char *) there;
    }

    /* the rest begins with a slash */

    ngx_sprintf(real, "%s%s%Z", r && ngx_strcmp(r, "/") != 0 ? r : "",
                path->data + len);

    free(r);
}


/* what keeps a worker from adding to a spool that is right otherwise */

void
ngx_http_taptalent_check_disk(ngx_http_taptalent_commit_t *c, ngx_log_t *log)
{
    off_t            size;
    u_char           parent[NGX_MAX_PATH];
    struct statvfs   fs;

    if (statvfs((char *) c->spool.path.data, &fs) == -1) {

        ngx_http_taptalent_spool_prepare_parent(&c->spool, parent);

        if (statvfs((char *) parent, &fs) == -1) {
            return;
        }
    }

    if (fs.f_flag & ST_RDONLY) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "\"%V\" in %s:%ui is on a filesystem that is mounted "
                      "read-only, all events are refused, write the path of "
                      "another one", &c->spool.path, c->file, c->line);
    }

    size = (off_t) fs.f_blocks * fs.f_frsize;

    if (c->max_size == 0 && c->min_free > size) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "\"min_free\" of the spool \"%V\" in %s:%ui is more "
                      "than the %O bytes of its filesystem, all events are "
                      "refused, write less", &c->spool.path, c->file, c->line,
                      size);
    }
}


/*
 * Whether a worker gets to the spool, looked at with its rights.  Of "nginx -t"
 * only, which ends soon: a master keeps its rights, and a worker says it.
 */

void
ngx_http_taptalent_check_way(ngx_http_taptalent_commit_t *c,
    ngx_core_conf_t *ccf, ngx_log_t *log)
{
    char             *name;
    u_char            parent[NGX_MAX_PATH];
    ngx_err_t         err;
    ngx_file_info_t   fi;

    if (!ngx_test_config || geteuid() != 0
        || ccf->user == (ngx_uid_t) NGX_CONF_UNSET_UINT || ccf->user == 0)
    {
        return;
    }

    ngx_http_taptalent_spool_prepare_parent(&c->spool, parent);

    name = (char *) c->spool.dirs[0]->name.data;
    err = 0;

    if (initgroups(ccf->username, ccf->group) == 0
        && setegid(ccf->group) == 0 && seteuid(ccf->user) == 0)
    {
        if (lstat(name, &fi) == -1 && ngx_errno == NGX_ENOENT) {
            name = (char *) parent;
        }

        if (lstat(name, &fi) == -1) {
            err = ngx_errno;
        }
    }

    if (seteuid(0) == -1 || setegid(0) == -1) {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno, "seteuid(0) failed");
    }

    if (err == NGX_EACCES) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "a directory above the spool \"%V\" in %s:%ui is closed "
                      "to the user \"%s\", all events are refused, write the "
                      "path of one that is open, such as \"/var/spool\"",
                      &c->spool.path, c->file, c->line, ccf->username);
    }
}


/* a block of "if" or "limit_except" is a part of its location */

ngx_int_t
ngx_http_taptalent_check_add_location(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    ngx_http_core_loc_conf_t         *clcf;
    ngx_http_taptalent_loc_conf_t   **tlcfp;
    ngx_http_taptalent_main_conf_t   *tmcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    if (clcf->noname) {
        return NGX_OK;
    }

    tmcf = ngx_http_conf_get_module_main_conf(cf,
                                           ngx_http_taptalent_webhook_module);

    tlcfp = ngx_array_push(&tmcf->locations);
    if (tlcfp == NULL) {
        return NGX_ERROR;
    }

    *tlcfp = conf;

    return NGX_OK;
}


ngx_int_t
ngx_http_taptalent_check_locations(ngx_conf_t *cf,
    ngx_http_taptalent_main_conf_t *tmcf)
{
    ngx_uint_t                       i;
    ngx_http_core_loc_conf_t        *clcf;
    ngx_http_taptalent_loc_conf_t   *conf, **tlcfp;

    tlcfp = tmcf->locations.elts;

    for (i = 0; i < tmcf->locations.nelts; i++) {

        conf = tlcfp[i];
        clcf = conf->conf_ctx->loc_conf[ngx_http_core_module.ctx_index];

        if (conf->https && conf->https_value == NULL && !clcf->internal
            && !ngx_http_taptalent_check_tls(cf, conf))
        {
            ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                          "\"taptalent_webhook on\" in %s:%ui takes events "
                          "over HTTPS only, and nothing that its server "
                          "listens on has \"ssl\": all events are refused, "
                          "write \"listen 443 ssl\", or, behind a balancer, "
                          "\"taptalent_webhook_https\" with a variable",
                          conf->file, conf->line);
        }

        ngx_http_taptalent_check_before(cf, conf);

        /* of locations with one spool the first one forwards */

        if (conf->forward && conf->forward->uri->lengths == NULL
            && (conf->spool == NULL || conf->spool->forward == conf->forward)
            && ngx_http_taptalent_check_target(cf, conf) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_taptalent_check_tls(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    ngx_uint_t                   p, a, s;
    ngx_http_conf_addr_t        *addr;
    ngx_http_conf_port_t        *port;
    ngx_http_core_srv_conf_t   **cscfp, *cscf;
    ngx_http_core_main_conf_t   *cmcf;

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);
    cscf = conf->conf_ctx->srv_conf[ngx_http_core_module.ctx_index];

#if (NGX_HTTP_SSL && nginx_version < 1025001)
    {
    ngx_http_ssl_srv_conf_t  *sscf;

    sscf = conf->conf_ctx->srv_conf[ngx_http_ssl_module.ctx_index];

    if (sscf->enable == 1) {
        return 1;
    }
    }
#endif

    if (cmcf->ports == NULL) {
        return 1;
    }

    port = cmcf->ports->elts;

    for (p = 0; p < cmcf->ports->nelts; p++) {

        addr = port[p].addrs.elts;

        for (a = 0; a < port[p].addrs.nelts; a++) {

#if (NGX_HTTP_V3)
            if (!addr[a].opt.ssl && !addr[a].opt.quic) {
                continue;
            }
#else
            if (!addr[a].opt.ssl) {
                continue;
            }
#endif

            cscfp = addr[a].servers.elts;

            for (s = 0; s < addr[a].servers.nelts; s++) {
                if (cscfp[s] == cscf) {
                    return 1;
                }
            }
        }
    }

    return 0;
}


/* what answers before a content handler can */

static void
ngx_http_taptalent_check_before(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    void                      **loc_conf;
    const char                 *what, *where;
    ngx_http_core_srv_conf_t   *cscf;

    cscf = conf->conf_ctx->srv_conf[ngx_http_core_module.ctx_index];
    loc_conf = conf->conf_ctx->loc_conf;

    where = "location";

    if (ngx_http_taptalent_check_return(cf, cscf->ctx->loc_conf)) {
        what = "return";
        where = "server";

    } else if (ngx_http_taptalent_check_return(cf, loc_conf)) {
        what = "return";

    } else if (ngx_http_taptalent_check_private(cf, loc_conf,
                                                "ngx_http_try_files_module"))
    {
        what = "try_files";

    } else {
        return;
    }

    ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                  "\"%s\" in the %s of \"taptalent_webhook on\" in %s:%ui "
                  "answers all events before they are taken, write it in "
                  "another location", what, where, conf->file, conf->line);
}


static ngx_int_t
ngx_http_taptalent_check_target(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf)
{
    u_char                          *src, *dst, *last;
    ngx_int_t                        rc;
    ngx_str_t                       *forward, uri;
    ngx_http_core_loc_conf_t        *clcf;
    ngx_http_core_srv_conf_t        *cscf;
    ngx_http_taptalent_loc_conf_t   *tlcf;
    ngx_http_taptalent_check_loc_t  *found;

    forward = &conf->forward->uri->value;

    uri.data = ngx_pstrdup(cf->temp_pool, forward);
    if (uri.data == NULL) {
        return NGX_ERROR;
    }

    last = ngx_strlchr(uri.data, uri.data + forward->len, '?');

    if (last == NULL) {
        last = uri.data + forward->len;
    }

    src = uri.data;
    dst = uri.data;
    ngx_unescape_uri(&dst, &src, last - uri.data, 0);
    uri.len = dst - uri.data;

    cscf = conf->conf_ctx->srv_conf[ngx_http_core_module.ctx_index];
    clcf = cscf->ctx->loc_conf[ngx_http_core_module.ctx_index];

    found = NULL;
    rc = ngx_http_taptalent_check_find(clcf, &uri, &found);

    if (found == NULL || rc == NGX_DONE) {

        /* a "rewrite" of the server may lead to another location */

        if (ngx_http_taptalent_check_private(cf, cscf->ctx->loc_conf,
                                             "ngx_http_rewrite_module"))
        {
            return NGX_OK;
        }

        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "\"taptalent_webhook_forward %V\" for "
                      "\"taptalent_webhook on\" in %s:%ui finds no location "
                      "in its server, no event arrives, write \"location = "
                      "%V\" with \"internal\" and the \"proxy_pass\" to the "
                      "application", forward, conf->file, conf->line, &uri);
        return NGX_OK;
    }

    clcf = ngx_http_taptalent_check_conf(found);
    tlcf = clcf->loc_conf[ngx_http_taptalent_webhook_module.ctx_index];

    if (tlcf->mode == NGX_HTTP_TAPTALENT_ON && tlcf->forward) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"taptalent_webhook_forward %V\" for "
                      "\"taptalent_webhook on\" in %s:%ui leads to the "
                      "location of that in %s:%ui, write the path of another "
                      "one, that passes events to the application",
                      forward, conf->file, conf->line, tlcf->file,
                      tlcf->line);
        return NGX_ERROR;
    }

    ngx_http_taptalent_check_found(cf, conf, clcf);

    return NGX_OK;
}


static void
ngx_http_taptalent_check_found(ngx_conf_t *cf,
    ngx_http_taptalent_loc_conf_t *conf, ngx_http_core_loc_conf_t *clcf)
{
    ngx_str_t   *forward;
    ngx_uint_t   status;

    forward = &conf->forward->uri->value;

    if (!clcf->internal) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "the location \"%V\" of \"taptalent_webhook_forward "
                      "%V\" in %s:%ui is open to anybody, past all checks, "
                      "write \"internal;\" in it", &clcf->name, forward,
                      conf->file, conf->line);
    }

    status = ngx_http_taptalent_check_return(cf, clcf->loc_conf);

    if (status) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "the location \"%V\" of \"taptalent_webhook_forward "
                      "%V\" in %s:%ui answers all events with \"return %ui\", "
                      "and no application gets one, write \"proxy_pass\" "
                      "instead", &clcf->name, forward, conf->file, conf->line,
                      status);
        return;
    }

    if (clcf->handler == NULL
        && ngx_http_taptalent_check_private(cf, clcf->loc_conf,
                                            "ngx_http_rewrite_module")
           == NULL
        && ngx_http_taptalent_check_private(cf, clcf->loc_conf,
                                            "ngx_http_try_files_module")
           == NULL)
    {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "the location \"%V\" of \"taptalent_webhook_forward "
                      "%V\" in %s:%ui passes events to nobody, write "
                      "\"proxy_pass\" in it, with the application",
                      &clcf->name, forward, conf->file, conf->line);
    }
}


/* as ngx_http_core_find_location(), which has to have a request */

static ngx_int_t
ngx_http_taptalent_check_find(ngx_http_core_loc_conf_t *pclcf, ngx_str_t *uri,
    ngx_http_taptalent_check_loc_t **found)
{
    ngx_int_t                         rc;
#if (NGX_PCRE)
    ngx_uint_t                        noregex;
    ngx_http_taptalent_check_loc_t  **locp;

    noregex = 0;
#endif

    rc = ngx_http_taptalent_check_find_static(pclcf->static_locations, uri,
                                              found);

    if (rc == NGX_AGAIN) {

#if (NGX_PCRE)
        noregex = (*found)->noregex;
#endif

        rc = ngx_http_taptalent_check_find(
                          ngx_http_taptalent_check_conf(*found), uri, found);
    }

    if (rc == NGX_OK || rc == NGX_DONE) {
        return rc;
    }

#if (NGX_PCRE)

    if (noregex == 0 && pclcf->regex_locations) {

        for (locp = pclcf->regex_locations; *locp; locp++) {

            if (ngx_regex_exec((*locp)->regex->regex, uri, NULL, 0) >= 0) {
                *found = *locp;

                (void) ngx_http_taptalent_check_find(
                          ngx_http_taptalent_check_conf(*found), uri, found);

                return NGX_OK;
            }
        }
    }

#endif

    return rc;
}


/* as ngx_http_core_find_static_location() */

static ngx_int_t
ngx_http_taptalent_check_find_static(ngx_http_location_tree_node_t *node,
    ngx_str_t *uri, ngx_http_taptalent_check_loc_t **found)
{
    size_t      n;
    ngx_int_t   rc, rv;
    ngx_str_t   rest;

    rest = *uri;
    rv = NGX_DECLINED;

    while (node) {

        n = ngx_min(rest.len, (size_t) node->len);

        rc = ngx_filename_cmp(rest.data, node->name, n);

        if (rc != 0) {
            node = (rc < 0) ? node->left : node->right;
            continue;
        }

        if (rest.len > (size_t) node->len) {

            if (node->inclusive) {
                *found = node->inclusive;
                rv = NGX_AGAIN;

                node = node->tree;
                rest.data += n;
                rest.len -= n;
                continue;
            }

            node = node->right;
            continue;
        }

        if (rest.len == (size_t) node->len) {
            *found = node->exact ? node->exact : node->inclusive;
            return node->exact ? NGX_OK : NGX_AGAIN;
        }

        /* "/name" for "/name/" is answered by a redirect */

        if (rest.len + 1 == (size_t) node->len && node->auto_redirect) {
            *found = node->exact ? node->exact : node->inclusive;
            rv = NGX_DONE;
        }

        node = node->left;
    }

    return rv;
}


/*
 * The status of a "return" that all requests get, or 0: one that stands first,
 * or after "set" with constants.
 */

static ngx_uint_t
ngx_http_taptalent_check_return(ngx_conf_t *cf, void **loc_conf)
{
    u_char                         *p;
    ngx_array_t                    *codes;
    ngx_http_script_code_pt         code;
    ngx_http_script_return_code_t  *ret;

    codes = ngx_http_taptalent_check_private(cf, loc_conf,
                                             "ngx_http_rewrite_module");

    if (codes == NULL) {
        return 0;
    }

    p = codes->elts;

    for ( ;; ) {

        code = *(ngx_http_script_code_pt *) p;

        if (code == ngx_http_script_value_code) {
            p += sizeof(ngx_http_script_value_code_t);

        } else if (code == ngx_http_script_set_var_code) {
            p += sizeof(ngx_http_script_var_code_t);

        } else {
            break;
        }
    }

    if (code != ngx_http_script_return_code) {
        return 0;
    }

    ret = (ngx_http_script_return_code_t *) p;

    return ret->status;
}


/*
 * The first member of a module's configuration of a location, whose type is
 * known to that module alone: in rewrite's the codes, an ngx_array_t, in
 * try_files' the files.  It is so in the versions that were looked at, up to
 * 1.31, in freenginx and in Angie; in others nothing is seen.
 */

static void *
ngx_http_taptalent_check_private(ngx_conf_t *cf, void **loc_conf,
    const char *name)
{
#if (nginx_version < 1032000)

    void         **first;
    ngx_uint_t     i;
    ngx_module_t  *module;

    for (i = 0; cf->cycle->modules[i]; i++) {

        module = cf->cycle->modules[i];

        if (module->type == NGX_HTTP_MODULE
            && ngx_strcmp(module->name, name) == 0)
        {
            first = loc_conf[module->ctx_index];
            return first ? *first : NULL;
        }
    }

#endif

    return NULL;
}
