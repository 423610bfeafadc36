/* SPDX-License-Identifier: MIT
 * Schemas to grammars to masks: what a grammar takes and what not, that what it writes satisfies
 * the schema by an independent reading, that a mask is what trying every token would give, and that
 * what is not supported is refused by name. */
#include "check.h"
#include "schema_check.h"

#include "run/engine.h"

#include <time.h>

/* ---- Texts ----------------------------------------------------------------------------------- */

typedef struct compiled {
    json_t *schema;
    bal_grammar g;
    bal_matcher *m;
} compiled;

static const bal_vocab no_vocab;

/* The matcher points to the grammar, so it is filled in place. */
static void compile(compiled *c, const char *schema, const bal_vocab *v)
{
    bal_refusal f;
    bal_error err;
    *c = (compiled){.schema = schema ? json_loads(schema, 0, NULL) : NULL};
    if (schema) assert_non_null(c->schema);
    if (bal_schema_compile(&c->g, c->schema, &f) < 0) fail_msg("%s: %s", schema, f.message);
    ASSERT_OK(bal_matcher_create(&c->m, &c->g, v, &err));
}

static void compiled_free(compiled *c)
{
    bal_matcher_destroy(c->m);
    bal_grammar_free(&c->g);
    json_decref(c->schema);
}

static bool takes(const compiled *c, const char *text)
{
    bal_error err;
    bool fits = false;
    bal_matcher_reset(c->m);
    ASSERT_OK(bal_matcher_push(c->m, text, strlen(text), &fits, &err));
    return fits && bal_matcher_complete(c->m);
}

#define OBJECT(properties, more) "{\"type\":\"object\",\"properties\":{" properties "}" more "}"

static void texts_are_judged(void **state)
{
    (void)state;
    static const char ab[] = OBJECT("\"a\":{\"type\":\"integer\"},\"b\":{\"type\":\"null\"}",
                                    ",\"required\":[\"b\"],\"additionalProperties\":false");
    static const char tree[] =
        "{\"$ref\":\"#/$defs/t\",\"$defs\":{\"t\":{\"type\":\"object\",\"properties\":{\"v\":{"
        "\"type\":\"boolean\"},\"l\":{\"$ref\":\"#/$defs/t\"}},\"required\":[\"v\"]}}}";
    static const struct {
        const char *schema, *text;
        bool good;
    } cases[] = {
        {NULL, "{}", true},
        {NULL, "{\"a\": [1, {\"b\": null}], \"c\": -0.5e-10}", true},
        {NULL, "[]", false},
        {NULL, "{\"a\":}", false},
        {NULL, "{\"a\":1,}", false},
        {NULL, "{} ", false},
        {"{\"type\":\"integer\"}", "0", true},
        {"{\"type\":\"integer\"}", "-12", true},
        {"{\"type\":\"integer\"}", "012", false},
        {"{\"type\":\"integer\"}", "1.0", false},
        {"{\"type\":\"integer\"}", "1234567890123456", true},
        {"{\"type\":\"integer\"}", "12345678901234567", false},
        {"{\"type\":\"number\"}", "1.5E+07", true},
        {"{\"type\":\"number\"}", ".5", false},
        {"{\"type\":\"number\"}", "1e123", false},
        {"{\"type\":\"string\"}", "\"\\u00e4\\\"\xc3\xa4\xf0\x9f\x98\x80\"", true},
        {"{\"type\":\"string\"}", "\"\xed\xa0\x80\"", false}, /* a surrogate */
        {"{\"type\":\"string\"}", "\"\\ud800\"", false},
        {"{\"type\":\"string\"}", "\"\xc0\xaf\"", false}, /* overlong */
        {"{\"type\":\"string\"}", "\"a\nb\"", false},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"\xc3\xa4\\n\"", true},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"a\"", false},
        {"{\"type\":\"string\",\"minLength\":2,\"maxLength\":3}", "\"abcd\"", false},
        {"{\"type\":\"string\",\"maxLength\":0}", "\"\"", true},
        {"{\"type\":[\"boolean\",\"null\"]}", "false", true},
        {"{\"type\":[\"boolean\",\"null\"]}", "null", true},
        {"{\"type\":[\"boolean\",\"null\"]}", "1", false},
        {"{\"enum\":[\"a\",1,[true]]}", "[true]", true},
        {"{\"enum\":[\"a\",1,[true]]}", "\"b\"", false},
        {"{\"enum\":[\"a\",1],\"type\":\"string\"}", "1", false},
        {"{\"const\":\"\\u00e4\"}", "\"\xc3\xa4\"", true},
        {"{\"anyOf\":[{\"type\":\"null\"},{\"const\":3}]}", "3", true},
        {"{\"anyOf\":[{\"type\":\"null\"},{\"const\":3}]}", "4", false},
        {ab, "{\"a\":1,\"b\":null}", true},
        {ab, "{ \"a\" : 1,\n\t\"b\": null}", false}, /* no blank before a colon */
        {ab, "{ \"a\": 1,\n\t\"b\": null}", true},
        {ab, "{\"b\":null}", true},
        {ab, "{\"a\":1}", false},
        {ab, "{\"b\":null,\"a\":1}", false}, /* the order of the schema */
        {ab, "{\"b\":null,\"c\":1}", false},
        {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", "{\"x\":1}",
         true},
        {"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"integer\"}}", "{\"x\":\"\"}",
         false},
        {"{\"type\":\"object\",\"additionalProperties\":false}", "{}", true},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":2}", "[{}, []]", true},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":2}", "[]", false},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":2}", "[1,2,3]", false},
        {"{\"items\":{\"type\":\"null\"}}", "[null,null,null]", true},
        {tree, "{\"v\":true,\"l\":{\"v\":false,\"l\":{\"v\":true}}}", true},
        {tree, "{\"v\":true,\"l\":{}}", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        compiled c;
        compile(&c, cases[i].schema, &no_vocab);
        if (takes(&c, cases[i].text) != cases[i].good)
            fail_msg("%s: %s should %sfit", cases[i].schema, cases[i].text,
                     cases[i].good ? "" : "not ");
        compiled_free(&c);
    }
}

