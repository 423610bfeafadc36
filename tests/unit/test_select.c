/* SPDX-License-Identifier: MIT
 * Choosing calibration records: filters and farthest points on made-up features, and the whole way
 * on the tiny golden model, with broken pictures, copies and texts of odd lengths in the file. */
#include "quantize_case.h"

#include "base/rng.h"
#include "quant/calib.h"
#include "quant/select.h"

#include <jansson.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>

enum { DIM = 4, MOST = 120 };

typedef struct set {
    bal_prospect c[MOST];
    float x[MOST][2][DIM];
    size_t n;
} set;

/* One more, at (place, place^2 ...) with a little noise, everything about it unlike the others'. */
static bal_prospect *add(set *s, float place, bool sees)
{
    bal_rng rng;
    bal_rng_seed(&rng, s->n);
    for (size_t half = 0; half < 2; half++)
        for (size_t k = 0; k < DIM; k++)
            s->x[s->n][half][k] =
                half && !sees ? 0.0f : sinf(place * (float)(k + 1)) + 0.01f * bal_rng_f32(&rng);
    bal_prospect *c = &s->c[s->n++];
    *c = (bal_prospect){.sees = sees, .tokens = 20 + (int)(s->n % 5)};
    memcpy(c->content, &s->n, sizeof s->n);
    memcpy(c->answer, &s->n, sizeof s->n);
    return c;
}

static bool is_in(const size_t *chosen, size_t n, size_t i)
{
    for (size_t k = 0; k < n; k++)
        if (chosen[k] == i) return true;
    return false;
}

static size_t choose(set *s, uint64_t seed, size_t want, size_t *chosen, bal_select_log *log)
{
    set *copy = malloc(sizeof *copy);
    bal_error err;
    size_t n;
    assert_non_null(copy);
    *copy = *s;
    ASSERT_OK(bal_select_diverse(copy->c, &copy->x[0][0][0], s->n, DIM, seed, want, chosen, &n, log,
                                 &err));
    free(copy);
    for (size_t i = 1; i < n; i++) assert_true(chosen[i] > chosen[i - 1]);
    return n;
}

/* Six heaps of very different size: six records, one of each; and the same again for a seed. */
static void test_spread(void **state)
{
    (void)state;
    static const size_t heap[] = {50, 20, 10, 5, 3, 2};
    set *s = calloc(1, sizeof *s);
    size_t chosen[6], again[6], first[6], of[MOST];
    bal_select_log log;
    assert_non_null(s);
    for (size_t h = 0; h < 6; h++)
        for (size_t i = 0; i < heap[h]; i++) {
            of[s->n] = h;
            add(s, (float)h, true);
        }
    bool others = false;
    for (uint64_t seed = 0; seed < 5; seed++) {
        bool seen[6] = {0};
        assert_int_equal(choose(s, seed, 6, chosen, &log), 6);
        if (seed == 0) memcpy(first, chosen, sizeof first);
        others |= memcmp(first, chosen, sizeof first) != 0;
        assert_int_equal(choose(s, seed, 6, again, &log), 6);
        assert_memory_equal(chosen, again, sizeof chosen);
        assert_int_equal(log.candidates, s->n);
        assert_int_equal(log.outliers + log.broken + log.duplicates + log.long_or_short, 0);
        for (size_t i = 0; i < 6; i++) seen[of[chosen[i]]] = true;
        for (size_t h = 0; h < 6; h++) assert_true(seen[h]);
    }
    assert_true(others); /* which of a heap is the seed's to say */
    free(s);
}

static void test_filters(void **state)
{
    (void)state;
    set *s = calloc(1, sizeof *s);
    size_t chosen[MOST];
    bal_select_log log;
    assert_non_null(s);
    for (int i = 0; i < 40; i++) add(s, (float)i * 0.01f, true);
    add(s, 0.2f, true)->broken = true; /* 40 */
    add(s, 0.2f, true)->tokens = 1;    /* 41 */
    add(s, 0.2f, true)->tokens = 400;  /* 42 */
    add(s, 0.2f, true);                /* 43: a copy */
    memcpy(s->c[43].content, s->c[7].content, BAL_SHA256_BYTES);
    add(s, 2.5f, true); /* 44: like nothing else */
    assert_int_equal(choose(s, 1, s->n, chosen, &log), 40);
    assert_int_equal(log.broken, 1);
    assert_int_equal(log.duplicates, 1);
    assert_int_equal(log.long_or_short, 2);
    assert_int_equal(log.outliers, 1);
    assert_false(is_in(chosen, 40, 40) || is_in(chosen, 40, 44) || is_in(chosen, 40, 43));
    free(s);
}

/* Everybody says yes: an eighth of 16 may, beside those who say something else; the others are used
 * only when too few are left. */
