/* SPDX-License-Identifier: MIT
 * The float copy of a block that solvers change, and the two halves of folding: columns of the
 * consumers, rows of the producer. Refuses NaN and Inf on the way in, so that nothing behind it has
 * to. */
#include "quant/fold.h"

#include "quant/pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const bal_group_info bal_group_table[BAL_GROUPS] = {
    [BAL_GROUP_QKV] = {BAL_LINEAR_Q, 3, BAL_SUB_ATTN, "{q,k,v}"},
    [BAL_GROUP_O] = {BAL_LINEAR_O, 1, BAL_SUB_ATTN, "{o}"},
    [BAL_GROUP_GATE_UP] = {BAL_LINEAR_GATE, 2, BAL_SUB_MLP, "{gate,up}"},
    [BAL_GROUP_DOWN] = {BAL_LINEAR_DOWN, 1, BAL_SUB_MLP, "{down}"},
};

int bal_group_of_linear(int i)
{
    if (i <= BAL_LINEAR_V) return BAL_GROUP_QKV;
    if (i == BAL_LINEAR_O) return BAL_GROUP_O;
    return i == BAL_LINEAR_DOWN ? BAL_GROUP_DOWN : BAL_GROUP_GATE_UP;
}

/* ---- Copies -----------------------------------------------------------------------------------
 */

typedef struct rows_job {
    const bal_linear *from;
    float *w;
    const float *s;
    bal_arith arith;
    int k;
} rows_job;

static void widen_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t r = begin; r < end; r++)
        bal_linear_row(j->from, (int)r, j->w + r * (size_t)j->from->k);
}

static bal_status copy_vector(float **out, const float *from, int n, int layer, const char *what,
                              bal_error *err)
{
    *out = malloc((size_t)n * sizeof **out);
    if (!*out) return bal_nomem(err, (size_t)n * sizeof **out, "a copy of a layer");
    memcpy(*out, from, (size_t)n * sizeof **out);
    const long bad = bal_first_not_finite(*out, (size_t)n);
    if (bad < 0) return BAL_OK;
    return bal_fail(err, BAL_E_NUMERIC, "layer %d, %s: NaN or Inf at %ld", layer, what, bad);
}

static bal_status copy_linear(bal_layer_copy *out, bal_pool *pool, const bal_linear *from, int i,
                              int layer, bal_error *err)
{
    const size_t floats = (size_t)from->n * (size_t)from->k;
    bal_linear *to = bal_decoder_linear(&out->l, i);
    out->w[i] = malloc(floats * sizeof(float));
    if (!out->w[i]) return bal_nomem(err, floats * sizeof(float), "a copy of a layer");
    rows_job j = {.from = from, .w = out->w[i]};
    bal_pool_run(pool, widen_rows, &j, (size_t)from->n, 8);
    const long bad = bal_first_not_finite(out->w[i], floats);
    if (bad >= 0)
        return bal_fail(err, BAL_E_NUMERIC,
                        "layer %d, %s.weight: NaN or Inf at row %ld, column %ld", layer,
                        bal_decoder_linear_name(i), bad / from->k, bad % from->k);
    if (from->bias) {
        char what[64];
        snprintf(what, sizeof what, "%s.bias", bal_decoder_linear_name(i));
        BAL_TRY(copy_vector(&out->bias[i], from->bias, from->n, layer, what, err));
    }
    *to = (bal_linear){.type = BAL_TYPE_F32,
                       .n = from->n,
                       .k = from->k,
                       .w = out->w[i],
                       .bias = out->bias[i],
                       .hadamard = from->hadamard};
    return BAL_OK;
}

static bal_status copy_all(bal_layer_copy *out, bal_pool *pool, const bal_text_config *c,
                           const bal_decoder_layer *l, int index, bal_error *err)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        BAL_TRY(copy_linear(out, pool, bal_layer_linear(l, i), i, index, err));
    BAL_TRY(copy_vector(&out->attn_norm, l->attn_norm, c->hidden, index, "input_layernorm", err));
    BAL_TRY(copy_vector(&out->mlp_norm, l->mlp_norm, c->hidden, index, "post_attention_layernorm",
                        err));
    out->l.attn_norm = out->attn_norm;
    out->l.mlp_norm = out->mlp_norm;
    out->l.q_norm = l->q_norm; /* no scale folds into them */
    out->l.k_norm = l->k_norm;
    return BAL_OK;
}

bal_status bal_layer_copy_create(bal_layer_copy *out, bal_pool *pool, const bal_text_config *c,
                                 const bal_decoder_layer *l, int index, bal_error *err)
{
    *out = (bal_layer_copy){0};
    const bal_status st = copy_all(out, pool, c, l, index, err);
    if (st < 0) bal_layer_copy_destroy(out);
    return st;
}

void bal_layer_copy_destroy(bal_layer_copy *copy)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        free(copy->w[i]);
        free(copy->bias[i]);
    }
    free(copy->attn_norm);
    free(copy->mlp_norm);
    *copy = (bal_layer_copy){0};
}

/* ---- Folding ----------------------------------------------------------------------------------
 */

static void scale_columns(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t r = begin; r < end; r++) {
        float *w = j->w + r * (size_t)j->k;
        for (int c = 0; c < j->k; c++) w[c] = bal_arith_round(j->arith, w[c] * j->s[c]);
    }
}

static void divide_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const rows_job *j = ctx;
    for (size_t r = begin; r < end; r++) {
        float *w = j->w + r * (size_t)j->k;
        for (int c = 0; c < j->k; c++) w[c] = bal_arith_round(j->arith, w[c] / j->s[r]);
    }
}

static void divide_vector(float *v, const float *s, int n, bal_arith arith)
{
    for (int i = 0; i < n; i++) v[i] = bal_arith_round(arith, v[i] / s[i]);
}

static void divide_producer(bal_layer_copy *copy, bal_pool *pool, int i, const float *s,
                            bal_arith arith)
{
    const bal_linear *l = bal_layer_linear(&copy->l, i);
    rows_job j = {.w = copy->w[i], .k = l->k, .s = s, .arith = arith};
    bal_pool_run(pool, divide_rows, &j, (size_t)l->n, 8);
    if (copy->bias[i]) divide_vector(copy->bias[i], s, l->n, arith);
}

void bal_fold_group(bal_layer_copy *copy, bal_pool *pool, int group, const float *s,
                    bal_arith arith)
{
    const bal_group_info *g = &bal_group_table[group];
    const int k = bal_layer_linear(&copy->l, g->first)->k;
    for (int i = g->first; i < g->first + g->count; i++) {
        rows_job j = {.w = copy->w[i], .k = k, .s = s, .arith = arith};
        bal_pool_run(pool, scale_columns, &j, (size_t)bal_layer_linear(&copy->l, i)->n, 8);
    }
    switch (group) {
    case BAL_GROUP_QKV: divide_vector(copy->attn_norm, s, k, arith); break;
    case BAL_GROUP_O: divide_producer(copy, pool, BAL_LINEAR_V, s, arith); break;
    case BAL_GROUP_GATE_UP: divide_vector(copy->mlp_norm, s, k, arith); break;
    default: divide_producer(copy, pool, BAL_LINEAR_UP, s, arith); break;
    }
}
