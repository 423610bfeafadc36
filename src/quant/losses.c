/* SPDX-License-Identifier: MIT
 * Sums of errors row by row in parallel, then over rows in order: results do not depend on the
 * number of threads. The formulas are in losses.h. */
#include "quant/losses.h"

#include "quant/stats.h"

#include <math.h>

enum { LANES = 8 };

typedef struct job {
    const float *a, *b;
    int cols;
    bal_row_error *out; /* [n] */
} job;

static void fold_lanes(const double *lane, double *out)
{
    *out =
        ((lane[0] + lane[4]) + (lane[2] + lane[6])) + ((lane[1] + lane[5]) + (lane[3] + lane[7]));
}

static void row_sums(const float *a, const float *b, int cols, bal_row_error *out)
{
    double abs[LANES] = {0}, sq[LANES] = {0};
    int c = 0;
    for (; c + LANES <= cols; c += LANES)
        for (int l = 0; l < LANES; l++) {
            const double d = fabsf(b ? a[c + l] - b[c + l] : a[c + l]);
            abs[l] += d;
            sq[l] += d * d;
        }
    for (int l = 0; c < cols; c++, l++) {
        const double d = fabsf(b ? a[c] - b[c] : a[c]);
        abs[l] += d;
        sq[l] += d * d;
    }
    fold_lanes(abs, &out->abs);
    fold_lanes(sq, &out->sq);
}

static void rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const job *j = ctx;
    for (size_t r = begin; r < end; r++) {
        const size_t at = r * (size_t)j->cols;
        row_sums(j->a + at, j->b ? j->b + at : NULL, j->cols, &j->out[r]);
    }
}

void bal_row_errors(bal_pool *pool, const float *a, const float *b, int n, int cols,
                    bal_row_error *out)
{
    job j = {a, b, cols, out};
    bal_pool_run(pool, rows, &j, (size_t)n, 16);
}

void bal_error_sums_rows(bal_error_sums *s, const bal_row_error *row, int n,
                         const uint8_t *modality, const double *weight)
{
    for (int r = 0; r < n; r++) {
        const uint8_t m = modality[r];
        if (weight && weight[m] == 0.0) continue;
        s->abs[m] += row[r].abs;
        s->sq[m] += row[r].sq;
        s->rows[m]++;
    }
}

void bal_error_sums_add(bal_error_sums *s, bal_pool *pool, const float *a, const float *b, int n,
                        int cols, const uint8_t *modality, bal_row_error *work)
{
    bal_row_errors(pool, a, b, n, cols, work);
    bal_error_sums_rows(s, work, n, modality, NULL);
}

static double mean(double sum, int64_t rows_in, int cols)
{
    return rows_in > 0 ? sum / ((double)rows_in * cols) : 0.0;
}

double bal_loss_value(const bal_error_sums *s, int cols, const bal_recipe *recipe, double r)
{
    double weight[BAL_MODALITIES];
    bal_modality_weights(recipe, r, weight);
    const bool mae = recipe->loss == BAL_LOSS_MAE, prompt = weight[BAL_PROMPT] > 0.0;
    const double *sum = mae ? s->abs : s->sq;
    const double language = sum[BAL_ANSWER] + (prompt ? sum[BAL_PROMPT] : 0.0);
    const double vision = weight[BAL_VISION] * sum[BAL_VISION];
    const int64_t n_language = s->rows[BAL_ANSWER] + (prompt ? s->rows[BAL_PROMPT] : 0);
    if (mae || recipe->balance == BAL_BALANCE_OFF)
        return mean(language + vision, n_language + s->rows[BAL_VISION], cols);
    return mean(language, n_language, cols) + mean(vision, s->rows[BAL_VISION], cols);
}
