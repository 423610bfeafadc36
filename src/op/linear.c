/* SPDX-License-Identifier: MIT
 * Blocking and threading only; every multiplication happens in a kernel. Work is split over output
 * features. Float weights of 16 bits are widened tile by tile when there are enough rows to pay
 * for it, and with more rows both operands are packed; results are the same to the bit. */
#include "op/linear.h"

#include "base/half.h"
#include "base/size.h"
#include "op/scratch.h"

#include <assert.h>
#include <string.h>

static_assert((int)BAL_ROW_CHUNK <= (int)BAL_GEMM_A8_ROWS, "a chunk is one call of gemm_a8");
static_assert(sizeof(bal_a8) <= sizeof(bal_a16), "scratch is sized for a16");
static_assert(2 * sizeof(float) * BAL_UNIT / 4 <= sizeof(bal_a16), "and for half of k floats");
static_assert((int)BAL_TILE_CHUNK <= (int)BAL_FLOAT_CHUNK, "shared holds as many rows of floats");
static_assert(BAL_TILE_TOKENS * sizeof(bal_a16) <= BAL_OUT_TILE * BAL_UNIT * sizeof(float),
              "and a lane rows of integers for a tile");
static_assert(BAL_ROW_CHUNK * BAL_OUT_TILE * sizeof(float) <= BAL_GRAD_SCRATCH,
              "a lane holds a tile of outputs");

enum {
    WIDEN_ROWS = 8, /* fewer rows than this: the 16-bit kernels read the weights directly */
    PACK_ROWS = 48, /* fewer rows than this do not pay for packing weights */
    LANE_PIECES = 32,
    KEPT_BYTES = 9 << 20, /* of packed inputs, for a last cache (measured where it has 32 MiB) */
};

typedef struct job {
    const bal_exec *e;
    const bal_linear *w;
    const float *x;
    size_t ldx;
    const uint8_t *modality; /* [m] or NULL */
    size_t m;
    float *y;
    size_t ldy;
    bool accumulate;
    bal_shapes_choice how;
} job;

/* ---- Which kernels, and how the work is cut -------------------------------------------------- */

/* Work items of a chunk: panels of outputs, pairs of them, or tiles of outputs. */
static size_t items_of(const bal_linear *w, bal_shapes_kernel kernel)
{
    const bool tiles = kernel == BAL_SHAPES_TILES;
    if (!bal_type_get(w->type)->packed)
        return bal_ceil_div((size_t)w->n, tiles ? BAL_PANEL_OUTPUTS : BAL_OUT_TILE);
    return bal_ceil_div(w->packed.layout.panels, tiles ? BAL_TILE_PANELS : 1);
}

/* Many pieces where there are many items: lanes end within one piece of each other, whatever their
 * CPUs do beside it, and claiming one costs nothing against computing it. */
static size_t grain_of(const bal_exec *e, size_t items)
{
    const size_t pieces = (size_t)bal_pool_size(e->pool) * LANE_PIECES;
    return bal_max(1, items / pieces);
}

bal_shapes_key bal_linear_key(const bal_linear *w, size_t m)
{
    bal_shapes_key key = {.n = (uint32_t)w->n,
                          .k = (uint32_t)w->k,
                          .type = (uint8_t)w->type,
                          .bucket = (uint8_t)bal_shapes_bucket(m)};
    if (!bal_type_get(w->type)->packed) return key;
    key.kind = (uint8_t)w->packed.layout.kind;
    key.group = (uint32_t)w->packed.layout.group;
    key.act = (uint8_t)w->act.kind;
    if (w->act.kind == BAL_ACT_A8) key.act_group = (uint32_t)w->act.group;
    return key;
}

bool bal_linear_takes(const bal_exec *e, const bal_linear *w, bal_shapes_kernel kernel)
{
    const bal_shapes_key key = bal_linear_key(w, 1);
    const bool packed_tiles = kernel == BAL_SHAPES_TILES && bal_type_get(w->type)->packed;
    return bal_shapes_most_rows(&key, kernel) > 0 &&
           (!packed_tiles || bal_kernels_have_tiles(e->kernels));
}

/* Floats are packed for as many rows as a last cache keeps while all weights pass: 96 of 18,944
 * inputs take two thirds of the time of 240. */
