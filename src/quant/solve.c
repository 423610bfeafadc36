/* SPDX-License-Identifier: MIT
 * The solver's way through a block: group by group in the order of computation, each on second
 * moments of the inputs it will really see. A group's steps (rounding, error feedback, searched
 * ranges, shifted targets, polish) are tried one on top of the other; what each leaves is measured
 * on samples that the moments have not seen, and with undo=on a step that leaves more is dropped.
 * Scales are folded into work before; the result is codes, scales and zero points. */
#include "quant/job.h"

#include "base/size.h"
#include "op/pointwise.h"
#include "quant/factor.h"
#include "quant/grid.h"
#include "quant/ldlq.h"
#include "quant/lowrank.h"
#include "quant/mixed.h"
#include "quant/tokens.h"
#include "quant/trellis.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    MOST = 3,       /* linears of a group */
    HELD_EVERY = 8, /* one sample of so many judges steps and is not solved for */
    HELD_FROM = 16, /* samples, below which all are used for both */
    SWEEPS = 4,
    LOW_ROUNDS = 2,      /* codes and what is added to them, in turns */
    DESCENT_SWEEPS = 25, /* where nothing else chooses codes; QuantEase takes as many */
};

/* What is in a solution. */
typedef struct recipe_part {
    bool feedback, clip, shift, polish, low;
} recipe_part;

typedef enum build_from { FROM_NOTHING, FROM_UNPOLISHED, FROM_CODES } build_from;

typedef struct solving {
    bal_block_job *j;
    bal_store at[BAL_SUBS];    /* hidden states in front of mlp: [0] float, [1] quantized */
    const bal_store *in_float; /* of the sub-block in work */
    const bal_store *in_quant; /* where quantized inputs come from: in_float if not asked for */
    bal_tokens tokens;         /* what they weigh, in moments and errors */
    float *u, *d, *r, *work; /* rows of a sample: inputs, what they lack, what the residual lacks */
    float *v;                /* inputs that are vision; NULL: nobody asks */
    float *got[4];           /* the same of another rank's sample; NULL: one rank */
    bool *judging;           /* [samples] */
    float *target[MOST], *shifted[MOST];
    bal_moments moments;
    bal_moments vision; /* of vision rows, all alike, where a small rank is for them alone, */
    float *h_vision;    /* and [k][k] the damped ones, which it is fitted by */
    bal_factor factor;
    bal_panels drift; /* with shift=column: bal_column_shift_create's */
    float *h;         /* [k][k] damped moments, where descent or a small rank reads them */
    bal_panels form;  /* of the same, where rows keep their gain */
    double *diag;     /* [k] of them */
    double *pivot;    /* [k] of the factor, by column */
    bal_quantized_linear best[MOST], next[MOST];
} solving;

static bool is_held(const solving *s, int sample)
{
    const bal_block_job *j = s->j;
    return j->recipe->undo && j->samples->n >= HELD_FROM && sample % HELD_EVERY == HELD_EVERY - 1;
}

/* Whether a sample judges steps. Without undo nothing hangs on the verdict, which is then told of
 * as many samples as with it. */
static bool judges(const solving *s, int sample)
{
    return s->j->samples->n < HELD_FROM || sample % HELD_EVERY == HELD_EVERY - 1;
}

static bool shifts(const solving *s)
{
    return s->j->recipe->shift != BAL_SHIFT_OFF;
}

/* Whether targets are moved before any code is chosen. */
static bool shifts_targets(const solving *s)
{
    return shifts(s) && s->j->recipe->shift != BAL_SHIFT_COLUMN;
}

/* Whether the small rank is for vision rows alone. */
static bool patches(const solving *s)
{
    return s->j->recipe->rank > 0 && s->j->recipe->rank_rows == BAL_LOW_VISION;
}

static bool shifts_residual(const solving *s, int group)
{
    return s->j->recipe->shift == BAL_SHIFT_RESIDUAL &&
           (group == BAL_GROUP_O || group == BAL_GROUP_DOWN);
}

static const uint8_t *tags_at(const bal_samples *samples, int sample)
{
    return samples->items[sample].modality;
}

/* ---- Forward ----------------------------------------------------------------------------------
 */

static void run_norm(bal_block_job *j, int sub, const bal_sample *sample)
{
    const float *gain = sub == BAL_SUB_ATTN ? j->trial.attn_norm : j->trial.mlp_norm;
    bal_rms_norm(j->e, j->h, gain, j->c->rms_eps, sample->n, j->c->hidden, j->pass.buf.norm);
}

/* trial's sub-block on the sample's hidden states in j->h: inputs of its linears are left in the
 * pass, its output in j->out. */
static void run_sub(bal_block_job *j, int sub, const bal_sample *sample)
{
    const int n = sample->n;
    const float *norm = j->pass.buf.norm;
    run_norm(j, sub, sample);
    bal_pass_place(&j->pass, sample);
    if (sub == BAL_SUB_ATTN)
        bal_probe_attn(j->e, j->c, &j->trial, n, norm, &j->probe, &j->pass, j->out);
    else
        bal_probe_mlp(j->e, j->c, &j->trial, n, norm, &j->pass, j->out);
}

/* As much of it as the group's input needs. */
static void run_front(bal_block_job *j, int group, const bal_sample *sample)
{
    const int sub = bal_group_table[group].sub;
    if (group == BAL_GROUP_QKV || group == BAL_GROUP_GATE_UP)
        run_norm(j, sub, sample);
    else
        run_sub(j, sub, sample);
}

static const float *input_of(const bal_block_job *j, int group)
{
    if (group == BAL_GROUP_O) return j->pass.buf.ctx;
    return group == BAL_GROUP_DOWN ? j->pass.buf.act : j->pass.buf.norm;
}

