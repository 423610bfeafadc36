/* SPDX-License-Identifier: MIT
 * Definition of tile_*: what gemm_a8, gemm_w and gemm_t define for one token, read from tiles. */
#include <math.h>
#include <string.h>

#include "base/half.h"
#include "kernel/gemm_tile.h"
#include "kernel/ref/codes_ref.h"
#include "type/packed.h"

typedef enum code_kind { PLAIN, TABLE, TWO_LEVEL } code_kind;

/* One output of one panel. */
typedef struct output {
    code_kind kind;
    int bits, f;
    size_t units_per_group;
    const uint32_t *codes;
    const uint16_t *scales;
    const uint8_t *steps, *zeros;
} output;

/* What multiplies activation k of unit u, the zero point not taken off. */
static int factor(const output *o, size_t u, int k)
{
    const int q = code_at(o->bits, o->codes + u * (size_t)o->bits * 16, o->f, k);
    return o->kind == TABLE ? o->zeros[q] & (bal_table_levels(o->bits) - 1) : q;
}

static int zero_of(const output *o, size_t u)
{
    if (o->kind == TABLE) return o->zeros[16] & (bal_table_levels(o->bits) - 1);
    return o->zeros[u / o->units_per_group * 16 + (size_t)o->f];
}

static float scale_of(const output *o, size_t u)
{
    const size_t g = u / o->units_per_group, f = (size_t)o->f;
    if (o->kind == PLAIN) return bal_f16_to_f32(o->scales[16 * g + f]);
    const unsigned four = o->kind == TABLE ? o->steps[8 * g + f % 8] >> 4 * (f / 8) & 15u : 0;
    const int step = o->kind == TABLE ? bal_table_step(four) : o->steps[16 * g + f];
    return bal_f16_to_f32(o->scales[f]) * (float)step;
}

/* Activation k of token i of one unit, as a byte or of 16 bits. */
static int byte_at(const uint8_t *unit, int i, int k)
{
    return (int8_t)unit[4 * (BAL_TILE_TOKENS * (k / 4) + i) + k % 4];
}

static int word_at(const uint8_t *unit, int i, int k)
{
    int16_t q;
    memcpy(&q, unit + 4 * (BAL_TILE_TOKENS * (k / 2) + i) + 2 * (k % 2), sizeof q);
    return q;
}

static bal_tile_unit beside(const uint8_t *tile, size_t units, size_t unit_bytes, size_t u)
{
    bal_tile_unit b;
    memcpy(&b, tile + units * unit_bytes + u * sizeof b, sizeof b);
    return b;
}

static float one_a16(const output *o, size_t units, const uint8_t *tile, int i)
{
    float acc = 0.0f;
    for (size_t u = 0; u < units; u++) {
        const bal_tile_unit b = beside(tile, units, BAL_TILE_UNIT_A16, u);
        int32_t dot = -zero_of(o, u) * b.sum[i];
        for (int k = 0; k < 32; k++)
            dot += factor(o, u, k) * word_at(tile + u * BAL_TILE_UNIT_A16, i, k);
        acc = fmaf((float)dot, scale_of(o, u) * b.scale[i], acc);
    }
    return acc;
}

static float one_a8(const output *o, size_t units, size_t units_per_scale, const uint8_t *tile,
                    int i)
{
    float acc = 0.0f;
    int32_t dot = 0;
    for (size_t u = 0; u < units; u++) {
        const size_t next = u + 1;
        for (int k = 0; k < 32; k++)
            dot += (factor(o, u, k) - zero_of(o, u)) * byte_at(tile + u * BAL_TILE_UNIT_A8, i, k);
        if (next % o->units_per_group && next % units_per_scale && next % BAL_A8_SEGMENT &&
            next < units)
            continue;
        const bal_tile_unit b = beside(tile, units, BAL_TILE_UNIT_A8, u);
        acc = fmaf((float)dot, scale_of(o, u) * b.scale[i], acc);
        dot = 0;
    }
    return acc;
}

/* Output f of `panels` panels: what belongs to it. */
static output output_of(code_kind kind, int bits, size_t units, size_t units_per_group,
                        const uint32_t *codes, const uint16_t *scales, const uint8_t *steps,
                        const uint8_t *zeros, int f)
{
    const size_t p = (size_t)(f / 16), groups = (units - 1) / units_per_group + 1;
    output o = {kind, bits, f % 16, units_per_group, codes, scales, steps, zeros};
    o.codes += p * units * (size_t)bits * 16;
    o.scales += p * 16 * (kind == PLAIN ? groups : 1);
    if (kind != TABLE) o.zeros += p * 16 * groups;
    if (kind != PLAIN) o.steps += p * groups * (kind == TABLE ? 8 : 16);
    return o;
}

#define TILE_A8(bits)                                                                              \
    bal_tile_a8_fn bal_tile_a8w##bits##_ref;                                                       \
    void bal_tile_a8w##bits##_ref(size_t m, int panels, size_t units, size_t units_per_group,      \
                                  size_t units_per_scale, const uint8_t *tiles,                    \
                                  const uint32_t *codes, const uint16_t *scales,                   \
                                  const uint8_t *zeros, float *y, size_t y_stride)                 \
    {                                                                                              \
        for (int f = 0; f < 16 * panels; f++) {                                                    \
            const output o =                                                                       \
                output_of(PLAIN, bits, units, units_per_group, codes, scales, NULL, zeros, f);     \
            for (size_t i = 0; i < m; i++)                                                         \
                y[i * y_stride + (size_t)f] =                                                      \
                    one_a8(&o, units, units_per_scale,                                             \
                           tiles + i / BAL_TILE_TOKENS * bal_tile_bytes_a8(units),                 \
                           (int)(i % BAL_TILE_TOKENS));                                            \
        }                                                                                          \
    }

#define TILE_A16(name, kind, bits)                                                                 \
    bal_tile_a16_fn bal_tile_##name##_ref;                                                         \
    void bal_tile_##name##_ref(size_t m, int panels, size_t units, size_t units_per_group,         \
                               const uint8_t *tiles, const uint32_t *codes,                        \
                               const uint16_t *scales, const uint8_t *steps, const uint8_t *zeros, \
                               float *y, size_t y_stride)                                          \
    {                                                                                              \
        for (int f = 0; f < 16 * panels; f++) {                                                    \
            const output o =                                                                       \
                output_of(kind, bits, units, units_per_group, codes, scales, steps, zeros, f);     \
            for (size_t i = 0; i < m; i++)                                                         \
                y[i * y_stride + (size_t)f] =                                                      \
                    one_a16(&o, units, tiles + i / BAL_TILE_TOKENS * bal_tile_bytes_a16(units),    \
                            (int)(i % BAL_TILE_TOKENS));                                           \
        }                                                                                          \
    }

TILE_A8(2)
TILE_A8(3)
TILE_A8(4)
TILE_A8(6)
TILE_A8(8)
TILE_A16(w2, PLAIN, 2)
TILE_A16(w3, PLAIN, 3)
TILE_A16(w4, PLAIN, 4)
TILE_A16(w6, PLAIN, 6)
TILE_A16(w8, PLAIN, 8)
TILE_A16(t2, TABLE, 2)
TILE_A16(t3, TABLE, 3)
TILE_A16(t4, TABLE, 4)
TILE_A16(d4, TWO_LEVEL, 4)