static size_t rows_kept(const bal_shapes_key *key, bal_shapes_kernel kernel)
{
    const size_t most = (size_t)bal_shapes_most_rows(key, kernel);
    if (kernel != BAL_SHAPES_TILES || bal_type_get((bal_type)key->type)->packed) return most;
    const size_t kept = KEPT_BYTES / (sizeof(float) * key->k) / BAL_PANEL_TOKENS * BAL_PANEL_TOKENS;
    return bal_min(most, bal_max(kept, BAL_PANEL_TOKENS));
}

bal_shapes_choice bal_linear_rule(const bal_exec *e, const bal_linear *w, bal_shapes_kernel kernel)
{
    const bal_shapes_key key = bal_linear_key(w, 1);
    const size_t grain = grain_of(e, items_of(w, kernel));
    return (bal_shapes_choice){.kernel = (uint16_t)kernel,
                               .chunk = (uint16_t)rows_kept(&key, kernel),
                               .grain = (uint16_t)bal_min(grain, UINT16_MAX)};
}

/* Packed weights: the other kernels are as fast as tiles, which want their rows reordered first,
 * while a chunk of theirs takes all rows. */
static bal_shapes_kernel kernel_by_rule(const bal_exec *e, const bal_linear *w, size_t m)
{
    if (bal_type_get(w->type)->packed)
        return m > BAL_ROW_CHUNK && bal_linear_takes(e, w, BAL_SHAPES_TILES) ? BAL_SHAPES_TILES
                                                                             : BAL_SHAPES_ROWS;
    if (m >= PACK_ROWS) return BAL_SHAPES_TILES;
    return w->type != BAL_TYPE_F32 && m >= WIDEN_ROWS ? BAL_SHAPES_WIDE : BAL_SHAPES_ROWS;
}

bal_shapes_choice bal_linear_choice(const bal_exec *e, const bal_linear *w, size_t m)
{
    const bal_shapes_key key = bal_linear_key(w, m);
    const bal_shapes_choice *measured = bal_shapes_find(e->shapes, &key);
    if (measured && bal_linear_takes(e, w, measured->kernel)) return *measured;
    return bal_linear_rule(e, w, kernel_by_rule(e, w, m));
}

/* ---- Floats ---------------------------------------------------------------------------------- */

static size_t element_bytes(bal_type type)
{
    return (size_t)bal_type_get(type)->bits / 8;
}

static const uint8_t *row_at(const bal_linear *w, size_t row, size_t column)
{
    const size_t at = row * (size_t)w->k + column;
    return (const uint8_t *)w->w + at * element_bytes(w->type);
}

static bal_gemm_nt_fn *kernel_of(const bal_kernels *k, bal_type type)
{
    if (type == BAL_TYPE_BF16) return k->gemm_nt_bf16;
    return type == BAL_TYPE_F16 ? k->gemm_nt_f16 : k->gemm_nt_f32;
}

/* n elements of the float type at src, any alignment, to f32. */
static void widen(bal_type type, const uint8_t *src, size_t n, float *out)
{
    if (type == BAL_TYPE_F32) {
        memcpy(out, src, n * sizeof *out);
        return;
    }
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, src + 2 * i, sizeof h);
        out[i] = type == BAL_TYPE_BF16 ? bal_bf16_to_f32(h) : bal_f16_to_f32(h);
    }
}

static void add_bias(const job *j, size_t n0, size_t n)
{
    if (!j->w->bias) return;
    for (size_t i = 0; i < j->m; i++)
        for (size_t f = n0; f < n0 + n; f++) j->y[i * j->ldy + f] += j->w->bias[f];
}

static void float_tile(const job *j, size_t n0, size_t n, float *wide)
{
    const bal_linear *w = j->w;
    const size_t k = (size_t)w->k;
    const void *weights = row_at(w, n0, 0);
    bal_gemm_nt_fn *fn = kernel_of(j->e->kernels, w->type);
    if (j->how.kernel == BAL_SHAPES_WIDE) {
        if (w->type == BAL_TYPE_F16)
            j->e->kernels->widen_f16(wide, weights, n * k);
        else
            widen(w->type, weights, n * k, wide);
        weights = wide;
        fn = j->e->kernels->gemm_nt_f32;
    }
    for (size_t i = 0; i < j->m; i += j->how.chunk)
        fn(bal_min(j->how.chunk, j->m - i), n, k, j->x + i * j->ldx, j->ldx, weights, k,
           j->y + i * j->ldy + n0, j->ldy);
    add_bias(j, n0, n);
}

