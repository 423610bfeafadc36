/* SPDX-License-Identifier: MIT
 * 8-bit activations from the integer kernels to the file: a linear against its simulation on
 * floats, bit for bit where float arithmetic is exact; the rule for spikes; SmoothQuant's scale and
 * its folding; what a block and a file say about how inputs are read, and lies about it. */
#include "../unit/scratch.h"
#include "quant_case.h"
#include "unpack.h"

#include "base/half.h"
#include "base/rng.h"
#include "model/vision.h"
#include "op/pointwise.h"
#include "quant/actsim.h"
#include "quant/fold.h"
#include "quant/part.h"
#include "quant/pass.h"
#include "quant/pipeline.h"

#include <math.h>

/* ---- Names ------------------------------------------------------------------------------------
 */

static void names_round_trip(void **state)
{
    (void)state;
    const bal_act acts[] = {
        {.kind = BAL_ACT_A16},
        {.kind = BAL_ACT_A8},
        {.kind = BAL_ACT_A8, .group = 32},
        {.kind = BAL_ACT_A8, .group = 128},
        {.kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC, .fixed = {0.5f, 0.5f}},
        {.kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC_MODALITY, .fixed = {0.0f, 1.5f}},
        {.kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC_MODALITY, .fixed = {3.0f, 3.0f}}};
    static const char *const ids[] = {"a16",
                                      "a8g0",
                                      "a8g32",
                                      "a8g128",
                                      "a8s3f000000",
                                      "a8s00000000v3fc00000",
                                      "a8s40400000v40400000"};
    static const char *const bad[] = {"",
                                      "a8",
                                      "a8g",
                                      "a8g33",
                                      "a8g-32",
                                      "a8g032",
                                      "a8g0 ",
                                      "a16g0",
                                      "A8g0",
                                      "a4g0",
                                      "a8g99999999999",
                                      "a8s",
                                      "a8s3f0",
                                      "a8sbf000000",
                                      "a8s7f800000",
                                      "a8s7fc00000",
                                      "a8s3F000000",
                                      "a8s3f000000v",
                                      "a8s3f000000v80000000",
                                      "a8s3f000000v3f0000000",
                                      "a8s 3f00000"};
    bal_error err;
    bal_act a;
    char id[BAL_ACT_ID_SIZE];
    for (size_t i = 0; i < sizeof ids / sizeof *ids; i++) {
        bal_act_id(acts[i], id);
        assert_string_equal(id, ids[i]);
        ASSERT_OK(bal_act_parse(id, &a, &err));
        assert_true(bal_act_equal(a, acts[i]));
        for (size_t k = 0; k < i; k++) assert_false(bal_act_equal(a, acts[k]));
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ASSERT_FAILS(BAL_E_UNSUP, "a16 or a8gG", bal_act_parse(bad[i], &a, &err));
}

/* ---- A linear ---------------------------------------------------------------------------------
 */

typedef struct setup {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
} setup;

static void open_setup(setup *s, int threads, int max_k)
{
    bal_error err;
    ASSERT_OK(bal_pool_create(&s->pool, threads, &err));
    bal_kernels_init(&s->kernels, bal_cpu_isa());
    ASSERT_OK(bal_exec_create(&s->e, s->pool, &s->kernels, max_k, &err));
}

static void close_setup(setup *s)
{
    bal_exec_destroy(&s->e);
    bal_pool_destroy(s->pool);
}

/* Random codes; with `exact` every scale is a power of two. *bytes is what l points to. */
static void random_linear(bal_rng *r, int bits, int n, int k, size_t group, bool exact,
                          bal_linear *l, uint8_t **bytes)
{
    bal_error err;
    bal_packed_layout layout;
    ASSERT_OK(bal_packed_layout_init(&layout, bits, (size_t)n, (size_t)k, group, &err));
    const size_t all = (size_t)n * (size_t)k, pairs = (size_t)n * layout.groups;
    uint8_t *codes = malloc(all), *zeros = malloc(pairs);
    uint16_t *scales = malloc(pairs * sizeof *scales);
    for (size_t i = 0; i < all; i++) codes[i] = (uint8_t)bal_rng_below(r, 1u << bits);
    for (size_t i = 0; i < pairs; i++) {
        zeros[i] = (uint8_t)bal_rng_below(r, 1u << bits);
        const float s = exact ? ldexpf(1.0f, (int)bal_rng_below(r, 4) - 6) : bal_rng_f32(r) * 0.1f;
        scales[i] = bal_f32_to_f16(s);
    }
    *bytes = aligned_alloc(64, layout.n_bytes);
    ASSERT_OK(bal_pack(&layout, codes, scales, zeros, *bytes, &err));
    *l = (bal_linear){.n = n, .k = k};
    ASSERT_OK(bal_type_from_bits(&l->type, bits, &err));
    ASSERT_OK(bal_packed_view_init(&l->packed, &layout, *bytes, layout.n_bytes, &err));
    free(codes);
    free(zeros);
    free(scales);
}

/* x in steps of 2^-4 with 127 * 2^-4 as the largest of each group, so that bytes hold it exactly:
 * otherwise anything. */
static void random_rows(bal_rng *r, float *x, int m, int k, bool exact)
{
    for (int i = 0; i < m * k; i++) {
        const int q = (int)bal_rng_below(r, 255) - 127;
        x[i] = exact ? (float)(i % k % 32 ? q : 127) * 0x1p-4f : bal_rng_f32(r) * 6.0f - 3.0f;
    }
}

/* Largest |y - sum x w| over sum |x w|; x is simulated in place. */
static double off_simulation(const setup *s, const bal_linear *l, const uint8_t *tags, float *x,
                             const float *y, int m)
{
    double worst = 0;
    float *w = malloc((size_t)l->k * sizeof *w);
    bal_act_simulate(&s->e, l->act, NULL, tags, x, m, l->k);
    for (int f = 0; f < l->n; f++) {
        bal_linear_row(l, f, w);
        for (int i = 0; i < m; i++) {
            double sum = 0, size = 1e-30;
            for (int c = 0; c < l->k; c++) {
                const double p = (double)x[i * l->k + c] * (double)w[c];
                sum += p;
                size += fabs(p);
            }
            worst = fmax(worst, fabs((double)y[i * l->n + f] - sum) / size);
        }
    }
    free(w);
    return worst;
}

/* m rows at once, and some of them alone. */
static double check_linear(const setup *s, const bal_linear *l, bal_rng *r, int m, bool exact)
{
    const size_t n = (size_t)l->n, k = (size_t)l->k;
    float *x = malloc((size_t)m * k * sizeof *x), *y = malloc((size_t)m * n * sizeof *y);
    float *one = malloc(n * sizeof *one);
    uint8_t tags[256];
    assert_true(m <= (int)sizeof tags);
    for (int i = 0; i < m; i++) tags[i] = (uint8_t)bal_rng_below(r, BAL_MODALITIES);
    random_rows(r, x, m, l->k, exact);
    bal_linear_forward_rows(&s->e, l, x, k, tags, m, y, n);
    for (int i = 0; i < m; i += 11) {
        bal_linear_forward_rows(&s->e, l, x + (size_t)i * k, k, tags + i, 1, one, n);
        assert_memory_equal(one, y + (size_t)i * n, n * sizeof *one);
        if (tags[i] != BAL_VISION) bal_linear_forward(&s->e, l, x + (size_t)i * k, k, 1, one, n);
        assert_memory_equal(one, y + (size_t)i * n, n * sizeof *one);
    }
    const double off = off_simulation(s, l, tags, x, y, m);
    free(x);
    free(y);
    free(one);
    return off;
}

static void linear_is_its_simulation(void **state)
{
    (void)state;
    const int bits[] = {2, 3, 4, 8}, shapes[][2] = {{16, 32}, {37, 100}, {5, 704}, {50, 33}};
    const size_t groups[] = {32, 64, 128, 0}, act_groups[] = {0, 32, 128};
    setup s;
    bal_rng r;
    bal_rng_seed(&r, 9);
    open_setup(&s, 2, 704);
    for (int i = 0; i < 4 * 4 * 3; i++) {
        const int *shape = shapes[i / 4 % 4];
        for (int exact = 0; exact < 2; exact++) {
            bal_linear l;
            uint8_t *bytes;
            random_linear(&r, bits[i % 4], shape[0], shape[1], groups[i / 4 % 4], exact, &l,
                          &bytes);
            l.act = (bal_act){.kind = BAL_ACT_A8, .group = act_groups[i / 16]};
            const double off = check_linear(&s, &l, &r, 67, exact);
            if (exact ? off != 0.0 : off > 1e-6)
                fail_msg("w%d %d x %d, scale of %zu inputs: off by %g", bits[i % 4], shape[0],
                         shape[1], l.act.group, off);
            free(bytes);
        }
    }
    close_setup(&s);
}

/* Fixed scales, of which each modality's rows get theirs: powers of two and whole steps of them are
 * exact, and what is beyond 127 steps saturates. */
static void fixed_scales_are_their_simulation(void **state)
{
    (void)state;
    const int bits[] = {2, 3, 4, 8}, shapes[][2] = {{16, 32}, {37, 100}, {5, 704}, {50, 33}};
    setup s;
    bal_rng r;
    bal_rng_seed(&r, 11);
    open_setup(&s, 2, 704);
    for (int i = 0; i < 4 * 4; i++)
        for (int exact = 0; exact < 2; exact++) {
            const int *shape = shapes[i / 4];
            bal_linear l;
            uint8_t *bytes;
            random_linear(&r, bits[i % 4], shape[0], shape[1], 64, exact, &l, &bytes);
            l.act = (bal_act){.kind = BAL_ACT_A8,
                              .scale = BAL_ACT_STATIC_MODALITY,
                              .fixed = {exact ? 0x1p-4f : 0.017f, exact ? 0x1p-5f : 0.011f}};
            const double off = check_linear(&s, &l, &r, 131, exact);
            if (exact ? off != 0.0 : off > 1e-6)
                fail_msg("w%d %d x %d, fixed scales: off by %g", bits[i % 4], shape[0], shape[1],
                         off);
            free(bytes);
        }
    float x[40] = {0}, y = 0.0f;
    uint8_t tags[] = {BAL_PROMPT, BAL_ANSWER, BAL_VISION};
    for (int i = 0; i < 3; i++) {
        x[0] = 3.1f, x[1] = -0.26f, x[2] = 100.0f, x[39] = -100.0f;
        const bal_act act = {
            .kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC_MODALITY, .fixed = {0.5f, 0.25f}};
        bal_act_simulate(&s.e, act, NULL, &tags[i], x, 1, 40);
        y = i == 2 ? 0.25f : 0.5f;
        assert_true(x[0] == 3.0f && x[1] == (i == 2 ? -0.25f : -0.5f));
        assert_true(x[2] == 127.0f * y && x[39] == -127.0f * y);
    }
    close_setup(&s);
}

/* ---- Statistics and scales --------------------------------------------------------------------
 */

static int by_size(const void *a, const void *b)
{
    const float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void spikes_are_found(void **state)
{
    (void)state;
    bal_error err;
    setup s;
    bal_channel_stats stats;
    float x[2][64];
    const uint8_t tags[2] = {BAL_VISION, BAL_ANSWER};
    open_setup(&s, 1, 64);
    ASSERT_OK(bal_stats_create(&stats, 64, &err));
    assert_false(bal_act_spikes(&stats)); /* nothing seen */
    for (int i = 0; i < 128; i++) x[i / 64][i % 64] = i % 2 ? 0.001f : -0.001f;
    x[1][3] = -8.0f; /* in one row: 64 times its mean at most */
    bal_stats_add(&stats, s.pool, x[0], tags, 2);
    assert_false(bal_act_spikes(&stats));
    for (int i = 0; i < 9; i++) bal_stats_add(&stats, s.pool, x[0], tags, 1);
    assert_false(bal_act_spikes(&stats)); /* the other modality's rows do not thin it out */
    for (int i = 0; i < 2; i++) bal_stats_add(&stats, s.pool, x[0], tags + 1, 1);
    assert_true(bal_act_spikes(&stats)); /* max 8, mean (8 + 0.2) / 192 */
    bal_stats_destroy(&stats);
    close_setup(&s);
}

/* Percentiles against sorting, and the rule that stands on them: one element of 4,096 may be eight
 * times as large as nearly all others, not more. */
static void tails_are_found(void **state)
{
    (void)state;
    enum { K = 256, ROWS = 16 };
    bal_error err;
    setup s;
    bal_channel_stats stats;
    static float x[ROWS * K], sorted[ROWS * K];
    uint8_t tags[ROWS];
    open_setup(&s, 1, K);
    ASSERT_OK(bal_stats_create(&stats, K, &err));
    ASSERT_OK(bal_stats_keep_tail(&stats, &err));
    assert_false(bal_act_tail(&stats)); /* nothing seen */
    for (int i = 0; i < ROWS * K; i++) {
        x[i] = (i % 2 ? -1.0f : 1.0f) * (0.25f + (float)(i * 37 % (ROWS * K)) / (ROWS * K));
        sorted[i] = fabsf(x[i]);
    }
    for (int i = 0; i < ROWS; i++) tags[i] = BAL_VISION;
    qsort(sorted, ROWS * K, sizeof *sorted, by_size);
    bal_stats_add(&stats, s.pool, x, tags, ROWS);
    static const double parts[] = {0.1, 0.5, 0.9, 0.999};
    for (int i = 0; i < 4; i++) {
        const double want = sorted[(int)ceil(parts[i] * ROWS * K) - 1];
        const double got = bal_stats_percentile(&stats, BAL_VISION, parts[i]);
        assert_true(got >= want && got <= want * (1.0 + 1.0 / 32.0));
    }
    assert_false(bal_act_tail(&stats));
    bal_stats_clear(&stats);
    x[99] = 9.0f; /* 7.2 times the largest of the others */
    bal_stats_add(&stats, s.pool, x, tags, ROWS);
    assert_false(bal_act_tail(&stats));
    bal_recipe r = {.act = BAL_ACT_A8, .spikes = BAL_SPIKES_FINE, .spike_rule = BAL_SPIKE_TAIL};
    assert_int_equal(bal_act_for(&r, &stats).group, 0);
    x[99] = -11.0f;
    bal_stats_add(&stats, s.pool, x, tags, ROWS);
    assert_true(bal_act_tail(&stats));
    assert_int_equal(bal_act_for(&r, &stats).kind, BAL_ACT_A8);
    assert_int_equal(bal_act_for(&r, &stats).group, BAL_SPIKE_GROUP);
    r.spikes = BAL_SPIKES_A16;
    assert_int_equal(bal_act_for(&r, &stats).kind, BAL_ACT_A16);
    r.spike_rule = BAL_SPIKE_MEAN; /* 11 is not 127 times the mean */
    assert_int_equal(bal_act_for(&r, &stats).kind, BAL_ACT_A8);
    bal_stats_destroy(&stats);
    close_setup(&s);
}

static bal_recipe bytes_recipe(int bits, bal_scale scale)
{
    bal_recipe r = case_recipe();
    r.bits = bits, r.group = 0, r.grid = BAL_GRID_SYM, r.act = BAL_ACT_A8;
    r.scale = scale, r.alpha = 50;
    return r;
}

static void solve(quant_case *q, const bal_recipe *r, int layer, bal_block_result *out)
{
    bal_error err;
    const double ratio[BAL_SUBS] = {0.5, 0.5};
    ASSERT_OK(bal_block_solve(out, &q->exec, &q->model.config.text, &q->model.layers[layer], layer,
                              &q->samples, &q->embeds, &q->embeds, ratio, r, "/tmp", NULL, NULL,
                              &err));
}

/* s moves |x| and |w| to the same range at 0.5; only what a norm makes is scaled; and folded into
 * a float block it changes nothing. */
static void smooth_scales(void **state)
{
    (void)state;
    quant_case q;
    bal_error err;
    bal_block_result got;
    case_open(&q, "tiled", 2);
    const bal_recipe r = bytes_recipe(8, BAL_SCALE_SMOOTH);
    solve(&q, &r, 0, &got);
    assert_null(got.group[BAL_GROUP_O].scale);
    assert_null(got.group[BAL_GROUP_DOWN].scale);
    for (int g = 0; g < BAL_GROUPS; g++) {
        const bal_group_log *log = &got.group[g];
        const bal_group_info *info = &bal_group_table[g];
        assert_true(bal_act_equal(got.act[g], (bal_act){.kind = BAL_ACT_A8}));
        if (!log->scale) continue;
        double top = 0.0;
        for (int m = 0; m < BAL_MODALITIES; m++) top = fmax(top, log->input.max_abs[m]);
        double most = 0.0;
        float row[1024];
        for (int c = 0; c < log->k; c++) {
            double w = 0.0;
            for (int i = info->first; i < info->first + info->count; i++)
                for (int n = 0; n < bal_layer_linear(&q.model.layers[0], i)->n; n++) {
                    bal_linear_row(bal_layer_linear(&q.model.layers[0], i), n, row);
                    w = fmax(w, fabs((double)row[c]));
                }
            most = fmax(most, (double)log->scale[c] * (double)log->scale[c] * w); /* = max |x| */
        }
        assert_true(fabs(most / top - 1.0) < 1e-5);
    }
    bal_layer_copy copy;
    bal_pass pass;
    const int hidden = q.model.config.text.hidden, n = q.items[1].n;
    float *h[2];
    ASSERT_OK(
        bal_layer_copy_create(&copy, q.pool, &q.model.config.text, &q.model.layers[0], 0, &err));
    for (int g = 0; g < BAL_GROUPS; g++)
        if (got.group[g].scale) bal_fold_group(&copy, q.pool, g, got.group[g].scale, BAL_ARITH_F32);
    ASSERT_OK(bal_pass_create(&pass, &q.model.config.text, q.samples.max_len, &err));
    double worst = 0.0, largest = 0.0;
    for (int i = 0; i < 2; i++) {
        h[i] = malloc((size_t)n * (size_t)hidden * sizeof *h[i]);
        ASSERT_OK(bal_store_read(&q.embeds, 1, h[i], &err));
        const bal_rows rows = bal_pass_rows(&pass, n);
        bal_decoder_block(&q.exec, &q.model.config.text, i ? &copy.l : &q.model.layers[0], &rows,
                          h[i], &pass.buf, 0, (bal_taps){0});
    }
    for (int i = 0; i < n * hidden; i++) {
        worst = fmax(worst, fabs((double)h[0][i] - (double)h[1][i]));
        largest = fmax(largest, fabs((double)h[0][i]));
    }
    assert_true(worst > 0.0 && worst < 1e-5 * largest);
    free(h[0]);
    free(h[1]);
    bal_pass_destroy(&pass);
    bal_layer_copy_destroy(&copy);
    bal_block_result_free(&got);
    case_close(&q);
}

/* The error that a block reports is that of weights and activations together: bytes add to it, and
 * most where one scale serves most inputs. */
static void errors_count_activations(void **state)
{
    (void)state;
    quant_case q;
    double mse[3];
    case_open(&q, "mha", 2);
    for (int i = 0; i < 3; i++) {
        bal_block_result got;
        bal_recipe r = bytes_recipe(8, BAL_SCALE_NONE);
        r.group = 32, r.act = i == 0 ? BAL_ACT_A16 : BAL_ACT_A8, r.act_group = i == 1 ? 32 : 0;
        solve(&q, &r, 0, &got);
        mse[i] = got.final[BAL_SUB_MLP].mse[BAL_VISION];
        bal_block_result_free(&got);
    }
    assert_true(mse[1] > mse[0] && mse[2] > 1.5 * mse[1]);
    case_close(&q);
}

static bal_recipe fixed_recipe(bal_scale scale, bal_act_scale kind)
{
    bal_recipe r = bytes_recipe(8, scale);
    r.act_scale = kind;
    return r;
}

/* Fixed scales are those of the largest inputs that calibration saw, of each kind of token or of
 * both; one for both costs the quieter kind more than its own does. */
static void scales_are_fixed(void **state)
{
    (void)state;
    quant_case q;
    bal_block_result one, own, none;
    case_open(&q, "mha", 2);
    const bal_recipe recipes[] = {fixed_recipe(BAL_SCALE_NONE, BAL_ACT_STATIC),
                                  fixed_recipe(BAL_SCALE_NONE, BAL_ACT_STATIC_MODALITY)};
    const bal_recipe dynamic = bytes_recipe(8, BAL_SCALE_NONE);
    solve(&q, &recipes[0], 0, &one);
    solve(&q, &recipes[1], 0, &own);
    solve(&q, &dynamic, 0, &none);
    for (int g = 0; g < BAL_GROUPS; g++) {
        const double *max = own.group[g].input.max_abs;
        const float text = (float)fmax(max[BAL_PROMPT], max[BAL_ANSWER]) / 127.0f;
        const float vision = (float)max[BAL_VISION] / 127.0f, both = fmaxf(text, vision);
        const bal_act want = {
            .kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC_MODALITY, .fixed = {text, vision}};
        const bal_act shared = {.kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC, .fixed = {both, both}};
        assert_true(text > 0.0f && vision > 0.0f && text != vision);
        assert_true(bal_act_equal(own.act[g], want));
        assert_true(bal_act_equal(one.act[g], shared));
    }
    for (int sub = 0; sub < BAL_SUBS; sub++) {
        double error[3] = {0};
        for (int m = 0; m < BAL_MODALITIES; m++) {
            error[0] += none.final[sub].mse[m];
            error[1] += own.final[sub].mse[m];
            error[2] += one.final[sub].mse[m];
        }
        assert_true(error[0] < error[1] && error[1] < error[2]);
    }
    bal_block_result_free(&one);
    bal_block_result_free(&own);
    bal_block_result_free(&none);
    case_close(&q);
}

/* Normed inputs of block 0 over s (NULL: 1), one sample behind the other, and their modalities. */
static int first_inputs(quant_case *q, const bal_samples *samples, const bal_store *embeds,
                        const float *s, float **x, uint8_t **tags)
{
    bal_error err;
    const int k = q->model.config.text.hidden;
    const size_t rows = embeds->row0[samples->n];
    *x = malloc(rows * (size_t)k * sizeof **x);
    *tags = malloc(rows);
    for (int i = 0; i < samples->n; i++) {
        float *to = *x + embeds->row0[i] * (size_t)k;
        const int n = samples->items[i].n;
        ASSERT_OK(bal_store_read(embeds, i, to, &err));
        bal_rms_norm(&q->exec, to, q->model.layers[0].attn_norm, q->model.config.text.rms_eps, n, k,
                     to);
        for (int c = 0; s && c < n * k; c++) to[c] /= s[c % k];
        memcpy(*tags + embeds->row0[i], samples->items[i].modality, (size_t)n);
    }
    return (int)rows;
}

/* Of the tokens of `row`, what a fixed scale costs: sum of squares over k channels. */
static double cost_of(const quant_case *q, const float *x, const uint8_t *tags, int n, int row,
                      float scale)
{
    const int k = q->model.config.text.hidden;
    const bal_act act = {.kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC, .fixed = {scale, scale}};
    float *y = malloc((size_t)(n * k) * sizeof *y);
    double sum = 0.0;
    memcpy(y, x, (size_t)(n * k) * sizeof *y);
    bal_act_simulate(&q->exec, act, NULL, tags, y, n, k);
    for (int i = 0; i < n * k; i++) {
        const double d = (double)x[i] - (double)y[i];
        if ((tags[i / k] == BAL_VISION) == (row == BAL_ACT_VISION)) sum += d * d;
    }
    free(y);
    return sum;
}

/* Largest |x| of the tokens of `row`. */
static float top_of(const float *x, const uint8_t *tags, int n, int k, int row)
{
    float top = 0.0f;
    for (int i = 0; i < n * k; i++)
        if ((tags[i / k] == BAL_VISION) == (row == BAL_ACT_VISION)) top = fmaxf(top, fabsf(x[i]));
    return top;
}

/* Behind a channel scale s, what is fixed is the range of x / s. */
static void ranges_are_scaled(void **state)
{
    (void)state;
    quant_case q;
    bal_block_result got;
    float *x;
    uint8_t *tags;
    case_open(&q, "tiled", 2);
    const int k = q.model.config.text.hidden;
    const bal_recipe r = fixed_recipe(BAL_SCALE_SMOOTH, BAL_ACT_STATIC_MODALITY);
    solve(&q, &r, 0, &got);
    const bal_group_log *log = &got.group[BAL_GROUP_QKV];
    const int n = first_inputs(&q, &q.samples, &q.embeds, log->scale, &x, &tags);
    for (int row = 0; row < BAL_ACT_ROWS; row++)
        assert_true(fabsf(got.act[BAL_GROUP_QKV].fixed[row] * 127.0f / top_of(x, tags, n, k, row) -
                          1.0f) < 1e-6f);
    free(x);
    free(tags);
    bal_block_result_free(&got);
    case_close(&q);
}

/* Of the ranges that are tried the one with the least squared error: narrower than all of it where
 * one element of many stands alone. */
static void ranges_are_chosen(void **state)
{
    (void)state;
    enum { MANY = 10 * CASE_SAMPLES };
    quant_case q;
    bal_error err;
    bal_block_result got;
    bal_store embeds;
    float *x;
    uint8_t *tags;
    const double ratio[BAL_SUBS] = {0.5, 0.5};
    case_open(&q, "tiled", 2);
    const int k = q.model.config.text.hidden;
    bal_sample items[MANY];
    for (int i = 0; i < MANY; i++) items[i] = q.items[i % CASE_SAMPLES];
    const bal_samples many = {.n = MANY, .max_len = q.samples.max_len, .items = items};
    ASSERT_OK(bal_store_create(&embeds, "/tmp", &many, k, &err));
    x = malloc((size_t)(many.max_len * k) * sizeof *x);
    const float *gain = q.model.layers[0].attn_norm;
    int loud = 0;
    for (int c = 0; c < k; c++) loud = fabsf(gain[c]) > fabsf(gain[loud]) ? c : loud;
    for (int i = 0; i < MANY; i++) {
        int t = 0;
        while (items[i].modality[t] != BAL_VISION) t++;
        ASSERT_OK(bal_store_read(&q.embeds, i % CASE_SAMPLES, x, &err));
        for (int c = 0; c < k && i == 7; c++) x[t * k + c] = c == loud ? 1.0f : 0.0f;
        ASSERT_OK(bal_store_write(&embeds, i, x, &err));
    }
    free(x);
    bal_recipe r = fixed_recipe(BAL_SCALE_NONE, BAL_ACT_STATIC_MODALITY);
    r.act_clip = BAL_ACT_CLIP_MSE;
    ASSERT_OK(bal_block_solve(&got, &q.exec, &q.model.config.text, &q.model.layers[0], 0, &many,
                              &embeds, &embeds, ratio, &r, "/tmp", NULL, NULL, &err));
    const int n = first_inputs(&q, &many, &embeds, NULL, &x, &tags);
    for (int row = 0; row < BAL_ACT_ROWS; row++) {
        const float fixed = got.act[BAL_GROUP_QKV].fixed[row], top = top_of(x, tags, n, k, row);
        const double cost = cost_of(&q, x, tags, n, row, fixed);
        for (int i = 0; i < 10; i++)
            assert_true(cost <= 1.00001 * cost_of(&q, x, tags, n, row,
                                                  exp2f(-(float)i / 4) * top / 127.0f));
        if (row == BAL_ACT_VISION) assert_true(fixed < 0.9f * top / 127.0f);
    }
    free(x);
    free(tags);
    bal_block_result_free(&got);
    bal_store_destroy(&embeds);
    case_close(&q);
}

/* ---- Files ------------------------------------------------------------------------------------
 */

/* Replaces the first occurrence of a text in a file by one as long. */
static void edit(const char *path, const char *from, const char *to)
{
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    char *bytes = malloc(1 << 16);
    const size_t n = fread(bytes, 1, 1 << 16, f);
    char *at = memmem(bytes, n, from, strlen(from));
    assert_non_null(at);
    fseek(f, at - bytes, SEEK_SET);
    fwrite(to, 1, strlen(to), f);
    fclose(f);
    free(bytes);
}

static void a_part_says_what_it_reads(void **state)
{
    (void)state;
    quant_case q;
    bal_error err;
    bal_block_result got;
    bal_part part;
    case_open(&q, "mha", 1);
    const bal_text_config *c = &q.model.config.text;
    const bal_decoder_layer *l = &q.model.layers[0];
    bal_recipe r = bytes_recipe(4, BAL_SCALE_NONE);
    solve(&q, &r, 0, &got);
    got.act[BAL_GROUP_DOWN] = (bal_act){0}; /* as spikes=a16 makes it */
    const char *path = scratch("part.safetensors");
    ASSERT_OK(bal_part_write(path, &got, c, l, 0, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "down_proj.weight: expected a8g0, found a16",
                 bal_part_open(&part, path, c, l, &r, 0, &err));
    r.spikes = true;
    ASSERT_OK(bal_part_open(&part, path, c, l, &r, 0, &err));
    assert_int_equal(part.layer.q.act.kind, BAL_ACT_A8);
    assert_int_equal(part.layer.down.act.kind, BAL_ACT_A16);
    bal_part_close(&part);
    r.act_group = 128;
    ASSERT_FAILS(BAL_E_FORMAT, "expected a8g128, found a8g0",
                 bal_part_open(&part, path, c, l, &r, 0, &err));
    r.act = BAL_ACT_A16, r.spikes = BAL_SPIKES_KEEP;
    ASSERT_FAILS(BAL_E_FORMAT, "expected a16, found a8g0",
                 bal_part_open(&part, path, c, l, &r, 0, &err));
    got.act[BAL_GROUP_DOWN] =
        (bal_act){.kind = BAL_ACT_A8, .group = 32}; /* as spikes=fine makes it */
    ASSERT_OK(bal_part_write(path, &got, c, l, 0, &err));
    r.act = BAL_ACT_A8, r.act_group = 0, r.spikes = BAL_SPIKES_A16;
    ASSERT_FAILS(BAL_E_FORMAT, "down_proj.weight: expected a8g0, found a8g32",
                 bal_part_open(&part, path, c, l, &r, 0, &err));
    r.spikes = BAL_SPIKES_FINE;
    ASSERT_OK(bal_part_open(&part, path, c, l, &r, 0, &err));
    assert_int_equal(part.layer.q.act.group, 0);
    assert_int_equal(part.layer.down.act.group, 32);
    bal_part_close(&part);
    r.spikes = BAL_SPIKES_KEEP, r.act_scale = BAL_ACT_STATIC;
    ASSERT_FAILS(BAL_E_FORMAT, "expected fixed scales, found a8g0",
                 bal_part_open(&part, path, c, l, &r, 0, &err));
    for (int g = 0; g < BAL_GROUPS; g++)
        got.act[g] = (bal_act){.kind = BAL_ACT_A8, .scale = BAL_ACT_STATIC, .fixed = {2.0f, 2.0f}};
    ASSERT_OK(bal_part_write(path, &got, c, l, 0, &err));
    ASSERT_OK(bal_part_open(&part, path, c, l, &r, 0, &err));
    assert_true(bal_act_equal(part.layer.down.act, got.act[BAL_GROUP_DOWN]));
    bal_part_close(&part);
    r.act_scale = BAL_ACT_STATIC_MODALITY;
    ASSERT_FAILS(BAL_E_FORMAT, "expected fixed scales, found a8s40000000",
                 bal_part_open(&part, path, c, l, &r, 0, &err));
    r.act_scale = BAL_ACT_DYNAMIC;
    ASSERT_FAILS(BAL_E_FORMAT, "expected a8g0, found a8s40000000",
                 bal_part_open(&part, path, c, l, &r, 0, &err));
    bal_block_result_free(&got);
    case_close(&q);
}

static void a_file_says_what_it_reads(void **state)
{
    (void)state;
    bal_error err;
    bal_recipe r;
    bal_engine e;
    ASSERT_OK(bal_recipe_load(&r, "rtn", &err));
    const char *words[] = {"act=a8", "act_group=32", "bits=4"};
    for (int i = 0; i < 3; i++) ASSERT_OK(bal_recipe_assign(&r, words[i], &err));
    char path[600];
    snprintf(path, sizeof path, "%s", scratch("a8.safetensors"));
    bal_pipeline_opts o = {
        .model = source_path("tests/golden/tiled/model"), .out = path, .recipe = &r, .threads = 2};
    bal_pipeline_plan plan;
    ASSERT_OK(bal_pipeline_plan_make(&plan, &o, &err));
    ASSERT_OK(bal_pipeline_run(&o, &err));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, plan.sizes.n_bytes);
    ASSERT_OK(bal_engine_open(&e, path, 1, NULL, &err));
    assert_string_equal(bal_tensor_meta(&e.model.tensors, "ballast_format"), "1.1");
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        assert_true(bal_act_equal(bal_decoder_linear(&e.model.layers[1], i)->act,
                                  (bal_act){.kind = BAL_ACT_A8, .group = 32}));
    bal_engine_close(&e);
    edit(path, "\"a8g32\"", "\"a8g31\"");
    ASSERT_FAILS(BAL_E_UNSUP, "q_proj.weight: activation path 'a8g31' is not known",
                 bal_engine_open(&e, path, 1, NULL, &err));
    o.out = scratch("a16.safetensors");
    r.act = BAL_ACT_A16, r.act_group = 0;
    ASSERT_OK(bal_pipeline_run(&o, &err));
    ASSERT_OK(bal_engine_open(&e, o.out, 1, NULL, &err));
    assert_string_equal(bal_tensor_meta(&e.model.tensors, "ballast_format"), "1.0");
    assert_int_equal(e.model.layers[0].q.act.kind, BAL_ACT_A16);
    bal_engine_close(&e);
}

/* Fixed scales are in the file, which has the planned size, and a lie about them is refused. */
static void a_file_has_fixed_scales(void **state)
{
    (void)state;
    static const char *const kinds[] = {"act_scale=static", "act_scale=static-modality"};
    bal_error err;
    for (int i = 0; i < 2; i++) {
        bal_recipe r;
        bal_engine e;
        bal_pipeline_plan plan;
        struct stat st;
        char path[600], id[BAL_ACT_ID_SIZE], quoted[BAL_ACT_ID_SIZE + 2];
        snprintf(path, sizeof path, "%s", scratch("fixed.safetensors"));
        ASSERT_OK(bal_recipe_load(&r, "w8a8", &err));
        ASSERT_OK(bal_recipe_assign(&r, kinds[i], &err));
        ASSERT_OK(bal_recipe_assign(&r, "act_clip=mse", &err));
        bal_pipeline_opts o = {.model = source_path("tests/golden/tiled/model"),
                               .out = path,
                               .force = true,
                               .recipe = &r,
                               .calib = source_path("tests/golden/calib/calib.jsonl"),
                               .threads = 2};
        ASSERT_OK(bal_pipeline_plan_make(&plan, &o, &err));
        ASSERT_OK(bal_pipeline_run(&o, &err));
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, plan.sizes.n_bytes);
        ASSERT_OK(bal_engine_open(&e, path, 1, NULL, &err));
        assert_string_equal(bal_tensor_meta(&e.model.tensors, "ballast_format"), "2.1");
        for (int k = 0; k < BAL_DECODER_LINEARS; k++) {
            const bal_act act = bal_decoder_linear(&e.model.layers[1], k)->act;
            assert_int_equal(act.scale, i ? BAL_ACT_STATIC_MODALITY : BAL_ACT_STATIC);
            assert_true(act.fixed[0] > 0.0f && act.fixed[1] > 0.0f);
            assert_true((act.fixed[0] == act.fixed[1]) == !i);
        }
        bal_act_id(e.model.layers[0].q.act, id);
        bal_engine_close(&e);
        snprintf(quoted, sizeof quoted, "\"%s\"", id);
        id[3] = 'f';
        char lie[sizeof quoted];
        snprintf(lie, sizeof lie, "\"%s\"", id);
        edit(path, quoted, lie);
        ASSERT_FAILS(BAL_E_UNSUP, "a8sTvV with the bits of fixed scales",
                     bal_engine_open(&e, path, 1, NULL, &err));
    }
}

/* Features of two views of noise, malloc'ed. */
static float *features_of(const bal_engine *e, const bal_exec *exec, size_t *n)
{
    bal_error err;
    bal_rng r;
    const bal_config *c = &e->model.config;
    const size_t pixels = 3 * (size_t)c->vision.image_size * (size_t)c->vision.image_size;
    float *x = malloc(2 * pixels * sizeof *x);
    bal_rng_seed(&r, 21);
    for (size_t i = 0; i < 2 * pixels; i++) x[i] = bal_rng_f32(&r) * 2.0f - 1.0f;
    *n = 2 * (size_t)bal_view_tokens(&c->vision) * (size_t)c->text.hidden;
    float *out = malloc(*n * sizeof *out);
    ASSERT_OK(bal_vision_views(exec, &e->model, x, 2, out, (bal_taps){0}, &err));
    free(x);
    return out;
}

static double rms_distance(const float *a, const float *b, size_t n)
{
    double d = 0.0, size = 0.0;
    for (size_t i = 0; i < n; i++) {
        d += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        size += (double)a[i] * (double)a[i];
    }
    return sqrt(d / size);
}

static void make_tower(const char *path, const char *bits, const char *act)
{
    bal_error err;
    bal_recipe r;
    bal_pipeline_plan plan;
    struct stat st;
    char vision[32], projector[32];
    snprintf(vision, sizeof vision, "vision=%s", bits);
    snprintf(projector, sizeof projector, "projector=%s", bits);
    ASSERT_OK(bal_recipe_load(&r, "rtn", &err));
    ASSERT_OK(bal_recipe_assign(&r, vision, &err));
    ASSERT_OK(bal_recipe_assign(&r, projector, &err));
    ASSERT_OK(bal_recipe_assign(&r, act, &err));
    bal_pipeline_opts o = {.model = source_path("tests/golden/tiled/model"),
                           .out = path,
                           .force = true,
                           .recipe = &r,
                           .threads = 2};
    ASSERT_OK(bal_pipeline_plan_make(&plan, &o, &err));
    ASSERT_OK(bal_pipeline_run(&o, &err));
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, plan.sizes.n_bytes);
}

