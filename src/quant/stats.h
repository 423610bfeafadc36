/* SPDX-License-Identifier: MIT
 * Per-channel statistics of one linear input over the calibration set, kept apart by modality and
 * combined late, so that one pass serves every weighting. */
#ifndef BAL_QUANT_STATS_H
#define BAL_QUANT_STATS_H

#include "base/pool.h"
#include "quant/recipe.h"
#include "quant/sample.h"

typedef struct bal_channel_stats {
    int k;
    int64_t count[BAL_MODALITIES];
    double *abs_sum[BAL_MODALITIES]; /* [k] sum |x| */
    double *sq_sum[BAL_MODALITIES];  /* [k] sum x^2 */
    float *abs_max[BAL_MODALITIES];  /* [k] max |x| */
    /* [BAL_TAIL_BINS] how many elements have an |x| that starts with these bits; NULL: not kept */
    uint64_t *tail[BAL_MODALITIES];
} bal_channel_stats;

/* Bins of |x| by the exponent and the first 5 bits behind the point, each 1/32 of its value wide at
 * most. Counts are whole numbers, so their order is nobody's business. */
enum { BAL_TAIL_SHIFT = 18, BAL_TAIL_BINS = 1 << (31 - BAL_TAIL_SHIFT) };
/* From here on bins are counted too. */
bal_status bal_stats_keep_tail(bal_channel_stats *s, bal_error *err);
/* An |x| of modality m that `part` of all elements do not exceed, up to 1/32 above the least such;
 * 0 where nothing was seen. Bins must be kept. */
double bal_stats_percentile(const bal_channel_stats *s, int m, double part);

bal_status bal_stats_create(bal_channel_stats *s, int k, bal_error *err);
void bal_stats_destroy(bal_channel_stats *s); /* idempotent; zeroed struct is fine */
void bal_stats_clear(bal_channel_stats *s);

/* Adds rows x [n][k] with modality [n]. Parallel over channels, rows in order. */
void bal_stats_add(bal_channel_stats *s, bal_pool *pool, const float *x, const uint8_t *modality,
                   int n);

/* How much one row of each modality counts in losses and balanced statistics: all 1 with balance
 * off; answers 1, vision r (1 with balance one), prompt 0, or 1 when language is text. */
void bal_modality_weights(const bal_recipe *recipe, double r, double weight[BAL_MODALITIES]);

/* m[k] = sum_mod weight * sum |x| / sum_mod weight * count, rounded to f32 (AWQ's statistic with
 * equal weights, the balanced one otherwise). All zeros when nothing has weight. */
void bal_stats_mean_abs(const bal_channel_stats *s, const double weight[BAL_MODALITIES], float *m);

/* What one row of each modality weighs in a loss of squares over all rows of s: weight / count,
 * each modality by its own count with loss mse and balance, by the count of all rows otherwise. */
void bal_row_weights(const bal_channel_stats *s, const bal_recipe *recipe, double r,
                     double weight[BAL_MODALITIES]);

/* h[k]: balanced diag(H) = sum over modalities of weight * (sum x^2 / count), each modality
 * normalised by its own count (notes of MBQ's MSE mode); with balance off the plain mean of x^2
 * over all rows. language text pools answers and prompt before normalising. */
void bal_stats_diag(const bal_channel_stats *s, const bal_recipe *recipe, double r, double *h);

#endif
