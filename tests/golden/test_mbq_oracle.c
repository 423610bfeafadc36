/* SPDX-License-Identifier: MIT
 * The scale search against an independent implementation of MBQ, in 21 configurations on a model
 * with grouped query heads and one without: channel statistics, all 20 losses of every group, the
 * chosen exponents, scales, integer codes, and logits of the quantized model. Where scales are
 * taken from the oracle codes must be the same bits; from our own scales, whose last digits
 * differ, a code may flip at a tie (tests/golden/README.md, "How exactly can one agree"). */
#include "quant_case.h"

#include "quant/fold.h"
#include "quant/pass.h"

#include <math.h>

static const char *const configs[] = {
    "w3_mae",         "w3_mse",         "w4_mae",          "w4_mse",          "w8_mae",
    "w8_mse",         "w3_mae_g32",     "w3_mae_g64",      "w3_mae_row",      "w3_mae_nofloor",
    "w3_mae_r1",      "w3_mae_pooled",  "w3_awq",          "w3_mae_balanced", "w3_mae_distort",
    "w4_mae_distort", "w4_mae_g32_f16", "w8_mae_g32_bf16", "w4a8_mae",        "w4a8_mae_distort",
    "w8a8_mse"};
static const char *const group_name[BAL_GROUPS] = {"qkv", "o", "gate_up", "down"};
static const char *const sub_name[BAL_SUBS] = {"attn", "mlp"};

typedef struct tally {
    int groups, same_index, codes, flips;
    double worst_median, worst_loss;
} tally;

static bool is(json_t *config, const char *key, const char *value)
{
    const char *s = json_string_value(json_object_get(config, key));
    return s && strcmp(s, value) == 0;
}

static bal_recipe recipe_of(json_t *c)
{
    bal_recipe r = case_recipe();
    r.bits = (int)json_integer_value(json_object_get(c, "bits"));
    r.group = (int)json_integer_value(json_object_get(c, "group"));
    r.loss = is(c, "loss", "mae") ? BAL_LOSS_MAE : BAL_LOSS_MSE;
    r.arithmetic = is(c, "arith", "f16")    ? BAL_ARITH_F16
                   : is(c, "arith", "bf16") ? BAL_ARITH_BF16
                                            : BAL_ARITH_F32;
    r.statistic = is(c, "statistic", "balanced") ? BAL_STATISTIC_BALANCED : BAL_STATISTIC_PLAIN;
    r.grid = is(c, "grid", "sym") ? BAL_GRID_SYM : BAL_GRID_ASYM;
    r.act = is(c, "act", "a8") ? BAL_ACT_A8 : BAL_ACT_A16;
    r.distort = json_is_true(json_object_get(c, "distort"));
    r.balance =
        json_is_true(json_object_get(c, "reweight")) ? BAL_BALANCE_GRADIENT : BAL_BALANCE_OFF;
    return r;
}

