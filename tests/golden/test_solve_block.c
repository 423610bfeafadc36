/* SPDX-License-Identifier: MIT
 * Solving a block by error feedback, with the quantized stream a little off the float one: better
 * than rounding, the same on every number of threads, steps that worsen undone, weightings that
 * mean the same give the same codes, shifts only where there is something to make up for. */
#include "quant_case.h"

#include "base/rng.h"
#include "quant/fold.h"

#include <math.h>

static const double half[BAL_SUBS] = {0.5, 0.5};

typedef struct drifted {
    quant_case q;
    bal_store quant; /* embeds plus noise */
} drifted;

static void drift_open(drifted *d, const char *name, int threads, float noise)
{
    bal_error err = {0};
    bal_rng rng;
    case_open(&d->q, name, threads);
    bal_rng_seed(&rng, 4);
    const size_t hidden = (size_t)d->q.embeds.cols;
    ASSERT_OK(bal_store_create(&d->quant, "/tmp", &d->q.samples, (int)hidden, &err));
    for (int i = 0; i < CASE_SAMPLES; i++) {
        const size_t n = (size_t)d->q.items[i].n * hidden;
        float *h = malloc(n * sizeof *h);
        ASSERT_OK(bal_store_read(&d->q.embeds, i, h, &err));
        for (size_t c = 0; c < n; c++) h[c] += noise * (bal_rng_f32(&rng) - 0.5f);
        ASSERT_OK(bal_store_write(&d->quant, i, h, &err));
        free(h);
    }
}

static void drift_close(drifted *d)
{
    bal_store_destroy(&d->quant);
    case_close(&d->q);
}

static bal_recipe gptq(void)
{
    return (bal_recipe){.name = "test",
                        .bits = 3,
                        .group = 32,
                        .balance = BAL_BALANCE_GRADIENT,
                        .loss = BAL_LOSS_MSE,
                        .solver = BAL_SOLVER_GPTQ,
                        .inputs = BAL_INPUTS_QUANTIZED,
                        .damp = 10,
                        .order = BAL_ORDER_DIAG,
                        .ridge = 100,
                        .shift_part = 100};
}

static bal_recipe everything(void)
{
    bal_recipe r = gptq();
    r.clip = BAL_CLIP_INVERSE;
    r.shift = BAL_SHIFT_RESIDUAL;
    r.polish = BAL_POLISH_REFIT;
    r.gain = true;
    r.undo = true;
    return r;
}

static bal_status solve(bal_block_result *out, drifted *d, const bal_recipe *r, const double *ratio,
                        bal_error *err)
{
    return bal_block_solve(out, &d->q.exec, &d->q.model.config.text, &d->q.model.layers[0], 0,
                           &d->q.samples, &d->q.embeds, &d->quant, ratio, r, "/tmp", NULL, NULL,
                           err);
}

static void assert_same_codes(const bal_block_result *a, const bal_block_result *b)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_quantized_linear *x = &a->linear[i], *y = &b->linear[i];
        const size_t n = (size_t)x->n, p = n * (size_t)bal_group_count(x->k, x->group);
        assert_memory_equal(x->codes, y->codes, n * (size_t)x->k);
        assert_memory_equal(x->scales, y->scales, p * sizeof *x->scales);
        assert_memory_equal(x->zeros, y->zeros, p);
    }
}

static bool same_codes(const bal_block_result *a, const bal_block_result *b, int i)
{
    const size_t n = (size_t)a->linear[i].n * (size_t)a->linear[i].k;
    return memcmp(a->linear[i].codes, b->linear[i].codes, n) == 0;
}

static double balanced(const bal_sub_error *e)
{
    return e->mse[BAL_ANSWER] + 0.5 * e->mse[BAL_VISION];
}

/* ---- Better, and always the same --------------------------------------------------------------
 */