/* In front of the decoder as in it: every linear is its simulation, and features differ from those
 * of the same weights in float by what bytes cost and no more. */
static void a_tower_reads_bytes(void **state)
{
    (void)state;
    static const char *const bits[] = {"8", "4"}, *const acts[] = {"vision_act=a16",
                                                                   "vision_act=a8"};
    bal_error err;
    bal_rng r;
    bal_rng_seed(&r, 22);
    for (int b = 0; b < 2; b++) {
        double off[2];
        for (int a = 0; a < 2; a++) {
            setup s;
            bal_engine e;
            unpacked u;
            size_t n;
            char path[600];
            snprintf(path, sizeof path, "%s", scratch("tower.safetensors"));
            make_tower(path, bits[b], acts[a]);
            ASSERT_OK(bal_engine_open(&e, path, 1, NULL, &err));
            open_setup(&s, 2, bal_model_max_k(&e.model));
            assert_string_equal(bal_tensor_meta(&e.model.tensors, "ballast_format"),
                                a ? "1.1" : "1.0");
            for (int i = 0; i < BAL_VISION_LINEARS + 2; i++) {
                bal_linear l = i < BAL_VISION_LINEARS
                                   ? *bal_vision_linear(&e.model.vision_layers[1], i)
                                   : e.model.projector[i - BAL_VISION_LINEARS];
                if (!l.k) continue;
                l.bias = NULL;
                assert_int_equal(l.act.kind, a ? BAL_ACT_A8 : BAL_ACT_A16);
                assert_int_equal(l.act.group, 0);
                if (a) assert_true(check_linear(&s, &l, &r, 19, false) < 1e-6);
            }
            assert_int_equal(e.model.layers[0].q.act.kind, BAL_ACT_A16);
            float *packed = features_of(&e, &s.e, &n);
            unpack_all(&u, &e.model);
            float *twin = features_of(&e, &s.e, &n);
            off[a] = rms_distance(twin, packed, n);
            unpacked_free(&u);
            free(packed);
            free(twin);
            close_setup(&s);
            bal_engine_close(&e);
        }
        assert_true(off[0] < 1e-3 && off[1] > 2.0 * off[0] && off[1] < 0.05);
    }
}

