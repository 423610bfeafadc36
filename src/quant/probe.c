/* SPDX-License-Identifier: MIT
 * Forward passes for the searches: weights transposed to panels once per candidate, so that the
 * inner loops run along outputs. Owns the panels; the layers they come from stay the caller's. */
#include "quant/probe.h"

#include "base/size.h"
#include "op/linear.h"
#include "op/pointwise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COLUMNS = 32 }; /* outputs of one work item of a linear */

bal_status bal_probe_create(bal_probe *p, const bal_exec *e, const bal_text_config *c, int max_len,
                            bal_error *err)
{
    *p = (bal_probe){.max_len = max_len};
    const size_t lanes = (size_t)bal_pool_size(e->pool), row = (size_t)max_len * sizeof(float);
    const size_t kv = (size_t)c->kv_heads * (size_t)c->head_dim;
    p->keys = malloc(kv * row);
    p->scores = malloc(lanes * BAL_PROBE_ROWS * row);
    if (p->keys && p->scores) return BAL_OK;
    bal_probe_destroy(p);
    return bal_nomem(err, (kv + lanes * BAL_PROBE_ROWS) * row, "attention scores");
}

void bal_probe_destroy(bal_probe *p)
{
    free(p->keys);
    free(p->scores);
    *p = (bal_probe){0};
}

/* ---- Transposed layers ------------------------------------------------------------------------
 */

bal_status bal_wide_layer_create(bal_wide_layer *l, const bal_exec *e,
                                 const bal_decoder_layer *like, bal_error *err)
{
    *l = (bal_wide_layer){0};
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_linear *from = bal_decoder_linear((bal_decoder_layer *)(uintptr_t)like, i);
        const size_t bytes = (size_t)from->n * (size_t)from->k * sizeof(float);
        l->memory[i] = malloc(bytes);
        if (!l->memory[i]) {
            bal_wide_layer_destroy(l);
            return bal_nomem(err, bytes, "a transposed layer");
        }
        l->w[i] = (bal_wide){.n = from->n, .k = from->k, .ld = from->n, .w = l->memory[i]};
        l->widest = from->k > l->widest ? from->k : l->widest;
    }
    l->hadamard[1] = like->o.hadamard;
    l->hadamard[3] = like->down.hadamard;
    const size_t floats = (size_t)bal_pool_size(e->pool) * (BAL_WIDE_PANEL + 1) * (size_t)l->widest;
    l->lanes = malloc(floats * sizeof *l->lanes);
    if (l->lanes) return BAL_OK;
    bal_wide_layer_destroy(l);
    return bal_nomem(err, floats * sizeof *l->lanes, "rows of weights");
}

bal_status bal_wide_layer_rows(bal_wide_layer *l, int max_rows, bal_error *err)
{
    const size_t n_bytes = (size_t)max_rows * (size_t)l->widest * sizeof *l->rows;
    l->rows = malloc(n_bytes);
    return l->rows ? BAL_OK : bal_nomem(err, n_bytes, "quantized rows of a sample");
}

void bal_wide_layer_destroy(bal_wide_layer *l)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) free(l->memory[i]);
    free(l->lanes);
    free(l->rows);
    *l = (bal_wide_layer){0};
}

float *bal_wide_lane(const bal_wide_layer *l, int lane)
{
    return l->lanes + (size_t)lane * (BAL_WIDE_PANEL + 1) * (size_t)l->widest;
}

typedef struct fill_job {
    const bal_wide_layer *l;
    int i;
    bal_wide_row_fn *fn;
    const void *ctx;
} fill_job;

/* Some rows are made in the lane's scratch and written out as columns. */
static void fill_panel(const fill_job *j, size_t r0, float *scratch)
{
    const size_t n = (size_t)j->l->w[j->i].n, k = (size_t)j->l->w[j->i].k;
    const size_t rows = bal_min(BAL_WIDE_PANEL, n - r0);
    float *out = j->l->memory[j->i];
    for (size_t r = 0; r < rows; r++)
        j->fn(j->ctx, (int)(r0 + r), scratch + r * k, scratch + BAL_WIDE_PANEL * k);
    for (size_t c = 0; c < k; c++)
        for (size_t r = 0; r < rows; r++) out[c * n + r0 + r] = scratch[r * k + c];
}

