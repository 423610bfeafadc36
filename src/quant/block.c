/* SPDX-License-Identifier: MIT
 * The order of steps for one block: references and statistics -> search -> fold -> clip -> round ->
 * errors. Of the clip, what raises a sub-block's balanced error is undone. */
#include "quant/block.h"

#include "quant/job.h"
#include "quant/steps.h"
#include "quant/trellis.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static_assert((int)BAL_RECIPE_LINEARS == (int)BAL_DECODER_LINEARS, "one width per linear");

/* ---- The job ----------------------------------------------------------------------------------
 */

static void job_deinit(bal_block_job *j)
{
    for (int i = 0; i < BAL_SUBS; i++) bal_store_destroy(&j->ref[i]);
    for (int i = 0; i < BAL_GROUPS; i++) {
        bal_store_destroy(&j->x[i]);
        bal_stats_destroy(&j->stats[i]);
    }
    bal_layer_copy_destroy(&j->work);
    bal_wide_layer_destroy(&j->trial);
    bal_pass_destroy(&j->pass);
    bal_probe_destroy(&j->probe);
    free(j->h);
    free(j->out);
    free(j->want);
    free(j->rows);
    free(j->tags);
    free(j->place);
    free(j->sums);
    for (int i = 0; i < BAL_JOB_TALLIES; i++) free(j->tally[i]);
    *j = (bal_block_job){0};
}

static bal_status job_rows(bal_block_job *j, bal_error *err)
{
    const size_t n = (size_t)j->max_rows, hidden = (size_t)j->c->hidden * sizeof(float);
    j->h = malloc(n * hidden);
    j->out = malloc(n * hidden);
    j->want = malloc(n * hidden);
    j->rows = malloc(n * (size_t)j->trial.widest * sizeof(float));
    j->tags = malloc(n);
    j->place = malloc(n * sizeof *j->place);
    j->sums = malloc(n * sizeof *j->sums);
    if (j->h && j->out && j->want && j->rows && j->tags && j->place && j->sums) return BAL_OK;
    return bal_nomem(err, n * (size_t)j->trial.widest * sizeof(float), "rows of a sample");
}

static bal_status job_tallies(bal_block_job *j, bal_error *err)
{
    const size_t rows = bal_job_row0(j, j->samples->n);
    for (int i = 0; i < BAL_JOB_TALLIES; i++) {
        j->tally[i] = calloc(rows + 1, sizeof *j->tally[i]);
        if (!j->tally[i]) return bal_nomem(err, rows * sizeof *j->tally[i], "errors of rows");
    }
    return BAL_OK;
}

/* What only calibration needs. */
static bal_status job_calibration(bal_block_job *j, const char *dir, bal_error *err)
{
    j->max_rows = j->samples->max_len + BAL_JOB_BATCH;
    BAL_TRY(bal_pass_create(&j->pass, j->c, j->max_rows, err));
    BAL_TRY(bal_probe_create(&j->probe, j->e, j->c, j->samples->max_len, err));
    BAL_TRY(job_rows(j, err));
    if (j->recipe->act == BAL_ACT_A8) BAL_TRY(bal_wide_layer_rows(&j->trial, j->max_rows, err));
    for (int i = 0; i < BAL_SUBS; i++)
        BAL_TRY(bal_store_create(&j->ref[i], dir, j->samples, j->c->hidden, err));
    BAL_TRY(job_tallies(j, err));
    for (int g = 0; g < BAL_GROUPS; g++) {
        const int k = bal_job_group_width(j, g);
        BAL_TRY(bal_store_create(&j->x[g], dir, j->samples, k, err));
        BAL_TRY(bal_stats_create(&j->stats[g], k, err));
        if (j->recipe->spike_rule == BAL_SPIKE_TAIL)
            BAL_TRY(bal_stats_keep_tail(&j->stats[g], err));
    }
    return BAL_OK;
}

/* Whether a group gets a channel scale. SmoothQuant scales what a norm makes; behind a transform
 * no scale reaches what made the channels. */
static bool scales(const bal_block_job *j, int group)
{
    const bal_decoder_layer *l = j->layer;
    if (bal_layer_linear(l, bal_group_table[group].first)->hadamard) return false;
    if (j->recipe->scale == BAL_SCALE_SMOOTH)
        return group == BAL_GROUP_QKV || group == BAL_GROUP_GATE_UP;
    if (j->recipe->scale == BAL_SCALE_NONE) return false;
    return group != BAL_GROUP_O || (l->v.n == l->o.n && l->v.k == l->o.k);
}

