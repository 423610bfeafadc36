/* SPDX-License-Identifier: MIT
 * Channel sums per modality: work is split over channels, rows are added in order, so results do
 * not depend on the number of threads. Weighting happens when sums are read. */
#include "quant/stats.h"

#include "base/half.h"
#include "base/size.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { CHANNELS = 64 }; /* a work item: a few cache lines of every row */

bal_status bal_stats_create(bal_channel_stats *s, int k, bal_error *err)
{
    *s = (bal_channel_stats){.k = k};
    const size_t n = (size_t)k;
    bool ok = true;
    for (int i = 0; i < BAL_MODALITIES; i++) {
        s->abs_sum[i] = calloc(n, sizeof(double));
        s->sq_sum[i] = calloc(n, sizeof(double));
        s->abs_max[i] = calloc(n, sizeof(float));
        ok = ok && s->abs_sum[i] && s->sq_sum[i] && s->abs_max[i];
    }
    if (ok) return BAL_OK;
    bal_stats_destroy(s);
    return bal_nomem(err, BAL_MODALITIES * n * 20, "channel statistics");
}

void bal_stats_destroy(bal_channel_stats *s)
{
    for (int i = 0; i < BAL_MODALITIES; i++) {
        free(s->abs_sum[i]);
        free(s->sq_sum[i]);
        free(s->abs_max[i]);
        free(s->tail[i]);
    }
    *s = (bal_channel_stats){0};
}

void bal_stats_clear(bal_channel_stats *s)
{
    for (int i = 0; i < BAL_MODALITIES; i++) {
        memset(s->abs_sum[i], 0, (size_t)s->k * sizeof(double));
        memset(s->sq_sum[i], 0, (size_t)s->k * sizeof(double));
        memset(s->abs_max[i], 0, (size_t)s->k * sizeof(float));
        if (s->tail[i]) memset(s->tail[i], 0, BAL_TAIL_BINS * sizeof *s->tail[i]);
        s->count[i] = 0;
    }
}

typedef struct job {
    bal_channel_stats *s;
    const float *x;
    const uint8_t *modality;
    int n;
} job;

static void add_channels(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const job *j = ctx;
    const size_t k = (size_t)j->s->k, first = begin * CHANNELS, last = bal_min(end * CHANNELS, k);
    for (int r = 0; r < j->n; r++) {
        const float *x = j->x + (size_t)r * k;
        double *abs_sum = j->s->abs_sum[j->modality[r]], *sq_sum = j->s->sq_sum[j->modality[r]];
        float *abs_max = j->s->abs_max[j->modality[r]];
        for (size_t c = first; c < last; c++) {
            const float a = fabsf(x[c]);
            abs_sum[c] += (double)a;
            sq_sum[c] += (double)a * (double)a;
            abs_max[c] = a > abs_max[c] ? a : abs_max[c];
        }
    }
}

static void count_row(uint64_t *bins, const float *x, int k)
{
    for (int c = 0; c < k; c++) bins[(bal_f32_bits(x[c]) & 0x7fffffffu) >> BAL_TAIL_SHIFT]++;
}

void bal_stats_add(bal_channel_stats *s, bal_pool *pool, const float *x, const uint8_t *modality,
                   int n)
{
    job j = {s, x, modality, n};
    for (int r = 0; r < n; r++) s->count[modality[r]]++;
    bal_pool_run(pool, add_channels, &j, bal_ceil_div((size_t)s->k, CHANNELS), 1);
    for (int r = 0; s->tail[0] && r < n; r++)
        count_row(s->tail[modality[r]], x + (size_t)r * (size_t)s->k, s->k);
}

bal_status bal_stats_keep_tail(bal_channel_stats *s, bal_error *err)
{
    for (int i = 0; i < BAL_MODALITIES; i++) {
        s->tail[i] = calloc(BAL_TAIL_BINS, sizeof *s->tail[i]);
        if (!s->tail[i]) return bal_nomem(err, BAL_TAIL_BINS * sizeof *s->tail[i], "percentiles");
    }
    return BAL_OK;
}

double bal_stats_percentile(const bal_channel_stats *s, int m, double part)
{
    const double want = part * (double)s->count[m] * s->k;
    double seen = 0.0;
    for (uint32_t bin = 0; s->count[m] > 0 && bin < BAL_TAIL_BINS; bin++) {
        seen += (double)s->tail[m][bin];
        if (seen >= want) return (double)bal_f32_from_bits((bin + 1) << BAL_TAIL_SHIFT);
    }
    return 0.0;
}

void bal_modality_weights(const bal_recipe *recipe, double r, double weight[BAL_MODALITIES])
{
    const bool off = recipe->balance == BAL_BALANCE_OFF;
    weight[BAL_ANSWER] = 1.0;
    weight[BAL_VISION] = recipe->balance == BAL_BALANCE_GRADIENT ? r : 1.0;
    weight[BAL_PROMPT] = off || recipe->language == BAL_LANGUAGE_TEXT ? 1.0 : 0.0;
}

void bal_stats_mean_abs(const bal_channel_stats *s, const double weight[BAL_MODALITIES], float *m)
{
    double count = 0.0;
    for (int i = 0; i < BAL_MODALITIES; i++) count += weight[i] * (double)s->count[i];
    for (int c = 0; c < s->k; c++) {
        double sum = 0.0;
        for (int i = 0; i < BAL_MODALITIES; i++) sum += weight[i] * s->abs_sum[i][c];
        m[c] = count > 0.0 ? (float)(sum / count) : 0.0f;
    }
}

void bal_row_weights(const bal_channel_stats *s, const bal_recipe *recipe, double r,
                     double weight[BAL_MODALITIES])
{
    const bool means = recipe->loss == BAL_LOSS_MSE && recipe->balance != BAL_BALANCE_OFF;
    double language = 0.0, all = 0.0;
    bal_modality_weights(recipe, r, weight);
    for (int i = 0; i < BAL_MODALITIES; i++) {
        if (i != BAL_VISION && weight[i] > 0.0) language += (double)s->count[i];
        all += (double)s->count[i];
    }
    for (int i = 0; i < BAL_MODALITIES; i++) {
        const double n = !means ? all : i == BAL_VISION ? (double)s->count[i] : language;
        weight[i] = n > 0.0 ? weight[i] / n : 0.0;
    }
}

void bal_stats_diag(const bal_channel_stats *s, const bal_recipe *recipe, double r, double *h)
{
    double weight[BAL_MODALITIES], per_row[BAL_MODALITIES];
    double all = 0.0, language = 0.0;
    bal_modality_weights(recipe, r, weight);
    for (int i = 0; i < BAL_MODALITIES; i++) {
        all += (double)s->count[i];
        if (i != BAL_VISION && weight[i] > 0.0) language += (double)s->count[i];
    }
    for (int i = 0; i < BAL_MODALITIES; i++) {
        double n = i == BAL_VISION ? (double)s->count[i] : language;
        if (recipe->balance == BAL_BALANCE_OFF) n = all;
        per_row[i] = n > 0.0 ? weight[i] / n : 0.0;
    }
    for (int c = 0; c < s->k; c++) {
        h[c] = 0.0;
        for (int i = 0; i < BAL_MODALITIES; i++) h[c] += per_row[i] * s->sq_sum[i][c];
    }
}