static void fill_panels(void *ctx, size_t begin, size_t end, int lane)
{
    const fill_job *j = ctx;
    for (size_t i = begin; i < end; i++)
        fill_panel(j, i * BAL_WIDE_PANEL, bal_wide_lane(j->l, lane));
}

void bal_wide_fill(bal_wide_layer *l, const bal_exec *e, int i, bal_wide_row_fn *fn,
                   const void *ctx)
{
    fill_job j = {l, i, fn, ctx};
    l->w[i].rank = 0;
    bal_pool_run(e->pool, fill_panels, &j, bal_ceil_div((size_t)l->w[i].n, BAL_WIDE_PANEL), 1);
}

static void copy_row(const void *ctx, int r, float *out, float *work)
{
    (void)work;
    bal_linear_row(ctx, r, out);
}

static void copy_linear(bal_wide_layer *l, const bal_exec *e, int i, const bal_decoder_layer *from)
{
    const bal_linear *w = bal_decoder_linear((bal_decoder_layer *)(uintptr_t)from, i);
    bal_wide_fill(l, e, i, copy_row, w);
}

void bal_wide_copy_rest(bal_wide_layer *l, const bal_decoder_layer *from)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        l->w[i].bias = bal_decoder_linear((bal_decoder_layer *)(uintptr_t)from, i)->bias;
    l->attn_norm = from->attn_norm;
    l->mlp_norm = from->mlp_norm;
    l->q_norm = from->q_norm;
    l->k_norm = from->k_norm;
    memset(l->act, 0, sizeof l->act);
}

void bal_wide_copy_all(bal_wide_layer *l, const bal_exec *e, const bal_decoder_layer *from)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) copy_linear(l, e, i, from);
    bal_wide_copy_rest(l, from);
}

/* ---- Linears ----------------------------------------------------------------------------------
 */

typedef struct linear_job {
    const bal_exec *e;
    const bal_wide *w;
    const float *x;
    size_t m;
    float *y;
} linear_job;

static void linear_columns(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const linear_job *j = ctx;
    const size_t n = (size_t)j->w->n, k = (size_t)j->w->k;
    const size_t c0 = begin * COLUMNS, c1 = bal_min(end * COLUMNS, n);
    j->e->kernels->gemm_nn_f32(j->m, k, c1 - c0, j->x, k, j->w->w + c0, (size_t)j->w->ld, j->y + c0,
                               n, false);
    for (size_t r = 0; j->w->bias && r < j->m; r++)
        for (size_t c = c0; c < c1; c++) j->y[r * n + c] += j->w->bias[c];
}

void bal_probe_linear(const bal_exec *e, const bal_wide *w, const float *x, int m, float *y)
{
    linear_job j = {e, w, x, (size_t)m, y};
    bal_pool_run(e->pool, linear_columns, &j, bal_ceil_div((size_t)w->n, COLUMNS), 1);
}

typedef struct transpose_job {
    const float *x;
    size_t ldx, rows;
    float *t;
} transpose_job;

static void transpose_columns(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const transpose_job *j = ctx;
    for (size_t c = begin; c < end; c++)
        for (size_t r = 0; r < j->rows; r++) j->t[c * j->rows + r] = j->x[r * j->ldx + c];
}

void bal_probe_transpose(const bal_exec *e, const float *x, size_t ldx, int rows, int cols,
                         float *t)
{
    transpose_job j = {x, ldx, (size_t)rows, t};
    bal_pool_run(e->pool, transpose_columns, &j, (size_t)cols, 16);
}

