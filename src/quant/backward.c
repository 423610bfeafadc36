/* SPDX-License-Identifier: MIT
 * A block is h -> mid = h + attn(norm(h)) -> out = mid + mlp(norm(mid)). All matrix products go
 * through op/linear: a head's keys, values or queries are the "weights" of a small linear, so the
 * five products of attention's backward pass are its forward and backward. */
#include "quant/backward.h"

#include "base/half.h"
#include "base/size.h"
#include "op/pointwise.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROW_GRAIN = 8, LOSS_ROWS = 32 };

bal_status bal_backward_create(bal_backward *b, const bal_text_config *c, int max_len,
                               bal_error *err)
{
    *b = (bal_backward){.max_len = max_len};
    const size_t n = (size_t)max_len, hidden = (size_t)c->hidden, inter = (size_t)c->intermediate;
    const size_t dim = (size_t)c->head_dim, q = (size_t)c->heads * dim;
    const size_t kv = (size_t)c->kv_heads * dim, some = BAL_BACKWARD_ROWS;
    const struct {
        float **at;
        size_t rows, cols;
    } slot[] = {
        {&b->norm, n, hidden}, {&b->dnorm, n, hidden}, {&b->dpart, n, hidden}, {&b->gate, n, inter},
        {&b->up, n, inter},    {&b->dact, n, inter},   {&b->q, n, q},          {&b->dq, n, q},
        {&b->dctx, n, q},      {&b->k, n, kv},         {&b->v, n, kv},         {&b->dk, n, kv},
        {&b->dv, n, kv},       {&b->kh, n, dim},       {&b->vh, n, dim},       {&b->dkh, n, dim},
        {&b->dvh, n, dim},     {&b->kt, dim, n},       {&b->vt, dim, n},       {&b->qh, some, dim},
        {&b->dqh, some, dim},  {&b->doh, some, dim},   {&b->p, some, n},       {&b->dp, some, n},
        {&b->t, n, some},
    };
    enum { SLOTS = sizeof slot / sizeof *slot };
    size_t total = 0;
    for (int i = 0; i < SLOTS; i++) {
        size_t floats;
        if (!bal_size_mul(slot[i].rows, slot[i].cols, &floats) ||
            !bal_size_add(total, bal_round_up(floats, 16), &total))
            return bal_fail(err, BAL_E_ARG, "a calibration sample of %d positions", max_len);
    }
    size_t bytes;
    float *p = bal_size_mul(total, sizeof *p, &bytes) ? aligned_alloc(64, bytes) : NULL;
    if (!p) return bal_nomem(err, total * sizeof *p, "buffers of the backward pass");
    b->memory = p;
    for (int i = 0; i < SLOTS; i++) {
        *slot[i].at = p;
        p += bal_round_up(slot[i].rows * slot[i].cols, 16);
    }
    return BAL_OK;
}

void bal_backward_destroy(bal_backward *b)
{
    free(b->memory);
    *b = (bal_backward){0};
}

/* ---- Row-wise pieces --------------------------------------------------------------------------
 */

typedef struct row_job {
    bool half;          /* round gradients to f16 */
    size_t n;           /* columns */
    const float *x, *w; /* what the step needs of the forward pass */
    float *a, *b;       /* gradients */
    float eps, scale;
    int first;
} row_job;

static inline float rd(bool half, float x)
{
    return half ? bal_round_f16(x) : x;
}

static void round_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const row_job *j = ctx;
    for (size_t i = begin * j->n; i < end * j->n; i++) j->a[i] = bal_round_f16(j->a[i]);
}

/* Every gradient tensor that leaves a module passes through here. */
static void boundary(const bal_exec *e, bal_backward_mode mode, float *g, int m, size_t n)
{
    row_job j = {.a = g, .n = n};
    if (mode.arith == BAL_GRADIENT_F16) bal_pool_run(e->pool, round_rows, &j, (size_t)m, ROW_GRAIN);
}

static void add_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const row_job *j = ctx;
    for (size_t i = begin * j->n; i < end * j->n; i++) j->a[i] = rd(j->half, j->a[i] + j->b[i]);
}

