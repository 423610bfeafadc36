/* SPDX-License-Identifier: MIT
 * Tokenizing: published vectors for Qwen2, GPT-2 and Llama 2, the golden ids of our own
 * checkpoints, naughty strings there and back, text that looks like special tokens, and how long
 * hostile text takes. */
#include "text_tiny.h"
#include "base/rng.h"
#include "text/nfc.h"

#include <jansson.h>
#include <time.h>

#define SEPARATOR "\n__ggml_vocab_test__\n"

static char *read_data(const char *path, size_t *n)
{
    bal_error err;
    uint8_t *data = NULL;
    ASSERT_OK(bal_read_file(&data, n, path, (size_t)1 << 26, &err));
    return (char *)data;
}

static bal_tokenizer *open_dir(const char *dir)
{
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_OK(bal_tokenizer_open_dir(&t, dir, &err));
    return t;
}

/* One line of ids -> a row; returns the line after it. */
static char *parse_ids(char *line, int32_t *ids, size_t max, size_t *n)
{
    char *end = strchr(line, '\n');
    assert_non_null(end);
    *end = 0;
    *n = 0;
    for (char *p = strtok(line, " "); p; p = strtok(NULL, " ")) {
        assert_true(*n < max);
        ids[(*n)++] = (int32_t)strtol(p, NULL, 10);
    }
    return end + 1;
}

static int check_vectors(const bal_tokenizer *t, char *texts, char *lines)
{
    int count = 0;
    for (char *next; (next = strstr(texts, SEPARATOR)); texts = next + strlen(SEPARATOR), count++) {
        int32_t ids[1024];
        size_t n = 0;
        lines = parse_ids(lines, ids, 1024, &n);
        assert_ids(t, texts, (size_t)(next - texts), ids, n);
    }
    return count;
}

static void check_published(const char *dir, const char *inputs, const char *outputs)
{
    SKIP_WITHOUT(dir && inputs && outputs, "tokenizers");
    size_t n = 0;
    char *texts = read_data(inputs, &n), *lines = read_data(outputs, &n);
    bal_tokenizer *t = open_dir(dir);
    assert_int_equal(check_vectors(t, texts, lines), 46);
    bal_tokenizer_close(t);
    free(texts);
    free(lines);
}

static void test_qwen2_vectors(void **state)
{
    (void)state;
    check_published(data_path("tokenizers/qwen2"),
                    data_path("tokenizers/ggml-vocab-qwen2.gguf.inp"),
                    data_path("tokenizers/ggml-vocab-qwen2.gguf.out"));
}

static void test_gpt2_vectors(void **state)
{
    (void)state;
    check_published(data_path("tokenizers/gpt2"), data_path("tokenizers/ggml-vocab-gpt-2.gguf.inp"),
                    data_path("tokenizers/ggml-vocab-gpt-2.gguf.out"));
}

static void test_llama2_vectors(void **state)
{
    (void)state;
    check_published(data_path("tokenizers/llama2"),
                    data_path("tokenizers/ggml-vocab-llama-spm.gguf.inp"),
                    data_path("tokenizers/ggml-vocab-llama-spm.gguf.out"));
}

static void test_llama2_special_tokens(void **state)
{
    (void)state;
    const char *dir = data_path("tokenizers/llama2");
    SKIP_WITHOUT(dir, "tokenizers/llama2");
    bal_tokenizer *t = open_dir(dir);
    assert_int_equal(bal_tokenizer_size(t), 32000);
    assert_int_equal(bal_tokenizer_bos(t), 1);
    assert_int_equal(bal_tokenizer_token_id(t, "</s>"), 2);
    assert_int_equal(bal_tokenizer_token_id(t, "A"), -1); /* <0x41> stands for it, unseen */
    assert_true(bal_tokenizer_is_special(t, 0));
    assert_false(bal_tokenizer_is_special(t, 3)); /* <0x00> */
    assert_true(bal_tokenizer_drops_space(t));
    bal_tokenizer_close(t);
}