static void test_better_than_rounding(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_block_result r;
    drift_open(&d, "tiled", 2, 0.0f);
    for (int bits = 2; bits <= 4; bits++)
        for (int clip = BAL_CLIP_NONE; clip <= BAL_CLIP_PIVOT; clip++) {
            if (clip == BAL_CLIP_AWQ) continue;
            bal_recipe recipe = gptq();
            recipe.bits = bits;
            recipe.clip = (bal_clip)clip;
            ASSERT_OK(solve(&r, &d, &recipe, half, &err));
            for (int sub = 0; sub < BAL_SUBS; sub++)
                if (balanced(&r.final[sub]) > 0.8 * balanced(&r.rtn[sub]))
                    fail_msg("%d bits, clip %d, half %d: %g, rounding leaves %g", bits, clip, sub,
                             balanced(&r.final[sub]), balanced(&r.rtn[sub]));
            bal_block_result_free(&r);
        }
    drift_close(&d);
}

/* Coordinate descent alone: better than rounding, other codes than error feedback. */
static void test_descent(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_block_result r, other;
    drift_open(&d, "tiled", 2, 0.0f);
    bal_recipe recipe = gptq();
    ASSERT_OK(solve(&other, &d, &recipe, half, &err));
    recipe.solver = BAL_SOLVER_DESCENT;
    ASSERT_OK(solve(&r, &d, &recipe, half, &err));
    for (int sub = 0; sub < BAL_SUBS; sub++)
        assert_true(balanced(&r.final[sub]) < 0.8 * balanced(&r.rtn[sub]));
    assert_false(same_codes(&r, &other, BAL_LINEAR_DOWN));
    bal_block_result_free(&r);
    bal_block_result_free(&other);
    drift_close(&d);
}

static void test_threads(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_block_result first, other;
    for (int threads = 1; threads <= 7; threads += 3) {
        drifted d;
        drift_open(&d, "mha", threads, 0.1f);
        bal_recipe r = everything();
        r.scale = BAL_SCALE_SEARCH;
        ASSERT_OK(solve(threads == 1 ? &first : &other, &d, &r, half, &err));
        if (threads > 1) {
            assert_same_codes(&first, &other);
            bal_block_result_free(&other);
        }
        drift_close(&d);
    }
    bal_block_result_free(&first);
}

/* ---- Steps ------------------------------------------------------------------------------------
 */

static void check_steps(const bal_group_log *log, int *kept, int *undone)
{
    assert_true(log->n_steps >= 3 && log->damp == 0.01);
    assert_string_equal(log->step[0].name, "round");
    double before = log->step[0].error;
    for (int i = 1; i < log->n_steps; i++) {
        const bal_step_log *s = &log->step[i];
        assert_true(s->kept == (s->error <= before));
        if (s->kept) before = s->error;
        *kept += s->kept;
        *undone += !s->kept;
    }
    assert_true(before == log->error);
}

static void test_worse_steps_are_undone(void **state)
{
    (void)state;
    bal_error err = {0};
    int kept = 0, undone = 0;
    drifted d;
    bal_block_result r;
    drift_open(&d, "mha", 2, 0.1f);
    for (int bits = 2; bits <= 4; bits++) {
        bal_recipe recipe = everything();
        recipe.bits = bits;
        ASSERT_OK(solve(&r, &d, &recipe, half, &err));
        for (int g = 0; g < BAL_GROUPS; g++) check_steps(&r.group[g], &kept, &undone);
        bal_block_result_free(&r);
    }
    printf("steps: %d kept, %d undone\n", kept, undone);
    assert_true(kept >= 20 && undone > 0);
    drift_close(&d);
}

static void test_without_undo_all_stays(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_block_result r;
    drift_open(&d, "tiled", 2, 0.1f);
    bal_recipe recipe = everything();
    recipe.undo = false;
    ASSERT_OK(solve(&r, &d, &recipe, half, &err));
    for (int g = 0; g < BAL_GROUPS; g++) {
        assert_int_equal(r.group[g].n_steps, 2);
        assert_string_equal(r.group[g].step[1].name, "solve");
        assert_true(r.group[g].step[1].kept);
    }
    bal_block_result_free(&r);
    drift_close(&d);
}

/* ---- Weightings -------------------------------------------------------------------------------
 */