/* Where the quantized path stands in front of mlp, and the float one. Nobody reads samples there
 * but their own rank. */
static bal_status advance(solving *s, bal_error *err)
{
    bal_block_job *j = s->j;
    for (int i = 0; i < j->samples->n; i++) {
        const int n = j->samples->items[i].n;
        const size_t floats = (size_t)n * (size_t)j->c->hidden;
        if (!bal_rank_owns(j->samples->rank, i)) continue;
        BAL_TRY(bal_store_read(s->in_float, i, j->h, err));
        BAL_TRY(bal_store_read(&j->ref[BAL_SUB_ATTN], i, j->want, err));
        bal_add(j->e, j->h, j->want, floats);
        BAL_TRY(bal_store_write(&s->at[0], i, j->h, err));
        if (s->in_quant == s->in_float) continue;
        BAL_TRY(bal_store_read(s->in_quant, i, j->h, err));
        run_sub(j, BAL_SUB_ATTN, &j->samples->items[i]);
        bal_add(j->e, j->h, j->out, floats);
        BAL_TRY(bal_store_write(&s->at[1], i, j->h, err));
    }
    s->in_quant = s->in_quant == s->in_float ? &s->at[0] : &s->at[1];
    s->in_float = &s->at[0];
    return BAL_OK;
}

/* Error of the residual stream behind the sub-block on the samples that judge, tokens weighed as
 * in the moments. */
static bal_status sub_error(solving *s, int sub, double *error, bal_error *err)
{
    bal_block_job *j = s->j;
    bal_error_sums sums = {0};
    for (int i = 0; i < j->samples->n; i++) {
        const bal_sample *sample = &j->samples->items[i];
        const size_t floats = (size_t)sample->n * (size_t)j->c->hidden;
        s->judging[i] = judges(s, i);
        if (!s->judging[i] || !bal_rank_owns(j->samples->rank, i)) continue;
        BAL_TRY(bal_store_read(s->in_quant, i, j->h, err));
        run_sub(j, sub, sample);
        bal_add(j->e, j->out, j->h, floats);
        BAL_TRY(bal_store_read(&j->ref[sub], i, j->want, err));
        BAL_TRY(bal_store_read(s->in_float, i, j->h, err));
        bal_add(j->e, j->want, j->h, floats);
        bal_row_errors(j->e->pool, j->want, j->out, sample->n, j->c->hidden,
                       j->tally[0] + bal_job_row0(j, i));
    }
    BAL_TRY(bal_job_sum(j, 0, s->judging, NULL, &sums, err));
    *error = 0.0;
    for (int m = 0; m < BAL_MODALITIES; m++)
        if (sums.rows[m] > 0)
            *error += s->tokens.weight[m] * (double)j->stats[BAL_GROUP_QKV].count[m] * sums.sq[m] /
                      ((double)sums.rows[m] * j->c->hidden);
    return BAL_OK;
}

/* ---- Moments ----------------------------------------------------------------------------------
 */

/* Float inputs of the group at the folded scale to `to`. */
static bal_status float_inputs(solving *s, int group, int sample, const float *scale, float *to,
                               bal_error *err)
{
    const bal_block_job *j = s->j;
    const size_t k = (size_t)bal_job_group_width(j, group);
    const size_t n = (size_t)j->samples->items[sample].n;
    BAL_TRY(bal_store_read(&j->x[group], sample, to, err));
    for (size_t i = 0; scale && i < n * k; i++) to[i] /= scale[i % k];
    return BAL_OK;
}

/* Of one linear with fewer outputs than inputs, what the inputs lack is taken through its weight
 * first: W C = sum (W d) u^T is [n][k] where C is [k][k], which at a width of 18944 no small
 * machine holds. It is then one more thing that outputs lack. */
static bool through_weight(const solving *s, int group)
{
    const bal_linear *l = bal_layer_linear(&s->j->work.l, bal_group_table[group].first);
    return shifts_targets(s) && !bal_tokens_apart(s->j->recipe, group) &&
           bal_group_table[group].count == 1 && l->n < l->k;
}

static bool keeps_outputs(const solving *s, int group)
{
    return shifts_residual(s, group) || through_weight(s, group);
}

/* r += W d; the group's linear stands in trial as float still. */
static void take_through(solving *s, int group, int rows)
{
    bal_block_job *j = s->j;
    bal_wide w = j->trial.w[bal_group_table[group].first];
    w.bias = NULL;
    bal_probe_linear(j->e, &w, s->d, rows, j->out);
    bal_add(j->e, s->r, j->out, (size_t)rows * (size_t)w.n);
}

/* u, and d = f - u where targets shift; r = what the outputs lack, for o and down. */
static bal_status sample_rows(solving *s, int group, int sample, const float *scale, bal_error *err)
{
    bal_block_job *j = s->j;
    const size_t k = (size_t)bal_job_group_width(j, group), hidden = (size_t)j->c->hidden;
    const size_t n = (size_t)j->samples->items[sample].n;
    if (s->in_quant == s->in_float && j->recipe->inputs == BAL_INPUTS_FLOAT) {
        BAL_TRY(float_inputs(s, group, sample, scale, s->u, err));
        bal_act_simulate(j->e, j->act[group], NULL, tags_at(j->samples, sample), s->u, (int)n,
                         (int)k);
        return BAL_OK;
    }
    BAL_TRY(bal_store_read(s->in_quant, sample, j->h, err));
    run_front(j, group, &j->samples->items[sample]);
    memcpy(s->u, input_of(j, group), n * k * sizeof *s->u);
    bal_act_simulate(j->e, j->act[group], NULL, tags_at(j->samples, sample), s->u, (int)n, (int)k);
    if (!shifts(s)) return BAL_OK;
    BAL_TRY(float_inputs(s, group, sample, scale, s->d, err));
    for (size_t i = 0; i < n * k; i++) s->d[i] -= s->u[i];
    if (!keeps_outputs(s, group)) return BAL_OK;
    memset(s->r, 0, n * hidden * sizeof *s->r);
    if (shifts_residual(s, group)) BAL_TRY(bal_store_read(s->in_float, sample, s->r, err));
    for (size_t i = 0; shifts_residual(s, group) && i < n * hidden; i++) s->r[i] -= j->h[i];
    if (through_weight(s, group)) take_through(s, group, (int)n);
    return BAL_OK;
}