static void float_tiles(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    const size_t n_out = (size_t)j->w->n;
    for (size_t t = begin; t < end; t++) {
        const size_t n0 = t * BAL_OUT_TILE;
        float_tile(j, n0, bal_min(BAL_OUT_TILE, n_out - n0), bal_exec_lane(j->e, lane));
    }
}

/* ---- Many rows of float inputs: packed ------------------------------------------------------ */

static void pack_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const job *j = ctx;
    const size_t k = (size_t)j->w->k, block = 16 * bal_panel_x_lane(k);
    float *out = (float *)(void *)j->e->shared;
    for (size_t g = begin; g < end; g++) {
        const size_t i = g * BAL_PANEL_GROUP, within = i % BAL_PANEL_TOKENS;
        j->e->kernels->pack_x(bal_min(BAL_PANEL_GROUP, j->m - i), k, j->x + i * j->ldx, j->ldx,
                              out + i / BAL_PANEL_TOKENS * block + within * bal_panel_steps(k));
    }
}

static bal_pack_w_fn *pack_of(const bal_kernels *k, bal_type type)
{
    if (type == BAL_TYPE_BF16) return k->pack_bf16;
    return type == BAL_TYPE_F16 ? k->pack_f16 : k->pack_f32;
}

/* A last panel with fewer real outputs goes through a buffer: the kernel writes all 16. */
static void float_panel(const job *j, size_t panel, float *packed)
{
    const size_t k = (size_t)j->w->k, n0 = panel * BAL_PANEL_OUTPUTS;
    const size_t real = bal_min(BAL_PANEL_OUTPUTS, (size_t)j->w->n - n0);
    const float *x = (const float *)(const void *)j->e->shared;
    float tail[BAL_FLOAT_CHUNK * BAL_PANEL_OUTPUTS];
    float *y = real == BAL_PANEL_OUTPUTS ? j->y + n0 : tail;
    pack_of(j->e->kernels, j->w->type)(real, k, row_at(j->w, n0, 0), k, packed);
    j->e->kernels->gemm_panel(j->m, k, x, packed, y, y == tail ? BAL_PANEL_OUTPUTS : j->ldy);
    for (size_t r = 0; r < j->m && y == tail; r++)
        memcpy(j->y + r * j->ldy + n0, tail + r * BAL_PANEL_OUTPUTS, real * sizeof *tail);
    add_bias(j, n0, real);
}

static void float_panels(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    for (size_t p = begin; p < end; p++) float_panel(j, p, bal_exec_lane(j->e, lane));
}

/* Rows from `at` on, `rows` of them or those that are left. */
static job rows_of(const job *all, size_t at, size_t rows)
{
    job j = *all;
    j.m = bal_min(rows, all->m - at);
    j.x += at * j.ldx;
    j.y += at * j.ldy;
    if (j.modality) j.modality += at;
    return j;
}

/* Rows of a chunk: all chunks about the same, of whole blocks but the last. */
static size_t even_rows(const job *j, size_t block)
{
    return bal_round_up(bal_ceil_div(j->m, bal_ceil_div(j->m, j->how.chunk)), block);
}

static void packed_float(const job *all, size_t panels)
{
    const size_t rows = even_rows(all, BAL_PANEL_TOKENS);
    for (size_t i = 0; i < all->m; i += rows) {
        job j = rows_of(all, i, rows);
        bal_pool_run(j.e->pool, pack_rows, &j, bal_ceil_div(j.m, BAL_PANEL_GROUP), 1);
        bal_pool_run(j.e->pool, float_panels, &j, panels, j.how.grain);
    }
}

static void float_forward(job *j)
{
    const size_t items = items_of(j->w, j->how.kernel);
    if (j->how.kernel == BAL_SHAPES_TILES)
        packed_float(j, items);
    else
        bal_pool_run(j->e->pool, float_tiles, j, items, j->how.grain);
}

/* ---- Packed weights -------------------------------------------------------------------------- */

