/* SPDX-License-Identifier: MIT
 * Sizes that come from outside are multiplied and added only through these. */
#ifndef BAL_BASE_SIZE_H
#define BAL_BASE_SIZE_H

#include <stdbool.h>
#include <stddef.h>

/* true and *out on success, false on overflow (then *out is 0) */
static inline bool bal_size_mul(size_t a, size_t b, size_t *out)
{
    *out = 0;
    return !__builtin_mul_overflow(a, b, out) || (*out = 0, false);
}

static inline bool bal_size_add(size_t a, size_t b, size_t *out)
{
    *out = 0;
    return !__builtin_add_overflow(a, b, out) || (*out = 0, false);
}

static inline size_t bal_round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) / multiple * multiple;
}

static inline size_t bal_ceil_div(size_t n, size_t d)
{
    return (n + d - 1) / d;
}

static inline size_t bal_min(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t bal_max(size_t a, size_t b)
{
    return a > b ? a : b;
}

#endif