static void test_repeated_answers(void **state)
{
    (void)state;
    set *s = calloc(1, sizeof *s);
    size_t chosen[MOST], yes = 0;
    bal_select_log log;
    assert_non_null(s);
    for (int i = 0; i < 40; i++) {
        bal_prospect *c = add(s, (float)i * 0.02f, true);
        if (i % 2) memset(c->answer, 1, sizeof c->answer);
    }
    assert_int_equal(choose(s, 3, 16, chosen, &log), 16);
    assert_int_equal(log.repeated, 18);
    for (size_t i = 0; i < 16; i++) yes += chosen[i] % 2;
    assert_true(yes <= 2);
    assert_int_equal(choose(s, 3, 36, chosen, &log), 36);
    free(s);
}

static void test_shares(void **state)
{
    (void)state;
    static const struct {
        int text, sees;
        size_t want, of_text;
    } cases[] = {{30, 10, 8, 6}, {39, 1, 8, 7}, {1, 39, 8, 1}, {20, 0, 5, 5}, {0, 20, 5, 0}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        set *s = calloc(1, sizeof *s);
        size_t chosen[MOST], of_text = 0;
        bal_select_log log;
        assert_non_null(s);
        for (int i = 0; i < cases[t].text + cases[t].sees; i++)
            add(s, (float)i * 0.02f, i >= cases[t].text);
        assert_int_equal(choose(s, 5, cases[t].want, chosen, &log), cases[t].want);
        for (size_t i = 0; i < cases[t].want; i++) of_text += !s->c[chosen[i]].sees;
        assert_int_equal(of_text, cases[t].of_text);
        free(s);
    }
}

static void test_nothing_left(void **state)
{
    (void)state;
    set s = {0};
    size_t chosen[2], n;
    bal_select_log log;
    bal_error err;
    add(&s, 0.0f, true)->broken = true;
    ASSERT_FAILS(BAL_E_ARG, "leaves nothing of 1 records: 1 broken",
                 bal_select_diverse(s.c, &s.x[0][0][0], 1, DIM, 0, 2, chosen, &n, &log, &err));
}

/* ---- Conversations of several records ----------------------------------------------------------
 */

static void test_join(void **state)
{
    (void)state;
    static const char text[] =
        "{\"image\": \"a.png\", \"conversations\": [{\"from\": \"system\", \"value\": \"be "
        "short\"}, "
        "{\"from\": \"human\", \"value\": \"<image>\\nwhat\"}, {\"from\": \"gpt\", \"value\": "
        "\"a\"}]}\n"
        "{\"conversations\": [{\"from\": \"human\", \"value\": \"why\"}, {\"from\": \"gpt\", "
        "\"value\": \"b\"}]}\n"
        "{\"image\": [\"c.png\", \"d.png\"], \"conversations\": [{\"from\": \"system\", \"value\": "
        "\"no\"}, {\"from\": \"human\", \"value\": \"<image><image>who\"}, {\"from\": \"gpt\", "
        "\"value\": \"c\"}]}\n";
    bal_calib c;
    bal_error err;
    size_t order[] = {0, 2, 1}, n = 3;
    ASSERT_OK(bal_calib_parse(&c, text, sizeof text - 1, "x.jsonl", &err));
    ASSERT_OK(bal_calib_join(&c, order, &n, 2, &err));
    assert_int_equal(n, 2);
    assert_int_equal(order[0], 0);
    assert_int_equal(order[1], 1);
    const bal_calib_record *r = &c.records[0];
    assert_int_equal(r->n_turns, 5);
    assert_int_equal(r->n_images, 3);
    assert_string_equal(r->images[2], "d.png");
    assert_string_equal(r->turns[0].text, "be short");
    assert_string_equal(r->turns[3].text, "who");
    assert_int_equal(r->turns[3].n_images, 2);
    assert_int_equal(c.records[1].n_turns, 2);
    assert_int_equal(c.records[2].n_turns, 0);
    bal_calib_close(&c);
}

/* ---- The whole way -----------------------------------------------------------------------------
 */

static const char *const SET[] = {"group=32"};

/* Twelve good records, every fourth of text alone; 13 has no picture, 14 is one again. */
static const char *data(void)
{
    static char path[600];
    static const char *const pictures[] = {"calib0_100x70", "calib1_60x90", "calib2_48x48"};
    static const char *const words[] = {"red", "yes", "a dog", "no", "three", "it is a cat"};
    char dir[PATH_MAX];
    if (path[0]) return path;
    snprintf(path, sizeof path, "%s", scratch("data.jsonl"));
    assert_non_null(realpath(source_path("tests/golden/calib"), dir));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 14; i++) {
        const int what = i == 13 ? 4 : i;
        if (i % 4 == 3)
            fprintf(f, "{");
        else if (i == 12)
            fprintf(f, "{\"image\": \"gone.png\", ");
        else
            fprintf(f, "{\"image\": \"%s/%s.png\", ", dir, pictures[what % 3]);
        fprintf(f,
                "\"conversations\": [{\"from\": \"human\", \"value\": \"%sWhat is %s%d?\"}, "
                "{\"from\": \"gpt\", \"value\": \"%s\"}]}\n",
                i % 4 == 3 ? "" : "<image>\\n", i == 13 ? " " : "", what, words[what % 6]);
    }
    assert_int_equal(fclose(f), 0);
    return path;
}

