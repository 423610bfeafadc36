/* SPDX-License-Identifier: MIT
 * NFC: known pairs, utf8proc's own whole-string function on every code point in company, and
 * texts that are slow where marks are sorted by neighbour swaps. */
#include "check.h"
#include "base/rng.h"
#include "text/nfc.h"
#include "text/utf8.h"

#include <time.h>
#include <utf8proc.h>

static void check_nfc(const char *text, size_t n, const char *expected, size_t n_expected)
{
    bal_error err;
    char *out = NULL;
    size_t n_out = 0;
    ASSERT_OK(bal_nfc(&out, &n_out, text, n, &err));
    if (n_out != n_expected || memcmp(out, expected, n_out) != 0)
        fail_msg("'%.*s' became '%.*s', expected '%.*s'", (int)n, text, (int)n_out, out,
                 (int)n_expected, expected);
    free(out);
}

static void test_known_pairs(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"", ""},
        {"e\xcc\x81", "\xc3\xa9"},                                /* e + acute */
        {"\xe2\x84\xab", "\xc3\x85"},                             /* Angstrom sign */
        {"\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", "\xed\x95\x9c"}, /* Hangul L V T */
        {"q\xcc\x87\xcc\xa3", "q\xcc\xa3\xcc\x87"},               /* marks change places */
        {"\xe0\xa4\x95\xe0\xa4\xbc", "\xe0\xa4\x95\xe0\xa4\xbc"}, /* composition exclusion */
        {"\xe0\xa5\x98", "\xe0\xa4\x95\xe0\xa4\xbc"},
        {"\xef\xac\x81", "\xef\xac\x81"}, /* fi ligature: compatibility only */
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        check_nfc(pairs[i][0], strlen(pairs[i][0]), pairs[i][1], strlen(pairs[i][1]));
}

static void check_like_utf8proc(const char *text, size_t n)
{
    utf8proc_uint8_t *expected = NULL;
    const utf8proc_ssize_t got = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n,
                                              &expected, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    assert_true(got >= 0);
    check_nfc(text, n, (const char *)expected, (size_t)got);
    if (bal_nfc_is_plain(text, n)) assert_true((size_t)got == n && !memcmp(text, expected, n));
    free(expected);
}

static void test_every_code_point(void **state)
{
    (void)state;
    for (uint32_t cp = 1; cp < 0x30000; cp++) { /* nothing beyond decomposes or combines */
        if (cp >= 0xd800 && cp < 0xe000) continue;
        char text[32];
        size_t n = bal_utf8_put('a', text);
        n += bal_utf8_put(0x301, text + n);
        n += bal_utf8_put(cp, text + n);
        n += bal_utf8_put(0x323, text + n);
        n += bal_utf8_put(cp, text + n);
        check_like_utf8proc(text, n);
    }
}

static void test_random_marks(void **state)
{
    (void)state;
    static const uint32_t marks[] = {'a',   'o',   0x300, 0x301,  0x308,  0x31b,  0x323,  0x327,
                                     0x345, 0x5b0, 0x5bc, 0x1100, 0x1161, 0x11a8, 0x3099, 0x1d165};
    bal_rng rng;
    bal_rng_seed(&rng, 11);
    for (int round = 0; round < 3000; round++) {
        char text[400];
        size_t n = 0;
        for (uint64_t left = bal_rng_below(&rng, 90); left > 0; left--)
            n += bal_utf8_put(marks[bal_rng_below(&rng, sizeof marks / sizeof *marks)], text + n);
        check_like_utf8proc(text, n);
    }
}

static void test_long_runs_of_marks_are_linear(void **state)
{
    (void)state;
    bal_error err;
    const size_t n = (size_t)1 << 20;
    char *text = malloc(n + 4), *out = NULL;
    assert_non_null(text);
    /* class 230 everywhere in the first half, 220 in the second: all of it changes places */
    for (size_t i = 0; i < n; i += 2) bal_utf8_put(i < n / 2 ? 0x301 : 0x323, text + i);
    size_t n_out = 0;
    const clock_t start = clock();
    ASSERT_OK(bal_nfc(&out, &n_out, text, n, &err));
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 2.0);
    assert_int_equal(n_out, n);
    assert_memory_equal(out, text + n / 2, n / 2);
    free(out);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_pairs),
        cmocka_unit_test(test_every_code_point),
        cmocka_unit_test(test_random_marks),
        cmocka_unit_test(test_long_runs_of_marks_are_linear),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
