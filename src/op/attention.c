/* SPDX-License-Identifier: MIT
 * One work item is one kv head and up to 64 query rows that read it: the query heads of its group
 * at one or more positions, of one sequence or of neighbours that share their first pages. Each
 * page contributes scores, their exponentials and a partial output, merged into (O, m, l) page
 * after page. */
#include "op/attention.h"

#include "base/size.h"
#include "op/scratch.h"

#include <limits.h>
#include <math.h>
#include <string.h>

_Static_assert(BAL_PAGE == 64, "BAL_ATTENTION_SCRATCH counts 64 scores a row");

typedef struct job {
    const bal_exec *e;
    int kv_heads, group, dim; /* group: query heads to a kv head */
    int n_keys;               /* that every row sees, or -1: causal */
    const float *q;
    const bal_kv_span *spans;
    int n_spans;
    int most; /* rows of a tile */
    size_t n_tiles;
    const bal_kv_page *plain; /* NULL: pages of the spans, as the layout has them */
    const bal_kv_layout *layout;
    int layer;
    bal_page_range range;
    bool resume;
    float *out, *ml;
} job;

/* Rows of one span within a tile: its flattened rows (position, head of the group) first ..
 * first + n - 1, at rows `at` of the tile. */
typedef struct part {
    const bal_kv_span *span;
    int first, n, at;
} part;

typedef struct tile {
    part parts[BAL_QUERY_TILE];
    int n_parts, rows, shared; /* shared: pages common to all parts */
    int head;
    float *q;         /* [BAL_QUERY_TILE][dim] */
    float *scores;    /* [BAL_QUERY_TILE][BAL_PAGE] */
    float *sum, *acc; /* [BAL_QUERY_TILE][dim]: of a page, of all so far */
    float *room;      /* [BAL_PAGE][dim] for keys, then for values */
    float max[BAL_QUERY_TILE], total[BAL_QUERY_TILE];
} tile;

/* ---- Which rows go together ------------------------------------------------------------------ */

typedef struct cursor {
    int span, row;
} cursor;

static int span_rows(const job *j, int i)
{
    return j->spans[i].m * j->group;
}

/* A tile takes rows of one span; if that is all of it, further whole spans that share pages. */
static void next_tile(const job *j, cursor *c, tile *t)
{
    t->n_parts = t->rows = t->shared = 0;
    do {
        const int left = span_rows(j, c->span) - c->row, room = j->most - t->rows;
        const int n = left < room ? left : room;
        const bal_kv_span *s = &j->spans[c->span];
        if (t->n_parts == 1) t->shared = s->shared;
        if (t->n_parts > 1 && s->shared < t->shared) t->shared = s->shared;
        t->parts[t->n_parts++] = (part){s, c->row, n, t->rows};
        t->rows += n;
        c->row += n;
        if (n < left) return;
        *c = (cursor){c->span + 1, 0};
    } while (c->span < j->n_spans && j->spans[c->span].shared > 0 &&
             span_rows(j, c->span) <= j->most - t->rows && t->parts[0].first == 0);
}

static size_t count_tiles(const job *j)
{
    cursor c = {0};
    tile t;
    size_t n = 0;
    for (; c.span < j->n_spans; n++) next_tile(j, &c, &t);
    return n;
}

/* Row of the batch and head of the query that row r of a part is. */
static size_t query_of(const job *j, const tile *t, const part *p, int r)
{
    const size_t row = (size_t)(p->span->row + (p->first + r) / j->group);
    const size_t head = (size_t)(t->head * j->group + (p->first + r) % j->group);
    return row * (size_t)(j->kv_heads * j->group) + head;
}

/* How many keys row r of a part sees. */
static int visible(const job *j, const part *p, int r)
{
    return j->n_keys >= 0 ? j->n_keys : p->span->first + (p->first + r) / j->group + 1;
}

/* ---- One page -------------------------------------------------------------------------------- */

static bal_kv_tile tile_of(const job *j, const bal_kv_span *s, int page, bal_kv_part which,
                           int head)
{
    if (!j->plain) return bal_kv_tile_at(j->layout, s->pages[page], j->layer, which, head);
    const bal_kv_page *p = &j->plain[page];
    const size_t dim = (size_t)j->dim;
    return (bal_kv_tile){.type = BAL_KV_F32,
                         .ld = (size_t)j->kv_heads * dim,
                         .codes = (which == BAL_KEYS ? p->k : p->v) + (size_t)head * dim};
}

