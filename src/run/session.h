/* SPDX-License-Identifier: MIT
 * One conversation: the KV cache, and for each cached position what it is. Owned by one thread at a
 * time; everything is allocated at creation. */
#ifndef BAL_RUN_SESSION_H
#define BAL_RUN_SESSION_H

#include "base/arena.h"
#include "base/modality.h"
#include "run/engine.h"

/* What a cached position stands for. */
typedef struct bal_token_info {
    int32_t id;       /* token id; the image token at VISION positions */
    int32_t pos[3];   /* rotary positions (t, h, w); equal for 1-D families */
    int32_t image;    /* running number of the picture, -1 for text */
    uint8_t modality; /* bal_modality */
} bal_token_info;

typedef struct bal_session {
    const bal_engine *engine;
    bal_exec exec;
    bal_arena arena;
    int ctx;              /* capacity in positions */
    int n;                /* positions in use */
    bal_token_info *info; /* [ctx] */
    bal_kv_page *pages;   /* [layers][ctx / BAL_PAGE, rounded up] */
    bal_decoder_buf buf;
    float *h;      /* [chunk][hidden] */
    float *logits; /* [vocab] of the last position */
} bal_session;

/* ctx may not exceed the model's maximum. */
bal_status bal_session_create(bal_session *s, const bal_engine *engine, int ctx, bal_error *err);
void bal_session_destroy(bal_session *s); /* idempotent; zeroed struct is fine */

/* Logits of one row, [vocab], valid during the call. row counts within the appended rows. */
typedef void bal_logits_fn(void *ctx, int row, const float *logits);

/* Appends n positions with decoder inputs embeds [n][hidden]; s->logits becomes those of the last.
 * watch (may be NULL) is called for rows >= first_watched. Bits do not depend on how a sequence is
 * cut into calls. BAL_E_CAPACITY when the context is full; then nothing was appended. BAL_E_NUMERIC
 * when logits are not finite. */
bal_status bal_session_append(bal_session *s, const bal_token_info *info, const float *embeds,
                              int n, int first_watched, bal_logits_fn *watch, void *watch_ctx,
                              bal_taps taps, bal_error *err);
/* Appends one generated token (ANSWER). */
bal_status bal_session_push(bal_session *s, int32_t id, bal_error *err);
/* Forgets all positions from n on. */
void bal_session_truncate(bal_session *s, int n);

bool bal_is_stop(const bal_config *c, int32_t id);

#endif
