/* SPDX-License-Identifier: MIT
 * A plan's KL, then the way from plan to plan. Each rank runs its own samples; their KL are joined
 * and added in the order of samples, so all ranks keep the same batches. Refuses hidden states that
 * are not finite. */
#include "quant/verify.h"

#include "quant/rules.h"
#include "run/sampler.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 32 }; /* of logits, at a time */

typedef struct verifier {
    const bal_widths_job *j;
    const bal_text_config *c;
    bal_samples samples; /* borrowed: the last of all */
    int first;           /* number of the first of them */
    bal_pass pass;
    bal_probe probe;
    bal_wide_layer wide;
    bal_store want, got; /* behind the last block: of the float model, of the plan at hand */
    float *h, *mid;      /* [max_len][hidden] */
    float *rows;         /* [ROWS][hidden] */
    float *logits[2];    /* [ROWS][vocab] */
    double *kl;          /* [samples] nats per answer token */
    double row_kl[ROWS];
    int *start, *bought, *now, *trial; /* [units] options */
    long done;                         /* blocks of all plans so far */
} verifier;

/* ---- KL of a plan -----------------------------------------------------------------------------
 */

static void fill_layer(verifier *v, int layer, const bal_linear_bits *bits)
{
    const bal_decoder_layer *from = &v->j->m->layers[layer];
    bal_wide_copy_rest(&v->wide, from);
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        bal_block_round(&v->wide, v->j->e, from, i, bits ? bits[layer][i] : 0, v->j->recipe);
}

static bal_status run_layer(verifier *v, int layer, bal_store *store, bal_error *err)
{
    for (int i = 0; i < v->samples.n; i++) {
        const bal_sample *s = &v->samples.items[i];
        if (!bal_rank_owns(v->samples.rank, i)) continue;
        if (layer == 0)
            BAL_TRY(bal_store_read(v->j->embeds, v->first + i, v->h, err));
        else
            BAL_TRY(bal_store_read(store, i, v->h, err));
        bal_pass_place(&v->pass, s);
        bal_probe_block(v->j->e, v->c, &v->wide, s->n, v->h, &v->probe, &v->pass, v->mid, v->h);
        const long at = bal_first_not_finite(v->h, (size_t)s->n * (size_t)v->c->hidden);
        if (at >= 0)
            return bal_fail(err, BAL_E_NUMERIC,
                            "sample %d, layer %d, all linears rounded: the block output is NaN or "
                            "Inf at position %ld",
                            v->first + i, layer, at / v->c->hidden);
        BAL_TRY(bal_store_write(store, i, v->h, err));
    }
    return BAL_OK;
}

/* All samples through all blocks; bits NULL: the float model. */
static bal_status run_model(verifier *v, const bal_linear_bits *bits, bal_store *store,
                            bal_error *err)
{
    const long most = (long)v->c->layers * (BAL_MOVE_BATCHES + 3);
    for (int layer = 0; layer < v->c->layers; layer++) {
        fill_layer(v, layer, bits);
        BAL_TRY(run_layer(v, layer, store, err));
        if (v->j->step && v->j->step(v->j->step_ctx, "plans", ++v->done, most))
            return bal_fail(err, BAL_E_CANCELLED, "cancelled while comparing plans of widths");
    }
    return BAL_OK;
}

static void kl_rows(void *ctx, size_t begin, size_t end, int lane)
{
    verifier *v = ctx;
    const int vocab = v->c->vocab;
    (void)lane;
    for (size_t r = begin; r < end; r++) {
        const float *p = v->logits[0] + r * (size_t)vocab, *q = v->logits[1] + r * (size_t)vocab;
        v->row_kl[r] = bal_kl(p, q, bal_log_sum_exp(q, vocab), vocab);
    }
}

