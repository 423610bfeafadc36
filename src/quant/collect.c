/* SPDX-License-Identifier: MIT
 * Forward passes of one block over all samples: inputs and outputs of its halves to disk, channel
 * statistics, output errors. */
#include "quant/job.h"

#include "base/size.h"
#include "op/pointwise.h"

int bal_job_group_width(const bal_block_job *j, int group)
{
    return bal_layer_linear(j->layer, bal_group_table[group].first)->k;
}

static bal_status check(const bal_block_job *j, const float *x, int n, int cols, int sample,
                        const char *what, bal_error *err)
{
    const long bad = bal_first_not_finite(x, (size_t)n * (size_t)cols);
    if (bad < 0) return BAL_OK;
    return bal_fail(err, BAL_E_NUMERIC,
                    "layer %d, %s: NaN or Inf in sample %d at position %ld, channel %ld", j->index,
                    what, sample, bad / cols, bad % cols);
}

static const char *const input_name[BAL_GROUPS] = {"input of q, k and v", "input of o_proj",
                                                   "input of gate and up", "input of down_proj"};

static bal_status keep_input(bal_block_job *j, int group, const float *x, int sample,
                             bal_error *err)
{
    const bal_sample *s = &j->samples->items[sample];
    BAL_TRY(check(j, x, s->n, bal_job_group_width(j, group), sample, input_name[group], err));
    if (!j->samples->rank) bal_stats_add(&j->stats[group], j->e->pool, x, s->modality, s->n);
    return bal_store_write(&j->x[group], sample, x, err);
}

static bal_status keep_output(bal_block_job *j, int sub, int sample, bal_error *err)
{
    static const char *const name[BAL_SUBS] = {"output of o_proj", "output of down_proj"};
    const int n = j->samples->items[sample].n;
    BAL_TRY(check(j, j->out, n, j->c->hidden, sample, name[sub], err));
    return bal_store_write(&j->ref[sub], sample, j->out, err);
}

static bool wants(unsigned groups, int group)
{
    return groups >> group & 1u;
}

/* Attention half: h -> norm, out, and h += out. */
static bal_status attn_half(bal_block_job *j, int sample, unsigned groups, bool keep_ref,
                            bal_error *err)
{
    const int n = j->samples->items[sample].n;
    bal_decoder_buf *b = &j->pass.buf;
    bal_rms_norm(j->e, j->h, j->trial.attn_norm, j->c->rms_eps, n, j->c->hidden, b->norm);
    if (wants(groups, BAL_GROUP_QKV)) BAL_TRY(keep_input(j, BAL_GROUP_QKV, b->norm, sample, err));
    if (groups <= 1u << BAL_GROUP_QKV && !keep_ref) return BAL_OK;
    bal_pass_place(&j->pass, &j->samples->items[sample]);
    bal_probe_attn(j->e, j->c, &j->trial, n, b->norm, &j->probe, &j->pass, j->out);
    if (wants(groups, BAL_GROUP_O)) BAL_TRY(keep_input(j, BAL_GROUP_O, b->ctx, sample, err));
    if (keep_ref) BAL_TRY(keep_output(j, BAL_SUB_ATTN, sample, err));
    bal_add(j->e, j->h, j->out, (size_t)n * (size_t)j->c->hidden);
    return BAL_OK;
}

static bal_status mlp_half(bal_block_job *j, int sample, unsigned groups, bool keep_ref,
                           bal_error *err)
{
    const int n = j->samples->items[sample].n;
    bal_decoder_buf *b = &j->pass.buf;
    bal_rms_norm(j->e, j->h, j->trial.mlp_norm, j->c->rms_eps, n, j->c->hidden, b->norm);
    if (wants(groups, BAL_GROUP_GATE_UP))
        BAL_TRY(keep_input(j, BAL_GROUP_GATE_UP, b->norm, sample, err));
    if (groups <= 1u << BAL_GROUP_GATE_UP && !keep_ref) return BAL_OK;
    bal_probe_mlp(j->e, j->c, &j->trial, n, b->norm, &j->pass, j->out);
    if (wants(groups, BAL_GROUP_DOWN)) BAL_TRY(keep_input(j, BAL_GROUP_DOWN, b->act, sample, err));
    return keep_ref ? keep_output(j, BAL_SUB_MLP, sample, err) : BAL_OK;
}