static void test_weightings(void **state)
{
    (void)state;
    bal_error err = {0};
    const double one[BAL_SUBS] = {1.0, 1.0}, quarter[BAL_SUBS] = {0.25, 0.25};
    drifted d;
    bal_block_result a, b;
    drift_open(&d, "tiled", 2, 0.0f);
    bal_recipe gradient = gptq(), other = gptq();

    other.balance = BAL_BALANCE_ONE; /* r = 1 is balance one */
    ASSERT_OK(solve(&a, &d, &gradient, one, &err));
    ASSERT_OK(solve(&b, &d, &other, half, &err));
    assert_same_codes(&a, &b);
    bal_block_result_free(&b);

    other.balance = BAL_BALANCE_GRADIENT; /* another r is not */
    ASSERT_OK(solve(&b, &d, &other, half, &err));
    assert_false(same_codes(&a, &b, BAL_LINEAR_DOWN));
    bal_block_result_free(&a);
    bal_block_result_free(&b);

    other.hessian = BAL_HESSIAN_SQUARED; /* r^2 of 0.5 is 0.25 */
    ASSERT_OK(solve(&a, &d, &gradient, quarter, &err));
    ASSERT_OK(solve(&b, &d, &other, half, &err));
    assert_same_codes(&a, &b);
    bal_block_result_free(&a);
    bal_block_result_free(&b);

    gradient.balance = BAL_BALANCE_OFF; /* every token alike, whatever the loss says */
    other.hessian = BAL_HESSIAN_ALL;
    ASSERT_OK(solve(&a, &d, &gradient, half, &err));
    ASSERT_OK(solve(&b, &d, &other, half, &err));
    assert_same_codes(&a, &b);
    bal_block_result_free(&a);
    bal_block_result_free(&b);

    gradient = gptq(); /* vision at r = 0 is answers alone */
    other.hessian = BAL_HESSIAN_ANSWER;
    ASSERT_OK(solve(&a, &d, &gradient, (const double[]){0.0, 0.0}, &err));
    ASSERT_OK(solve(&b, &d, &other, half, &err));
    assert_same_codes(&a, &b);
    bal_block_result_free(&a);
    bal_block_result_free(&b);
    drift_close(&d);
}

/* gradients of every token: `value`, and `vision` for vision tokens; spike: for the very first */
static void gradient_store(drifted *d, bal_store *g, float value, float vision, float spike)
{
    bal_error err = {0};
    ASSERT_OK(bal_store_create(g, "/tmp", &d->q.samples, BAL_GROUPS, &err));
    for (int i = 0; i < CASE_SAMPLES; i++) {
        const bal_sample *s = &d->q.items[i];
        float *rows = malloc((size_t)s->n * BAL_GROUPS * sizeof *rows);
        for (int t = 0; t < s->n * BAL_GROUPS; t++)
            rows[t] = s->modality[t / BAL_GROUPS] == BAL_VISION ? vision : value;
        if (i == 0) rows[0] = rows[1] = rows[2] = rows[3] = spike;
        ASSERT_OK(bal_store_write(g, i, rows, &err));
        free(rows);
    }
    d->q.samples.gradients = g;
}

/* Weights of single tokens: all alike is hessian=all; one token's spike counts raw, not when cut
 * off. */