/* Logits [n][vocab] of rows row[0 .. n-1] of h. */
static void logits_of(verifier *v, const float *h, const int *row, int n, float *logits)
{
    const size_t hidden = (size_t)v->c->hidden;
    for (int i = 0; i < n; i++)
        memcpy(v->rows + (size_t)i * hidden, h + (size_t)row[i] * hidden, hidden * sizeof *h);
    bal_decoder_logits(v->j->e, v->j->m, v->rows, n, &v->pass.buf, logits, (bal_taps){0});
}

static bal_status sample_kl(verifier *v, int i, bal_error *err)
{
    const bal_sample *s = &v->samples.items[i];
    const int most = v->pass.buf.max_m < ROWS ? v->pass.buf.max_m : ROWS;
    int row[ROWS], n, labels = 0;
    double sum = 0.0;
    BAL_TRY(bal_store_read(&v->want, i, v->h, err));
    BAL_TRY(bal_store_read(&v->got, i, v->mid, err));
    for (int from = 0; from + 1 < s->n; labels += n) {
        from = bal_sample_labels(s, from, most, row, &n);
        if (n == 0) continue;
        logits_of(v, v->h, row, n, v->logits[0]);
        logits_of(v, v->mid, row, n, v->logits[1]);
        bal_pool_run(v->j->e->pool, kl_rows, v, (size_t)n, 1);
        for (int r = 0; r < n; r++) sum += v->row_kl[r];
    }
    v->kl[i] = labels ? sum / labels : 0.0;
    return BAL_OK;
}

/* The mean over samples of the mean over answer tokens; v->want must be there. */
static bal_status plan_kl(verifier *v, const bal_linear_bits *bits, double *kl, bal_error *err)
{
    BAL_TRY(run_model(v, bits, &v->got, err));
    for (int i = 0; i < v->samples.n; i++)
        if (bal_rank_owns(v->samples.rank, i)) BAL_TRY(sample_kl(v, i, err));
    size_t one_each[BAL_PRICE_SAMPLES + 1];
    for (size_t i = 0; i <= BAL_PRICE_SAMPLES; i++) one_each[i] = i;
    BAL_TRY(
        bal_rank_join_samples(v->samples.rank, v->kl, one_each, v->samples.n, sizeof *v->kl, err));
    *kl = 0.0;
    for (int i = 0; i < v->samples.n; i++) *kl += v->kl[i] / v->samples.n;
    if (isfinite(*kl)) return BAL_OK;
    return bal_fail(err, BAL_E_NUMERIC, "a plan of widths: the KL of its answers is NaN or Inf");
}

/* ---- From plan to plan ------------------------------------------------------------------------
 */

/* Measures `choice`; it becomes v->now if nothing that was kept before it is better. */
static bal_status try_plan(verifier *v, bal_widths_plan *p, const bal_alloc_problem *problem,
                           const int *choice, double *best, bal_error *err)
{
    bal_widths_step *step = &p->step[p->n_steps++];
    bal_widths_set(p, choice);
    BAL_TRY(plan_kl(v, (const bal_linear_bits *)p->bits, &step->kl, err));
    step->n_bytes = bal_alloc_bytes(problem, choice);
    step->kept = step->kl < *best;
    if (!step->kept) return BAL_OK;
    *best = step->kl;
    memmove(v->now, choice, (size_t)problem->units * sizeof *choice);
    return BAL_OK;
}

