/* SPDX-License-Identifier: MIT */
#include "bench_work.h"

#include "model/family.h"
#include "model/vision_native.h"

#include <stdlib.h>

double bal_work_linear_bytes(const bal_linear *l)
{
    const bal_type_info *t = bal_type_get(l->type);
    return t->packed ? (double)l->packed.layout.n_bytes
                     : (double)l->n * (double)l->k * (double)t->bits / 8;
}

static void add_linear(bal_work *w, const bal_linear *l, double rows)
{
    const double n = (double)l->n * (double)l->k;
    w->weights += n;
    w->products += n * rows;
    w->bytes += bal_work_linear_bytes(l);
    if (!bal_type_get(l->type)->packed)
        w->floats += n * rows;
    else
        w->bytes_mul += n * rows * (l->act.kind == BAL_ACT_A8 ? 1 : 2);
}

/* Scores and sums of `rows` queries over `keys` keys each, all heads. */
static void add_attention(bal_work *w, double rows, double keys, double width)
{
    w->floats += 2 * rows * keys * width;
}

bal_work bal_work_decoder(const bal_model *m, const bal_kv_layout *kv, int first, int rows)
{
    const bal_text_config *c = &m->config.text;
    bal_work w = {0};
    const double keys = first + (rows + 1) / 2.0;
    for (int i = 0; i < c->layers; i++) {
        for (int j = 0; j < BAL_DECODER_LINEARS; j++)
            add_linear(&w, bal_decoder_linear(&m->layers[i], j), rows);
        add_attention(&w, rows, keys, (double)c->heads * c->head_dim);
    }
    add_linear(&w, &m->head, 1);
    if (kv) w.bytes += (double)kv->page_bytes / BAL_PAGE * (first + rows);
    return w;
}

/* Keys that all rows of a native tower's block see together: the sum over windows of their squares.
 */
static double window_pairs(const bal_vision_config *v, const bal_view_plan *p)
{
    const int merge2 = v->shuffle * v->shuffle, windows = bal_window_count(p->h0, p->w0, v->window);
    int32_t *order = calloc((size_t)p->h0 * (size_t)p->w0, sizeof *order);
    int *starts = calloc((size_t)windows + 1, sizeof *starts);
    double pairs = 0;
    if (order && starts) bal_window_order(p->h0, p->w0, v->window, order, starts);
    for (int i = 0; order && starts && i < windows; i++) {
        const double n = (double)(starts[i + 1] - starts[i]) * merge2;
        pairs += n * n;
    }
    free(order);
    free(starts);
    return pairs;
}

static bool sees_all(const bal_vision_config *v, int layer)
{
    return v->window < 1 || (uint32_t)v->full_blocks[layer / 32] >> layer % 32 & 1;
}

bal_work bal_work_picture(const bal_model *m, const bal_view_plan *p)
{
    const bal_vision_config *v = &m->config.vision;
    const bool native = bal_family_of(&m->config)->encode == bal_native_encode;
    const double view = (double)v->side * v->side + v->cls;
    const double tokens = native ? (double)p->h0 * p->w0 : (double)p->n_views * bal_view_tokens(v);
    const double rows = native ? tokens * v->shuffle * v->shuffle : p->n_views * view;
    const double windows = native ? window_pairs(v, p) : p->n_views * view * view;
    bal_work w = {0};
    add_linear(&w, &m->patch, rows);
    for (int i = 0; i < v->layers; i++) {
        const bal_vision_layer *l = &m->vision_layers[i];
        const bal_linear *const all[] = {&l->q, &l->k, &l->v, &l->out, &l->fc1, &l->fc2, &l->gate};
        for (int j = 0; j < 7; j++)
            if (all[j]->k) add_linear(&w, all[j], rows);
        const double pairs = native && sees_all(v, i) ? rows * rows : windows;
        add_attention(&w, 1, pairs, v->hidden);
    }
    for (int i = 0; i < 2; i++)
        if (m->projector[i].k) add_linear(&w, &m->projector[i], tokens);
    return w;
}
