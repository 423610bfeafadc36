/* SPDX-License-Identifier: MIT
 * Calibration files: both forms, what a record becomes, every refusal with its sentence, and the
 * choice of samples. */
#include "check.h"

#include "quant/calib.h"

#define Q(text) "{\"from\": \"human\", \"value\": \"" text "\"}"
#define A(text) "{\"from\": \"gpt\", \"value\": \"" text "\"}"

static bal_status parse(bal_calib *c, const char *text, bal_error *err)
{
    return bal_calib_parse(c, text, strlen(text), "some/data.jsonl", err);
}

static void test_golden_file(void **state)
{
    (void)state;
    bal_calib c;
    bal_error err;
    char path[1200];
    ASSERT_OK(bal_calib_open(&c, source_path("tests/golden/calib/calib.jsonl"), &err));
    assert_int_equal(c.n, 3);
    const bal_calib_record *r = &c.records[2];
    assert_int_equal(r->number, 3);
    assert_string_equal(r->id, "calib2");
    assert_int_equal(r->n_turns, 4);
    assert_int_equal(r->n_images, 1);
    assert_int_equal(r->turns[0].n_images, 1);
    assert_string_equal(r->turns[0].text, "Which colour is the small triangle?");
    assert_int_equal(r->turns[3].role, BAL_CALIB_ASSISTANT);
    ASSERT_OK(bal_calib_image_path(&c, r, 0, path, sizeof path, &err));
    assert_true(bal_path_exists(path));
    bal_calib_close(&c);
    bal_calib_close(&c);
}

/* The same records as an array, as lines, with a byte order mark, with blank lines. */
static void test_forms(void **state)
{
    (void)state;
    static const char *const forms[] = {
        "[{\"conversations\": [" Q("a") "," A("b") "]}, {\"id\": 7, \"image\": [\"x\", \"/y\"], "
                                                   "\"conversations\": [" Q(
                                                       "<image>\\n<image>\\nq") "," A("b") "]}]",
        "{\"conversations\": [" Q("a") "," A("b") "]}\n\n{\"id\": 7, \"image\": [\"x\", \"/y\"], "
                                                  "\"conversations\": [" Q(
                                                      "<image>\\n<image>\\nq") "," A("b") "]}\r\n",
        "\xef\xbb\xbf\n [{\"conversations\": [" Q("a") "," A(
            "b") "]},{\"id\": 7,"
                 "\"image\": [\"x\", \"/y\"], \"conversations\": [" Q("q\\n<image><image>") "," A(
                     "b") "]}]",
    };
    for (size_t i = 0; i < sizeof forms / sizeof forms[0]; i++) {
        bal_calib c;
        bal_error err;
        char path[64];
        ASSERT_OK(parse(&c, forms[i], &err));
        assert_int_equal(c.n, 2);
        assert_null(c.records[0].id);
        assert_int_equal(c.records[0].n_images, 0);
        assert_string_equal(c.records[1].id, "7");
        assert_int_equal(c.records[1].turns[0].n_images, 2);
        assert_string_equal(c.records[1].turns[0].text, "q");
        ASSERT_OK(bal_calib_image_path(&c, &c.records[1], 0, path, sizeof path, &err));
        assert_string_equal(path, "some/x");
        ASSERT_OK(bal_calib_image_path(&c, &c.records[1], 1, path, sizeof path, &err));
        assert_string_equal(path, "/y");
        bal_calib_close(&c);
    }
}

static void test_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *part;
    } bad[] = {
        {"", "no calibration record"},
        {"[]", "no calibration record"},
        {"[1]", "record 1 of some/data.jsonl"},
        {"{\"conversations\": [" Q("a") "," A("b") "]}\n{\"conversations\": 3}", "record 2 of"},
        {"{\"conversations\": [" Q("a") "]", "line 1"},
        {"{\"x\": 1}", "conversations"},
        {"{\"conversations\": []}", "conversations"},
        {"{\"conversations\": [" Q("a") "]}", "no answer"},
        {"{\"conversations\": [" Q("a") "," A("") "]}", "conversations[1]: the answer is empty"},
        {"{\"conversations\": [" Q("<image>") "," A("b") "]}", "no picture"},
        {"{\"image\": \"p\", \"conversations\": [" Q("a") "," A("b") "]}", "1 picture in"},
        {"{\"image\": [\"p\", \"q\"], \"conversations\": [" Q("<image>") "," A("b") "]}",
         "2 pictures in \"image\", but 1"},
        {"{\"image\": \"p\", \"conversations\": [" Q("a") "," A("<image>b") "]}",
         "outside a human"},
        {"{\"image\": \"\", \"conversations\": [" Q("<image>") "," A("b") "]}", "image"},
        {"{\"image\": 5, \"conversations\": [" Q("<image>") "," A("b") "]}", "image"},
        {"{\"image\": [5], \"conversations\": [" Q("<image>") "," A("b") "]}", "image[0]"},
        {"{\"conversations\": [{\"from\": \"bot\", \"value\": \"a\"}]}", "conversations[0].from"},
        {"{\"conversations\": [{\"from\": \"gpt\"}]}", "conversations[0].value"},
        {"{\"id\": [], \"conversations\": [" Q("a") "," A("b") "]}", "id"},
        {"{\"id\": 1, \"id\": 2, \"conversations\": [" Q("a") "," A("b") "]}", "duplicate"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        bal_calib c;
        bal_error err;
        ASSERT_FAILS(BAL_E_FORMAT, bad[i].part, parse(&c, bad[i].text, &err));
        assert_null(c.records);
    }
    bal_calib c;
    bal_error err;
    ASSERT_FAILS(BAL_E_IO, "/nowhere/x.jsonl", bal_calib_open(&c, "/nowhere/x.jsonl", &err));
}

static void test_choice(void **state)
{
    (void)state;
    char text[8192] = "";
    for (int i = 0; i < 50; i++) strcat(text, "{\"conversations\": [" Q("a") "," A("b") "]}\n");
    bal_calib c;
    bal_error err;
    ASSERT_OK(parse(&c, text, &err));
    size_t *all, *a, *b, *other, n;
    ASSERT_OK(bal_calib_choose(&c, 0, 1, &all, &n, &err));
    assert_int_equal(n, 50);
    for (size_t i = 0; i < n; i++) assert_int_equal(all[i], i);
    ASSERT_OK(bal_calib_choose(&c, 10, 1, &a, &n, &err));
    assert_int_equal(n, 10);
    ASSERT_OK(bal_calib_choose(&c, 20, 1, &b, &n, &err));
    ASSERT_OK(bal_calib_choose(&c, 10, 2, &other, &n, &err));
    assert_memory_equal(a, b, 10 * sizeof *a); /* more samples of a seed extend fewer */
    assert_memory_not_equal(a, other, 10 * sizeof *a);
    for (size_t i = 0; i < 10; i++)
        for (size_t j = 0; j < i; j++) assert_true(a[i] != a[j] && a[i] < 50);
    bal_calib_keep(&c, a, 10);
    for (size_t i = 0; i < 50; i++) {
        bool chosen = false;
        for (size_t j = 0; j < 10; j++) chosen = chosen || a[j] == i;
        assert_int_equal(c.records[i].n_turns, chosen ? 2 : 0);
    }
    free(all);
    free(a);
    free(b);
    free(other);
    bal_calib_close(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_golden_file),
        cmocka_unit_test(test_forms),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_choice),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
