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
        const candidate c = {&j->quantizer[i], bal_layer_linear(j->layer, i), s};
        bal_wide_fill(&j->trial, j->e, i, candidate_row, &c);
    }
}

/* Rows that wait for a candidate to run on them: j->rows, j->want, j->tags and j->place hold n. */
typedef struct batch {
    int n, width;
    double weight[BAL_MODALITIES];
} batch;

/* Appends the rows of a sample that have weight. Rows are independent in everything but attention,
 * so the others need not be computed. */
static bal_status append_sample(bal_block_job *j, int group, int sample, batch *b, bal_error *err)
{
    const bal_sample *s = &j->samples->items[sample];
    const size_t w = (size_t)b->width, hidden = (size_t)j->c->hidden;
    const int first = b->n;
    BAL_TRY(bal_store_read(&j->x[group], sample, j->rows + (size_t)first * w, err));
    BAL_TRY(bal_store_read(&j->ref[bal_group_table[group].sub], sample,
                           j->want + (size_t)first * hidden, err));
    for (int r = first; r < first + s->n; r++) {
        const uint8_t tag = s->modality[r - first];
        if (b->weight[tag] == 0.0) continue;
        if (b->n != r) {
            memcpy(j->rows + (size_t)b->n * w, j->rows + (size_t)r * w, w * sizeof(float));
            memcpy(j->want + (size_t)b->n * hidden, j->want + (size_t)r * hidden,
                   hidden * sizeof(float));
        }
        j->tags[b->n] = tag;
        j->place[b->n++] = bal_job_row0(j, sample) + (size_t)(r - first);
    }
    return BAL_OK;
}

/* The group's linears read x / s, as the folded block will. */
static void run_candidate(bal_block_job *j, int group, const float *s, int n)
{
    const bal_act act = bal_job_act(j, group, s);
    bal_act_simulate(j->e, act, s, j->tags, j->rows, n, bal_job_group_width(j, group));
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

static void run_batch(bal_block_job *j, int group, const float *s, batch *b)
{
    if (b->n == 0) return;
    run_candidate(j, group, s, b->n);
    bal_row_errors(j->e->pool, j->want, j->out, b->n, j->c->hidden, j->sums);
    for (int i = 0; i < b->n; i++) j->tally[0][j->place[i]] = j->sums[i];
    b->n = 0;
}

bal_status bal_job_group_errors(bal_block_job *j, int group, const float *s, bal_error_sums *sums,
                                bal_error *err)
{
    batch b = {.width = bal_job_group_width(j, group)};
    const bool whole = group == BAL_GROUP_QKV; /* attention reads every row of one sample */
    bal_modality_weights(j->recipe, 1.0, b.weight);
    for (int i = 0; whole && i < BAL_MODALITIES; i++) b.weight[i] = 1.0;
    for (int i = 0; i < j->samples->n; i++) {
        if (!bal_rank_owns(j->samples->rank, i)) continue;
        BAL_TRY(append_sample(j, group, i, &b, err));
        if (whole) bal_pass_place(&j->pass, &j->samples->items[i]);
        if (whole || b.n >= BAL_JOB_BATCH) run_batch(j, group, s, &b);
    }
    run_batch(j, group, s, &b);
    return bal_job_sum(j, 0, NULL, b.weight, sums, err);
}

static bal_status candidate_loss(bal_block_job *j, int group, const float *s, double *loss,
                                 bal_error *err)
{
    bal_error_sums sums;
    BAL_TRY(bal_job_group_errors(j, group, s, &sums, err));
    *loss = bal_loss_value(&sums, j->c->hidden, j->recipe, j->ratio[bal_group_table[group].sub]);
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

static bal_status points(bal_block_job *j, int group, bal_group_log *log, const bal_panels *form,
                         bal_error *err)
{
    const bal_arith arith = j->recipe->arithmetic;
    for (int i = 0; i < BAL_SCALE_POINTS; i++) {
        bal_scale_candidate(log->mean_abs, log->k, i, BAL_SCALE_POINTS, arith, log->scale);
        if (form) {
            BAL_TRY(bal_job_proxy_loss(j, group, form, log->scale, &log->loss[i], err));
        } else {
            make_candidate(j, group, log->scale);
            BAL_TRY(candidate_loss(j, group, log->scale, &log->loss[i], err));
        }
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

bal_status bal_job_search(bal_block_job *j, int group, bal_group_log *log, bal_error *err)
{
    const bool fast = j->recipe->objective == BAL_OBJECTIVE_MOMENTS;
    bal_panels form = {0};
    BAL_TRY(make_log(j, group, log, err));
    if (fast)
        BAL_TRY(bal_job_form(j, group, &form, err));
    else
        bal_wide_copy_all(&j->trial, j->e, j->layer);
    const bal_status st = points(j, group, log, fast ? &form : NULL, err);
    bal_panels_destroy(&form);
    return st;
}
