/* SPDX-License-Identifier: MIT
 * AWQ's scale search with MBQ's loss. Candidate outside, samples inside: memory holds one
 * candidate's weights and one sample. {q,k,v} and {gate,up} are judged through the whole
 * sub-module, {o} and {down} at their own output; only the group is quantized. */
#include "quant/job.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct candidate_job {
    const bal_block_job *j;
    const bal_linear *from;
    const float *s;
    float *out;
} candidate_job;

static void candidate_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const candidate_job *c = ctx;
    const size_t k = (size_t)c->from->k;
    float *row = c->j->lanes + 2 * (size_t)lane * (size_t)c->j->widest;
    for (size_t r = begin; r < end; r++) {
        bal_linear_row(c->from, (int)r, row);
        bal_quantize_simulate(&c->j->quantizer, row, c->s, (int)k, row + c->j->widest,
                              c->out + r * k);
    }
}

/* The block with only this group quantized: its weights live in trial's memory. */
static bal_decoder_layer make_candidate(bal_block_job *j, int group, const float *s)
{
    const bal_group_info *g = &bal_group_table[group];
    bal_decoder_layer l = *j->layer;
    for (int i = g->first; i < g->first + g->count; i++) {
        const bal_linear *from = bal_layer_linear(j->layer, i);
        candidate_job c = {j, from, s, j->trial.w[i]};
        bal_pool_run(j->e->pool, candidate_rows, &c, (size_t)from->n, 4);
        *bal_decoder_linear(&l, i) = bal_decoder_linear(&j->trial.l, i)[0];
        bal_decoder_linear(&l, i)->bias = from->bias;
    }
    return l;
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

static void run_candidate(bal_block_job *j, int group, const bal_decoder_layer *l, int n)
{
    const size_t hidden = (size_t)j->c->hidden;
    const bal_rows rows = bal_pass_rows(&j->pass, n);
    switch (group) {
    case BAL_GROUP_QKV:
        bal_decoder_attn(j->e, j->c, l, &rows, j->rows, &j->pass.buf, j->out);
        break;
    case BAL_GROUP_GATE_UP: bal_decoder_mlp(j->e, j->c, l, n, j->rows, &j->pass.buf, j->out); break;
    case BAL_GROUP_O:
        bal_linear_forward(j->e, &l->o, j->rows, (size_t)l->o.k, n, j->out, hidden);
        break;
    default: bal_linear_forward(j->e, &l->down, j->rows, (size_t)l->down.k, n, j->out, hidden);
    }
}

static bal_status candidate_loss(bal_block_job *j, int group, const bal_decoder_layer *l,
                                 double *loss, bal_error *err)
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
        run_candidate(j, group, l, n);
        bal_error_sums_add(&sums, j->e->pool, j->want, j->out, n, j->c->hidden, j->tags, j->sums);
    }
    *loss = bal_loss_value(&sums, j->c->hidden, j->recipe, j->ratio[sub]);
    return BAL_OK;
}

static bal_status make_log(const bal_block_job *j, int group, bal_group_log *log, bal_error *err)
{
    const int k = bal_job_group_width(j, group);
    double weight[BAL_MODALITIES] = {1.0, 1.0, 1.0};
    *log = (bal_group_log){.k = k};
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
    for (int i = 0; i < BAL_SCALE_POINTS; i++) {
        bal_scale_candidate(log->mean_abs, log->k, i, BAL_SCALE_POINTS, arith, log->scale);
        const bal_decoder_layer l = make_candidate(j, group, log->scale);
        BAL_TRY(candidate_loss(j, group, &l, &log->loss[i], err));
        if (log->loss[i] < log->loss[log->best]) log->best = i;
        BAL_TRY(bal_job_step(j, "scale search", err));
    }
    if (!isfinite(log->loss[0]))
        return bal_fail(err, BAL_E_NUMERIC, "layer %d, %s: the loss of plain rounding is %g",
                        j->index, bal_group_table[group].name, log->loss[0]);
    bal_scale_candidate(log->mean_abs, log->k, log->best, BAL_SCALE_POINTS, arith, log->scale);
    log->searched = true;
    return BAL_OK;
}
