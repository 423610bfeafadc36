/* SPDX-License-Identifier: MIT
 * Definition of gemm_t2, t3, t4, d4 and gemm_a8d4: reads single codes, steps and levels by the byte
 * map of type/packed.h. */
#include "kernel/gemm_t.h"

#include <math.h>
#include <stdbool.h>

#include "base/half.h"
#include "kernel/ref/codes_ref.h"
#include "type/packed.h"

bal_gemm_t2_fn bal_gemm_t2_ref;
bal_gemm_t3_fn bal_gemm_t3_ref;
bal_gemm_t4_fn bal_gemm_t4_ref;
bal_gemm_d4_fn bal_gemm_d4_ref;
bal_gemm_a8d4_fn bal_gemm_a8d4_ref;

/* What a code of output f in one group means; table NULL: the code is its own level. */
typedef struct group {
    const uint8_t *table;
    int mask, zero, step;
} group;

static group table_group(int bits, const uint8_t *steps, const uint8_t *table, size_t g, int f)
{
    const int mask = bal_table_levels(bits) - 1;
    const unsigned step = steps[g * 8 + (size_t)f % 8] >> 4 * (f / 8) & 15u;
    return (group){table, mask, table[16] & mask, bal_table_step(step)};
}

static group plain_group(const uint8_t *steps, const uint8_t *zeros, size_t g, int f)
{
    const size_t at = g * 16 + (size_t)f;
    return (group){.zero = zeros[at], .step = steps[at]};
}

static float gemm_one(int bits, bool table, size_t units, size_t units_per_group, const bal_a16 *a,
                      const uint32_t *codes, const uint16_t *scales, const uint8_t *steps,
                      const uint8_t *zeros, int f)
{
    float acc = 0.0f;
    for (size_t u = 0; u < units; u++) {
        const size_t at = u / units_per_group;
        const group g =
            table ? table_group(bits, steps, zeros, at, f) : plain_group(steps, zeros, at, f);
        int32_t dot = 0;
        for (int k = 0; k < 32; k++) {
            const int q = code_at(bits, codes + u * (size_t)bits * 16, f, k);
            dot += (table ? g.table[q] & g.mask : q) * (256 * a[u].hi[k] + a[u].lo[k]);
        }
        dot -= g.zero * a[u].sum;
        acc = fmaf((float)dot, bal_f16_to_f32(scales[f]) * (float)g.step * a[u].scale, acc);
    }
    return acc;
}

#define GEMM_T_REF(name, bits, table)                                                              \
    void bal_gemm_##name##_ref(int m, size_t units, size_t units_per_group, const bal_a16 *a,      \
                               size_t a_stride, const uint32_t *codes, const uint16_t *scales,     \
                               const uint8_t *steps, const uint8_t *zeros, float *y,               \
                               size_t y_stride)                                                    \
    {                                                                                              \
        for (int i = 0; i < m; i++)                                                                \
            for (int f = 0; f < BAL_GEMM_W_NR; f++)                                                \
                y[(size_t)i * y_stride + (size_t)f] =                                              \
                    gemm_one(bits, table, units, units_per_group, a + (size_t)i * a_stride, codes, \
                             scales, steps, zeros, f);                                             \
    }

GEMM_T_REF(t2, 2, true)
GEMM_T_REF(t3, 3, true)
GEMM_T_REF(t4, 4, true)
GEMM_T_REF(d4, 4, false)

static float gemm_a8_one(size_t units, size_t units_per_group, size_t units_per_scale,
                         const bal_a8 *a, const uint32_t *codes, float scale, const uint8_t *steps,
                         const uint8_t *zeros, int f)
{
    float acc = 0.0f;
    uint32_t dot = 0; /* as int32, which it is exactly unless the bytes are no weights */
    for (size_t u = 0; u < units; u++) {
        const group g = plain_group(steps, zeros, u / units_per_group, f);
        const size_t next = u + 1;
        int32_t sum = 0;
        for (int k = 0; k < 32; k++)
            sum += (code_at(4, codes + u * 4 * 16, f, k) - g.zero) * a[u].q[k];
        dot += (uint32_t)g.step * (uint32_t)sum;
        if (next % units_per_scale && next % BAL_A8_SEGMENT && next < units) continue;
        acc = fmaf((float)(int32_t)dot, scale * a[u].scale, acc);
        dot = 0;
    }
    return acc;
}

void bal_gemm_a8d4_ref(int m, size_t units, size_t units_per_group, size_t units_per_scale,
                       const bal_a8 *a, size_t a_stride, const uint32_t *codes,
                       const uint16_t *scales, const uint8_t *steps, const uint8_t *zeros, float *y,
                       size_t y_stride)
{
    for (int i = 0; i < m; i++)
        for (int f = 0; f < BAL_GEMM_A8_OUTPUTS; f++)
            y[(size_t)i * y_stride + (size_t)f] =
                gemm_a8_one(units, units_per_group, units_per_scale, a + (size_t)i * a_stride,
                            codes, bal_f16_to_f32(scales[f]), steps, zeros, f);
}
