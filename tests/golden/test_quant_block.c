/* SPDX-License-Identifier: MIT
 * Solving a block: folding changes nothing, thread counts change nothing, weightings that mean the
 * same give the same, clips help or are undone, and bad input is named. */
#include "quant_case.h"

#include "base/rng.h"
#include "op/pointwise.h"
#include "quant/fold.h"
#include "quant/losses.h"
#include "quant/pass.h"

#include <math.h>

static const double half[BAL_SUBS] = {0.5, 0.5};

static bal_status solve(bal_block_result *out, quant_case *q, const bal_decoder_layer *l,
                        const bal_recipe *r, const double *ratio, bal_error *err)
{
    return bal_block_solve(out, &q->exec, &q->model.config.text, l, 0, &q->samples, &q->embeds,
                           r->distort ? &q->embeds : NULL, ratio, r, "/tmp", NULL, NULL, err);
}

/* Sample i through layer l. */
static float *run_block(quant_case *q, const bal_decoder_layer *l, int i)
{
    bal_error err = {0};
    bal_pass pass;
    const int n = q->items[i].n;
    float *h = malloc((size_t)n * (size_t)q->embeds.cols * sizeof *h);
    ASSERT_OK(bal_pass_create(&pass, &q->model.config.text, n, &err));
    const bal_rows rows = bal_pass_rows(&pass, n);
    ASSERT_OK(bal_store_read(&q->embeds, i, h, &err));
    bal_decoder_block(&q->exec, &q->model.config.text, l, &rows, h, &pass.buf, 0, (bal_taps){0});
    bal_pass_destroy(&pass);
    return h;
}

static void fold_all(quant_case *q, bal_layer_copy *copy, bool mha)
{
    bal_rng rng;
    float s[512];
    bal_rng_seed(&rng, 3);
    for (int g = 0; g < BAL_GROUPS; g++) {
        const int k = bal_layer_linear(&copy->l, bal_group_table[g].first)->k;
        if (g == BAL_GROUP_O && !mha) continue;
        for (int i = 0; i < k; i++) s[i] = powf(10.0f, bal_rng_f32(&rng) * 2 - 1);
        bal_fold_group(copy, q->pool, g, s, BAL_ARITH_F32);
    }
}

static void check_fold(const char *model)
{
    bal_error err = {0};
    quant_case q;
    bal_layer_copy copy;
    case_open(&q, model, 1);
    const bal_decoder_layer *l = &q.model.layers[1];
    ASSERT_OK(bal_layer_copy_create(&copy, q.pool, &q.model.config.text, l, 1, &err));
    fold_all(&q, &copy, strcmp(model, "mha") == 0);
    assert_true(copy.w[BAL_LINEAR_Q][0] != ((const float *)l->q.w)[0]);
    float *want = run_block(&q, l, 0), *got = run_block(&q, &copy.l, 0);
    double worst = 0.0, size = 0.0;
    for (int i = 0; i < q.items[0].n * q.embeds.cols; i++) {
        worst = fmax(worst, fabs((double)want[i] - (double)got[i]));
        size = fmax(size, fabs((double)want[i]));
    }
    if (worst > 1e-5 * size) fail_msg("%s: output off by %g of %g", model, worst, size);
    free(want);
    free(got);
    bal_layer_copy_destroy(&copy);
    case_close(&q);
}

static void test_fold_keeps_the_function(void **state)
{
    (void)state;
    check_fold("tiled");
    check_fold("mha");
}

static void assert_same(const bal_block_result *a, const bal_block_result *b)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_quantized_linear *x = &a->linear[i], *y = &b->linear[i];
        const size_t n = (size_t)x->n, p = n * (size_t)bal_group_count(x->k, x->group);
        assert_memory_equal(x->codes, y->codes, n * (size_t)x->k);
        assert_memory_equal(x->scales, y->scales, p * sizeof *x->scales);
        assert_memory_equal(x->zeros, y->zeros, p);
        if (a->bias[i]) assert_memory_equal(a->bias[i], b->bias[i], n * sizeof(float));
    }
    for (int g = 0; g < BAL_GROUPS; g++)
        assert_memory_equal(a->group[g].loss, b->group[g].loss, sizeof a->group[g].loss);
    assert_memory_equal(a->final, b->final, sizeof a->final);
    assert_memory_equal(a->rtn, b->rtn, sizeof a->rtn);
    const size_t hidden = (size_t)a->linear[0].k * sizeof(float);
    assert_memory_equal(a->attn_norm, b->attn_norm, hidden);
    assert_memory_equal(a->mlp_norm, b->mlp_norm, hidden);
}