/* a += b */
static void add(const bal_exec *e, bal_backward_mode mode, float *a, float *b, int m, size_t n)
{
    row_job j = {.half = mode.arith == BAL_GRADIENT_F16, .a = a, .b = b, .n = n};
    bal_pool_run(e->pool, add_rows, &j, (size_t)m, ROW_GRAIN);
}

/* y = x r w with r = 1 / sqrt(mean x^2 + eps):  dx = r t - x r^3 mean(t x),  t = dy w. In place. */
static void norm_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const row_job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        const float *x = j->x + i * j->n;
        float *g = j->a + i * j->n;
        double sq = 0.0, tx = 0.0;
        for (size_t c = 0; c < j->n; c++) {
            g[c] = rd(j->half, g[c] * j->w[c]);
            sq += (double)x[c] * (double)x[c];
            tx += (double)g[c] * (double)x[c];
        }
        const double r = 1.0 / sqrt(sq / (double)j->n + (double)j->eps);
        const double along = r * r * r * tx / (double)j->n;
        for (size_t c = 0; c < j->n; c++)
            g[c] = rd(j->half, (float)(r * (double)g[c] - along * (double)x[c]));
    }
}

static void norm_backward(const bal_exec *e, float eps, bal_backward_mode mode, const float *x,
                          const float *w, int m, int n, float *g)
{
    row_job j = {
        .half = mode.arith == BAL_GRADIENT_F16, .x = x, .w = w, .eps = eps, .a = g, .n = (size_t)n};
    bal_pool_run(e->pool, norm_rows, &j, (size_t)m, ROW_GRAIN);
}

/* y = linear(x): g [m][w->k] gets the gradient of x, given dy [m][w->n]. */
static void linear_backward(const bal_exec *e, const bal_linear *w, bal_backward_mode mode,
                            const float *dy, int m, float *g)
{
    bal_linear_backward(e, w, dy, (size_t)w->n, m, g, (size_t)w->k, false);
    boundary(e, mode, g, m, (size_t)w->k);
}

/* ---- MLP --------------------------------------------------------------------------------------
 */

/* act = silu(gate) up. In: a = d act, x = gate, b = up. Out: a = d gate, b = d up. */
static void swiglu_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const row_job *j = ctx;
    for (size_t i = begin * j->n; i < end * j->n; i++) {
        const float gate = j->x[i], up = j->b[i], sigmoid = 1.0f / (1.0f + expf(-gate));
        const float dsilu = rd(j->half, j->a[i] * up);
        j->b[i] = rd(j->half, j->a[i] * (gate * sigmoid));
        j->a[i] = rd(j->half, dsilu * (sigmoid * (1.0f + gate * (1.0f - sigmoid))));
    }
}

/* Gradients of l's inputs behind its transform become those in front of it: H is its own inverse.
 */
static void unmix(const bal_exec *e, const bal_linear *l, bal_backward_mode mode, int m, float *dx)
{
    if (!l->hadamard) return;
    bal_hadamard(e, dx, m, l->k, l->hadamard);
    boundary(e, mode, dx, m, (size_t)l->k);
}

/* dout [m][hidden]: gradient of down_proj's output -> b->dnorm: gradient of mid through the norm */
static void mlp_backward(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                         const bal_wide_layer *wide, bal_backward_mode mode, int m,
                         const float *mid, const float *dout, bal_backward *b)
{
    const size_t hidden = (size_t)c->hidden, inter = (size_t)c->intermediate;
    bal_rms_norm(e, mid, l->mlp_norm, c->rms_eps, m, c->hidden, b->norm);
    bal_probe_linear(e, &wide->w[4], b->norm, m, b->gate);
    bal_probe_linear(e, &wide->w[5], b->norm, m, b->up);
    linear_backward(e, &l->down, mode, dout, m, b->dact);
    unmix(e, &l->down, mode, m, b->dact);
    row_job j = {
        .half = mode.arith == BAL_GRADIENT_F16, .x = b->gate, .a = b->dact, .b = b->up, .n = inter};
    bal_pool_run(e->pool, swiglu_rows, &j, (size_t)m, ROW_GRAIN);
    linear_backward(e, &l->gate, mode, b->dact, m, b->dnorm);
    linear_backward(e, &l->up, mode, b->up, m, b->dpart);
    add(e, mode, b->dnorm, b->dpart, m, hidden);
    norm_backward(e, c->rms_eps, mode, mid, l->mlp_norm, m, c->hidden, b->dnorm);
}