/* Keeps the rows that weigh something, times the root of that; returns their number. */
static int weigh(const solving *s, int sample, float *rows, size_t cols)
{
    size_t n = 0;
    for (int i = 0; i < s->j->samples->items[sample].n; i++) {
        const double root = sqrt(bal_token_weight(&s->tokens, s->j, sample, i));
        if (root == 0.0) continue;
        for (size_t c = 0; c < cols; c++)
            rows[n * cols + c] = (float)(root * (double)rows[(size_t)i * cols + c]);
        n++;
    }
    return (int)n;
}

/* Writes the vision rows of u to s->v, times the root of one over their number in all samples;
 * returns how many they are. */
static int pick_vision(solving *s, int sample, size_t cols)
{
    const int64_t all = s->j->stats[BAL_GROUP_QKV].count[BAL_VISION];
    const float root = (float)(1.0 / sqrt((double)all));
    size_t n = 0;
    for (size_t i = 0; i < (size_t)s->j->samples->items[sample].n; i++) {
        if (tags_at(s->j->samples, sample)[i] != BAL_VISION) continue;
        for (size_t c = 0; c < cols; c++) s->v[n * cols + c] = root * s->u[i * cols + c];
        n++;
    }
    return (int)n;
}

/* Rows of a sample, weighed. */
typedef struct weighed_rows {
    float *u, *d, *r, *v; /* d, r: unused where moments do not keep them; v likewise */
    int n, n_v;
} weighed_rows;

static bool keeps_cross(const solving *s, int group)
{
    return shifts(s) && !through_weight(s, group);
}

/* Of this rank's one among the samples that all ranks look at together, `first` and those behind
 * it, provided that there is one. */
static bal_status own_rows(solving *s, int group, int first, const float *scale, weighed_rows *out,
                           bal_error *err)
{
    const bal_block_job *j = s->j;
    const size_t k = (size_t)bal_job_group_width(j, group);
    const int i = first + (j->samples->rank ? j->samples->rank->index : 0);
    if (i >= j->samples->n || is_held(s, i)) return BAL_OK;
    BAL_TRY(sample_rows(s, group, i, scale, err));
    if (patches(s)) out->n_v = pick_vision(s, i, k);
    out->n = weigh(s, i, out->u, k);
    if (keeps_cross(s, group)) weigh(s, i, out->d, k);
    if (keeps_outputs(s, group)) weigh(s, i, out->r, (size_t)j->c->hidden);
    return BAL_OK;
}

/* Adds the vision rows of a sample, which its owner has in hand. */
static bal_status add_vision(solving *s, int owner, weighed_rows *x, size_t row, bal_error *err)
{
    bal_rank *rank = s->j->samples->rank;
    BAL_TRY(bal_rank_share(rank, &x->n_v, sizeof x->n_v, owner, err));
    BAL_TRY(bal_rank_share(rank, x->v, (size_t)x->n_v * row, owner, err));
    bal_moments_add(&s->vision, s->j->e, x->v, NULL, NULL, x->n_v, s->work);
    return BAL_OK;
}

/* Adds sample i, which its owner has in hand. */
static bal_status add_rows(solving *s, int group, int i, weighed_rows *mine, bal_error *err)
{
    bal_rank *rank = s->j->samples->rank;
    const size_t k = (size_t)bal_job_group_width(s->j, group) * sizeof(float);
    const int owner = bal_rank_owner(rank, i);
    weighed_rows x =
        bal_rank_owns(rank, i)
            ? *mine
            : (weighed_rows){.u = s->got[0], .d = s->got[1], .r = s->got[2], .v = s->got[3]};
    BAL_TRY(bal_rank_share(rank, &x.n, sizeof x.n, owner, err));
    const size_t n = (size_t)x.n;
    BAL_TRY(bal_rank_share(rank, x.u, n * k, owner, err));
    if (keeps_cross(s, group)) BAL_TRY(bal_rank_share(rank, x.d, n * k, owner, err));
    if (keeps_outputs(s, group))
        BAL_TRY(bal_rank_share(rank, x.r, n * (size_t)s->j->c->hidden * sizeof(float), owner, err));
    bal_moments_add(&s->moments, s->j->e, x.u, x.d, x.r, x.n, s->work);
    return patches(s) ? add_vision(s, owner, &x, k, err) : BAL_OK;
}

static bal_status gather_moments(solving *s, int group, const float *scale, bal_error *err)
{
    const bal_block_job *j = s->j;
    BAL_TRY(bal_moments_create(&s->moments, j->e, bal_job_group_width(j, group),
                               keeps_cross(s, group), keeps_outputs(s, group) ? j->c->hidden : 0,
                               err));
    s->moments.rank = j->samples->rank;
    if (patches(s)) BAL_TRY(bal_moments_create(&s->vision, j->e, s->moments.k, false, 0, err));
    s->vision.rank = j->samples->rank;
    const int at_once = j->samples->rank ? j->samples->rank->count : 1;
    for (int i = 0; i < j->samples->n; i += at_once) {
        weighed_rows mine = {.u = s->u, .d = s->d, .r = s->r, .v = s->v};
        BAL_TRY(own_rows(s, group, i, scale, &mine, err));
        for (int k = i; k < i + at_once && k < j->samples->n; k++)
            if (!is_held(s, k)) BAL_TRY(add_rows(s, group, k, &mine, err));
    }
    BAL_TRY(bal_moments_join(&s->moments, err));
    return patches(s) ? bal_moments_join(&s->vision, err) : BAL_OK;
}

