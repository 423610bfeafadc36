/* SPDX-License-Identifier: MIT
 * An orthogonal matrix Q for rows of any width n = p m, p the largest power of two in it:
 *
 *     Q = diag(signs) (H_p / sqrt(p) (x) C_m)
 *
 * with H_p Hadamard's matrix, C_m[i][j] = (cos t + sin t) / sqrt(m), t = 2 pi i j / m (Hartley's,
 * symmetric and orthogonal), and signs from a seed. No element of Q exceeds sqrt(2 / n), so every
 * outlier is spread over the whole row. Sums are in double. Refuses widths whose odd part is so
 * large that C_m would cost more than the rotation is worth. */
#ifndef BAL_QUANT_ROTATION_H
#define BAL_QUANT_ROTATION_H

#include "base/status.h"

enum { BAL_ROTATION_MAX_ODD = 1023 };

typedef struct bal_rotation {
    int n, p, m;
    double *mix;  /* [m][m], C_m; NULL where m is 1 */
    double *sign; /* [n], 1 or -1 */
} bal_rotation;

/* The same width and seed give the same matrix. BAL_E_UNSUP: the odd part of n is above the most.
 */
bal_status bal_rotation_create(bal_rotation *r, int n, uint64_t seed, bal_error *err);
void bal_rotation_destroy(bal_rotation *r); /* idempotent; zeroed struct is fine */

/* x [n] := x Q; work [n] is scratch. */
void bal_rotation_row(const bal_rotation *r, double *x, double *work);

#endif
