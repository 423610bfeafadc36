/* SPDX-License-Identifier: MIT
 * Bitshift trellis codes (QTIP, Tseng et al., NeurIPS 2024, arXiv 2406.11235): a run of weights is
 * a stream of a few bits each, and the level of a weight is a function of its state, the last bits
 * of the stream up to and with its own. A run is some outputs of one input column, so that error
 * feedback goes from column to column as for any grid; it bites its tail: before its first weight's
 * bits come its last weight's. What is here chooses streams and says what they mean; there is
 * neither a storage for them nor a kernel (docs/numerics.md, "Formats without a storage"). */
#ifndef BAL_QUANT_TRELLIS_H
#define BAL_QUANT_TRELLIS_H

#include "quant/quantizer.h"
#include "quant/rank.h"

enum {
    BAL_TRELLIS_STATE = 12, /* bits of a state */
    BAL_TRELLIS_STATES = 1 << BAL_TRELLIS_STATE,
    BAL_TRELLIS_RUN = 128, /* outputs of a run at the least, where there are as many */
    BAL_TRELLIS_MOST = 2 * BAL_TRELLIS_RUN - 1, /* and at the most */
};

typedef struct bal_trellis {
    int state, bits;    /* of a state, a multiple of those of a weight: 2, 3 or 4 */
    const float *level; /* [2^state]; the newest weight's bits are the lowest of the state */
} bal_trellis;

/* The one of 2, 3 or 4 bits: levels are quantiles of a normal distribution to a 32nd, one of
 * 2^bits equal parts for each code that may follow a state, within the part by a hash. */
bal_trellis bal_trellis_of(int bits);

/* Runs of n outputs, and the outputs of run i; about equal, none shorter than BAL_TRELLIS_RUN but
 * where it is the only one. */
size_t bal_trellis_runs(size_t n);
bal_range bal_trellis_run(size_t n, size_t i);

/* What a search needs, one for each thread. */
typedef struct bal_trellis_work {
    float cost[BAL_TRELLIS_STATES];
    float best[BAL_TRELLIS_STATES / 4];
    int32_t chosen[BAL_TRELLIS_STATES / 4];
    uint8_t from[BAL_TRELLIS_MOST][BAL_TRELLIS_STATES / 4]; /* the oldest bits of the best state */
    float x[BAL_TRELLIS_MOST], s[BAL_TRELLIS_MOST];         /* a run turned around */
    uint8_t codes[BAL_TRELLIS_MOST];
} bal_trellis_work;

/* Viterbi's algorithm: codes[n] with the least sum of (x_t - s_t level_t)^2 among those whose
 * stream starts behind and ends with the state - bits bits `tail`; FREE: whatever they are, which
 * need not be the same at both ends. n <= BAL_TRELLIS_MOST. */
enum { BAL_TRELLIS_FREE = -1 };
void bal_trellis_search(bal_trellis_work *work, const bal_trellis *t, const float *x,
                        const float *s, int n, int tail, uint8_t *codes);
/* A run that bites its tail: a free search from the middle to the middle finds the bits at the
 * ends, a second one is held to them. n >= state / bits. Nearly always the best there is. */
void bal_trellis_encode(bal_trellis_work *work, const bal_trellis *t, const float *x,
                        const float *s, int n, uint8_t *codes);
/* Level of weight i of a run, n codes `stride` apart. */
float bal_trellis_level(const bal_trellis *t, const uint8_t *codes, size_t stride, int n, int i);

/* Scales of q (q->trellis) for w [n][k]: the root mean square of each row's group. */
void bal_trellis_scales(bal_pool *pool, const float *w, bal_quantized_linear *q);
/* Codes of w [n][k] on the scales that q has, column by column. */
bal_status bal_trellis_round(bal_pool *pool, const float *w, bal_quantized_linear *q,
                             bal_error *err);
/* Codes of the outputs `rows` of column c for x[], and what they stand for to value[]. */
void bal_trellis_column(bal_trellis_work *work, bal_quantized_linear *q, bal_range rows, size_t c,
                        const float *x, float *value);
/* Row r of q as levels, not yet scaled. */
void bal_trellis_row(const bal_quantized_linear *q, size_t r, float *out);

#endif