static void test_qwen2_special_tokens(void **state)
{
    (void)state;
    const char *dir = data_path("tokenizers/qwen2");
    SKIP_WITHOUT(dir, "tokenizers/qwen2");
    bal_tokenizer *t = open_dir(dir);
    assert_int_equal(bal_tokenizer_size(t), 151646);
    assert_int_equal(bal_tokenizer_token_id(t, "<|endoftext|>"), 151643);
    assert_int_equal(bal_tokenizer_token_id(t, "<|im_start|>"), 151644);
    assert_int_equal(bal_tokenizer_token_id(t, "<|im_end|>"), 151645);
    assert_int_equal(bal_tokenizer_token_id(t, "Hello"), -1); /* a token, but not an added one */
    assert_true(bal_tokenizer_is_special(t, 151645));
    assert_false(bal_tokenizer_is_special(t, 151642));
    bal_tokenizer_close(t);
}

static void test_gpt2_end_of_text_is_special(void **state)
{
    (void)state;
    const char *dir = data_path("tokenizers/gpt2");
    SKIP_WITHOUT(dir, "tokenizers/gpt2");
    bal_tokenizer *t = open_dir(dir);
    assert_int_equal(bal_tokenizer_size(t), 50257);
    assert_int_equal(bal_tokenizer_token_id(t, "<|endoftext|>"), 50256);
    bal_tokenizer_close(t);
}

/* ---- There and back ------------------------------------------------------------------------ */

static char *decode_all(const bal_tokenizer *t, const int32_t *ids, size_t n_ids, size_t *n)
{
    *n = 0;
    for (size_t i = 0; i < n_ids; i++) *n += bal_tokenizer_decode(t, ids[i], true).n;
    char *text = malloc(*n + 1), *p = text;
    assert_non_null(text);
    for (size_t i = 0; i < n_ids; i++) {
        const bal_token_view v = bal_tokenizer_decode(t, ids[i], true);
        memcpy(p, v.bytes, v.n);
        p += v.n;
    }
    return text;
}

/* No token is special, and the bytes of all tokens are the text (or its NFC). */
static void check_round_trip(const bal_tokenizer *t, const char *text, size_t n, bool nfc)
{
    bal_error err;
    int32_t *ids = NULL;
    char *whole = NULL;
    size_t n_ids = 0, n_back = 0, n_whole = n;
    ASSERT_OK(bal_tokenizer_encode(t, text, n, &ids, &n_ids, &err));
    for (size_t i = 0; i < n_ids; i++)
        if (bal_tokenizer_is_special(t, ids[i]))
            fail_msg("'%.*s': special %d", (int)n, text, ids[i]);
    if (nfc) ASSERT_OK(bal_nfc(&whole, &n_whole, text, n, &err));
    char *back = decode_all(t, ids, n_ids, &n_back);
    if (n_back != n_whole || memcmp(back, whole ? whole : text, n_back) != 0)
        fail_msg("'%.*s' came back as '%.*s'", (int)n, text, (int)n_back, back);
    free(back);
    free(whole);
    free(ids);
}

static void check_naughty(const char *dir, bool nfc)
{
    const char *path = data_path("json/blns/blns.json");
    SKIP_WITHOUT(dir && path, "json/blns and tokenizers");
    json_t *strings = json_load_file(path, 0, NULL);
    assert_true(json_array_size(strings) > 400);
    bal_tokenizer *t = open_dir(dir);
    for (size_t i = 0; i < json_array_size(strings); i++) {
        const json_t *s = json_array_get(strings, i);
        check_round_trip(t, json_string_value(s), json_string_length(s), nfc);
    }
    bal_tokenizer_close(t);
    json_decref(strings);
}

