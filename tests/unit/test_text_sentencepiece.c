/* SPDX-License-Identifier: MIT
 * tokenizer.model: the order of merges that scores mean, ties included, what is refused and with
 * which words, the rules a config adds, and damage at every place. */
#include "pb_writer.h"
#include "scratch.h"
#include "text/protobuf.h"
#include "text/tokenizer.h"

#define SPACE "\xe2\x96\x81"

static uint8_t buffer[1 << 16];

static pb_writer begin(void)
{
    return (pb_writer){buffer, 0, sizeof buffer};
}

static void put(pb_writer *w, const char *text, float score, int type)
{
    pb_piece(w, text, strlen(text), score, type);
}

/* <unk> <s> </s>, 256 bytes, the space and a b c: ids up to 262 */
static pb_writer begin_pieces(void)
{
    pb_writer w = begin();
    put(&w, "<unk>", 0, 2);
    put(&w, "<s>", 0, 3);
    put(&w, "</s>", 0, 3);
    pb_byte_pieces(&w);
    put(&w, SPACE, -50, 1);
    put(&w, "a", -51, 1);
    put(&w, "b", -52, 1);
    put(&w, "c", -53, 1);
    return w;
}

static bal_status open_model(bal_tokenizer **t, const pb_writer *w, const char *config,
                             bal_error *err)
{
    *t = NULL;
    mkdir(scratch("m"), 0700);
    scratch_write(scratch("m/tokenizer.model"), w->data, w->n);
    unlink(scratch("m/tokenizer_config.json"));
    if (config) scratch_text(scratch("m/tokenizer_config.json"), config);
    return bal_tokenizer_open_dir(t, scratch("m"), err);
}

static void check_ids(const bal_tokenizer *t, const char *text, const int32_t *expected, size_t n)
{
    bal_error err;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    ASSERT_OK(bal_tokenizer_encode(t, text, strlen(text), &ids, &n_ids, &err));
    assert_int_equal(n_ids, n);
    for (size_t i = 0; i < n; i++)
        if (ids[i] != expected[i]) fail_msg("'%s': id %d at %zu", text, ids[i], i);
    free(ids);
}

static void test_order_of_merges(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    pb_writer w = begin_pieces();
    put(&w, "ab", -2, 1);  /* 263 */
    put(&w, "bc", -1, 1);  /* 264: goes first */
    put(&w, "aa", -3, 1);  /* 265, ties with 266: the leftmost first */
    put(&w, "ac", -3, 1);  /* 266 */
    put(&w, "aab", -4, 1); /* 267, from a+ab or aa+b */
    put(&w, "aac", -5, 1); /* 268, from aa+c or a+ac */
    pb_specs(&w, 2, true, false, "");
    ASSERT_OK(open_model(&t, &w, NULL, &err));
    const int32_t abc[] = {259, 260, 264}, aac[] = {259, 268}, aab[] = {259, 267};
    check_ids(t, "abc", abc, 3);
    check_ids(t, "aac", aac, 2); /* aa before ac, as it stands further left */
    check_ids(t, "aab", aab, 2);
    const int32_t aca[] = {259, 266, 260}, nothing_known[] = {259, 3 + 'x', 3 + 0xc3, 3 + 0xa9};
    check_ids(t, "aca", aca, 3);
    check_ids(t, "x\xc3\xa9", nothing_known, 4);
    const int32_t spaces[] = {259, 259, 260};
    check_ids(t, SPACE "a", spaces, 3); /* the same as " a" */
    check_ids(t, " a", spaces, 3);
    check_ids(t, "", NULL, 0);
    bal_tokenizer_close(t);
}

