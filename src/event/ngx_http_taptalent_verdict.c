
/*
 * Copyright (C) the ngx_http_taptalent_webhook_module authors
 */


#include <ngx_config.h>
#include <ngx_core.h>
#include "ngx_http_taptalent_verdict.h"


/*
 * In the order of ngx_http_taptalent_verdict_e.  The message is for the sender,
 * the hint for the operator.
 */

ngx_http_taptalent_verdict_t  ngx_http_taptalent_verdicts[] = {

    { ngx_string("-"), 0, 0, NULL, "" },

    { ngx_string("accepted"), 200, 0, NULL, "" },

    { ngx_string("duplicate"), 200, 0, NULL, "" },

    { ngx_string("ignored"), 200, 0, NULL, "" },

    { ngx_string("method"), 405, NGX_LOG_INFO,
      "send the event with POST",
      "nothing of the sender's: it sends POST alone" },

    { ngx_string("https_required"), 403, NGX_LOG_INFO,
      "send the event over HTTPS",
      "if a balancer in front of nginx ends TLS, see taptalent_webhook_https "
      "in the documentation" },

    { ngx_string("content_type"), 415, NGX_LOG_INFO,
      "send one Content-Type header with application/json",
      "nothing of the sender's: it sends application/json" },

    { ngx_string("content_encoding"), 415, NGX_LOG_INFO,
      "send the body as it is, without a Content-Encoding",
      "nothing of the sender's: it does not compress" },

    { ngx_string("event_header"), 400, NGX_LOG_INFO,
      "send one X-Webhook-Event header with 1 to 128 letters, digits, dots, "
      "underscores, colons or hyphens",
      "nothing of the sender's: it names the event" },

    { ngx_string("timestamp_header"), 400, NGX_LOG_INFO,
      "send one X-Webhook-Timestamp header with a date-time of RFC 3339, "
      "such as 2024-01-20T14:45:00Z",
      "nothing of the sender's: it sends the time" },

    { ngx_string("key"), 401, NGX_LOG_WARN,
      "send the key of the dashboard in one X-Webhook-Key header",
      "is the key of the dashboard in taptalent_webhook_key? was it changed?" },

    { ngx_string("signature"), 401, NGX_LOG_WARN,
      "sign the event with the key of this endpoint",
      "is it the key, and the scheme, that the sender signs with?" },

    { ngx_string("too_large"), 413, NGX_LOG_INFO,
      "send a smaller body",
      "if events may be that large, raise client_max_body_size in this "
      "location" },

    { ngx_string("json"), 400, NGX_LOG_INFO,
      "send one JSON text as the body",
      "if the sender really sends this, tell it, with the time and the id" },

    { ngx_string("payload"), 422, NGX_LOG_INFO,
      "send an object with event, timestamp, companyId and data",
      "if it is companyId that is missing: taptalent_webhook_company_id ... "
      "missing=accept takes it" },

    { ngx_string("event_mismatch"), 422, NGX_LOG_INFO,
      "send the same event in the header and in the body",
      "if the sender really sends this, tell it, with the time and the id" },

    { ngx_string("company_id"), 403, NGX_LOG_WARN,
      "this companyId is not received here",
      "if the company is yours, add it to taptalent_webhook_company_id" },

    { ngx_string("stale"), 422, NGX_LOG_INFO,
      "the timestamp is too far from now, send the event when it happens",
      "is the clock of this machine right? see taptalent_webhook_tolerance" },

    { ngx_string("unavailable"), 503, NGX_LOG_INFO,
      "send the event again, it could not be stored",
      "see the spools above and the error log of nginx" }
};


typedef char  ngx_http_taptalent_verdicts_are_complete[
    sizeof(ngx_http_taptalent_verdicts) / sizeof(ngx_http_taptalent_verdict_t)
    == NGX_HTTP_TAPTALENT_VERDICTS ? 1 : -1];


ngx_uint_t
ngx_http_taptalent_verdict_enforceable(ngx_http_taptalent_verdict_e verdict)
{
    return verdict == NGX_HTTP_TAPTALENT_KEY
           || verdict == NGX_HTTP_TAPTALENT_SIGNATURE
           || verdict == NGX_HTTP_TAPTALENT_STALE
           || verdict == NGX_HTTP_TAPTALENT_COMPANY_ID;
}