/* With a space in front, and U+2581 for a space there and back. */
static void check_spaced_round_trip(const bal_tokenizer *t, const char *text, size_t n)
{
    bal_error err;
    int32_t *ids = NULL;
    size_t n_ids = 0, n_back = 0, n_spaced = 0;
    char *spaced = malloc(n + 2);
    assert_non_null(spaced);
    if (n) spaced[n_spaced++] = ' ';
    for (size_t i = 0; i < n;) {
        const bool space = n - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        spaced[n_spaced++] = space ? ' ' : text[i];
        i += space ? 3 : 1;
    }
    ASSERT_OK(bal_tokenizer_encode(t, text, n, &ids, &n_ids, &err));
    for (size_t i = 0; i < n_ids; i++) assert_false(bal_tokenizer_is_special(t, ids[i]));
    char *back = decode_all(t, ids, n_ids, &n_back);
    if (n_back != n_spaced || memcmp(back, spaced, n_back) != 0)
        fail_msg("'%.*s' came back as '%.*s'", (int)n, text, (int)n_back, back);
    free(back);
    free(spaced);
    free(ids);
}

static void test_naughty_strings_of_llama2(void **state)
{
    (void)state;
    const char *dir = data_path("tokenizers/llama2"), *path = data_path("json/blns/blns.json");
    SKIP_WITHOUT(dir && path, "json/blns and tokenizers");
    json_t *strings = json_load_file(path, 0, NULL);
    bal_tokenizer *t = open_dir(dir);
    assert_true(json_array_size(strings) > 400);
    for (size_t i = 0; i < json_array_size(strings); i++) {
        const json_t *s = json_array_get(strings, i);
        check_spaced_round_trip(t, json_string_value(s), json_string_length(s));
    }
    bal_tokenizer_close(t);
    json_decref(strings);
}

static void test_naughty_strings(void **state)
{
    (void)state;
    check_naughty(data_path("tokenizers/qwen2"), true);
    check_naughty(data_path("tokenizers/gpt2"), false);
}

static void test_invalid_utf8_is_replaced(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_OK(tiny_open(&t, tiny_default, &err));
    const int32_t expected[] = {256, 0xef, 0xbf, 0xbd, 'a', 0xef, 0xbf, 0xbd};
    assert_ids(t,
               "ab\xf0\x9f"
               "a\xff",
               6, expected, 8);
    assert_ids(t, "", 0, NULL, 0);
    const int32_t nul[] = {'x', 0, 'y'};
    assert_ids(t, "x\0y", 3, nul, 3);
    const int32_t composed[] = {0xc3, 0xa9};
    assert_ids(t, "e\xcc\x81", 3, composed, 2);
    bal_tokenizer_close(t);
    tiny_json j = tiny_default;
    j.normalizer = "null";
    ASSERT_OK(tiny_open(&t, j, &err));
    const int32_t surrogate[] = {256, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd, 0xef, 0xbf, 0xbd};
    assert_ids(t, "ab\xed\xa0\x80", 5, surrogate, 10);
    bal_tokenizer_close(t);
}

/* ---- Special tokens in text ------------------------------------------------------------------ */

static void test_text_cannot_make_special_tokens(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_OK(tiny_open(&t, tiny_default, &err));
    const int32_t expected[] = {'<', '|', 'i', 'm', '_', 'e', 'n', 'd', '|', '>'};
    assert_ids(t, "<|im_end|>", 10, expected, 10);
    check_round_trip(t, "a<|im_start|>b<|im_end|><image>", 31, true);
    bal_tokenizer_close(t);
    const char *dir = data_path("tokenizers/gpt2");
    SKIP_WITHOUT(dir, "tokenizers/gpt2");
    t = open_dir(dir);
    check_round_trip(t, "x<|endoftext|>", 14, false);
    bal_tokenizer_close(t);
}

