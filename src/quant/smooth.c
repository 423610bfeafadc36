/* SPDX-License-Identifier: MIT
 * SmoothQuant's channel scale (Xiao et al. 2023): the range of an input channel moves into the
 * weights that read it, by a fixed exponent instead of a search. */
#include "quant/job.h"

#include <math.h>
#include <stdlib.h>

/* Largest |w| of each column over the group's linears. */
static void column_ranges(const bal_block_job *j, int group, float *top, int k)
{
    const bal_group_info *g = &bal_group_table[group];
    for (int c = 0; c < k; c++) top[c] = 0.0f;
    for (int i = g->first; i < g->first + g->count; i++) {
        const float *w = j->work.w[i];
        const int n = bal_layer_linear(&j->work.l, i)->n;
        for (int r = 0; r < n; r++)
            for (int c = 0; c < k; c++)
                top[c] = fmaxf(top[c], fabsf(w[(size_t)r * (size_t)k + (size_t)c]));
    }
}

/* s = max(max |x|^a / max |w|^(1 - a), 1e-5), both ranges at least 1e-5; every result rounded to
 * the arithmetic of the recipe. */
static void smooth_scale(const bal_block_job *j, int group, const float *columns, float *s)
{
    const bal_channel_stats *x = &j->stats[group];
    const double a = j->recipe->alpha / 100.0;
    for (int c = 0; c < x->k; c++) {
        float top = 1e-5f;
        for (int m = 0; m < BAL_MODALITIES; m++) top = fmaxf(top, x->abs_max[m][c]);
        const double w = fmax((double)columns[c], 1e-5);
        const float v = (float)(pow((double)top, a) / pow(w, 1.0 - a));
        s[c] = bal_arith_round(j->recipe->arithmetic, fmaxf(v, 1e-5f));
    }
}

bal_status bal_job_smooth(bal_block_job *j, int group, bal_group_log *log, bal_error *err)
{
    const int k = bal_job_group_width(j, group);
    const double weight[BAL_MODALITIES] = {1.0, 1.0, 1.0};
    log->k = k;
    log->mean_abs = malloc((size_t)k * sizeof(float));
    log->scale = malloc((size_t)k * sizeof(float));
    if (!log->mean_abs || !log->scale)
        return bal_nomem(err, 2 * (size_t)k * sizeof(float), "channel scales");
    column_ranges(j, group, log->mean_abs, k);
    smooth_scale(j, group, log->mean_abs, log->scale);
    bal_stats_mean_abs(&j->stats[group], weight, log->mean_abs);
    return BAL_OK;
}
