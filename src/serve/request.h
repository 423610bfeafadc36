/* SPDX-License-Identifier: MIT
 * Bodies of /v1/chat/completions, /v1/completions, /tokenize and /detokenize, read and checked.
 * Nothing here needs a model: what depends on one (its name, its vocabulary, the context) is
 * checked where it is known. Fields this file does not name are ignored, as clients expect, except
 * those that would change the answer (tools, audio): these are refused by name. */
#ifndef BAL_SERVE_REQUEST_H
#define BAL_SERVE_REQUEST_H

#include "format/json.h"
#include "run/scheduler.h"
#include "serve/refusal.h"

enum {
    BAL_REQUEST_MAX_STOPS = 16,
    BAL_REQUEST_MAX_STOP_BYTES = 1024,
    BAL_REQUEST_MAX_CHOICES = 128, /* prompts times n */
    BAL_REQUEST_MAX_VALUES = 1 << 18,
    BAL_REQUEST_MAX_GROUPS = 1 << 16, /* arrays and objects */
};

typedef enum bal_request_kind {
    BAL_REQUEST_CHAT,
    BAL_REQUEST_COMPLETION,
    BAL_REQUEST_TOKENIZE,
    BAL_REQUEST_DETOKENIZE,
} bal_request_kind;

typedef struct bal_request_limits {
    int max_images;  /* of one request */
    int max_choices; /* n, at most BAL_REQUEST_MAX_CHOICES */
} bal_request_limits;

/* A picture as the request names it: a data, http(s) or file URL, borrowed from the document. */
typedef struct bal_image_ref {
    const char *url;
    size_t n;
    char param[BAL_PARAM_MAX]; /* "messages[0].content[1].image_url" */
} bal_image_ref;

/* A prompt of /v1/completions: text, or ids when text is NULL. */
typedef struct bal_prompt {
    const char *text;
    size_t n;
    int32_t *ids;
    size_t n_ids;
} bal_prompt;

typedef enum bal_format { BAL_FORMAT_TEXT, BAL_FORMAT_OBJECT, BAL_FORMAT_SCHEMA } bal_format;

/* Zero-initialise; bal_api_request_free in every case. Strings live in `doc` and `texts`. */
typedef struct bal_api_request {
    bal_json_doc doc;
    bal_request_kind kind;
    const char *model; /* NULL: not said */

    bal_chat_message *messages; /* chat, and tokenize where it has them */
    char **texts;               /* [n_messages] */
    size_t n_messages;
    bal_image_ref *images; /* in the order of the slots */
    int n_images;
    bal_prompt *prompts; /* completion, tokenize and detokenize */
    size_t n_prompts;
    bool echo;

    int n;          /* choices of each prompt */
    int max_tokens; /* -1: not said */
    bool stream, include_usage;
    bal_sampling sampling;
    bool has_seed;
    float presence_penalty, frequency_penalty, repetition_penalty;
    bal_logit_bias *bias;
    int n_bias;
    const char *stops[BAL_REQUEST_MAX_STOPS];
    int n_stops;
    bool logprobs;
    int n_top_logprobs;
    bal_format format;
    const json_t *schema; /* BAL_FORMAT_SCHEMA */
    bool ignore_eos, no_cache;
} bal_api_request;

/* Reads n bytes; body may be NULL where n is 0. On failure *f says what to change; the request is
 * to be freed all the same. */
bal_status bal_api_request_read(bal_api_request *r, bal_request_kind kind, const char *body,
                                size_t n, const bal_request_limits *limits, bal_refusal *f);
void bal_api_request_free(bal_api_request *r); /* idempotent */

#endif
