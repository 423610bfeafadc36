/* SPDX-License-Identifier: MIT
 * Weights by modality are the loss's own; weights of single tokens come from gradients, of the
 * answers' loss (sensitivity.c keeps them in a store) or of the block's own, measured here. */
#include "quant/tokens.h"

#include "op/pointwise.h"
#include "quant/backward.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { LOCAL_LINEARS = 4 }; /* q, k, v, o: columns with hessian=local */

void bal_tokens_destroy(bal_tokens *t)
{
    free(t->each);
    free(t->parts);
    *t = (bal_tokens){0};
}

int bal_row_groups(const bal_recipe *r)
{
    return r->row_groups > 1 ? r->row_groups : 1;
}

bool bal_tokens_apart(const bal_recipe *r, int group)
{
    return bal_row_groups(r) > 1 || (r->hessian == BAL_HESSIAN_LOCAL && group == BAL_GROUP_QKV);
}

bal_range bal_row_group(const bal_recipe *r, size_t n, int rows)
{
    const size_t groups = (size_t)bal_row_groups(r), i = (size_t)rows;
    return (bal_range){n * i / groups, n * (i + 1) / groups};
}

/* ---- By modality ------------------------------------------------------------------------------
 */

/* The loss's own weighting of rows, whose sum over all tokens is about 1. */
static bal_status weigh_modalities(bal_tokens *t, const bal_block_job *j, int sub, bal_error *err)
{
    const bal_hessian kind = j->recipe->hessian;
    const double ratio =
        kind == BAL_HESSIAN_SQUARED ? j->ratio[sub] * j->ratio[sub] : j->ratio[sub];
    bal_row_weights(&j->stats[sub == BAL_SUB_ATTN ? BAL_GROUP_QKV : BAL_GROUP_GATE_UP], j->recipe,
                    ratio, t->weight);
    const int64_t *count = j->stats[BAL_GROUP_QKV].count;
    const double all = (double)(count[0] + count[1] + count[2]);
    for (int m = 0; m < BAL_MODALITIES; m++) {
        const double n = (double)count[m];
        if (kind == BAL_HESSIAN_ALL || kind == BAL_HESSIAN_LOCAL) t->weight[m] = 1.0 / all;
        if (kind == BAL_HESSIAN_ANSWER) t->weight[m] = m == BAL_ANSWER && n > 0 ? 1.0 / n : 0.0;
        if (kind == BAL_HESSIAN_VISION) t->weight[m] = m == BAL_VISION && n > 0 ? 1.0 / n : 0.0;
    }
    for (int m = 0; m < BAL_MODALITIES; m++)
        if (t->weight[m] > 0.0 && count[m] > 0) return BAL_OK;
    return bal_fail(err, BAL_E_ARG,
                    "no calibration token has weight in the second moments by hessian and balance "
                    "of recipe %s (%lld prompt, %lld answer, %lld vision tokens)",
                    j->recipe->name, (long long)count[BAL_PROMPT], (long long)count[BAL_ANSWER],
                    (long long)count[BAL_VISION]);
}

/* ---- By gradients -----------------------------------------------------------------------------
 */