/* Two levels go with bytes, tables do not. */
static void files_with_steps(void **state)
{
    (void)state;
    static const struct {
        const char *recipe, *bits, *id, *act;
    } cases[] = {{"qoq", "bits=4", "d4g128.p16u32.v1", "a8g0"},
                 {"dgq", "bits=4", "d4g128.p16u32.v1", "a8g0"},
                 {"table", "bits=3", "t3g32.p16u32.v1", "a16"}};
    bal_error err;
    bal_recipe r;
    bal_engine e;
    for (int i = 0; i < 3; i++) {
        char path[600], id[BAL_PACKED_ID_SIZE], act[BAL_ACT_ID_SIZE];
        ASSERT_OK(bal_recipe_load(&r, cases[i].recipe, &err));
        ASSERT_OK(bal_recipe_assign(&r, cases[i].bits, &err));
        snprintf(path, sizeof path, "%s", scratch(cases[i].recipe));
        bal_pipeline_opts o = {.model = source_path("tests/golden/tiled/model"),
                               .out = path,
                               .recipe = &r,
                               .calib = source_path("tests/golden/calib/calib.jsonl"),
                               .threads = 2};
        bal_pipeline_plan plan;
        struct stat st;
        ASSERT_OK(bal_pipeline_plan_make(&plan, &o, &err));
        ASSERT_OK(bal_pipeline_run(&o, &err));
        assert_int_equal(stat(path, &st), 0);
        assert_int_equal(st.st_size, plan.sizes.n_bytes);
        ASSERT_OK(bal_engine_open(&e, path, 1, NULL, &err));
        assert_string_equal(bal_tensor_meta(&e.model.tensors, "ballast_format"), "1.2");
        for (int k = 0; k < BAL_DECODER_LINEARS; k++) {
            const bal_linear *l = bal_decoder_linear(&e.model.layers[1], k);
            bal_packed_layout_id(&l->packed.layout, id);
            bal_act_id(l->act, act);
            assert_string_equal(id, cases[i].id);
            assert_string_equal(act, cases[i].act);
        }
        bal_engine_close(&e);
    }
    /* a table of 4 bits takes as many bytes as these two levels here */
    char path[600];
    snprintf(path, sizeof path, "%s", scratch("qoq"));
    edit(path, "\"d4g128.p16u32.v1\"", "\"t4g128.p16u32.v1\"");
    ASSERT_FAILS(BAL_E_UNSUP, "t4g128.p16u32.v1 and reads bytes; tables read 16-bit activations",
                 bal_engine_open(&e, path, 1, NULL, &err));
}