static void test_threads(void **state)
{
    (void)state;
    bal_error err = {0};
    static const int threads[] = {1, 2, 7};
    static const bal_clip clips[] = {BAL_CLIP_AWQ, BAL_CLIP_DIAG, BAL_CLIP_BLOCK};
    bal_block_result first[3], other;
    for (int t = 0; t < 3; t++) {
        quant_case q;
        case_open(&q, "mha", threads[t]);
        q.samples.n = 1;
        for (int i = 0; i < 3; i++) {
            bal_recipe r = case_recipe();
            r.clip = clips[i];
            r.group = i == 2 ? 0 : 32;
            r.distort = i == 1;
            ASSERT_OK(solve(t == 0 ? &first[i] : &other, &q, &q.model.layers[0], &r, half, &err));
            if (t == 0) continue;
            assert_same(&first[i], &other);
            bal_block_result_free(&other);
        }
        case_close(&q);
    }
    for (int i = 0; i < 3; i++) bal_block_result_free(&first[i]);
}

/* Three ways of saying that every token counts the same: AWQ's form. */
static void test_equal_weights(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_block_result off, one, gradient;
    const double ones[BAL_SUBS] = {1.0, 1.0};
    case_open(&q, "tiled", 1);
    bal_recipe r = case_recipe();
    r.balance = BAL_BALANCE_OFF;
    ASSERT_OK(solve(&off, &q, &q.model.layers[0], &r, half, &err));
    r.balance = BAL_BALANCE_ONE;
    r.language = BAL_LANGUAGE_TEXT;
    ASSERT_OK(solve(&one, &q, &q.model.layers[0], &r, half, &err));
    r.balance = BAL_BALANCE_GRADIENT;
    r.statistic = BAL_STATISTIC_BALANCED;
    ASSERT_OK(solve(&gradient, &q, &q.model.layers[0], &r, ones, &err));
    assert_same(&off, &one);
    assert_same(&off, &gradient);
    assert_true(off.group[BAL_GROUP_QKV].best > 0);
    assert_false(off.group[BAL_GROUP_O].searched);
    bal_block_result_free(&off);
    bal_block_result_free(&one);
    bal_block_result_free(&gradient);
    case_close(&q);
}

/* The recipe's MAE of a sub-block, from the errors a result reports. */
static double balanced_mae(const quant_case *q, const bal_sub_error *e, double r)
{
    double n[BAL_MODALITIES] = {0};
    for (int i = 0; i < q->samples.n; i++)
        for (int t = 0; t < q->items[i].n; t++) n[q->items[i].modality[t]] += 1.0;
    return (n[BAL_ANSWER] * e->mae[BAL_ANSWER] + r * n[BAL_VISION] * e->mae[BAL_VISION]) /
           (n[BAL_ANSWER] + n[BAL_VISION]);
}

static bool same_codes(const bal_block_result *a, const bal_block_result *b, int i)
{
    const size_t n = (size_t)a->linear[i].n * (size_t)a->linear[i].k;
    return memcmp(a->linear[i].codes, b->linear[i].codes, n) == 0;
}

/* Clip against no clip on one layer; counts what was kept. */
static void check_clip(quant_case *q, const bal_decoder_layer *l, bal_clip clip, int bits,
                       int *undone, int *kept)
{
    bal_error err = {0};
    bal_block_result without, with;
    bal_recipe r = case_recipe();
    r.bits = bits;
    r.scale = BAL_SCALE_NONE;
    ASSERT_OK(solve(&without, q, l, &r, half, &err));
    r.clip = clip;
    ASSERT_OK(solve(&with, q, l, &r, half, &err));
    for (int sub = 0; sub < BAL_SUBS; sub++) {
        const double before = balanced_mae(q, &without.final[sub], 0.5);
        const double after = balanced_mae(q, &with.final[sub], 0.5);
        if (after > before * (1 + 1e-9)) fail_msg("clip raised %g to %g", before, after);
        *undone += with.clip_undone[sub];
        *kept += !with.clip_undone[sub];
        const int first = sub == BAL_SUB_ATTN ? BAL_LINEAR_V : BAL_LINEAR_GATE;
        if (with.clip_undone[sub])
            assert_true(after == before && same_codes(&with, &without, first));
        else
            assert_false(same_codes(&with, &without, first));
    }
    if (clip == BAL_CLIP_AWQ)
        assert_true(same_codes(&with, &without, BAL_LINEAR_Q) &&
                    same_codes(&with, &without, BAL_LINEAR_K));
    assert_memory_equal(without.rtn, without.final, sizeof without.rtn);
    bal_block_result_free(&without);
    bal_block_result_free(&with);
}