static void check_config(const char *config, const int32_t *expected, size_t n, int32_t bos)
{
    bal_error err;
    bal_tokenizer *t = NULL;
    pb_writer w = begin_pieces();
    pb_specs(&w, 2, true, false, "");
    ASSERT_OK(open_model(&t, &w, config, &err));
    bal_ids ids = {0};
    ASSERT_OK(bal_tokenizer_append_part(t, "a", 1, BAL_TEXT_AFTER_TOKEN, &ids, &err));
    assert_int_equal(ids.n, n);
    for (size_t i = 0; i < n; i++) assert_int_equal(ids.v[i], expected[i]);
    assert_int_equal(bal_tokenizer_bos(t), bos);
    free(ids.v);
    bal_tokenizer_close(t);
}

/* "legacy": false keeps the space in front to the beginning of a conversation. */
static void test_rules_of_the_config(void **state)
{
    (void)state;
    const int32_t with[] = {259, 260}, without[] = {260};
    check_config("{}", with, 2, 1);
    check_config("{\"tokenizer_class\":\"LlamaTokenizer\",\"legacy\":true}", with, 2, 1);
    check_config("{\"tokenizer_class\":\"LlamaTokenizerFast\",\"legacy\":false}", without, 1, 1);
    check_config("{\"tokenizer_class\":\"InternLM2Tokenizer\",\"legacy\":false}", with, 2, 1);
    check_config("{\"add_bos_token\":false}", with, 2, -1);
    check_config("{\"bos_token\":{\"content\":\"</s>\"}}", with, 2, 2);
}

static void check_refused(pb_writer w, const char *config, bal_status st, const char *part)
{
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_FAILS(st, part, open_model(&t, &w, config, &err));
    assert_null(t);
    assert_non_null(strstr(err.text, "tokenizer.model: "));
}

static void check_specs(int type, bool fallback, bool squeeze, const char *rules, const char *part)
{
    pb_writer w = begin_pieces();
    pb_specs(&w, type, fallback, squeeze, rules);
    check_refused(w, NULL, BAL_E_UNSUP, part);
}

static void test_other_kinds(void **state)
{
    (void)state;
    check_specs(1, true, false, "", "not BPE (unigram");
    check_specs(2, false, false, "", "byte_fallback is off");
    check_specs(2, true, true, "", "remove_extra_whitespaces");
    check_specs(2, true, false, "x", "precompiled_charsmap");
    pb_writer w = begin_pieces(); /* no specs: the format's default type is unigram */
    check_refused(w, NULL, BAL_E_UNSUP, "unigram");
    w.n = 0;
    check_refused(w, NULL, BAL_E_FORMAT, "no pieces: not a SentencePiece model");
}

static void check_piece(const char *text, size_t n, float score, int type, bal_status st,
                        const char *part)
{
    pb_writer w = begin_pieces();
    pb_piece(&w, text, n, score, type);
    pb_specs(&w, 2, true, false, "");
    check_refused(w, NULL, st, part);
}

static void test_pieces(void **state)
{
    (void)state;
    check_piece("", 0, 0, 1, BAL_E_FORMAT, "piece 263 has 0 bytes");
    check_piece("\xff", 1, 0, 1, BAL_E_FORMAT, "piece 263 is not UTF-8");
    check_piece("x", 1, 0, 7, BAL_E_UNSUP, "'x', has unknown type 7");
    check_piece("x", 1, 0.0f / 0.0f, 1, BAL_E_FORMAT, "the score of piece 263, 'x', is no number");
    check_piece("a", 1, 0, 1, BAL_E_FORMAT, "piece 263, 'a', stands there twice");
    check_piece("<s>", 3, 0, 3, BAL_E_FORMAT, "'<s>' stands there twice");
    check_piece("ab", 2, 0, 4, BAL_E_UNSUP, "'ab', is user-defined and no marker");
    check_piece("ab", 2, 0, 5, BAL_E_UNSUP, "'ab', is unused and no marker");
    check_piece("<\0>", 3, 0, 3, BAL_E_UNSUP, "contains a NUL");
    check_piece("<0x41>", 6, 0, 6, BAL_E_FORMAT, "stands there twice");
    pb_writer w = begin();
    put(&w, SPACE, 0, 1);
    pb_specs(&w, 2, true, false, "");
    check_refused(w, NULL, BAL_E_FORMAT, "1 tokens, expected 256");
    w = begin();
    put(&w, "a", 0, 1);
    pb_byte_pieces(&w);
    pb_specs(&w, 2, true, false, "");
    check_refused(w, NULL, BAL_E_FORMAT, "no token is the space, U+2581");
}