static void recipes_check(void **state)
{
    (void)state;
    bal_error err;
    bal_recipe r;
    ASSERT_OK(bal_recipe_load(&r, "w8a8", &err));
    assert_true(r.act == BAL_ACT_A8 && r.act_group == 0 && r.scale == BAL_SCALE_SMOOTH &&
                r.alpha == 50 && r.bits == 8 && r.group == 0 && r.grid == BAL_GRID_SYM);
    ASSERT_OK(bal_recipe_check(&r, &err));
    assert_true(bal_recipe_needs_data(&r));
    ASSERT_OK(bal_recipe_load(&r, "w4a8", &err));
    assert_true(r.act == BAL_ACT_A8 && r.scale == BAL_SCALE_SEARCH && r.bits == 4 &&
                r.balance == BAL_BALANCE_GRADIENT);
    ASSERT_OK(bal_recipe_load(&r, "rtn", &err));
    r.spikes = true;
    ASSERT_FAILS(BAL_E_ARG, "spikes=a16 needs act=a8", bal_recipe_check(&r, &err));
    r.act = BAL_ACT_A8, r.act_group = 32, r.spikes = BAL_SPIKES_FINE;
    ASSERT_FAILS(BAL_E_ARG, "changes nothing with act_group=32", bal_recipe_check(&r, &err));
    r.spikes = BAL_SPIKES_KEEP, r.spike_rule = BAL_SPIKE_TAIL;
    ASSERT_FAILS(BAL_E_ARG, "spike_rule=tail needs spikes", bal_recipe_check(&r, &err));
    r.act_group = 0, r.spikes = BAL_SPIKES_FINE;
    ASSERT_OK(bal_recipe_check(&r, &err));
    assert_true(bal_recipe_needs_data(&r));
    r.spikes = BAL_SPIKES_KEEP, r.spike_rule = BAL_SPIKE_MEAN, r.act_clip = BAL_ACT_CLIP_MSE;
    ASSERT_FAILS(BAL_E_ARG, "act_clip=mse needs act_scale=static", bal_recipe_check(&r, &err));
    r.act_scale = BAL_ACT_STATIC_MODALITY;
    ASSERT_OK(bal_recipe_check(&r, &err));
    assert_true(bal_recipe_needs_data(&r));
    r.act_group = 32;
    ASSERT_FAILS(BAL_E_ARG, "act_scale=static-modality fixes one scale for all inputs",
                 bal_recipe_check(&r, &err));
    r.act = BAL_ACT_A16;
    ASSERT_FAILS(BAL_E_ARG, "act_scale=static-modality needs act=a8", bal_recipe_check(&r, &err));
    ASSERT_OK(bal_recipe_load(&r, "rtn", &err));
    r.vision_act = BAL_ACT_A8;
    ASSERT_FAILS(BAL_E_ARG, "vision_act=a8 needs vision=4, 6, 8 or auto",
                 bal_recipe_check(&r, &err));
    r.side[BAL_SIDE_PROJECTOR] = 8;
    ASSERT_OK(bal_recipe_check(&r, &err));
    ASSERT_FAILS(BAL_E_ARG, "act_group must be one of 32, 128, row",
                 bal_recipe_set(&r, "act_group", "64", &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_round_trip),
        cmocka_unit_test(linear_is_its_simulation),
        cmocka_unit_test(fixed_scales_are_their_simulation),
        cmocka_unit_test(tails_are_found),
        cmocka_unit_test(spikes_are_found),
        cmocka_unit_test(smooth_scales),
        cmocka_unit_test(errors_count_activations),
        cmocka_unit_test(scales_are_fixed),
        cmocka_unit_test(ranges_are_scaled),
        cmocka_unit_test(ranges_are_chosen),
        cmocka_unit_test(a_part_says_what_it_reads),
        cmocka_unit_test(a_file_says_what_it_reads),
        cmocka_unit_test(a_file_has_fixed_scales),
        cmocka_unit_test(a_tower_reads_bytes),
        cmocka_unit_test(files_with_steps),
        cmocka_unit_test(recipes_check),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