static void test_clip_helps_or_is_undone(void **state)
{
    (void)state;
    quant_case q;
    case_open(&q, "tiled", 1);
    for (int clip = BAL_CLIP_AWQ; clip <= BAL_CLIP_BLOCK; clip++) {
        int undone = 0, kept = 0;
        for (int i = 0; i < 3; i++)
            for (int bits = 2; bits <= 4; bits++)
                check_clip(&q, &q.model.layers[i], (bal_clip)clip, bits, &undone, &kept);
        printf("clip %d: kept %d, undone %d\n", clip, kept, undone);
        assert_true(kept > 6);
    }
    case_close(&q);
}

/* ---- The clip searches, written out plainly for q and v ---------------------------------------
 */

enum { WIDTH = 64, GROUP = 32 };

typedef struct inputs {
    float *x; /* [n][WIDTH]: normed inputs of q, k, v over all samples */
    uint8_t *tags;
    int n;
} inputs;

static inputs collect_inputs(quant_case *q, const bal_decoder_layer *l)
{
    bal_error err = {0};
    inputs in = {.n = 0};
    const int all = CASE_SAMPLES * q->samples.max_len;
    in.x = malloc((size_t)all * WIDTH * sizeof *in.x);
    in.tags = malloc((size_t)all);
    for (int i = 0; i < CASE_SAMPLES; i++) {
        float *at = in.x + (size_t)in.n * WIDTH;
        ASSERT_OK(bal_store_read(&q->embeds, i, at, &err));
        bal_rms_norm(&q->exec, at, l->attn_norm, q->model.config.text.rms_eps, q->items[i].n, WIDTH,
                     at);
        memcpy(in.tags + in.n, q->items[i].modality, (size_t)q->items[i].n);
        in.n += q->items[i].n;
    }
    return in;
}

static double diag_error(const inputs *in, const float *s, const double *delta, int at)
{
    double error = 0.0;
    for (int c = 0; c < GROUP; c++) {
        double sum[BAL_MODALITIES] = {0}, n[BAL_MODALITIES] = {0};
        for (int t = 0; t < in->n; t++) {
            const double x = (double)in->x[t * WIDTH + at + c] / (double)s[at + c];
            sum[in->tags[t]] += x * x;
            n[in->tags[t]] += 1.0;
        }
        const double h = sum[BAL_ANSWER] / n[BAL_ANSWER] + 0.5 * sum[BAL_VISION] / n[BAL_VISION];
        error += h * delta[c] * delta[c];
    }
    return error;
}

/* Squared error of the group's partial output over tokens of these weights. There are fewer than
 * 512 tokens here, so AWQ's search samples every one. */
static double partial_error(const inputs *in, const float *s, const double *weight,
                            const double *delta, int at)
{
    double error = 0.0;
    for (int t = 0; t < in->n; t++) {
        double d = 0.0;
        for (int c = 0; c < GROUP; c++)
            d += (double)in->x[t * WIDTH + at + c] / (double)s[at + c] * delta[c];
        error += weight[in->tags[t]] * d * d;
    }
    return error;
}

static double clip_error(const inputs *in, const float *s, bal_clip clip, const double *delta,
                         int at)
{
    const double every[] = {1.0, 1.0, 1.0}, balanced[] = {0.0, 1.0, 0.5};
    if (clip == BAL_CLIP_DIAG) return diag_error(in, s, delta, at);
    return partial_error(in, s, clip == BAL_CLIP_AWQ ? every : balanced, delta, at);
}