/* The rows of input `which` as its linears read them. */
static const float *as_read(const bal_exec *e, const bal_wide_layer *l, int which,
                            const uint8_t *modality, const float *x, int m, int k)
{
    if (l->act[which].kind == BAL_ACT_A16) return x;
    memcpy(l->rows, x, (size_t)m * (size_t)k * sizeof *x);
    bal_act_simulate(e, l->act[which], NULL, modality, l->rows, m, k);
    return l->rows;
}

/* Linear i of rows x, which its weight reads as `read`. */
static void multiply(const bal_exec *e, const bal_wide_layer *l, int i, const float *read,
                     const float *x, int m, const bal_pass *pass, float *y)
{
    const bal_wide *w = &l->w[i];
    const bal_linear low = {.n = w->n,
                            .k = w->k,
                            .rank = w->rank,
                            .low_vision = true,
                            .low_a = w->low_a,
                            .low_b = w->low_b};
    bal_probe_linear(e, w, read, m, y);
    bal_linear_add_low(e, &low, x, (size_t)w->k, pass->modality, m, y, (size_t)w->n);
}

/* ---- Attention --------------------------------------------------------------------------------
 */

typedef struct attn_job {
    const bal_exec *e;
    const bal_text_config *c;
    const bal_probe *p;
    const bal_decoder_buf *b;
    size_t m;
    double *sums; /* [heads][m], of bal_probe_attended */
} attn_job;

/* Row r of a chunk that starts at position first: causal weights over n keys. */
static void softmax(const attn_job *j, float *row, size_t seen, size_t n)
{
    const float scale = 1.0f / sqrtf((float)j->c->head_dim);
    for (size_t i = 0; i < seen; i++) row[i] *= scale;
    j->e->kernels->softmax_row(row, seen);
    memset(row + seen, 0, (n - seen) * sizeof *row);
}

static size_t kv_of(const attn_job *j, size_t head)
{
    return head / (size_t)(j->c->heads / j->c->kv_heads) * (size_t)j->c->head_dim;
}

/* Weights of a chunk of queries from position first on, scores [rows][first + rows]; the rows. */
static size_t weights(const attn_job *j, size_t head, size_t first, float *scores)
{
    const size_t dim = (size_t)j->c->head_dim, ldq = (size_t)j->c->heads * dim;
    const size_t rows = bal_min(BAL_PROBE_ROWS, j->m - first), n = first + rows;
    j->e->kernels->gemm_nn_f32(rows, dim, n, j->b->q + first * ldq + head * dim, ldq,
                               j->p->keys + kv_of(j, head) * j->m, j->m, scores, n, false);
    for (size_t r = 0; r < rows; r++) softmax(j, scores + r * n, first + r + 1, n);
    return rows;
}

static void attend(const attn_job *j, size_t head, size_t first, float *scores)
{
    const size_t dim = (size_t)j->c->head_dim, ldq = (size_t)j->c->heads * dim;
    const size_t ldv = (size_t)j->c->kv_heads * dim;
    const size_t rows = weights(j, head, first, scores), n = first + rows;
    j->e->kernels->gemm_nn_f32(rows, n, dim, scores, n, j->b->v + kv_of(j, head), ldv,
                               j->b->ctx + first * ldq + head * dim, ldq, false);
}

static void attend_items(void *ctx, size_t begin, size_t end, int lane)
{
    const attn_job *j = ctx;
    const size_t chunks = bal_ceil_div(j->m, BAL_PROBE_ROWS);
    float *scores = j->p->scores + (size_t)lane * BAL_PROBE_ROWS * (size_t)j->p->max_len;
    for (size_t i = begin; i < end; i++) attend(j, i / chunks, i % chunks * BAL_PROBE_ROWS, scores);
}