static void quantize_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const job *j = ctx;
    bal_a16 *a = (bal_a16 *)(void *)j->e->shared;
    const size_t k = (size_t)j->w->k, units = j->w->packed.layout.units;
    for (size_t i = begin; i < end; i++)
        j->e->kernels->quant_a16(j->x + i * j->ldx, k, a + i * units);
}

/* y = rows of 16-bit activations times one panel, whatever its kind. */
static void multiply_a16(const job *j, size_t panel, int rows, const bal_a16 *a, float *y,
                         size_t ldy)
{
    const bal_packed_view *p = &j->w->packed;
    const bal_packed_layout *l = &p->layout;
    const bal_kernels *k = j->e->kernels;
    const uint32_t *codes = bal_packed_codes(p, panel);
    const uint16_t *scales = bal_packed_scales(p, panel);
    const uint8_t *steps = bal_packed_steps(p, panel), *zeros = bal_packed_zeros(p, panel);
    switch (l->kind) {
    case BAL_PACKED_GROUPS:
        bal_kernels_gemm_w(k, l->bits)(rows, l->units, l->units_per_group, a, l->units, codes,
                                       scales, zeros, y, ldy);
        return;
    case BAL_PACKED_TABLE:
        bal_kernels_gemm_t(k, l->bits)(rows, l->units, l->units_per_group, a, l->units, codes,
                                       scales, steps, p->table, y, ldy);
        return;
    case BAL_PACKED_TWO_LEVEL:
        k->gemm_d4(rows, l->units, l->units_per_group, a, l->units, codes, scales, steps, zeros, y,
                   ldy);
    }
}

/* One panel of 16 outputs for every row of the chunk; a last panel with fewer real outputs goes
 * through a buffer, because kernels write all 16. */
static void packed_panel(const job *j, size_t panel)
{
    const bal_packed_view *p = &j->w->packed;
    const size_t units = p->layout.units, n0 = panel * BAL_PANEL;
    const size_t real = bal_min(BAL_PANEL, (size_t)j->w->n - n0);
    const bal_a16 *a = (const bal_a16 *)(const void *)j->e->shared;
    float tail[BAL_GEMM_W_MR * BAL_PANEL];
    for (size_t i = 0; i < j->m; i += BAL_GEMM_W_MR) {
        const size_t rows = bal_min(BAL_GEMM_W_MR, j->m - i);
        float *y = real == BAL_PANEL ? j->y + i * j->ldy + n0 : tail;
        const size_t ldy = real == BAL_PANEL ? j->ldy : BAL_PANEL;
        multiply_a16(j, panel, (int)rows, a + i * units, y, ldy);
        for (size_t r = 0; r < rows && y == tail; r++)
            memcpy(j->y + (i + r) * j->ldy + n0, tail + r * BAL_PANEL, real * sizeof *tail);
    }
    add_bias(j, n0, real);
}

static void packed_panels(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    for (size_t p = begin; p < end; p++) packed_panel(ctx, p);
}

void bal_act_quantize(const bal_kernels *kernels, const bal_act *act, int modality, const float *x,
                      size_t k, bal_a8 *out)
{
    if (act->scale == BAL_ACT_DYNAMIC)
        kernels->quant_a8(x, k, act->group, out);
    else
        kernels->quant_a8_fixed(x, k, act->fixed[bal_act_row_of(modality)], out);
}

static void quantize_rows_a8(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const job *j = ctx;
    bal_a8 *a = (bal_a8 *)(void *)j->e->shared;
    const size_t k = (size_t)j->w->k, units = j->w->packed.layout.units;
    for (size_t i = begin; i < end; i++)
        bal_act_quantize(j->e->kernels, &j->w->act, j->modality ? j->modality[i] : BAL_PROMPT,
                         j->x + i * j->ldx, k, a + i * units);
}

/* Units of a row that share an activation scale. */
static size_t units_per_scale(const bal_linear *w)
{
    return w->act.group ? w->act.group / BAL_UNIT : w->packed.layout.units;
}