static void test_token_weights(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_store g;
    bal_block_result a, b;
    drift_open(&d, "tiled", 2, 0.0f);
    bal_recipe all = gptq(), token = gptq();
    all.hessian = BAL_HESSIAN_ALL;
    token.hessian = BAL_HESSIAN_GRAD2;
    ASSERT_FAILS(BAL_E_ARG, "gradients of tokens", solve(&a, &d, &token, half, &err));
    ASSERT_OK(solve(&a, &d, &all, half, &err));

    gradient_store(&d, &g, 0.25f, 0.25f, 0.25f);
    for (int kind = BAL_HESSIAN_GRAD2; kind <= BAL_HESSIAN_GRAD2_MEAN; kind++) {
        token.hessian = (bal_hessian)kind;
        ASSERT_OK(solve(&b, &d, &token, half, &err));
        assert_same_codes(&a, &b);
        bal_block_result_free(&b);
    }
    bal_store_destroy(&g);

    gradient_store(&d, &g, 0.25f, 0.25f, 1e6f);
    token.hessian = BAL_HESSIAN_GRAD2;
    ASSERT_OK(solve(&b, &d, &token, half, &err));
    assert_same_codes(&a, &b);
    bal_block_result_free(&b);
    token.hessian = BAL_HESSIAN_GRAD2_RAW;
    ASSERT_OK(solve(&b, &d, &token, half, &err));
    assert_false(same_codes(&a, &b, BAL_LINEAR_DOWN));
    bal_block_result_free(&b);
    bal_store_destroy(&g);

    gradient_store(&d, &g, 0.25f, 0.0f, 0.25f); /* vision without any is text alone */
    token.hessian = BAL_HESSIAN_GRAD2_MEAN;
    ASSERT_OK(solve(&b, &d, &token, half, &err));
    assert_false(same_codes(&a, &b, BAL_LINEAR_DOWN));
    bal_block_result_free(&a);
    all = gptq();
    all.language = BAL_LANGUAGE_TEXT;
    ASSERT_OK(solve(&a, &d, &all, (const double[]){0.0, 0.0}, &err));
    assert_same_codes(&a, &b);
    bal_block_result_free(&a);
    bal_block_result_free(&b);
    bal_store_destroy(&g);
    gradient_store(&d, &g, 0.0f, 0.0f, 0.0f);
    ASSERT_FAILS(BAL_E_NUMERIC, "sum to 0", solve(&a, &d, &token, half, &err));
    bal_store_destroy(&g);
    drift_close(&d);
}

/* Store of the columns of row groups: every linear's part `odd` sees no vision, the others see it
 * as text. */
static void part_store(drifted *d, bal_store *g, int parts, int odd)
{
    bal_error err = {0};
    const int cols = parts * BAL_DECODER_LINEARS;
    ASSERT_OK(bal_store_create(g, "/tmp", &d->q.samples, cols, &err));
    for (int i = 0; i < CASE_SAMPLES; i++) {
        const bal_sample *s = &d->q.items[i];
        float *rows = malloc((size_t)(s->n * cols) * sizeof *rows);
        for (int t = 0; t < s->n * cols; t++)
            rows[t] = t % parts == odd && s->modality[t / cols] == BAL_VISION ? 0.0f : 0.25f;
        ASSERT_OK(bal_store_write(g, i, rows, &err));
        free(rows);
    }
    d->q.samples.gradients = g;
}

static void assert_same_rows(const bal_quantized_linear *a, const bal_quantized_linear *b,
                             size_t begin, size_t end)
{
    const size_t k = (size_t)a->k, groups = (size_t)bal_group_count(a->k, a->group);
    assert_memory_equal(a->codes + begin * k, b->codes + begin * k, (end - begin) * k);
    assert_memory_equal(a->scales + begin * groups, b->scales + begin * groups,
                        (end - begin) * groups * sizeof *a->scales);
}

/* Outputs in groups with moments of their own: each is solved as the whole would be with its
 * weights. On float inputs, so that no linear sees what another one became. */
static void test_row_groups(void **state)
{
    (void)state;
    enum { PARTS = 4, ODD = 2 };
    bal_error err = {0};
    drifted d;
    bal_store g;
    bal_block_result all, text, parts;
    drift_open(&d, "tiled", 2, 0.0f);
    bal_recipe r = gptq();
    r.inputs = BAL_INPUTS_FLOAT;
    r.gain = true;
    r.hessian = BAL_HESSIAN_GRAD2_RAW;
    gradient_store(&d, &g, 0.25f, 0.25f, 0.25f);
    ASSERT_OK(solve(&all, &d, &r, half, &err));
    bal_store_destroy(&g);
    gradient_store(&d, &g, 0.25f, 0.0f, 0.25f);
    ASSERT_OK(solve(&text, &d, &r, half, &err));
    bal_store_destroy(&g);
    r.row_groups = PARTS;
    part_store(&d, &g, PARTS, ODD);
    ASSERT_OK(solve(&parts, &d, &r, half, &err));
    bal_store_destroy(&g);
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const size_t n = (size_t)parts.linear[i].n;
        for (size_t p = 0; p < PARTS; p++)
            assert_same_rows(&parts.linear[i], p == ODD ? &text.linear[i] : &all.linear[i],
                             n * p / PARTS, n * (p + 1) / PARTS);
        assert_false(same_codes(&all, &text, i));
    }
    /* verdicts go by the mean of all parts' weights: of the first group, plain rounding */
    const double want = (double)(PARTS - 1) / PARTS * all.group[0].step[0].error +
                        text.group[0].step[0].error / PARTS;
    assert_true(fabs(parts.group[0].step[0].error - want) < 1e-5 * want);
    bal_block_result_free(&all);
    bal_block_result_free(&text);
    bal_block_result_free(&parts);
    drift_close(&d);
}

