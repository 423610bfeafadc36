/* SPDX-License-Identifier: MIT
 * Bits per weight of the decoder's linears, and of the packed ones beside them. */
#include "linear_bits.h"

typedef struct sum {
    double bits, weights;
} sum;

static void add(sum *s, const bal_linear *w)
{
    s->weights += (double)w->n * w->k;
    s->bits += 8.0 * (double)bal_linear_bytes(w);
}

static void add_packed(sum *s, const bal_linear *w)
{
    if (bal_type_get(w->type)->packed) add(s, w);
}

double bal_linear_bpw(bal_model *m)
{
    sum s = {0};
    for (int l = 0; l < m->config.text.layers; l++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) add(&s, bal_decoder_linear(&m->layers[l], i));
    return s.bits / s.weights;
}

double bal_side_bpw(bal_model *m, bal_side side)
{
    sum s = {0};
    for (int l = 0; side == BAL_SIDE_VISION && l < m->config.vision.layers; l++)
        for (int i = 0; i < BAL_VISION_LINEARS; i++)
            add_packed(&s, bal_vision_linear(&m->vision_layers[l], i));
    for (int i = 0; side == BAL_SIDE_PROJECTOR && i < 2; i++) add_packed(&s, &m->projector[i]);
    if (side == BAL_SIDE_HEAD) add_packed(&s, &m->head);
    return s.weights > 0 ? s.bits / s.weights : 0.0;
}