/* acc = acc * exp(max - new) + sum * exp(page max - new), and the same for the totals. */
static void merge_row(float *acc, float *max, float *total, const float *sum, float page_max,
                      float page_total, size_t dim)
{
    const float top = page_max > *max ? page_max : *max;
    const float a = *max == -INFINITY ? 0.0f : expf(*max - top);
    const float b = expf(page_max - top);
    for (size_t d = 0; d < dim; d++) acc[d] = acc[d] * a + sum[d] * b;
    *total = *total * a + page_total * b;
    *max = top;
}

/* Scores of row r against the page's first `valid` keys become weights; the rest are zero. */
static void exp_row(const job *j, float *row, int valid, int n, float *max, float *total)
{
    const float scale = 1.0f / sqrtf((float)j->dim);
    for (int i = 0; i < valid; i++) row[i] *= scale;
    memset(row + valid, 0, (size_t)(n - valid) * sizeof *row);
    if (valid > 0) j->e->kernels->softmax_exp(row, (size_t)valid, max, total);
}

/* Rows at .. at + rows - 1 of the tile over one page of span s, of which row r sees seen[r] keys
 * and one sees n. */
static void page_step(const job *j, tile *t, const bal_kv_span *s, int page, int at, int rows,
                      const int *seen, int n)
{
    const size_t dim = (size_t)j->dim, m = (size_t)rows;
    const bal_kernels *kernels = j->e->kernels;
    float max[BAL_QUERY_TILE], total[BAL_QUERY_TILE];
    float *scores = t->scores + (size_t)at * BAL_PAGE, *sum = t->sum + (size_t)at * dim;
    size_t ld;
    bal_kv_tile kv = tile_of(j, s, page, BAL_KEYS, t->head);
    const float *x = bal_kv_tile_read(kernels, &kv, n, j->dim, t->room, &ld);
    kernels->gemm_nt_f32(m, (size_t)n, dim, t->q + (size_t)at * dim, dim, x, ld, scores, BAL_PAGE);
    for (int r = 0; r < rows; r++)
        exp_row(j, scores + (size_t)r * BAL_PAGE, seen[r], n, &max[r], &total[r]);
    kv = tile_of(j, s, page, BAL_VALUES, t->head);
    x = bal_kv_tile_read(kernels, &kv, n, j->dim, t->room, &ld);
    kernels->gemm_nn_f32(m, (size_t)n, dim, scores, BAL_PAGE, x, ld, sum, dim, false);
    for (int r = 0; r < rows; r++)
        if (seen[r] > 0)
            merge_row(t->acc + (size_t)(at + r) * dim, &t->max[at + r], &t->total[at + r],
                      sum + (size_t)r * dim, max[r], total[r], dim);
}

/* ---- One tile -------------------------------------------------------------------------------- */

static void shared_pages(const job *j, tile *t)
{
    int seen[BAL_QUERY_TILE];
    for (int r = 0; r < t->rows; r++) seen[r] = BAL_PAGE;
    const int end = t->shared < j->range.end ? t->shared : j->range.end;
    for (int page = j->range.begin; page < end; page++)
        page_step(j, t, t->parts[0].span, page, 0, t->rows, seen, BAL_PAGE);
}

static void own_pages(const job *j, tile *t, const part *p)
{
    const int keys = visible(j, p, p->n - 1);
    int page = t->shared > j->range.begin ? t->shared : j->range.begin;
    for (; page < j->range.end && page * BAL_PAGE < keys; page++) {
        const int left = keys - page * BAL_PAGE, n = left < BAL_PAGE ? left : BAL_PAGE;
        int seen[BAL_QUERY_TILE];
        for (int r = 0; r < p->n; r++) {
            const int v = visible(j, p, r) - page * BAL_PAGE;
            seen[r] = v < 0 ? 0 : v < n ? v : n;
        }
        page_step(j, t, p->span, page, p->at, p->n, seen, n);
    }
}

static void load_rows(const job *j, tile *t, const part *p)
{
    const size_t dim = (size_t)j->dim;
    for (int r = 0; r < p->n; r++) {
        const size_t from = query_of(j, t, p, r), at = (size_t)(p->at + r);
        memcpy(t->q + at * dim, j->q + from * dim, dim * sizeof *t->q);
        t->max[at] = j->resume ? j->ml[2 * from] : -INFINITY;
        t->total[at] = j->resume ? j->ml[2 * from + 1] : 0.0f;
        if (j->resume)
            memcpy(t->acc + at * dim, j->out + from * dim, dim * sizeof *t->acc);
        else
            memset(t->acc + at * dim, 0, dim * sizeof *t->acc);
    }
}

