/* SPDX-License-Identifier: MIT
 * A float is NaN or Inf when all bits of its exponent are set, so nothing needs to be converted.
 * Tensors stand on any address: values are copied out in pieces. */
#include "quant/finite.h"

#include "base/size.h"

#include <string.h>

enum { PIECE = 4096 };

/* First element of n whose bits under `mask` are all set, or -1. The first loop has no branch, is
 * vectorized and nearly always the only one. */
static long first_u16(const uint16_t *x, size_t n, uint16_t mask)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) bad |= (x[i] & mask) == mask;
    for (size_t i = 0; bad && i < n; i++)
        if ((x[i] & mask) == mask) return (long)i;
    return -1;
}

static long first_u32(const uint32_t *x, size_t n, uint32_t mask)
{
    unsigned bad = 0;
    for (size_t i = 0; i < n; i++) bad |= (x[i] & mask) == mask;
    for (size_t i = 0; bad && i < n; i++)
        if ((x[i] & mask) == mask) return (long)i;
    return -1;
}

static long first_in_piece(bal_st_dtype dtype, const uint8_t *data, size_t n)
{
    union {
        uint16_t half[PIECE];
        uint32_t single[PIECE];
    } buf;
    if (dtype == BAL_ST_F32) {
        memcpy(buf.single, data, n * sizeof *buf.single);
        return first_u32(buf.single, n, 0x7f800000u);
    }
    memcpy(buf.half, data, n * sizeof *buf.half);
    return first_u16(buf.half, n, dtype == BAL_ST_BF16 ? 0x7f80u : 0x7c00u);
}

bal_status bal_check_finite(const bal_tensor_set *set, bal_error *err)
{
    for (size_t i = 0; i < set->n_tensors; i++) {
        const bal_tensor_view *t = &set->tensors[i];
        if (t->dtype != BAL_ST_F32 && t->dtype != BAL_ST_F16 && t->dtype != BAL_ST_BF16) continue;
        const size_t width = t->dtype == BAL_ST_F32 ? 4 : 2, n = (size_t)t->n_bytes / width;
        for (size_t at = 0; at < n; at += PIECE) {
            const long bad = first_in_piece(t->dtype, t->data + at * width, bal_min(PIECE, n - at));
            if (bad >= 0)
                return bal_fail(err, BAL_E_NUMERIC, "%.160s: tensor %.160s: NaN or Inf at %zu",
                                bal_tensor_file(set, t), t->name, at + (size_t)bad);
        }
    }
    return BAL_OK;
}