/* What the ranks have written becomes whole, and the statistics are of all samples in order. */
static bal_status join(bal_block_job *j, unsigned groups, bool keep_ref, bal_error *err)
{
    bal_rank *rank = j->samples->rank;
    if (!rank) return BAL_OK;
    for (int i = 0; keep_ref && i < BAL_SUBS; i++)
        BAL_TRY(bal_store_join(&j->ref[i], rank, j->want, err));
    for (int g = 0; g < BAL_GROUPS; g++) {
        if (!wants(groups, g)) continue;
        BAL_TRY(bal_store_join(&j->x[g], rank, j->rows, err));
        for (int i = 0; i < j->samples->n; i++) {
            const bal_sample *s = &j->samples->items[i];
            BAL_TRY(bal_store_read(&j->x[g], i, j->rows, err));
            bal_stats_add(&j->stats[g], j->e->pool, j->rows, s->modality, s->n);
        }
    }
    return BAL_OK;
}

bal_status bal_job_collect(bal_block_job *j, const bal_store *in, unsigned groups, bool keep_ref,
                           bal_error *err)
{
    for (int g = 0; g < BAL_GROUPS; g++)
        if (wants(groups, g)) bal_stats_clear(&j->stats[g]);
    for (int i = 0; i < j->samples->n; i++) {
        if (!bal_rank_owns(j->samples->rank, i)) continue;
        BAL_TRY(bal_store_read(in, i, j->h, err));
        BAL_TRY(check(j, j->h, j->samples->items[i].n, j->c->hidden, i, "block input", err));
        BAL_TRY(attn_half(j, i, groups, keep_ref, err));
        if (groups > 1u << BAL_GROUP_O || keep_ref) BAL_TRY(mlp_half(j, i, groups, keep_ref, err));
    }
    return join(j, groups, keep_ref, err);
}

bal_status bal_job_sum(bal_block_job *j, int which, const bool *judges, const double *weight,
                       bal_error_sums *sums, bal_error *err)
{
    const bal_samples *all = j->samples;
    *sums = (bal_error_sums){0};
    BAL_TRY(bal_rank_join_samples(all->rank, j->tally[which], j->ref[0].row0, all->n,
                                  sizeof *j->tally[which], err));
    for (int i = 0; i < all->n; i++) {
        const bal_sample *s = &all->items[i];
        if (judges && !judges[i]) continue;
        bal_error_sums_rows(sums, j->tally[which] + bal_job_row0(j, i), s->n, s->modality, weight);
    }
    return BAL_OK;
}

/* Compares j->out with the float output of sub-block `sub`, which is left in j->want. */
static bal_status compare(bal_block_job *j, int sub, int sample, bool ref, bal_error *err)
{
    const int n = j->samples->items[sample].n, cols = j->c->hidden;
    const size_t row0 = bal_job_row0(j, sample);
    BAL_TRY(bal_store_read(&j->ref[sub], sample, j->want, err));
    bal_row_errors(j->e->pool, j->want, j->out, n, cols, j->tally[sub] + row0);
    if (ref) bal_row_errors(j->e->pool, j->want, NULL, n, cols, j->tally[BAL_SUBS + sub] + row0);
    return BAL_OK;
}

bal_status bal_job_errors(bal_block_job *j, bal_error_sums errors[BAL_SUBS], bal_error_sums *ref,
                          bal_error *err)
{
    bal_decoder_buf *b = &j->pass.buf;
    for (int i = 0; i < j->samples->n; i++) {
        if (!bal_rank_owns(j->samples->rank, i)) continue;
        const int n = j->samples->items[i].n, hidden = j->c->hidden;
        BAL_TRY(bal_store_read(j->in_float, i, j->h, err));
        bal_rms_norm(j->e, j->h, j->trial.attn_norm, j->c->rms_eps, n, hidden, b->norm);
        bal_pass_place(&j->pass, &j->samples->items[i]);
        bal_probe_attn(j->e, j->c, &j->trial, n, b->norm, &j->probe, &j->pass, j->out);
        BAL_TRY(compare(j, BAL_SUB_ATTN, i, ref != NULL, err));
        bal_add(j->e, j->h, j->want, (size_t)n * (size_t)hidden);
        bal_rms_norm(j->e, j->h, j->trial.mlp_norm, j->c->rms_eps, n, hidden, b->norm);
        bal_probe_mlp(j->e, j->c, &j->trial, n, b->norm, &j->pass, j->out);
        BAL_TRY(compare(j, BAL_SUB_MLP, i, ref != NULL, err));
    }
    for (int sub = 0; sub < BAL_SUBS; sub++) {
        BAL_TRY(bal_job_sum(j, sub, NULL, NULL, &errors[sub], err));
        if (ref) BAL_TRY(bal_job_sum(j, BAL_SUBS + sub, NULL, NULL, &ref[sub], err));
    }
    return BAL_OK;
}
