/* SPDX-License-Identifier: MIT
 * Widths under a budget, from end to end on the tiny golden model: the budget holds to the byte,
 * what is bought is what was measured to pay, any thread count and any interruption give the same
 * file, and budgets that cannot be met are refused with the least possible. */
#include "quantize_case.h"

#include "model/model.h"
#include "quant/allocate.h"

#include <jansson.h>
#include <math.h>

enum { LAYERS = 3, LINEARS = 7, WIDTHS = 5 };

static const char *const BPW[] = {"bits=auto", "target_bpw=4.5", "group=32"};

static bal_quant_opts options(void)
{
    return case_options("gptq", BPW, 3);
}

static const char *reference(void)
{
    static char path[600];
    bal_quant_opts o = options();
    o.report = scratch("reference.html");
    return made_once(path, "reference.safetensors", &o);
}

typedef struct tally {
    uint64_t weights, n_bytes;
    int of[9]; /* linears of each width */
} tally;

static tally count(const bal_model *m)
{
    tally t = {0};
    for (int i = 0; i < m->config.text.layers; i++)
        for (int k = 0; k < BAL_DECODER_LINEARS; k++) {
            const bal_linear *l = bal_decoder_linear((bal_decoder_layer *)&m->layers[i], k);
            t.weights += (uint64_t)l->n * (uint64_t)l->k;
            t.n_bytes += l->packed.layout.n_bytes;
            t.of[l->packed.layout.bits]++;
        }
    return t;
}

static uint64_t file_bytes(const char *path)
{
    struct stat sb;
    assert_int_equal(stat(path, &sb), 0);
    return (uint64_t)sb.st_size;
}

/* Several widths, within the budget, and nothing affordable was left lying. */
static void test_bits_per_weight(void **state)
{
    (void)state;
    bal_model m;
    bal_error err;
    ASSERT_OK(bal_model_load(&m, reference(), &err));
    const tally t = count(&m);
    assert_int_equal(t.of[2] + t.of[3] + t.of[4] + t.of[6] + t.of[8], LAYERS * LINEARS);
    assert_true((t.of[2] > 0) + (t.of[3] > 0) + (t.of[4] > 0) + (t.of[6] > 0) >= 2);
    const double bpw = 8.0 * (double)t.n_bytes / (double)t.weights;
    assert_true(bpw <= 4.5 && bpw > 4.3);
    bal_model_unload(&m);
}

/* What the report says was bought costs what it says, and buying again by its prices gives no
 * better: the sum of the prices at the chosen widths is the least of all within the bytes. */
static void test_record(void **state)
{
    (void)state;
    reference();
    json_t *doc = json_load_file(scratch("reference.json"), 0, NULL);
    const json_t *a = json_object_get(doc, "allocation");
    const json_t *bits = json_object_get(a, "bits"), *costs = json_object_get(a, "costs");
    assert_int_equal(json_array_size(bits), LAYERS);
    double sum = 0.0, uniform = 0.0;
    for (size_t layer = 0; layer < LAYERS; layer++)
        for (size_t i = 0; i < LINEARS; i++) {
            static const int widths[WIDTHS] = {2, 3, 4, 6, 8};
            const json_t *cell = json_array_get(json_array_get(costs, layer), i);
            const int chosen =
                (int)json_integer_value(json_array_get(json_array_get(bits, layer), i));
            double last = INFINITY;
            for (size_t w = 0; w < WIDTHS; w++) {
                const double cost = json_real_value(json_array_get(cell, w));
                assert_true(cost > 0.0 && cost < last);
                last = cost;
                if (widths[w] == chosen) sum += cost;
                if (widths[w] == 3) uniform += cost;
            }
        }
    const double cost = json_real_value(json_object_get(a, "cost"));
    assert_true(fabs(sum - cost) <= 1e-9 * cost);
    assert_true(json_real_value(json_object_get(a, "bound")) <= cost);
    assert_true(cost < uniform); /* 3 bits everywhere would be affordable */
    json_decref(doc);
}

/* Tables have 2, 3 and 4 bits: of these each linear gets one. */
static void test_tables(void **state)
{
    (void)state;
    static const char *const set[] = {"bits=auto", "target_bpw=3.3", "group=32"};
    bal_quant_opts o = options();
    bal_model m;
    bal_error err;
    o.recipe = "table";
    o.set = set;
    const char *out = scratch("table.safetensors");
    make(out, &o);
    ASSERT_OK(bal_model_load(&m, out, &err));
    const tally t = count(&m);
    assert_int_equal(m.layers[0].q.packed.layout.kind, BAL_PACKED_TABLE);
    assert_int_equal(t.of[2] + t.of[3] + t.of[4], LAYERS * LINEARS);
    assert_true((t.of[2] > 0) + (t.of[3] > 0) + (t.of[4] > 0) >= 2);
    const double bpw = 8.0 * (double)t.n_bytes / (double)t.weights;
    assert_true(bpw <= 3.3 && bpw > 3.1);
    bal_model_unload(&m);
}

static void test_threads(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    o.threads = 3;
    const char *out = scratch("t3.safetensors");
    make(out, &o);
    assert_same_file(reference(), out);
}

