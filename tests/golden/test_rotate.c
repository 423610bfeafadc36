/* SPDX-License-Identifier: MIT
 * Rotating the residual stream: the matrix is orthogonal and spreads, and every family's tiny model
 * computes the same in the new basis, from pictures to logits. Files made in it, and what is
 * refused. */
#include "golden/taps.h"
#include "unit/scratch.h"

#include "ballast_quant.h"
#include "quant/gather.h"
#include "quant/transform.h"
#include "run/session.h"

#include <stdlib.h>

/* ---- The matrix --------------------------------------------------------------------------------
 */

/* Rows e_i Q of all i, [n][n]. */
static double *matrix(int n, uint64_t seed)
{
    bal_rotation r;
    bal_error err;
    double *q = calloc((size_t)(n * n), sizeof *q), *work = malloc((size_t)n * sizeof *work);
    ASSERT_OK(bal_rotation_create(&r, n, seed, &err));
    for (int i = 0; i < n; i++) {
        q[i * n + i] = 1.0;
        bal_rotation_row(&r, q + i * n, work);
    }
    bal_rotation_destroy(&r);
    free(work);
    return q;
}

static void test_orthogonal(void **state)
{
    (void)state;
    static const int widths[] = {1, 2, 7, 12, 48, 64, 112, 120};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        const int n = widths[w];
        double *q = matrix(n, 5), worst = 0.0, top = 0.0;
        for (int i = 0; i < n; i++)
            for (int j = 0; j < n; j++) {
                double dot = 0.0;
                for (int k = 0; k < n; k++) dot += q[i * n + k] * q[j * n + k];
                worst = fmax(worst, fabs(dot - (i == j ? 1.0 : 0.0)));
                top = fmax(top, fabs(q[i * n + j]));
            }
        assert_true(worst < 1e-13);
        assert_true(top < sqrt(2.0 / n) + 1e-12);
        free(q);
    }
}

static void test_seed(void **state)
{
    (void)state;
    double *a = matrix(48, 1), *b = matrix(48, 1), *c = matrix(48, 2);
    assert_memory_equal(a, b, 48 * 48 * sizeof *a);
    assert_memory_not_equal(a, c, 48 * 48 * sizeof *a);
    free(a);
    free(b);
    free(c);
}

static void test_width_refused(void **state)
{
    (void)state;
    bal_rotation r;
    bal_error err;
    assert_int_equal(bal_rotation_create(&r, 2 * 1031, 0, &err), BAL_E_UNSUP);
    assert_non_null(strstr(err.text, "odd part 1031"));
    assert_null(r.sign);
}

/* ---- The models --------------------------------------------------------------------------------
 */

typedef struct bench {
    bal_engine engine;
    bal_exec exec;
    bal_calib calib;
    bal_recipe recipe;
    bal_workspace space;
    bal_transform transform;
} bench;

/* values of the keys rotate and hadamard */
typedef struct setting {
    const char *rotate, *hadamard;
} setting;

static void bench_open(bench *b, const char *model, setting set)
{
    bal_error err;
    *b = (bench){0};
    ASSERT_OK(bal_engine_open(&b->engine, source_path(model), 2, NULL, &err));
    ASSERT_OK(bal_exec_create(&b->exec, b->engine.pool, &b->engine.kernels,
                              bal_model_max_k(&b->engine.model), &err));
    const bool sees = b->engine.model.config.has_vision;
    ASSERT_OK(bal_calib_open(&b->calib,
                             source_path(sees ? "tests/golden/calib/calib.jsonl"
                                              : "tests/golden/families/text_calib.jsonl"),
                             &err));
    ASSERT_OK(bal_recipe_load(&b->recipe, "rtn", &err));
    ASSERT_OK(bal_recipe_assign(&b->recipe, "template=legacy", &err));
    ASSERT_OK(bal_recipe_set(&b->recipe, "rotate", set.rotate, &err));
    ASSERT_OK(bal_recipe_set(&b->recipe, "hadamard", set.hadamard, &err));
    ASSERT_OK(bal_workspace_open(&b->space, scratch("t.safetensors"), false, true, &err));
    ASSERT_OK(bal_transform_list(&b->transform, &b->engine.model, &b->recipe, 3, &err));
}

