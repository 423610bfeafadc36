/* SPDX-License-Identifier: MIT
 * 8-bit activations from the integer kernels to the file: a linear against its simulation on
 * floats, bit for bit where float arithmetic is exact; the rule for spikes; SmoothQuant's scale and
 * its folding; what a block and a file say about how inputs are read, and lies about it. */
#include "../unit/scratch.h"
#include "quant_case.h"

#include "base/half.h"
#include "base/rng.h"
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
    const bal_act acts[] = {{BAL_ACT_A16, 0}, {BAL_ACT_A8, 0}, {BAL_ACT_A8, 32}, {BAL_ACT_A8, 128}};
    static const char *const ids[] = {"a16", "a8g0", "a8g32", "a8g128"};
    static const char *const bad[] = {"",      "a8",    "a8g",  "a8g33", "a8g-32",        "a8g032",
                                      "a8g0 ", "a16g0", "A8g0", "a4g0",  "a8g99999999999"};
    bal_error err;
    bal_act a;
    char id[BAL_ACT_ID_SIZE];
    for (int i = 0; i < 4; i++) {
        bal_act_id(acts[i], id);
        assert_string_equal(id, ids[i]);
        ASSERT_OK(bal_act_parse(id, &a, &err));
        assert_true(bal_act_equal(a, acts[i]));
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
static double off_simulation(const setup *s, const bal_linear *l, float *x, const float *y, int m)
{
    double worst = 0;
    float *w = malloc((size_t)l->k * sizeof *w);
    bal_act_simulate(&s->e, l->act, NULL, x, m, l->k);
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
    random_rows(r, x, m, l->k, exact);
    bal_linear_forward(&s->e, l, x, k, m, y, n);
    for (int i = 0; i < m; i += 11) {
        bal_linear_forward(&s->e, l, x + (size_t)i * k, k, 1, one, n);
        assert_memory_equal(one, y + (size_t)i * n, n * sizeof *one);
    }
    const double off = off_simulation(s, l, x, y, m);
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
            l.act = (bal_act){BAL_ACT_A8, act_groups[i / 16]};
            const double off = check_linear(&s, &l, &r, 67, exact);
            if (exact ? off != 0.0 : off > 1e-6)
                fail_msg("w%d %d x %d, scale of %zu inputs: off by %g", bits[i % 4], shape[0],
                         shape[1], l.act.group, off);
            free(bytes);
        }
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
        assert_true(bal_act_equal(got.act[g], (bal_act){BAL_ACT_A8, 0}));
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
    got.act[BAL_GROUP_DOWN] = (bal_act){BAL_ACT_A16, 0}; /* as spikes=a16 makes it */
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
    got.act[BAL_GROUP_DOWN] = (bal_act){BAL_ACT_A8, 32}; /* as spikes=fine makes it */
    ASSERT_OK(bal_part_write(path, &got, c, l, 0, &err));
    r.act = BAL_ACT_A8, r.act_group = 0, r.spikes = BAL_SPIKES_A16;
    ASSERT_FAILS(BAL_E_FORMAT, "down_proj.weight: expected a8g0, found a8g32",
                 bal_part_open(&part, path, c, l, &r, 0, &err));
    r.spikes = BAL_SPIKES_FINE;
    ASSERT_OK(bal_part_open(&part, path, c, l, &r, 0, &err));
    assert_int_equal(part.layer.q.act.group, 0);
    assert_int_equal(part.layer.down.act.group, 32);
    bal_part_close(&part);
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
                                  (bal_act){BAL_ACT_A8, 32}));
    bal_engine_close(&e);
    edit(path, "\"a8g32\"", "\"a8g31\"");
    ASSERT_FAILS(BAL_E_UNSUP, "q_proj.weight: activation path 'a8g31' is not known",
                 bal_engine_open(&e, path, 1, NULL, &err));
    o.out = scratch("a16.safetensors");
    r.act = BAL_ACT_A16;
    ASSERT_OK(bal_pipeline_run(&o, &err));
    ASSERT_OK(bal_engine_open(&e, o.out, 1, NULL, &err));
    assert_string_equal(bal_tensor_meta(&e.model.tensors, "ballast_format"), "1.0");
    assert_int_equal(e.model.layers[0].q.act.kind, BAL_ACT_A16);
    bal_engine_close(&e);
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
    ASSERT_FAILS(BAL_E_ARG, "act_group must be one of 32, 128, row",
                 bal_recipe_set(&r, "act_group", "64", &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_round_trip),
        cmocka_unit_test(linear_is_its_simulation),
        cmocka_unit_test(tails_are_found),
        cmocka_unit_test(spikes_are_found),
        cmocka_unit_test(smooth_scales),
        cmocka_unit_test(errors_count_activations),
        cmocka_unit_test(a_part_says_what_it_reads),
        cmocka_unit_test(a_file_says_what_it_reads),
        cmocka_unit_test(files_with_steps),
        cmocka_unit_test(recipes_check),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
