/* SPDX-License-Identifier: MIT
 * The arithmetic of quantizer.h, written so that each rounding of the formulas is visible. What
 * it computes is what files hold, so every change here changes bytes. */
#include "quant/quantizer.h"

#include "base/half.h"
#include "base/size.h"
#include "quant/steps.h"
#include "quant/trellis.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Adding and subtracting 1.5 * 2^23 rounds to nearest even below 2^22. Beyond that it may be off by
 * units, but there every use saturates anyway; unlike rintf it vectorizes without SSE4.1. */
static inline float round_even(float x)
{
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

static inline float clampf(float x, float lo, float hi)
{
    x = x > lo ? x : lo;
    return x < hi ? x : hi;
}

/* Always inlined with a constant, so that f32 costs nothing. */
static inline __attribute__((always_inline)) float rd(bal_arith arith, float x)
{
    if (arith == BAL_ARITH_F16) return bal_round_f16(x);
    return arith == BAL_ARITH_BF16 ? bal_round_bf16(x) : x;
}

float bal_arith_round(bal_arith arith, float x)
{
    return rd(arith, x);
}

bal_quantizer bal_quantizer_of(const bal_recipe *r)
{
    return (bal_quantizer){.bits = r->bits,
                           .group = r->group,
                           .grid = r->grid,
                           .range = r->range,
                           .second = r->tables == 2,
                           .arith = r->arithmetic};
}

int bal_group_size(int k, int group)
{
    return group > 0 && group < k ? group : k;
}

int bal_group_count(int k, int group)
{
    const int size = bal_group_size(k, group);
    return (k + size - 1) / size;
}

/* What one group is stored with. */
typedef struct params {
    float s, z;
    uint16_t s16;
} params;

static params storable(float s, float z)
{
    uint16_t h = bal_f32_to_f16(s);
    if (h == 0) h = 1;
    if (h >= 0x7c00) h = 0x7bff;
    return (params){.s = bal_f16_to_f32(h), .z = z, .s16 = h};
}

static inline __attribute__((always_inline)) params group_params(const bal_quantizer *q,
                                                                 bal_arith a, const float *w, int n)
{
    const float top = (float)((1 << q->bits) - 1), half = (float)(1 << (q->bits - 1));
    const float least = rd(a, 1e-5f);
    const bool zero = q->range == BAL_EXTENT_ZERO;
    float lo = zero ? 0.0f : w[0], hi = lo;
    for (int i = 0; i < n; i++) {
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
    if (q->grid == BAL_GRID_SYM) {
        const float most = fmaxf(fabsf(lo), fabsf(hi));
        return storable(rd(a, fmaxf(most, least) / (half - 1.0f)), half);
    }
    params p = storable(rd(a, fmaxf(rd(a, hi - lo), least) / top), 0.0f);
    p.z = clampf(-round_even(rd(a, lo / p.s)), 0.0f, top);
    return p;
}

static inline __attribute__((always_inline)) float code_of(bal_arith a, params p, float top,
                                                           float w)
{
    return clampf(round_even(rd(a, w / p.s)) + p.z, 0.0f, top);
}

static inline __attribute__((always_inline)) void row_codes(const bal_quantizer *q, bal_arith a,
                                                            const float *w, int k, uint8_t *codes,
                                                            uint16_t *scales, uint8_t *zeros)
{
    const int size = bal_group_size(k, q->group);
    const float top = (float)((1 << q->bits) - 1);
    for (int g = 0; g * size < k; g++) {
        const int at = g * size, n = k - at < size ? k - at : size;
        const params p = group_params(q, a, w + at, n);
        for (int i = at; i < at + n; i++) codes[i] = (uint8_t)(int)code_of(a, p, top, w[i]);
        scales[g] = p.s16;
        zeros[g] = (uint8_t)(int)p.z;
    }
}

void bal_quantize_row(const bal_quantizer *q, const float *w, int k, uint8_t *codes,
                      uint16_t *scales, uint8_t *zeros)
{
    switch (q->arith) {
    case BAL_ARITH_F16: row_codes(q, BAL_ARITH_F16, w, k, codes, scales, zeros); break;
    case BAL_ARITH_BF16: row_codes(q, BAL_ARITH_BF16, w, k, codes, scales, zeros); break;
    default: row_codes(q, BAL_ARITH_F32, w, k, codes, scales, zeros); break;
    }
}

static inline __attribute__((always_inline)) void group_values(const bal_quantizer *q, bal_arith a,
                                                               const float *w, int n, float *out)
{
    const float top = (float)((1 << q->bits) - 1);
    const params p = group_params(q, a, w, n);
    for (int i = 0; i < n; i++) out[i] = (code_of(a, p, top, w[i]) - p.z) * p.s;
}

static inline __attribute__((always_inline)) void simulate(const bal_quantizer *q, bal_arith a,
                                                           const float *w, const float *s, int k,
                                                           float *work, float *out)
{
    const int size = bal_group_size(k, q->group);
    for (int i = 0; i < k; i++) work[i] = rd(a, w[i] * s[i]);
    if (bal_has_steps(q->grid))
        bal_steps_values(q, work, k, work);
    else
        for (int at = 0; at < k; at += size)
            group_values(q, a, work + at, k - at < size ? k - at : size, work + at);
    for (int i = 0; i < k; i++) out[i] = rd(a, rd(a, work[i]) / s[i]);
}

void bal_quantize_simulate(const bal_quantizer *q, const float *w, const float *s, int k,
                           float *work, float *out)
{
    switch (q->arith) {
    case BAL_ARITH_F16: simulate(q, BAL_ARITH_F16, w, s, k, work, out); break;
    case BAL_ARITH_BF16: simulate(q, BAL_ARITH_BF16, w, s, k, work, out); break;
    default: simulate(q, BAL_ARITH_F32, w, s, k, work, out); break;
    }
}

void bal_quantize_group(const bal_quantizer *q, const float *w, int n, float *out)
{
    switch (q->arith) {
    case BAL_ARITH_F16: group_values(q, BAL_ARITH_F16, w, n, out); break;
    case BAL_ARITH_BF16: group_values(q, BAL_ARITH_BF16, w, n, out); break;
    default: group_values(q, BAL_ARITH_F32, w, n, out); break;
    }
}

void bal_scale_candidate(const float *m, int k, int index, int points, bal_arith arith, float *s)
{
    const double a = (double)index / points;
    const float least = rd(arith, 1e-4f);
    float lo = INFINITY, hi = 0.0f;
    for (int i = 0; i < k; i++) {
        s[i] = fmaxf(rd(arith, (float)pow((double)rd(arith, m[i]), a)), least);
        lo = fminf(lo, s[i]);
        hi = fmaxf(hi, s[i]);
    }
    float norm = rd(arith, sqrtf(rd(arith, hi * lo)));
    /* max * min below 6e-8 vanishes in f16 (the published code stops there on a NaN) */
    if (!(norm > 0.0f && norm < INFINITY)) norm = sqrtf(hi) * sqrtf(lo);
    for (int i = 0; i < k; i++) s[i] = rd(arith, s[i] / norm);
}

bal_status bal_quantized_linear_create(bal_quantized_linear *q, int n, int k, int bits, int group,
                                       bal_error *err)
{
    return bal_quantized_linear_make(q, (bal_packed_format){BAL_PACKED_GROUPS, bits, (size_t)group},
                                     n, k, err);
}

bal_status bal_quantized_linear_make(bal_quantized_linear *q, bal_packed_format f, int n, int k,
                                     bal_error *err)
{
    const int group = (int)f.group;
    *q = (bal_quantized_linear){.n = n, .k = k, .bits = f.bits, .group = group, .kind = f.kind};
    size_t codes, pairs;
    if (n < 1 || k < 1 || !bal_size_mul((size_t)n, (size_t)k, &codes) ||
        !bal_size_mul((size_t)n, (size_t)bal_group_count(k, group), &pairs))
        return bal_fail(err, BAL_E_ARG, "a quantized linear of %d x %d", n, k);
    q->codes = malloc(codes);
    q->scales = malloc(pairs * sizeof *q->scales);
    q->zeros = calloc(pairs, 1);
    const bool stepped = f.kind != BAL_PACKED_GROUPS;
    if (stepped) q->steps = malloc(pairs);
    if (q->codes && q->scales && q->zeros && (q->steps || !stepped)) return BAL_OK;
    bal_quantized_linear_free(q);
    return bal_nomem(err, codes + 3 * pairs, "codes of a linear");
}

bal_status bal_quantized_linear_of(bal_quantized_linear *q, const bal_recipe *r, int i, int n,
                                   int k, bal_error *err)
{
    const bool trellis = r->grid == BAL_GRID_TRELLIS;
    *q = (bal_quantized_linear){0};
    if (trellis && n * bal_recipe_bits(r, i) < BAL_TRELLIS_STATE)
        return bal_fail(err, BAL_E_ARG,
                        "a linear of %d outputs: grid=trellis needs %d bits of them at least", n,
                        BAL_TRELLIS_STATE);
    BAL_TRY(bal_quantized_linear_make(q, bal_recipe_format(r, i), n, k, err));
    q->trellis = trellis;
    if (!r->mixed) return BAL_OK;
    const size_t groups = (size_t)bal_group_count(k, r->group);
    q->widths = malloc(groups);
    if (!q->widths) {
        bal_quantized_linear_free(q);
        return bal_nomem(err, groups, "widths of groups");
    }
    memset(q->widths, q->bits, groups);
    return BAL_OK;
}

/* Bits of a group beside its codes. */
static uint64_t side_bits(const bal_recipe *r)
{
    if (r->grid == BAL_GRID_TABLE) return r->tables == 2 ? 5 : 4;
    if (r->grid == BAL_GRID_TRELLIS) return 16;
    return r->grid == BAL_GRID_TWO_LEVEL ? 8 + 8 : 16 + 8;
}

uint64_t bal_format_bytes(const bal_recipe *r, int i, int n, int k)
{
    const uint64_t rows = (uint64_t)n, groups = rows * (uint64_t)bal_group_count(k, r->group);
    const uint64_t codes = rows * (uint64_t)k * (uint64_t)bal_recipe_bits(r, i);
    const uint64_t scales = bal_has_steps(r->grid) ? 16 * rows : 0;
    const uint64_t table = r->grid == BAL_GRID_TABLE ? 8 * BAL_PACKED_ALIGN : 0;
    const uint64_t widths = r->mixed ? 2 * groups / rows : 0;
    return bal_ceil_div(codes + groups * side_bits(r) + scales + table + widths, 8);
}

bal_status bal_quantized_linear_rank(bal_quantized_linear *q, int rank, bal_error *err)
{
    const size_t a = (size_t)rank * (size_t)q->k, b = (size_t)rank * (size_t)q->n;
    if (!rank || q->rank == rank) return BAL_OK;
    free(q->low_a);
    free(q->low_b);
    q->low_a = calloc(a, sizeof *q->low_a);
    q->low_b = calloc(b, sizeof *q->low_b);
    q->rank = 0;
    if (!q->low_a || !q->low_b) return bal_nomem(err, 2 * (a + b), "a matrix of small rank");
    q->rank = rank;
    return BAL_OK;
}

bal_packed_parts bal_quantized_parts(const bal_quantized_linear *q)
{
    return (bal_packed_parts){.codes = q->codes,
                              .scales = q->scales,
                              .steps = q->steps,
                              .zeros = q->zeros,
                              .table = q->kind == BAL_PACKED_TABLE ? &bal_levels_of(q->bits)->table
                                                                   : NULL};
}

void bal_quantized_linear_free(bal_quantized_linear *q)
{
    free(q->codes);
    free(q->scales);
    free(q->zeros);
    free(q->steps);
    free(q->widths);
    free(q->low_a);
    free(q->low_b);
    *q = (bal_quantized_linear){0};
}

typedef struct matrix_job {
    const bal_quantizer *z;
    const float *w;
    bal_quantized_linear *q;
} matrix_job;

/* Row r with a width for each group. */
static void quantize_mixed(const matrix_job *j, size_t r)
{
    const bal_quantized_linear *q = j->q;
    const int size = bal_group_size(q->k, q->group), groups = bal_group_count(q->k, q->group);
    const size_t codes = r * (size_t)q->k, sides = r * (size_t)groups;
    bal_quantizer z = *j->z;
    for (int g = 0; g < groups; g++) {
        const int at = g * size, n = q->k - at < size ? q->k - at : size;
        z.bits = bal_quantized_width(q, (size_t)g);
        bal_quantize_row(&z, j->w + codes + at, n, q->codes + codes + at, q->scales + sides + g,
                         q->zeros + sides + g);
    }
}

static void quantize_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const matrix_job *j = ctx;
    const size_t k = (size_t)j->q->k, groups = (size_t)bal_group_count(j->q->k, j->q->group);
    for (size_t r = begin; r < end; r++)
        if (bal_has_steps(j->z->grid))
            bal_steps_quantize(j->z, j->w + r * k, j->q, r);
        else if (j->q->widths)
            quantize_mixed(j, r);
        else
            bal_quantize_row(j->z, j->w + r * k, j->q->k, j->q->codes + r * k,
                             j->q->scales + r * groups, j->q->zeros + r * groups);
}

void bal_quantize_matrix(bal_pool *pool, const bal_quantizer *z, const float *w,
                         bal_quantized_linear *q)
{
    assert(!q->trellis && bal_has_steps(z->grid) == (q->kind != BAL_PACKED_GROUPS));
    matrix_job j = {.z = z, .w = w, .q = q};
    bal_pool_run(pool, quantize_rows, &j, (size_t)q->n, 4);
}

int bal_quantized_scales(const bal_quantized_linear *q)
{
    return q->kind == BAL_PACKED_GROUPS ? bal_group_count(q->k, q->group) : 1;
}

bal_code_grid bal_quantized_grid(const bal_quantized_linear *q, size_t r, size_t g)
{
    const size_t at = r * (size_t)bal_group_count(q->k, q->group) + g;
    if (q->kind != BAL_PACKED_GROUPS)
        return bal_steps_grid(q->kind, q->bits, bal_f16_to_f32(q->scales[r]), q->steps[at],
                              q->zeros[at]);
    return (bal_code_grid){.s = bal_f16_to_f32(q->scales[at]),
                           .z = (float)q->zeros[at],
                           .most = (1 << bal_quantized_width(q, g)) - 1};
}

/* What the codes of row r stand for. */
static void code_values(const bal_quantized_linear *q, int r, float *out)
{
    const int size = bal_group_size(q->k, q->group), groups = bal_group_count(q->k, q->group);
    const uint8_t *codes = q->codes + (size_t)r * (size_t)q->k;
    if (q->trellis) bal_trellis_row(q, (size_t)r, out);
    for (int g = 0; g < groups; g++) {
        const bal_code_grid grid = bal_quantized_grid(q, (size_t)r, (size_t)g);
        const int end = (g + 1) * size < q->k ? (g + 1) * size : q->k;
        for (int i = g * size; i < end; i++)
            out[i] = q->trellis ? out[i] * grid.s : bal_code_value(&grid, codes[i]);
    }
}

void bal_quantized_row(const bal_quantized_linear *q, int r, float *out)
{
    code_values(q, r, out);
    for (int j = 0; !q->low_vision && j < q->rank; j++) {
        const float b = bal_f16_to_f32(q->low_b[(size_t)r * (size_t)q->rank + (size_t)j]);
        const uint16_t *a = q->low_a + (size_t)j * (size_t)q->k;
        for (int i = 0; i < q->k; i++) out[i] += b * bal_f16_to_f32(a[i]);
    }
}

static size_t side_at(const bal_quantized_linear *q, size_t r, size_t g)
{
    return r * (size_t)bal_group_count(q->k, q->group) + g;
}

bal_group_side bal_quantized_side(const bal_quantized_linear *q, size_t r, size_t g)
{
    const size_t at = side_at(q, r, g);
    if (q->kind != BAL_PACKED_GROUPS) return (bal_group_side){.step = q->steps[at]};
    return (bal_group_side){.scale = q->scales[at]};
}

void bal_quantized_set_side(bal_quantized_linear *q, size_t r, size_t g, bal_group_side side)
{
    if (q->kind != BAL_PACKED_GROUPS)
        q->steps[side_at(q, r, g)] = side.step;
    else
        q->scales[side_at(q, r, g)] = side.scale;
}

/* The largest step of two levels under which every code of the group stays an int8. */
static int most_step(const bal_quantized_linear *q, size_t r, size_t g)
{
    const size_t k = (size_t)q->k, size = (size_t)bal_group_size(q->k, q->group);
    const int z = q->zeros[side_at(q, r, g)];
    int most = 1;
    for (size_t i = g * size; i < bal_min((g + 1) * size, k); i++) {
        const int off = abs(q->codes[r * k + i] - z);
        most = off > most ? off : most;
    }
    return INT8_MAX / most;
}

/* The step of a group that stays with its table. */
static uint8_t table_step(uint8_t was, bool negative, float size)
{
    const unsigned code = bal_table_step_code(negative ? -(int)size : (int)size);
    return (uint8_t)((was & ~15u) | code);
}

bool bal_quantized_rescale(bal_quantized_linear *q, size_t r, size_t g, float s)
{
    bal_group_side side = {0};
    if (q->kind == BAL_PACKED_GROUPS) {
        side.scale = bal_f32_to_f16(s);
        if (side.scale == 0 || side.scale >= 0x7c00) return false;
    } else {
        const float m = s / bal_f16_to_f32(q->scales[r]);
        if (!isfinite(m)) return false;
        const bool table = q->kind == BAL_PACKED_TABLE;
        const float most = table ? 8.0f : (float)most_step(q, r, g);
        const float size = clampf(round_even(table ? fabsf(m) : m), 1.0f, most);
        side.step = table ? table_step(q->steps[side_at(q, r, g)], m < 0.0f, size) : (uint8_t)size;
    }
    bal_quantized_set_side(q, r, g, side);
    return true;
}