static void attended_heads(void *ctx, size_t begin, size_t end, int lane)
{
    const attn_job *j = ctx;
    float *scores = j->p->scores + (size_t)lane * BAL_PROBE_ROWS * (size_t)j->p->max_len;
    for (size_t head = begin; head < end; head++) {
        double *sum = j->sums + head * j->m;
        memset(sum, 0, j->m * sizeof *sum);
        for (size_t first = 0; first < j->m; first += BAL_PROBE_ROWS) {
            const size_t rows = weights(j, head, first, scores), n = first + rows;
            for (size_t r = 0; r < rows; r++)
                for (size_t t = 0; t < n; t++) sum[t] += (double)scores[r * n + t];
        }
    }
}

void bal_probe_attended(const bal_exec *e, const bal_text_config *c, int m, bal_probe *p,
                        const bal_pass *pass, double *sums, float *out)
{
    attn_job j = {e, c, p, &pass->buf, (size_t)m, sums};
    bal_pool_run(e->pool, attended_heads, &j, (size_t)c->heads, 1);
    for (size_t t = 0; t < j.m; t++) {
        double all = 0.0;
        for (size_t head = 0; head < (size_t)c->heads; head++) all += sums[head * j.m + t];
        out[t] = (float)(all / c->heads);
    }
}

void bal_probe_attn(const bal_exec *e, const bal_text_config *c, const bal_wide_layer *l, int m,
                    const float *x, bal_probe *p, bal_pass *pass, float *out)
{
    bal_decoder_buf *b = &pass->buf;
    attn_job j = {e, c, p, b, (size_t)m, NULL};
    const size_t items = bal_ceil_div((size_t)m, BAL_PROBE_ROWS) * (size_t)c->heads;
    const int kv = c->kv_heads * c->head_dim;
    const float *read = as_read(e, l, 0, pass->modality, x, m, l->w[0].k);
    multiply(e, l, 0, read, x, m, pass, b->q);
    multiply(e, l, 1, read, x, m, pass, b->k);
    multiply(e, l, 2, read, x, m, pass, b->v);
    bal_decoder_rotate(e, c, l->q_norm, l->k_norm, m, pass->cos, pass->sin, b->q, b->k);
    bal_probe_transpose(e, b->k, (size_t)kv, m, kv, p->keys);
    bal_pool_run(e->pool, attend_items, &j, items, 1);
    if (l->hadamard[1]) bal_hadamard(e, b->ctx, m, l->w[3].k, l->hadamard[1]);
    read = as_read(e, l, 1, pass->modality, b->ctx, m, l->w[3].k);
    multiply(e, l, 3, read, b->ctx, m, pass, out);
}

void bal_probe_mlp(const bal_exec *e, const bal_text_config *c, const bal_wide_layer *l, int m,
                   const float *x, bal_pass *pass, float *out)
{
    bal_decoder_buf *b = &pass->buf;
    const float *read = as_read(e, l, 2, pass->modality, x, m, l->w[4].k);
    multiply(e, l, 4, read, x, m, pass, b->act);
    multiply(e, l, 5, read, x, m, pass, b->up);
    bal_silu_mul(e, b->act, b->up, m, c->intermediate);
    if (l->hadamard[3]) bal_hadamard(e, b->act, m, l->w[6].k, l->hadamard[3]);
    read = as_read(e, l, 3, pass->modality, b->act, m, l->w[6].k);
    multiply(e, l, 6, read, b->act, m, pass, out);
}

void bal_probe_block(const bal_exec *e, const bal_text_config *c, const bal_wide_layer *l, int m,
                     const float *h, bal_probe *p, bal_pass *pass, float *mid, float *out)
{
    const size_t floats = (size_t)m * (size_t)c->hidden;
    float *norm = pass->buf.norm;
    bal_rms_norm(e, h, l->attn_norm, c->rms_eps, m, c->hidden, norm);
    bal_probe_attn(e, c, l, m, norm, p, pass, mid);
    bal_add(e, mid, h, floats);
    bal_rms_norm(e, mid, l->mlp_norm, c->rms_eps, m, c->hidden, norm);
    bal_probe_mlp(e, c, l, m, norm, pass, out);
    bal_add(e, out, mid, floats);
}
