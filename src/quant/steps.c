/* SPDX-License-Identifier: MIT
 * The search over stored steps: what is tried is what a file can hold. A row's scale is chosen by
 * what is left when every group has taken the best of its candidates, which are few enough to be
 * tried one by one. Errors of candidates are summed in double, products before that in f32. */
#include "quant/steps.h"

#include "base/half.h"

#include <math.h>

enum {
    TABLE_STEPS = 8,              /* of either sign */
    STEP_CODES = 2 * TABLE_STEPS, /* of the first table, before those of the second */
    INT8_RANGE = 119, /* of what two levels expand to: with 8 more it still fits an int8 */
    TOP = 15,         /* code of two levels */
    NEAR = 2,         /* zero points on either side of the natural one */
    SCALES = 13,      /* of a row: 1.1, 1.05 .. 0.5 */
    REFITS = 4,
    CHUNK = 64,
};

/* Learned by Lloyd's iteration on groups of 32 divided by their extreme value, its sign included,
 * then moved on whole numbers to where groups with stored steps are closest; the second ones to
 * where groups that choose between the two are (docs/numerics.md). */
static const bal_levels LEVELS[2][3] = {
    {{{{0, 5, 9, 15}, 6}, {2.5f, 7.0f, 12.0f}},
     {{{0, 5, 9, 13, 16, 20, 24, 31}, 13}, {2.5f, 7.0f, 11.0f, 14.5f, 18.0f, 22.0f, 27.5f}},
     {{{0, 7, 12, 16, 20, 23, 26, 29, 32, 34, 37, 41, 45, 49, 55, 63}, 29},
      {3.5f, 9.5f, 14.0f, 18.0f, 21.5f, 24.5f, 27.5f, 30.5f, 33.0f, 35.5f, 39.0f, 43.0f, 47.0f,
       52.0f, 59.0f}}},
    {{{{0, 4, 8, 15}, 4}, {2.0f, 6.0f, 11.5f}},
     {{{0, 8, 12, 15, 18, 21, 25, 30}, 16}, {4.0f, 10.0f, 13.5f, 16.5f, 19.5f, 23.0f, 27.5f}},
     {{{0, 6, 11, 16, 20, 23, 26, 29, 31, 34, 37, 41, 45, 49, 56, 63}, 27},
      {3.0f, 8.5f, 13.5f, 18.0f, 21.5f, 24.5f, 27.5f, 30.0f, 32.5f, 35.5f, 39.0f, 43.0f, 47.0f,
       52.5f, 59.5f}}},
};

const bal_levels *bal_levels_of(int bits)
{
    return bal_levels_at(bits, 0);
}

const bal_levels *bal_levels_at(int bits, int table)
{
    return &LEVELS[table][bits - 2];
}

bal_code_grid bal_steps_grid(bal_packed_kind kind, int bits, float scale, uint8_t step,
                             uint8_t zero)
{
    if (kind == BAL_PACKED_TABLE) {
        const bal_levels *t = bal_levels_at(bits, step / STEP_CODES);
        return (bal_code_grid){.s = scale * (float)bal_table_step(step % STEP_CODES),
                               .z = (float)t->table.zero,
                               .most = (1 << bits) - 1,
                               .levels = t};
    }
    const int low = zero - 128 / step, high = zero + 127 / step;
    return (bal_code_grid){.s = scale * (float)step,
                           .z = (float)zero,
                           .least = low > 0 ? low : 0,
                           .most = high < TOP ? high : TOP};
}

/* ---- Errors -----------------------------------------------------------------------------------
 */

static inline float clampf(float x, float lo, float hi)
{
    x = x > lo ? x : lo;
    return x < hi ? x : hi;
}