static void bench_close(bench *b)
{
    bal_transform_close(&b->transform);
    bal_workspace_close(&b->space);
    bal_calib_close(&b->calib);
    bal_exec_destroy(&b->exec);
    bal_engine_close(&b->engine);
}

typedef struct seen {
    float *logits;
    size_t vocab;
} seen;

static void see(void *ctx, int row, const float *logits)
{
    const seen *s = ctx;
    memcpy(s->logits + (size_t)row * s->vocab, logits, s->vocab * sizeof *logits);
}

/* Logits of the first conversation, [n][vocab], malloc'ed: through tower, embeddings, decoder. */
static float *logits_of(bench *b, size_t *count)
{
    bal_error err;
    bal_gathered g;
    bal_session session;
    const size_t first = 0, hidden = (size_t)b->engine.model.config.text.hidden;
    ASSERT_OK(bal_gather_layout(&g, &b->calib, &first, 1, &b->engine, &b->recipe, &err));
    ASSERT_OK(bal_gather_encode(&g, &b->calib, &first, &b->engine, &b->exec, &b->recipe,
                                scratch_dir, NULL, NULL, &err));
    const bal_sample *s = &g.samples.items[0];
    seen out = {.vocab = (size_t)b->engine.model.config.text.vocab};
    *count = (size_t)s->n * out.vocab;
    out.logits = malloc(*count * sizeof(float));
    bal_token_info *info = calloc((size_t)s->n, sizeof *info);
    float *rows = malloc((size_t)s->n * hidden * sizeof *rows);
    for (int i = 0; i < s->n; i++) {
        info[i] = (bal_token_info){s->ids[i], {i, i, i}, -1, s->modality[i]};
        if (s->pos) memcpy(info[i].pos, s->pos[i], sizeof info[i].pos);
    }
    ASSERT_OK(bal_store_read(&g.embeds, 0, rows, &err));
    ASSERT_OK(bal_session_create(&session, &b->engine, s->n, &err));
    ASSERT_OK(bal_session_append(&session, info, rows, s->n, 0, see, &out, (bal_taps){0}, &err));
    bal_session_destroy(&session);
    bal_gathered_free(&g);
    free(info);
    free(rows);
    return out.logits;
}

/* Largest difference over the deviation of `want`. */
static double distance(const float *want, const float *got, size_t n)
{
    double worst = 0.0;
    for (size_t i = 0; i < n; i++) worst = fmax(worst, fabs((double)want[i] - (double)got[i]));
    return worst / tap_deviation(want, n);
}

/* Tables in F32, so that nothing but the order of sums differs. */
static void widen_tables(bal_transform *t)
{
    for (size_t i = 0; i < t->n_tensors; i++) {
        bal_tensor_view *v = &t->tensors[i];
        if (v->dtype == BAL_ST_F16) v->n_bytes *= 2;
        v->dtype = BAL_ST_F32;
    }
}

static void same_function(const char *model, setting set)
{
    bench b;
    bal_error err;
    size_t n;
    bench_open(&b, model, set);
    float *plain = logits_of(&b, &n);
    const void *before = b.engine.model.layers[0].up.w;
    widen_tables(&b.transform);
    ASSERT_OK(bal_transform_apply(&b.transform, &b.exec, &b.space, NULL, NULL, &err));
    assert_ptr_not_equal(b.engine.model.layers[0].up.w, before);
    float *turned = logits_of(&b, &n);
    const double d = distance(plain, turned, n);
    printf("%s, rotate=%s, hadamard=%s: logits differ by %.2g of their deviation\n", model,
           set.rotate, set.hadamard, d);
    assert_true(d > 0.0 && d < 1e-5);
    free(plain);
    free(turned);
    bench_close(&b);
}