static bal_status walk(verifier *v, bal_widths_plan *p, const bal_alloc_problem *problem,
                       bal_error *err)
{
    const size_t bytes = (size_t)problem->units * sizeof *v->now;
    bal_moves moves = {0};
    double best = INFINITY;
    BAL_TRY(bal_alloc_rules(v->start, problem, err));
    BAL_TRY(bal_allocate(v->bought, &p->result, problem, err));
    BAL_TRY(run_model(v, NULL, &v->want, err));
    BAL_TRY(try_plan(v, p, problem, v->start, &best, err));
    BAL_TRY(bal_moves_create(&moves, problem, v->start, v->bought, err));
    bool arrived = memcmp(v->start, v->bought, bytes) == 0;
    bal_status st = BAL_OK;
    while (st >= 0 && bal_moves_next(&moves, v->now, v->trial)) {
        st = try_plan(v, p, problem, v->trial, &best, err);
        arrived = arrived || memcmp(v->trial, v->bought, bytes) == 0;
    }
    bal_moves_destroy(&moves);
    if (st >= 0 && !arrived) st = try_plan(v, p, problem, v->bought, &best, err);
    bal_widths_set(p, v->now);
    p->result.n_bytes = bal_alloc_bytes(problem, v->now);
    p->result.cost = bal_alloc_cost(problem, v->now);
    p->result.proved = p->result.proved && memcmp(v->now, v->bought, bytes) == 0;
    return st;
}

/* ---- Memory -----------------------------------------------------------------------------------
 */

static bal_status allocate(verifier *v, int units, bal_error *err)
{
    const size_t hidden = (size_t)v->c->hidden, vocab = (size_t)v->c->vocab;
    const size_t state = (size_t)v->samples.max_len * hidden, n = (size_t)units;
    const size_t floats = 2 * state + ROWS * (hidden + 2 * vocab);
    v->h = malloc(floats * sizeof *v->h);
    v->kl = calloc(BAL_PRICE_SAMPLES, sizeof *v->kl);
    v->start = calloc(4 * n, sizeof *v->start);
    if (!v->h || !v->kl || !v->start)
        return bal_nomem(err, floats * sizeof *v->h, "logits of two models");
    v->mid = v->h + state;
    v->rows = v->mid + state;
    v->logits[0] = v->rows + ROWS * hidden;
    v->logits[1] = v->logits[0] + ROWS * vocab;
    v->bought = v->start + n;
    v->now = v->bought + n;
    v->trial = v->now + n;
    return BAL_OK;
}

static bal_status init(verifier *v, const bal_widths_job *j, int units, bal_error *err)
{
    const int n = j->samples->n < BAL_PRICE_SAMPLES ? j->samples->n : BAL_PRICE_SAMPLES;
    *v = (verifier){.j = j,
                    .c = &j->m->config.text,
                    .samples = *j->samples,
                    .first = j->samples->n - n,
                    .want.fd = -1,
                    .got.fd = -1};
    v->samples.items += v->first;
    v->samples.n = n;
    BAL_TRY(allocate(v, units, err));
    BAL_TRY(bal_pass_create(&v->pass, v->c, v->samples.max_len, err));
    BAL_TRY(bal_probe_create(&v->probe, j->e, v->c, v->samples.max_len, err));
    BAL_TRY(bal_wide_layer_create(&v->wide, j->e, &j->m->layers[0], err));
    BAL_TRY(bal_store_create(&v->want, j->tmp_dir, &v->samples, v->c->hidden, err));
    return bal_store_create(&v->got, j->tmp_dir, &v->samples, v->c->hidden, err);
}

static void deinit(verifier *v)
{
    bal_store_destroy(&v->want);
    bal_store_destroy(&v->got);
    bal_wide_layer_destroy(&v->wide);
    bal_probe_destroy(&v->probe);
    bal_pass_destroy(&v->pass);
    free(v->h);
    free(v->kl);
    free(v->start);
}

bal_status bal_widths_verify(bal_widths_plan *p, const bal_widths_job *j, uint64_t budget,
                             bal_error *err)
{
    verifier v;
    bal_alloc_problem problem;
    BAL_TRY(bal_widths_problem(&problem, p, j->m, j->recipe, budget, err));
    p->n_steps = 0;
    bal_status st = init(&v, j, problem.units, err);
    if (st >= 0) st = walk(&v, p, &problem, err);
    deinit(&v);
    free((void *)(uintptr_t)problem.option);
    return st;
}