/* ---- Attention --------------------------------------------------------------------------------
 */

static bal_linear rows_as_linear(const float *w, int n, int k)
{
    return (bal_linear){.type = BAL_TYPE_F32, .n = n, .k = k, .w = w};
}

/* Columns [at, at + dim) of rows [r0, r0 + m) of x [..][width] */
static void take_head(const float *x, size_t width, size_t at, int r0, int m, size_t dim,
                      float *out)
{
    for (int r = 0; r < m; r++)
        memcpy(out + (size_t)r * dim, x + (size_t)(r0 + r) * width + at, dim * sizeof *out);
}

static void put_head(float *x, size_t width, size_t at, int r0, int m, size_t dim, const float *in)
{
    for (int r = 0; r < m; r++)
        memcpy(x + (size_t)(r0 + r) * width + at, in + (size_t)r * dim, dim * sizeof *in);
}

/* Scores of row r against n keys become causal softmax weights, in place; row r of the call stands
 * at position first + r. */
static void softmax_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const row_job *j = ctx;
    for (size_t r = begin; r < end; r++) {
        float *p = j->a + r * j->n, top = -INFINITY;
        const size_t seen = bal_min(j->n, (size_t)j->first + r + 1);
        double sum = 0.0;
        for (size_t i = 0; i < seen; i++) top = p[i] > top ? p[i] : top;
        for (size_t i = 0; i < seen; i++) {
            p[i] = expf((p[i] - top) * j->scale);
            sum += (double)p[i];
        }
        const float inv = (float)(1.0 / sum);
        for (size_t i = 0; i < seen; i++) p[i] *= inv;
        memset(p + seen, 0, (j->n - seen) * sizeof *p);
    }
}

/* dS = P (dP - sum P dP) scale. In: x = P, a = dP. Out: a = dS. */
static void score_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const row_job *j = ctx;
    for (size_t r = begin; r < end; r++) {
        const float *p = j->x + r * j->n;
        float *g = j->a + r * j->n;
        double dot = 0.0;
        for (size_t i = 0; i < j->n; i++) {
            g[i] = rd(j->half, g[i]);
            dot += (double)p[i] * (double)g[i];
        }
        for (size_t i = 0; i < j->n; i++)
            g[i] = rd(j->half, rd(j->half, p[i] * (g[i] - (float)dot)) * j->scale);
    }
}

/* Queries [r0, r0 + m) of one query head against the kept keys and values of its head, `all` of
 * them: writes their dq, adds to dkh and dvh. */
