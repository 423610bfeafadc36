/* SPDX-License-Identifier: MIT
 * The report: same data in page and JSON, well-formed, escaped, self-contained, and whole even when
 * the record is not. */
#include "scratch.h"

#include "report/report.h"

/* A record with two layers, the first of which has everything. */
static json_t *record(const char *source)
{
    json_error_t je;
    json_t *r = json_loads(
        "{\"ballast_report\": \"1.0\", \"program\": \"ballast 0.1.0\", \"isa\": \"avx2\","
        "\"model_sha256\": \"0123\", \"recipe\": {\"name\": \"mbq\", \"bits\": 3, \"group\": 128},"
        "\"calibration\": {\"file\": \"c.jsonl\", \"sha256\": \"4567\", \"samples\": 3, \"of\": 9,"
        "\"seed\": 1}, \"tokens\": {\"prompt\": 10, \"answer\": 20, \"vision\": 300},"
        "\"sizes\": {\"file_bytes\": 1500000, \"source_bytes\": 6000000, \"linear_bytes\": 900000,"
        "\"linear_weights\": 2000000, \"all_weights\": 3000000, \"linear_bits_per_weight\": 3.6,"
        "\"file_bits_per_weight\": 4.0},"
        "\"sensitivity\": {\"loss\": 2.5, \"layers\": [{\"attn\": {\"g1\": {\"prompt\": 1e-5,"
        "\"answer\": 1e-3, \"vision\": 1e-4}, \"ratio\": 0.1, \"weight\": 0.125}, \"mlp\": {}},"
        "{}]},"
        "\"blocks\": [{\"layer\": 0, \"groups\": [{\"name\": \"qkv\", \"searched\": true,"
        "\"best\": 2, \"exponent\": 0.1, \"loss\": [3, 2.5, 1, 4]}],"
        "\"rtn\": {\"attn\": {\"mse\": {\"answer\": 0.5, \"vision\": 0.25}, \"ref_ms\": {"
        "\"answer\": 2, \"vision\": 2}}}, \"final\": {\"attn\": {\"mse\": {\"answer\": 0.125,"
        "\"vision\": 0}, \"ref_ms\": {\"answer\": 2, \"vision\": 0}}},"
        "\"drift\": {\"mse\": {\"answer\": 1}, \"ref_ms\": {\"answer\": 4}},"
        "\"clip_undone\": {\"attn\": true, \"mlp\": false}}, {\"layer\": 1}]}",
        0, &je);
    if (!r) fail_msg("line %d: %s", je.line, je.text);
    json_object_set_new(r, "source", json_string(source));
    return r;
}

/* Every element that is opened is closed in order; the few that have no end are known. */
static void assert_well_formed(const char *html)
{
    static const char *const empty[] = {"!doctype", "meta"};
    char stack[32][16];
    int depth = 0;
    for (const char *p = html; (p = strchr(p, '<')); p++) {
        char name[16] = "";
        const bool closing = p[1] == '/';
        sscanf(p + 1 + closing, "%15[a-z0-9!]", name);
        const char *end = strchr(p, '>');
        assert_non_null(end);
        assert_true(name[0] != 0);
        bool has_no_end = end[-1] == '/';
        for (size_t i = 0; i < 2; i++) has_no_end |= strcmp(name, empty[i]) == 0;
        if (closing) {
            assert_true(depth > 0);
            assert_string_equal(stack[--depth], name);
        } else if (!has_no_end) {
            assert_true(depth < 32);
            strcpy(stack[depth++], name);
        }
    }
    assert_int_equal(depth, 0);
}