static const char *const rich[] = {
    OBJECT("\"name\":{\"type\":\"string\",\"maxLength\":8},\"kind\":{\"enum\":[\"x\",2,null]},"
           "\"box\":{\"type\":\"array\",\"items\":{\"type\":\"number\"},\"minItems\":2,\"maxItems\""
           ":4},\"more\":{\"type\":\"object\",\"additionalProperties\":{\"type\":\"boolean\"}}",
           ",\"required\":[\"name\",\"box\"]"),
    ("{\"$ref\":\"#/definitions/t\",\"definitions\":{\"t\":{\"anyOf\":[{\"type\":\"integer\"},{"
     "\"type\":\"array\",\"items\":{\"$ref\":\"#/definitions/t\"},\"maxItems\":3}]}}}"),
    "{\"type\":[\"object\",\"string\"],\"required\":[\"must\"],\"minLength\":3}",
    "{}",
};

static void what_is_written_satisfies(void **state)
{
    (void)state;
    enum { MAX = 2000 };
    char text[MAX];
    int n_complete = 0;
    for (size_t s = 0; s < sizeof rich / sizeof rich[0]; s++) {
        compiled c;
        compile(&c, rich[s], &no_vocab);
        for (uint64_t seed = 0; seed < 200; seed++) {
            bool complete = false;
            bal_rng rng;
            bal_rng_seed(&rng, seed);
            const size_t n = walk_grammar(c.m, &rng, text, MAX, &complete);
            if (!complete) continue;
            n_complete++;
            json_t *v = json_loadb(text, n, JSON_DECODE_ANY | JSON_ALLOW_NUL, NULL);
            if (!v || !satisfies(c.schema, c.schema, v, 0))
                fail_msg("%s: seed %d: %.*s", rich[s], (int)seed, (int)n, text);
            json_decref(v);
        }
        compiled_free(&c);
    }
    assert_true(n_complete > 600);
}

/* ---- Masks ----------------------------------------------------------------------------------- */

static void check_mask(compiled *c, const bal_vocab *v, const int32_t *ids, int n)
{
    bal_error err;
    const size_t words = ((size_t)v->n_ids + 63) / 64;
    uint64_t *mask = malloc(words * sizeof *mask);
    memset(mask, 0xff, words * sizeof *mask);
    ASSERT_OK(bal_matcher_mask(c->m, ids, n, mask, &err));
    const bool complete = bal_matcher_complete(c->m);
    bal_matcher *other; /* the same grammar, tried token by token */
    ASSERT_OK(bal_matcher_create(&other, &c->g, v, &err));
    for (int32_t id = 0; id < v->n_ids; id++) {
        const bal_token_view t = bal_tokenizer_decode(v->tokenizer, id, false);
        bool fits = true, ends = false;
        bal_matcher_reset(other);
        for (int i = 0; i < n; i++) {
            const bal_token_view u = bal_tokenizer_decode(v->tokenizer, ids[i], false);
            ASSERT_OK(bal_matcher_push(other, u.bytes, u.n, &fits, &err));
        }
        ASSERT_OK(bal_matcher_push(other, t.bytes, t.n, &fits, &err));
        for (int i = 0; i < v->n_ends; i++) ends |= v->ends[i] == id;
        const bool wanted = ends ? complete : t.n && fits;
        if ((mask[id / 64] >> id % 64 & 1) != wanted) fail_msg("token %d at %d", (int)id, n);
    }
    bal_matcher_destroy(other);
    free(mask);
}