#define GOLDEN "tests/golden/"
static const char *const models[] = {
    GOLDEN "tiled/model",
    GOLDEN "mha/model",
    GOLDEN "two_images_f16/model",
    GOLDEN "qwen2_vl/small/model",
    GOLDEN "qwen2_vl/two/model",
    GOLDEN "qwen2_5_vl/small/model",
    GOLDEN "qwen2_5_vl/two/model",
    GOLDEN "families/llama/model",
    GOLDEN "families/llama_bias/model",
    GOLDEN "families/qwen2/model",
    GOLDEN "families/qwen3/model",
    GOLDEN "families/internlm2/model",
    GOLDEN "families/llava/model",
    GOLDEN "families/idefics3/model",
    GOLDEN "families/smolvlm/model",
    GOLDEN "families/internvl/model",
    GOLDEN "families/internvl_chat/model",
    GOLDEN "families/internvl_intern/model",
};
enum { N_MODELS = sizeof models / sizeof *models };

static void test_same_function(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_MODELS; i++) same_function(models[i], (setting){"residual", "none"});
}

static void test_same_mixed(void **state)
{
    (void)state;
    same_function(models[0], (setting){"none", "down"});
    same_function(models[0], (setting){"none", "all"});
    for (size_t i = 1; i < N_MODELS; i += 3) same_function(models[i], (setting){"residual", "all"});
}

/* ---- The file ----------------------------------------------------------------------------------
 */

/* The file has the size that was promised; of the first file only, since a plan measures speed. */
static void check_plan(const char *model, const char *out, const bal_quant_opts *opts)
{
    static bool done;
    bal_quant_plan plan;
    bal_mapping m;
    bal_error err;
    if (done) return;
    done = true;
    ASSERT_OK(bal_quantize_plan(&plan, model, out, opts, &err));
    ASSERT_OK(bal_map_open(&m, out, &err));
    assert_int_equal(plan.file_bytes, m.n_bytes);
    bal_map_close(&m);
}

static void quantize(const char *model, const char *out, const char *recipe, const char *const *set,
                     size_t n_set)
{
    bal_error err = {0};
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .threads = 2,
                                 .recipe = recipe,
                                 .set = set,
                                 .n_set = n_set,
                                 .calib = source_path("tests/golden/calib/calib.jsonl"),
                                 .force = true};
    ASSERT_OK(bal_quantize(source_path(model), out, &opts, &err));
    check_plan(source_path(model), out, &opts);
}

/* sides: bits of projector and head */
static void check_file(const char *model, const char *recipe, const char *sides, double limit)
{
    char projector[32], head[32];
    const char *const set[] = {"rotate=residual", "bits=8",  "group=32",
                               "template=legacy", projector, head};
    snprintf(projector, sizeof projector, "projector=%s", sides);
    snprintf(head, sizeof head, "head=%s", sides);
    bench b, packed;
    bal_error err;
    size_t n;
    char out[1100];
    snprintf(out, sizeof out, "%s", scratch("q.safetensors"));
    quantize(model, out, recipe, set, 6);
    bench_open(&b, model, (setting){"none", "none"});
    float *plain = logits_of(&b, &n);
    packed = b;
    ASSERT_OK(bal_engine_open(&packed.engine, out, 2, NULL, &err));
    assert_string_equal(bal_tensor_meta(&packed.engine.model.tensors, "rotation_seed"), "0");
    assert_ptr_not_equal(packed.engine.model.head.w, packed.engine.model.embed.w);
    assert_int_equal(bal_type_get(packed.engine.model.head.type)->packed, sides[0] == '8');
    float *turned = logits_of(&packed, &n);
    const double d = distance(plain, turned, n);
    printf("%s, %s, %s: 8 bits differ by %.2g\n", model, recipe, projector, d);
    assert_true(d < limit);
    bal_engine_close(&packed.engine);
    free(plain);
    free(turned);
    bench_close(&b);
}

static void test_file(void **state)
{
    (void)state;
    check_file(GOLDEN "tiled/model", "awq+gptq", "8", 0.4);
    check_file(GOLDEN "tiled/model", "rtn", "float", 0.2);
    check_file(GOLDEN "qwen2_vl/two/model", "gptq", "float", 0.4);
}

/* ---- Mixed inputs ------------------------------------------------------------------------------
 */

