/* SPDX-License-Identifier: MIT
 * One answer as it grows: events in, text of whole characters out, cut at stop strings, with what
 * is known of each token. */
#ifndef BAL_SERVE_ANSWER_H
#define BAL_SERVE_ANSWER_H

#include "serve/exchange.h"
#include "serve/stop_text.h"
#include "text/utf8.h"

typedef struct bal_token_record {
    int32_t id;
    bool has_logprob;
    float logprob;
    size_t start;       /* where its text begins, in bytes */
    size_t start_chars; /* and in characters */
    bal_token_prob *top;
    int n_top;
} bal_token_record;

/* Zero-initialise, then init; deinit is idempotent. */
typedef struct bal_answer {
    const bal_tokenizer *tokenizer;
    bal_utf8_stream utf8;
    bal_stop_text stop;
    char *text; /* what the client may see so far */
    size_t n_text, cap_text;
    size_t n_decoded, n_chars; /* of the text with what is held back */
    bool keep_records, mute;   /* mute: tokens do not count (nothing was asked for) */
    bool own_text; /* it begins a text: a space that the tokenizer puts in front is none of it */
    bal_token_record *records;
    size_t n_records, cap_records, n_prefix;
    int n_tokens;
    bool stopped; /* by a stop string */
    bool done;
    bal_finish finish; /* once done */
    bal_usage usage;
    bal_error error;
    double last_at;                 /* of its last token; 0 before the first */
    size_t text_sent, records_sent; /* by a stream */
    bool opened, closed;            /* its first and last chunk are out */
} bal_answer;

void bal_answer_init(bal_answer *a, const bal_tokenizer *tokenizer, const char *const *stops,
                     int n_stops, bool keep_records);
void bal_answer_deinit(bal_answer *a);

/* The prompt in front of the answer (echo). */
bal_status bal_answer_prefix(bal_answer *a, const int32_t *ids, size_t n, bal_error *err);

/* Takes one event in. After a stop string everything but DONE is ignored. */
bal_status bal_answer_take(bal_answer *a, const bal_note *note, bal_error *err);

/* Records whose text the client may see: up to this one. */
size_t bal_answer_visible_records(const bal_answer *a);

/* "stop" or "length" */
const char *bal_answer_reason(const bal_answer *a);
/* Tokens generated, as usage counts them. */
int bal_answer_tokens(const bal_answer *a);

#endif