/* The rows of sample `sample` times x in both streams. */
static void scale_sample(drifted *d, int sample, float x)
{
    bal_error err = {0};
    bal_store *const streams[] = {&d->q.embeds, &d->quant};
    const size_t n = (size_t)d->q.items[sample].n * (size_t)d->q.embeds.cols;
    float *rows = malloc(n * sizeof *rows);
    for (int s = 0; s < 2; s++) {
        ASSERT_OK(bal_store_read(streams[s], sample, rows, &err));
        for (size_t i = 0; i < n; i++) rows[i] *= i % 3 == 0 ? x : 1.0f;
        ASSERT_OK(bal_store_write(streams[s], sample, rows, &err));
    }
    free(rows);
}

/* Weights by the block's own loss are all alike where nothing was lost; what folding channel scales
 * rounds is no loss. */
static void test_local_without_loss(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_block_result a, b;
    bal_recipe all = gptq();
    all.hessian = BAL_HESSIAN_ALL;
    all.alpha = 50;
    all.arithmetic = BAL_ARITH_BF16;
    drift_open(&d, "tiled", 2, 0.0f);
    for (int scale = BAL_SCALE_NONE; scale <= BAL_SCALE_SMOOTH; scale++) {
        if (scale == BAL_SCALE_SEARCH) continue;
        all.scale = (bal_scale)scale;
        bal_recipe local = all;
        local.hessian = BAL_HESSIAN_LOCAL;
        ASSERT_OK(solve(&a, &d, &all, half, &err));
        ASSERT_OK(solve(&b, &d, &local, half, &err));
        assert_same_codes(&a, &b);
        bal_block_result_free(&a);
        bal_block_result_free(&b);
    }
    drift_close(&d);
}

/* A sample of which nothing was lost has no say in q, k, v and o. */
static void test_local_weights(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_block_result a, b;
    bal_recipe all = gptq(), local = gptq();
    all.hessian = BAL_HESSIAN_ALL;
    local.hessian = BAL_HESSIAN_LOCAL;
    drift_open(&d, "tiled", 2, 0.0f);
    const size_t n = (size_t)d.q.items[0].n * (size_t)d.q.embeds.cols;
    float *rows = malloc(n * sizeof *rows);
    ASSERT_OK(bal_store_read(&d.quant, 0, rows, &err));
    for (size_t i = 0; i < n; i++) rows[i] += 0.05f * (float)(i % 7) - 0.15f;
    ASSERT_OK(bal_store_write(&d.quant, 0, rows, &err));
    free(rows);
    ASSERT_OK(solve(&a, &d, &local, half, &err));
    scale_sample(&d, 1, 3.0f);
    ASSERT_OK(solve(&b, &d, &local, half, &err));
    for (int i = 0; i < 4; i++) assert_true(same_codes(&a, &b, i));
    bal_block_result_free(&b);
    ASSERT_OK(solve(&b, &d, &all, half, &err));
    for (int i = 0; i < 4; i++) assert_false(same_codes(&a, &b, i));
    bal_block_result_free(&a);
    bal_block_result_free(&b);
    drift_close(&d);
}

/* Where both streams are one, quantized inputs of q, k and v are the float ones, and the first
 * group has nothing to shift for; the groups behind it have. */