static bool searches(const bal_block_job *j, int group)
{
    return j->recipe->scale == BAL_SCALE_SEARCH && scales(j, group);
}

static bal_status job_init(bal_block_job *j, const char *dir, bal_error *err)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        j->quantizer[i] = bal_quantizer_of(j->recipe);
        j->quantizer[i].bits = bal_recipe_bits(j->recipe, i);
    }
    for (int g = 0; g < BAL_GROUPS; g++) j->total += searches(j, g) ? BAL_SCALE_POINTS : 0;
    if (bal_recipe_solves(j->recipe))
        j->total += BAL_SOLVE_STEPS * BAL_GROUPS;
    else if (j->recipe->clip != BAL_CLIP_NONE)
        j->total += BAL_DECODER_LINEARS;
    BAL_TRY(bal_layer_copy_create(&j->work, j->e->pool, j->c, j->layer, j->index, err));
    BAL_TRY(bal_wide_layer_create(&j->trial, j->e, j->layer, err));
    return j->samples->n > 0 ? job_calibration(j, dir, err) : BAL_OK;
}

bal_status bal_job_step(bal_block_job *j, const char *stage, bal_error *err)
{
    j->done++;
    if (!j->step || j->step(j->step_ctx, stage, j->done, j->total) == 0) return BAL_OK;
    return bal_fail(err, BAL_E_CANCELLED, "cancelled while solving layer %d", j->index);
}

/* ---- Steps ------------------------------------------------------------------------------------
 */

static void quantized_row(const void *ctx, int r, float *out, float *work)
{
    (void)work;
    bal_quantized_row(ctx, r, out);
}

static_assert((int)BAL_WIDE_INPUTS == (int)BAL_GROUPS, "one path a group");

static bal_status round_linear(bal_block_job *j, int i, bal_quantized_linear *q, bal_error *err)
{
    if (!q->trellis) {
        bal_quantize_matrix(j->e->pool, &j->quantizer[i], j->work.w[i], q);
        return BAL_OK;
    }
    bal_trellis_scales(j->e->pool, j->work.w[i], q);
    return bal_trellis_round(j->e->pool, j->work.w[i], q, err);
}

/* trial = work with all seven linears rounded, reading inputs as they will; codes, scales and zeros
 * to q if not NULL. */
static bal_status round_all(bal_block_job *j, bal_quantized_linear *q, bal_error *err)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_linear *l = bal_layer_linear(&j->work.l, i);
        bal_quantized_linear mine = {0}, *to = q ? &q[i] : &mine;
        BAL_TRY(bal_quantized_linear_of(to, j->recipe, i, l->n, l->k, err));
        const bal_status st = round_linear(j, i, to, err);
        if (st >= 0) bal_wide_fill(&j->trial, j->e, i, quantized_row, to);
        j->trial.w[i].bias = l->bias;
        bal_quantized_linear_free(&mine);
        BAL_TRY(st);
    }
    j->trial.attn_norm = j->work.attn_norm;
    j->trial.mlp_norm = j->work.mlp_norm;
    j->trial.q_norm = j->layer->q_norm;
    j->trial.k_norm = j->layer->k_norm;
    memcpy(j->trial.act, j->act, sizeof j->act);
    return BAL_OK;
}

static bal_sub_error sub_error(const bal_error_sums *e, const bal_error_sums *ref, int cols)
{
    bal_sub_error out = {0};
    for (int i = 0; i < BAL_MODALITIES; i++) {
        const double n = (double)e->rows[i] * cols;
        if (e->rows[i] == 0) continue;
        out.mse[i] = e->sq[i] / n;
        out.mae[i] = e->abs[i] / n;
        out.ref_ms[i] = ref->sq[i] / n;
    }
    return out;
}

static bal_status plain_errors(bal_block_job *j, bal_block_result *out,
                               bal_error_sums ref[BAL_SUBS], bal_error *err)
{
    bal_error_sums e[BAL_SUBS];
    BAL_TRY(round_all(j, NULL, err));
    BAL_TRY(bal_job_errors(j, e, ref, err));
    for (int i = 0; i < BAL_SUBS; i++) out->rtn[i] = sub_error(&e[i], &ref[i], j->c->hidden);
    return BAL_OK;
}

/* With distort a group's inputs are those of the block as quantized so far: `any` tells whether a
 * scale was found (and folded into work) already. */
static bal_status collect_distorted(bal_block_job *j, int group, bool any, bal_error *err)
{
    if (any)
        BAL_TRY(round_all(j, NULL, err));
    else
        bal_wide_copy_all(&j->trial, j->e, j->layer);
    return bal_job_collect(j, j->in_quant, 1u << group, false, err);
}