/* Folded weights of one group -> clipped by exhaustive trial. */
static void clip_plainly(const inputs *in, const float *s, bal_clip clip, int bits, float *w,
                         int at)
{
    const bal_quantizer z = {.bits = bits};
    float lo = w[0], hi = w[0], low = 0, high = 0, clipped[GROUP], rounded[GROUP];
    double best = INFINITY, delta[GROUP];
    for (int c = 0; c < GROUP; c++) {
        lo = fminf(lo, w[c]);
        hi = fmaxf(hi, w[c]);
    }
    if (clip == BAL_CLIP_AWQ) lo = -(hi = fmaxf(-lo, hi));
    for (int phase = 0; phase < (clip == BAL_CLIP_BLOCK ? 3 : 1); phase++) {
        for (int i = 0; i < (clip == BAL_CLIP_AWQ ? 10 : 25); i++) {
            const float shrink = 1.0f - (float)i / (clip == BAL_CLIP_AWQ ? 20 : 40);
            const float from = phase == 2 ? low : lo * shrink, to = phase == 1 ? high : hi * shrink;
            for (int c = 0; c < GROUP; c++) clipped[c] = fminf(fmaxf(w[c], from), to);
            bal_quantize_group(&z, clipped, GROUP, rounded);
            for (int c = 0; c < GROUP; c++) delta[c] = (double)rounded[c] - (double)w[c];
            const double e = clip_error(in, s, clip, delta, at);
            if (e >= best) continue;
            best = e;
            low = from;
            high = to;
        }
    }
    for (int c = 0; c < GROUP; c++) w[c] = fminf(fmaxf(w[c], low), high);
}

static void check_clip_definition(quant_case *q, const bal_decoder_layer *l, bal_clip clip)
{
    bal_error err = {0};
    bal_block_result got;
    bal_recipe r = case_recipe();
    r.group = GROUP;
    r.clip = clip;
    if (clip == BAL_CLIP_AWQ) r.bits = 2; /* the fewer bits, the further it shrinks */
    const int i = clip == BAL_CLIP_AWQ ? BAL_LINEAR_V : BAL_LINEAR_Q;
    const bal_linear *from = bal_layer_linear(l, i);
    const bal_quantizer z = bal_quantizer_of(&r);
    inputs in = collect_inputs(q, l);
    assert_true(in.n < 512 && from->k == WIDTH);
    ASSERT_OK(solve(&got, q, l, &r, half, &err));
    assert_false(got.clip_undone[BAL_SUB_ATTN]);
    const float *s = got.group[BAL_GROUP_QKV].scale;
    int different = 0;
    for (int row = 0; row < from->n; row++) {
        float w[WIDTH];
        uint8_t codes[WIDTH], zeros[WIDTH / GROUP];
        uint16_t scales[WIDTH / GROUP];
        bal_linear_row(from, row, w);
        for (int c = 0; c < WIDTH; c++) w[c] *= s[c];
        for (int at = 0; at < WIDTH; at += GROUP) clip_plainly(&in, s, clip, r.bits, w + at, at);
        bal_quantize_row(&z, w, WIDTH, codes, scales, zeros);
        different += memcmp(codes, got.linear[i].codes + row * WIDTH, WIDTH) != 0;
    }
    /* two shrinks may be equal but for the order of a sum */
    if (different > from->n / 50) fail_msg("%d of %d rows differ", different, from->n);
    bal_block_result_free(&got);
    free(in.x);
    free(in.tags);
}

static void test_clip_definition(void **state)
{
    (void)state;
    quant_case q;
    case_open(&q, "tiled", 1);
    check_clip_definition(&q, &q.model.layers[1], BAL_CLIP_DIAG);
    check_clip_definition(&q, &q.model.layers[1], BAL_CLIP_AWQ);
    check_clip_definition(&q, &q.model.layers[1], BAL_CLIP_BLOCK);
    case_close(&q);
}

/* The statistics come from a quantized stream that knows two channels only, so the clip search
 * ruins all others: on the real inputs the error rises, and the result must be the one without
 * clip. */