/* ---- One group --------------------------------------------------------------------------------
 */

static int count_of(int group)
{
    return bal_group_table[group].count;
}

static int linear_of(int group, int i)
{
    return bal_group_table[group].first + i;
}

/* Drops moments and all that was made of them. */
static void close_moments(solving *s)
{
    for (int i = 0; i < MOST; i++) {
        free(s->shifted[i]);
        s->shifted[i] = NULL;
    }
    bal_moments_destroy(&s->moments);
    bal_moments_destroy(&s->vision);
    bal_factor_destroy(&s->factor);
    bal_panels_destroy(&s->drift);
    free(s->h);
    free(s->h_vision);
    bal_panels_destroy(&s->form);
    free(s->diag);
    free(s->pivot);
    s->h = s->h_vision = NULL;
    s->diag = s->pivot = NULL;
}

static void close_group(solving *s)
{
    for (int i = 0; i < MOST; i++) {
        bal_quantized_linear_free(&s->best[i]);
        bal_quantized_linear_free(&s->next[i]);
    }
    close_moments(s);
}

typedef struct shift_job {
    const bal_exec *e;
    const float *w, *inputs, *residual;
    float *out;
    bal_range rows;
    size_t k;
} shift_job;

enum { SHIFT_ROWS = 16 };

static void shift_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const shift_job *j = ctx;
    for (size_t i = begin; i < end; i++) {
        const size_t r0 = j->rows.begin + i * SHIFT_ROWS, k = j->k;
        const size_t rows = bal_min(SHIFT_ROWS, j->rows.end - r0);
        float *out = j->out + r0 * k;
        memcpy(out, j->w + r0 * k, rows * k * sizeof *out);
        if (j->inputs)
            j->e->kernels->gemm_nn_f32(rows, k, k, j->w + r0 * k, k, j->inputs, k, out, k, true);
        for (size_t c = 0; j->residual && c < rows * k; c++) out[c] += j->residual[r0 * k + c];
    }
}

/* Whether moments are for linear i of the group; `only` as in bal_part_of_group. */
static bool concerns(int group, int only, int i)
{
    return only < 0 || linear_of(group, i) == only;
}

/* Targets that make up for what the inputs lack. */
static bal_status make_shifts(solving *s, int group, int only, bal_error *err)
{
    const bal_block_job *j = s->j;
    float *inputs, *residual;
    bal_status st = bal_shift_create(&inputs, &residual, j->e, &s->moments,
                                     j->recipe->ridge / 1000.0, j->recipe->shift_part / 100.0, err);
    for (int i = 0; st >= 0 && i < count_of(group); i++) {
        const bal_linear *l = bal_layer_linear(&j->work.l, linear_of(group, i));
        const size_t n = (size_t)l->n, k = (size_t)l->k;
        if (!concerns(group, only, i)) continue;
        s->shifted[i] = malloc(n * k * sizeof(float));
        if (!s->shifted[i]) {
            st = bal_nomem(err, n * k * sizeof(float), "shifted targets");
            break;
        }
        const bal_range ours = bal_rank_rows(j->samples->rank, n, SHIFT_ROWS);
        shift_job job = {j->e, s->target[i], inputs, residual, s->shifted[i], ours, k};
        bal_pool_run(j->e->pool, shift_rows, &job, bal_ceil_div(ours.end - ours.begin, SHIFT_ROWS),
                     1);
        st = bal_rank_join_rows(j->samples->rank, s->shifted[i], n, SHIFT_ROWS, k * sizeof(float),
                                err);
    }
    free(inputs);
    free(residual);
    return st;
}

/* All that is made of moments; they are dropped as soon as they are used up, being large. */
static bal_status use_moments(solving *s, int group, int only, bal_error *err)
{
    const bal_recipe *r = s->j->recipe;
    const size_t k = (size_t)s->moments.k;
    if (patches(s)) BAL_TRY(bal_damped_matrix(&s->h_vision, &s->vision, r->damp / 1000.0, err));
    bal_moments_destroy(&s->vision);
    if (shifts_targets(s)) BAL_TRY(make_shifts(s, group, only, err));
    const unsigned what = (r->order == BAL_ORDER_DIAG ? BAL_FACTOR_BY_SIZE : 0u) |
                          (r->clip == BAL_CLIP_INVERSE ? BAL_FACTOR_INVERSE : 0u);
    BAL_TRY(bal_factor_create(&s->factor, s->j->e, &s->moments, r->damp / 1000.0, what, err));
    if (r->shift == BAL_SHIFT_COLUMN)
        BAL_TRY(bal_column_shift_create(&s->drift, s->j->e, &s->factor, &s->moments,
                                        r->shift_part / 100.0, err));
    const double damp = s->factor.damp, add = damp * bal_moments_mean(&s->moments);
    const bool descends =
        r->polish != BAL_POLISH_NONE || r->solver == BAL_SOLVER_DESCENT || (r->rank && !patches(s));
    if (descends) BAL_TRY(bal_damped_matrix(&s->h, &s->moments, damp, err));
    if (r->gain) BAL_TRY(bal_form_create(&s->form, s->j->e, &s->moments, damp, err));
    s->diag = malloc(k * sizeof *s->diag);
    s->pivot = malloc(k * sizeof *s->pivot);
    if (!s->diag || !s->pivot) return bal_nomem(err, k * sizeof *s->diag, "diagonal of H");
    for (size_t c = 0; c < k; c++) s->diag[c] = bal_moments_at(&s->moments, (int)c, (int)c) + add;
    for (size_t i = 0; i < k; i++) s->pivot[s->factor.order[i]] = s->factor.pivot[i];
    bal_moments_destroy(&s->moments);
    return BAL_OK;
}