static double number_at(json_t *array, size_t i)
{
    json_t *v = json_array_get(array, i);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

static json_t *golden_group(json_t *root, int layer, int group)
{
    char key[64];
    snprintf(key, sizeof key, "layer.%d.%s", layer, group_name[group]);
    return json_object_get(root, key);
}

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check_losses(const char *where, json_t *want, const bal_group_log *log, double limit,
                         tally *t)
{
    double off[BAL_SCALE_POINTS];
    json_t *losses = json_object_get(want, "losses");
    for (int i = 0; i < BAL_SCALE_POINTS; i++) {
        const double w = number_at(losses, (size_t)i);
        off[i] = fabs(log->loss[i] - w) / w;
    }
    qsort(off, BAL_SCALE_POINTS, sizeof *off, by_value);
    const double median = (off[9] + off[10]) / 2, worst = off[BAL_SCALE_POINTS - 1];
    t->worst_median = fmax(t->worst_median, median);
    t->worst_loss = fmax(t->worst_loss, worst);
    if (median > limit) fail_msg("%s: the median loss is off by %g", where, median);
    if (worst > 2e-2) fail_msg("%s: a loss is off by %g", where, worst);
}

static void check_index(const char *where, json_t *want, const bal_group_log *log, double limit,
                        tally *t)
{
    const int golden = (int)json_integer_value(json_object_get(want, "index"));
    json_t *losses = json_object_get(want, "losses");
    t->same_index += log->best == golden;
    const double best = number_at(losses, (size_t)golden);
    const double mine = number_at(losses, (size_t)log->best);
    if ((mine - best) / best > 1e-2)
        fail_msg("%s: exponent %d, golden %d is better by %g", where, log->best, golden,
                 (mine - best) / best);
    for (int k = 0; k < log->k; k++) {
        const double s = number_at(json_object_get(want, "s"), (size_t)k);
        if (log->best == golden && fabs((double)log->scale[k] - s) > limit * s)
            fail_msg("%s: scale %d is %.9g, golden %.9g", where, k, (double)log->scale[k], s);
    }
}

static void check_statistic(const char *where, json_t *want, const bal_group_log *log, double limit)
{
    json_t *m = json_object_get(want, "m");
    assert_int_equal(json_array_size(m), log->k);
    for (int k = 0; k < log->k; k++) {
        const double w = number_at(m, (size_t)k);
        if (fabs((double)log->mean_abs[k] - w) > limit * w)
            fail_msg("%s: m[%d] is %.9g, golden %.9g", where, k, (double)log->mean_abs[k], w);
    }
}

static void check_groups(const char *name, json_t *root, const bal_recipe *r, int layer,
                         const bal_block_result *got, tally *t)
{
    for (int g = 0; g < BAL_GROUPS; g++) {
        char where[128];
        snprintf(where, sizeof where, "%s layer %d %s", name, layer, group_name[g]);
        json_t *want = golden_group(root, layer, g);
        if ((want != NULL) != got->group[g].searched) fail_msg("%s: searched or not", where);
        if (!want) continue;
        t->groups++;
        /* with distort, flips of earlier groups reach m and the losses */
        check_statistic(where, want, &got->group[g],
                        r->distort && r->act == BAL_ACT_A8 ? 5e-3
                        : r->distort                       ? 1e-3
                                                           : 1e-6);
        check_losses(where, want, &got->group[g],
                     r->distort ? 1e-2
                     : r->bits == 8 || r->act == BAL_ACT_A8 || r->arithmetic != BAL_ARITH_F32
                         ? 1e-3
                         : 1e-4,
                     t);
        /* one step of the emulated type: 2^-10 and 2^-7 */
        check_index(where, want, &got->group[g],
                    r->distort                       ? 1e-3
                    : r->arithmetic == BAL_ARITH_F32 ? 1e-6
                    : r->arithmetic == BAL_ARITH_F16 ? 0x1p-10
                                                     : 0x1p-7,
                    t);
    }
}

static void fold_golden(bal_layer_copy *copy, bal_pool *pool, json_t *root, int layer,
                        bal_arith arith)
{
    for (int g = 0; g < BAL_GROUPS; g++) {
        json_t *want = golden_group(root, layer, g);
        if (!want) continue;
        json_t *array = json_object_get(want, "s");
        const size_t k = json_array_size(array);
        float *s = malloc(k * sizeof *s);
        for (size_t i = 0; i < k; i++) s[i] = (float)number_at(array, i);
        bal_fold_group(copy, pool, g, s, arith);
        free(s);
    }
}

/* Linear i of the copy reads bytes from now on; what it points to is returned. */
static uint8_t *run_packed(bal_layer_copy *copy, int i, const bal_quantized_linear *q)
{
    bal_error err = {0};
    bal_packed_layout layout;
    bal_linear *l = bal_decoder_linear(&copy->l, i);
    ASSERT_OK(bal_packed_layout_init(&layout, q->bits, (size_t)q->n, (size_t)q->k, (size_t)q->group,
                                     &err));
    uint8_t *bytes = malloc(layout.n_bytes);
    ASSERT_OK(bal_pack(&layout, q->codes, q->scales, q->zeros, bytes, &err));
    ASSERT_OK(bal_packed_view_init(&l->packed, &layout, bytes, layout.n_bytes, &err));
    ASSERT_OK(bal_type_from_bits(&l->type, q->bits, &err));
    l->act = (bal_act){.kind = BAL_ACT_A8};
    return bytes;
}

/* Quantizes the copy in place, with the oracle's scales in it: codes must be the oracle's. */
static void quantize_golden(bal_layer_copy *copy, bal_pool *pool, const bal_recipe *r,
                            const bal_tensor_set *set, int layer, const bal_block_result *ours,
                            uint8_t *packed[BAL_DECODER_LINEARS], tally *t)
{
    bal_error err = {0};
    const bal_quantizer z = bal_quantizer_of(r);
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_linear *l = bal_layer_linear(&copy->l, i);
        const char *stem = strchr(bal_decoder_linear_name(i), '.') + 1;
        bal_quantized_linear q;
        char name[96];
        ASSERT_OK(bal_quantized_linear_create(&q, l->n, l->k, r->bits, r->group, &err));
        bal_quantize_matrix(pool, &z, copy->w[i], &q);
        snprintf(name, sizeof name, "layer.%d.%s.codes", layer, stem);
        if (bal_tensor_find(set, name)) {
            const bal_tensor_view *codes = case_tensor(set, "layer.%d.%s.codes", layer, stem);
            const bal_tensor_view *scales = case_tensor(set, "layer.%d.%s.scales", layer, stem);
            const bal_tensor_view *zeros = case_tensor(set, "layer.%d.%s.zeros", layer, stem);
            assert_memory_equal(q.codes, codes->data, codes->n_bytes);
            assert_memory_equal(q.scales, scales->data, scales->n_bytes);
            assert_memory_equal(q.zeros, zeros->data, zeros->n_bytes);
            for (size_t k = 0; k < codes->n_bytes; k++) {
                const int d = ours->linear[i].codes[k] - codes->data[k];
                t->codes++;
                t->flips += d != 0;
            }
        }
        for (int row = 0; row < q.n; row++)
            bal_quantized_row(&q, row, copy->w[i] + (size_t)row * (size_t)q.k);
        packed[i] = r->act == BAL_ACT_A8 ? run_packed(copy, i, &q) : NULL;
        bal_quantized_linear_free(&q);
    }
}