static void test_decode(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_OK(tiny_open(&t, tiny_default, &err));
    assert_int_equal(bal_tokenizer_size(t), 261);
    assert_int_equal(bal_tokenizer_decode(t, 258, false).n, 0);
    assert_memory_equal(bal_tokenizer_decode(t, 258, true).bytes, "<|im_start|>", 12);
    assert_int_equal(bal_tokenizer_decode(t, 260, false).n, 7); /* added, not special */
    assert_memory_equal(bal_tokenizer_decode(t, 257, false).bytes, "abc", 3);
    assert_int_equal(bal_tokenizer_decode(t, 257, false).n, 3);
    assert_int_equal(bal_tokenizer_decode(t, 0x80, false).n, 1);
    assert_int_equal(bal_tokenizer_decode(t, 261, true).n, 0); /* a padding row of the model */
    assert_int_equal(bal_tokenizer_decode(t, -1, true).n, 0);
    bal_tokenizer_close(t);
}

/* Every other one of eleven added tokens is special; every search path is walked. */
static void test_many_added_tokens(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    char added[1024];
    size_t n = 0;
    for (int i = 0; i < 11; i++)
        n += (size_t)snprintf(added + n, sizeof added - n,
                              "%s{\"id\":%d,\"content\":\"<%d>\",\"special\":%s}", i ? "," : "[",
                              258 + i, i, i % 2 ? "true" : "false");
    snprintf(added + n, sizeof added - n, "]");
    tiny_json j = tiny_default;
    j.added = added;
    ASSERT_OK(tiny_open(&t, j, &err));
    for (int i = 0; i < 11; i++) assert_int_equal(bal_tokenizer_is_special(t, 258 + i), i % 2);
    assert_int_equal(bal_tokenizer_token_id(t, "<10>"), 268);
    assert_false(bal_tokenizer_is_special(t, 257));
    assert_false(bal_tokenizer_is_special(t, -1));
    assert_false(bal_tokenizer_is_special(t, 269));
    bal_tokenizer_close(t);
}

/* ---- Golden ids of our own checkpoints --------------------------------------------------------
 */

static void check_golden_row(const bal_tokenizer *t, const json_t *row)
{
    const json_t *text = json_object_get(row, "text"), *ids = json_object_get(row, "ids_plain");
    const json_t *decoded = json_object_get(row, "decoded");
    if (!text) return; /* a conversation: test_text_chat */
    if (!ids) ids = json_object_get(row, "ids");
    int32_t expected[2048];
    const size_t n = json_array_size(ids);
    assert_true(n <= sizeof expected / sizeof *expected);
    for (size_t i = 0; i < n; i++)
        expected[i] = (int32_t)json_integer_value(json_array_get(ids, i));
    assert_ids(t, json_string_value(text), json_string_length(text), expected, n);
    size_t n_back = 0;
    char *back = decode_all(t, expected, n, &n_back);
    assert_int_equal(n_back, json_string_length(decoded));
    assert_memory_equal(back, json_string_value(decoded), n_back);
    free(back);
}

static void check_golden(const char *file, const char *dir)
{
    json_t *rows = json_load_file(source_path(file), JSON_ALLOW_NUL, NULL);
    assert_true(json_array_size(rows) >= 40);
    bal_tokenizer *t = open_dir(source_path(dir));
    for (size_t i = 0; i < json_array_size(rows); i++) check_golden_row(t, json_array_get(rows, i));
    bal_tokenizer_close(t);
    json_decref(rows);
}

static void test_golden_tiny(void **state)
{
    (void)state;
    check_golden("tests/golden/tokenizer_tiny.json", "tests/golden/tiled/model");
}

static void test_golden_demo(void **state)
{
    (void)state;
    check_golden("tests/golden/tokenizer_demo.json", "demo/model");
}

/* One small tokenizer of each published build (tests/golden/make/make_vocabularies.py). */
static void test_golden_builds(void **state)
{
    (void)state;
    static const char *const builds[] = {"spm",   "internlm2", "legacy", "first",
                                         "never", "llama3",    "smollm2"};
    for (size_t i = 0; i < sizeof builds / sizeof *builds; i++) {
        char file[128], dir[128];
        snprintf(dir, sizeof dir, "tests/golden/text/%s", builds[i]);
        snprintf(file, sizeof file, "tests/golden/text/%s/ids.json", builds[i]);
        check_golden(file, dir);
    }
}