static bal_status open_group(solving *s, int group, const float *scale, bal_error *err)
{
    const bal_block_job *j = s->j;
    const bal_recipe *r = j->recipe;
    for (int i = 0; i < count_of(group); i++) {
        const bal_linear *l = bal_layer_linear(&j->work.l, linear_of(group, i));
        s->target[i] = j->work.w[linear_of(group, i)];
        const int linear = linear_of(group, i);
        BAL_TRY(bal_quantized_linear_of(&s->best[i], r, linear, l->n, l->k, err));
        BAL_TRY(bal_quantized_linear_of(&s->next[i], r, linear, l->n, l->k, err));
        s->best[i].low_vision = s->next[i].low_vision = patches(s);
    }
    const bool apart = bal_tokens_apart(r, group); /* then part by part, in build_apart */
    if (!apart) {
        BAL_TRY(bal_tokens_weigh(&s->tokens, j, (bal_part_of_group){group, -1, 0}, err));
        BAL_TRY(gather_moments(s, group, scale, err));
    }
    BAL_TRY(bal_job_step(s->j, "moments", err));
    if (!apart) BAL_TRY(use_moments(s, group, -1, err));
    return bal_job_step(s->j, "factor", err);
}

/* ---- Steps ------------------------------------------------------------------------------------
 */

/* Ranges by the group's block of H: the clip that rounding uses, on a copy. */
static bal_status block_ranges(solving *s, int linear, const float *target, const float *scale,
                               bal_quantized_linear *q, bal_error *err)
{
    bal_block_job *j = s->j;
    const size_t n = (size_t)q->n * (size_t)q->k;
    float *mine = j->work.w[linear], *copy = malloc(n * sizeof *copy);
    if (!copy) return bal_nomem(err, n * sizeof *copy, "a copy of a weight");
    memcpy(copy, target, n * sizeof *copy);
    j->work.w[linear] = copy;
    const bal_status st = bal_job_clip(j, linear, scale, err);
    j->work.w[linear] = mine;
    if (st >= 0) bal_quantize_matrix(j->e->pool, &j->quantizer[linear], copy, q);
    free(copy);
    return st;
}

static bool by_block(const solving *s, bool clip)
{
    return clip && s->j->recipe->clip == BAL_CLIP_BLOCK;
}

/* Whether the codes are those of a recipe without a solver, which the small rank leaves alone: they
 * are rounded in the recipe's arithmetic. */
static bool rounds_alone(const solving *s, bal_clip how)
{
    return patches(s) && how == BAL_CLIP_NONE && s->j->recipe->solver == BAL_SOLVER_ROUND;
}

/* Ranges of rows, and codes rounded to nearest on them. */
static void ranges(solving *s, int linear, const float *target, bool clip, bal_quantized_linear *q)
{
    const bal_block_job *j = s->j;
    const bal_quantizer *z = &j->quantizer[linear];
    const bal_clip how = clip ? j->recipe->clip : BAL_CLIP_NONE;
    if (by_block(s, clip)) return;
    if (how == BAL_CLIP_NONE)
        bal_quantize_matrix(j->e->pool, z, target, q);
    else
        bal_grid_search(j->e->pool, z, target,
                        how == BAL_CLIP_DIAG    ? s->diag
                        : how == BAL_CLIP_PIVOT ? s->pivot
                                                : s->factor.inverse,
                        q);
    if (!rounds_alone(s, how)) bal_grid_round(j->e->pool, target, q);
}

static void copy_solution(const bal_quantized_linear *from, bal_quantized_linear *to)
{
    const size_t n = (size_t)from->n, groups = n * (size_t)bal_group_count(from->k, from->group);
    memcpy(to->codes, from->codes, n * (size_t)from->k);
    memcpy(to->scales, from->scales, n * (size_t)bal_quantized_scales(from) * sizeof *to->scales);
    memcpy(to->zeros, from->zeros, groups);
    if (from->steps) memcpy(to->steps, from->steps, groups);
    if (from->widths) memcpy(to->widths, from->widths, groups / n);
}

/* Codes on ranges that are set, rounded already. */
static bal_status choose_codes(solving *s, recipe_part p, const float *target,
                               bal_quantized_linear *q, bal_error *err)
{
    const bal_block_job *j = s->j;
    const bool drifts = p.shift && j->recipe->shift == BAL_SHIFT_COLUMN;
    if (j->recipe->solver == BAL_SOLVER_GPTQ)
        return bal_ldlq(j->e, &s->factor, drifts ? &s->drift : NULL, target, q, err);
    return bal_polish(j->e, s->h, target, DESCENT_SWEEPS, false, q, err);
}

/* Rows of a linear as a linear of its own, reading and writing the same memory. */
static bal_quantized_linear rows_of(const bal_quantized_linear *q, bal_range rows)
{
    bal_quantized_linear view = *q;
    const size_t groups = (size_t)bal_group_count(q->k, q->group);
    view.n = (int)(rows.end - rows.begin);
    view.codes += rows.begin * (size_t)q->k;
    view.scales += rows.begin * (size_t)bal_quantized_scales(q);
    view.zeros += rows.begin * groups;
    if (view.steps) view.steps += rows.begin * groups;
    return view;
}