/* y = the chunk's bytes times one panel; bind lets no table through here. */
static void multiply_a8(const job *j, size_t panel, float *y, size_t ldy)
{
    const bal_packed_view *p = &j->w->packed;
    const bal_packed_layout *l = &p->layout;
    const bal_a8 *a = (const bal_a8 *)(const void *)j->e->shared;
    const uint32_t *codes = bal_packed_codes(p, panel);
    const uint16_t *scales = bal_packed_scales(p, panel);
    const uint8_t *steps = bal_packed_steps(p, panel), *zeros = bal_packed_zeros(p, panel);
    const size_t group = l->units_per_group, per_scale = units_per_scale(j->w);
    assert(l->kind != BAL_PACKED_TABLE);
    if (l->kind == BAL_PACKED_TWO_LEVEL)
        j->e->kernels->gemm_a8d4((int)j->m, l->units, group, per_scale, a, l->units, codes, scales,
                                 steps, zeros, y, ldy);
    else
        bal_kernels_gemm_a8(j->e->kernels, l->bits)((int)j->m, l->units, group, per_scale, a,
                                                    l->units, codes, scales, zeros, y, ldy);
}

static void panel_a8(const job *j, size_t panel)
{
    const size_t n0 = panel * BAL_PANEL, real = bal_min(BAL_PANEL, (size_t)j->w->n - n0);
    float tail[BAL_ROW_CHUNK * BAL_PANEL];
    float *y = real == BAL_PANEL ? j->y + n0 : tail;
    const size_t ldy = real == BAL_PANEL ? j->ldy : BAL_PANEL;
    multiply_a8(j, panel, y, ldy);
    for (size_t r = 0; r < j->m && y == tail; r++)
        memcpy(j->y + r * j->ldy + n0, tail + r * BAL_PANEL, real * sizeof *tail);
    add_bias(j, n0, real);
}

static void panels_a8(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    for (size_t p = begin; p < end; p++) panel_a8(ctx, p);
}

/* ---- Small rank -------------------------------------------------------------------------------
 * Inputs of a chunk are in shared as integers no more; there x A^T takes their place, which fits: a
 * rank is at most half of k. */

enum { LOW_TILE = 8 }; /* rows of A, and tokens, of a work item */

static void low_inputs(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const job *j = ctx;
    const size_t rank = (size_t)j->w->rank, k = (size_t)j->w->k;
    const size_t tiles = bal_ceil_div(rank, LOW_TILE);
    float *z = (float *)(void *)j->e->shared;
    for (size_t i = begin; i < end; i++) {
        const size_t i0 = i / tiles * LOW_TILE, r0 = i % tiles * LOW_TILE;
        j->e->kernels->gemm_nt_f16(
            bal_min(LOW_TILE, j->m - i0), bal_min(LOW_TILE, rank - r0), k, j->x + i0 * j->ldx,
            j->ldx, (const uint8_t *)j->w->low_a + 2 * r0 * k, k, z + i0 * rank + r0, rank);
    }
}

static void low_outputs(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    const size_t rank = (size_t)j->w->rank, n_out = (size_t)j->w->n;
    const float *z = (const float *)(const void *)j->e->shared;
    float *part = bal_exec_lane(j->e, lane);
    for (size_t t = begin; t < end; t++) {
        const size_t n0 = t * BAL_OUT_TILE, n = bal_min(BAL_OUT_TILE, n_out - n0);
        j->e->kernels->gemm_nt_f16(j->m, n, rank, z, rank,
                                   (const uint8_t *)j->w->low_b + 2 * n0 * rank, rank, part,
                                   BAL_OUT_TILE);
        for (size_t i = 0; i < j->m; i++)
            for (size_t c = 0; c < n; c++) j->y[i * j->ldy + n0 + c] += part[i * BAL_OUT_TILE + c];
    }
}

/* Adds (x A^T) B^T of at most a chunk to its outputs. */
static void add_low_chunk(job *j)
{
    const size_t tokens = bal_ceil_div(j->m, LOW_TILE);
    const size_t items = tokens * bal_ceil_div((size_t)j->w->rank, LOW_TILE);
    const size_t tiles = bal_ceil_div((size_t)j->w->n, BAL_OUT_TILE);
    bal_pool_run(j->e->pool, low_inputs, j, items, 1);
    bal_pool_run(j->e->pool, low_outputs, j, tiles, grain_of(j->e, tiles));
}

static bool takes_low(const job *j, size_t row)
{
    return !j->w->low_vision || (j->modality && j->modality[row] == BAL_VISION);
}

/* Rows from `from` on that take it, at most a chunk. */
static size_t low_run(const job *j, size_t from)
{
    const size_t most = bal_min(BAL_ROW_CHUNK, j->m - from);
    size_t n = 0;
    while (n < most && takes_low(j, from + n)) n++;
    return n;
}