static void store_rows(const job *j, const tile *t, const part *p)
{
    const size_t dim = (size_t)j->dim;
    for (int r = 0; r < p->n; r++) {
        const size_t to = query_of(j, t, p, r), at = (size_t)(p->at + r);
        const float ml[2] = {t->max[at], t->total[at]};
        memcpy(j->out + to * dim, t->acc + at * dim, dim * sizeof *t->acc);
        if (j->ml) memcpy(j->ml + 2 * to, ml, sizeof ml);
        if (!j->resume) bal_attention_finish(j->out + to * dim, ml, 1, dim);
    }
}

static void run_tile(const job *j, tile *t, int head, float *scratch)
{
    const size_t row = (size_t)BAL_QUERY_TILE * (size_t)j->dim;
    t->head = head;
    t->scores = scratch;
    t->q = t->scores + BAL_QUERY_TILE * BAL_PAGE;
    t->sum = t->q + row;
    t->acc = t->sum + row;
    t->room = t->acc + row;
    for (int i = 0; i < t->n_parts; i++) load_rows(j, t, &t->parts[i]);
    shared_pages(j, t);
    for (int i = 0; i < t->n_parts; i++) own_pages(j, t, &t->parts[i]);
    for (int i = 0; i < t->n_parts; i++) store_rows(j, t, &t->parts[i]);
}

/* Items are head by head, each with all its tiles, so that the keys and values of one head stay in
 * a cache while they are read tile after tile; a lane walks the list from its start. */
static void items(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    tile t;
    for (size_t i = begin; i < end;) {
        const size_t head = i / j->n_tiles, first = i % j->n_tiles;
        const size_t last = bal_min(j->n_tiles, first + end - i);
        cursor c = {0};
        for (size_t at = 0; at < last; at++) {
            next_tile(j, &c, &t);
            if (at >= first) run_tile(j, &t, (int)head, bal_exec_lane(j->e, lane));
        }
        i += last - first;
    }
}

enum { FEW_ROWS = 16, ITEMS_A_LANE = 4 };

/* Tiles as large as leave enough of them for all lanes: the larger, the fewer times keys and values
 * are read. */
static void run(job *j)
{
    const size_t heads = (size_t)j->kv_heads;
    const size_t enough = ITEMS_A_LANE * (size_t)bal_pool_size(j->e->pool);
    j->most = BAL_QUERY_TILE;
    j->n_tiles = count_tiles(j);
    while (j->n_tiles * heads < enough && j->most > FEW_ROWS) {
        j->most /= 2;
        j->n_tiles = count_tiles(j);
    }
    const size_t n = j->n_tiles * heads;
    if (n > 0) bal_pool_run(j->e->pool, items, j, n, 1);
}

void bal_attention(const bal_exec *e, const bal_attention_shape *s, const float *q, int m,
                   int first, const bal_kv_page *pages, int n_keys, float *out, float *ml)
{
    const bal_kv_span span = {.m = m, .first = first};
    job j = {.e = e,
             .kv_heads = s->kv_heads,
             .group = s->heads / s->kv_heads,
             .dim = s->head_dim,
             .n_keys = s->causal ? -1 : n_keys,
             .q = q,
             .spans = &span,
             .n_spans = 1,
             .plain = pages,
             .range = {0, INT_MAX},
             .out = out,
             .ml = ml};
    run(&j);
}

void bal_attention_cached(const bal_exec *e, int heads, const bal_kv_layout *layout, int layer,
                          const float *q, const bal_kv_span *spans, int n_spans,
                          const bal_page_range *range, float *out, float *ml)
{
    job j = {.e = e,
             .kv_heads = layout->heads,
             .group = heads / layout->heads,
             .dim = layout->dim,
             .n_keys = -1,
             .q = q,
             .spans = spans,
             .n_spans = n_spans,
             .layout = layout,
             .layer = layer,
             .range = range ? *range : (bal_page_range){0, INT_MAX},
             .resume = range != NULL,
             .out = out,
             .ml = ml};
    run(&j);
}

void bal_attention_merge(float *o, float *ml, const float *from, const float *from_ml, size_t n,
                         size_t dim)
{
    for (size_t i = 0; i < n; i++)
        if (from_ml[2 * i] != -INFINITY)
            merge_row(o + i * dim, &ml[2 * i], &ml[2 * i + 1], from + i * dim, from_ml[2 * i],
                      from_ml[2 * i + 1], dim);
}

void bal_attention_finish(float *o, const float *ml, size_t n, size_t dim)
{
    for (size_t i = 0; i < n; i++) {
        const float inv = 1.0f / ml[2 * i + 1];
        for (size_t d = 0; d < dim; d++) o[i * dim + d] *= inv;
    }
}
