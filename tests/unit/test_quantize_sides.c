/* SPDX-License-Identifier: MIT
 * Budgets of the vision tower, the projector and the head, from end to end on the tiny golden
 * model: each holds to the byte, what is bought is the cheapest of all that fits, costs are what
 * pictures show, and threads, interruptions and foreign records change nothing. */
#include "quantize_case.h"

#include "quant/gather.h"
#include "quant/quantizer.h"
#include "quant/side.h"

#include <jansson.h>
#include <math.h>

static const char *const SET[] = {"bits=4",         "group=32",
                                  "vision=auto",    "target_bpw_vision=8",
                                  "projector=auto", "target_bpw_projector=8",
                                  "head=auto",      "target_bpw_head=7"};
static const double BPW[BAL_SIDES] = {8.0, 8.0, 7.0};
enum { N_SET = sizeof SET / sizeof SET[0] };

static bal_quant_opts options(void)
{
    return case_options("rtn", SET, N_SET);
}

static const char *reference(void)
{
    static char path[600];
    bal_quant_opts o = options();
    o.report = scratch("reference.html");
    return made_once(path, "reference.safetensors", &o);
}

static json_t *report(void)
{
    reference();
    json_t *doc = json_load_file(scratch("reference.json"), 0, NULL);
    assert_non_null(doc);
    return doc;
}

/* ---- What was bought ---------------------------------------------------------------------------
 */

/* Linear i of a side, with its name; NULL past the end. */
static const bal_linear *linear_of(bal_model *m, bal_side side, int i, char name[200])
{
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj",
                                        "self_attn.v_proj", "self_attn.out_proj",
                                        "mlp.fc1",          "mlp.fc2"};
    const int layers = m->config.vision.layers;
    if (side == BAL_SIDE_HEAD) {
        snprintf(name, 200, "lm_head.weight");
        return i == 0 ? &m->head : NULL;
    }
    if (side == BAL_SIDE_PROJECTOR) {
        snprintf(name, 200, "model.multi_modal_projector.linear_%d.weight", i + 1);
        return i < 2 ? &m->projector[i] : NULL;
    }
    if (i >= 6 * layers) return NULL;
    snprintf(name, 200, "model.vision_tower.vision_model.encoder.layers.%d.%s.weight", i / 6,
             names[i % 6]);
    return bal_vision_linear(&m->vision_layers[i / 6], i % 6);
}

static void test_budgets(void **state)
{
    (void)state;
    bal_model m;
    bal_error err;
    json_t *doc = report();
    ASSERT_OK(bal_model_load(&m, reference(), &err));
    for (int side = 0; side < BAL_SIDES; side++) {
        const json_t *record = json_object_get(json_object_get(doc, "sides"), bal_side_names[side]);
        const bal_linear *l;
        uint64_t n_bytes = 0, weights = 0;
        int of[9] = {0}, n = 0;
        char name[200];
        for (; (l = linear_of(&m, (bal_side)side, n, name)); n++) {
            const json_t *bits = json_object_get(json_object_get(record, "bits"), name);
            n_bytes += l->packed.layout.n_bytes;
            weights += (uint64_t)l->n * (uint64_t)l->k;
            assert_int_equal(json_integer_value(bits), l->packed.layout.bits);
            of[l->packed.layout.bits]++;
        }
        const double bpw = 8.0 * (double)n_bytes / (double)weights;
        assert_int_equal(of[4] + of[6] + of[8], n);
        assert_int_equal(json_object_size(json_object_get(record, "bits")), n);
        assert_int_equal(json_integer_value(json_object_get(record, "bytes")), n_bytes);
        assert_true(bpw <= BPW[side] && bpw > BPW[side] - 1.0);
        if (side == BAL_SIDE_VISION) assert_true((of[4] > 0) + (of[6] > 0) + (of[8] > 0) >= 2);
    }
    assert_int_equal(m.layers[0].q.packed.layout.bits, 4);
    bal_model_unload(&m);
    json_decref(doc);
}

enum { UNIT = 64, MOST_UNITS = 2048 };

/* The least cost of all choices within the budget: best[b] of the linears so far in b units of 64
 * bytes, which every packed matrix is a multiple of. */
static double cheapest(bal_model *m, bal_side side, const json_t *costs, double *chosen)
{
    static double best[MOST_UNITS], next[MOST_UNITS];
    const bal_linear *l;
    char name[200];
    double weights = 0.0;
    for (int b = 0; b < MOST_UNITS; b++) best[b] = 0.0;
    *chosen = 0.0;
    for (int i = 0; (l = linear_of(m, side, i, name)); i++) {
        const json_t *row = json_object_get(costs, name);
        for (int b = 0; b < MOST_UNITS; b++) next[b] = INFINITY;
        for (size_t w = 0; w < BAL_SIDE_WIDTHS; w++) {
            const double cost = json_real_value(json_array_get(row, w));
            bal_packed_layout layout;
            bal_error err;
            ASSERT_OK(bal_packed_layout_init(&layout, bal_side_widths[w], (size_t)l->n,
                                             (size_t)l->k, 32, &err));
            assert_int_equal(layout.n_bytes % UNIT, 0);
            if (bal_side_widths[w] == l->packed.layout.bits) *chosen += cost;
            const int units = (int)(layout.n_bytes / UNIT);
            for (int b = units; b < MOST_UNITS; b++)
                next[b] = fmin(next[b], best[b - units] + cost);
        }
        memcpy(best, next, sizeof best);
        weights += (double)l->n * l->k;
    }
    const int budget = (int)(BPW[side] * weights / 8.0 / UNIT);
    assert_true(budget < MOST_UNITS);
    return best[budget];
}

