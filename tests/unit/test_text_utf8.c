/* SPDX-License-Identifier: MIT
 * UTF-8: repair against what Python's bytes.decode(errors="replace") gives, streams cut at every
 * byte. */
#include "check.h"
#include "base/rng.h"
#include "text/utf8.h"

#define R "\xef\xbf\xbd" /* U+FFFD */

static const struct {
    const char *bytes, *text;
} repairs[] = {
    {"", ""},
    {"plain", "plain"},
    {"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80"},
    {"a\x80z", "a" R "z"},
    {"\xc0\xaf", R R},             /* overlong slash */
    {"\xe0\x80\x80", R R R},       /* overlong in three */
    {"\xed\xa0\x80", R R R},       /* surrogate */
    {"\xf4\x90\x80\x80", R R R R}, /* beyond U+10FFFF */
    {"\xf0\x9f\x98", R},           /* cut at the end: one maximal subpart */
    {"\xf0\x9f\x98z", R "z"},      /* cut before a letter */
    {"\xe2\x82\xf0\x9f\x98\x80", R "\xf0\x9f\x98\x80"},
    {"\xf1\x80\x80\xe1\x80\xc2\x62\x80\x63\x80\xbf\x64", R R R "b" R "c" R R "d"},
    {"\xff\xfe", R R},
    {"\xf4\x8f\xbf\xbf\xef\xbf\xbf", "\xf4\x8f\xbf\xbf\xef\xbf\xbf"}, /* noncharacters stay */
};

static void test_repair(void **state)
{
    (void)state;
    bal_error err;
    for (size_t i = 0; i < sizeof repairs / sizeof *repairs; i++) {
        char *out = NULL;
        size_t n = 0;
        const size_t n_in = strlen(repairs[i].bytes);
        ASSERT_OK(bal_utf8_repair(&out, &n, repairs[i].bytes, n_in, &err));
        if (n != strlen(repairs[i].text) || memcmp(out, repairs[i].text, n) != 0)
            fail_msg("repair %zu gave '%.*s'", i, (int)n, out);
        assert_int_equal(bal_utf8_valid(repairs[i].bytes, n_in),
                         strcmp(repairs[i].bytes, repairs[i].text) == 0);
        assert_true(bal_utf8_valid(out, n));
        free(out);
    }
}

static void test_put_and_next_agree(void **state)
{
    (void)state;
    char s[4];
    for (uint32_t cp = 0; cp < 0x110000; cp++) {
        if (cp >= 0xd800 && cp < 0xe000) continue;
        const size_t n = bal_utf8_put(cp, s);
        const bal_utf8_char c = bal_utf8_next(s, n);
        if (c.cp != cp || c.n_bytes != n || c.kind != BAL_UTF8_GOOD)
            fail_msg("U+%04X came back as U+%04X", cp, c.cp);
        for (size_t cut = 1; cut < n; cut++)
            if (bal_utf8_next(s, cut).kind != BAL_UTF8_CUT) fail_msg("U+%04X cut at %zu", cp, cut);
    }
}

/* Pushes bytes in two parts, cut at `cut`, and compares with the repaired whole. */
static void check_split(const char *bytes, size_t n, size_t cut, const char *expected,
                        size_t n_expected)
{
    char out[512];
    assert_true(BAL_UTF8_STREAM_ROOM(n) + 32 < sizeof out);
    bal_utf8_stream s = {0};
    size_t n_out = bal_utf8_stream_push(&s, bytes, cut, out);
    assert_true(bal_utf8_valid(out, n_out));
    n_out += bal_utf8_stream_push(&s, bytes + cut, n - cut, out + n_out);
    assert_true(bal_utf8_valid(out, n_out));
    n_out += bal_utf8_stream_flush(&s, out + n_out);
    if (n_out != n_expected || memcmp(out, expected, n_out) != 0)
        fail_msg("cut at %zu: '%.*s', expected '%.*s'", cut, (int)n_out, out, (int)n_expected,
                 expected);
    assert_int_equal(s.n_held, 0);
}

static void check_all_splits(const char *bytes, size_t n)
{
    bal_error err;
    char *whole = NULL;
    size_t n_whole = 0;
    ASSERT_OK(bal_utf8_repair(&whole, &n_whole, bytes, n, &err));
    for (size_t cut = 0; cut <= n; cut++) check_split(bytes, n, cut, whole, n_whole);
    free(whole);
}

static void test_stream_splits(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof repairs / sizeof *repairs; i++)
        check_all_splits(repairs[i].bytes, strlen(repairs[i].bytes));
    bal_rng rng;
    bal_rng_seed(&rng, 3);
    static const char pool[] = "a\x80\xbf\xc2\xc3\xa9\xe2\x82\xac\xed\xa0\xf0\x9f\x98\xf4\x8f\xff";
    for (int round = 0; round < 20000; round++) {
        char bytes[24];
        const size_t n = bal_rng_below(&rng, sizeof bytes + 1);
        for (size_t i = 0; i < n; i++) bytes[i] = pool[bal_rng_below(&rng, sizeof pool - 1)];
        check_all_splits(bytes, n);
    }
}

/* A token that ends inside a character shows nothing of it, and nothing is held back longer. */
static void test_stream_waits_only_for_whole_characters(void **state)
{
    (void)state;
    char out[64];
    bal_utf8_stream s = {0};
    assert_int_equal(bal_utf8_stream_push(&s, "x\xf0\x9f", 3, out), 1);
    assert_int_equal(bal_utf8_stream_push(&s, "\x98", 1, out), 0);
    assert_int_equal(bal_utf8_stream_push(&s, "\x80", 1, out), 4);
    assert_int_equal(bal_utf8_stream_push(&s, "y", 1, out), 1);
    assert_int_equal(bal_utf8_stream_push(&s, "\xe2\x82", 2, out), 0);
    assert_int_equal(bal_utf8_stream_flush(&s, out), 3);
    assert_memory_equal(out, R, 3);
    assert_int_equal(bal_utf8_stream_flush(&s, out), 0);
}

static void test_fit(void **state)
{
    (void)state;
    assert_int_equal(bal_utf8_fit("abc", 3, 8), 3);
    assert_int_equal(bal_utf8_fit("ab\xe2\x82\xac", 5, 4), 2);
    assert_int_equal(bal_utf8_fit("ab\xe2\x82\xac", 5, 5), 5);
    assert_int_equal(bal_utf8_fit("\xe2\x82\xac", 3, 2), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_repair),
        cmocka_unit_test(test_put_and_next_agree),
        cmocka_unit_test(test_stream_splits),
        cmocka_unit_test(test_stream_waits_only_for_whole_characters),
        cmocka_unit_test(test_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