/* Codes of a trellis, whose runs are rows of a column. */
static bal_status build_trellis(solving *s, recipe_part p, const float *target,
                                bal_quantized_linear *q, bal_error *err)
{
    const bal_exec *e = s->j->e;
    bal_trellis_scales(e->pool, target, q);
    if (!p.feedback) return bal_trellis_round(e->pool, target, q, err);
    return bal_ldlq(e, &s->factor, NULL, target, q, err);
}

/* The solution for some rows of one linear, ranges by block being there already. */
static bal_status build_rows(solving *s, int linear, recipe_part p, bool polish_only,
                             const float *target, bal_quantized_linear *q, bal_error *err)
{
    const bal_block_job *j = s->j;
    const bool refit = j->recipe->polish == BAL_POLISH_REFIT;
    if (q->trellis) {
        BAL_TRY(build_trellis(s, p, target, q, err));
    } else if (!polish_only) {
        ranges(s, linear, target, p.clip, q);
        if (p.feedback) BAL_TRY(choose_codes(s, p, target, q, err));
    }
    if (p.polish) BAL_TRY(bal_polish(j->e, s->h, target, SWEEPS, refit, q, err));
    if (j->recipe->gain && (p.feedback || p.clip))
        BAL_TRY(bal_unit_gain(j->e, &s->form, target, q, err));
    return BAL_OK;
}

static bal_status join_linear(bal_rank *rank, bal_quantized_linear *q, bal_error *err)
{
    const size_t n = (size_t)q->n, groups = (size_t)bal_group_count(q->k, q->group);
    BAL_TRY(bal_rank_join_rows(rank, q->codes, n, 1, (size_t)q->k, err));
    BAL_TRY(bal_rank_join_rows(rank, q->scales, n, 1,
                               (size_t)bal_quantized_scales(q) * sizeof *q->scales, err));
    if (q->steps) BAL_TRY(bal_rank_join_rows(rank, q->steps, n, 1, groups, err));
    return bal_rank_join_rows(rank, q->zeros, n, 1, groups, err);
}

/* Widths of groups by what is left of a column's error behind the feedback; before it all alike. */
static bal_status choose_widths(solving *s, int linear, recipe_part p, const float *target,
                                bal_quantized_linear *q, bal_error *err)
{
    if (p.feedback)
        return bal_mixed_widths(s->j->e->pool, &s->j->quantizer[linear], target, s->pivot, q, err);
    memset(q->widths, q->bits, (size_t)bal_group_count(q->k, q->group));
    return BAL_OK;
}

/* Codes for a target: every rank solves its rows and gets the others'; runs of a trellis, which
 * would be cut, each solves all. */
static bal_status build_codes(solving *s, int linear, recipe_part p, bool polish_only,
                              const float *target, const float *scale, bal_quantized_linear *q,
                              bal_error *err)
{
    bal_rank *rank = s->j->samples->rank;
    if (!polish_only && by_block(s, p.clip))
        BAL_TRY(block_ranges(s, linear, target, scale, q, err));
    if (q->widths && !polish_only) BAL_TRY(choose_widths(s, linear, p, target, q, err));
    const bal_range ours = bal_rank_rows(q->trellis ? NULL : rank, (size_t)q->n, 1);
    bal_quantized_linear mine = rows_of(q, ours);
    target += ours.begin * (size_t)q->k;
    if (mine.n > 0) BAL_TRY(build_rows(s, linear, p, polish_only, target, &mine, err));
    return join_linear(rank, q, err);
}

typedef struct rest_job {
    const bal_wide_layer *scratch;
    const bal_quantized_linear *q;
    const float *target;
    float sign;
    float *rest;
} rest_job;

static void rest_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const rest_job *j = ctx;
    const size_t k = (size_t)j->q->k;
    float *row = bal_wide_lane(j->scratch, lane);
    for (size_t r = begin; r < end; r++) {
        bal_quantized_row(j->q, (int)r, row);
        for (size_t c = 0; c < k; c++) j->rest[r * k + c] = j->target[r * k + c] + j->sign * row[c];
    }
}

/* rest [n][k] = target - q: what a matrix of small rank is fitted to. */
static void subtract(const solving *s, const bal_quantized_linear *q, const float *target,
                     float *rest)
{
    rest_job j = {&s->j->trial, q, target, -1.0f, rest};
    bal_pool_run(s->j->e->pool, rest_rows, &j, (size_t)q->n, 8);
}

/* rest = target - b a: what is left for the codes. */
static void subtract_low(const solving *s, const bal_quantized_linear *q, const float *target,
                         float *rest)
{
    bal_quantized_linear codes = *q;
    codes.rank = 0;
    subtract(s, q, target, rest);
    rest_job j = {&s->j->trial, &codes, rest, 1.0f, rest};
    bal_pool_run(s->j->e->pool, rest_rows, &j, (size_t)q->n, 8);
}

/* What a matrix of small rank can make up of what codes leave, in the metric of h. */
static bal_status fit_low(solving *s, const float *target, const float *h, bal_quantized_linear *q,
                          float *rest, bal_error *err)
{
    const int rank = bal_lowrank_of(s->j->recipe->rank, q->n, q->k);
    subtract(s, q, target, rest);
    BAL_TRY(bal_quantized_linear_rank(q, rank, err));
    return bal_lowrank_fit(s->j->e, rest, h, q->n, q->k, rank, q->low_a, q->low_b, err);
}

/* Codes, and a matrix of small rank for the rest; then codes again for what it leaves, which need
 * no longer hold what it holds, and so on. */
static bal_status alternate(solving *s, int linear, recipe_part p, const float *target,
                            const float *scale, bal_quantized_linear *q, float *rest,
                            bal_error *err)
{
    BAL_TRY(build_codes(s, linear, p, false, target, scale, q, err));
    for (int i = 0; i < LOW_ROUNDS; i++) {
        if (i > 0) {
            subtract_low(s, q, target, rest);
            q->rank = 0;
            BAL_TRY(build_codes(s, linear, p, false, rest, scale, q, err));
        }
        BAL_TRY(fit_low(s, target, s->h, q, rest, err));
    }
    return BAL_OK;
}

