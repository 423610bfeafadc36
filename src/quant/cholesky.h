/* SPDX-License-Identifier: MIT
 * Cholesky factor of a large symmetric matrix in half the memory of the square: the lower triangle
 * in panels of rows, factored in place by tiles of fixed size, so that the result does not depend
 * on the number of threads. The arithmetic within tiles is BLAS's and LAPACK's. */
#ifndef BAL_QUANT_CHOLESKY_H
#define BAL_QUANT_CHOLESKY_H

#include "base/pool.h"
#include "base/status.h"

enum { BAL_LOWER_TILE = 256 };

/* Panel p: rows 256 p .., each with columns 0 .. 256 (p + 1) - 1 (the last panel: k - 1). */
typedef struct bal_lower {
    int k;
    double *data;
} bal_lower;

/* Contents start undefined. */
bal_status bal_lower_create(bal_lower *l, int k, bal_error *err);
void bal_lower_destroy(bal_lower *l); /* idempotent; zeroed struct is fine */

/* Floats between rows of panel p, and its first element. */
static inline size_t bal_lower_stride(const bal_lower *l, size_t p)
{
    const size_t end = (p + 1) * BAL_LOWER_TILE;
    return end < (size_t)l->k ? end : (size_t)l->k;
}

static inline double *bal_lower_panel(const bal_lower *l, size_t p)
{
    return l->data + (size_t)BAL_LOWER_TILE * BAL_LOWER_TILE * (p * (p + 1) / 2);
}

static inline double *bal_lower_row(const bal_lower *l, size_t i)
{
    const size_t p = i / BAL_LOWER_TILE;
    return bal_lower_panel(l, p) + (i - p * BAL_LOWER_TILE) * bal_lower_stride(l, p);
}

/* A = L L^T in place; false where A (its lower triangle) is not positive definite. */
bool bal_lower_factor(bal_lower *l, bal_pool *pool);

/* d[k] = diagonal of A^-1, from the factor. */
bal_status bal_lower_inverse_diagonal(const bal_lower *l, bal_pool *pool, double *d,
                                      bal_error *err);

/* rows [n][k]: each row b becomes x with A x = b, from the factor. Serial. */
void bal_lower_solve(const bal_lower *l, double *rows, size_t n);

#endif