static void add_low(const job *all)
{
    for (size_t i = 0; i < all->m;) {
        const size_t run = low_run(all, i);
        job j = rows_of(all, i, run);
        if (run > 0) add_low_chunk(&j);
        i += bal_max(run, 1);
    }
}

/* ---- Many rows of packed weights: tiles ------------------------------------------------------ */

static size_t tile_bytes(const bal_linear *w)
{
    const size_t units = w->packed.layout.units;
    return w->act.kind == BAL_ACT_A8 ? bal_tile_bytes_a8(units) : bal_tile_bytes_a16(units);
}

/* Rows as integers in the lane's scratch, and from there to tiles. */
static void fill_tiles(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    const size_t k = (size_t)j->w->k, units = j->w->packed.layout.units;
    const bool bytes = j->w->act.kind == BAL_ACT_A8;
    bal_a8 *a8 = bal_exec_lane(j->e, lane);
    bal_a16 *a16 = bal_exec_lane(j->e, lane);
    for (size_t t = begin; t < end; t++) {
        const size_t i0 = t * BAL_TILE_TOKENS, n = bal_min(BAL_TILE_TOKENS, j->m - i0);
        uint8_t *tile = j->e->shared + t * tile_bytes(j->w);
        for (size_t i = 0; i < n; i++) {
            const float *x = j->x + (i0 + i) * j->ldx;
            const int modality = j->modality ? j->modality[i0 + i] : BAL_PROMPT;
            if (bytes)
                bal_act_quantize(j->e->kernels, &j->w->act, modality, x, k, a8 + i * units);
            else
                j->e->kernels->quant_a16(x, k, a16 + i * units);
        }
        if (bytes)
            bal_tile_pack_a8(tile, units, (int)n, a8);
        else
            bal_tile_pack_a16(tile, units, (int)n, a16);
    }
}

/* y = all tiles times `panels` panels from `panel` on. */
static void multiply_tiles(const job *j, size_t panel, int panels, float *y, size_t ldy)
{
    const bal_packed_view *p = &j->w->packed;
    const bal_packed_layout *l = &p->layout;
    const bal_kernels *k = j->e->kernels;
    const uint8_t *x = j->e->shared, *steps = bal_packed_steps(p, panel);
    const uint8_t *zeros = l->kind == BAL_PACKED_TABLE ? p->table : bal_packed_zeros(p, panel);
    if (j->w->act.kind == BAL_ACT_A8) {
        bal_kernels_tile_a8(k, l->bits)(j->m, panels, l->units, l->units_per_group,
                                        units_per_scale(j->w), x, bal_packed_codes(p, panel),
                                        bal_packed_scales(p, panel), zeros, y, ldy);
        return;
    }
    bal_tile_a16_fn *fn = l->kind == BAL_PACKED_GROUPS  ? bal_kernels_tile_w(k, l->bits)
                          : l->kind == BAL_PACKED_TABLE ? bal_kernels_tile_t(k, l->bits)
                                                        : k->tile_d4;
    fn(j->m, panels, l->units, l->units_per_group, x, bal_packed_codes(p, panel),
       bal_packed_scales(p, panel), steps, zeros, y, ldy);
}

/* Two panels, or the last one; where the last has fewer real outputs, through a buffer. */
static void tile_panels(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const job *j = ctx;
    float tail[BAL_TILE_CHUNK * BAL_TILE_PANELS * BAL_PANEL];
    for (size_t t = begin; t < end; t++) {
        const size_t panel = t * BAL_TILE_PANELS, n0 = panel * BAL_PANEL;
        const size_t panels = bal_min(BAL_TILE_PANELS, j->w->packed.layout.panels - panel);
        const size_t wide = panels * BAL_PANEL, real = bal_min(wide, (size_t)j->w->n - n0);
        float *y = real == wide ? j->y + n0 : tail;
        multiply_tiles(j, panel, (int)panels, y, y == tail ? wide : j->ldy);
        for (size_t r = 0; r < j->m && y == tail; r++)
            memcpy(j->y + r * j->ldy + n0, tail + r * wide, real * sizeof *tail);
        add_bias(j, n0, real);
    }
}