static void test_page(void **state)
{
    (void)state;
    json_t *r = record("my-model");
    char *html;
    bal_error err;
    ASSERT_OK(bal_report_html(&html, r, &err));
    assert_well_formed(html);
    static const char *const there[] = {"my-model",
                                        "4567",
                                        "3.600",
                                        "undone",
                                        "0.10<",
                                        "2.5000",
                                        "c.jsonl",
                                        "prefers-color-scheme",
                                        "plain rounding, 0: 0.25",
                                        "this file, 0: 0.0625",
                                        "answer, 0: 0.25",
                                        "<svg class=\"spark\""};
    for (size_t i = 0; i < sizeof there / sizeof there[0]; i++)
        if (!strstr(html, there[i])) fail_msg("no \"%s\" in the page", there[i]);
    static const char *const not_there[] = {"<script", "http:", "https:", "url(", "nan", "inf,"};
    for (size_t i = 0; i < sizeof not_there / sizeof not_there[0]; i++)
        if (strstr(html, not_there[i])) fail_msg("\"%s\" in the page", not_there[i]);
    free(html);
    json_decref(r);
}

/* A record whose recipe is `recipe`, with steps of a solver and no more of a block than these. */
static json_t *record_of(const char *recipe, bool sensitivity)
{
    json_t *r = record("m");
    json_object_set_new(r, "recipe", json_loads(recipe, 0, NULL));
    json_object_set_new(r, "blocks",
                        json_loads("[{\"groups\": [{\"name\": \"qkv\", \"steps\": ["
                                   "{\"name\": \"round\", \"error\": 2, \"kept\": true},"
                                   "{\"name\": \"gptq\", \"error\": 1, \"kept\": true}]}]}]",
                                   0, NULL));
    if (!sensitivity) json_object_del(r, "sensitivity");
    return r;
}

