/* SPDX-License-Identifier: MIT
 * One work item is one head and up to 16 queries. Each page contributes scores, their exponentials
 * and a partial output, merged into (O, m, l) page after page. */
#include "op/attention.h"

#include "base/size.h"
#include "op/scratch.h"

#include <math.h>
#include <string.h>

_Static_assert(BAL_PAGE == 64, "BAL_ATTENTION_SCRATCH counts 64 scores a row");

typedef struct job {
    const bal_exec *e;
    const bal_attention_shape *s;
    const float *q;
    int m, first;
    const bal_kv_page *pages;
    int n_keys;
    float *out, *ml;
} job;

typedef struct tile {
    int rows, first_row; /* queries first_row .. first_row + rows - 1 of the call */
    int head;
    float *scores;     /* [16][BAL_PAGE] */
    float *part, *acc; /* [16][head_dim] */
    float max[BAL_QUERY_TILE], sum[BAL_QUERY_TILE];
} tile;

/* How many keys query row i of the call sees. */
static int visible(const job *j, int i)
{
    return j->s->causal ? j->first + i + 1 : j->n_keys;
}

/* acc = acc * exp(max - new) + part * exp(page max - new), and the same for the sums. */
static void merge_row(tile *t, int r, int head_dim, float page_max, float page_sum)
{
    const float top = page_max > t->max[r] ? page_max : t->max[r];
    const float a = t->max[r] == -INFINITY ? 0.0f : expf(t->max[r] - top);
    const float b = expf(page_max - top);
    float *acc = t->acc + (size_t)r * (size_t)head_dim;
    const float *part = t->part + (size_t)r * (size_t)head_dim;
    for (int d = 0; d < head_dim; d++) acc[d] = acc[d] * a + part[d] * b;
    t->sum[r] = t->sum[r] * a + page_sum * b;
    t->max[r] = top;
}

/* Scores of row r against the page's first `valid` keys become weights; the rest are zero. */
static void exp_row(const job *j, tile *t, int r, int valid, int n, float *max, float *sum)
{
    const float scale = 1.0f / sqrtf((float)j->s->head_dim);
    float *row = t->scores + (size_t)r * BAL_PAGE;
    for (int i = 0; i < valid; i++) row[i] *= scale;
    memset(row + valid, 0, (size_t)(n - valid) * sizeof *row);
    if (valid > 0) j->e->kernels->softmax_exp(row, (size_t)valid, max, sum);
}

static void page_step(const job *j, tile *t, int page)
{
    const bal_attention_shape *s = j->s;
    const size_t dim = (size_t)s->head_dim, ldkv = (size_t)s->kv_heads * dim;
    const size_t ldq = (size_t)s->heads * dim;
    const size_t kv = (size_t)(t->head / (s->heads / s->kv_heads)) * dim;
    const float *q = j->q + (size_t)t->first_row * ldq + (size_t)t->head * dim;
    const int begin = page * BAL_PAGE;
    const int last = visible(j, t->first_row + t->rows - 1) - begin;
    const int n = last < BAL_PAGE ? last : BAL_PAGE;
    float max[BAL_QUERY_TILE], sum[BAL_QUERY_TILE];
    int valid[BAL_QUERY_TILE];
    j->e->kernels->gemm_nt_f32((size_t)t->rows, (size_t)n, dim, q, ldq, j->pages[page].k + kv, ldkv,
                               t->scores, BAL_PAGE);
    for (int r = 0; r < t->rows; r++) {
        const int seen = visible(j, t->first_row + r) - begin;
        valid[r] = seen < 0 ? 0 : seen < n ? seen : n;
        exp_row(j, t, r, valid[r], n, &max[r], &sum[r]);
    }
    j->e->kernels->gemm_nn_f32((size_t)t->rows, (size_t)n, dim, t->scores, BAL_PAGE,
                               j->pages[page].v + kv, ldkv, t->part, dim, false);
    for (int r = 0; r < t->rows; r++)
        if (valid[r] > 0) merge_row(t, r, s->head_dim, max[r], sum[r]);
}

static void finish(const job *j, const tile *t)
{
    const size_t dim = (size_t)j->s->head_dim, heads = (size_t)j->s->heads;
    for (int r = 0; r < t->rows; r++) {
        const size_t at = ((size_t)(t->first_row + r) * heads + (size_t)t->head);
        const float inv = 1.0f / t->sum[r];
        for (size_t d = 0; d < dim; d++) j->out[at * dim + d] = t->acc[(size_t)r * dim + d] * inv;
        if (!j->ml) continue;
        j->ml[at * 2] = t->max[r];
        j->ml[at * 2 + 1] = t->sum[r];
    }
}

static void item(const job *j, size_t index, float *scratch)
{
    const int tiles = (j->m + BAL_QUERY_TILE - 1) / BAL_QUERY_TILE;
    const size_t dim = (size_t)j->s->head_dim;
    tile t = {.head = (int)index / tiles, .first_row = (int)index % tiles * BAL_QUERY_TILE};
    t.rows = j->m - t.first_row < BAL_QUERY_TILE ? j->m - t.first_row : BAL_QUERY_TILE;
    t.scores = scratch;
    t.part = t.scores + BAL_QUERY_TILE * BAL_PAGE;
    t.acc = t.part + BAL_QUERY_TILE * dim;
    memset(t.acc, 0, (size_t)t.rows * dim * sizeof *t.acc);
    for (int r = 0; r < t.rows; r++) {
        t.max[r] = -INFINITY;
        t.sum[r] = 0.0f;
    }
    const int keys = visible(j, t.first_row + t.rows - 1);
    for (int page = 0; page * BAL_PAGE < keys; page++) page_step(j, &t, page);
    finish(j, &t);
}

static void items(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    for (size_t i = begin; i < end; i++) item(j, i, bal_exec_lane(j->e, lane));
}

void bal_attention(const bal_exec *e, const bal_attention_shape *s, const float *q, int m,
                   int first, const bal_kv_page *pages, int n_keys, float *out, float *ml)
{
    const job j = {e, s, q, m, first, pages, n_keys, out, ml};
    const size_t tiles = bal_ceil_div((size_t)m, BAL_QUERY_TILE);
    bal_pool_run(e->pool, items, (void *)(uintptr_t)&j, tiles * (size_t)s->heads, 1);
}