static bal_quant_opts options(const char *select)
{
    return (bal_quant_opts){.size = sizeof(bal_quant_opts),
                            .threads = 1,
                            .recipe = "rtn",
                            .set = SET,
                            .n_set = 1,
                            .calib = data(),
                            .samples = 6,
                            .select = select,
                            .force = true};
}

static json_t *report_of(bal_quant_opts *o)
{
    o->report = scratch("r.html");
    make(scratch("r.safetensors"), o);
    json_t *doc = json_load_file(scratch("r.json"), 0, NULL);
    assert_non_null(doc);
    return doc;
}

static int integer(const json_t *doc, const char *object, const char *key)
{
    const json_t *v = json_object_get(json_object_get(doc, object), key);
    assert_true(json_is_integer(v));
    return (int)json_integer_value(v);
}

static void test_diverse(void **state)
{
    (void)state;
    bal_quant_opts o = options("diverse");
    json_t *doc = report_of(&o);
    assert_int_equal(integer(doc, "selection", "candidates"), 14);
    assert_int_equal(integer(doc, "selection", "broken"), 1);
    assert_int_equal(integer(doc, "selection", "duplicates"), 1);
    assert_int_equal(integer(doc, "calibration", "samples"), 6);
    /* six answers, two records each: one of each is left, among them one of text alone */
    assert_int_equal(integer(doc, "selection", "repeated_answers"), 6);
    assert_int_equal(json_integer_value(json_object_get(doc, "pictures")), 5);
    json_decref(doc);
    make(scratch("again.safetensors"), &o);
    assert_same_file(scratch("r.safetensors"), scratch("again.safetensors"));
}

static void test_first(void **state)
{
    (void)state;
    bal_quant_opts o = options("first");
    json_t *doc = report_of(&o);
    assert_int_equal(integer(doc, "calibration", "samples"), 6);
    assert_int_equal(json_integer_value(json_object_get(doc, "pictures")), 5);
    assert_null(json_object_get(doc, "selection"));
    json_decref(doc);
    bal_error err;
    o.samples = 13; /* chosen as they stand, the broken one is an error */
    ASSERT_FAILS(BAL_E_IO, "record 13",
                 bal_quantize(source_path(MODEL), scratch("f.st"), &o, &err));
    o = options("best");
    ASSERT_FAILS(BAL_E_ARG, "random, first, diverse",
                 bal_quantize(source_path(MODEL), scratch("f.st"), &o, &err));
}

/* Twelve records in four conversations: all the pictures, a fraction of the samples. */
static void test_shots(void **state)
{
    (void)state;
    bal_quant_opts o = options("first");
    o.samples = 4;
    o.shots = 3;
    json_t *doc = report_of(&o);
    assert_int_equal(integer(doc, "calibration", "samples"), 4);
    assert_int_equal(integer(doc, "calibration", "shots"), 3);
    assert_int_equal(json_integer_value(json_object_get(doc, "pictures")), 9);
    json_decref(doc);
    bal_error err;
    o.shots = 65;
    ASSERT_FAILS(BAL_E_ARG, "shots is 65",
                 bal_quantize(source_path(MODEL), scratch("f.st"), &o, &err));
}

/* A model that sees, data without pictures: refused, unless the recipe says that it may be. */
static void test_text_only(void **state)
{
    (void)state;
    static const char *const allow[] = {"group=32", "absent=allow"};
    const char *path = scratch("text.jsonl");
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < 10; i++)
        fprintf(f,
                "{\"conversations\": [{\"from\": \"human\", \"value\": \"How many are %d?\"}, "
                "{\"from\": \"gpt\", \"value\": \"%d\"}]}\n",
                i, i * 7);
    assert_int_equal(fclose(f), 0);
    bal_quant_opts o = options("diverse");
    bal_error err;
    o.calib = path;
    o.recipe = "gptq";
    ASSERT_FAILS(BAL_E_ARG, "has a picture, so no layer of this model sees a vision token",
                 bal_quantize(source_path(MODEL), scratch("f.st"), &o, &err));
    o.set = allow;
    o.n_set = 2;
    make(scratch("t.safetensors"), &o);
    o.recipe = "mbq"; /* its ratio would have nothing to be of */
    ASSERT_FAILS(BAL_E_ARG, "vision tokens",
                 bal_quantize(source_path(MODEL), scratch("f.st"), &o, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spread),
        cmocka_unit_test(test_filters),
        cmocka_unit_test(test_repeated_answers),
        cmocka_unit_test(test_shares),
        cmocka_unit_test(test_nothing_left),
        cmocka_unit_test(test_join),
        cmocka_unit_test(test_diverse),
        cmocka_unit_test(test_first),
        cmocka_unit_test(test_shots),
        cmocka_unit_test(test_text_only),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