static inline float round_even(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

/* Squared rounding errors of n <= CHUNK weights. `levels` is a literal, so that the compiler
 * unrolls over them and vectorizes over weights. */
static inline __attribute__((always_inline)) void
table_errors(const int levels, const bal_code_grid *g, const float *w, int n, float *out)
{
    const uint8_t *level = g->levels->table.level;
    const float inv = 1.0f / g->s;
    for (int i = 0; i < n; i++) {
        const float x = w[i] * inv + g->z;
        float v = (float)level[0];
        for (int c = 0; c < levels - 1; c++)
            v += x > g->levels->middle[c] ? (float)(level[c + 1] - level[c]) : 0.0f;
        const float e = w[i] - (v - g->z) * g->s;
        out[i] = e * e;
    }
}

static void plain_errors(const bal_code_grid *g, const float *w, int n, float *out)
{
    const float inv = 1.0f / g->s;
    for (int i = 0; i < n; i++) {
        const float q = clampf(round_even(w[i] * inv) + g->z, (float)g->least, (float)g->most);
        const float e = w[i] - (q - g->z) * g->s;
        out[i] = e * e;
    }
}

/* sum d e^2; d NULL: ones */
static double grid_error(const bal_code_grid *g, const float *w, const double *d, int n)
{
    double sum = 0.0;
    for (int at = 0; at < n; at += CHUNK) {
        const int part = n - at < CHUNK ? n - at : CHUNK;
        float e[CHUNK];
        if (!g->levels)
            plain_errors(g, w + at, part, e);
        else if (g->most == 3)
            table_errors(4, g, w + at, part, e);
        else if (g->most == 7)
            table_errors(8, g, w + at, part, e);
        else
            table_errors(16, g, w + at, part, e);
        for (int i = 0; i < part; i++) sum += d ? d[at + i] * (double)e[i] : (double)e[i];
    }
    return sum;
}

/* ---- One group --------------------------------------------------------------------------------
 */

typedef struct group_search {
    bal_packed_kind kind;
    int bits, tables, n;
    const float *w;
    const double *d; /* NULL: ones */
    float scale;     /* of the row */
    double error;    /* of the best */
    uint8_t step, zero;
} group_search;

static void try_side(group_search *s, uint8_t step, uint8_t zero)
{
    const bal_code_grid g = bal_steps_grid(s->kind, s->bits, s->scale, step, zero);
    const double error = grid_error(&g, s->w, s->d, s->n);
    if (!(error < s->error)) return;
    s->error = error;
    s->step = step;
    s->zero = zero;
}

static void try_step(group_search *s, int table, float m)
{
    const float size = clampf(fabsf(m), 1.0f, TABLE_STEPS);
    const unsigned code = bal_table_step_code(m < 0.0f ? -(int)size : (int)size);
    try_side(s, (uint8_t)((unsigned)table * STEP_CODES + code), 0);
}

/* How far the levels reach on the longer and on the shorter side. */
static float reach(int bits, int table, bool longer)
{
    const bal_packed_table *t = &bal_levels_at(bits, table)->table;
    return (float)(longer ? t->level[(1 << bits) - 1] - t->zero : t->zero - t->level[0]);
}

/* Steps around those that put the largest weight on either end of the table. */
static void natural_steps(group_search *s, int table)
{
    float extreme = 0.0f;
    for (int i = 0; i < s->n; i++)
        if (fabsf(s->w[i]) > fabsf(extreme)) extreme = s->w[i];
    const float along = extreme / (s->scale * reach(s->bits, table, true));
    const float against = -extreme / (s->scale * reach(s->bits, table, false));
    try_step(s, table, floorf(along));
    try_step(s, table, ceilf(along));
    try_step(s, table, floorf(against));
    try_step(s, table, ceilf(against));
}

/* Zero included, which a group of one sign would saturate without. */
static void range_of(const group_search *s, float *lo, float *hi)
{
    *lo = *hi = 0.0f;
    for (int i = 0; i < s->n; i++) {
        *lo = fminf(*lo, s->w[i]);
        *hi = fmaxf(*hi, s->w[i]);
    }
}

/* Zero points around the natural one of step m; near 0: that alone. */
static void try_zeros(group_search *s, float m, float lo, int near)
{
    const float natural = clampf(-round_even(lo / (s->scale * m)), 0.0f, TOP);
    const float last = clampf(natural + (float)near, 0.0f, TOP);
    for (float z = clampf(natural - (float)near, 0.0f, TOP); z <= last; z += 1.0f)
        try_side(s, (uint8_t)m, (uint8_t)z);
}

static float natural_range(const group_search *s, float *lo)
{
    float hi;
    range_of(s, lo, &hi);
    return clampf(round_even((hi - *lo) / (s->scale * TOP)), 1.0f, INT8_MAX);
}

/* The best side of a group under the row's scale: all that the search tries, or with d NULL what
 * the range suggests. */
static void solve_side(group_search *s)
{
    float lo;
    s->error = INFINITY;
    if (s->kind == BAL_PACKED_TABLE && s->d) {
        for (int code = 0; code < s->tables * STEP_CODES; code++) try_side(s, (uint8_t)code, 0);
    } else if (s->kind == BAL_PACKED_TABLE) {
        for (int table = 0; table < s->tables; table++) natural_steps(s, table);
    } else {
        const float widest = natural_range(s, &lo);
        const float least = s->d ? fmaxf(1.0f, floorf(widest / 4.0f)) : widest;
        for (float m = widest; m >= least; m -= 1.0f) try_zeros(s, m, lo, s->d ? NEAR : 0);
    }
}

/* ---- One row ----------------------------------------------------------------------------------
 */

typedef struct row_search {
    bal_packed_kind kind;
    int bits, tables, k, size;
    const float *w;
    const double *d;
    uint8_t *steps, *zeros; /* [groups] */
} row_search;

static float storable(float scale)
{
    uint16_t h = bal_f32_to_f16(scale);
    if (h == 0) h = 1;
    if (h >= 0x7c00) h = 0x7bff;
    return bal_f16_to_f32(h);
}

/* c times the scale under which the largest step reaches the largest weight. */
static float scale_at(const row_search *s, float c)
{
    float most = 0.0f;
    for (int i = 0; i < s->k; i++) most = fmaxf(most, fabsf(s->w[i]));
    const float levels =
        s->kind == BAL_PACKED_TABLE ? TABLE_STEPS * reach(s->bits, 0, true) : (float)INT8_RANGE;
    return storable(c * most / levels);
}

/* What is left under a row's scale; sides are stored if `keep`. */
static double try_scale(const row_search *s, float scale, bool keep)
{
    double sum = 0.0;
    for (int at = 0, g = 0; at < s->k; at += s->size, g++) {
        group_search one = {.kind = s->kind,
                            .bits = s->bits,
                            .tables = s->tables,
                            .n = s->k - at < s->size ? s->k - at : s->size,
                            .w = s->w + at,
                            .d = s->d ? s->d + at : NULL,
                            .scale = scale};
        solve_side(&one);
        sum += one.error;
        if (keep) s->steps[g] = one.step, s->zeros[g] = one.zero;
    }
    return sum;
}

/* The row's scale that fits the codes under the sides that are stored. */
static float fitted(const row_search *s, float scale)
{
    double wv = 0.0, vv = 0.0;
    for (int i = 0; i < s->k; i++) {
        const int g = i / s->size;
        const bal_code_grid grid =
            bal_steps_grid(s->kind, s->bits, scale, s->steps[g], s->zeros[g]);
        const double v =
            (double)bal_code_value(&grid, bal_code_nearest(&grid, s->w[i])) / (double)scale;
        wv += s->d[i] * (double)s->w[i] * v;
        vv += s->d[i] * v * v;
    }
    return vv > 0.0 && wv > 0.0 ? storable((float)(wv / vv)) : scale;
}

static row_search search_of(const bal_quantizer *z, const float *w, const double *d,
                            const bal_quantized_linear *q, size_t r)
{
    const size_t groups = (size_t)bal_group_count(q->k, q->group);
    return (row_search){.kind = q->kind,
                        .bits = z->bits,
                        .tables = z->second ? 2 : 1,
                        .k = q->k,
                        .size = bal_group_size(q->k, q->group),
                        .w = w,
                        .d = d,
                        .steps = q->steps + r * groups,
                        .zeros = q->zeros + r * groups};
}

void bal_steps_search(const bal_quantizer *z, const float *w, const double *d,
                      bal_quantized_linear *q, size_t r)
{
    const row_search s = search_of(z, w, d, q, r);
    double error = INFINITY;
    float best = 0.0f;
    for (int i = 0; i < SCALES; i++) {
        const float scale = scale_at(&s, 1.1f - 0.05f * (float)i);
        const double now = try_scale(&s, scale, false);
        if (now < error) error = now, best = scale;
    }
    try_scale(&s, best, true);
    for (int i = 0; i < REFITS; i++) {
        const float scale = fitted(&s, best);
        const double now = try_scale(&s, scale, false);
        if (!(now < error)) break;
        error = now, best = scale;
        try_scale(&s, best, true);
    }
    q->scales[r] = bal_f32_to_f16(best);
}

void bal_steps_quantize(const bal_quantizer *z, const float *w, bal_quantized_linear *q, size_t r)
{
    const row_search s = search_of(z, w, NULL, q, r);
    const float scale = scale_at(&s, 1.0f);
    try_scale(&s, scale, true);
    q->scales[r] = bal_f32_to_f16(scale);
    for (int i = 0; i < s.k; i++) {
        const int g = i / s.size;
        const bal_code_grid grid = bal_steps_grid(s.kind, s.bits, scale, s.steps[g], s.zeros[g]);
        q->codes[r * (size_t)s.k + (size_t)i] = (uint8_t)bal_code_nearest(&grid, w[i]);
    }
}

void bal_steps_values(const bal_quantizer *z, const float *w, int k, float *out)
{
    row_search s = {.kind = z->grid == BAL_GRID_TABLE ? BAL_PACKED_TABLE : BAL_PACKED_TWO_LEVEL,
                    .bits = z->bits,
                    .tables = z->second ? 2 : 1,
                    .k = k,
                    .size = bal_group_size(k, z->group),
                    .w = w};
    const float scale = scale_at(&s, 1.0f);
    for (int at = 0; at < k; at += s.size) {
        group_search one = {.kind = s.kind,
                            .bits = s.bits,
                            .tables = s.tables,
                            .n = k - at < s.size ? k - at : s.size,
                            .w = w + at,
                            .scale = scale};
        solve_side(&one);
        const bal_code_grid g = bal_steps_grid(s.kind, s.bits, scale, one.step, one.zero);
        for (int i = at; i < at + one.n; i++)
            out[i] = bal_code_value(&g, bal_code_nearest(&g, w[i]));
    }
}
