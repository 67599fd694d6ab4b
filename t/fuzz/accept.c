
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include "fuzz.h"


/*
 * accept EVENT [missing]: reads bodies, each after its length in four bytes,
 * the most significant one first, and prints a line for each: the verdict of
 * the parser with EVENT as the header, the companyId as a text and as it stands
 * in the body, both in hexadecimal.  "missing" is missing=accept.
 */


static void accept_body(ngx_str_t *body, ngx_str_t *name, ngx_uint_t missing);
static void accept_print(ngx_str_t *s);


int
main(int argc, char **argv)
{
    u_char     *p, length[4];
    ngx_str_t   body, name;

    if (argc < 2) {
        fprintf(stderr, "usage: %s EVENT [missing]\n", argv[0]);
        return 2;
    }

    name.data = (u_char *) argv[1];
    name.len = ngx_strlen(argv[1]);

    while (fread(length, 1, 4, stdin) == 4) {

        body.len = (size_t) length[0] << 24 | length[1] << 16 | length[2] << 8
                   | length[3];

        p = malloc(body.len);
        body.data = p;

        if (p == NULL || fread(p, 1, body.len, stdin) != body.len) {
            fprintf(stderr, "%s: the input ends early\n", argv[0]);
            return 2;
        }

        accept_body(&body, &name, argc > 2);

        free(p);
    }

    return 0;
}


static void
accept_body(ngx_str_t *body, ngx_str_t *name, ngx_uint_t missing)
{
    const char                    *why, *word;
    ngx_http_taptalent_event_t     ev;

    ngx_memzero(&ev, sizeof(ngx_http_taptalent_event_t));

    ev.body = *body;
    ev.name = *name;
    ev.missing_company_id = missing;

    switch (ngx_http_taptalent_event_parse(&ev, &why)) {

    case NGX_HTTP_TAPTALENT_NONE:
        word = "accepted";
        break;

    case NGX_HTTP_TAPTALENT_JSON:
        word = "json";
        break;

    case NGX_HTTP_TAPTALENT_PAYLOAD:
        word = "payload";
        break;

    case NGX_HTTP_TAPTALENT_EVENT_MISMATCH:
        word = "event_mismatch";
        break;

    default:
        word = "unavailable";
    }

    printf("%s ", word);
    accept_print(&ev.company_id);
    printf(" ");
    accept_print(&ev.company_json);
    printf("\n");
}


static void
accept_print(ngx_str_t *s)
{
    size_t  i;

    /* a field is never empty */

    printf("=");

    for (i = 0; i < s->len; i++) {
        printf("%02x", s->data[i]);
    }
}