static bal_status search_and_fold(bal_block_job *j, bal_block_result *out, bal_error *err)
{
    bool any = false;
    for (int g = 0; g < BAL_GROUPS; g++) {
        const bool fixed = j->act[g].scale != BAL_ACT_DYNAMIC;
        const bool inputs = scales(j, g) || j->recipe->clip != BAL_CLIP_NONE || fixed;
        if (j->recipe->distort && inputs) {
            BAL_TRY(collect_distorted(j, g, any, err));
            BAL_TRY(bal_job_settle(j, g, NULL, err));
        }
        if (!scales(j, g)) continue;
        if (searches(j, g))
            BAL_TRY(bal_job_search(j, g, &out->group[g], err));
        else
            BAL_TRY(bal_job_smooth(j, g, &out->group[g], err));
        bal_fold_group(&j->work, j->e->pool, g, out->group[g].scale, j->recipe->arithmetic);
        BAL_TRY(bal_job_settle(j, g, out->group[g].scale, err));
        any = true;
    }
    return BAL_OK;
}

static double balanced(const bal_block_job *j, const bal_error_sums *e, int sub)
{
    return bal_loss_value(&e[sub], j->c->hidden, j->recipe, j->ratio[sub]);
}

/* Which half of the block a linear stands in. */
static int sub_of(int i)
{
    return bal_group_table[bal_group_of_linear(i)].sub;
}

/* Clips work and rounds it to `clipped`; where a sub-block is better for it, that replaces the
 * codes and errors in hand. */
static bal_status clip_or_undo(bal_block_job *j, bal_block_result *out,
                               bal_quantized_linear *clipped, bal_error_sums e[BAL_SUBS],
                               bal_error *err)
{
    bal_error_sums now[BAL_SUBS];
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        BAL_TRY(bal_job_clip(j, i, out->group[bal_group_of_linear(i)].scale, err));
        BAL_TRY(bal_job_step(j, "clip", err));
    }
    BAL_TRY(round_all(j, clipped, err));
    BAL_TRY(bal_job_errors(j, now, NULL, err));
    for (int sub = 0; sub < BAL_SUBS; sub++) {
        out->clip_undone[sub] = balanced(j, now, sub) > balanced(j, e, sub);
        if (out->clip_undone[sub]) continue;
        e[sub] = now[sub];
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
            if (sub_of(i) != sub) continue;
            const bal_quantized_linear old = out->linear[i];
            out->linear[i] = clipped[i];
            clipped[i] = old;
        }
    }
    return BAL_OK;
}

static bal_status clip(bal_block_job *j, bal_block_result *out, bal_error_sums e[BAL_SUBS],
                       bal_error *err)
{
    bal_quantized_linear clipped[BAL_DECODER_LINEARS] = {0};
    const bal_status st = clip_or_undo(j, out, clipped, e, err);
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) bal_quantized_linear_free(&clipped[i]);
    return st;
}

/* The folded norms and biases leave the job for the result. */
static void hand_over(bal_block_job *j, bal_block_result *out)
{
    memcpy(out->act, j->act, sizeof out->act);
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        out->bias[i] = j->work.bias[i];
        j->work.bias[i] = NULL;
    }
    out->attn_norm = j->work.attn_norm;
    out->mlp_norm = j->work.mlp_norm;
    j->work.attn_norm = j->work.mlp_norm = NULL;
}

/* What the searches and clips of a group read, in a few figures. */
static void log_inputs(const bal_block_job *j, bal_block_result *out)
{
    for (int g = 0; g < BAL_GROUPS; g++) {
        bal_input_log *log = &out->group[g].input;
        const bal_channel_stats *s = &j->stats[g];
        for (int m = 0; m < BAL_MODALITIES; m++) {
            double sum = 0.0, top = 0.0;
            for (int c = 0; c < s->k; c++) {
                sum += s->abs_sum[m][c];
                top = fmax(top, (double)s->abs_max[m][c]);
            }
            log->rows[m] = s->count[m];
            log->mean_abs[m] = s->count[m] ? sum / ((double)s->count[m] * s->k) : 0.0;
            log->max_abs[m] = top;
        }
    }
}

