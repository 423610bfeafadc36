/* SPDX-License-Identifier: MIT
 * Widths by rules, and widths moved while the answers' KL falls: the rules and the moves on
 * problems that are easy to follow, the KL against another way of computing it, and whole runs on
 * the tiny golden model, whose files do not depend on threads or interruptions. */
#include "quantize_case.h"

#include "base/rng.h"
#include "quant/gather.h"
#include "quant/rules.h"
#include "quant/stream.h"

#include <jansson.h>
#include <math.h>

enum { LAYERS = 5, LINEARS = 7, UNITS = LAYERS * LINEARS, OPTIONS = 3, DOWN = 6 };

/* ---- Rules and moves --------------------------------------------------------------------------
 */

/* Sizes q k v o gate up down in some unit, at 2, 3 and 4 bits. */
static const uint64_t SIZE[LINEARS] = {10, 2, 2, 10, 50, 50, 50};

static void make_problem(bal_alloc_option *o)
{
    bal_rng rng;
    bal_rng_seed(&rng, 7);
    for (int u = 0; u < UNITS; u++)
        for (int i = 0; i < OPTIONS; i++)
            o[u * OPTIONS + i] =
                (bal_alloc_option){SIZE[u % LINEARS] * (uint64_t)(2 + i),
                                   (1.0 + (double)bal_rng_f32(&rng)) * pow(0.2, i)};
}

static uint64_t uniform_bytes(int bits)
{
    uint64_t sum = 0;
    for (int i = 0; i < LINEARS; i++) sum += SIZE[i];
    return LAYERS * sum * (uint64_t)bits;
}

/* What rules choose with `more` bytes than 3 bits everywhere take. */
static void by_rules(int choice[UNITS], uint64_t more)
{
    bal_alloc_option option[UNITS * OPTIONS];
    bal_error err;
    make_problem(option);
    const bal_alloc_problem p = {UNITS, OPTIONS, option, uniform_bytes(3) + more};
    ASSERT_OK(bal_alloc_rules(choice, &p, &err));
    assert_true(bal_alloc_bytes(&p, choice) <= p.budget);
}

static int wider(const int choice[UNITS])
{
    int n = 0;
    for (int u = 0; u < UNITS; u++) n += choice[u] == 2;
    return n;
}

static void test_rules(void **state)
{
    (void)state;
    int c[UNITS];
    by_rules(c, 0);
    for (int u = 0; u < UNITS; u++) assert_int_equal(c[u], 1);
    by_rules(c, 1); /* too little for anything */
    assert_int_equal(wider(c), 0);
    by_rules(c, 50);
    assert_true(wider(c) == 1 && c[DOWN] == 2);
    by_rules(c, 150); /* down of the outer blocks */
    assert_true(wider(c) == 3 && c[LINEARS + DOWN] == 2 && c[4 * LINEARS + DOWN] == 2);
    by_rules(c, 160); /* what is left: q of the first block, next in the order */
    assert_true(wider(c) == 4 && c[0] == 2);
    by_rules(c, 3 * 174); /* the outer blocks as a whole */
    assert_int_equal(wider(c), 3 * LINEARS);
    for (int i = 0; i < LINEARS; i++) assert_true(c[2 * LINEARS + i] == 1 && c[i] == 2);
    by_rules(c, 3 * 174 + 100 + 4 + 20); /* then down, v and o of the inner ones */
    assert_int_equal(wider(c), 3 * LINEARS + 6);
    for (int layer = 2; layer < 4; layer++)
        for (int i = 0; i < LINEARS; i++)
            assert_int_equal(c[layer * LINEARS + i], i == DOWN || i == 2 || i == 3 ? 2 : 1);
    by_rules(c, uniform_bytes(1)); /* 4 bits everywhere, and nothing to spend the rest on */
    assert_int_equal(wider(c), UNITS);
    by_rules(c, uniform_bytes(2));
    assert_int_equal(wider(c), UNITS);
}

static void test_rules_refuse(void **state)
{
    (void)state;
    bal_alloc_option option[UNITS * OPTIONS];
    int c[UNITS];
    bal_error err;
    make_problem(option);
    const bal_alloc_problem p = {UNITS, OPTIONS, option, uniform_bytes(2) - 1};
    ASSERT_FAILS(BAL_E_ARG, "the least possible is 1740", bal_alloc_rules(c, &p, &err));
}

typedef struct way {
    bal_alloc_option option[UNITS * OPTIONS];
    bal_alloc_problem problem;
    int from[UNITS], to[UNITS];
    bal_moves moves;
} way;