/* One block over every sample of a store, in place. */
static void advance(quant_case *q, bal_pass *pass, const bal_decoder_layer *l, bal_store *s)
{
    bal_error err = {0};
    float *h = malloc((size_t)q->samples.max_len * (size_t)s->cols * sizeof *h);
    for (int i = 0; i < CASE_SAMPLES; i++) {
        const bal_rows rows = bal_pass_rows(pass, q->items[i].n);
        ASSERT_OK(bal_store_read(s, i, h, &err));
        bal_decoder_block(&q->exec, &q->model.config.text, l, &rows, h, &pass->buf, 0,
                          (bal_taps){0});
        ASSERT_OK(bal_store_write(s, i, h, &err));
    }
    free(h);
}

static void check_logits(const char *name, quant_case *q, bal_pass *pass, const bal_store *s,
                         const bal_tensor_set *set, double limit)
{
    bal_error err = {0};
    const size_t hidden = (size_t)s->cols, vocab = (size_t)q->model.config.text.vocab;
    const bal_tensor_view *rows = case_tensor(set, "logits.rows");
    float *want = case_floats(case_tensor(set, "logits"));
    float *h = malloc((size_t)q->samples.max_len * hidden * sizeof *h);
    float *got = malloc(vocab * sizeof *got);
    double worst = 0.0, largest = 0.0;
    ASSERT_OK(bal_store_read(s, 1, h, &err));
    for (size_t i = 0; i < rows->shape[0]; i++) {
        int64_t row;
        memcpy(&row, rows->data + 8 * i, sizeof row);
        bal_decoder_logits(&q->exec, &q->model, h + (size_t)row * hidden, 1, &pass->buf, got,
                           (bal_taps){0});
        for (size_t v = 0; v < vocab; v++) {
            worst = fmax(worst, fabs((double)got[v] - (double)want[i * vocab + v]));
            largest = fmax(largest, fabs((double)want[i * vocab + v]));
        }
    }
    if (worst > limit * largest) fail_msg("%s: logits off by %g of %g", name, worst, largest);
    free(want);
    free(h);
    free(got);
}

static void copy_store(bal_store *to, const quant_case *q)
{
    bal_error err = {0};
    float *h = malloc((size_t)q->samples.max_len * (size_t)q->embeds.cols * sizeof *h);
    ASSERT_OK(bal_store_create(to, "/tmp", &q->samples, q->embeds.cols, &err));
    for (int i = 0; i < CASE_SAMPLES; i++) {
        ASSERT_OK(bal_store_read(&q->embeds, i, h, &err));
        ASSERT_OK(bal_store_write(to, i, h, &err));
    }
    free(h);
}