/* With codes that take it into account; for vision rows alone, beside those that are there. */
static bal_status build_low(solving *s, int linear, recipe_part p, const float *target,
                            const float *scale, bal_quantized_linear *q, bal_error *err)
{
    const size_t n = (size_t)q->n * (size_t)q->k;
    float *rest = malloc(n * sizeof *rest);
    if (!rest) return bal_nomem(err, n * sizeof *rest, "what codes leave");
    const bal_status st = patches(s) ? fit_low(s, target, s->h_vision, q, rest, err)
                                     : alternate(s, linear, p, target, scale, q, rest, err);
    free(rest);
    return st;
}

static const float *target_of(const solving *s, recipe_part p, int i)
{
    return p.shift && shifts_targets(s) ? s->shifted[i] : s->target[i];
}

static double outputs_of(const solving *s, int group)
{
    double n = 0.0;
    for (int i = 0; i < count_of(group); i++) n += s->next[i].n;
    return n;
}

/* Linear i of a group whose linears have moments of their own, row group by row group. mean: gets
 * their part of the mean weights over all outputs of the group, which verdicts go by. */
static bal_status build_apart(solving *s, int group, int i, recipe_part p, bool polish_only,
                              const float *scale, double mean[BAL_MODALITIES], bal_error *err)
{
    const bal_recipe *r = s->j->recipe;
    const bool reads = p.feedback || p.clip || p.polish; /* moments */
    const int linear = linear_of(group, i);
    for (int g = 0; g < bal_row_groups(r); g++) {
        const bal_range rows = bal_row_group(r, (size_t)s->next[i].n, g);
        bal_quantized_linear mine = rows_of(&s->next[i], rows);
        BAL_TRY(bal_tokens_weigh(&s->tokens, s->j, (bal_part_of_group){group, linear, g}, err));
        for (int m = 0; m < BAL_MODALITIES; m++)
            mean[m] += s->tokens.weight[m] * mine.n / outputs_of(s, group);
        close_moments(s);
        if (reads) BAL_TRY(gather_moments(s, group, scale, err));
        if (reads) BAL_TRY(use_moments(s, group, linear, err));
        BAL_TRY(build_codes(s, linear, p, polish_only,
                            target_of(s, p, i) + rows.begin * (size_t)mine.k, scale, &mine, err));
    }
    return BAL_OK;
}

/* next[] = the solution with these parts, made anew or from best[]: polished, or with the same
 * codes and what stands beside them. */
static bal_status build(solving *s, int group, recipe_part p, build_from from, const float *scale,
                        bal_error *err)
{
    const bool apart = bal_tokens_apart(s->j->recipe, group);
    double mean[BAL_MODALITIES] = {0};
    for (int i = 0; i < count_of(group); i++) {
        const int linear = linear_of(group, i);
        bal_quantized_linear *q = &s->next[i];
        const float *target = apart ? NULL : target_of(s, p, i);
        const bool codes = from != FROM_CODES && (!p.low || patches(s));
        q->rank = 0;
        if (from != FROM_NOTHING) copy_solution(&s->best[i], q);
        if (apart)
            BAL_TRY(build_apart(s, group, i, p, from == FROM_UNPOLISHED, scale, mean, err));
        else if (codes)
            BAL_TRY(build_codes(s, linear, p, from == FROM_UNPOLISHED, target, scale, q, err));
        if (p.low) BAL_TRY(build_low(s, linear, p, target, scale, q, err));
    }
    if (apart) memcpy(s->tokens.weight, mean, sizeof mean);
    return BAL_OK;
}

static void quantized_row(const void *ctx, int r, float *out, float *work)
{
    (void)work;
    bal_quantized_row(ctx, r, out);
}

static void show(solving *s, int group, const bal_quantized_linear *q)
{
    bal_block_job *j = s->j;
    for (int i = 0; i < count_of(group); i++) {
        bal_wide *w = &j->trial.w[linear_of(group, i)];
        bal_wide_fill(&j->trial, j->e, linear_of(group, i), quantized_row, &q[i]);
        w->rank = q[i].low_vision ? q[i].rank : 0;
        w->low_a = q[i].low_a;
        w->low_b = q[i].low_b;
    }
    j->trial.act[group] = j->act[group];
}

/* Tries next[] and takes it over unless it is worse and the recipe undoes that. */
static bal_status judge(solving *s, int group, const char *name, bal_group_log *log, bool *kept,
                        bal_error *err)
{
    double error;
    show(s, group, s->next);
    BAL_TRY(sub_error(s, bal_group_table[group].sub, &error, err));
    if (!isfinite(error))
        return bal_fail(err, BAL_E_NUMERIC, "layer %d, %s: the error behind step %s is %g",
                        s->j->index, bal_group_table[group].name, name, error);
    *kept = log->n_steps == 0 || !s->j->recipe->undo || error <= log->error;
    log->step[log->n_steps++] = (bal_step_log){name, error, *kept};
    if (!*kept) return BAL_OK;
    log->error = error;
    for (int i = 0; i < count_of(group); i++) {
        const bal_quantized_linear was = s->best[i];
        s->best[i] = s->next[i];
        s->next[i] = was;
    }
    return BAL_OK;
}