static void test_cheapest(void **state)
{
    (void)state;
    bal_model m;
    bal_error err;
    json_t *doc = report();
    ASSERT_OK(bal_model_load(&m, reference(), &err));
    for (int side = 0; side < BAL_SIDES; side++) {
        const json_t *record = json_object_get(json_object_get(doc, "sides"), bal_side_names[side]);
        double chosen;
        const double want = cheapest(&m, (bal_side)side, json_object_get(record, "costs"), &chosen);
        const double cost = json_real_value(json_object_get(record, "cost"));
        assert_true(want > 0.0 && isfinite(want));
        if (fabs(chosen - want) > 1e-9 * want)
            fail_msg("%s: cost %.17g, the least of all is %.17g", bal_side_names[side], chosen,
                     want);
        assert_true(fabs(cost - chosen) <= 1e-9 * cost);
        assert_true(json_is_true(json_object_get(record, "proved")));
    }
    bal_model_unload(&m);
    json_decref(doc);
}

/* ---- What it costs -----------------------------------------------------------------------------
 */

typedef struct eye {
    bal_engine engine;
    bal_exec exec;
    bal_calib calib;
    bal_recipe recipe;
} eye;

static void eye_open(eye *e)
{
    bal_error err;
    *e = (eye){0};
    ASSERT_OK(bal_engine_open(&e->engine, source_path(MODEL), 1, NULL, &err));
    ASSERT_OK(bal_exec_create(&e->exec, e->engine.pool, &e->engine.kernels,
                              bal_model_max_k(&e->engine.model), &err));
    ASSERT_OK(bal_calib_open(&e->calib, source_path(DATA), &err));
    ASSERT_OK(bal_recipe_load(&e->recipe, "rtn", &err));
}

static void eye_close(eye *e)
{
    bal_calib_close(&e->calib);
    bal_exec_destroy(&e->exec);
    bal_engine_close(&e->engine);
}

/* Rows of what is seen in all records, one behind the other. */
static size_t see_all(eye *e, float *rows, size_t room)
{
    const size_t hidden = (size_t)e->engine.model.config.text.hidden;
    size_t n = 0;
    for (size_t i = 0; i < e->calib.n; i++) {
        bal_error err = {0};
        float *some;
        int count;
        ASSERT_OK(bal_gather_see(&some, &count, &e->calib, &e->calib.records[i], &e->engine,
                                 &e->exec, &e->recipe, &err));
        assert_true(n + (size_t)count * hidden <= room);
        memcpy(rows + n, some, (size_t)count * hidden * sizeof *rows);
        n += (size_t)count * hidden;
        free(some);
    }
    return n;
}

enum { ROOM = 1 << 20 };

/* Mean squared error of what is seen with the linear's weights rounded to so many bits, as f32. */
static double error_at(eye *e, bal_linear *l, int bits, const float *want, float *got)
{
    const bal_quantizer z = {.bits = bits, .group = 32, .grid = BAL_GRID_SYM};
    const bal_linear was = *l;
    const size_t k = (size_t)l->k;
    float *w = malloc((size_t)l->n * k * sizeof *w);
    assert_non_null(w);
    for (int r = 0; r < l->n; r++) {
        float *row = w + (size_t)r * k;
        bal_linear_row(&was, r, row);
        for (size_t at = 0; at < k; at += 32)
            bal_quantize_group(&z, row + at, k - at < 32 ? (int)(k - at) : 32, row + at);
    }
    l->type = BAL_TYPE_F32;
    l->w = w;
    const size_t n = see_all(e, got, ROOM);
    double sum = 0.0;
    for (size_t i = 0; i < n; i++) sum += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
    *l = was;
    free(w);
    return sum / (double)n;
}

/* As simulated; a packed linear rounds its inputs as well. */
static void test_costs(void **state)
{
    (void)state;
    static const struct {
        bal_side side;
        int i;
    } cases[] = {{BAL_SIDE_VISION, 0}, {BAL_SIDE_VISION, 11}, {BAL_SIDE_PROJECTOR, 1}};
    float *want = malloc(ROOM * sizeof *want), *got = malloc(ROOM * sizeof *got);
    json_t *doc = report();
    eye e;
    eye_open(&e);
    assert_true(want && got && see_all(&e, want, ROOM) > 0);
    for (size_t c = 0; c < sizeof cases / sizeof cases[0]; c++) {
        char name[200];
        bal_linear *l = (bal_linear *)linear_of(&e.engine.model, cases[c].side, cases[c].i, name);
        const json_t *side =
            json_object_get(json_object_get(doc, "sides"), bal_side_names[cases[c].side]);
        const json_t *row = json_object_get(json_object_get(side, "costs"), name);
        for (size_t w = 0; w < BAL_SIDE_WIDTHS; w++) {
            const double cost = json_real_value(json_array_get(row, w));
            const double is = error_at(&e, l, bal_side_widths[w], want, got);
            if (!(fabs(cost / is - 1.0) < 0.02))
                fail_msg("%s, %d bits: cost %.6g, pictures show %.6g", name, bal_side_widths[w],
                         cost, is);
        }
    }
    eye_close(&e);
    json_decref(doc);
    free(want);
    free(got);
}