/* ---- Linears that read the same rows --------------------------------------------------------- */

enum { MOST_TOGETHER = 3 };

/* Items of several jobs, one behind the other, as one job of the pool. */
typedef struct together {
    const job *jobs;
    size_t n, first[MOST_TOGETHER + 1];
    bal_pool_fn *fn; /* takes a job and items of it */
} together;

static void items_together(void *ctx, size_t begin, size_t end, int lane)
{
    const together *t = ctx;
    for (size_t i = 0; i < t->n; i++) {
        const size_t from = bal_max(begin, t->first[i]), to = bal_min(end, t->first[i + 1]);
        job j = t->jobs[i];
        if (from < to) t->fn(&j, from - t->first[i], to - t->first[i], lane);
    }
}

static void run_together(const job *jobs, size_t n, bal_pool_fn *fn)
{
    together t = {.jobs = jobs, .n = n, .fn = fn};
    size_t grain = 1;
    for (size_t i = 0; i < n; i++) {
        t.first[i + 1] = t.first[i] + items_of(jobs[i].w, jobs[i].how.kernel);
        grain = bal_max(grain, jobs[i].how.grain);
    }
    bal_pool_run(jobs->e->pool, items_together, &t, t.first[n], grain);
}

/* Rows as integers, once for all of them, and the product of each. */
static void chunk_forward(const job *jobs, size_t n)
{
    const bool a8 = jobs->w->act.kind == BAL_ACT_A8;
    const bool tiles = jobs->how.kernel == BAL_SHAPES_TILES;
    job j = *jobs;
    if (tiles)
        bal_pool_run(j.e->pool, fill_tiles, &j, bal_ceil_div(j.m, BAL_TILE_TOKENS), 1);
    else
        bal_pool_run(j.e->pool, a8 ? quantize_rows_a8 : quantize_rows, &j, j.m, 4);
    run_together(jobs, n, tiles ? tile_panels : a8 ? panels_a8 : packed_panels);
    for (size_t i = 0; i < n; i++)
        if (jobs[i].w->rank) add_low(&jobs[i]);
}

static void packed_forward(const job *all, size_t n)
{
    const bool tiles = all->how.kernel == BAL_SHAPES_TILES;
    const size_t rows = tiles ? even_rows(all, BAL_TILE_TOKENS) : all->how.chunk;
    for (size_t at = 0; at < all->m; at += rows) {
        job chunk[MOST_TOGETHER];
        for (size_t i = 0; i < n; i++) chunk[i] = rows_of(&all[i], at, rows);
        chunk_forward(chunk, n);
    }
}

/* Whether both read a row as the same integers, in chunks of as many rows. */
static bool reads_alike(const job *a, const job *b)
{
    const bal_act *x = &a->w->act, *y = &b->w->act;
    return bal_type_get(a->w->type)->packed && bal_type_get(b->w->type)->packed &&
           a->w->k == b->w->k && a->how.kernel == b->how.kernel && a->how.chunk == b->how.chunk &&
           x->kind == y->kind && x->group == y->group && x->scale == y->scale &&
           memcmp(x->fixed, y->fixed, sizeof x->fixed) == 0;
}

uint64_t bal_linear_bytes(const bal_linear *w)
{
    const bal_type_info *t = bal_type_get(w->type);
    const uint64_t n = (uint64_t)w->n, k = (uint64_t)w->k;
    const uint64_t low = (uint64_t)w->rank * (n + k) * sizeof(uint16_t);
    return low + (t->packed ? w->packed.layout.n_bytes : n * k * (uint64_t)t->bits / 8);
}

static job job_of(const bal_exec *e, const bal_linear *w, const float *x, size_t ldx,
                  const uint8_t *modality, int m, float *y, size_t ldy)
{
    return (job){.e = e,
                 .w = w,
                 .x = x,
                 .ldx = ldx,
                 .modality = modality,
                 .m = (size_t)m,
                 .y = y,
                 .ldy = ldy};
}

/* How many of the jobs, from the first on, go together. */
static size_t count_together(const job *jobs, size_t n)
{
    size_t same = 1;
    while (same < bal_min(n, MOST_TOGETHER) && reads_alike(&jobs[0], &jobs[same])) same++;
    return same;
}