static void attend_backward(const bal_exec *e, const bal_text_config *c, bal_backward_mode mode,
                            int head, int all, int r0, int m, bal_backward *b)
{
    const int dim = c->head_dim, keys = r0 + m; /* causal: later keys are not seen */
    const size_t d = (size_t)dim, n = (size_t)keys, width = (size_t)c->heads * d;
    const size_t at = (size_t)head * d;
    const bal_linear by_k = rows_as_linear(b->kh, keys, dim);
    const bal_linear by_q = rows_as_linear(b->qh, m, dim), by_o = rows_as_linear(b->doh, m, dim);
    row_job j = {.half = mode.arith == BAL_GRADIENT_F16,
                 .n = n,
                 .a = b->p,
                 .first = r0,
                 .scale = 1.0f / sqrtf((float)dim)};
    take_head(b->q, width, at, r0, m, d, b->qh);
    take_head(b->dctx, width, at, r0, m, d, b->doh);
    bal_probe_linear(e, &(bal_wide){.n = keys, .k = dim, .ld = all, .w = b->kt}, b->qh, m, b->p);
    bal_pool_run(e->pool, softmax_rows, &j, (size_t)m, ROW_GRAIN);
    bal_probe_linear(e, &(bal_wide){.n = keys, .k = dim, .ld = all, .w = b->vt}, b->doh, m, b->dp);
    j.x = b->p;
    j.a = b->dp;
    bal_pool_run(e->pool, score_rows, &j, (size_t)m, ROW_GRAIN);
    bal_linear_backward(e, &by_k, b->dp, n, m, b->dqh, d, false);
    put_head(b->dq, width, at, r0, m, d, b->dqh);
    bal_probe_transpose(e, b->dp, n, m, keys, b->t);
    bal_linear_backward(e, &by_q, b->t, (size_t)m, keys, b->dkh, d, true);
    bal_probe_transpose(e, b->p, n, m, keys, b->t);
    bal_linear_backward(e, &by_o, b->t, (size_t)m, keys, b->dvh, d, true);
}

/* x [n][width] += one head's [n][dim] at column `at` */
static void add_head(bal_backward_mode mode, float *x, size_t width, size_t at, int n, size_t dim,
                     const float *in)
{
    const bool half = mode.arith == BAL_GRADIENT_F16;
    for (size_t r = 0; r < (size_t)n; r++)
        for (size_t i = 0; i < dim; i++) {
            float *to = &x[r * width + at + i];
            *to = rd(half, *to + rd(half, in[r * dim + i]));
        }
}

/* One head of keys and values with all query heads that share it. */
static void kv_head_backward(const bal_exec *e, const bal_text_config *c, bal_backward_mode mode,
                             int kv_head, int n, bal_backward *b)
{
    const size_t d = (size_t)c->head_dim, width = (size_t)c->kv_heads * d;
    const size_t at = (size_t)kv_head * d, bytes = (size_t)n * d * sizeof(float);
    const int shared = c->heads / c->kv_heads;
    take_head(b->k, width, at, 0, n, d, b->kh);
    take_head(b->v, width, at, 0, n, d, b->vh);
    bal_probe_transpose(e, b->kh, d, n, c->head_dim, b->kt);
    bal_probe_transpose(e, b->vh, d, n, c->head_dim, b->vt);
    for (int i = 0; i < shared; i++) {
        memset(b->dkh, 0, bytes);
        memset(b->dvh, 0, bytes);
        for (int r0 = 0; r0 < n; r0 += BAL_BACKWARD_ROWS) {
            const int m = n - r0 < BAL_BACKWARD_ROWS ? n - r0 : BAL_BACKWARD_ROWS;
            attend_backward(e, c, mode, kv_head * shared + i, n, r0, m, b);
        }
        add_head(mode, b->dk, width, at, n, d, b->dkh);
        add_head(mode, b->dv, width, at, n, d, b->dvh);
    }
}

/* Adds the gradient that reaches the normed input through one of q, k, v. */
static void projection_backward(const bal_exec *e, const bal_linear *w, bal_backward_mode mode,
                                const float *dy, int m, bal_backward *b)
{
    linear_backward(e, w, mode, dy, m, b->dpart);
    add(e, mode, b->dnorm, b->dpart, m, (size_t)w->k);
}

/* dq and dk through the norms over heads. What they normed is computed again, into memory that the
 * rest of the pass has finished with. */
static void head_norms_backward(const bal_exec *e, const bal_text_config *c,
                                const bal_decoder_layer *l, const bal_wide_layer *wide,
                                bal_backward_mode mode, int n, bal_backward *b)
{
    if (l->q_norm) {
        bal_probe_linear(e, &wide->w[0], b->norm, n, b->dctx);
        norm_backward(e, c->rms_eps, mode, b->dctx, l->q_norm, n * c->heads, c->head_dim, b->dq);
    }
    if (l->k_norm) {
        bal_probe_linear(e, &wide->w[1], b->norm, n, b->q);
        norm_backward(e, c->rms_eps, mode, b->q, l->k_norm, n * c->kv_heads, c->head_dim, b->dk);
    }
}

