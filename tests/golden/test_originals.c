/* SPDX-License-Identifier: MIT
 * Our AWQ, MBQ and GPTQ against the published programs on the same tensors (make/originals.py):
 * exponents, scales and the loss of every candidate; codes and losses. They keep scales of weights
 * as f32 and we as f16, which is the one difference that matters: against their run with such
 * scales we must agree to rounding, against the run as published the difference is bounded. */
#include "quant_case.h"

#include "base/half.h"
#include "quant/ldlq.h"
#include "quant/pass.h"

#include <math.h>

static const char *const kinds[] = {"f16", "f32"};
enum { F16, F32, KINDS };

/* ---- AWQ and MBQ ---- */

static const char *const group_name[BAL_GROUPS] = {"qkv", "o", "gate_up", "down"};

typedef struct agreement {
    int groups, same;     /* of them, with the same exponent */
    double median, worst; /* relative differences of candidates' losses; median: of a group */
    double price;         /* what their loss says our exponent costs where it is another one */
} agreement;

static int by_value(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at(const json_t *array, int i)
{
    return json_number_value(json_array_get(array, (size_t)i));
}

static int least(const json_t *losses)
{
    int best = 0;
    for (int i = 1; i < BAL_SCALE_POINTS; i++)
        if (at(losses, i) < at(losses, best)) best = i;
    return best;
}

static void check_group(const json_t *golden, const bal_group_log *got, agreement *a)
{
    const json_t *losses = json_object_get(golden, "losses"), *s = json_object_get(golden, "s");
    double d[BAL_SCALE_POINTS];
    const int best = least(losses);
    assert_int_equal(json_array_size(losses), BAL_SCALE_POINTS);
    assert_int_equal(json_array_size(s), got->k);
    for (int i = 0; i < BAL_SCALE_POINTS; i++)
        d[i] = fabs(got->loss[i] - at(losses, i)) / at(losses, i);
    qsort(d, BAL_SCALE_POINTS, sizeof *d, by_value);
    a->median = fmax(a->median, d[BAL_SCALE_POINTS / 2]);
    a->worst = fmax(a->worst, d[BAL_SCALE_POINTS - 1]);
    a->groups++;
    a->same += got->best == best;
    a->price = fmax(a->price, at(losses, got->best) / at(losses, best) - 1);
    for (int i = 0; got->best == best && i < got->k; i++)
        if (!(fabs((double)got->scale[i] - at(s, i)) <= 1e-5 * at(s, i)))
            fail_msg("scale %d is %.9g, not %.9g", i, (double)got->scale[i], at(s, i));
}

/* What the published program ran with: whole rows, its own arithmetic. */
static bal_recipe recipe_of(const char *name, const char *set)
{
    bal_error err = {0};
    bal_recipe r;
    ASSERT_OK(bal_recipe_load(&r, name, &err));
    ASSERT_OK(bal_recipe_assign(&r, "bits=3", &err));
    ASSERT_OK(bal_recipe_assign(&r, set, &err));
    ASSERT_OK(bal_recipe_assign(&r, "group=row", &err));
    ASSERT_OK(bal_recipe_assign(&r, "arithmetic=f32", &err));
    return r;
}

/* name: what the golden names of this recipe have between layer and kind */
static void check_layer(quant_case *q, const json_t *golden, int layer, const bal_recipe *r,
                        const char *name, const bal_store *stream, agreement a[KINDS])
{
    static const double ratio[BAL_SUBS] = {[BAL_SUB_ATTN] = 0.5, [BAL_SUB_MLP] = 0.25};
    bal_error err = {0};
    bal_block_result got;
    char key[64];
    ASSERT_OK(bal_block_solve(&got, &q->exec, &q->model.config.text, &q->model.layers[layer], layer,
                              &q->samples, stream, stream, ratio, r, "/tmp", NULL, NULL, &err));
    for (int kind = 0; kind < KINDS; kind++)
        for (int g = 0; g < BAL_GROUPS; g++) {
            snprintf(key, sizeof key, "layer%d.%s.%s.%s", layer, name, kinds[kind], group_name[g]);
            const json_t *want = json_object_get(golden, key);
            assert_true(want && got.group[g].searched);
            check_group(want, &got.group[g], &a[kind]);
        }
    bal_block_result_free(&got);
}

/* The only sample through a block, in place. */
static void advance(quant_case *q, int layer, bal_pass *pass, float *h, bal_store *stream)
{
    bal_error err = {0};
    ASSERT_OK(bal_store_write(stream, 0, h, &err));
    bal_pass_place(pass, &q->items[0]);
    const bal_rows rows = bal_pass_rows(pass, q->items[0].n);
    bal_decoder_block(&q->exec, &q->model.config.text, &q->model.layers[layer], &rows, h,
                      &pass->buf, 0, (bal_taps){0});
}

static void report(const char *name, const char *kind, const agreement *a)
{
    printf("%s, scales as %s: %d of %d exponents, losses differ by %.1e (median of a group), %.1e; "
           "another exponent costs %.1e\n",
           name, kind, a->same, a->groups, a->median, a->worst, a->price);
}

typedef struct variant {
    const char *recipe, *set, *name; /* name: in the golden file */
    agreement a[KINDS];
} variant;

/* Every layer with each variant. */
static void run_variants(const char *file, variant *v, int n)
{
    bal_error err = {0};
    quant_case q;
    bal_pass pass;
    bal_store stream;
    int groups = 0;
    case_open(&q, "mha", 1);
    q.samples.n = 1;
    json_t *golden = case_json("originals", file);
    float *h = case_floats(case_tensor(&q.calib, "sample0.inputs_embeds"));
    ASSERT_OK(bal_pass_create(&pass, &q.model.config.text, q.samples.max_len, &err));
    ASSERT_OK(bal_store_create(&stream, "/tmp", &q.samples, q.model.config.text.hidden, &err));
    for (int layer = 0; layer < q.model.config.text.layers; layer++) {
        advance(&q, layer, &pass, h, &stream);
        for (int i = 0; i < n; i++) {
            const bal_recipe r = recipe_of(v[i].recipe, v[i].set);
            check_layer(&q, golden, layer, &r, v[i].name, &stream, v[i].a);
            groups += KINDS * BAL_GROUPS;
        }
    }
    assert_int_equal(groups, json_object_size(golden));
    bal_store_destroy(&stream);
    bal_pass_destroy(&pass);
    free(h);
    json_decref(golden);
    case_close(&q);
}

static void check_variant(const variant *v)
{
    for (int kind = 0; kind < KINDS; kind++) report(v->name, kinds[kind], &v->a[kind]);
    const agreement *same = &v->a[F16], *other = &v->a[F32];
    assert_true(same->same == same->groups && same->median < 1e-5 && same->worst < 0.05);
    assert_true(other->same >= other->groups - 2 && other->price < 0.01 && other->median < 0.02);
}

static void test_awq_scales(void **state)
{
    (void)state;
    variant v[] = {{.recipe = "awq", .set = "bits=3", .name = "b3"},
                   {.recipe = "awq", .set = "bits=4", .name = "b4"}};
    run_variants("awq.json", v, 2);
    for (int i = 0; i < 2; i++) check_variant(&v[i]);
}

static void test_mbq_scales(void **state)
{
    (void)state;
    variant v[] = {{.recipe = "mbq", .set = "loss=mae", .name = "mae"},
                   {.recipe = "mbq", .set = "loss=mse", .name = "mse"},
                   {.recipe = "w4a8", .set = "bits=4", .name = "w4a8"}};
    run_variants("mbq.json", v, 3);
    for (int i = 0; i < 3; i++) check_variant(&v[i]);
}

/* ---- GPTQ ---- */

enum { ROWS = 240, K = 192, N = 32, GROUP = 64, DEAD = 100 };

typedef struct gptq_case {
    quant_case q; /* for its threads and kernels */
    bal_tensor_set set;
    json_t *losses;
    bal_moments m;
    float w[N * K];
} gptq_case;

static void floats_of(const bal_tensor_set *set, const char *name, float *out, size_t n)
{
    const bal_tensor_view *v = case_tensor(set, "%s", name);
    assert_int_equal(v->n_bytes, 2 * n);
    for (size_t i = 0; i < n; i++) {
        uint16_t half;
        memcpy(&half, v->data + 2 * i, 2);
        out[i] = bal_f16_to_f32(half);
    }
}

static void gptq_open(gptq_case *g)
{
    bal_error err = {0};
    static float x[ROWS * K], work[ROWS * K];
    case_open(&g->q, "mha", 1);
    ASSERT_OK(
        bal_tensor_set_open(&g->set, source_path("tests/golden/originals/gptq.safetensors"), &err));
    g->losses = case_json("originals", "gptq.json");
    floats_of(&g->set, "x", x, ROWS * K);
    floats_of(&g->set, "w", g->w, N * K);
    for (int i = 0; i < ROWS * K; i++) x[i] *= sqrtf(1.0f / ROWS);
    ASSERT_OK(bal_moments_create(&g->m, &g->q.exec, K, false, 0, &err));
    bal_moments_add(&g->m, &g->q.exec, x, NULL, NULL, ROWS, work);
}

static void gptq_close(gptq_case *g)
{
    bal_moments_destroy(&g->m);
    bal_tensor_set_close(&g->set);
    json_decref(g->losses);
    case_close(&g->q);
}

/* tr(d H d^T) with the damped H, d = quantized - w: half the sum of the original's losses. It puts
 * 1 on the diagonal of its H = 2 / n sum x x^T for a dead input, which damping's mean then counts.
 */
static double loss_of(const gptq_case *g, const bal_quantized_linear *q, double damp)
{
    static float row[K];
    double sum = 0;
    const double extra = damp * (bal_moments_mean(&g->m) + 0.5 / K);
    for (int r = 0; r < N; r++) {
        bal_quantized_row(q, r, row);
        for (int i = 0; i < K; i++) row[i] -= g->w[r * K + i];
        row[DEAD] = 0;
        for (int i = 0; i < K; i++)
            for (int j = 0; j < K; j++)
                sum += (double)row[i] * (double)row[j] *
                       (bal_moments_at(&g->m, i, j) + (i == j ? extra : 0));
    }
    return sum;
}

static int flips_of(const gptq_case *g, const bal_quantized_linear *q, const char *name)
{
    const bal_tensor_view *want = case_tensor(&g->set, "%s.codes", name);
    int flips = 0;
    for (int i = 0; i < N * K; i++) flips += i % K != DEAD && q->codes[i] != want->data[i];
    return flips;
}

static void check_gptq(gptq_case *g, int bits, bool by_size)
{
    bal_error err = {0};
    bal_factor f;
    bal_quantized_linear q;
    char name[32];
    const double damp = 0.01;
    ASSERT_OK(
        bal_factor_create(&f, &g->q.exec, &g->m, damp, by_size ? BAL_FACTOR_BY_SIZE : 0, &err));
    ASSERT_OK(bal_quantized_linear_create(&q, N, K, bits, GROUP, &err));
    snprintf(name, sizeof name, "b%d.scales", bits);
    memcpy(q.scales, case_tensor(&g->set, "%s", name)->data, 2 * N * (K / GROUP));
    snprintf(name, sizeof name, "b%d.zeros", bits);
    memcpy(q.zeros, case_tensor(&g->set, "%s", name)->data, N * (K / GROUP));
    ASSERT_OK(bal_ldlq(&g->q.exec, &f, NULL, g->w, &q, &err));
    const double loss = loss_of(g, &q, damp);
    for (int kind = 0; kind < KINDS; kind++) {
        snprintf(name, sizeof name, "b%d.%s.%s", bits, by_size ? "diag" : "none", kinds[kind]);
        const double want = json_number_value(json_object_get(g->losses, name));
        const int flips = flips_of(g, &q, name);
        printf("%s: %d of %d codes differ, loss %.7g, theirs %.7g\n", name, flips, N * (K - 1),
               loss, want);
        assert_true(flips <= (kind == F16 ? 0 : N * K / 50));
        assert_true(fabs(loss / want - 1) < (kind == F16 ? 1e-5 : 0.02));
    }
    bal_quantized_linear_free(&q);
    bal_factor_destroy(&f);
}

static void test_gptq_codes(void **state)
{
    (void)state;
    static gptq_case g;
    gptq_open(&g);
    for (int bits = 2; bits <= 4; bits++)
        for (int order = 0; order < 2; order++) check_gptq(&g, bits, order);
    gptq_close(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_awq_scales),
                                       cmocka_unit_test(test_mbq_scales),
                                       cmocka_unit_test(test_gptq_codes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
