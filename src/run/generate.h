/* SPDX-License-Identifier: MIT
 * A conversation on a session: turns through the chat template, pictures through the vision tower,
 * the answer token by token. Owns the transcript; the key-value cache is a prefix of it that is
 * caught up when a question is asked, so a turn costs what is new in it.
 *
 * The transcript is what the family's template gives for the whole conversation, with the answers
 * as the tokens that were generated. Pictures follow the rule for the whole conversation too: one
 * is tiled, several are one square each. So when a second picture comes, the first is seen again
 * and the cache is built anew. */
#ifndef BAL_RUN_GENERATE_H
#define BAL_RUN_GENERATE_H

#include "run/sampler.h"
#include "run/sequence.h"

enum { BAL_DIALOG_MAX_IMAGES = 1024, BAL_DIALOG_MAX_TOKENS = 512 /* of an answer, by default */ };

typedef struct bal_dialog {
    const bal_engine *engine;
    bal_session session;
    bal_sampler sampler;
    int32_t stop_id;      /* the token that ends a turn */
    bal_chat_tokens text; /* transcript, pictures unexpanded */
    size_t cap_text;
    bal_image *images; /* [n_images]; the first n_shown of them are in the transcript */
    int n_images, n_shown, cap_images;
    size_t n_cached;     /* tokens of the transcript that stand in the session, */
    int n_cached_images; /* and pictures among them */
} bal_dialog;

/* ctx: positions, as bal_session_create takes them. */
bal_status bal_dialog_create(bal_dialog *d, const bal_engine *engine, int ctx,
                             const bal_sampling *sampling, bal_error *err);
void bal_dialog_destroy(bal_dialog *d); /* idempotent; zeroed struct is fine */

/* Takes *image over for the next question (and empties it). On failure it stays the caller's. */
bal_status bal_dialog_add(bal_dialog *d, bal_image *image, bal_error *err);
/* How picture `index` will be cut when the next question is asked. */
bal_status bal_dialog_plan(const bal_dialog *d, int index, bal_view_plan *plan, bal_error *err);

/* Appends a question (n bytes) and streams the answer. opts->size and result->size are ignored;
 * opts->max_tokens >= 1. On failure everything is as before, except that an answer cut short by a
 * callback (BAL_E_CANCELLED with result->n_generated > 0) stays with what was generated of it. */
bal_status bal_dialog_ask(bal_dialog *d, const char *text, size_t n, const bal_ask_opts *opts,
                          bal_ask_result *result, bal_error *err);

/* Forgets everything but the seed. */
void bal_dialog_clear(bal_dialog *d);

#endif