/* What stands in front of a text depends on the build and on where the text stands. */
static void check_parts(const char *build, bool drops, const char *start, const char *later)
{
    bal_error err;
    char dir[128];
    snprintf(dir, sizeof dir, "tests/golden/text/%s", build);
    bal_tokenizer *t = open_dir(source_path(dir));
    assert_int_equal(bal_tokenizer_drops_space(t), drops);
    for (int at_start = 0; at_start < 2; at_start++) {
        bal_ids ids = {0};
        size_t n = 0;
        ASSERT_OK(bal_tokenizer_append_part(
            t, " hi", 3, at_start ? BAL_TEXT_START : BAL_TEXT_AFTER_TOKEN, &ids, &err));
        char *text = decode_all(t, ids.v, ids.n, &n);
        const char *expected = at_start ? start : later;
        if (n != strlen(expected) || memcmp(text, expected, n) != 0)
            fail_msg("%s, %d: '%.*s', expected '%s'", build, at_start, (int)n, text, expected);
        free(text);
        free(ids.v);
    }
    bal_tokenizer_close(t);
}

static void test_space_in_front(void **state)
{
    (void)state;
    check_parts("spm", true, "  hi", "  hi");
    check_parts("legacy", true, "  hi", "  hi");
    check_parts("first", true, " hi", " hi");
    check_parts("never", false, " hi", " hi");
    check_parts("internlm2", false, " hi", " hi");
    check_parts("llama3", false, " hi", " hi");
    bal_error err;
    bal_ids ids = {0};
    bal_tokenizer *t = open_dir(source_path("tests/golden/text/first"));
    ASSERT_OK(bal_tokenizer_append(t, "a", 1, &ids, &err));
    ASSERT_OK(bal_tokenizer_append(t, "a", 1, &ids, &err)); /* behind something: no space */
    assert_int_equal(bal_tokenizer_decode(t, ids.v[0], false).n, 2);
    assert_int_equal(bal_tokenizer_decode(t, ids.v[ids.n - 1], false).n, 1);
    free(ids.v);
    bal_tokenizer_close(t);
}

static void test_bos(void **state)
{
    (void)state;
    bal_tokenizer *t = open_dir(source_path("tests/golden/text/llama3"));
    assert_int_equal(bal_tokenizer_bos(t), bal_tokenizer_token_id(t, "<|begin_of_text|>"));
    assert_true(bal_tokenizer_bos(t) > 0);
    bal_tokenizer_close(t);
    t = open_dir(source_path("tests/golden/text/legacy"));
    assert_int_equal(bal_tokenizer_bos(t), 1);
    bal_tokenizer_close(t);
    t = open_dir(source_path("tests/golden/text/smollm2"));
    assert_int_equal(bal_tokenizer_bos(t), -1);
    bal_tokenizer_close(t);
}

/* The config renames pieces of the model, and adds more behind them. */
static void test_renamed_pieces(void **state)
{
    (void)state;
    bal_tokenizer *t = open_dir(source_path("tests/golden/text/internlm2"));
    const int32_t start = bal_tokenizer_token_id(t, "<|im_start|>");
    assert_true(start > 256);
    assert_true(bal_tokenizer_is_special(t, start));
    assert_int_equal(bal_tokenizer_token_id(t, "<|im_end|>"), start + 1);
    assert_int_equal(bal_tokenizer_token_id(t, "[UNUSED_TOKEN_141]"), -1);
    assert_int_equal(bal_tokenizer_token_id(t, "[UNUSED_TOKEN_143]"), start + 2);
    assert_false(bal_tokenizer_is_special(t, start + 2));
    assert_int_equal(bal_tokenizer_token_id(t, "<IMG_CONTEXT>"), start + 6);
    assert_int_equal(bal_tokenizer_size(t), start + 7);
    bal_tokenizer_close(t);
}

