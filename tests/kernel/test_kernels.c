/* SPDX-License-Identifier: MIT
 * Every line of kernels.def against the scalar definition, bit for bit: random shapes, inputs that
 * cycle through uniform, all extremes, mixed extremes, one outlier, zeros, subnormals and NaN/Inf,
 * half of them ending at a page that must not be read. Outputs are compared whole, canaries
 * included. AVX-512 variants are checked a second time under emulation where SIMDe was found.
 *   test_kernels [--seed N] [--filter TEXT] [--trials N] [--isa-off LEVEL] [--isa-is LEVEL]
 * --isa-off leaves out a level and those above it; --isa-is fails unless LEVEL is what was
 * detected. A failure line names seed and trial, which reproduce it. */
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/half.h"
#include "base/rng.h"
#include "kernel/ref/exp_ref.h"
#include "kernel/table.h"

#define KERNEL(op, variant, needs) bal_##op##_fn bal_##op##_##variant;
#include "kernel/kernels.def"
#undef KERNEL

/* ---- Random numbers and shapes ------------------------------------------------------------- */

static bal_rng rng;
static int trials = 120;
static int trial;

/* uniform in [lo, hi] */
static size_t pick(size_t lo, size_t hi)
{
    return lo + (size_t)bal_rng_below(&rng, hi - lo + 1);
}

enum { UNIFORM, EXTREMES, MIXED, OUTLIER, ZEROS, SUBNORMAL, SPECIAL, MODES };

static float unit_float(void)
{
    return 2.0f * bal_rng_f32(&rng) - 1.0f;
}

/* `extreme` is the largest magnitude that makes sense for the op. */
static void fill_floats(float *p, size_t n, int mode, float extreme)
{
    static const float special[] = {NAN, INFINITY, -INFINITY, -0.0f, 0x1.fffffep127f, 0x1p-149f};
    for (size_t i = 0; i < n; i++) {
        p[i] = unit_float();
        if (mode == EXTREMES) p[i] = extreme;
        if (mode == MIXED) p[i] = p[i] < 0 ? -extreme : extreme;
        if (mode == ZEROS) p[i] = p[i] < 0 ? -0.0f : 0.0f;
        if (mode == SUBNORMAL) p[i] *= 0x1p-126f;
        if (mode == SPECIAL && pick(0, 40) == 0) p[i] = special[pick(0, 5)];
    }
    if (mode == OUTLIER && n) p[pick(0, n - 1)] = extreme;
}

/* ---- Memory -------------------------------------------------------------------------------- */

/* Input memory in numbered slots, a page without access behind each. Odd trials: the bytes end at
 * that page. Even trials: they start on byte `offset`, so that alignment varies. */
enum { SLOTS = 6, SLOT_BYTES = 5 << 18 };