static void test_broken_configs(void **state)
{
    (void)state;
    pb_writer w = begin_pieces();
    pb_specs(&w, 2, true, false, "");
    check_refused(w, "{\"add_eos_token\":true}", BAL_E_UNSUP, "add_eos_token");
    check_refused(w, "{\"bos_token\":\"<b>\"}", BAL_E_FORMAT, "'<b>' is to come before a text");
    check_refused(w, "{\"added_tokens_decoder\":{\"999\":{\"content\":\"<b>\"}}}", BAL_E_FORMAT,
                  "has id 999");
}

/* Every length and every byte changed: a sentence or a tokenizer, never harm. */
static void test_damage(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    pb_writer w = begin_pieces();
    put(&w, "ab", -2, 1);
    pb_specs(&w, 2, true, false, "");
    const size_t n = w.n;
    for (size_t cut = 0; cut < n; cut += cut < 64 || n - cut < 128 ? 1 : 37) {
        w.n = cut;
        assert_true(open_model(&t, &w, NULL, &err) < 0);
        assert_null(t);
    }
    w.n = n;
    for (size_t at = 0; at < n; at += at < 64 || n - at < 128 ? 1 : 23) {
        buffer[at] ^= 0x55;
        if (open_model(&t, &w, NULL, &err) >= 0) bal_tokenizer_close(t);
        buffer[at] ^= 0x55;
    }
}

/* ---- The wire format ---------------------------------------------------------------------------
 */

static void check_wire(const char *bytes, size_t n, int n_fields, bal_status expected)
{
    bal_error err = {0};
    bal_pb_reader r = {(const uint8_t *)bytes, n, 0};
    bal_pb_field f;
    bal_status st = BAL_OK;
    int count = 0;
    while (bal_pb_next(&r, &f, &st, &err)) count++;
    assert_int_equal(count, n_fields);
    assert_int_equal(st, expected);
}

static void test_wire(void **state)
{
    (void)state;
    check_wire("", 0, 0, BAL_OK);
    check_wire("\x08\x96\x01", 3, 1, BAL_OK);
    check_wire("\x08\x96", 2, 0, BAL_E_FORMAT);     /* ends inside a varint */
    check_wire("\x12\x02ok\x08\x01", 6, 2, BAL_OK); /* a string and a number */
    check_wire("\x12\x03ok", 4, 0, BAL_E_FORMAT);   /* longer than the file */
    check_wire("\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, 0, BAL_E_FORMAT);
    check_wire("\x0d\0\0\x80\x3f", 5, 1, BAL_OK);
    check_wire("\x0d\0\0\x80", 4, 0, BAL_E_FORMAT);
    check_wire("\x09\1\2\3\4\5\6\7", 8, 0, BAL_E_FORMAT);
    check_wire("\x0b", 1, 0, BAL_E_FORMAT);     /* a group */
    check_wire("\x00\x00", 2, 0, BAL_E_FORMAT); /* field 0 */
    bal_pb_reader r = {(const uint8_t *)"\x0d\0\0\x80\x3f", 5, 0};
    bal_pb_field f;
    bal_status st;
    assert_true(bal_pb_next(&r, &f, &st, NULL));
    assert_true(bal_pb_float(&f) == 1.0f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_order_of_merges),
        cmocka_unit_test(test_rules_of_the_config),
        cmocka_unit_test(test_other_kinds),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_broken_configs),
        cmocka_unit_test(test_damage),
        cmocka_unit_test(test_wire),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