void bal_backward_attn(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                       const bal_wide_layer *wide, const bal_rows *rows, bal_backward_mode mode,
                       const float *h, const float *dout, bal_backward *b)
{
    const int n = rows->m;
    const size_t hidden = (size_t)c->hidden, q = (size_t)c->heads * (size_t)c->head_dim;
    const size_t kv = (size_t)c->kv_heads * (size_t)c->head_dim;
    bal_rms_norm(e, h, l->attn_norm, c->rms_eps, n, c->hidden, b->norm);
    bal_probe_linear(e, &wide->w[0], b->norm, n, b->q);
    bal_probe_linear(e, &wide->w[1], b->norm, n, b->k);
    bal_probe_linear(e, &wide->w[2], b->norm, n, b->v);
    bal_decoder_rotate(e, c, l->q_norm, l->k_norm, n, rows->cos, rows->sin, b->q, b->k);
    linear_backward(e, &l->o, mode, dout, n, b->dctx);
    unmix(e, &l->o, mode, n, b->dctx);
    memset(b->dk, 0, (size_t)n * kv * sizeof(float));
    memset(b->dv, 0, (size_t)n * kv * sizeof(float));
    for (int i = 0; i < c->kv_heads; i++) kv_head_backward(e, c, mode, i, n, b);
    boundary(e, mode, b->dq, n, q);
    bal_rope_apply(e, b->dq, n, c->heads, c->head_dim, rows->cos, rows->sin, -1.0f);
    bal_rope_apply(e, b->dk, n, c->kv_heads, c->head_dim, rows->cos, rows->sin, -1.0f);
    boundary(e, mode, b->dq, n, q);
    boundary(e, mode, b->dk, n, kv);
    head_norms_backward(e, c, l, wide, mode, n, b);
    memset(b->dnorm, 0, (size_t)n * hidden * sizeof(float));
    projection_backward(e, &l->q, mode, b->dq, n, b);
    projection_backward(e, &l->k, mode, b->dk, n, b);
    projection_backward(e, &l->v, mode, b->dv, n, b);
    norm_backward(e, c->rms_eps, mode, h, l->attn_norm, n, c->hidden, b->dnorm);
}

void bal_backward_block(const bal_exec *e, const bal_text_config *c, const bal_decoder_layer *l,
                        const bal_wide_layer *wide, const bal_rows *rows, bal_backward_mode mode,
                        const float *h, const float *mid, float *dh, float *dmid, bal_backward *b)
{
    const size_t hidden = (size_t)c->hidden;
    mlp_backward(e, c, l, wide, mode, rows->m, mid, dh, b);
    add(e, mode, dh, b->dnorm, rows->m, hidden);
    memcpy(dmid, dh, (size_t)rows->m * hidden * sizeof *dh);
    bal_backward_attn(e, c, l, wide, rows, mode, h, dmid, b);
    add(e, mode, dh, b->dnorm, rows->m, hidden);
}

/* ---- Loss -------------------------------------------------------------------------------------
 */

/* Rows of h whose next token is an answer token, at most LOSS_ROWS of them from `from` on. */
typedef struct label_chunk {
    int n;
    int row[LOSS_ROWS];
    float *h, *g;  /* [LOSS_ROWS][hidden] */
    float *logits; /* [LOSS_ROWS][vocab] */
} label_chunk;

/* Logits of one row become (softmax - onehot(label)) * scale; returns -log softmax[label]. */
static double cross_entropy(float *z, int vocab, int label, double scale, bool half)
{
    float top = z[0];
    double sum = 0.0;
    for (int i = 1; i < vocab; i++) top = z[i] > top ? z[i] : top;
    for (int i = 0; i < vocab; i++) sum += exp((double)z[i] - (double)top);
    const double nll = log(sum) - ((double)z[label] - (double)top);
    for (int i = 0; i < vocab; i++) {
        const double p = exp((double)z[i] - (double)top) / sum;
        z[i] = rd(half, (float)((p - (i == label ? 1.0 : 0.0)) * scale));
    }
    return nll;
}