static void test_file_size(void **state)
{
    (void)state;
    char target[64];
    const uint64_t whole = file_bytes(reference());
    const char *set[] = {"bits=auto", target, "group=32"}, *out = scratch("size.safetensors");
    bal_quant_opts o = options();
    bal_quant_plan p;
    bal_error err;
    o.set = set;
    snprintf(target, sizeof target, "target_size=%llu", (unsigned long long)whole - 5000);
    ASSERT_OK(bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err));
    assert_true(p.bits == 0 && p.file_bytes <= whole - 5000);
    make(out, &o);
    assert_true(file_bytes(out) <= whole - 5000 && file_bytes(out) > whole - 9000);
}

/* ---- Interruption ------------------------------------------------------------------------------
 */

/* In the middle of measuring, and when some blocks are done. */
static void test_kill_and_resume(void **state)
{
    (void)state;
    static const killer points[] = {{"widths", 2}, {"blocks", 1500}};
    const char *out = scratch("kill.safetensors");
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        bal_quant_opts o = options();
        kill_in_stage(out, &o, points[i]);
        assert_int_equal(bal_path_exists(scratch("kill.safetensors.partial/widths.json")), i == 1);
        o.resume = true;
        make(out, &o);
        assert_same_file(reference(), out);
        assert_int_equal(unlink(out), 0);
    }
}

/* Widths that somebody else wrote down are not taken on trust, and another budget is another run.
 */
static void test_resume_refused(void **state)
{
    (void)state;
    static const char *const other[] = {"bits=auto", "target_bpw=4", "group=32"};
    static const char *const bad[] = {
        "{}", "{\"bits\":[[3,3,3,3,3,3,3]]}", "[1]",
        "{\"bits\":[[3,3,3,3,3,3,3],[3,3,5,3,3,3,3],[3,3,3,3,3,3,3]]}",
        "{\"bits\":[[3,3,3,3,3,3],[3,3,3,3,3,3,3],[3,3,3,3,3,3,3]]}"};
    const char *out = scratch("refused.safetensors");
    char path[700];
    bal_error err;
    bal_quant_opts o = options();
    kill_in_stage(out, &o, (killer){"blocks", 1});
    o.resume = true;
    o.set = other;
    ASSERT_FAILS(BAL_E_EXISTS, "target_bpw 4.5", bal_quantize(source_path(MODEL), out, &o, &err));
    o.set = BPW;
    snprintf(path, sizeof path, "%s", scratch("refused.safetensors.partial/widths.json"));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ASSERT_OK(bal_write_file(path, bad[i], strlen(bad[i]), &err));
        ASSERT_FAILS(BAL_E_FORMAT, "widths.json", bal_quantize(source_path(MODEL), out, &o, &err));
    }
}

/* ---- What cannot be ----------------------------------------------------------------------------
 */

static void expect(const char *const *set, size_t n, const char *sentence)
{
    bal_quant_opts o = options();
    bal_quant_plan p;
    bal_error err;
    o.set = set;
    o.n_set = n;
    const char *out = scratch("never.safetensors");
    ASSERT_FAILS(BAL_E_ARG, sentence, bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err));
    ASSERT_FAILS(BAL_E_ARG, sentence, bal_quantize(source_path(MODEL), out, &o, &err));
    assert_false(bal_path_exists(scratch("never.safetensors.partial")));
}

static void test_refused(void **state)
{
    (void)state;
    expect((const char *[]){"bits=auto"}, 1, "bits=auto needs a budget");
    expect((const char *[]){"target_bpw=3"}, 1, "target_bpw needs bits=auto, found bits=3");
    expect((const char *[]){"bits=auto", "target_bpw=3", "target_size=99"}, 3,
           "target_bpw and target_size exclude each other");
    expect((const char *[]){"bits=auto", "target_bpw=x"}, 2, "must be a number from 1 to 16");
    expect((const char *[]){"bits=auto", "target_bpw=2", "group=32"}, 3,
           "target_bpw=2 cannot be met: the least possible is");
    expect((const char *[]){"bits=auto", "target_size=1000", "group=32"}, 3,
           "target_size=1000 cannot be met: the least possible is");
}

/* The least that the sentence names can be had. */
static void test_least_is_possible(void **state)
{
    (void)state;
    const char *set[] = {"bits=auto", "target_size=1000", "group=32"};
    char target[64];
    bal_quant_opts o = options();
    bal_quant_plan p;
    bal_error err;
    o.set = set;
    assert_true(bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err) < 0);
    const unsigned long long least = strtoull(strstr(err.text, "least possible is") + 18, NULL, 10);
    set[1] = target;
    snprintf(target, sizeof target, "target_size=%llu", least - 1);
    assert_true(bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err) < 0);
    snprintf(target, sizeof target, "target_size=%llu", least);
    const char *out = scratch("least.safetensors");
    make(out, &o);
    assert_true(file_bytes(out) <= least);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits_per_weight),
        cmocka_unit_test(test_record),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_file_size),
        cmocka_unit_test(test_kill_and_resume),
        cmocka_unit_test(test_resume_refused),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_least_is_possible),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
