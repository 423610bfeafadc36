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

/* Adds d = a - b (subtracted in f32; b NULL: d = a), a, b [n][cols], by modality [n].
 * work [2 * n]. Parallel over rows. */
void bal_error_sums_add(bal_error_sums *s, bal_pool *pool, const float *a, const float *b, int n,
                        int cols, const uint8_t *modality, double *work);

/* MBQ's loss over everything added so far. L = language rows (answers; with language text also
 * prompt), V = vision rows, C = cols:
 *   mae  (sum_L |d| + r sum_V |d|) / (C (|L| + |V|))
 *   mse  mean_L d^2 + r mean_V d^2
 * balance off: the plain mean of |d| or d^2 over all rows; balance one: r = 1. A modality without
 * rows adds nothing. */
double bal_loss_value(const bal_error_sums *s, int cols, const bal_recipe *recipe, double r);

#endif