static void *input(int slot, size_t n_bytes, size_t offset)
{
    static uint8_t *base[SLOTS];
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (!base[slot]) {
        base[slot] = mmap(NULL, SLOT_BYTES + page, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (base[slot] == MAP_FAILED || mprotect(base[slot] + SLOT_BYTES, page, PROT_NONE)) exit(2);
    }
    if (n_bytes + offset > SLOT_BYTES) {
        fprintf(stderr, "slot of %d bytes is too small for %zu\n", SLOT_BYTES, n_bytes);
        exit(2);
    }
    return trial % 2 ? base[slot] + SLOT_BYTES - n_bytes : base[slot] + offset;
}

static float *input_floats(int slot, size_t n, int mode, float extreme)
{
    float *p = input(slot, n * sizeof *p, 4 * pick(0, 15));
    fill_floats(p, n, mode, extreme);
    return p;
}

/* A pair of output buffers with equal contents: canaries everywhere, which a kernel may only
 * replace where the definition does. */
enum { OUT_FLOATS = 1 << 15, OUT_PAD = 32, CANARY = 0x7fc0dead };

static uint32_t want_buf[OUT_FLOATS], got_buf[OUT_FLOATS];
static size_t out_used;

/* Prepares n floats of output; *want and *got point behind the first canaries. */
static void outputs(size_t n, float **want, float **got)
{
    out_used = n + 2 * OUT_PAD;
    if (out_used > OUT_FLOATS) {
        fprintf(stderr, "output of %zu floats is too large\n", n);
        exit(2);
    }
    for (size_t i = 0; i < out_used; i++) want_buf[i] = got_buf[i] = CANARY;
    *want = (float *)(want_buf + OUT_PAD);
    *got = (float *)(got_buf + OUT_PAD);
}

/* The same start contents for kernels that work in place or add. */
static void copy_outputs(size_t n, const float *from, float *want, float *got)
{
    memcpy(want, from, n * sizeof *from);
    memcpy(got, from, n * sizeof *from);
}

static bool same_bits(uint32_t a, uint32_t b)
{
    const bool nan_a = (a & 0x7fffffffu) > 0x7f800000u, nan_b = (b & 0x7fffffffu) > 0x7f800000u;
    if (a == CANARY || b == CANARY) return a == b;
    return a == b || (nan_a && nan_b); /* payloads are unspecified */
}

static bool outputs_agree(const char *name, uint64_t seed, const char *shape)
{
    for (size_t i = 0; i < out_used; i++)
        if (!same_bits(want_buf[i], got_buf[i])) {
            printf("FAIL %s --seed %llu trial %d %s at %td: want %08x (%g) got %08x (%g)\n", name,
                   (unsigned long long)seed, trial, shape, (ptrdiff_t)i - OUT_PAD, want_buf[i],
                   (double)bal_f32_from_bits(want_buf[i]), got_buf[i],
                   (double)bal_f32_from_bits(got_buf[i]));
            return false;
        }
    return true;
}

/* ---- One checker per kind of op ------------------------------------------------------------ */

static bool check_quant_a16(const char *name, bal_quant_a16_fn *fn, bal_quant_a16_fn *ref,
                            uint64_t seed)
{
    const int mode = trial % MODES;
    const float scale = powf(10.0f, (float)(int)pick(0, 72) - 36.0f);
    const size_t k = pick(1, 300), n_units = (k + 31) / 32;
    float *x = input_floats(0, k, mode, 0x1.fffffep127f), *want, *got;
    for (size_t i = 0; i < k && mode == UNIFORM; i++) x[i] *= scale;
    outputs(n_units * sizeof(bal_a16) / sizeof(float), &want, &got);
    ref(x, k, (void *)want);
    fn(x, k, (void *)got);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d k=%zu", mode, k);
    return outputs_agree(name, seed, shape);
}

/* Units as quant_a16 could have made them: |q| <= 32639. */
static void fill_units(bal_a16 *a, size_t n, int mode)
{
    for (size_t u = 0; u < n; u++) {
        a[u] = (bal_a16){.scale = bal_rng_f32(&rng) * 0.01f};
        if (mode == SPECIAL && pick(0, 20) == 0) a[u].scale = NAN;
        if (mode == SUBNORMAL) a[u].scale *= 0x1p-120f;
        for (int k = 0; k < 32; k++) {
            const bool up = bal_rng_u64(&rng) >> 63;
            int q = (int)pick(0, 2 * BAL_A16_MAX) - BAL_A16_MAX;
            if (mode == EXTREMES) q = trial & 8 ? BAL_A16_MAX : -BAL_A16_MAX;
            if (mode == MIXED) q = up ? BAL_A16_MAX : -BAL_A16_MAX;
            if (mode == OUTLIER) q = up ? 126 * 256 - 128 : -126 * 256 - 128; /* low byte -128 */
            if (mode == ZEROS) q = 0;
            a[u].hi[k] = (int8_t)((q + 128) >> 8);
            a[u].lo[k] = (int8_t)(q - 256 * a[u].hi[k]);
            a[u].sum += q;
        }
    }
}

static bool check_gemm_w(const char *name, bal_gemm_w_fn *fn, bal_gemm_w_fn *ref, uint64_t seed,
                         int bits)
{
    const int mode = trial % MODES, mr = (int)pick(1, trial % 6 ? 9 : BAL_GEMM_W_MR);
    const size_t units = pick(1, trial % 6 ? 24 : 80),
                 upg = trial % 5 ? pick(1, units) : SIZE_MAX / 2;
    const size_t groups = (units - 1) / upg + 1, a_stride = units + pick(0, 3);
    const size_t y_stride = 16 + pick(0, 5), n_words = units * (size_t)bits * 16;
    const size_t n_a = a_stride * (size_t)(mr - 1) + units;
    uint32_t *codes = input(0, n_words * 4, 4 * pick(0, 15));
    uint16_t *scales = input(1, groups * 16 * 2, 2 * pick(0, 15));
    uint8_t *zeros = input(2, groups * 16, pick(0, 63));
    bal_a16 *a = input(3, n_a * sizeof *a, 4 * pick(0, 15));
    for (size_t i = 0; i < n_words; i++)
        codes[i] = mode == EXTREMES ? UINT32_MAX : (uint32_t)bal_rng_u64(&rng);
    for (size_t i = 0; i < groups * 16; i++) {
        scales[i] = bal_f32_to_f16(unit_float() * (mode == SUBNORMAL ? 0x1p-16f : 1.0f));
        if (mode == SPECIAL && pick(0, 30) == 0) scales[i] = trial & 8 ? 0x7c00 : 0x7e01;
        zeros[i] = mode == EXTREMES ? 0 : mode == MIXED ? 255 : (uint8_t)pick(0, (1u << bits) - 1);
    }
    fill_units(a, n_a, mode);
    float *want, *got;
    outputs(y_stride * (size_t)mr, &want, &got);
    ref(mr, units, upg, a, a_stride, codes, scales, zeros, want, y_stride);
    fn(mr, units, upg, a, a_stride, codes, scales, zeros, got, y_stride);
    char shape[96];
    snprintf(shape, sizeof shape, "mode=%d mr=%d units=%zu group=%zu ys=%zu", mode, mr, units, upg,
             y_stride);
    return outputs_agree(name, seed, shape);
}

static bool check_quant_a8(const char *name, bal_quant_a8_fn *fn, bal_quant_a8_fn *ref,
                           uint64_t seed)
{
    static const size_t groups[] = {0, 32, 128, 1 << 20};
    const int mode = trial % MODES;
    const float scale = powf(10.0f, (float)(int)pick(0, 72) - 36.0f);
    const size_t k = pick(1, 300), n_units = (k + 31) / 32, group = groups[pick(0, 3)];
    float *x = input_floats(0, k, mode, 0x1.fffffep127f), *want, *got;
    for (size_t i = 0; i < k && mode == UNIFORM; i++) x[i] *= scale;
    outputs(n_units * sizeof(bal_a8) / sizeof(float), &want, &got);
    ref(x, k, group, (void *)want);
    fn(x, k, group, (void *)got);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d k=%zu group=%zu", mode, k, group);
    return outputs_agree(name, seed, shape);
}

static bool check_quant_a8_fixed(const char *name, bal_quant_a8_fixed_fn *fn,
                                 bal_quant_a8_fixed_fn *ref, uint64_t seed)
{
    static const float edges[] = {0.0f, 0x1p-101f, 0x1p-100f, 0x1.fffffep127f};
    const int mode = trial % MODES;
    const float size = powf(10.0f, (float)(int)pick(0, 56) - 28.0f);
    const size_t k = pick(1, 300), n_units = (k + 31) / 32;
    /* from what saturates nearly all inputs to what rounds them all to 0 */
    const float scale = trial % 5 ? size * exp2f(unit_float() * 9.0f - 7.0f) : edges[trial / 5 % 4];
    float *x = input_floats(0, k, mode, 0x1.fffffep127f), *want, *got;
    for (size_t i = 0; i < k && mode == UNIFORM; i++) x[i] *= size;
    outputs(n_units * sizeof(bal_a8) / sizeof(float), &want, &got);
    ref(x, k, scale, (void *)want);
    fn(x, k, scale, (void *)got);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d k=%zu scale=%a", mode, k, (double)scale);
    return outputs_agree(name, seed, shape);
}

/* Rows as quant_a8 could have made them: |q| <= 127, one scale a group. */
static void fill_rows_a8(bal_a8 *a, size_t rows, size_t stride, size_t units, size_t per_scale,
                         int mode)
{
    for (size_t r = 0; r < rows; r++) {
        int32_t sum = 0;
        for (size_t u = 0; u < units; u++) {
            bal_a8 *x = &a[r * stride + u];
            *x = (bal_a8){.scale = u % per_scale ? x[-1].scale : bal_rng_f32(&rng) * 0.01f};
            if (mode == SPECIAL && u % per_scale == 0 && pick(0, 20) == 0) x->scale = NAN;
            if (mode == SUBNORMAL && u % per_scale == 0) x->scale *= 0x1p-120f;
            for (int k = 0; k < 32; k++) {
                const int sign = bal_rng_u64(&rng) >> 63 ? 1 : -1;
                int q = (int)pick(0, 2 * BAL_A8_MAX) - BAL_A8_MAX;
                if (mode == EXTREMES) q = trial & 8 ? BAL_A8_MAX : -BAL_A8_MAX;
                if (mode == MIXED) q = sign * BAL_A8_MAX;
                if (mode == ZEROS) q = 0;
                x->q[k] = (int8_t)q;
                sum += q;
            }
            x->sum = sum;
        }
    }
}

static bool check_gemm_a8(const char *name, bal_gemm_a8_fn *fn, bal_gemm_a8_fn *ref, uint64_t seed,
                          int bits)
{
    const int mode = trial % MODES;
    const bool deep = trial % 12 == 11; /* longer than a segment and than any block of units */
    const int m = (int)pick(1, trial % 6 ? 9 : deep ? 5 : BAL_GEMM_A8_ROWS);
    const size_t units = deep ? pick(1025, 1200) : pick(1, trial % 6 ? 24 : 80);
    const size_t upg = trial % 5 ? pick(1, units) : SIZE_MAX / 2;
    const size_t ups = trial % 3 ? pick(1, units) : SIZE_MAX / 2;
    const size_t groups = (units - 1) / upg + 1, a_stride = units + pick(0, 3);
    const size_t y_stride = 16 + pick(0, 5), n_words = units * (size_t)bits * 16;
    const size_t n_a = a_stride * (size_t)(m - 1) + units;
    uint32_t *codes = input(0, n_words * 4, 4 * pick(0, 15));
    uint16_t *scales = input(1, groups * 16 * 2, 2 * pick(0, 15));
    uint8_t *zeros = input(2, groups * 16, pick(0, 63));
    bal_a8 *a = input(3, n_a * sizeof *a, 4 * pick(0, 15));
    for (size_t i = 0; i < n_words; i++)
        codes[i] = mode == EXTREMES ? (trial & 16 ? 0 : UINT32_MAX) : (uint32_t)bal_rng_u64(&rng);
    for (size_t i = 0; i < groups * 16; i++) {
        scales[i] = bal_f32_to_f16(unit_float() * (mode == SUBNORMAL ? 0x1p-16f : 1.0f));
        if (mode == SPECIAL && pick(0, 30) == 0) scales[i] = trial & 8 ? 0x7c00 : 0x7e01;
        zeros[i] = mode == EXTREMES ? (trial & 16 ? 255 : 0)
                   : mode == MIXED  ? 255
                                    : (uint8_t)pick(0, (1u << bits) - 1);
    }
    fill_rows_a8(a, (size_t)m, a_stride, units, ups, mode);
    float *want, *got;
    outputs(y_stride * (size_t)m, &want, &got);
    ref(m, units, upg, ups, a, a_stride, codes, scales, zeros, want, y_stride);
    fn(m, units, upg, ups, a, a_stride, codes, scales, zeros, got, y_stride);
    char shape[96];
    snprintf(shape, sizeof shape, "mode=%d m=%d units=%zu group=%zu scale=%zu ys=%zu", mode, m,
             units, upg, ups, y_stride);
    return outputs_agree(name, seed, shape);
}

/* What stands beside the codes of one panel of kinds with steps; a table has whole bytes, of which
 * not all bits count. */
typedef struct step_sides {
    uint16_t *scales;
    uint8_t *steps, *zeros;
} step_sides;

static step_sides input_steps(size_t groups, bool table, int mode)
{
    const size_t n_steps = groups * (table ? 8 : 16), n_zeros = table ? 17 : groups * 16;
    const step_sides s = {input(1, 16 * 2, 2 * pick(0, 15)), input(2, n_steps, pick(0, 63)),
                          input(4, n_zeros, pick(0, 63))};
    for (size_t i = 0; i < 16; i++) {
        s.scales[i] = bal_f32_to_f16(unit_float() * (mode == SUBNORMAL ? 0x1p-16f : 1.0f));
        if (mode == SPECIAL && pick(0, 10) == 0) s.scales[i] = trial & 8 ? 0x7c00 : 0x7e01;
    }
    const bool top = mode == EXTREMES || mode == MIXED;
    for (size_t i = 0; i < n_steps; i++) s.steps[i] = top ? 255 : (uint8_t)pick(0, 255);
    for (size_t i = 0; i < n_zeros; i++) s.zeros[i] = top ? 255 : (uint8_t)pick(0, 255);
    if (mode == EXTREMES) memset(s.zeros + (table ? 16 : 0), 0, table ? 1 : n_zeros);
    return s;
}

static bool check_gemm_t(const char *name, bal_gemm_t_fn *fn, bal_gemm_t_fn *ref, uint64_t seed,
                         int bits, bool table)
{
    const int mode = trial % MODES, mr = (int)pick(1, trial % 6 ? 9 : BAL_GEMM_W_MR);
    const size_t units = pick(1, trial % 6 ? 24 : 80),
                 upg = trial % 5 ? pick(1, units) : SIZE_MAX / 2;
    const size_t groups = (units - 1) / upg + 1, a_stride = units + pick(0, 3);
    const size_t y_stride = 16 + pick(0, 5), n_words = units * (size_t)bits * 16;
    const size_t n_a = a_stride * (size_t)(mr - 1) + units;
    uint32_t *codes = input(0, n_words * 4, 4 * pick(0, 15));
    const step_sides s = input_steps(groups, table, mode);
    bal_a16 *a = input(3, n_a * sizeof *a, 4 * pick(0, 15));
    for (size_t i = 0; i < n_words; i++)
        codes[i] = mode == EXTREMES ? UINT32_MAX : (uint32_t)bal_rng_u64(&rng);
    fill_units(a, n_a, mode);
    float *want, *got;
    outputs(y_stride * (size_t)mr, &want, &got);
    ref(mr, units, upg, a, a_stride, codes, s.scales, s.steps, s.zeros, want, y_stride);
    fn(mr, units, upg, a, a_stride, codes, s.scales, s.steps, s.zeros, got, y_stride);
    char shape[96];
    snprintf(shape, sizeof shape, "mode=%d mr=%d units=%zu group=%zu ys=%zu", mode, mr, units, upg,
             y_stride);
    return outputs_agree(name, seed, shape);
}

/* Bytes that are no weights included: there sums wrap around alike. */
static bool check_gemm_a8d4(const char *name, bal_gemm_a8d_fn *fn, bal_gemm_a8d_fn *ref,
                            uint64_t seed)
{
    const int mode = trial % MODES;
    const bool deep = trial % 12 == 11; /* longer than a segment */
    const int m = (int)pick(1, trial % 6 ? 9 : deep ? 5 : BAL_GEMM_A8_ROWS);
    const size_t units = deep ? pick(1025, 1200) : pick(1, trial % 6 ? 24 : 80);
    const size_t upg = trial % 5 ? pick(1, units) : SIZE_MAX / 2;
    const size_t ups = trial % 3 ? pick(1, units) : SIZE_MAX / 2;
    const size_t groups = (units - 1) / upg + 1, a_stride = units + pick(0, 3);
    const size_t y_stride = 16 + pick(0, 5), n_words = units * 4 * 16;
    const size_t n_a = a_stride * (size_t)(m - 1) + units;
    uint32_t *codes = input(0, n_words * 4, 4 * pick(0, 15));
    const step_sides s = input_steps(groups, false, mode);
    bal_a8 *a = input(3, n_a * sizeof *a, 4 * pick(0, 15));
    for (size_t i = 0; i < n_words; i++)
        codes[i] = mode == EXTREMES ? (trial & 16 ? 0 : UINT32_MAX) : (uint32_t)bal_rng_u64(&rng);
    fill_rows_a8(a, (size_t)m, a_stride, units, ups, mode);
    float *want, *got;
    outputs(y_stride * (size_t)m, &want, &got);
    ref(m, units, upg, ups, a, a_stride, codes, s.scales, s.steps, s.zeros, want, y_stride);
    fn(m, units, upg, ups, a, a_stride, codes, s.scales, s.steps, s.zeros, got, y_stride);
    char shape[96];
    snprintf(shape, sizeof shape, "mode=%d m=%d units=%zu group=%zu scale=%zu ys=%zu", mode, m,
             units, upg, ups, y_stride);
    return outputs_agree(name, seed, shape);
}

/* Rows, units and groups of a check of tiles: several blocks of units, and now and then all tokens
 * of a call or a segment's whole length. */
typedef struct tile_shape {
    int mode, panels;
    size_t m, units, upg, ups, groups, y_stride;
} tile_shape;

static tile_shape pick_tiles(void)
{
    tile_shape s = {.mode = trial % MODES, .m = pick(1, 26), .units = pick(1, 20)};
    s.panels = (int)pick(1, BAL_TILE_PANELS);
    if (trial % 12 == 5) s.m = pick(200, BAL_TILE_CHUNK), s.units = pick(1, 3);
    if (trial % 24 == 11) s.m = pick(1, 3), s.units = pick(1025, 1200);
    s.upg = trial % 5 ? pick(1, s.units) : SIZE_MAX / 2;
    s.ups = trial % 3 ? pick(1, s.units) : SIZE_MAX / 2;
    s.groups = (s.units - 1) / s.upg + 1;
    s.y_stride = 16 * (size_t)s.panels + pick(0, 5);
    return s;
}

static bool tiles_agree(const char *name, uint64_t seed, const tile_shape *s)
{
    char shape[128];
    snprintf(shape, sizeof shape, "mode=%d m=%zu panels=%d units=%zu group=%zu scale=%zu ys=%zu",
             s->mode, s->m, s->panels, s->units, s->upg, s->ups, s->y_stride);
    return outputs_agree(name, seed, shape);
}

static uint32_t *input_codes(const tile_shape *s, int bits)
{
    const size_t n = (size_t)s->panels * s->units * (size_t)bits * 16;
    uint32_t *codes = input(0, n * 4, 4 * pick(0, 15));
    for (size_t i = 0; i < n; i++)
        codes[i] =
            s->mode == EXTREMES ? (trial & 16 ? 0 : UINT32_MAX) : (uint32_t)bal_rng_u64(&rng);
    return codes;
}

/* n halves and n bytes; steps of either kind may be any byte. */
static uint16_t *input_scales(const tile_shape *s, size_t n)
{
    uint16_t *scales = input(1, n * 2, 2 * pick(0, 15));
    for (size_t i = 0; i < n; i++) {
        scales[i] = bal_f32_to_f16(unit_float() * (s->mode == SUBNORMAL ? 0x1p-16f : 1.0f));
        if (s->mode == SPECIAL && pick(0, 30) == 0) scales[i] = trial & 8 ? 0x7c00 : 0x7e01;
    }
    return scales;
}

static uint8_t *input_bytes(const tile_shape *s, int slot, size_t n)
{
    uint8_t *bytes = input(slot, n, pick(0, 63));
    for (size_t i = 0; i < n; i++)
        bytes[i] = s->mode == EXTREMES ? (trial & 16 ? 255 : 0)
                   : s->mode == MIXED  ? 255
                                       : (uint8_t)pick(0, 255);
    return bytes;
}

/* Tiles of the rows, their unused places full of ones. */
static uint8_t *input_tiles(const tile_shape *s, const void *rows, bool bytes)
{
    const size_t count = (s->m + BAL_TILE_TOKENS - 1) / BAL_TILE_TOKENS;
    const size_t one = bytes ? bal_tile_bytes_a8(s->units) : bal_tile_bytes_a16(s->units);
    uint8_t *tiles = input(5, count * one, 4 * pick(0, 15));
    memset(tiles, 255, count * one);
    for (size_t i = 0; i < s->m; i += BAL_TILE_TOKENS) {
        uint8_t *tile = tiles + i / BAL_TILE_TOKENS * one;
        const int n = (int)(s->m - i < BAL_TILE_TOKENS ? s->m - i : BAL_TILE_TOKENS);
        if (bytes)
            bal_tile_pack_a8(tile, s->units, n, (const bal_a8 *)rows + i * s->units);
        else
            bal_tile_pack_a16(tile, s->units, n, (const bal_a16 *)rows + i * s->units);
    }
    return tiles;
}

/* All variants, the definition too, are compared with the definition of the op for rows. */
static bool check_tile_a8(const char *name, bal_tile_a8_fn *fn, bal_gemm_a8_fn *rows, uint64_t seed,
                          int bits)
{
    const tile_shape s = pick_tiles();
    const uint32_t *codes = input_codes(&s, bits);
    const size_t beside = s.groups * 16;
    const uint16_t *scales = input_scales(&s, (size_t)s.panels * beside);
    const uint8_t *zeros = input_bytes(&s, 2, (size_t)s.panels * beside);
    bal_a8 *a = input(3, s.m * s.units * sizeof *a, 4 * pick(0, 15));
    fill_rows_a8(a, s.m, s.units, s.units, s.ups, s.mode);
    const uint8_t *tiles = input_tiles(&s, a, true);
    float *want, *got;
    outputs(s.y_stride * s.m, &want, &got);
    for (size_t i = 0; i < s.m; i++)
        for (size_t p = 0; p < (size_t)s.panels; p++)
            rows(1, s.units, s.upg, s.ups, a + i * s.units, s.units,
                 codes + p * s.units * (size_t)bits * 16, scales + p * beside, zeros + p * beside,
                 want + i * s.y_stride + 16 * p, s.y_stride);
    fn(s.m, s.panels, s.units, s.upg, s.ups, tiles, codes, scales, zeros, got, s.y_stride);
    return tiles_agree(name, seed, &s);
}

/* The same for 16 bits; rows_t is NULL where rows_w defines the op. */
static bool check_tile_a16(const char *name, bal_tile_a16_fn *fn, bal_gemm_w_fn *rows_w,
                           bal_gemm_t_fn *rows_t, uint64_t seed, int bits, bool table)
{
    const tile_shape s = pick_tiles();
    const uint32_t *codes = input_codes(&s, bits);
    const size_t n_scales = rows_t ? 16 : s.groups * 16, n_steps = s.groups * (table ? 8 : 16);
    const size_t n_zeros = table ? 0 : s.groups * 16, panels = (size_t)s.panels;
    const uint16_t *scales = input_scales(&s, panels * n_scales);
    const uint8_t *zeros = input_bytes(&s, 2, table ? 17 : panels * n_zeros);
    const uint8_t *steps = input_bytes(&s, 4, panels * n_steps);
    bal_a16 *a = input(3, s.m * s.units * sizeof *a, 4 * pick(0, 15));
    fill_units(a, s.m * s.units, s.mode);
    const uint8_t *tiles = input_tiles(&s, a, false);
    float *want, *got;
    outputs(s.y_stride * s.m, &want, &got);
    for (size_t i = 0; i < s.m; i++)
        for (size_t p = 0; p < panels; p++) {
            const bal_a16 *row = a + i * s.units;
            const uint32_t *c = codes + p * s.units * (size_t)bits * 16;
            const uint16_t *sc = scales + p * n_scales;
            float *y = want + i * s.y_stride + 16 * p;
            if (rows_t)
                rows_t(1, s.units, s.upg, row, s.units, c, sc, steps + p * n_steps,
                       zeros + p * n_zeros, y, s.y_stride);
            else
                rows_w(1, s.units, s.upg, row, s.units, c, sc, zeros + p * n_zeros, y, s.y_stride);
        }
    fn(s.m, s.panels, s.units, s.upg, tiles, codes, scales, steps, zeros, got, s.y_stride);
    return tiles_agree(name, seed, &s);
}

/* Row-major weights of 2- or 4-byte elements, on any byte in even trials. */
static const void *weights(int slot, size_t n, int mode, int type)
{
    const size_t size = type ? 2 : 4;
    uint8_t *w = input(slot, n * size, pick(0, 63));
    for (size_t i = 0; i < n; i++) {
        float v;
        fill_floats(&v, 1, mode == OUTLIER ? UNIFORM : mode, 0x1.fffffep15f);
        const uint16_t h = type == 1 ? bal_f32_to_bf16(v) : bal_f32_to_f16(v);
        memcpy(w + i * size, type ? (const void *)&h : (const void *)&v, size);
    }
    return w;
}

static bool check_gemm_nt(const char *name, bal_gemm_nt_fn *fn, bal_gemm_nt_fn *ref, uint64_t seed,
                          int type)
{
    const int mode = trial % MODES;
    const bool deep = trial % 10 == 0;
    const size_t m = trial % 3 ? pick(1, 5) : pick(1, deep ? 4 : 40);
    const size_t n = pick(1, deep ? 5 : 30), k = deep ? pick(900, 2200) : pick(1, 100);
    const size_t ldx = k + pick(0, 3), ldw = k + pick(0, 3), ldy = n + pick(0, 5);
    const float *x = input_floats(0, ldx * (m - 1) + k, mode, 0x1.fffffep60f);
    const void *w = weights(1, ldw * (n - 1) + k, mode, type);
    float *want, *got;
    outputs(ldy * m, &want, &got);
    ref(m, n, k, x, ldx, w, ldw, want, ldy);
    fn(m, n, k, x, ldx, w, ldw, got, ldy);
    char shape[96];
    snprintf(shape, sizeof shape, "mode=%d m=%zu n=%zu k=%zu ldw=%zu", mode, m, n, k, ldw);
    return outputs_agree(name, seed, shape);
}

static bool check_pack_x(const char *name, bal_pack_x_fn *fn, bal_pack_x_fn *ref, uint64_t seed)
{
    const int mode = trial % MODES;
    const size_t m = pick(1, BAL_PANEL_GROUP), k = pick(1, trial % 4 ? 40 : 500);
    const size_t ldx = k + pick(0, 3);
    const float *x = input_floats(0, ldx * (m - 1) + k, mode, 0x1.fffffep60f);
    float *want, *got;
    outputs(16 * bal_panel_x_lane(k), &want, &got);
    ref(m, k, x, ldx, want);
    fn(m, k, x, ldx, got);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d m=%zu k=%zu", mode, m, k);
    return outputs_agree(name, seed, shape);
}

static bool check_pack_w(const char *name, bal_pack_w_fn *fn, bal_pack_w_fn *ref, uint64_t seed,
                         int type)
{
    const int mode = trial % MODES;
    const size_t n = trial % 2 ? BAL_PANEL_OUTPUTS : pick(1, 16), k = pick(1, trial % 4 ? 40 : 500);
    const size_t ldw = k + pick(0, 3);
    const void *w = weights(1, ldw * (n - 1) + k, mode, type);
    float *want, *got;
    outputs(16 * bal_panel_w_lane(k), &want, &got);
    ref(n, k, w, ldw, want);
    fn(n, k, w, ldw, got);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d n=%zu k=%zu", mode, n, k);
    return outputs_agree(name, seed, shape);
}

/* The definition packs; what it is compared with is gemm_nt's definition, which does not. */
static bool check_gemm_panel(const char *name, bal_gemm_panel_fn *fn, bal_gemm_panel_fn *ref,
                             uint64_t seed)
{
    (void)ref;
    const int mode = trial % MODES;
    const bool deep = trial % 10 == 0;
    const size_t m = deep ? pick(1, 3) : pick(1, trial % 3 ? 20 : 120);
    const size_t k = deep ? pick(4000, 4600) : pick(1, 100), ldy = 16 + pick(0, 5);
    const size_t block = 16 * bal_panel_x_lane(k), blocks = (m - 1) / BAL_PANEL_TOKENS + 1;
    const float *x = input_floats(0, m * k, mode, 0x1.fffffep60f);
    const float *w = input_floats(1, 16 * k, mode, 0x1.fffffep60f);
    float *packed_x = input(2, blocks * block * sizeof *packed_x, 4 * pick(0, 15));
    float *packed_w = input(3, 16 * bal_panel_w_lane(k) * sizeof *packed_w, 4 * pick(0, 15));
    for (size_t i = 0; i < m; i += BAL_PANEL_GROUP)
        bal_pack_x_ref(m - i < BAL_PANEL_GROUP ? m - i : BAL_PANEL_GROUP, k, x + i * k, k,
                       packed_x + i / BAL_PANEL_TOKENS * block +
                           i % BAL_PANEL_TOKENS * bal_panel_steps(k));
    bal_pack_f32_ref(16, k, w, k, packed_w);
    float *want, *got;
    outputs(ldy * m, &want, &got);
    bal_gemm_nt_f32_ref(m, 16, k, x, k, w, k, want, ldy);
    fn(m, k, packed_x, packed_w, got, ldy);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d m=%zu k=%zu", mode, m, k);
    return outputs_agree(name, seed, shape);
}

static bool check_gemm_nn_f32(const char *name, bal_gemm_nn_f32_fn *fn, bal_gemm_nn_f32_fn *ref,
                              uint64_t seed)
{
    const int mode = trial % MODES;
    const bool deep = trial % 10 == 0, accumulate = pick(0, 1);
    const size_t m = trial % 3 ? pick(1, 9) : pick(1, deep ? 9 : 40);
    const size_t n_t = deep ? pick(250, 700) : pick(0, 40), n_d = pick(1, 100);
    const size_t ldp = n_t + pick(0, 3), ldv = n_d + pick(0, 3), ldy = n_d + pick(0, 5);
    const float *p = input_floats(0, n_t ? ldp * (m - 1) + n_t : 0, mode, 0x1.fffffep60f);
    const float *v = input_floats(1, n_t ? ldv * (n_t - 1) + n_d : 0, mode, 0x1.fffffep60f);
    const float *y = input_floats(2, ldy * m, mode, 1.0f);
    float *want, *got;
    outputs(ldy * m, &want, &got);
    for (size_t i = 0; i < m && accumulate; i++)
        copy_outputs(n_d, y + i * ldy, want + i * ldy, got + i * ldy);
    ref(m, n_t, n_d, p, ldp, v, ldv, want, ldy, accumulate);
    fn(m, n_t, n_d, p, ldp, v, ldv, got, ldy, accumulate);
    char shape[96];
    snprintf(shape, sizeof shape, "mode=%d m=%zu t=%zu d=%zu add=%d", mode, m, n_t, n_d,
             accumulate);
    return outputs_agree(name, seed, shape);
}

/* Arguments over the whole range where exp does something. */
static const float *exp_inputs(int slot, size_t n, int mode)
{
    float *x = input_floats(slot, n, mode, trial & 8 ? 87.0f : 100.0f);
    const float spread = (float)pick(1, 110);
    for (size_t i = 0; i < n && mode == UNIFORM; i++) x[i] *= spread;
    for (size_t i = 0; i < n && mode == EXTREMES && trial & 16; i++) x[i] = -INFINITY;
    return x;
}

static bool check_softmax_exp(const char *name, bal_softmax_exp_fn *fn, bal_softmax_exp_fn *ref,
                              uint64_t seed)
{
    const int mode = trial % MODES;
    const size_t n = pick(1, trial % 4 ? 70 : 1000);
    const float *x = exp_inputs(0, n, mode);
    float *want, *got;
    outputs(n + 2, &want, &got);
    copy_outputs(n, x, want, got);
    ref(want, n, want + n, want + n + 1);
    fn(got, n, got + n, got + n + 1);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d n=%zu", mode, n);
    return outputs_agree(name, seed, shape);
}

static bool check_softmax_row(const char *name, bal_softmax_row_fn *fn, bal_softmax_row_fn *ref,
                              uint64_t seed)
{
    const int mode = trial % MODES;
    const size_t n = pick(1, trial % 4 ? 70 : 1000);
    const float *x = exp_inputs(0, n, mode);
    float *want, *got;
    outputs(n, &want, &got);
    copy_outputs(n, x, want, got);
    ref(want, n);
    fn(got, n);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d n=%zu", mode, n);
    return outputs_agree(name, seed, shape);
}

static bool check_silu_mul(const char *name, bal_silu_mul_fn *fn, bal_silu_mul_fn *ref,
                           uint64_t seed)
{
    const int mode = trial % MODES, alias = trial % 3;
    const size_t n = pick(1, 200);
    const float *g = exp_inputs(0, n, mode), *u = input_floats(1, n, mode, 3.0f);
    float *want, *got;
    outputs(n, &want, &got);
    copy_outputs(n, alias == 2 ? u : g, want, got);
    ref(want, alias == 1 ? want : g, alias == 2 ? want : u, n);
    fn(got, alias == 1 ? got : g, alias == 2 ? got : u, n);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d n=%zu alias=%d", mode, n, alias);
    return outputs_agree(name, seed, shape);
}

static bool check_unary(const char *name, bal_gelu_tanh_fn *fn, bal_gelu_tanh_fn *ref,
                        uint64_t seed)
{
    const int mode = trial % MODES;
    const bool alias = trial % 3 == 1;
    const size_t n = pick(1, 200);
    const float *x = exp_inputs(0, n, mode);
    float *want, *got;
    outputs(n, &want, &got);
    copy_outputs(n, x, want, got);
    ref(want, alias ? want : x, n);
    fn(got, alias ? got : x, n);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d n=%zu alias=%d", mode, n, alias);
    return outputs_agree(name, seed, shape);
}

static bool check_widen_f16(const char *name, bal_widen_f16_fn *fn, bal_widen_f16_fn *ref,
                            uint64_t seed)
{
    const int mode = trial % MODES;
    const size_t n = pick(1, 200);
    uint16_t *x = input(0, n * sizeof *x, 2 * pick(0, 31));
    for (size_t i = 0; i < n; i++) {
        float v;
        fill_floats(&v, 1, mode, 65504.0f);
        x[i] = mode == SPECIAL && pick(0, 20) == 0 ? 0x7e01 : bal_f32_to_f16(v * 0x1p-4f);
        if (mode == SUBNORMAL) x[i] = (uint16_t)pick(0, 0x3ff);
    }
    float *want, *got;
    outputs(n, &want, &got);
    ref(want, x, n);
    fn(got, x, n);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d n=%zu", mode, n);
    return outputs_agree(name, seed, shape);
}

static bool check_widen_i8(const char *name, bal_widen_i8_fn *fn, bal_widen_i8_fn *ref,
                           uint64_t seed)
{
    const int mode = trial % MODES;
    const size_t n = pick(1, 200);
    int8_t *x = input(0, n, pick(0, 63));
    float scale;
    fill_floats(&scale, 1, mode, 0x1.fffffep120f);
    for (size_t i = 0; i < n; i++) x[i] = (int8_t)((int)pick(0, 254) - 127);
    float *want, *got;
    outputs(n, &want, &got);
    ref(want, x, scale, n);
    fn(got, x, scale, n);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d n=%zu scale=%a", mode, n, (double)scale);
    return outputs_agree(name, seed, shape);
}

static bool check_hadamard(const char *name, bal_hadamard_fn *fn, bal_hadamard_fn *ref,
                           uint64_t seed)
{
    const int mode = trial % MODES;
    const size_t block = (size_t)BAL_HADAMARD_LEAST << pick(0, 4), n = block * pick(1, 5);
    const float *x = input_floats(0, n, mode, 0x1.fffffep120f);
    float *want, *got;
    outputs(n, &want, &got);
    copy_outputs(n, x, want, got);
    ref(want, n, block);
    fn(got, n, block);
    char shape[64];
    snprintf(shape, sizeof shape, "mode=%d n=%zu block=%zu", mode, n, block);
    return outputs_agree(name, seed, shape);
}

#define check_gelu_tanh                      check_unary
#define check_gemm_w2(name, fn, ref, seed)   check_gemm_w(name, fn, ref, seed, 2)
#define check_gemm_w3(name, fn, ref, seed)   check_gemm_w(name, fn, ref, seed, 3)
#define check_gemm_w4(name, fn, ref, seed)   check_gemm_w(name, fn, ref, seed, 4)
#define check_gemm_w6(name, fn, ref, seed)   check_gemm_w(name, fn, ref, seed, 6)
#define check_gemm_w8(name, fn, ref, seed)   check_gemm_w(name, fn, ref, seed, 8)
#define check_gemm_t2(name, fn, ref, seed)   check_gemm_t(name, fn, ref, seed, 2, true)
#define check_gemm_t3(name, fn, ref, seed)   check_gemm_t(name, fn, ref, seed, 3, true)
#define check_gemm_t4(name, fn, ref, seed)   check_gemm_t(name, fn, ref, seed, 4, true)
#define check_gemm_d4(name, fn, ref, seed)   check_gemm_t(name, fn, ref, seed, 4, false)
#define check_gemm_a8w2(name, fn, ref, seed) check_gemm_a8(name, fn, ref, seed, 2)
#define check_gemm_a8w3(name, fn, ref, seed) check_gemm_a8(name, fn, ref, seed, 3)
#define check_gemm_a8w4(name, fn, ref, seed) check_gemm_a8(name, fn, ref, seed, 4)
#define check_gemm_a8w6(name, fn, ref, seed) check_gemm_a8(name, fn, ref, seed, 6)
#define check_gemm_a8w8(name, fn, ref, seed) check_gemm_a8(name, fn, ref, seed, 8)
#define check_tile_w2(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, bal_gemm_w2_ref, NULL, s, 2, false))
#define check_tile_w3(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, bal_gemm_w3_ref, NULL, s, 3, false))
#define check_tile_w4(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, bal_gemm_w4_ref, NULL, s, 4, false))
#define check_tile_w6(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, bal_gemm_w6_ref, NULL, s, 6, false))
#define check_tile_w8(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, bal_gemm_w8_ref, NULL, s, 8, false))
#define check_tile_t2(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, NULL, bal_gemm_t2_ref, s, 2, true))
#define check_tile_t3(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, NULL, bal_gemm_t3_ref, s, 3, true))
#define check_tile_t4(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, NULL, bal_gemm_t4_ref, s, 4, true))
#define check_tile_d4(name, fn, ref, s)                                                            \
    ((void)(ref), check_tile_a16(name, fn, NULL, bal_gemm_d4_ref, s, 4, false))
#define check_tile_a8w2(name, fn, ref, s)                                                          \
    ((void)(ref), check_tile_a8(name, fn, bal_gemm_a8w2_ref, s, 2))
#define check_tile_a8w3(name, fn, ref, s)                                                          \
    ((void)(ref), check_tile_a8(name, fn, bal_gemm_a8w3_ref, s, 3))
#define check_tile_a8w4(name, fn, ref, s)                                                          \
    ((void)(ref), check_tile_a8(name, fn, bal_gemm_a8w4_ref, s, 4))
#define check_tile_a8w6(name, fn, ref, s)                                                          \
    ((void)(ref), check_tile_a8(name, fn, bal_gemm_a8w6_ref, s, 6))
#define check_tile_a8w8(name, fn, ref, s)                                                          \
    ((void)(ref), check_tile_a8(name, fn, bal_gemm_a8w8_ref, s, 8))
#define check_gemm_nt_f32(name, fn, ref, s)  check_gemm_nt(name, fn, ref, s, 0)
#define check_gemm_nt_bf16(name, fn, ref, s) check_gemm_nt(name, fn, ref, s, 1)
#define check_gemm_nt_f16(name, fn, ref, s)  check_gemm_nt(name, fn, ref, s, 2)
#define check_pack_f32(name, fn, ref, s)     check_pack_w(name, fn, ref, s, 0)
#define check_pack_bf16(name, fn, ref, s)    check_pack_w(name, fn, ref, s, 1)
#define check_pack_f16(name, fn, ref, s)     check_pack_w(name, fn, ref, s, 2)

/* ---- Accuracy of what everything else is compared with -------------------------------------- */

/* Error of bal_exp_ref against exp in double, in units of the last place of the result. */
static double exp_error_ulp(float x)
{
    const double exact = exp((double)x);
    const float nearest = (float)exact;
    if (!(nearest < INFINITY)) return bal_exp_ref(x) == nearest ? 0 : 1e9;
    int e;
    frexp(exact, &e);
    return fabs((double)bal_exp_ref(x) - exact) / ldexp(1.0, e < -125 ? -149 : e - 24);
}

static int check_exp(void)
{
    double worst = 0;
    float at = 0;
    for (float x = -105.0f; x < 90.0f; x += 0x1p-13f) {
        const double e = exp_error_ulp(x);
        if (e > worst) worst = e, at = x;
    }
    const bool exact = bal_exp_ref(0.0f) == 1.0f && bal_exp_ref(-INFINITY) == 0.0f &&
                       bal_exp_ref(INFINITY) == INFINITY && isnan(bal_exp_ref(NAN));
    printf("%s exp: at most %.3f ulp (at %a)\n", worst <= 2 && exact ? "ok  " : "FAIL", worst,
           (double)at);
    return !(worst <= 2 && exact);
}

/* ---- The list ------------------------------------------------------------------------------ */

/* Runs all trials of one variant; 1 on failure. */
#define RUN(op, variant, text)                                                                     \
    do {                                                                                           \
        bool ok = true;                                                                            \
        bal_rng_seed(&rng, seed);                                                                  \
        for (trial = 0; trial < trials && ok; trial++)                                             \
            ok = check_##op(#op "_" #variant, bal_##op##_##variant, bal_##op##_ref, seed);         \
        if (ok) printf("ok   " #op "_" #variant text "\n");                                        \
        bad += !ok;                                                                                \
    } while (0)

/* The emulated twin of a variant: there is one for each avxvnni, avx512 and avx512vnni line. */
#if BAL_HAVE_EMULATED_AVX512
#define TWIN_ref(op)
#define TWIN_avx2(op)
#define TWIN_avxvnni(op)                                                                           \
    if (isa & BAL_ISA_AVX2 && (!filter || strstr(#op "_emulatedavxvnni", filter)))                 \
        RUN(op, emulatedavxvnni, " (written out)");
#define TWIN_avx512(op)                                                                            \
    if (!filter || strstr(#op "_emulated", filter)) RUN(op, emulated, " (in SIMDe)");
#define KERNEL(op, variant, needs) DECLARE_##variant(op)
#define DECLARE_ref(op)
#define DECLARE_avx2(op)
#define DECLARE_avxvnni(op)    bal_##op##_fn bal_##op##_emulatedavxvnni;
#define DECLARE_avx512(op)     bal_##op##_fn bal_##op##_emulated;
#define DECLARE_avx512vnni(op) bal_##op##_fn bal_##op##_emulatedvnni;
#include "kernel/kernels.def"
#undef KERNEL
#define TWIN_avx512vnni(op)                                                                        \
    if (!filter || strstr(#op "_emulatedvnni", filter)) RUN(op, emulatedvnni, " (in SIMDe)");
#define TWIN(op, variant) TWIN_##variant(op)
#else
#define TWIN(op, variant)
#endif

static int check_list(uint64_t seed, const char *filter, unsigned isa)
{
    int bad = 0;
#define KERNEL(op, variant, needs)                                                                 \
    if (!filter || strstr(#op "_" #variant, filter)) {                                             \
        if ((isa & (needs)) == (needs))                                                            \
            RUN(op, variant, "");                                                                  \
        else                                                                                       \
            printf("skip " #op "_" #variant ": this processor lacks it\n");                        \
    }                                                                                              \
    TWIN(op, variant)
#include "kernel/kernels.def"
#undef KERNEL
    return bad;
}

/* Every pointer is set with each subset of levels, none included. */
static int check_table(unsigned isa)
{
    for (unsigned mask = 0; mask <= isa; mask++) {
        if ((mask & isa) != mask) continue;
        union {
            bal_kernels t;
            void *p[sizeof(bal_kernels) / sizeof(void *)];
        } u;
        memset(&u, 0, sizeof u);
        bal_kernels_init(&u.t, mask);
        for (size_t j = 0; j < sizeof u.p / sizeof *u.p; j++)
            if (!u.p[j]) {
                printf("FAIL table: no kernel at slot %zu for mask %u\n", j, mask);
                return 1;
            }
    }
    return 0;
}

/* Takes the level and those above it out of *isa. */
static bool switch_off(unsigned *isa, const char *level)
{
    bal_error err;
    unsigned mask, top = 1;
    if (bal_isa_from_name(&mask, level, &err) != BAL_OK || !mask) return false;
    while (top <= mask / 2) top *= 2; /* its own bit: those below are lower */
    *isa &= mask - top;
    return true;
}

static int usage(const char *arg)
{
    fprintf(stderr,
            "unknown or incomplete argument '%s'\nusage: test_kernels [--seed N] [--filter TEXT] "
            "[--trials N] [--isa-off LEVEL] [--isa-is LEVEL]\nlevels: " BAL_ISA_LEVELS "\n",
            arg);
    return 2;
}

int main(int argc, char **argv)
{
    uint64_t seed = 1;
    const char *filter = NULL, *want = NULL;
    unsigned isa = bal_cpu_isa();
    for (int i = 1; i < argc; i += 2) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (!value) return usage(argv[i]);
        if (!strcmp(argv[i], "--seed"))
            seed = strtoull(value, NULL, 0);
        else if (!strcmp(argv[i], "--filter"))
            filter = value;
        else if (!strcmp(argv[i], "--trials"))
            trials = atoi(value);
        else if (!strcmp(argv[i], "--isa-off") && switch_off(&isa, value))
            continue;
        else if (!strcmp(argv[i], "--isa-is"))
            want = value;
        else
            return usage(argv[i]);
    }
    setvbuf(stdout, NULL, _IOLBF, 0); /* a kernel that faults leaves the list up to it */
    printf("seed %llu, %d trials each\n", (unsigned long long)seed, trials);
    int bad = want && strcmp(bal_isa_name(isa), want);
    if (bad) printf("FAIL detection: %s, expected %s\n", bal_isa_name(isa), want);
    bad += check_list(seed, filter, isa) + check_table(isa) + (filter ? 0 : check_exp());
    if (bad) printf("%d checks failed\n", bad);
    return bad != 0;
}