static void test_streams(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_block_result a, b;
    drift_open(&d, "tiled", 2, 0.0f);
    bal_recipe flat = gptq(), quantized = gptq();
    flat.inputs = BAL_INPUTS_FLOAT;
    ASSERT_OK(solve(&a, &d, &flat, half, &err));
    ASSERT_OK(solve(&b, &d, &quantized, half, &err));
    for (int i = BAL_LINEAR_Q; i <= BAL_LINEAR_V; i++) assert_true(same_codes(&a, &b, i));
    assert_false(same_codes(&a, &b, BAL_LINEAR_O));
    bal_block_result_free(&a);
    quantized.shift = BAL_SHIFT_INPUTS;
    ASSERT_OK(solve(&a, &d, &quantized, half, &err));
    for (int i = BAL_LINEAR_Q; i <= BAL_LINEAR_V; i++) assert_true(same_codes(&a, &b, i));
    assert_false(same_codes(&a, &b, BAL_LINEAR_O));
    assert_false(same_codes(&a, &b, BAL_LINEAR_DOWN));
    bal_block_result_free(&a);
    bal_block_result_free(&b);
    drift_close(&d);
}

/* The step errors are those of the drifted stream: a shift must lower them. */
static void test_shift_helps(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_block_result with[3];
    drift_open(&d, "tiled", 2, 0.5f);
    for (int shift = BAL_SHIFT_OFF; shift <= BAL_SHIFT_RESIDUAL; shift++) {
        bal_recipe r = gptq();
        r.shift = (bal_shift)shift;
        ASSERT_OK(solve(&with[shift], &d, &r, half, &err));
    }
    const double off = with[0].group[BAL_GROUP_DOWN].error;
    const double inputs = with[1].group[BAL_GROUP_DOWN].error;
    const double residual = with[2].group[BAL_GROUP_DOWN].error;
    printf("behind the block: %g, shifted %g, with the residual %g\n", off, inputs, residual);
    assert_true(inputs < off && residual < 0.9 * inputs);
    for (int i = 0; i < 3; i++) bal_block_result_free(&with[i]);
    drift_close(&d);
}

/* ---- Outlier channels -------------------------------------------------------------------------
 */

/* Errors of both halves with some input channels' weights `factor` times larger and these inputs as
 * much smaller: the block computes the same. */
static double blown_up(drifted *d, const bal_recipe *r, float factor)
{
    bal_error err = {0};
    bal_layer_copy copy;
    bal_block_result out;
    const bal_text_config *c = &d->q.model.config.text;
    float s[512];
    ASSERT_OK(bal_layer_copy_create(&copy, d->q.pool, c, &d->q.model.layers[0], 0, &err));
    for (int g = 0; g < BAL_GROUPS; g++) {
        const int k = bal_layer_linear(&copy.l, bal_group_table[g].first)->k;
        for (int i = 0; i < k; i++) s[i] = i % 32 == 5 ? factor : 1.0f;
        if (g != BAL_GROUP_O) bal_fold_group(&copy, d->q.pool, g, s, BAL_ARITH_F32);
    }
    ASSERT_OK(bal_block_solve(&out, &d->q.exec, c, &copy.l, 0, &d->q.samples, &d->q.embeds,
                              &d->quant, half, r, "/tmp", NULL, NULL, &err));
    const double error = balanced(&out.final[BAL_SUB_ATTN]) + balanced(&out.final[BAL_SUB_MLP]);
    bal_block_result_free(&out);
    bal_layer_copy_destroy(&copy);
    return error;
}

/* Ranges that one channel has to itself leave nothing for the others; a scale search gives it back,
 * whatever codes are chosen behind it. */
static void test_outlier_channels(void **state)
{
    (void)state;
    drifted d;
    drift_open(&d, "tiled", 2, 0.0f);
    for (int solver = BAL_SOLVER_ROUND; solver <= BAL_SOLVER_GPTQ; solver++)
        for (int scale = BAL_SCALE_NONE; scale <= BAL_SCALE_SEARCH; scale++) {
            bal_recipe r = gptq();
            r.solver = (bal_solver)solver;
            r.scale = (bal_scale)scale;
            const double plain = blown_up(&d, &r, 1.0f), blown = blown_up(&d, &r, 64.0f);
            printf("solver %d, scale %d: %g, blown up %g\n", solver, scale, plain, blown);
            assert_true(scale == BAL_SCALE_SEARCH ? blown < 2.0 * plain : blown > 5.0 * plain);
        }
    drift_close(&d);
}

/* Inputs that are always 0, groups of one weight, an input of 1e6: every ingredient still ends in
 * finite errors, below those of rounding where the spike is not. */