static void open_way(way *w)
{
    bal_error err;
    bal_alloc_result result;
    make_problem(w->option);
    w->problem = (bal_alloc_problem){UNITS, OPTIONS, w->option, uniform_bytes(3)};
    ASSERT_OK(bal_alloc_rules(w->from, &w->problem, &err));
    ASSERT_OK(bal_allocate(w->to, &result, &w->problem, &err));
    ASSERT_OK(bal_moves_create(&w->moves, &w->problem, w->from, w->to, &err));
    assert_true(w->moves.n_up > BAL_MOVE_BATCHES && w->moves.n_down > 1);
}

/* What a move saves or costs per byte. */
static double rate(const way *w, bal_move m)
{
    const bal_alloc_option *from = &w->option[m.unit * OPTIONS + w->from[m.unit]];
    const bal_alloc_option *to = &w->option[m.unit * OPTIONS + w->to[m.unit]];
    return (from->cost - to->cost) / ((double)to->n_bytes - (double)from->n_bytes);
}

/* Every batch kept: what was to be widened is, each batch within the budget, the best first. */
static void test_moves_all(void **state)
{
    (void)state;
    way w;
    int now[UNITS], trial[UNITS], batches = 0;
    open_way(&w);
    memcpy(now, w.from, sizeof now);
    for (; bal_moves_next(&w.moves, now, trial); batches++) {
        assert_true(bal_alloc_bytes(&w.problem, trial) <= w.problem.budget);
        memcpy(now, trial, sizeof now);
    }
    assert_true(batches > 1 && batches <= BAL_MOVE_BATCHES);
    for (int u = 0; u < UNITS; u++)
        assert_true(w.to[u] > w.from[u] ? now[u] == w.to[u]
                                        : now[u] == w.from[u] || now[u] == w.to[u]);
    for (int i = 1; i < w.moves.n_up; i++)
        assert_true(rate(&w, w.moves.up[i]) <= rate(&w, w.moves.up[i - 1]));
    for (int i = 1; i < w.moves.n_down; i++)
        assert_true(rate(&w, w.moves.down[i]) >= rate(&w, w.moves.down[i - 1]));
    bal_moves_destroy(&w.moves);
}

/* None kept: each batch starts from where it started, and no unit is offered twice. */
static void test_moves_none(void **state)
{
    (void)state;
    way w;
    int trial[UNITS], seen[UNITS] = {0}, batches = 0;
    open_way(&w);
    for (; bal_moves_next(&w.moves, w.from, trial); batches++)
        for (int u = 0; u < UNITS; u++) {
            if (trial[u] == w.from[u]) continue;
            assert_int_equal(trial[u], w.to[u]);
            assert_int_equal(seen[u]++, 0);
        }
    assert_true(batches > 1);
    bal_moves_destroy(&w.moves);
}

/* ---- Whole runs -------------------------------------------------------------------------------
 */

static const char *const VERIFIED[] = {"bits=auto", "target_bpw=4.2", "group=32",
                                       "allocate=verified"};

static bal_quant_opts options(void)
{
    return case_options("gptq", VERIFIED, 4);
}

static const char *reference(void)
{
    static char path[600];
    bal_quant_opts o = options();
    o.report = scratch("reference.html");
    return made_once(path, "reference.safetensors", &o);
}

static json_t *allocation_of(const char *report)
{
    json_t *doc = json_load_file(report, 0, NULL);
    const json_t *blocks = json_object_get(doc, "blocks");
    const json_t *group = json_array_get(json_object_get(json_array_get(blocks, 0), "groups"), 3);
    assert_string_equal(json_string_value(json_object_get(group, "act")), "a16");
    json_t *a = json_incref(json_object_get(doc, "allocation"));
    json_decref(doc);
    assert_non_null(a);
    return a;
}

static double number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    assert_true(json_is_number(v));
    return json_number_value(v);
}

/* A plan is kept where no plan before it is better, and the last one kept is the file's. */
static void test_record(void **state)
{
    (void)state;
    reference();
    json_t *a = allocation_of(scratch("reference.json"));
    const json_t *plans = json_object_get(a, "plans");
    double best = INFINITY, bytes = 0.0;
    assert_true(json_array_size(plans) >= 2 && json_array_size(plans) <= BAL_MOVE_BATCHES + 2);
    for (size_t i = 0; i < json_array_size(plans); i++) {
        const json_t *plan = json_array_get(plans, i);
        const double kl = number(plan, "kl");
        assert_true(kl > 0.0);
        assert_int_equal(json_is_true(json_object_get(plan, "kept")), kl < best);
        if (kl >= best) continue;
        best = kl;
        bytes = number(plan, "bytes");
    }
    assert_true(bytes == number(a, "bytes"));
    assert_true(number(a, "cost") >= number(a, "bound"));
    json_decref(a);
}

