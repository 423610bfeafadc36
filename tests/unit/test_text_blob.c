/* SPDX-License-Identifier: MIT
 * The compiled tokenizer: the same ids as the files it came from, the same bytes every time, and
 * damage at every place either refused or harmless. */
#include "text_tiny.h"
#include "base/rng.h"
#include "text/tokenizer_blob.h"

static void check_same_ids(const bal_tokenizer *a, const bal_tokenizer *b, const char *text,
                           size_t n)
{
    bal_error err;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    ASSERT_OK(bal_tokenizer_encode(a, text, n, &ids, &n_ids, &err));
    assert_ids(b, text, n, ids, n_ids);
    free(ids);
}

static void check_round_trip(const bal_tokenizer *t, const char *text, size_t n_text)
{
    bal_error err;
    size_t n = 0, n_again = 0;
    const uint8_t *blob = bal_tokenizer_blob(t, &n);
    uint8_t *odd = malloc(n + 1); /* any alignment will do */
    assert_non_null(odd);
    memcpy(odd + 1, blob, n);
    bal_tokenizer *back = NULL;
    ASSERT_OK(bal_tokenizer_open_blob(&back, odd + 1, n, &err));
    assert_ptr_equal(bal_tokenizer_blob(back, &n_again), odd + 1);
    assert_int_equal(n_again, n);
    assert_int_equal(bal_tokenizer_size(back), bal_tokenizer_size(t));
    check_same_ids(t, back, text, n_text);
    bal_tokenizer_close(back);
    free(odd);
}

static void test_round_trip(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_OK(tiny_open(&t, tiny_default, &err));
    check_round_trip(t, "abc ab cab\xcc\x81 abcabc", 20);
    bal_tokenizer_close(t);
    const char *qwen2 = data_path("tokenizers/qwen2");
    const char *path = data_path("tokenizers/ggml-vocab-qwen2.gguf.inp");
    SKIP_WITHOUT(qwen2 && path, "tokenizers/qwen2");
    uint8_t *text = NULL;
    size_t n = 0;
    ASSERT_OK(bal_read_file(&text, &n, path, 1 << 20, &err));
    ASSERT_OK(bal_tokenizer_open_dir(&t, qwen2, &err));
    check_round_trip(t, (char *)text, n);
    bal_tokenizer_close(t);
    free(text);
}

static void test_same_bytes_every_time(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *a = NULL, *b = NULL;
    ASSERT_OK(tiny_open(&a, tiny_default, &err));
    ASSERT_OK(tiny_open(&b, tiny_default, &err));
    size_t n_a = 0, n_b = 0;
    const uint8_t *blob_a = bal_tokenizer_blob(a, &n_a), *blob_b = bal_tokenizer_blob(b, &n_b);
    assert_int_equal(n_a, n_b);
    assert_memory_equal(blob_a, blob_b, n_a);
    bal_tokenizer_close(a);
    bal_tokenizer_close(b);
}

/* A writable copy of the tiny blob; free it. */
static uint8_t *tiny_blob(size_t *n)
{
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_OK(tiny_open(&t, tiny_default, &err));
    const uint8_t *blob = bal_tokenizer_blob(t, n);
    uint8_t *copy = malloc(*n);
    assert_non_null(copy);
    memcpy(copy, blob, *n);
    bal_tokenizer_close(t);
    return copy;
}

static void test_every_other_length_is_refused(void **state)
{
    (void)state;
    bal_error err;
    size_t n = 0;
    uint8_t *blob = tiny_blob(&n);
    bal_tokenizer *t = NULL;
    for (size_t cut = 0; cut < n; cut++) {
        uint8_t *exact = malloc(cut ? cut : 1); /* so that a sanitizer sees one byte too far */
        assert_non_null(exact);
        memcpy(exact, blob, cut);
        ASSERT_FAILS(BAL_E_FORMAT, "tokenizer: ", bal_tokenizer_open_blob(&t, exact, cut, &err));
        assert_null(t);
        free(exact);
    }
    uint8_t *longer = realloc(blob, n + 1);
    assert_non_null(longer);
    longer[n] = 0;
    ASSERT_FAILS(BAL_E_FORMAT, "its header promises",
                 bal_tokenizer_open_blob(&t, longer, n + 1, &err));
    free(longer);
}

/* What still opens must encode and decode without harm and keep its promises. */
static void use(const bal_tokenizer *t)
{
    bal_error err;
    int32_t *ids = NULL;
    size_t n = 0;
    static const char text[] = "abc ab <|im_end|> caf\xc3\xa9 e\xcc\x81\xff";
    if (bal_tokenizer_encode(t, text, sizeof text, &ids, &n, &err) < 0) return;
    for (size_t i = 0; i < n; i++) {
        assert_in_range(ids[i], 0, bal_tokenizer_size(t) - 1);
        assert_false(bal_tokenizer_is_special(t, ids[i]));
        assert_true(bal_tokenizer_decode(t, ids[i], true).n > 0);
    }
    free(ids);
    for (int32_t id = -1; id <= (int32_t)bal_tokenizer_size(t); id++)
        bal_tokenizer_decode(t, id, false);
    bal_tokenizer_token_id(t, "<|im_end|>");
}

