/* SPDX-License-Identifier: MIT
 * One conversation alone on a model: its cached positions, and for each what it is. A thin owner of
 * a paged cache and of a step of the decoder; many conversations together are the scheduler's.
 * Owned by one thread at a time; everything is allocated at creation. */
#ifndef BAL_RUN_SESSION_H
#define BAL_RUN_SESSION_H

#include "base/arena.h"
#include "run/forward.h"
#include "run/kv_cache.h"
#include "run/sampler.h"

typedef struct bal_session {
    const bal_engine *engine;
    bal_exec exec;
    bal_arena arena;
    int ctx;              /* capacity in positions */
    int n;                /* positions in use */
    bal_token_info *info; /* [ctx] */
    bal_kv_pool pool;
    bal_kv_seq seq;
    bal_forward forward;
    float *row;    /* [hidden] of a pushed token */
    float *logits; /* [vocab] of the last position */
} bal_session;

/* ctx may not exceed the model's maximum. The cache holds f32, so that nothing is lost; on a device
 * f16. */
bal_status bal_session_create(bal_session *s, const bal_engine *engine, int ctx, bal_error *err);
/* The same with a cache of that type. */
bal_status bal_session_create_kv(bal_session *s, const bal_engine *engine, int ctx,
                                 bal_kv_type type, bal_error *err);
/* Bytes that creating one allocates, what the plan of a run is made of; pages of it that are never
 * used cost address space only. BAL_E_ARG as above, and if a size_t cannot count them. */
bal_status bal_session_bytes(size_t *n_bytes, const bal_engine *engine, int ctx, bal_kv_type type,
                             bal_error *err);
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
/* The same, and the token that `how` picks then; NULL: the likeliest. On a device it is looked up
 * and drawn there, the same one for the same logits, and s->logits are not filled. Of a failure the
 * sampler knows nothing. */
bal_status bal_session_next(bal_session *s, int32_t id, bal_sampler *how, int32_t *next,
                            bal_error *err);
/* Rotary position of what comes next, bal_next_pos of the last; 0 at the beginning. */
int32_t bal_session_next_pos(const bal_session *s);
/* Forgets all positions from n on. */
void bal_session_truncate(bal_session *s, int n);

bool bal_is_stop(const bal_config *c, int32_t id);

#endif