/* The page has them too, and the budget. */
static void test_page(void **state)
{
    (void)state;
    bal_mapping page;
    bal_error err;
    reference();
    ASSERT_OK(bal_map_open(&page, scratch("reference.html"), &err));
    static const char *const want[] = {"Plans of widths", "</td><td>yes</td></tr>",
                                       "<td>recipe: target_bpw</td><td><code>4.2</code></td>"};
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        assert_non_null(memmem(page.data, page.n_bytes, want[i], strlen(want[i])));
    bal_map_close(&page);
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

static void test_kill_and_resume(void **state)
{
    (void)state;
    const char *out = scratch("kill.safetensors");
    bal_quant_opts o = options();
    kill_in_stage(out, &o, (killer){"plans", 7});
    o.resume = true;
    make(out, &o);
    assert_same_file(reference(), out);
}

/* The file as a whole has a target: it is not above it, and not far below. */
static void test_file_size(void **state)
{
    (void)state;
    struct stat sb;
    assert_int_equal(stat(reference(), &sb), 0);
    char target[64];
    snprintf(target, sizeof target, "target_size=%lld", (long long)sb.st_size - 3000);
    const char *set[] = {"bits=auto", target, "group=32", "allocate=verified"};
    const char *out = scratch("size.safetensors");
    bal_quant_opts o = options();
    o.set = set;
    make(out, &o);
    const long long most = (long long)sb.st_size - 3000;
    assert_int_equal(stat(out, &sb), 0);
    assert_true(sb.st_size <= most && sb.st_size > most - 4000);
}

/* ---- The KL, by another way -------------------------------------------------------------------
 */

enum { MANY = 34, JUDGES = 32, RECORDS = 3 }; /* the last 32 are looked at */

/* The golden conversations over and over, so that samples are left out in front. */
static const char *many_conversations(void)
{
    bal_mapping data;
    bal_error err;
    static char out[1024];
    snprintf(out, sizeof out, "%s", scratch("many.jsonl"));
    FILE *f = fopen(out, "w");
    assert_non_null(f);
    ASSERT_OK(bal_map_open(&data, source_path(DATA), &err));
    const char *at = (const char *)data.data, *end = at + data.n_bytes;
    for (int i = 0; i < MANY; i++) {
        const char *line = at;
        for (int k = 0; k < i % RECORDS; k++)
            line = (const char *)memchr(line, '\n', (size_t)(end - line)) + 1;
        const char *image = strstr(line, "\"image\": \"") + strlen("\"image\": \"");
        const char *stop = memchr(line, '\n', (size_t)(end - line));
        fprintf(f, "%.*s%s/%.*s\n", (int)(image - line), line, source_path("tests/golden/calib"),
                (int)(stop - image), image);
    }
    bal_map_close(&data);
    assert_int_equal(fclose(f), 0);
    return out;
}

/* Hidden states of all conversations, behind the last block of a model. */
typedef struct told {
    bal_engine engine;
    bal_exec exec;
    bal_gathered data;
} told;

static void tell(told *t, const char *model, const bal_engine *eyes, bal_calib *calib)
{
    size_t order[MANY];
    bal_recipe recipe;
    bal_error err;
    bal_drift drift;
    bal_streamer s;
    bal_store twin;
    for (size_t i = 0; i < MANY; i++) order[i] = i;
    ASSERT_OK(bal_recipe_load(&recipe, "rtn", &err));
    ASSERT_OK(bal_engine_open(&t->engine, model, 1, NULL, &err));
    ASSERT_OK(bal_exec_create(&t->exec, t->engine.pool, &t->engine.kernels,
                              bal_model_max_k(&t->engine.model), &err));
    ASSERT_OK(bal_gather_layout(&t->data, calib, order, MANY, eyes, &recipe, &err));
    ASSERT_OK(bal_gather_encode(&t->data, calib, order, eyes, &t->exec, &recipe, scratch("."), NULL,
                                NULL, &err));
    const bal_text_config *c = &t->engine.model.config.text;
    ASSERT_OK(bal_streamer_create(&s, &t->exec, c, t->data.samples.max_len, &err));
    ASSERT_OK(bal_store_create(&twin, scratch("."), &t->data.samples, c->hidden, &err));
    for (int i = 0; i < MANY; i++) {
        ASSERT_OK(bal_store_read(&t->data.embeds, i, s.rows[0], &err));
        ASSERT_OK(bal_store_write(&twin, i, s.rows[0], &err));
    }
    for (int layer = 0; layer < c->layers; layer++) {
        const bal_decoder_layer *block = &t->engine.model.layers[layer];
        ASSERT_OK(bal_stream_advance(&s, &t->data.samples, &t->data.embeds, &twin, block, block,
                                     layer, &drift, NULL, NULL, &err));
    }
    bal_store_destroy(&twin);
    bal_streamer_destroy(&s);
}

static void forget(told *t)
{
    bal_gathered_free(&t->data);
    bal_exec_destroy(&t->exec);
    bal_engine_close(&t->engine);
}

/* log softmax of what the model says behind position `at` of sample i. */
static void log_probs(told *t, int i, int at, double *out)
{
    const bal_text_config *c = &t->engine.model.config.text;
    const size_t hidden = (size_t)c->hidden, n = (size_t)t->data.samples.items[i].n;
    float *h = malloc(n * hidden * sizeof *h), *z = malloc((size_t)c->vocab * sizeof *z);
    bal_decoder_buf buf;
    bal_error err;
    double sum = 0.0;
    assert_true(h && z);
    ASSERT_OK(bal_decoder_buf_create(&buf, c, 1, &err));
    ASSERT_OK(bal_store_read(&t->data.embeds, i, h, &err));
    bal_decoder_logits(&t->exec, &t->engine.model, h + (size_t)at * hidden, 1, &buf, z,
                       (bal_taps){0});
    for (int k = 0; k < c->vocab; k++) sum += exp((double)z[k]);
    for (int k = 0; k < c->vocab; k++) out[k] = (double)z[k] - log(sum);
    bal_decoder_buf_destroy(&buf);
    free(h);
    free(z);
}

static double kl_between(told *want, told *got)
{
    const size_t vocab = (size_t)want->engine.model.config.text.vocab;
    double *p = malloc(2 * vocab * sizeof *p), *q = p + vocab, mean = 0.0;
    assert_non_null(p);
    for (int i = MANY - JUDGES; i < MANY; i++) {
        const bal_sample *s = &want->data.samples.items[i];
        double sum = 0.0;
        int answers = 0;
        for (int t = 1; t < s->n; t++) {
            if (s->modality[t] != BAL_ANSWER) continue;
            log_probs(want, i, t - 1, p);
            log_probs(got, i, t - 1, q);
            for (size_t k = 0; k < vocab; k++) sum += exp(p[k]) * (p[k] - q[k]);
            answers++;
        }
        mean += sum / answers / JUDGES;
    }
    free(p);
    return mean;
}

/* The first plan that is measured is that of the rules, rounded: the same widths packed into a file
 * and run by the kernels that a file is run by, with 16-bit activations, have the same KL. */
static void test_kl(void **state)
{
    (void)state;
    static const char *const rules[] = {"bits=auto", "target_bpw=4.2", "group=32",
                                        "allocate=rules"};
    bal_quant_opts o = options();
    o.recipe = "rtn";
    o.set = rules;
    o.calib = NULL; /* rules measure nothing */
    o.samples = 0;
    o.report = scratch("rules.html");
    const char *out = scratch("rules.safetensors");
    make(out, &o);
    json_t *a = allocation_of(scratch("rules.json"));
    assert_null(json_object_get(a, "cost"));
    assert_null(json_object_get(a, "plans"));
    json_decref(a);

    bal_calib calib;
    bal_engine eyes;
    bal_error err;
    static told want, got;
    const char *data = many_conversations();
    ASSERT_OK(bal_calib_open(&calib, data, &err));
    ASSERT_OK(bal_engine_open(&eyes, source_path(MODEL), 1, NULL, &err));
    tell(&want, source_path(MODEL), &eyes, &calib);
    tell(&got, out, &eyes, &calib);
    const double kl = kl_between(&want, &got);
    o.set = VERIFIED;
    o.calib = data;
    o.samples = -1;
    o.report = scratch("many.html");
    make(scratch("many.safetensors"), &o);
    a = allocation_of(scratch("many.json"));
    const double first = number(json_array_get(json_object_get(a, "plans"), 0), "kl");
    assert_true(fabs(kl - first) <= 0.01 * kl);
    json_decref(a);
    forget(&want);
    forget(&got);
    bal_engine_close(&eyes);
    bal_calib_close(&calib);
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const set[] = {"allocate=rules"};
    bal_quant_opts o = options();
    bal_error err;
    o.set = set;
    o.n_set = 1;
    ASSERT_FAILS(
        BAL_E_ARG,
        "allocate=rules needs bits=auto and a budget (--target-bpw, --target-size), found bits=3",
        bal_quantize(source_path(MODEL), scratch("never.safetensors"), &o, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),     cmocka_unit_test(test_rules_refuse),
        cmocka_unit_test(test_moves_all), cmocka_unit_test(test_moves_none),
        cmocka_unit_test(test_record),    cmocka_unit_test(test_page),
        cmocka_unit_test(test_threads),   cmocka_unit_test(test_kill_and_resume),
        cmocka_unit_test(test_file_size), cmocka_unit_test(test_kl),
        cmocka_unit_test(test_refused),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