void bal_linear_forward_all(const bal_exec *e, const bal_linear_output *out, int n, const float *x,
                            size_t ldx, const uint8_t *modality, int m)
{
    for (int i = 0; m > 0 && i < n;) {
        job jobs[MOST_TOGETHER];
        const size_t most = bal_min(MOST_TOGETHER, (size_t)(n - i));
        for (size_t o = 0; o < most; o++) {
            const bal_linear_output *to = &out[i + (int)o];
            jobs[o] = job_of(e, to->w, x, ldx, modality, m, to->y, to->ldy);
            jobs[o].how = bal_linear_choice(e, to->w, (size_t)m);
        }
        const size_t same = count_together(jobs, most);
        if (bal_type_get(jobs->w->type)->packed)
            packed_forward(jobs, same);
        else
            float_forward(jobs);
        i += (int)same;
    }
}

void bal_linear_forward_rows(const bal_exec *e, const bal_linear *w, const float *x, size_t ldx,
                             const uint8_t *modality, int m, float *y, size_t ldy)
{
    const bal_linear_output out = {w, y, ldy};
    bal_linear_forward_all(e, &out, 1, x, ldx, modality, m);
}

void bal_linear_add_low(const bal_exec *e, const bal_linear *w, const float *x, size_t ldx,
                        const uint8_t *modality, int m, float *y, size_t ldy)
{
    const job j = job_of(e, w, x, ldx, modality, m, y, ldy);
    if (w->rank && m > 0) add_low(&j);
}

void bal_linear_forward(const bal_exec *e, const bal_linear *w, const float *x, size_t ldx, int m,
                        float *y, size_t ldy)
{
    bal_linear_forward_rows(e, w, x, ldx, NULL, m, y, ldy);
}

/* Columns [c0, c0 + n) of dx: W is widened 64 x 64 elements at a time, rows ascending. */
static void grad_columns(const job *j, size_t c0, size_t n, float *wide)
{
    const size_t rows = (size_t)j->w->n;
    for (size_t r = 0; r < rows; r += BAL_GRAD_TILE) {
        const size_t part = bal_min(BAL_GRAD_TILE, rows - r);
        for (size_t i = 0; i < part; i++)
            widen(j->w->type, row_at(j->w, r + i, c0), n, wide + i * BAL_GRAD_TILE);
        j->e->kernels->gemm_nn_f32(j->m, part, n, j->x + r, j->ldx, wide, BAL_GRAD_TILE, j->y + c0,
                                   j->ldy, j->accumulate || r > 0);
    }
}

static void grad_tiles(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    const size_t k = (size_t)j->w->k;
    for (size_t t = begin; t < end; t++) {
        const size_t c0 = t * BAL_GRAD_TILE;
        grad_columns(j, c0, bal_min(BAL_GRAD_TILE, k - c0), bal_exec_lane(j->e, lane));
    }
}

void bal_linear_backward(const bal_exec *e, const bal_linear *w, const float *dy, size_t lddy,
                         int m, float *dx, size_t lddx, bool accumulate)
{
    job j = {.e = e,
             .w = w,
             .x = dy,
             .ldx = lddy,
             .m = (size_t)m,
             .y = dx,
             .ldy = lddx,
             .accumulate = accumulate};
    if (m < 1) return;
    bal_pool_run(e->pool, grad_tiles, &j, bal_ceil_div((size_t)w->k, BAL_GRAD_TILE), 1);
}

/* Row r of B A to out. */
static void add_low_row(const bal_linear *w, size_t r, float *out)
{
    const size_t rank = (size_t)w->rank, k = (size_t)w->k;
    for (size_t j = 0; j < rank; j++) {
        float b;
        widen(BAL_TYPE_F16, (const uint8_t *)w->low_b + 2 * (r * rank + j), 1, &b);
        for (size_t c = 0; c < k; c++) {
            float a;
            widen(BAL_TYPE_F16, (const uint8_t *)w->low_a + 2 * (j * k + c), 1, &a);
            out[c] += b * a;
        }
    }
}

void bal_linear_row(const bal_linear *w, int r, float *out)
{
    if (bal_type_get(w->type)->packed) {
        bal_packed_row(&w->packed, (size_t)r, out);
        if (!w->low_vision) add_low_row(w, (size_t)r, out);
    } else
        widen(w->type, row_at(w, (size_t)r, 0), (size_t)w->k, out);
}