static void test_clip_is_undone(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_store blind;
    bal_block_result without, with;
    case_open(&q, "tiled", 1);
    const bal_text_config *c = &q.model.config.text;
    float *h = malloc((size_t)q.samples.max_len * (size_t)c->hidden * sizeof *h);
    ASSERT_OK(bal_store_create(&blind, "/tmp", &q.samples, c->hidden, &err));
    for (int i = 0; i < CASE_SAMPLES; i++) {
        memset(h, 0, (size_t)q.items[i].n * (size_t)c->hidden * sizeof *h);
        for (int t = 0; t < q.items[i].n; t++) h[t * c->hidden] = h[t * c->hidden + 1] = 1.0f;
        ASSERT_OK(bal_store_write(&blind, i, h, &err));
    }
    bal_recipe r = case_recipe();
    r.scale = BAL_SCALE_NONE;
    r.distort = true;
    ASSERT_OK(bal_block_solve(&without, &q.exec, c, &q.model.layers[0], 0, &q.samples, &q.embeds,
                              &blind, half, &r, "/tmp", NULL, NULL, &err));
    r.clip = BAL_CLIP_DIAG;
    ASSERT_OK(bal_block_solve(&with, &q.exec, c, &q.model.layers[0], 0, &q.samples, &q.embeds,
                              &blind, half, &r, "/tmp", NULL, NULL, &err));
    assert_true(with.clip_undone[BAL_SUB_ATTN]);
    for (int i = BAL_LINEAR_Q; i <= BAL_LINEAR_O; i++) assert_true(same_codes(&with, &without, i));
    assert_memory_equal(&with.final[BAL_SUB_ATTN], &without.final[BAL_SUB_ATTN],
                        sizeof with.final[0]);
    bal_block_result_free(&without);
    bal_block_result_free(&with);
    bal_store_destroy(&blind);
    free(h);
    case_close(&q);
}

static void test_degenerate_layers(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_layer_copy copy;
    bal_block_result got;
    case_open(&q, "mha", 1);
    ASSERT_OK(
        bal_layer_copy_create(&copy, q.pool, &q.model.config.text, &q.model.layers[0], 0, &err));
    /* a dead channel in front of everything, a v that is zero, a gate whose rows are constant */
    copy.attn_norm[3] = copy.mlp_norm[3] = 0.0f;
    memset(copy.w[BAL_LINEAR_V], 0, (size_t)copy.l.v.n * (size_t)copy.l.v.k * sizeof(float));
    for (int i = 0; i < copy.l.gate.n * copy.l.gate.k; i++) copy.w[BAL_LINEAR_GATE][i] = 0.25f;
    for (int arith = 0; arith < 3; arith++) {
        bal_recipe r = case_recipe();
        r.arithmetic = (bal_arith)arith;
        r.clip = (bal_clip)(BAL_CLIP_AWQ + arith);
        ASSERT_OK(solve(&got, &q, &copy.l, &r, half, &err));
        for (int g = 0; g < BAL_GROUPS; g++) {
            assert_true(got.group[g].searched);
            for (int i = 0; i < BAL_SCALE_POINTS; i++) assert_true(isfinite(got.group[g].loss[i]));
            for (int k = 0; k < got.group[g].k; k++)
                assert_true(isfinite(got.group[g].scale[k]) && got.group[g].scale[k] > 0.0f);
        }
        for (int s = 0; s < BAL_SUBS; s++)
            for (int m = 0; m < BAL_MODALITIES; m++)
                assert_true(isfinite(got.final[s].mse[m]) && isfinite(got.rtn[s].mae[m]));
        bal_block_result_free(&got);
    }
    bal_layer_copy_destroy(&copy);
    case_close(&q);
}

static void test_without_samples(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_block_result got, calibrated;
    case_open(&q, "tiled", 1);
    bal_recipe r = case_recipe();
    r.scale = BAL_SCALE_NONE;
    ASSERT_OK(solve(&calibrated, &q, &q.model.layers[0], &r, half, &err));
    q.samples.n = 0;
    ASSERT_OK(solve(&got, &q, &q.model.layers[0], &r, NULL, &err));
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) assert_true(same_codes(&got, &calibrated, i));
    assert_true(got.final[0].mse[BAL_ANSWER] == 0.0 && calibrated.final[0].mse[BAL_ANSWER] > 0.0);
    assert_memory_equal(got.attn_norm, q.model.layers[0].attn_norm, 64 * sizeof(float));
    bal_block_result_free(&got);
    bal_block_result_free(&calibrated);
    r.clip = BAL_CLIP_DIAG;
    ASSERT_FAILS(BAL_E_ARG, "recipe mbq needs calibration samples",
                 solve(&got, &q, &q.model.layers[0], &r, NULL, &err));
    case_close(&q);
}