/* Sentences follow the recipe. */
static void test_sentences(void **state)
{
    (void)state;
    static const struct {
        const char *recipe;
        bool sensitivity;
        const char *there[5], *not_there[4];
    } cases[] = {
        {"{\"name\": \"gptq\", \"hessian\": \"local\", \"rank\": 8, \"rank_rows\": \"vision\"}",
         false,
         {"recipe gptq, with hessian=local rank=8 rank_rows=vision",
          "only those of what each block", "by the gradient of what the block",
          "matrix of rank 8 for vision rows only; its bits are counted"},
         {"Chosen exponents", "Balanced", "Outputs are solved"}},
        {"{\"name\": \"guidedquant\", \"hessian\": \"grad2-raw\", \"row_groups\": 4,"
         "\"balance\": \"off\", \"undo\": \"off\"}",
         true,
         {"recipe guidedquant, ", "is no weight in this recipe",
          "by squared gradients of the answers' loss (hessian=grad2-raw)",
          "Outputs are solved in 4 groups", "nothing is undone"},
         {"in the search", "Chosen exponents", "a matrix of rank"}},
        {"{\"name\": \"mbq\", \"balance\": \"gradient\", \"scale\": \"search\", \"rank\": 4}",
         true,
         {"weighs in the search", "Chosen exponents", "of rank 4 for all rows"},
         {"is no weight"}},
        {"{\"name\": \"awq\", \"balance\": \"off\", \"scale\": \"search\"}",
         true,
         {"is no weight in this recipe", "Chosen exponents"},
         {"in the search"}},
        {"{\"name\": \"own\", \"balance\": \"gradient\", \"hessian\": \"squared\"}",
         true,
         {"recipe own, ", "weighs in the second moments", "(hessian=squared)"},
         {"in the search"}},
        {"{\"name\": \"own\", \"balance\": \"off\", \"hessian\": \"balanced\"}",
         false,
         {"all alike (hessian=balanced with balance=off)",
          "does not measure gradients of the answers' loss."},
         {"what each block"}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        json_t *r = record_of(cases[i].recipe, cases[i].sensitivity);
        char *html;
        bal_error err;
        ASSERT_OK(bal_report_html(&html, r, &err));
        assert_well_formed(html);
        for (int k = 0; k < 5 && cases[i].there[k]; k++)
            if (!strstr(html, cases[i].there[k]))
                fail_msg("%zu: no \"%s\" in the page", i, cases[i].there[k]);
        for (int k = 0; k < 4 && cases[i].not_there[k]; k++)
            if (strstr(html, cases[i].not_there[k]))
                fail_msg("%zu: \"%s\" in the page", i, cases[i].not_there[k]);
        free(html);
        json_decref(r);
    }
}

/* Floats that stand for a format: its bits in front, those of the floats beside them. */
static void test_simulated(void **state)
{
    (void)state;
    json_t *r = record("m"), *sizes = json_object_get(r, "sizes");
    char *html;
    bal_error err;
    json_object_set_new(sizes, "linear_bits_per_weight", json_real(32));
    json_object_set_new(sizes, "format_bits_per_weight", json_real(2.128));
    ASSERT_OK(bal_report_html(&html, r, &err));
    const char *format = strstr(html, "<b>2.128</b>bits per weight of the simulated format");
    const char *stored = strstr(html, "<b>32.000</b>bits per weight, linears stored as floats");
    assert_true(format && stored && format < stored);
    free(html);
    json_decref(r);
}

static void test_escaping(void **state)
{
    (void)state;
    json_t *r = record("<script>alert(1)</script>&\"'\x01");
    json_object_set_new(r, "command", json_string("ballast quantize '</code><b>'"));
    json_object_set_new(json_object_get(r, "recipe"), "</td><i>", json_string("<i>"));
    char *html;
    bal_error err;
    ASSERT_OK(bal_report_html(&html, r, &err));
    assert_well_formed(html);
    assert_null(strstr(html, "<script"));
    assert_null(strstr(html, "<i>"));
    assert_null(strchr(html, 1));
    assert_non_null(strstr(html, "&lt;script&gt;alert(1)&lt;/script&gt;&amp;&quot;&#39;"));
    free(html);
    json_decref(r);
}

/* Any member may be missing or of another type: dashes, never a crash. */
static void test_partial_records(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "{}",
        "{\"blocks\": []}",
        "{\"blocks\": [{}]}",
        "{\"blocks\": 7, \"sensitivity\": [1], \"recipe\": 3, \"sizes\": \"x\", \"source\": 1}",
        "{\"blocks\": [{\"groups\": [{\"name\": \"qkv\", \"loss\": [null, \"a\", 1]}]}]}",
        "{\"blocks\": [{\"groups\": [{\"name\": \"qkv\", \"loss\": [1, 1], \"best\": 99}]}]}",
        "{\"blocks\": [{\"groups\": [{\"name\": \"qkv\", \"loss\": [1, 1], \"best\": 1e300}]}]}",
        "{\"blocks\": [{}], \"sensitivity\": {\"layers\": [{}, {}, {}]}}",
    };
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        json_t *r = json_loads(texts[i], 0, NULL);
        char *html;
        bal_error err;
        assert_non_null(r);
        ASSERT_OK(bal_report_html(&html, r, &err));
        assert_well_formed(html);
        assert_null(strstr(html, "nan"));
        free(html);
        json_decref(r);
    }
}

static void test_files(void **state)
{
    (void)state;
    json_t *r = record("m"), *back;
    bal_error err;
    ASSERT_OK(bal_report_write(scratch("r.html"), r, &err));
    assert_true(bal_path_exists(scratch("r.html")));
    back = json_load_file(scratch("r.json"), 0, NULL);
    assert_true(json_equal(r, back));
    json_decref(back);
    ASSERT_OK(bal_report_write(scratch("other"), r, &err));
    assert_true(bal_path_exists(scratch("other.json")));
    ASSERT_FAILS(BAL_E_IO, "/dev/null/x", bal_report_write("/dev/null/x.html", r, &err));
    json_decref(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_page),
        cmocka_unit_test(test_sentences),
        cmocka_unit_test(test_simulated),
        cmocka_unit_test(test_escaping),
        cmocka_unit_test(test_partial_records),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