/* The solver reads inputs of the float stream; a search with distort has put others there. */
static bal_status solve(bal_block_job *j, bal_block_result *out, const char *dir, bal_error *err)
{
    if (j->recipe->distort) {
        bal_wide_copy_all(&j->trial, j->e, j->layer);
        BAL_TRY(bal_job_collect(j, j->in_float, (1u << BAL_GROUPS) - 1, false, err));
    }
    return bal_job_solve(j, out->linear, out->group, dir, err);
}

static bal_status calibrated(bal_block_job *j, bal_block_result *out, const char *dir,
                             bal_error *err)
{
    const bool solves = bal_recipe_solves(j->recipe);
    const bool spikes = j->recipe->spikes != BAL_SPIKES_KEEP;
    const bool wanted = spikes || j->recipe->act_scale != BAL_ACT_DYNAMIC;
    const unsigned groups = j->recipe->distort && !wanted ? 0u : (1u << BAL_GROUPS) - 1;
    bal_error_sums e[BAL_SUBS], ref[BAL_SUBS];
    bal_wide_copy_all(&j->trial, j->e, j->layer);
    BAL_TRY(bal_job_collect(j, j->in_float, groups, true, err));
    for (int g = 0; spikes && g < BAL_GROUPS; g++) j->act[g] = bal_act_for(j->recipe, &j->stats[g]);
    for (int g = 0; g < BAL_GROUPS; g++) BAL_TRY(bal_job_settle(j, g, NULL, err));
    BAL_TRY(plain_errors(j, out, ref, err));
    BAL_TRY(search_and_fold(j, out, err));
    log_inputs(j, out);
    BAL_TRY(solves ? solve(j, out, dir, err) : round_all(j, out->linear, err));
    BAL_TRY(bal_job_errors(j, e, NULL, err));
    if (!solves && j->recipe->clip != BAL_CLIP_NONE) BAL_TRY(clip(j, out, e, err));
    for (int i = 0; i < BAL_SUBS; i++) out->final[i] = sub_error(&e[i], &ref[i], j->c->hidden);
    return BAL_OK;
}

static bal_status check_inputs(const bal_block_job *j, bal_error *err)
{
    const bal_recipe *r = j->recipe;
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        if (bal_type_get(bal_layer_linear(j->layer, i)->type)->packed)
            return bal_fail(err, BAL_E_ARG, "layer %d, %s is packed already", j->index,
                            bal_decoder_linear_name(i));
    BAL_TRY(bal_recipe_check(r, err));
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        if (bal_recipe_bits(r, i) == BAL_BITS_AUTO)
            return bal_fail(err, BAL_E_ARG, "layer %d, %s: no width was chosen", j->index,
                            bal_decoder_linear_name(i));
    if (j->samples->n < 1 && bal_recipe_needs_data(r))
        return bal_fail(err, BAL_E_ARG, "recipe %s needs calibration samples", r->name);
    if (j->samples->n > 0 &&
        (j->in_float->n_samples < j->samples->n || j->in_float->cols != j->c->hidden))
        return bal_fail(
            err, BAL_E_ARG, "block inputs of %d samples and %d columns, %d and %d expected",
            j->in_float->n_samples, j->in_float->cols, j->samples->n, (int)j->c->hidden);
    if (j->samples->n > 0 && (r->distort || r->inputs == BAL_INPUTS_QUANTIZED) && !j->in_quant)
        return bal_fail(err, BAL_E_ARG, "recipe %s needs the quantized stream", r->name);
    if (bal_recipe_weighs_tokens(r) &&
        (!j->samples->gradients || j->samples->gradients->n_samples != j->samples->n ||
         j->samples->gradients->cols <= bal_recipe_token_columns(r) * j->index))
        return bal_fail(err, BAL_E_ARG, "recipe %s needs gradients of tokens for layer %d", r->name,
                        j->index);
    for (int i = 0; i < BAL_SUBS; i++)
        if (!(j->ratio[i] >= 0.0 && j->ratio[i] < 1e30))
            return bal_fail(err, BAL_E_ARG, "layer %d: a vision weight of %g", j->index,
                            j->ratio[i]);
    return bal_samples_check(j->samples, err);
}