/* ---- Time ------------------------------------------------------------------------------------ */

#if defined(__SANITIZE_ADDRESS__)
#define SECONDS 10.0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define SECONDS 10.0
#endif
#endif
#ifndef SECONDS
#define SECONDS 1.0
#endif

static void check_time(const bal_tokenizer *t, const char *text, size_t n, const char *what)
{
    bal_error err;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    const clock_t start = clock();
    ASSERT_OK(bal_tokenizer_encode(t, text, n, &ids, &n_ids, &err));
    const double seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
    if (seconds > SECONDS) fail_msg("%s: %.2f s for %zu bytes", what, seconds, n);
    free(ids);
}

static void check_hostile_texts(const bal_tokenizer *t)
{
    const size_t n = 1000000;
    static const char *const units[] = {
        "a",  " ",          "\n",          " \n", "1", "'", ".", "\t\r", "\xcc\x81\xcc\xa3",
        "ab", "<|im_end|>", "\xe4\xb8\xad"};
    char *text = malloc(n);
    assert_non_null(text);
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        const size_t len = strlen(units[u]);
        for (size_t i = 0; i < n; i++) text[i] = units[u][i % len];
        check_time(t, text, n, units[u]);
    }
    bal_rng rng;
    bal_rng_seed(&rng, 1);
    for (size_t i = 0; i < n; i++) text[i] = (char)bal_rng_u64(&rng);
    check_time(t, text, n, "random bytes");
    for (size_t i = 0; i < n; i++) text[i] = (char)('a' + bal_rng_below(&rng, 26));
    check_time(t, text, n, "random letters");
    free(text);
}

static void test_no_text_is_slow(void **state)
{
    (void)state;
    const char *qwen2 = data_path("tokenizers/qwen2"), *gpt2 = data_path("tokenizers/gpt2");
    const char *llama2 = data_path("tokenizers/llama2");
    SKIP_WITHOUT(qwen2 && gpt2 && llama2, "tokenizers");
    bal_tokenizer *t = open_dir(qwen2);
    check_hostile_texts(t);
    bal_tokenizer_close(t);
    t = open_dir(gpt2);
    check_hostile_texts(t);
    bal_tokenizer_close(t);
    t = open_dir(llama2);
    check_hostile_texts(t);
    bal_tokenizer_close(t);
    t = open_dir(source_path("tests/golden/text/smollm2"));
    check_hostile_texts(t);
    bal_tokenizer_close(t);
}

static void test_text_too_long(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    ASSERT_OK(tiny_open(&t, tiny_default, &err));
    ASSERT_FAILS(BAL_E_ARG, "67108865 bytes",
                 bal_tokenizer_encode(t, "", BAL_TOKENIZER_TEXT_MAX + 1, &ids, &n_ids, &err));
    assert_null(ids);
    bal_tokenizer_close(t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_qwen2_vectors),
        cmocka_unit_test(test_gpt2_vectors),
        cmocka_unit_test(test_llama2_vectors),
        cmocka_unit_test(test_llama2_special_tokens),
        cmocka_unit_test(test_qwen2_special_tokens),
        cmocka_unit_test(test_gpt2_end_of_text_is_special),
        cmocka_unit_test(test_naughty_strings),
        cmocka_unit_test(test_naughty_strings_of_llama2),
        cmocka_unit_test(test_invalid_utf8_is_replaced),
        cmocka_unit_test(test_text_cannot_make_special_tokens),
        cmocka_unit_test(test_decode),
        cmocka_unit_test(test_many_added_tokens),
        cmocka_unit_test(test_golden_tiny),
        cmocka_unit_test(test_golden_demo),
        cmocka_unit_test(test_golden_builds),
        cmocka_unit_test(test_space_in_front),
        cmocka_unit_test(test_bos),
        cmocka_unit_test(test_renamed_pieces),
        cmocka_unit_test(test_no_text_is_slow),
        cmocka_unit_test(test_text_too_long),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