static void test_bit_flips(void **state)
{
    (void)state;
    bal_error err;
    size_t n = 0;
    uint8_t *blob = tiny_blob(&n);
    int opened = 0;
    for (size_t bit = 0; bit < 8 * n; bit++) {
        blob[bit / 8] ^= (uint8_t)(1u << bit % 8);
        bal_tokenizer *t = NULL;
        const bal_status st = bal_tokenizer_open_blob(&t, blob, n, &err);
        assert_true(st == BAL_OK || st == BAL_E_FORMAT || st == BAL_E_UNSUP);
        assert_true((t != NULL) == (st == BAL_OK));
        if (t) use(t);
        opened += t != NULL;
        bal_tokenizer_close(t);
        blob[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    assert_in_range(opened, 1, 8 * n / 2); /* letters of added tokens are free, little else is */
    free(blob);
}

/* ---- Each rule by name -------------------------------------------------------------------------
 */

/* Places in the tiny blob. */
typedef struct places {
    size_t offsets, merges, added, pattern, text;
} places;

static places find_places(void)
{
    places p = {.offsets = BAL_TOKENIZER_BLOB_HEADER};
    p.merges = p.offsets + 4 * (261 + 1);
    p.added = p.merges + 2 * 12;
    p.pattern = p.added + 3 * 8;
    p.text = p.pattern + strlen(" ?[^\\s]+|\\s+");
    return p;
}

static void check_refused(size_t at, uint32_t value, bal_status expected, const char *part)
{
    bal_error err;
    size_t n = 0;
    uint8_t *blob = tiny_blob(&n);
    bal_tokenizer *t = NULL;
    bal_put_le32(blob + at, value);
    ASSERT_FAILS(expected, part, bal_tokenizer_open_blob(&t, blob, n, &err));
    free(blob);
}

static void test_rules(void **state)
{
    (void)state;
    const places p = find_places();
    check_refused(0, 0, BAL_E_FORMAT, "begin with BALTOKEN");
    check_refused(8, 2, BAL_E_UNSUP, "version 2, this build reads version 1");
    check_refused(12, 64, BAL_E_UNSUP, "unknown flags 0x40");
    check_refused(12, 4, BAL_E_FORMAT, "flags 0x4 and a split pattern");
    check_refused(16, 255, BAL_E_FORMAT, "255 tokens, expected 256 to 1048576");
    check_refused(16, (1u << 20) + 1, BAL_E_FORMAT, "1048577 tokens");
    check_refused(16, 262, BAL_E_FORMAT, "its header promises");
    check_refused(20, UINT32_MAX, BAL_E_FORMAT, "4294967295 merges");
    check_refused(24, 262, BAL_E_FORMAT, "262 added tokens of 261");
    check_refused(28, 4097, BAL_E_FORMAT, "split pattern of 4097 bytes");
    check_refused(36, 1, BAL_E_FORMAT, "4 GiB");
    check_refused(p.offsets, 1, BAL_E_FORMAT, "offsets do not span");
    check_refused(p.offsets + 4 * 5, 4, BAL_E_FORMAT, "token 4 has no bytes");
    check_refused(p.offsets + 4 * 5, UINT32_MAX, BAL_E_FORMAT, "token 5 has no bytes");
    check_refused(p.merges, 261, BAL_E_FORMAT, "merge 0 of tokens 261");
    check_refused(p.merges + 8, 257, BAL_E_FORMAT, "merge 0: token 257 is not");
    check_refused(p.merges + 4, 'c', BAL_E_FORMAT, "merge 0: token 256 is not");
    check_refused(p.added, 259, BAL_E_FORMAT, "added token 1 has id 259");
    check_refused(p.added + 16, 261, BAL_E_FORMAT, "added token 2 has id 261");
    check_refused(p.added + 4, 8, BAL_E_UNSUP, "added token 0 has unknown flags 0x8");
    check_refused(p.added + 4, 2, BAL_E_FORMAT, "token 258 cannot stand for a byte");
    check_refused(p.added, 257, BAL_E_FORMAT, "merge 1 makes the special token 257");
    check_refused(p.added, 'a', BAL_E_FORMAT, "no token is the single byte 0x61");
    check_refused(p.pattern, '(', BAL_E_FORMAT, "split pattern");
    check_refused(p.text, 0x03020101, BAL_E_FORMAT, "tokens 0 and 1 are both the byte 0x01");
}

static void test_repeated_merge(void **state)
{
    (void)state;
    bal_error err;
    size_t n = 0;
    uint8_t *blob = tiny_blob(&n);
    const places p = find_places();
    bal_tokenizer *t = NULL;
    memcpy(blob + p.merges + 12, blob + p.merges, 12);
    ASSERT_FAILS(BAL_E_FORMAT, "merge 1 repeats merge 0",
                 bal_tokenizer_open_blob(&t, blob, n, &err));
    free(blob);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_same_bytes_every_time),
        cmocka_unit_test(test_every_other_length_is_refused),
        cmocka_unit_test(test_bit_flips),
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_repeated_merge),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
