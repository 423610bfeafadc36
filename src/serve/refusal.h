/* SPDX-License-Identifier: MIT
 * A refusal as a client of an OpenAI-compatible endpoint expects it:
 *     {"error": {"message": ..., "type": ..., "param": ... or null, "code": ... or null}}
 * with the HTTP status that belongs to it. Everything in src/serve that judges a request reports
 * through this, so that the sentence, the parameter and the status are decided where the fault is
 * found. */
#ifndef BAL_SERVE_REFUSAL_H
#define BAL_SERVE_REFUSAL_H

#include "base/status.h"

#include <jansson.h>

enum { BAL_PARAM_MAX = 128 };

typedef struct bal_refusal {
    int http;                  /* 400, 401, ...; 0 while nothing failed */
    const char *code;          /* static; NULL for null */
    char param[BAL_PARAM_MAX]; /* "messages[0].content"; empty for null */
    char message[640];
    int n_prompt, n_ctx; /* both set where a prompt exceeds the context: the type says so too */
} bal_refusal;

/* Fills *f and returns BAL_E_ARG, so that a failing line reads
 *     return bal_refuse(f, 400, "invalid_value", "temperature", "temperature: %g, ...", t);
 * code and param may be NULL. */
bal_status bal_refuse(bal_refusal *f, int http, const char *code, const char *param,
                      const char *fmt, ...) BAL_PRINTF(5, 6);

/* A library failure as a refusal: what the client can change is 400, what it cannot is 500. */
bal_status bal_refuse_for(bal_refusal *f, const bal_error *err, const char *param);

/* The object above; NULL only when memory is short. */
json_t *bal_refusal_json(const bal_refusal *f);
/* The same as compact text, malloc'ed; NULL when memory is short. */
char *bal_refusal_text(const bal_refusal *f);

/* "Bad Request" for 400 and so on; never NULL. */
const char *bal_http_reason(int status);

#endif