static bal_status try_step(solving *s, int group, recipe_part *have, recipe_part want,
                           const char *name, const float *scale, bal_group_log *log, bal_error *err)
{
    bool kept;
    const bool alike =
        want.shift == have->shift && want.clip == have->clip && want.feedback == have->feedback;
    build_from from = FROM_NOTHING;
    if (alike && want.polish && !have->polish && !want.low) from = FROM_UNPOLISHED;
    if (alike && want.polish == have->polish && want.low && patches(s)) from = FROM_CODES;
    BAL_TRY(build(s, group, want, from, scale, err));
    BAL_TRY(judge(s, group, name, log, &kept, err));
    if (kept) *have = want;
    return BAL_OK;
}

/* Plain rounding first, then each ingredient on top of those that stayed. */
static bal_status climb(solving *s, int group, const float *scale, bal_group_log *log,
                        bal_error *err)
{
    const bal_recipe *r = s->j->recipe;
    const recipe_part all = {r->solver != BAL_SOLVER_ROUND, r->clip != BAL_CLIP_NONE, shifts(s),
                             r->polish != BAL_POLISH_NONE, r->rank > 0};
    recipe_part have = {0}, want;
    BAL_TRY(try_step(s, group, &have, have, "round", scale, log, err));
    if (!r->undo) return try_step(s, group, &have, all, "solve", scale, log, err);
    for (int i = 0; i < 5; i++) {
        const bool descent = r->solver == BAL_SOLVER_DESCENT;
        const char *const name[] = {descent ? "descent" : "gptq", "clip", "shift", "polish",
                                    "rank"};
        want = have;
        if (i == 0) want.feedback = all.feedback;
        if (i == 1) want.clip = all.clip;
        if (i == 2) want.shift = all.shift;
        if (i == 3) want.polish = all.polish;
        if (i == 4) want.low = all.low;
        if (memcmp(&want, &have, sizeof want) == 0) continue;
        BAL_TRY(try_step(s, group, &have, want, name[i], scale, log, err));
    }
    return BAL_OK;
}

static bal_status solve_group(solving *s, int group, bal_quantized_linear *out, bal_group_log *log,
                              bal_error *err)
{
    bal_status st = open_group(s, group, log->scale, err);
    if (st < 0)
        bal_fail_in(err, st, "layer %d, %s", s->j->index, bal_group_table[group].name);
    else
        st = climb(s, group, log->scale, log, err);
    log->damp = s->factor.damp;
    for (int i = 0; st >= 0 && i < count_of(group); i++) /* zeros where it was undone */
        st = bal_quantized_linear_rank(
            &s->best[i], bal_lowrank_of(s->j->recipe->rank, s->best[i].n, s->best[i].k), err);
    if (st >= 0) show(s, group, s->best);
    for (int i = 0; st >= 0 && i < count_of(group); i++) {
        out[linear_of(group, i)] = s->best[i];
        s->best[i] = (bal_quantized_linear){0};
    }
    close_group(s);
    return st < 0 ? st : bal_job_step(s->j, "solve", err);
}

/* ---- The block --------------------------------------------------------------------------------
 */

static bal_status create(solving *s, const char *dir, bal_error *err)
{
    const bal_block_job *j = s->j;
    const size_t rows = (size_t)j->samples->max_len;
    const size_t wide = bal_max((size_t)j->trial.widest, (size_t)j->c->hidden);
    s->u = malloc(rows * wide * sizeof *s->u);
    s->d = malloc(rows * wide * sizeof *s->d);
    s->r = malloc(rows * wide * sizeof *s->r);
    s->work = malloc(rows * wide * sizeof *s->work);
    s->judging = malloc((size_t)j->samples->n * sizeof *s->judging);
    if (patches(s)) s->v = malloc(rows * wide * sizeof *s->v);
    bool whole = s->u && s->d && s->r && s->work && s->judging && (s->v || !patches(s));
    for (int i = 0; j->samples->rank && i < (patches(s) ? 4 : 3); i++) {
        s->got[i] = malloc(rows * wide * sizeof *s->got[i]);
        whole = whole && s->got[i];
    }
    if (!whole) return bal_nomem(err, rows * wide * sizeof *s->u, "rows of a sample");
    for (int i = 0; i < 2; i++)
        BAL_TRY(bal_store_create(&s->at[i], dir, j->samples, j->c->hidden, err));
    return BAL_OK;
}

static void destroy(solving *s)
{
    close_group(s);
    for (int i = 0; i < 2; i++) bal_store_destroy(&s->at[i]);
    free(s->u);
    free(s->d);
    free(s->r);
    free(s->work);
    free(s->v);
    for (int i = 0; i < 4; i++) free(s->got[i]);
    free(s->judging);
    bal_tokens_destroy(&s->tokens);
}

static bal_status run(solving *s, bal_quantized_linear out[BAL_DECODER_LINEARS],
                      bal_group_log log[BAL_GROUPS], const char *dir, bal_error *err)
{
    bal_block_job *j = s->j;
    BAL_TRY(create(s, dir, err));
    bal_wide_copy_all(&j->trial, j->e, &j->work.l);
    BAL_TRY(bal_tokens_create(&s->tokens, j, s->in_float, s->in_quant, err));
    for (int g = 0; g < BAL_GROUPS; g++) {
        if (g == BAL_GROUP_GATE_UP) BAL_TRY(advance(s, err));
        BAL_TRY(solve_group(s, g, out, &log[g], err));
    }
    return BAL_OK;
}

bal_status bal_job_solve(bal_block_job *j, bal_quantized_linear out[BAL_DECODER_LINEARS],
                         bal_group_log log[BAL_GROUPS], const char *dir, bal_error *err)
{
    const bool quantized = j->recipe->inputs == BAL_INPUTS_QUANTIZED;
    solving s = {.j = j, .in_float = j->in_float};
    s.in_quant = quantized ? j->in_quant : j->in_float;
    const bal_status st = run(&s, out, log, dir, err);
    destroy(&s);
    return st;
}