static int rising(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static size_t all_tokens(const bal_block_job *j)
{
    return bal_job_row0(j, j->samples->n);
}

/* The tokens of one modality, in each[]: no more than 1.5 quartile distances above the upper
 * quartile, or all their mean; *sum and *n over them. sorted: room for all of them. */
static void tame(bal_tokens *tokens, const bal_block_job *j, int modality, float *sorted,
                 double *sum, size_t *n)
{
    const bal_samples *all = j->samples;
    const bal_hessian kind = j->recipe->hessian;
    double whole = 0.0;
    *n = 0;
    *sum = 0.0;
    for (int i = 0; i < all->n; i++)
        for (int t = 0; t < all->items[i].n; t++)
            if (all->items[i].modality[t] == modality)
                sorted[(*n)++] = tokens->each[bal_job_row0(j, i) + (size_t)t];
    if (*n == 0) return;
    for (size_t i = 0; i < *n; i++) whole += (double)sorted[i];
    qsort(sorted, *n, sizeof *sorted, rising);
    const float low = sorted[*n / 4], high = sorted[3 * *n / 4];
    const float most = kind == BAL_HESSIAN_GRAD2 ? high + 1.5f * (high - low) : INFINITY;
    for (int i = 0; i < all->n; i++)
        for (int t = 0; t < all->items[i].n; t++) {
            float *w = &tokens->each[bal_job_row0(j, i) + (size_t)t];
            if (all->items[i].modality[t] != modality) continue;
            if (kind == BAL_HESSIAN_GRAD2_MEAN) *w = (float)(whole / (double)*n);
            *w = fminf(*w, most);
            *sum += (double)*w;
        }
}

static size_t column_of(const bal_recipe *r, bal_part_of_group part)
{
    const int groups = bal_row_groups(r);
    if (r->hessian == BAL_HESSIAN_LOCAL)
        return (size_t)(part.group == BAL_GROUP_O ? LOCAL_LINEARS - 1 : part.linear);
    return (size_t)(groups > 1 ? part.linear * groups + part.rows : part.group);
}

/* The block's columns of the store, which has those of all blocks. */
static bal_status read_store(bal_tokens *tokens, const bal_block_job *j, bal_error *err)
{
    const bal_store *from = j->samples->gradients;
    const size_t cols = (size_t)from->cols, own = (size_t)tokens->columns;
    float *rows = malloc((size_t)j->samples->max_len * cols * sizeof *rows);
    if (!rows) return bal_nomem(err, cols * sizeof *rows, "gradients of tokens");
    bal_status st = BAL_OK;
    for (int i = 0; st >= 0 && i < j->samples->n; i++) {
        st = bal_store_read(from, i, rows, err);
        for (size_t t = from->row0[i]; st >= 0 && t < from->row0[i + 1]; t++)
            memcpy(tokens->parts + t * own,
                   rows + (t - from->row0[i]) * cols + own * (size_t)j->index, own * sizeof *rows);
    }
    free(rows);
    return st;
}

/* A part's column; all alike where both streams are one and no loss of the block's has a gradient.
 */
static void take_column(bal_tokens *tokens, const bal_block_job *j, size_t at)
{
    const size_t n = all_tokens(j);
    double sum = 0.0;
    for (size_t t = 0; t < n; t++) {
        tokens->each[t] = tokens->parts[t * (size_t)tokens->columns + at];
        sum += (double)tokens->each[t];
    }
    if (j->recipe->hessian != BAL_HESSIAN_LOCAL || sum > 0.0) return;
    for (size_t t = 0; t < n; t++) tokens->each[t] = 1.0f;
}

/* Scales each[] so that all of it sums to 1. */
static bal_status normalise(bal_tokens *t, const bal_block_job *j, bal_part_of_group part,
                            float *sorted, bal_error *err)
{
    double sum[BAL_MODALITIES], total = 0.0;
    size_t n[BAL_MODALITIES];
    for (int m = 0; m < BAL_MODALITIES; m++) {
        tame(t, j, m, sorted, &sum[m], &n[m]);
        total += sum[m];
    }
    if (!(total > 0.0 && isfinite(total)))
        return bal_fail(err, BAL_E_NUMERIC, "layer %d, %s: squared gradients of tokens sum to %g",
                        j->index,
                        part.linear < 0 ? bal_group_table[part.group].name
                                        : bal_decoder_linear_name(part.linear),
                        total);
    const size_t all = all_tokens(j);
    for (size_t i = 0; i < all; i++) t->each[i] = (float)((double)t->each[i] / total);
    for (int m = 0; m < BAL_MODALITIES; m++)
        t->weight[m] = n[m] > 0 ? sum[m] / total / (double)n[m] : 0.0;
    return BAL_OK;
}

static bal_status weigh_each(bal_tokens *t, const bal_block_job *j, bal_part_of_group part,
                             bal_error *err)
{
    const size_t bytes = all_tokens(j) * sizeof *t->each;
    t->each = malloc(bytes);
    float *sorted = malloc(bytes);
    bal_status st = t->each && sorted ? BAL_OK : bal_nomem(err, bytes, "token weights");
    if (st >= 0) take_column(t, j, column_of(j->recipe, part));
    if (st >= 0) st = normalise(t, j, part, sorted, err);
    free(sorted);
    return st;
}

bal_status bal_tokens_weigh(bal_tokens *t, const bal_block_job *j, bal_part_of_group part,
                            bal_error *err)
{
    const int sub = bal_group_table[part.group].sub;
    free(t->each);
    t->each = NULL;
    const bool all_alike = j->recipe->hessian == BAL_HESSIAN_LOCAL && sub == BAL_SUB_MLP;
    return t->columns && !all_alike ? weigh_each(t, j, part, err)
                                    : weigh_modalities(t, j, sub, err);
}

/* ---- Gradients of the block's own loss --------------------------------------------------------
 */

/* Hidden states of a sample to j->h and what the attention of trial adds to them to out. */
static bal_status attend_to(bal_block_job *j, const bal_store *in, int sample, float *out,
                            bal_error *err)
{
    const bal_sample *s = &j->samples->items[sample];
    float *norm = j->pass.buf.norm;
    BAL_TRY(bal_store_read(in, sample, j->h, err));
    bal_rms_norm(j->e, j->h, j->trial.attn_norm, j->c->rms_eps, s->n, j->c->hidden, norm);
    bal_pass_place(&j->pass, s);
    bal_probe_attn(j->e, j->c, &j->trial, s->n, norm, &j->probe, &j->pass, out);
    return BAL_OK;
}

/* L = |mid(u) - mid(f)|^2, mid being the residual stream behind attention, f and u the float and
 * the quantized stream: its gradient to j->out (but for a factor that all tokens share), u to
 * j->h. Both by the same weights, scales folded in, so that it is exactly zero where f and u are
 * one: j->ref is by the weights before that. */
static bal_status local_loss(bal_block_job *j, const bal_store *in_float, const bal_store *in_quant,
                             int sample, bal_error *err)
{
    const size_t floats = (size_t)j->samples->items[sample].n * (size_t)j->c->hidden;
    BAL_TRY(attend_to(j, in_float, sample, j->want, err));
    BAL_TRY(attend_to(j, in_quant, sample, j->out, err));
    for (size_t i = 0; i < floats; i++) j->out[i] -= j->want[i];
    BAL_TRY(bal_store_read(in_float, sample, j->want, err));
    for (size_t i = 0; i < floats; i++) j->out[i] += j->h[i] - j->want[i];
    return BAL_OK;
}

/* (mean |g|)^2 over the outputs of a linear, token by token. */
static void keep_local(bal_tokens *t, size_t row0, int n, const float *g, int cols, int linear)
{
    for (size_t r = 0; r < (size_t)n; r++) {
        double sum = 0.0;
        for (int c = 0; c < cols; c++) sum += fabs((double)g[r * (size_t)cols + (size_t)c]);
        const double mean = sum / cols;
        t->parts[(row0 + r) * LOCAL_LINEARS + (size_t)linear] = (float)(mean * mean);
    }
}

static bal_status local_sample(bal_tokens *t, bal_block_job *j, const bal_store *in_float,
                               const bal_store *in_quant, int sample, bal_backward *b,
                               bal_error *err)
{
    const int n = j->samples->items[sample].n, q = j->c->heads * j->c->head_dim;
    const int kv = j->c->kv_heads * j->c->head_dim;
    const size_t row0 = bal_job_row0(j, sample);
    BAL_TRY(local_loss(j, in_float, in_quant, sample, err));
    const bal_rows rows = bal_pass_rows(&j->pass, n);
    bal_backward_attn(j->e, j->c, &j->work.l, &j->trial, &rows,
                      (bal_backward_mode){1.0, BAL_GRADIENT_F32}, j->h, j->out, b);
    keep_local(t, row0, n, b->dq, q, 0);
    keep_local(t, row0, n, b->dk, kv, 1);
    keep_local(t, row0, n, b->dv, kv, 2);
    keep_local(t, row0, n, j->out, j->c->hidden, 3);
    return BAL_OK;
}

static bal_status measure_local(bal_tokens *t, bal_block_job *j, const bal_store *in_float,
                                const bal_store *in_quant, bal_error *err)
{
    bal_backward b = {0};
    bal_status st = bal_backward_create(&b, j->c, j->samples->max_len, err);
    for (int i = 0; st >= 0 && i < j->samples->n; i++)
        if (bal_rank_owns(j->samples->rank, i))
            st = local_sample(t, j, in_float, in_quant, i, &b, err);
    bal_backward_destroy(&b);
    BAL_TRY(st);
    if (!j->samples->rank) return BAL_OK;
    return bal_rank_join_samples(j->samples->rank, t->parts, j->ref[0].row0, j->samples->n,
                                 LOCAL_LINEARS * sizeof *t->parts, err);
}

bal_status bal_tokens_create(bal_tokens *t, bal_block_job *j, const bal_store *in_float,
                             const bal_store *in_quant, bal_error *err)
{
    const bool local = j->recipe->hessian == BAL_HESSIAN_LOCAL;
    *t = (bal_tokens){0};
    if (!local && !bal_recipe_weighs_tokens(j->recipe)) return BAL_OK;
    t->columns = local ? LOCAL_LINEARS : bal_recipe_token_columns(j->recipe);
    const size_t bytes = all_tokens(j) * (size_t)t->columns * sizeof *t->parts;
    t->parts = malloc(bytes);
    if (!t->parts) return bal_nomem(err, bytes, "gradients of tokens");
    return local ? measure_local(t, j, in_float, in_quant, err) : read_store(t, j, err);
}