static void masks_are_what_trying_gives(void **state)
{
    (void)state;
    bal_engine e;
    bal_error err;
    bal_vocab v;
    bal_rng rng;
    ASSERT_OK(bal_engine_open(&e, source_path("demo/model"), 1, NULL, &err));
    const int n_ids = e.model.config.text.vocab;
    ASSERT_OK(
        bal_vocab_create(&v, e.tokenizer, n_ids, e.model.config.eos, e.model.config.n_eos, &err));
    bal_rng_seed(&rng, 3);
    for (int s = 0; s < 2; s++) {
        compiled c;
        compile(&c, rich[s], &v);
        int32_t ids[24];
        uint64_t mask[1024];
        assert_true(n_ids <= 64 * 1024);
        for (int n = 0; n < 24; n++) { /* a random token of those allowed */
            if (n % 6 == 0) check_mask(&c, &v, ids, n);
            memset(mask, 0xff, sizeof mask);
            ASSERT_OK(bal_matcher_mask(c.m, ids, n, mask, &err));
            int32_t id = (int32_t)bal_rng_below(&rng, (uint64_t)n_ids);
            for (int i = 0; i < n_ids && !(mask[id / 64] >> id % 64 & 1); i++)
                id = (id + 1) % n_ids;
            if (bal_tokenizer_decode(e.tokenizer, id, false).n == 0) break; /* an end */
            ids[n] = id;
        }
        compiled_free(&c);
    }
    bal_vocab_destroy(&v);
    bal_engine_close(&e);
}

/* ---- Refusals -------------------------------------------------------------------------------- */

static void what_is_not_supported_is_named(void **state)
{
    (void)state;
    static const struct {
        const char *schema, *named;
    } cases[] = {
        {"{\"type\":\"string\",\"pattern\":\"a\"}", "'pattern'"},
        {"{\"type\":\"string\",\"format\":\"date\"}", "'format'"},
        {"{\"type\":\"integer\",\"minimum\":1}", "'minimum'"},
        {"{\"type\":\"number\",\"multipleOf\":1}", "'multipleOf'"},
        {"{\"type\":\"array\",\"uniqueItems\":true}", "'uniqueItems'"},
        {"{\"type\":\"array\",\"prefixItems\":[]}", "'prefixItems'"},
        {"{\"type\":\"object\",\"patternProperties\":{}}", "'patternProperties'"},
        {"{\"allOf\":[{}]}", "'allOf'"},
        {"{\"oneOf\":[{}]}", "'oneOf'"},
        {"{\"not\":{}}", "'not'"},
        {"{\"type\":\"integer\",\"properties\":{}}", "'properties'"},
        {"{\"enum\":[1],\"minLength\":1}", "'minLength'"},
        {"{\"type\":\"thing\"}", "type: expected"},
        {"{\"type\":[]}", "type: expected"},
        {"{\"enum\":[]}", "no value fits"},
        {"{\"enum\":[1],\"type\":\"string\"}", "no value fits"},
        {"{\"anyOf\":[]}", "anyOf"},
        {"{\"$ref\":\"http://example.com/s\"}", "$ref"},
        {"{\"$ref\":\"#/nowhere\"}", "$ref"},
        {"{\"$ref\":\"#\"}", "nothing satisfies"},
        {"{\"type\":\"array\",\"minItems\":3,\"maxItems\":2}", "above the maximum"},
        {"{\"type\":\"array\",\"minItems\":-1}", "minItems"},
        {"{\"type\":\"string\",\"maxLength\":99999}", "maxLength"},
        {"{\"type\":\"object\",\"required\":[\"a\"],\"additionalProperties\":false}", "required"},
        {"{\"type\":\"object\",\"properties\":[]}", "properties"},
        {OBJECT("\"deep\":{\"type\":\"array\",\"items\":{\"format\":\"x\"}}", ""),
         "/properties/deep/items"},
        {"{\"type\":\"array\",\"maxItems\":4000,\"items\":{\"type\":\"array\",\"maxItems\":4000,"
         "\"items\":{\"type\":\"string\",\"maxLength\":4000}},\"minItems\":0}",
         NULL}, /* parts are shared, so this one is fine */
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        json_t *schema = json_loads(cases[i].schema, 0, NULL);
        bal_grammar g;
        bal_refusal f;
        const bal_status st = bal_schema_compile(&g, schema, &f);
        if (!cases[i].named) {
            assert_int_equal(st, BAL_OK);
            bal_grammar_free(&g);
        } else if (st == BAL_OK || f.http != 400 || strcmp(f.code, "unsupported_schema") != 0 ||
                   strcmp(f.param, "response_format.json_schema.schema") != 0 ||
                   !strstr(f.message, cases[i].named)) {
            fail_msg("%s: '%s' lacks %s", cases[i].schema, f.message, cases[i].named);
        }
        json_decref(schema);
    }
}