/* ---- The same again ----------------------------------------------------------------------------
 */

static void test_threads(void **state)
{
    (void)state;
    bal_quant_opts o = options();
    const char *out = scratch("t3.safetensors");
    o.threads = 3;
    make(out, &o);
    assert_same_file(reference(), out);
}

static void test_kill_and_resume(void **state)
{
    (void)state;
    static const killer points[] = {{"sides", 7}, {"tower", 2}, {"blocks", 1500}};
    const char *out = scratch("kill.safetensors");
    for (size_t i = 0; i < sizeof points / sizeof points[0]; i++) {
        bal_quant_opts o = options();
        kill_in_stage(out, &o, points[i]);
        assert_int_equal(bal_path_exists(scratch("kill.safetensors.partial/sides.json")), i > 0);
        o.resume = true;
        make(out, &o);
        assert_same_file(reference(), out);
        assert_int_equal(unlink(out), 0);
    }
}

/* Bits that somebody else wrote down are not taken on trust. */
static void test_record_refused(void **state)
{
    (void)state;
    static const char narrow[] = "{\"vision\":{\"bits\":{\"model.vision_tower.vision_model.encoder."
                                 "layers.0.self_attn.q_proj.weight\":3}}}";
    static const char *const bad[] = {"{}", "[1]", "{\"vision\":{\"bits\":{}}}", narrow};
    const char *out = scratch("refused.safetensors");
    char path[700];
    bal_error err;
    bal_quant_opts o = options();
    kill_in_stage(out, &o, (killer){"blocks", 1});
    o.resume = true;
    snprintf(path, sizeof path, "%s", scratch("refused.safetensors.partial/sides.json"));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ASSERT_OK(bal_write_file(path, bad[i], strlen(bad[i]), &err));
        ASSERT_FAILS(BAL_E_FORMAT, "sides.json", bal_quantize(source_path(MODEL), out, &o, &err));
    }
}

/* The plan is what it can be at most; a size for the file counts the sides as they were bought. */
static void test_sizes(void **state)
{
    (void)state;
    char target[64];
    struct stat sb;
    const char *set[N_SET + 1];
    bal_quant_opts o = options();
    bal_quant_plan p;
    bal_error err;
    ASSERT_OK(bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err));
    assert_int_equal(stat(reference(), &sb), 0);
    const uint64_t whole = (uint64_t)sb.st_size;
    assert_true(p.vision == -1 && p.projector == -1 && p.head == -1);
    assert_true(whole <= p.file_bytes && p.file_bytes < whole + 8192);
    memcpy(set, SET, sizeof SET);
    set[0] = "bits=auto";
    set[N_SET] = target;
    o.set = set;
    o.n_set = N_SET + 1;
    snprintf(target, sizeof target, "target_size=%llu", (unsigned long long)whole - 9000);
    ASSERT_OK(bal_quantize_plan(&p, source_path(MODEL), NULL, &o, &err));
    assert_true(p.file_bytes <= whole - 9000); /* the plan holds to the target too */
    const char *out = scratch("size.safetensors");
    make(out, &o);
    assert_int_equal(stat(out, &sb), 0);
    assert_true((uint64_t)sb.st_size <= whole - 9000 && (uint64_t)sb.st_size > whole - 13000);
}

/* Without a picture there is nothing to choose by, and nothing is begun. */
static void test_pictures_needed(void **state)
{
    (void)state;
    static const char *const set[] = {"group=32", "vision=auto", "target_bpw_vision=6",
                                      "absent=allow"};
    const char *text = scratch("text.jsonl"), *out = scratch("text.safetensors");
    bal_error err;
    FILE *f = fopen(text, "w");
    assert_non_null(f);
    fprintf(f, "{\"conversations\": [{\"from\": \"human\", \"value\": \"Why?\"}, "
               "{\"from\": \"gpt\", \"value\": \"So.\"}]}\n");
    assert_int_equal(fclose(f), 0);
    bal_quant_opts o = options();
    o.calib = text;
    o.set = set;
    o.n_set = 4;
    ASSERT_FAILS(BAL_E_ARG, "choose by pictures", bal_quantize(source_path(MODEL), out, &o, &err));
    assert_false(bal_path_exists(out));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_budgets),         cmocka_unit_test(test_cheapest),
        cmocka_unit_test(test_costs),           cmocka_unit_test(test_threads),
        cmocka_unit_test(test_kill_and_resume), cmocka_unit_test(test_record_refused),
        cmocka_unit_test(test_sizes),           cmocka_unit_test(test_pictures_needed),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