static void check_layer(const char *name, quant_case *q, json_t *root, const bal_tensor_set *set,
                        int i, bal_pass *pass, bal_store stream[2], tally *t)
{
    bal_error err = {0};
    const bal_text_config *c = &q->model.config.text;
    const bal_decoder_layer *l = &q->model.layers[i];
    const bal_recipe r = recipe_of(json_object_get(root, "config"));
    json_t *cells = json_array_get(json_object_get(root, "ratios"), (size_t)i);
    double ratio[BAL_SUBS];
    bal_block_result got;
    bal_layer_copy copy;
    uint8_t *packed[BAL_DECODER_LINEARS];
    for (int sub = 0; sub < BAL_SUBS; sub++)
        ratio[sub] = json_number_value(json_object_get(json_object_get(cells, sub_name[sub]), "r"));
    ASSERT_OK(bal_block_solve(&got, &q->exec, c, l, i, &q->samples, &stream[0], &stream[1], ratio,
                              &r, "/tmp", NULL, NULL, &err));
    check_groups(name, root, &r, i, &got, t);
    ASSERT_OK(bal_layer_copy_create(&copy, q->pool, c, l, i, &err));
    fold_golden(&copy, q->pool, root, i, r.arithmetic);
    quantize_golden(&copy, q->pool, &r, set, i, &got, packed, t);
    advance(q, pass, l, &stream[0]);
    advance(q, pass, &copy.l, &stream[1]);
    for (int n = 0; n < BAL_DECODER_LINEARS; n++) free(packed[n]);
    bal_layer_copy_destroy(&copy);
    bal_block_result_free(&got);
}

static void check_config(quant_case *q, const char *model, const char *config, tally *t)
{
    bal_error err = {0};
    char file[96], path[256], name[96];
    bal_tensor_set set;
    bal_pass pass;
    bal_store stream[2];
    snprintf(name, sizeof name, "%s %s", model, config);
    snprintf(file, sizeof file, "mbq_%s.json", config);
    json_t *root = case_json(model, file);
    snprintf(path, sizeof path, "tests/golden/%s/mbq_%s.safetensors", model, config);
    ASSERT_OK(bal_tensor_set_open(&set, source_path(path), &err));
    ASSERT_OK(bal_pass_create(&pass, &q->model.config.text, q->samples.max_len, &err));
    for (int i = 0; i < 2; i++) copy_store(&stream[i], q);
    for (int i = 0; i < q->model.config.text.layers; i++)
        check_layer(name, q, root, &set, i, &pass, stream, t);
    /* a byte of an activation that sits on a tie may go either way */
    const bool bytes = recipe_of(json_object_get(root, "config")).act == BAL_ACT_A8;
    check_logits(name, q, &pass, &stream[1], &set, bytes ? 1e-2 : 1e-4);
    for (int i = 0; i < 2; i++) bal_store_destroy(&stream[i]);
    bal_pass_destroy(&pass);
    bal_tensor_set_close(&set);
    json_decref(root);
}

static void check_model(const char *model)
{
    quant_case q;
    tally all = {0};
    case_open(&q, model, 1); /* results are the same for any number (test_quant_block) */
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        tally t = {0};
        check_config(&q, model, configs[i], &t);
        printf("%-6s %-16s %d of %d exponents, %d of %d codes differ, median loss %.1e, one %.1e\n",
               model, configs[i], t.same_index, t.groups, t.flips, t.codes, t.worst_median,
               t.worst_loss);
        all.groups += t.groups;
        all.same_index += t.same_index;
        all.codes += t.codes;
        all.flips += t.flips;
    }
    if (all.same_index < all.groups - 2)
        fail_msg("%d of %d exponents agree", all.same_index, all.groups);
    if (all.flips > all.codes / 1000) fail_msg("%d of %d codes differ", all.flips, all.codes);
    case_close(&q);
}

static void test_gqa(void **state)
{
    (void)state;
    check_model("tiled");
}

static void test_mha(void **state)
{
    (void)state;
    check_model("mha");
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_gqa), cmocka_unit_test(test_mha)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