static void test_bad_numbers_are_named(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_layer_copy copy;
    bal_block_result got;
    case_open(&q, "tiled", 1);
    const bal_text_config *c = &q.model.config.text;
    const bal_recipe r = case_recipe();
    ASSERT_OK(bal_layer_copy_create(&copy, q.pool, c, &q.model.layers[0], 0, &err));
    copy.w[BAL_LINEAR_UP][5 * c->hidden + 7] = NAN;
    ASSERT_FAILS(BAL_E_NUMERIC, "layer 0, mlp.up_proj.weight: NaN or Inf at row 5, column 7",
                 solve(&got, &q, &copy.l, &r, half, &err));
    copy.w[BAL_LINEAR_UP][5 * c->hidden + 7] = 0.0f;
    copy.bias[BAL_LINEAR_K][2] = INFINITY;
    ASSERT_FAILS(BAL_E_NUMERIC, "layer 0, self_attn.k_proj.bias: NaN or Inf at 2",
                 solve(&got, &q, &copy.l, &r, half, &err));
    copy.bias[BAL_LINEAR_K][2] = 0.0f;
    /* finite weights whose product overflows */
    for (int i = 0; i < c->hidden; i++) copy.w[BAL_LINEAR_UP][i] = 3e38f;
    ASSERT_FAILS(BAL_E_NUMERIC, "layer 0, input of down_proj: NaN or Inf in sample 0",
                 solve(&got, &q, &copy.l, &r, half, &err));
    const double bad[BAL_SUBS] = {0.5, NAN};
    ASSERT_FAILS(BAL_E_ARG, "a vision weight of",
                 solve(&got, &q, &q.model.layers[0], &r, bad, &err));
    float *h = malloc((size_t)q.items[2].n * (size_t)c->hidden * sizeof *h);
    ASSERT_OK(bal_store_read(&q.embeds, 2, h, &err));
    h[9 * c->hidden + 1] = -INFINITY;
    ASSERT_OK(bal_store_write(&q.embeds, 2, h, &err));
    ASSERT_FAILS(BAL_E_NUMERIC, "block input: NaN or Inf in sample 2 at position 9, channel 1",
                 solve(&got, &q, &q.model.layers[0], &r, half, &err));
    free(h);
    bal_layer_copy_destroy(&copy);
    case_close(&q);
}

static int stop_at(void *ctx, const char *stage, long done, long total)
{
    int *left = ctx;
    assert_true(done >= 1 && done <= total);
    assert_true(strcmp(stage, "scale search") == 0 || strcmp(stage, "clip") == 0);
    return --*left == 0;
}

static void test_progress_and_cancel(void **state)
{
    (void)state;
    bal_error err = {0};
    quant_case q;
    bal_block_result got;
    case_open(&q, "tiled", 1);
    bal_recipe r = case_recipe();
    r.clip = BAL_CLIP_DIAG;
    const bal_text_config *c = &q.model.config.text;
    int left = 30;
    ASSERT_FAILS(BAL_E_CANCELLED, "cancelled while solving layer 0",
                 bal_block_solve(&got, &q.exec, c, &q.model.layers[0], 0, &q.samples, &q.embeds,
                                 NULL, half, &r, "/tmp", stop_at, &left, &err));
    left = 1000;
    ASSERT_OK(bal_block_solve(&got, &q.exec, c, &q.model.layers[0], 0, &q.samples, &q.embeds, NULL,
                              half, &r, "/tmp", stop_at, &left, &err));
    assert_int_equal(1000 - left, 3 * BAL_SCALE_POINTS + BAL_DECODER_LINEARS);
    bal_block_result_free(&got);
    r.distort = true;
    ASSERT_FAILS(BAL_E_ARG, "needs the quantized stream",
                 bal_block_solve(&got, &q.exec, c, &q.model.layers[0], 0, &q.samples, &q.embeds,
                                 NULL, half, &r, "/tmp", NULL, NULL, &err));
    case_close(&q);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fold_keeps_the_function),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_equal_weights),
        cmocka_unit_test(test_clip_helps_or_is_undone),
        cmocka_unit_test(test_clip_definition),
        cmocka_unit_test(test_clip_is_undone),
        cmocka_unit_test(test_degenerate_layers),
        cmocka_unit_test(test_without_samples),
        cmocka_unit_test(test_bad_numbers_are_named),
        cmocka_unit_test(test_progress_and_cancel),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
