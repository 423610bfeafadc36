/* SPDX-License-Identifier: MIT
 * Sums of |d| and d^2 per modality, and the reconstruction losses made of them. Sums are double,
 * in an order that depends on shapes only: 8 interleaved partial sums a row, rows in order,
 * samples in the order of the calls. */
#ifndef BAL_QUANT_LOSSES_H
#define BAL_QUANT_LOSSES_H

#include "base/pool.h"
#include "quant/recipe.h"
#include "quant/sample.h"

typedef struct bal_error_sums {
    double abs[BAL_MODALITIES], sq[BAL_MODALITIES];
    int64_t rows[BAL_MODALITIES];
} bal_error_sums;

/* Sums of one row of d, over its columns. */
typedef struct bal_row_error {
    double abs, sq;
} bal_row_error;

/* out[n] of the rows of d = a - b (subtracted in f32; b NULL: d = a), a, b [n][cols]. Parallel over
 * rows. */
void bal_row_errors(bal_pool *pool, const float *a, const float *b, int n, int cols,
                    bal_row_error *out);
/* Adds row by row, by modality [n]; rows of a modality whose weight is 0 are left out (weight NULL:
 * none is). */
void bal_error_sums_rows(bal_error_sums *s, const bal_row_error *rows, int n,
                         const uint8_t *modality, const double *weight);
/* Both at once. work [n]. */
void bal_error_sums_add(bal_error_sums *s, bal_pool *pool, const float *a, const float *b, int n,
                        int cols, const uint8_t *modality, bal_row_error *work);

/* MBQ's loss over everything added so far. L = language rows (answers; with language text also
 * prompt), V = vision rows, C = cols:
 *   mae  (sum_L |d| + r sum_V |d|) / (C (|L| + |V|))
 *   mse  mean_L d^2 + r mean_V d^2
 * balance off: the plain mean of |d| or d^2 over all rows; balance one: r = 1. A modality without
 * rows adds nothing. */
double bal_loss_value(const bal_error_sums *s, int cols, const bal_recipe *recipe, double r);

#endif