/* Text beyond the end of what is allowed fails, and what was accepted stays. */
static void a_misfit_leaves_the_matcher_alone(void **state)
{
    (void)state;
    compiled c;
    compile(&c, "{\"const\":\"abc\"}", &no_vocab);
    bal_error err;
    bool fits;
    ASSERT_OK(bal_matcher_push(c.m, "\"ab", 3, &fits, &err));
    assert_true(fits);
    ASSERT_OK(bal_matcher_push(c.m, "c\"x", 3, &fits, &err));
    assert_false(fits);
    assert_false(bal_matcher_complete(c.m));
    ASSERT_OK(bal_matcher_push(c.m, "c\"", 2, &fits, &err));
    assert_true(fits && bal_matcher_complete(c.m));
    compiled_free(&c);
}

/* States are thrown away in between when there are many; the answer is the same. */
static void long_answers_stay_right(void **state)
{
    (void)state;
    compiled c;
    compile(&c, "{\"type\":\"array\",\"items\":{\"type\":\"string\"}}", &no_vocab);
    bal_error err;
    bool fits;
    ASSERT_OK(bal_matcher_push(c.m, "[", 1, &fits, &err));
    for (int i = 0; i < 20000; i++) {
        ASSERT_OK(bal_matcher_push(c.m, "\"\xc3\xa4\\u12aF\", ", 12, &fits, &err));
        assert_true(fits);
    }
    ASSERT_OK(bal_matcher_push(c.m, "\"\"]", 3, &fits, &err));
    assert_true(fits && bal_matcher_complete(c.m));
    compiled_free(&c);
}

/* Many properties, all required: refused as too large before it costs more than reading it. */
static void many_properties_cost_little(void **state)
{
    (void)state;
    enum { N = 60000 };
    json_t *schema = json_object(), *properties = json_object(), *required = json_array();
    for (int i = 0; i < N; i++) {
        char key[16];
        snprintf(key, sizeof key, "k%d", i);
        json_object_set_new(properties, key, json_true());
        json_array_append_new(required, json_sprintf("r%d", i));
    }
    json_object_set_new(schema, "type", json_string("object"));
    json_object_set_new(schema, "properties", properties);
    json_object_set_new(schema, "required", required);
    bal_grammar g;
    bal_refusal f;
    const clock_t start = clock();
    assert_int_equal(bal_schema_compile(&g, schema, &f), BAL_E_ARG);
    assert_non_null(strstr(f.message, "too large"));
    assert_true(clock() - start < 5 * CLOCKS_PER_SEC);
    bal_grammar_free(&g);
    json_decref(schema);
}

static void types_are_counted(void **state)
{
    (void)state;
    json_t *schema = json_loads("{\"type\":[\"null\",\"null\",\"null\",\"null\",\"null\",\"null\","
                                "\"null\",\"null\"]}",
                                0, NULL);
    bal_grammar g;
    bal_refusal f;
    assert_int_equal(bal_schema_compile(&g, schema, &f), BAL_E_ARG);
    assert_non_null(strstr(f.message, "more names than there are types"));
    bal_grammar_free(&g);
    json_decref(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(many_properties_cost_little),
        cmocka_unit_test(types_are_counted),
        cmocka_unit_test(texts_are_judged),
        cmocka_unit_test(what_is_written_satisfies),
        cmocka_unit_test(masks_are_what_trying_gives),
        cmocka_unit_test(what_is_not_supported_is_named),
        cmocka_unit_test(a_misfit_leaves_the_matcher_alone),
        cmocka_unit_test(long_answers_stay_right),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
