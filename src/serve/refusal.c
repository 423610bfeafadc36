/* SPDX-License-Identifier: MIT */
#include "serve/refusal.h"

#include "text/utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    int http;
    const char *type, *reason;
} kinds[] = {
    {400, "invalid_request_error", "Bad Request"},
    {401, "invalid_request_error", "Unauthorized"},
    {403, "permission_error", "Forbidden"},
    {404, "invalid_request_error", "Not Found"},
    {405, "invalid_request_error", "Method Not Allowed"},
    {408, "timeout_error", "Request Timeout"},
    {413, "invalid_request_error", "Content Too Large"},
    {429, "rate_limit_error", "Too Many Requests"},
    {431, "invalid_request_error", "Request Header Fields Too Large"},
    {500, "server_error", "Internal Server Error"},
    {503, "unavailable_error", "Service Unavailable"},
    {504, "timeout_error", "Gateway Timeout"},
};
enum { N_KINDS = sizeof kinds / sizeof kinds[0] };

static const char *type_of(const bal_refusal *f)
{
    if (f->n_ctx > 0) return "exceed_context_size_error";
    for (int i = 0; i < N_KINDS; i++)
        if (kinds[i].http == f->http) return kinds[i].type;
    return "server_error";
}

const char *bal_http_reason(int status)
{
    for (int i = 0; i < N_KINDS; i++)
        if (kinds[i].http == status) return kinds[i].reason;
    return status == 200 ? "OK" : "Error";
}

bal_status bal_refuse(bal_refusal *f, int http, const char *code, const char *param,
                      const char *fmt, ...)
{
    *f = (bal_refusal){.http = http, .code = code};
    if (param) snprintf(f->param, sizeof f->param, "%s", param);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(f->message, sizeof f->message, fmt, ap);
    va_end(ap);
    return BAL_E_ARG;
}

static int http_of(bal_status status)
{
    switch (status) {
    case BAL_E_ARG:
    case BAL_E_FORMAT:
    case BAL_E_UNSUP: return 400;
    case BAL_E_CAPACITY: return 429;
    case BAL_E_CANCELLED: return 503;
    default: return 500;
    }
}

bal_status bal_refuse_for(bal_refusal *f, const bal_error *err, const char *param)
{
    const int http = http_of(err->status);
    return bal_refuse(f, http, http == 400 ? "invalid_value" : NULL, param, "%s", err->text);
}

/* Messages quote the client's bytes and may be cut: only whole, well-formed characters go out. */
static json_t *text_json(const char *s)
{
    char *good = NULL;
    size_t n = 0;
    if (bal_utf8_repair(&good, &n, s, strlen(s), NULL) < 0) return NULL;
    json_t *v = json_stringn(good, n);
    free(good);
    return v;
}

json_t *bal_refusal_json(const bal_refusal *f)
{
    json_t *e =
        json_pack("{s:o, s:s, s:o, s:s?}", "message", text_json(f->message), "type", type_of(f),
                  "param", f->param[0] ? text_json(f->param) : json_null(), "code", f->code);
    if (e && f->n_ctx > 0) {
        json_object_set_new(e, "n_prompt_tokens", json_integer(f->n_prompt));
        json_object_set_new(e, "n_ctx", json_integer(f->n_ctx));
    }
    return e ? json_pack("{s:o}", "error", e) : NULL;
}

char *bal_refusal_text(const bal_refusal *f)
{
    json_t *v = bal_refusal_json(f);
    char *text = v ? json_dumps(v, JSON_COMPACT) : NULL;
    json_decref(v);
    return text;
}