typedef struct loss_job {
    const bal_sample *sample;
    label_chunk *chunk;
    int vocab;
    double scale;
    bool half;
    double nll[LOSS_ROWS];
} loss_job;

static void loss_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    loss_job *j = ctx;
    for (size_t i = begin; i < end; i++)
        j->nll[i] = cross_entropy(j->chunk->logits + i * (size_t)j->vocab, j->vocab,
                                  j->sample->ids[j->chunk->row[i] + 1], j->scale, j->half);
}

/* Through head and final norm for the rows of the chunk; returns the sum of their losses. */
static double chunk_backward(const bal_exec *e, const bal_model *m, bal_backward_mode mode,
                             loss_job *j, const float *h, float *dh, bal_decoder_buf *buf)
{
    const bal_text_config *c = &m->config.text;
    const size_t hidden = (size_t)c->hidden;
    label_chunk *k = j->chunk;
    double sum = 0.0;
    for (int i = 0; i < k->n; i++)
        memcpy(k->h + (size_t)i * hidden, h + (size_t)k->row[i] * hidden, hidden * sizeof *h);
    bal_decoder_logits(e, m, k->h, k->n, buf, k->logits, (bal_taps){0});
    bal_pool_run(e->pool, loss_rows, j, (size_t)k->n, 1);
    for (int i = 0; i < k->n; i++) sum += j->nll[i];
    linear_backward(e, &m->head, mode, k->logits, k->n, k->g);
    norm_backward(e, c->rms_eps, mode, k->h, m->final_norm, k->n, c->hidden, k->g);
    for (int i = 0; i < k->n; i++)
        memcpy(dh + (size_t)k->row[i] * hidden, k->g + (size_t)i * hidden, hidden * sizeof *dh);
    return sum;
}

static int count_labels(const bal_sample *s)
{
    int n = 0;
    for (int i = 1; i < s->n; i++) n += s->modality[i] == BAL_ANSWER;
    return n;
}

bal_status bal_backward_loss(const bal_exec *e, const bal_model *m, const bal_sample *sample,
                             bal_backward_mode mode, const float *h, double *loss, float *dh,
                             bal_decoder_buf *buf, bal_error *err)
{
    const bal_text_config *c = &m->config.text;
    const size_t hidden = (size_t)c->hidden, vocab = (size_t)c->vocab;
    const int labels = count_labels(sample), max = buf->max_m < LOSS_ROWS ? buf->max_m : LOSS_ROWS;
    *loss = 0.0;
    if (labels == 0) return bal_fail(err, BAL_E_ARG, "no answer token to predict");
    for (int i = 1; i < sample->n; i++)
        if (sample->modality[i] == BAL_ANSWER && (sample->ids[i] < 0 || sample->ids[i] >= c->vocab))
            return bal_fail(err, BAL_E_ARG, "position %d: token %d, the vocabulary has %d", i,
                            (int)sample->ids[i], (int)c->vocab);
    float *memory = malloc((size_t)max * (2 * hidden + vocab) * sizeof *memory);
    if (!memory) return bal_nomem(err, (size_t)max * vocab * sizeof *memory, "logits");
    label_chunk k = {.h = memory,
                     .g = memory + (size_t)max * hidden,
                     .logits = memory + 2 * (size_t)max * hidden};
    loss_job j = {.sample = sample,
                  .chunk = &k,
                  .vocab = c->vocab,
                  .scale = mode.scale / labels,
                  .half = mode.arith == BAL_GRADIENT_F16};
    memset(dh, 0, (size_t)sample->n * hidden * sizeof *dh);
    for (int from = 0; from + 1 < sample->n;) {
        from = bal_sample_labels(sample, from, max, k.row, &k.n);
        if (k.n > 0) *loss += chunk_backward(e, m, mode, &j, h, dh, buf);
    }
    *loss /= labels;
    free(memory);
    return BAL_OK;
}
