/* SPDX-License-Identifier: MIT
 * Quantizes and dequantizes rows with the kernels that inference uses, in the lanes' scratch. */
#include "quant/actsim.h"

#include "base/size.h"
#include "type/packed.h"

bal_act bal_act_of(const bal_recipe *r)
{
    return (bal_act){r->act, r->act == BAL_ACT_A8 ? (size_t)r->act_group : 0};
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
    return r->spikes == BAL_SPIKES_FINE ? (bal_act){BAL_ACT_A8, BAL_SPIKE_GROUP}
                                        : (bal_act){BAL_ACT_A16, 0};
}

typedef struct job {
    const bal_exec *e;
    bal_act act;
    const float *s;
    float *x;
    size_t k;
} job;

static void simulate_row(const job *j, float *x, bal_a8 *a)
{
    for (size_t c = 0; j->s && c < j->k; c++) x[c] /= j->s[c];
    j->e->kernels->quant_a8(x, j->k, j->act.group, a);
    for (size_t c = 0; c < j->k; c++)
        x[c] = a[c / BAL_UNIT].scale * (float)a[c / BAL_UNIT].q[c % BAL_UNIT];
    for (size_t c = 0; j->s && c < j->k; c++) x[c] *= j->s[c];
}

/* Scratch of a lane holds 16 rows of floats, so one row of units fits. */
static void simulate_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    for (size_t i = begin; i < end; i++)
        simulate_row(j, j->x + i * j->k, bal_exec_lane(j->e, lane));
}

void bal_act_simulate(const bal_exec *e, bal_act act, const float *s, float *x, int m, int k)
{
    job j = {e, act, s, x, (size_t)k};
    if (act.kind == BAL_ACT_A8) bal_pool_run(e->pool, simulate_rows, &j, (size_t)m, 4);
}