static void test_ids(void **state)
{
    (void)state;
    char id[BAL_ACT_ID_SIZE];
    bal_error err;
    int block;
    assert_int_equal(bal_hadamard_block(704), 64);
    assert_int_equal(bal_hadamard_block(18944), 128);
    assert_int_equal(bal_hadamard_block(16), 16);
    assert_int_equal(bal_hadamard_block(20), 0);
    for (int b = 8; b <= 128; b *= 2) {
        bal_hadamard_id(b, id);
        ASSERT_OK(bal_hadamard_parse(id, 3 * b, &block, &err));
        assert_int_equal(block, b);
    }
    static const char *const bad[] = {"", "h", "h4", "h128", "h032", "h32 ", "H32", "a16", "h48"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ASSERT_FAILS(BAL_E_UNSUP, "power of two", bal_hadamard_parse(bad[i], 96, &block, &err));
}

static void sensitivity_of(bench *b, bal_sensitivity *out)
{
    bal_error err;
    bal_gathered g;
    const size_t first = 0;
    bal_recipe recipe = b->recipe;
    recipe.balance = BAL_BALANCE_GRADIENT;
    ASSERT_OK(bal_gather_layout(&g, &b->calib, &first, 1, &b->engine, &recipe, &err));
    ASSERT_OK(bal_gather_encode(&g, &b->calib, &first, &b->engine, &b->exec, &recipe, scratch_dir,
                                NULL, NULL, &err));
    ASSERT_OK(bal_sensitivity_run(out, &b->exec, &b->engine.model, &g.samples, &g.embeds, &recipe,
                                  NULL, NULL, &err));
    bal_gathered_free(&g);
}

/* Gradients pass through the transform: what the linears' outputs feel stays as it was. */
static void test_gradients(void **state)
{
    (void)state;
    bench b;
    bal_error err;
    bal_sensitivity plain, mixed;
    bench_open(&b, models[0], (setting){"none", "all"});
    sensitivity_of(&b, &plain);
    ASSERT_OK(bal_transform_apply(&b.transform, &b.exec, &b.space, NULL, NULL, &err));
    sensitivity_of(&b, &mixed);
    for (int i = 0; i < plain.layers; i++)
        for (int sub = 0; sub < BAL_SUBS; sub++) {
            const double want = plain.cell[i][sub].g1[BAL_ANSWER];
            assert_true(fabs(mixed.cell[i][sub].g1[BAL_ANSWER] - want) < 1e-4 * want);
        }
    bal_sensitivity_free(&plain);
    bal_sensitivity_free(&mixed);
    bench_close(&b);
}

static void test_mixed_file(void **state)
{
    (void)state;
    static const char *const set[] = {"hadamard=all", "bits=8", "group=32", "template=legacy",
                                      "act=a8"};
    bench b, packed;
    bal_error err;
    bal_model m;
    size_t n;
    char out[1100];
    snprintf(out, sizeof out, "%s", scratch("m.safetensors"));
    quantize(models[0], out, "awq+gptq", set, 5);
    bench_open(&b, models[0], (setting){"none", "none"});
    float *plain = logits_of(&b, &n);
    packed = b;
    ASSERT_OK(bal_engine_open(&packed.engine, out, 2, NULL, &err));
    assert_string_equal(bal_tensor_meta(&packed.engine.model.tensors, "ballast_format"), "2.0");
    assert_int_equal(packed.engine.model.layers[0].down.hadamard, 8);
    assert_int_equal(packed.engine.model.layers[0].up.hadamard, 0);
    float *mixed = logits_of(&packed, &n);
    const double d = distance(plain, mixed, n);
    printf("mixed, 8 bits and bytes: differs by %.2g\n", d);
    assert_true(d < 0.7);
    bal_engine_close(&packed.engine);
    free(plain);
    free(mixed);
    bench_close(&b);
    scratch_patch(out, "hadamard.model.language_model.layers.0.self_attn.o_",
                  "hadamard.model.language_model.layers.0.self_attn.q_");
    ASSERT_FAILS(BAL_E_UNSUP, "reads its inputs as they are", bal_model_load(&m, out, &err));
    scratch_patch(out, "\"h64\"", "\"h65\"");
    ASSERT_FAILS(BAL_E_UNSUP, "hadamard.model.language_model", bal_model_load(&m, out, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_orthogonal),    cmocka_unit_test(test_seed),
        cmocka_unit_test(test_width_refused), cmocka_unit_test(test_same_function),
        cmocka_unit_test(test_same_mixed),    cmocka_unit_test(test_file),
        cmocka_unit_test(test_ids),           cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_mixed_file),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
