/* SPDX-License-Identifier: MIT
 * The simulated twin of a packed model: every packed linear's float values put in its place. */
#ifndef BAL_GOLDEN_UNPACK_H
#define BAL_GOLDEN_UNPACK_H

#include "check.h"

#include "run/engine.h"

enum { MAX_UNPACKED = 256 };

typedef struct unpacked {
    void *owned[MAX_UNPACKED];
    int n, decoder, tower, projector, head; /* how many there were of each */
} unpacked;

static inline int unpack_linear(unpacked *u, bal_linear *w)
{
    if (w->k == 0 || !bal_type_get(w->type)->packed) return 0;
    assert_true(u->n < MAX_UNPACKED);
    float *p = malloc((size_t)w->n * (size_t)w->k * sizeof *p);
    assert_non_null(p);
    for (int r = 0; r < w->n; r++) bal_linear_row(w, r, p + (size_t)r * (size_t)w->k);
    w->type = BAL_TYPE_F32;
    w->w = u->owned[u->n++] = p;
    return 1;
}

static inline void unpack_all(unpacked *u, bal_model *m)
{
    *u = (unpacked){0};
    for (int l = 0; l < m->config.text.layers; l++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++)
            u->decoder += unpack_linear(u, bal_decoder_linear(&m->layers[l], i));
    for (int l = 0; l < m->config.vision.layers; l++)
        for (int i = 0; i < BAL_VISION_LINEARS; i++)
            u->tower += unpack_linear(u, bal_vision_linear(&m->vision_layers[l], i));
    for (int i = 0; i < 2; i++) u->projector += unpack_linear(u, &m->projector[i]);
    u->head += unpack_linear(u, &m->head);
}

static inline void unpacked_free(unpacked *u)
{
    for (int i = 0; i < u->n; i++) free(u->owned[i]);
}

#endif