bal_status bal_block_solve(bal_block_result *out, const bal_exec *e, const bal_text_config *c,
                           const bal_decoder_layer *layer, int index, const bal_samples *samples,
                           const bal_store *in_float, const bal_store *in_quant,
                           const double ratio[BAL_SUBS], const bal_recipe *recipe,
                           const char *tmp_dir, bal_step_fn *step, void *step_ctx, bal_error *err)
{
    bal_block_job j = {.e = e,
                       .c = c,
                       .layer = layer,
                       .index = index,
                       .samples = samples,
                       .in_float = in_float,
                       .in_quant = in_quant,
                       .recipe = recipe,
                       .step = step,
                       .step_ctx = step_ctx};
    for (int i = 0; i < BAL_SUBS; i++) j.ratio[i] = ratio ? ratio[i] : 1.0;
    for (int g = 0; g < BAL_GROUPS; g++) j.act[g] = bal_act_of(recipe);
    *out = (bal_block_result){.store = recipe->store};
    BAL_TRY(check_inputs(&j, err));
    bal_status st = job_init(&j, tmp_dir, err);
    if (st >= 0)
        st = samples->n > 0 ? calibrated(&j, out, tmp_dir, err) : round_all(&j, out->linear, err);
    if (st >= 0)
        hand_over(&j, out);
    else
        bal_block_result_free(out);
    job_deinit(&j);
    return st;
}

/* ---- Prices -----------------------------------------------------------------------------------
 */

const int bal_widths[BAL_WIDTHS] = {2, 3, 4, 6, 8};

int bal_width_count(const bal_recipe *r)
{
    return r->grid == BAL_GRID_TABLE ? 3 : BAL_WIDTHS;
}

/* A linear rounded as z says; bits 0: as it is. */
typedef struct priced {
    const bal_quantizer *z;
    const bal_linear *from;
} priced;

static void rounded_row(const void *ctx, int r, float *out, float *work)
{
    const priced *p = ctx;
    const int k = p->from->k, size = bal_group_size(k, p->z->group);
    (void)work;
    bal_linear_row(p->from, r, out);
    if (!p->z->bits) return;
    if (bal_has_steps(p->z->grid)) {
        bal_steps_values(p->z, out, k, out);
        return;
    }
    for (int at = 0; at < k; at += size)
        bal_quantize_group(p->z, out + at, k - at < size ? k - at : size, out + at);
}

void bal_block_round(bal_wide_layer *l, const bal_exec *e, const bal_decoder_layer *from, int i,
                     int bits, const bal_recipe *recipe)
{
    bal_quantizer z = bal_quantizer_of(recipe);
    z.bits = bits;
    const priced p = {&z, bal_layer_linear(from, i)};
    bal_wide_fill(l, e, i, rounded_row, &p);
}

/* One linear at one width; trial holds the float block otherwise. */
static bal_status price_width(bal_block_job *j, bal_block_price *out, int i, int width,
                              bal_error *err)
{
    bal_error_sums sums;
    bal_block_round(&j->trial, j->e, j->layer, i, bal_widths[width], j->recipe);
    BAL_TRY(bal_job_group_errors(j, bal_group_of_linear(i), NULL, &sums, err));
    for (int m = 0; m < BAL_MODALITIES; m++) {
        out->rows[m] = sums.rows[m];
        if (sums.rows[m] > 0)
            out->mse[i][width][m] = sums.sq[m] / ((double)sums.rows[m] * j->c->hidden);
    }
    return BAL_OK;
}

static bal_status price(bal_block_job *j, bal_block_price *out, bal_error *err)
{
    bal_wide_copy_all(&j->trial, j->e, j->layer);
    BAL_TRY(bal_job_collect(j, j->in_float, (1u << BAL_GROUPS) - 1, true, err));
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        for (int width = 0; width < bal_width_count(j->recipe); width++)
            BAL_TRY(price_width(j, out, i, width, err));
        bal_block_round(&j->trial, j->e, j->layer, i, 0, j->recipe);
    }
    return BAL_OK;
}

bal_status bal_block_price_make(bal_block_price *out, const bal_exec *e, const bal_text_config *c,
                                const bal_decoder_layer *layer, int index,
                                const bal_samples *samples, const bal_store *in_float,
                                const bal_recipe *recipe, const char *tmp_dir, bal_error *err)
{
    bal_block_job j = {.e = e,
                       .c = c,
                       .layer = layer,
                       .index = index,
                       .samples = samples,
                       .in_float = in_float,
                       .recipe = recipe};
    *out = (bal_block_price){0};
    bal_status st = job_init(&j, tmp_dir, err);
    if (st >= 0) st = price(&j, out, err);
    job_deinit(&j);
    return st;
}

void bal_block_result_free(bal_block_result *r)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        bal_quantized_linear_free(&r->linear[i]);
        free(r->bias[i]);
    }
    for (int g = 0; g < BAL_GROUPS; g++) {
        free(r->group[g].mean_abs);
        free(r->group[g].scale);
    }
    free(r->attn_norm);
    free(r->mlp_norm);
    *r = (bal_block_result){0};
}