static void test_odd_blocks(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_layer_copy copy;
    bal_block_result out;
    drift_open(&d, "tiled", 2, 0.1f);
    const bal_text_config *c = &d.q.model.config.text;
    const size_t hidden = (size_t)c->hidden;
    ASSERT_OK(bal_layer_copy_create(&copy, d.q.pool, c, &d.q.model.layers[0], 0, &err));
    for (size_t i = 0; i < 7; i++) copy.attn_norm[9 * i] = copy.mlp_norm[8 * i + 1] = 0.0f;
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        for (int k = 0; k < 32; k++) copy.w[i][k] = i % 2 ? 0.0f : 0.75f;
    bal_recipe r = everything();
    ASSERT_OK(bal_block_solve(&out, &d.q.exec, c, &copy.l, 0, &d.q.samples, &d.q.embeds, &d.quant,
                              half, &r, "/tmp", NULL, NULL, &err));
    for (int sub = 0; sub < BAL_SUBS; sub++)
        assert_true(balanced(&out.final[sub]) < balanced(&out.rtn[sub]));
    bal_block_result_free(&out);

    float *h = malloc((size_t)d.q.items[1].n * hidden * sizeof *h);
    ASSERT_OK(bal_store_read(&d.q.embeds, 1, h, &err));
    h[3 * hidden + 17] = 1e6f;
    ASSERT_OK(bal_store_write(&d.q.embeds, 1, h, &err));
    ASSERT_OK(bal_store_write(&d.quant, 1, h, &err));
    free(h);
    ASSERT_OK(bal_block_solve(&out, &d.q.exec, c, &copy.l, 0, &d.q.samples, &d.q.embeds, &d.quant,
                              half, &r, "/tmp", NULL, NULL, &err));
    /* the solver still does more than rounding, and what the outlier leaves is a number */
    for (int sub = 0; sub < BAL_SUBS; sub++)
        assert_true(balanced(&out.final[sub]) < balanced(&out.rtn[sub]));
    bal_block_result_free(&out);
    bal_layer_copy_destroy(&copy);
    drift_close(&d);
}

/* ---- Refusals ---------------------------------------------------------------------------------
 */

static void test_refusals(void **state)
{
    (void)state;
    bal_error err = {0};
    drifted d;
    bal_block_result r;
    drift_open(&d, "tiled", 1, 0.0f);
    bal_recipe recipe = gptq();
    ASSERT_FAILS(BAL_E_ARG, "quantized stream",
                 bal_block_solve(&r, &d.q.exec, &d.q.model.config.text, &d.q.model.layers[0], 0,
                                 &d.q.samples, &d.q.embeds, NULL, half, &recipe, "/tmp", NULL, NULL,
                                 &err));
    for (int i = 0; i < CASE_SAMPLES; i++)
        for (int t = 0; t < d.q.items[i].n; t++)
            if (d.q.items[i].modality[t] == BAL_VISION) d.q.items[i].modality[t] = BAL_PROMPT;
    ASSERT_OK(solve(&r, &d, &recipe, half, &err)); /* text alone is no error by itself */
    bal_block_result_free(&r);
    recipe.hessian = BAL_HESSIAN_VISION;
    ASSERT_FAILS(BAL_E_ARG, "0 vision tokens", solve(&r, &d, &recipe, half, &err));
    recipe = everything();
    recipe.inputs = BAL_INPUTS_FLOAT;
    ASSERT_FAILS(BAL_E_ARG, "shift needs inputs=quantized", solve(&r, &d, &recipe, half, &err));
    drift_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_better_than_rounding),
        cmocka_unit_test(test_descent),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_worse_steps_are_undone),
        cmocka_unit_test(test_without_undo_all_stays),
        cmocka_unit_test(test_weightings),
        cmocka_unit_test(test_token_weights),
        cmocka_unit_test(test_row_groups),
        cmocka_unit_test(test_local_without_loss),
        cmocka_unit_test(test_local_weights),
        cmocka_unit_test(test_streams),
        cmocka_unit_test(test_shift_helps),
        cmocka_unit_test(test_outlier_channels),
        cmocka_unit_test(test_odd_blocks),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
