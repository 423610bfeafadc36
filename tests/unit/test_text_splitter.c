/* SPDX-License-Identifier: MIT
 * Splitting: pieces of the two known expressions, white space as Oniguruma has it, and every
 * construct that the translation must refuse. */
#include "check.h"
#include "text/splitter.h"

#include <time.h>

/* Writes the pieces with '|' between them. */
typedef struct joined {
    char text[1024];
    size_t n;
} joined;

static bal_status join_piece(void *ctx, const char *piece, size_t n, bal_error *err)
{
    (void)err;
    joined *j = ctx;
    assert_true(n > 0 && j->n + n + 1 < sizeof j->text);
    if (j->n) j->text[j->n++] = '|';
    memcpy(j->text + j->n, piece, n);
    j->n += n;
    return BAL_OK;
}

static void check_pieces(const char *pattern, const char *text, const char *expected)
{
    bal_error err;
    bal_splitter *s = NULL;
    joined j = {.n = 0};
    ASSERT_OK(bal_splitter_open(&s, pattern, strlen(pattern), &err));
    ASSERT_OK(bal_splitter_each(s, text, strlen(text), join_piece, &j, &err));
    j.text[j.n] = 0;
    assert_string_equal(j.text, expected);
    bal_splitter_close(s);
}

static void test_known_patterns(void **state)
{
    (void)state;
    const char *text = "Hello  world's 123 don'T\n\n x ...\n!";
    check_pieces(BAL_SPLIT_QWEN2, text, "Hello| | world|'s| |1|2|3| don|'T|\n\n| x| ...\n|!");
    check_pieces(BAL_SPLIT_GPT2, text, "Hello| | world|'s| 123| don|'|T|\n\n| x| ...|\n|!");
    check_pieces(BAL_SPLIT_QWEN2, "a \t\r\n  b   ", "a| \t\r\n| | b|   ");
    check_pieces(BAL_SPLIT_QWEN2, "\xc3\xa4\xe4\xb8\xad 5\xc2\xbd",
                 "\xc3\xa4\xe4\xb8\xad| |5|\xc2\xbd");
    check_pieces(BAL_SPLIT_QWEN2, "'\xc5\xbf it'\xc5\xbf", "'\xc5\xbf| it|'\xc5\xbf"); /* long s */
    check_pieces(BAL_SPLIT_QWEN2, "", "");
}

static void test_gaps_are_pieces(void **state)
{
    (void)state;
    check_pieces("b+", "aabbcbd", "aa|bb|c|b|d");
    check_pieces("x", "none here", "none here");
    check_pieces("^b$", "a\nb\nc", "a\n|b|\nc"); /* lines, as in Oniguruma */
}

static void test_white_space(void **state)
{
    (void)state;
    check_pieces("\\s",
                 "a\xc2\x85"
                 "b\xe3\x80\x80"
                 "c",
                 "a|\xc2\x85|b|\xe3\x80\x80|c");
    check_pieces("\\s",
                 "a\xe1\xa0\x8e"
                 "b",
                 "a\xe1\xa0\x8e"
                 "b"); /* U+180E is none any more */
    check_pieces("[\\sx]+",
                 "a x\xe1\xa0\x8e"
                 "b",
                 "a| x|\xe1\xa0\x8e"
                 "b");
    check_pieces("\\S+", "a\xe1\xa0\x8e b", "a\xe1\xa0\x8e| |b");
    check_pieces("[^\\s]+", "a\xe1\xa0\x8e b", "a\xe1\xa0\x8e| |b");
    check_pieces("\\s",
                 "a\x1c"
                 "b",
                 "a\x1c"
                 "b");
}

static void test_brackets(void **state)
{
    (void)state;
    check_pieces("[]a]+", "x]a]y", "x|]a]|y");
    check_pieces("[]\\s]+", "x] y", "x|] |y");
    check_pieces("[^]a]+", "x]a]y", "x|]a]|y");
    check_pieces("[\\]\\[]+", "x[]y", "x|[]|y");
    check_pieces("\\d+",
                 "a\xd9\xa3"
                 "1b",
                 "a|\xd9\xa3"
                 "1|b"); /* digits of any script */
    check_pieces("\\p{Lu}\\p{Ll}+|\\pN{1,3}", "AbcD1234", "Abc|D|123|4");
}

