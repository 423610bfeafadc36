/* SPDX-License-Identifier: MIT
 * Typed JSON getters: values, defaults, ranges, and sentences that name file, key, expected and
 * found; caps on size and depth; duplicate keys. */
#include "scratch.h"

#include "format/json.h"

#define PARSE(doc, text) bal_json_parse(doc, text, strlen(text), 1 << 20, "conf.json", &err)

static const char config[] =
    "{\"i\":7,\"big\":3000000000,\"whole\":32768.0,\"r\":1.5,\"neg\":-2,\"t\":true,\"f\":false,"
    "\"s\":\"text\",\"n\":null,\"e\":\"\",\"sub\":{\"deep\":{\"x\":1}},\"a\":[1,2,3],"
    "\"fs\":[0.5,1,2e3],\"mixed\":[1,\"2\"]}";

static bal_json_doc doc;
static bal_json root;

static int open_config(void **state)
{
    (void)state;
    bal_error err;
    ASSERT_OK(PARSE(&doc, config));
    root = bal_json_root(&doc);
    return 0;
}

static int close_config(void **state)
{
    (void)state;
    bal_json_close(&doc);
    bal_json_close(&doc);
    return 0;
}

static void test_integers(void **state)
{
    (void)state;
    bal_error err;
    int i;
    int64_t l;
    ASSERT_OK(bal_json_int(&root, "i", 7, 7, &i, &err));
    assert_int_equal(i, 7);
    ASSERT_OK(bal_json_int(&root, "whole", 0, 65536, &i, &err));
    assert_int_equal(i, 32768);
    ASSERT_OK(bal_json_i64(&root, "big", 0, INT64_MAX, &l, &err));
    assert_true(l == 3000000000);
    ASSERT_FAILS(BAL_E_FORMAT, "conf.json: i: expected an integer from 8 to 9, found 7",
                 bal_json_int(&root, "i", 8, 9, &i, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "i: expected an integer from 5 to 6, found 7",
                 bal_json_int(&root, "i", 5, 6, &i, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "big: expected an integer", /* not cut to 32 bits */
                 bal_json_int(&root, "big", INT32_MIN, INT32_MAX, &i, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "found 1.5", bal_json_int(&root, "r", 0, 9, &i, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "found \"text\"", bal_json_int(&root, "s", 0, 9, &i, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "found true", bal_json_int(&root, "t", 0, 9, &i, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "found null", bal_json_int(&root, "n", 0, 9, &i, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "absent: expected an integer from 0 to 9, it is missing",
                 bal_json_int(&root, "absent", 0, 9, &i, &err));
}

static void test_defaults(void **state)
{
    (void)state;
    bal_error err;
    int i;
    double d;
    bool b;
    const char *s;
    ASSERT_OK(bal_json_int_or(&root, "absent", 0, 9, -5, &i, &err));
    assert_int_equal(i, -5);
    ASSERT_OK(bal_json_int_or(&root, "n", 0, 9, 4, &i, &err));
    assert_int_equal(i, 4);
    ASSERT_OK(bal_json_int_or(&root, "i", 0, 9, 4, &i, &err));
    assert_int_equal(i, 7);
    ASSERT_FAILS(BAL_E_FORMAT, "i: expected",
                 bal_json_int_or(&root, "i", 8, 9, 4, &i, &err)); /* a default excuses nothing */
    ASSERT_OK(bal_json_f64_or(&root, "absent", 0, 1, 0.25, &d, &err));
    assert_true(d == 0.25);
    ASSERT_OK(bal_json_bool_or(&root, "n", true, &b, &err));
    assert_true(b);
    ASSERT_OK(bal_json_bool_or(&root, "f", true, &b, &err));
    assert_false(b);
    ASSERT_OK(bal_json_str_or(&root, "absent", NULL, &s, &err));
    assert_null(s);
    ASSERT_OK(bal_json_str_or(&root, "e", "x", &s, &err));
    assert_string_equal(s, "");
    ASSERT_FAILS(BAL_E_FORMAT, "i: expected a string, found 7",
                 bal_json_str_or(&root, "i", "x", &s, &err));
}

static void test_other_scalars(void **state)
{
    (void)state;
    bal_error err;
    double d;
    bool b;
    const char *s;
    ASSERT_OK(bal_json_f64(&root, "i", 0, 10, &d, &err)); /* an integer is a number */
    assert_true(d == 7);
    ASSERT_OK(bal_json_f64(&root, "r", 1.5, 1.5, &d, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "r: expected a number from 2 to 3, found 1.5",
                 bal_json_f64(&root, "r", 2, 3, &d, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "r: expected a number from 0 to 1, found 1.5",
                 bal_json_f64(&root, "r", 0, 1, &d, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "s: expected a number",
                 bal_json_f64(&root, "s", -1e9, 1e9, &d, &err));
    ASSERT_OK(bal_json_bool(&root, "t", &b, &err));
    assert_true(b);
    ASSERT_FAILS(BAL_E_FORMAT, "i: expected true or false, found 7",
                 bal_json_bool(&root, "i", &b, &err));
    ASSERT_OK(bal_json_str(&root, "s", &s, &err));
    assert_string_equal(s, "text");
    ASSERT_FAILS(BAL_E_FORMAT, "sub: expected a string, found an object",
                 bal_json_str(&root, "sub", &s, &err));
    assert_null(s);
}

static void test_nesting(void **state)
{
    (void)state;
    bal_error err;
    bal_json sub, deep, none;
    int i;
    ASSERT_OK(bal_json_obj(&root, "sub", &sub, &err));
    ASSERT_OK(bal_json_obj(&sub, "deep", &deep, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "conf.json: sub.deep.x: expected an integer from 2 to 3, found 1",
                 bal_json_int(&deep, "x", 2, 3, &i, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "a: expected an object, found an array of 3",
                 bal_json_obj(&root, "a", &none, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "a: expected an object", bal_json_obj_or(&root, "a", &none, &err));
    ASSERT_OK(bal_json_obj_or(&root, "absent", &none, &err));
    assert_null(none.value);
    ASSERT_OK(bal_json_int_or(&none, "x", 0, 9, 3, &i, &err)); /* a missing section: defaults */
    assert_int_equal(i, 3);
    ASSERT_FAILS(BAL_E_FORMAT, "absent.x: expected", bal_json_int(&none, "x", 0, 9, &i, &err));
    ASSERT_OK(bal_json_obj_or(&root, "n", &none, &err));
    assert_null(none.value);
    assert_true(bal_json_has(&root, "f") && !bal_json_has(&root, "n"));
}

static void test_arrays(void **state)
{
    (void)state;
    bal_error err;
    bal_json a;
    int ints[3];
    double reals[3];
    size_t n;
    ASSERT_OK(bal_json_ints(&root, "a", 0, 9, ints, 3, &n, &err));
    assert_int_equal(n, 3);
    assert_int_equal(ints[2], 3);
    ASSERT_OK(bal_json_f64s(&root, "fs", 0, 1e4, reals, 3, &n, &err));
    assert_true(n == 3 && reals[0] == 0.5 && reals[2] == 2000);
    ASSERT_FAILS(BAL_E_FORMAT, "a: expected an array of 0 to 2 elements, found an array of 3",
                 bal_json_ints(&root, "a", 0, 9, ints, 2, &n, &err));
    assert_int_equal(n, 0);
    ASSERT_FAILS(BAL_E_FORMAT, "a[2]: expected an integer from 0 to 2, found 3",
                 bal_json_ints(&root, "a", 0, 2, ints, 3, &n, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "mixed[1]: expected a number",
                 bal_json_f64s(&root, "mixed", 0, 9, reals, 3, &n, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "a: expected an array of 2,",
                 bal_json_array(&root, "a", 2, 2, &a, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "s: expected an array", bal_json_array(&root, "s", 0, 9, &a, &err));
    assert_int_equal(bal_json_len(&a), 0);
    ASSERT_OK(bal_json_array(&root, "a", 3, 3, &a, &err));
    bal_json past = bal_json_at(&a, 3);
    ASSERT_FAILS(BAL_E_FORMAT, "a[3]: expected an integer from 0 to 9, it is missing",
                 bal_json_as_int(&past, 0, 9, ints, &err));
}

static void test_choices(void **state)
{
    (void)state;
    static const char *const names[] = {"one", "text", "three"};
    static const char *const keys[] = {"x", "y"};
    bal_error err;
    size_t index;
    ASSERT_OK(bal_json_choice(&root, "s", names, 3, &index, &err));
    assert_int_equal(index, 1);
    ASSERT_FAILS(BAL_E_FORMAT, "e: expected one, text or three, found \"\"",
                 bal_json_choice(&root, "e", names, 3, &index, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "found 7", bal_json_choice(&root, "i", names, 3, &index, &err));
    bal_json sub, deep;
    ASSERT_OK(bal_json_obj(&root, "sub", &sub, &err));
    ASSERT_OK(bal_json_obj(&sub, "deep", &deep, &err));
    ASSERT_OK(bal_json_only_keys(&deep, keys, 2, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "conf.json: unknown key sub.deep; known are x or y",
                 bal_json_only_keys(&sub, keys, 2, &err));
}

static void refused(const char *sentence, const char *text)
{
    bal_error err;
    bal_json_doc d;
    ASSERT_FAILS(BAL_E_FORMAT, sentence, PARSE(&d, text));
    assert_null(d.root);
    assert_null(d.file);
}

static void test_damaged(void **state)
{
    (void)state;
    bal_error err;
    bal_json_doc d;
    refused("conf.json: line 2, column", "{\n\"a\":}");
    refused("conf.json: column 6", "{\"a\":}"); /* one line: no number */
    refused("duplicate", "{\"a\":1,\"b\":{\"c\":1,\"c\":2}}");
    refused("conf.json", "");
    refused("conf.json", "{} {}");
    refused("conf.json", "{\"a\":NaN}");
    refused("conf.json", "{\"a\":1e999}");
    refused("conf.json", "{\"a\":\"\xff\"}");
    ASSERT_FAILS(BAL_E_FORMAT, "conf.json: 10 bytes, more than the 9 allowed",
                 bal_json_parse(&d, "[        ]", 10, 9, "conf.json", &err));
    scratch_text(scratch("file.json"), "{\"a\":1}");
    ASSERT_OK(bal_json_load(&d, scratch("file.json"), 7, &err));
    bal_json_close(&d);
    ASSERT_FAILS(BAL_E_FORMAT, "file.json: 7 bytes, more than the 6",
                 bal_json_load(&d, scratch("file.json"), 6, &err));
    ASSERT_FAILS(BAL_E_IO, "absent.json: cannot open",
                 bal_json_load(&d, scratch("absent.json"), 99, &err));
    bal_json_close(&d);
}

static void nest(char *out, int depth)
{
    for (int i = 0; i < depth; i++) memcpy(out + 5 * i, "{\"a\":", 5);
    out[5 * depth] = '1';
    memset(out + 5 * depth + 1, '}', (size_t)depth);
    out[6 * depth + 1] = 0;
}

static void test_depth(void **state)
{
    (void)state;
    static char text[6 * 5000 + 2];
    bal_error err;
    bal_json_doc d;
    nest(text, BAL_JSON_MAX_DEPTH);
    ASSERT_OK(PARSE(&d, text));
    bal_json v = bal_json_root(&d); /* and the path of a deep key stays inside its buffer */
    for (int i = 0; i < BAL_JSON_MAX_DEPTH - 1; i++) v = bal_json_get(&v, "a");
    int x;
    ASSERT_FAILS(BAL_E_FORMAT, "a.a.a", bal_json_int(&v, "a", 5, 6, &x, &err));
    assert_true(strlen(bal_json_get(&v, "a").path) < BAL_JSON_PATH);
    bal_json_close(&d);
    nest(text, BAL_JSON_MAX_DEPTH + 1);
    refused("nested deeper than 64 levels", text);
    nest(text, 5000);
    refused("conf.json", text);
}

/* Python's int(1e30), as it stands in tokenizer configs: numbers become doubles, whole ones still
 * read as integers, and what does not fit says so. */
static void test_huge_integers(void **state)
{
    (void)state;
    bal_error err;
    bal_json_doc d;
    ASSERT_OK(PARSE(&d, "{\"model_max_length\":1000000000000000019884624838656,\"i\":7}"));
    const bal_json r = bal_json_root(&d);
    int i;
    double f;
    ASSERT_OK(bal_json_int(&r, "i", 0, 9, &i, &err));
    assert_int_equal(i, 7);
    ASSERT_OK(bal_json_f64(&r, "model_max_length", 0, 1e31, &f, &err));
    assert_true(f == 1e30);
    int64_t l;
    ASSERT_FAILS(BAL_E_FORMAT, "model_max_length: expected an integer",
                 bal_json_i64(&r, "model_max_length", 0, INT64_MAX, &l, &err));
    bal_json_close(&d);
}

/* A large document that nobody here wrote. */
static void test_wild(void **state)
{
    (void)state;
    const char *path = data_path("json/blns/blns.json");
    SKIP_WITHOUT(path, "json/blns/blns.json");
    bal_error err;
    bal_json_doc d;
    ASSERT_OK(bal_json_load(&d, path, BAL_JSON_MAX_BYTES, &err));
    bal_json_close(&d);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_integers, open_config, close_config),
        cmocka_unit_test_setup_teardown(test_defaults, open_config, close_config),
        cmocka_unit_test_setup_teardown(test_other_scalars, open_config, close_config),
        cmocka_unit_test_setup_teardown(test_nesting, open_config, close_config),
        cmocka_unit_test_setup_teardown(test_arrays, open_config, close_config),
        cmocka_unit_test_setup_teardown(test_choices, open_config, close_config),
        cmocka_unit_test(test_damaged),
        cmocka_unit_test(test_depth),
        cmocka_unit_test(test_huge_integers),
        cmocka_unit_test(test_wild),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
