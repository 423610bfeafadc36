/* SPDX-License-Identifier: MIT
 * What solvers need of H + damp mean(diag H) I: the order of columns, the unit triangular factor
 * along it, its pivots, 1 / [H^-1]_jj, and the shift of targets (docs/numerics.md, "Error
 * feedback"). */
#ifndef BAL_QUANT_FACTOR_H
#define BAL_QUANT_FACTOR_H

#include "quant/panels.h"

typedef struct bal_factor {
    int k;
    int *order;      /* [k] the column at each position */
    bal_panels feed; /* by position: M_ij for j > i, 0 on and below the diagonal; H = M D M^T */
    double *pivot;   /* [k] D by position */
    double *inverse; /* [k] 1 / [H^-1]_jj by column, or NULL: not asked for */
    double damp;     /* fraction of the mean diagonal that was added */
} bal_factor;

/* BY_SIZE: columns in the order of falling H_jj, equal ones by number; otherwise as they stand.
 * A matrix that is not positive definite with `damp` gets ten times as much until it is; beyond
 * 1 that is BAL_E_NUMERIC. A matrix of zeros counts as the identity. */
enum { BAL_FACTOR_BY_SIZE = 1, BAL_FACTOR_INVERSE = 2 };
bal_status bal_factor_create(bal_factor *f, const bal_exec *e, const bal_moments *m, double damp,
                             unsigned what, bal_error *err);
void bal_factor_destroy(bal_factor *f); /* idempotent; zeroed struct is fine */

/* The damped matrix itself, [k][k], rounded to f32: what descent reads. malloc'ed. */
bal_status bal_damped_matrix(float **out, const bal_moments *m, double damp, bal_error *err);

/* Right sides of the target T = W + W inputs + residual, where A = H + ridge mean(diag H) I:
 *   inputs [k][k] = part C A^-1 (NULL unless m keeps C),  residual [n_out][k] = part E A^-1 (NULL
 * unless m keeps E). malloc'ed. Solved in place: m keeps neither C nor E afterwards. */
bal_status bal_shift_create(float **inputs, float **residual, const bal_exec *e, bal_moments *m,
                            double ridge, double part, bal_error *err);

/* P of GPTAQ (Li et al., ICML 2025, arXiv 2504.02692), its correction of targets column by column:
 * P = part * triu(C U^T, 1) U with H^-1 = U^T U, by position; with H = M D M^T that is
 * triu(C M^-T, 1) D^-1 M^-1. m keeps C and is f's. Strictly upper triangular. */
bal_status bal_column_shift_create(bal_panels *p, const bal_exec *e, const bal_factor *f,
                                   const bal_moments *m, double part, bal_error *err);

#endif
