/* SPDX-License-Identifier: MIT
 * AWQ's scale search with MBQ's loss. Candidate outside, samples inside: memory holds one
 * candidate's weights and one sample. {q,k,v} and {gate,up} are judged through the whole
 * sub-module, {o} and {down} at their own output; only the group is quantized. */
#include "quant/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate {
    const bal_quantizer *z;
    const bal_linear *from;
    const float *s;
} candidate;

static void candidate_row(const void *ctx, int r, float *out, float *work)
{
    const candidate *c = ctx;
    bal_linear_row(c->from, r, out);
    bal_quantize_simulate(c->z, out, c->s, c->from->k, work, out);
}

/* Of trial only the group's linears change: the rest of the sub-module keeps its float values. */
static void make_candidate(bal_block_job *j, int group, const float *s)
{
    const bal_group_info *g = &bal_group_table[group];
    for (int i = g->first; i < g->first + g->count; i++) {
        const candidate c = {&j->quantizer, bal_layer_linear(j->layer, i), s};
        bal_wide_fill(&j->trial, j->e, i, candidate_row, &c);
    }
}

/* Moves the rows that have weight to the front of x and want; returns how many. Rows are
 * independent in everything but attention, so the others need not be computed. */
static int keep_weighted(const bal_block_job *j, const bal_sample *s, const double *weight,
                         float *x, int width)
{
    int n = 0;
    const size_t w = (size_t)width, hidden = (size_t)j->c->hidden;
    for (int r = 0; r < s->n; r++) {
        if (weight[s->modality[r]] == 0.0) continue;
        if (n != r) {
            memcpy(x + (size_t)n * w, x + (size_t)r * w, w * sizeof *x);
            memcpy(j->want + (size_t)n * hidden, j->want + (size_t)r * hidden, hidden * sizeof *x);
        }
        j->tags[n++] = s->modality[r];
    }
    return n;
}

static void run_candidate(bal_block_job *j, int group, int n)
{
    switch (group) {
    case BAL_GROUP_QKV:
        bal_probe_attn(j->e, j->c, &j->trial, n, j->rows, &j->probe, &j->pass, j->out);
        break;
    case BAL_GROUP_GATE_UP:
        bal_probe_mlp(j->e, j->c, &j->trial, n, j->rows, &j->pass, j->out);
        break;
    default: bal_probe_linear(j->e, &j->trial.w[bal_group_table[group].first], j->rows, n, j->out);
    }
}

static bal_status candidate_loss(bal_block_job *j, int group, double *loss, bal_error *err)
{
    const int sub = bal_group_table[group].sub, width = bal_job_group_width(j, group);
    double weight[BAL_MODALITIES];
    bal_error_sums sums = {0};
    bal_modality_weights(j->recipe, 1.0, weight);
    if (group == BAL_GROUP_QKV) /* attention reads every row */
        for (int i = 0; i < BAL_MODALITIES; i++) weight[i] = 1.0;
    for (int i = 0; i < j->samples->n; i++) {
        const bal_sample *s = &j->samples->items[i];
        BAL_TRY(bal_store_read(&j->x[group], i, j->rows, err));
        BAL_TRY(bal_store_read(&j->ref[sub], i, j->want, err));
        const int n = keep_weighted(j, s, weight, j->rows, width);
        if (n == 0) continue;
        run_candidate(j, group, n);
        bal_error_sums_add(&sums, j->e->pool, j->want, j->out, n, j->c->hidden, j->tags, j->sums);
    }
    *loss = bal_loss_value(&sums, j->c->hidden, j->recipe, j->ratio[sub]);
    return BAL_OK;
}

static bal_status make_log(const bal_block_job *j, int group, bal_group_log *log, bal_error *err)
{
    const int k = bal_job_group_width(j, group);
    double weight[BAL_MODALITIES] = {1.0, 1.0, 1.0};
    log->k = k;
    log->mean_abs = malloc((size_t)k * sizeof(float));
    log->scale = malloc((size_t)k * sizeof(float));
    if (!log->mean_abs || !log->scale)
        return bal_nomem(err, 2 * (size_t)k * sizeof(float), "channel scales");
    if (j->recipe->statistic == BAL_STATISTIC_BALANCED)
        bal_modality_weights(j->recipe, j->ratio[bal_group_table[group].sub], weight);
    bal_stats_mean_abs(&j->stats[group], weight, log->mean_abs);
    return BAL_OK;
}

bal_status bal_job_search(bal_block_job *j, int group, bal_group_log *log, bal_error *err)
{
    const bal_arith arith = j->recipe->arithmetic;
    BAL_TRY(make_log(j, group, log, err));
    bal_wide_copy_all(&j->trial, j->e, j->layer);
    for (int i = 0; i < BAL_SCALE_POINTS; i++) {
        bal_scale_candidate(log->mean_abs, log->k, i, BAL_SCALE_POINTS, arith, log->scale);
        make_candidate(j, group, log->scale);
        BAL_TRY(candidate_loss(j, group, &log->loss[i], err));
        if (!isfinite(log->loss[0]))
            return bal_fail(err, BAL_E_NUMERIC, "layer %d, %s: the loss of plain rounding is %g",
                            j->index, bal_group_table[group].name, log->loss[0]);
        if (log->loss[i] < log->loss[log->best]) log->best = i;
        BAL_TRY(bal_job_step(j, "scale search", err));
    }
    bal_scale_candidate(log->mean_abs, log->k, log->best, BAL_SCALE_POINTS, arith, log->scale);
    log->searched = true;
    return BAL_OK;
}
