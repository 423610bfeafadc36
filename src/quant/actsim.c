/* SPDX-License-Identifier: MIT
 * Quantizes and dequantizes rows with the kernels that inference uses, in the lanes' scratch. */
#include "quant/actsim.h"

#include "base/size.h"
#include "op/linear.h"

bal_act bal_act_of(const bal_recipe *r)
{
    if (r->act != BAL_ACT_A8) return (bal_act){0};
    return (bal_act){.kind = r->act, .group = (size_t)r->act_group, .scale = r->act_scale};
}

bool bal_act_spikes(const bal_channel_stats *s)
{
    for (int m = 0; m < BAL_MODALITIES; m++) {
        double sum = 0.0, top = 0.0;
        for (int c = 0; c < s->k; c++) {
            sum += s->abs_sum[m][c];
            top = (double)s->abs_max[m][c] > top ? (double)s->abs_max[m][c] : top;
        }
        const double mean = s->count[m] ? sum / ((double)s->count[m] * s->k) : 0.0;
        if (top > BAL_A8_MAX * mean) return true;
    }
    return false;
}

bool bal_act_tail(const bal_channel_stats *s)
{
    for (int m = 0; m < BAL_MODALITIES; m++) {
        double top = 0.0;
        for (int c = 0; c < s->k; c++)
            top = (double)s->abs_max[m][c] > top ? (double)s->abs_max[m][c] : top;
        if (s->count[m] && top > BAL_SPIKE_RATIO * bal_stats_percentile(s, m, 0.999)) return true;
    }
    return false;
}

bal_act bal_act_for(const bal_recipe *r, const bal_channel_stats *s)
{
    const bal_act plain = bal_act_of(r);
    if (r->spikes == BAL_SPIKES_KEEP || plain.kind != BAL_ACT_A8) return plain;
    if (!(r->spike_rule == BAL_SPIKE_TAIL ? bal_act_tail(s) : bal_act_spikes(s))) return plain;
    return r->spikes == BAL_SPIKES_FINE ? (bal_act){.kind = BAL_ACT_A8, .group = BAL_SPIKE_GROUP}
                                        : (bal_act){0};
}

void bal_act_fix(bal_act *act, const bal_channel_stats *s, const float *scale,
                 const float clip[BAL_ACT_ROWS])
{
    float top[BAL_ACT_ROWS] = {0};
    if (act->scale == BAL_ACT_DYNAMIC) return;
    for (int m = 0; m < BAL_MODALITIES; m++)
        for (int c = 0; c < s->k; c++) {
            const float x = s->abs_max[m][c] / (scale ? scale[c] : 1.0f);
            float *to = &top[bal_act_row_of(m)];
            *to = x > *to ? x : *to;
        }
    const bool text = s->count[BAL_PROMPT] + s->count[BAL_ANSWER] > 0;
    const bool vision = s->count[BAL_VISION] > 0;
    const float both = top[0] > top[1] ? top[0] : top[1];
    const bool one = act->scale == BAL_ACT_STATIC;
    for (int i = 0; i < BAL_ACT_ROWS; i++)
        act->fixed[i] = clip[i] * (one || !text || !vision ? both : top[i]) / BAL_A8_MAX;
}

typedef struct job {
    const bal_exec *e;
    bal_act act;
    const float *s;
    const uint8_t *modality;
    float *x;
    size_t k;
} job;

static void simulate_row(const job *j, size_t row, bal_a8 *a)
{
    float *x = j->x + row * j->k;
    const int modality = j->modality ? j->modality[row] : BAL_PROMPT;
    for (size_t c = 0; j->s && c < j->k; c++) x[c] /= j->s[c];
    bal_act_quantize(j->e->kernels, &j->act, modality, x, j->k, a);
    for (size_t c = 0; c < j->k; c++)
        x[c] = a[c / BAL_UNIT].scale * (float)a[c / BAL_UNIT].q[c % BAL_UNIT];
    for (size_t c = 0; j->s && c < j->k; c++) x[c] *= j->s[c];
}

/* Scratch of a lane holds 16 rows of floats, so one row of units fits. */
static void simulate_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    for (size_t i = begin; i < end; i++) simulate_row(j, i, bal_exec_lane(j->e, lane));
}

void bal_act_simulate(const bal_exec *e, bal_act act, const float *s, const uint8_t *modality,
                      float *x, int m, int k)
{
    job j = {e, act, s, modality, x, (size_t)k};
    if (act.kind == BAL_ACT_A8) bal_pool_run(e->pool, simulate_rows, &j, (size_t)m, 4);
}