static void test_refused(void **state)
{
    (void)state;
    static const char *const patterns[] = {
        "\\w+",        "\\b",   "\\h",    "\\v",     "\\Ka",      "a\\K",       "\\R",
        "\\X",         "\\N",   "\\G",    "(a)\\1",  "\\Qa\\E",   "[a&&b]",     "[a[b]]",
        "[[:alpha:]]", "[\\S]", "[\\w]",  "(?i)a",   "(?m:a)",    "(?<name>a)", "(?'n'a)",
        "(?R)",        "(?1)",  "(?#c)a", "(*UTF)a", "(*ACCEPT)", "(?C)",       "a{,3}b",
        "a{2}+",       "a\\",   "(?|a)",
    };
    bal_error err;
    bal_splitter *s = NULL;
    for (size_t i = 0; i < sizeof patterns / sizeof *patterns; i++) {
        const bal_status st = bal_splitter_open(&s, patterns[i], strlen(patterns[i]), &err);
        if (st != BAL_E_UNSUP || s)
            fail_msg("'%s': status %d, expected BAL_E_UNSUP", patterns[i], (int)st);
        if (!strstr(err.text, "at byte")) fail_msg("'%s': %s", patterns[i], err.text);
    }
    ASSERT_FAILS(BAL_E_UNSUP, "empty string", bal_splitter_open(&s, "a*", 2, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "empty string", bal_splitter_open(&s, "a|(?=b)", 7, &err));
}

static void test_broken(void **state)
{
    (void)state;
    bal_error err;
    bal_splitter *s = NULL;
    ASSERT_FAILS(BAL_E_FORMAT, "missing", bal_splitter_open(&s, "(a", 2, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "missing", bal_splitter_open(&s, "[a", 2, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "property", bal_splitter_open(&s, "\\p{Nope}", 8, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "never closed", bal_splitter_open(&s, "\\p{L", 4, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "0 bytes", bal_splitter_open(&s, "", 0, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "not UTF-8", bal_splitter_open(&s, "a\xff", 2, &err));
    ASSERT_FAILS(BAL_E_FORMAT, "not UTF-8", bal_splitter_open(&s, "a\0b", 3, &err));
    char big[BAL_SPLIT_PATTERN_MAX + 1];
    memset(big, 'a', sizeof big);
    ASSERT_FAILS(BAL_E_FORMAT, "4097 bytes", bal_splitter_open(&s, big, sizeof big, &err));
    memset(big, '(', sizeof big - 1);
    ASSERT_FAILS(BAL_E_FORMAT, "nested", bal_splitter_open(&s, big, sizeof big - 1, &err));
}

static void test_endless_backtracking_is_an_error(void **state)
{
    (void)state;
    bal_error err;
    bal_splitter *s = NULL;
    joined j = {.n = 0};
    const char *pattern = "(?:a+)+(?:a+)+[bc]";
    ASSERT_OK(bal_splitter_open(&s, pattern, strlen(pattern), &err));
    char text[400];
    memset(text, 'a', sizeof text);
    const clock_t start = clock();
    ASSERT_FAILS(BAL_E_FORMAT, "gave up",
                 bal_splitter_each(s, text, sizeof text, join_piece, &j, &err));
    assert_true((double)(clock() - start) / CLOCKS_PER_SEC < 2.0);
    bal_splitter_close(s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_patterns),
        cmocka_unit_test(test_gaps_are_pieces),
        cmocka_unit_test(test_white_space),
        cmocka_unit_test(test_brackets),
        cmocka_unit_test(test_refused),
        cmocka_unit_test(test_broken),
        cmocka_unit_test(test_endless_backtracking_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
