/* SPDX-License-Identifier: MIT
 * Tokenizer files: what is refused, with a sentence that names the entry; the older form of three
 * files beside tokenizer.json, which must give the same tokenizer. */
#include "text_tiny.h"
#include "scratch.h"

static void check_json(tiny_json j, bal_status expected, const char *part)
{
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_FAILS(expected, part, tiny_open(&t, j, &err));
    assert_non_null(strstr(err.text, "tiny.json: "));
    assert_null(t);
}

/* The default with one part replaced. */
static tiny_json with(size_t offset, const char *value)
{
    tiny_json j = tiny_default;
    memcpy((char *)&j + offset, &value, sizeof value);
    return j;
}
#define BROKEN(field, value, status, part)                                                         \
    check_json(with(offsetof(tiny_json, field), value), status, part)

static void test_merges(void **state)
{
    (void)state;
    BROKEN(merges, "[\"a b\",\"ab\"]", BAL_E_FORMAT, "model.merges[1]: expected two parts");
    BROKEN(merges, "[\"a b c\"]", BAL_E_FORMAT, "model.merges[0]: expected two parts");
    BROKEN(merges, "[\" b\"]", BAL_E_FORMAT, "model.merges[0]: a part is empty");
    BROKEN(merges, "[[\"a\"]]", BAL_E_FORMAT, "model.merges[0]: expected two parts");
    BROKEN(merges, "[[\"a\",\"b\",\"c\"]]", BAL_E_FORMAT, "model.merges[0]: expected two parts");
    BROKEN(merges, "[[\"a\",1]]", BAL_E_FORMAT, "model.merges[0]: expected two parts");
    BROKEN(merges, "[7]", BAL_E_FORMAT, "model.merges[0]: expected two parts");
    BROKEN(merges, "[[\"a\",\"zz\"]]", BAL_E_FORMAT, "model.merges[0]: 'zz' is not in the");
    BROKEN(merges, "[\"b a\"]", BAL_E_FORMAT, "model.merges[0]: 'ba' is not in the vocabulary");
    BROKEN(merges, "[\"a b\",\"a b\"]", BAL_E_FORMAT, "merge 1 repeats merge 0");
    BROKEN(merges, "{}", BAL_E_FORMAT, "model.merges is not an array");
}

static void test_vocabulary(void **state)
{
    (void)state;
    BROKEN(more_vocab, ",\"ab\":256,\"abc\":9999", BAL_E_FORMAT, "'abc' has id 9999, expected 0");
    BROKEN(more_vocab, ",\"ab\":256,\"abc\":-1", BAL_E_FORMAT, "'abc' has id -1");
    BROKEN(more_vocab, ",\"ab\":256,\"abc\":1e3", BAL_E_FORMAT, "'abc' has no integer");
    BROKEN(more_vocab, ",\"ab\":256,\"abc\":256", BAL_E_FORMAT, "both have id 256");
    BROKEN(more_vocab, ",\"ab\":256,\"abc\":259", BAL_E_FORMAT, "'<|im_end|>' and 'abc' both");
    BROKEN(more_vocab, ",\"ab\":256,\"ab\":257", BAL_E_FORMAT, "duplicate object key");
    BROKEN(more_vocab, ",\"ab\":256,\"\":257", BAL_E_FORMAT, "token without text");
    BROKEN(more_vocab, ",\"ab\":256,\"abc\":257,\"a c\":261", BAL_E_UNSUP, "'a c' contains U+0020");
    BROKEN(more_vocab, ",\"ab\":256,\"abc\":257,\"\xe2\x96\x81\":261", BAL_E_UNSUP, "U+2581");
    tiny_json j = tiny_default; /* one token in both places leaves room for a hole */
    j.more_vocab = ",\"ab\":256,\"abc\":257,\"<x>\":259";
    j.added = "[{\"id\":259,\"content\":\"<x>\"}]";
    check_json(j, BAL_E_FORMAT, "no token has id 258, but ids go up to 259");
}

static void test_missing_byte(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    char text[32768];
    const char *whole = tiny_text(tiny_default), *q = strstr(whole, "\"q\":113");
    assert_non_null(q);
    snprintf(text, sizeof text, "%.*s\"qq%s", (int)(q - whole), whole, q + 2);
    ASSERT_FAILS(BAL_E_FORMAT, "no token is the single byte 0x71",
                 bal_tokenizer_open_json(&t, "x", text, strlen(text), &err));
}

static void test_added_tokens(void **state)
{
    (void)state;
    BROKEN(added, "[{\"id\":258,\"content\":\"<a>\",\"lstrip\":true}]", BAL_E_UNSUP,
           "added_tokens[0]: added token '<a>' has lstrip set");
    BROKEN(added, "[{\"id\":258,\"content\":\"<a>\",\"rstrip\":true}]", BAL_E_UNSUP, "rstrip");
    BROKEN(added, "[{\"id\":258,\"content\":\"<a>\",\"single_word\":true}]", BAL_E_UNSUP,
           "single_");
    BROKEN(added, "[{\"id\":258,\"content\":\"<a>\"},{\"id\":259,\"content\":\"<a>\"}]",
           BAL_E_FORMAT, "added_tokens[1]: added token '<a>' stands there twice");
    BROKEN(added, "[{\"id\":258,\"content\":\"<a>\"},{\"id\":258,\"content\":\"<b>\"}]",
           BAL_E_FORMAT, "added_tokens[1]: tokens '<a>' and '<b>' both have id 258");
    BROKEN(added, "[{\"id\":300,\"content\":\"<a>\"}]", BAL_E_FORMAT, "has id 300, expected 0 to");
    BROKEN(added, "[{\"id\":258,\"content\":\"\"}]", BAL_E_FORMAT, "without content");
    BROKEN(added, "[{\"id\":258}]", BAL_E_FORMAT, "added_tokens[0]: added token 258 has no");
    BROKEN(added, "[{\"content\":\"<a>\"}]", BAL_E_FORMAT, "added_tokens[0]: no integer");
    BROKEN(added, "[{\"id\":258,\"content\":\"ab\"}]", BAL_E_FORMAT, "in the vocabulary 256");
    BROKEN(added, "[{\"id\":257,\"content\":\"abc\",\"special\":true}]", BAL_E_FORMAT,
           "merge 1 makes the special token 257 from plain text");
    BROKEN(added, "7", BAL_E_FORMAT, "added_tokens is not an array");
}

static void test_added_token_of_the_vocabulary(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    tiny_json j = tiny_default;
    j.more_vocab = ",\"ab\":256,\"abc\":257,\"<x>\":258";
    j.added = "[{\"id\":258,\"content\":\"<x>\",\"special\":true}]";
    ASSERT_OK(tiny_open(&t, j, &err));
    assert_int_equal(bal_tokenizer_size(t), 259);
    assert_int_equal(bal_tokenizer_token_id(t, "<x>"), 258);
    bal_tokenizer_close(t);
}

static void test_components(void **state)
{
    (void)state;
    BROKEN(normalizer, "{\"type\":\"NFKC\"}", BAL_E_UNSUP, "normalizer of type 'NFKC'");
    BROKEN(pre_tokenizer, "null", BAL_E_UNSUP, "pre_tokenizer of type '?'");
    BROKEN(pre_tokenizer, "{\"type\":\"Metaspace\"}", BAL_E_UNSUP, "type 'Metaspace'");
    BROKEN(pre_tokenizer, "{\"type\":\"ByteLevel\",\"add_prefix_space\":true}", BAL_E_UNSUP,
           "add_prefix_space");
    BROKEN(pre_tokenizer, "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}",
           BAL_E_UNSUP, "without use_regex");
    BROKEN(pre_tokenizer, "{\"type\":\"Sequence\",\"pretokenizers\":[]}", BAL_E_UNSUP, "of 0");
    BROKEN(pre_tokenizer,
           "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Removed\","
           "\"pattern\":{\"Regex\":\"a\"}},{\"type\":\"ByteLevel\"}]}",
           BAL_E_UNSUP, "behavior 'Removed'");
    BROKEN(
        pre_tokenizer,
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\","
        "\"pattern\":{\"String\":\"a\"}},{\"type\":\"ByteLevel\"}]}",
        BAL_E_UNSUP, "pattern.Regex");
    BROKEN(
        pre_tokenizer,
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\","
        "\"pattern\":{\"Regex\":\"\\\\w\"}},{\"type\":\"ByteLevel\",\"add_prefix_space\":false,"
        "\"use_regex\":false}]}",
        BAL_E_UNSUP, "split pattern: '\\w' at byte 0");
    BROKEN(
        pre_tokenizer,
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"behavior\":\"Isolated\","
        "\"pattern\":{\"Regex\":\"a\"}},{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]}",
        BAL_E_UNSUP, "Split and then ByteLevel with use_regex");
    BROKEN(more_root, ",\"post_processor\":{\"type\":\"BertProcessing\"}", BAL_E_UNSUP,
           "post_processor of type 'BertProcessing'");
    BROKEN(more_root, ",\"decoder\":{\"type\":\"WordPiece\"}", BAL_E_UNSUP, "decoder of type");
    BROKEN(more_root, ",\"version\":\"2.0\"", BAL_E_FORMAT, "duplicate object key");
    BROKEN(more_model, ",\"byte_fallback\":true,\"ignore_merges\":true", BAL_E_UNSUP,
           "model.ignore_merges together with byte_fallback");
    BROKEN(more_model, ",\"dropout\":0.1", BAL_E_UNSUP, "model.dropout");
    BROKEN(more_model, ",\"end_of_word_suffix\":\"</w>\"", BAL_E_UNSUP, "end_of_word_suffix");
}

/* One text's template: a token in front or none, and nothing behind. */
#define TEMPLATE(parts)                                                                            \
    ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[" parts "]}"
#define TEXT_PART     "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define TOKEN_PART(s) "{\"SpecialToken\":{\"id\":\"" s "\",\"type_id\":0}}"

static void test_post_processor(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_OK(tiny_open(&t, with(offsetof(tiny_json, more_root), TEMPLATE(TEXT_PART)), &err));
    assert_int_equal(bal_tokenizer_bos(t), -1);
    bal_tokenizer_close(t);
    const char *bos = TEMPLATE(TOKEN_PART("<|im_start|>") "," TEXT_PART);
    ASSERT_OK(tiny_open(&t, with(offsetof(tiny_json, more_root), bos), &err));
    assert_int_equal(bal_tokenizer_bos(t), 258);
    bal_tokenizer_close(t);
    BROKEN(more_root, TEMPLATE(TEXT_PART "," TOKEN_PART("<|im_end|>")), BAL_E_UNSUP, "none behind");
    BROKEN(more_root, TEMPLATE(TOKEN_PART("<|im_end|>")), BAL_E_UNSUP, "none behind");
    BROKEN(more_root, TEMPLATE(TOKEN_PART("<b>") "," TEXT_PART), BAL_E_FORMAT,
           "'<b>' is to come before a text and is no added token");
    BROKEN(more_root, TEMPLATE("{\"SpecialToken\":{}}," TEXT_PART), BAL_E_FORMAT, "names no token");
    BROKEN(more_root, TEMPLATE(""), BAL_E_UNSUP, "TemplateProcessing is supported with");
    BROKEN(more_root,
           ",\"post_processor\":{\"type\":\"Sequence\",\"processors\":[{\"type\":\"X\"}]}",
           BAL_E_UNSUP, "post_processor of type 'X'");
}

/* Parts of a vocabulary over characters; the vocabulary itself is bytes, which is found out last.
 */
static void test_character_components(void **state)
{
    (void)state;
    tiny_json j = tiny_default;
    j.more_model = ",\"byte_fallback\":true";
    check_json(j, BAL_E_UNSUP, "normalizer of type 'NFC'");
    j.normalizer =
        "{\"type\":\"Replace\",\"pattern\":{\"String\":\"x\"},\"content\":\"\xe2\x96\x81\"}";
    check_json(j, BAL_E_UNSUP, "normalizer of type 'Replace'");
    j.normalizer = "{\"type\":\"Prepend\",\"prepend\":\"\xe2\x96\x81\"}";
    check_json(j, BAL_E_UNSUP, "pre_tokenizer of type 'Sequence'");
    j.pre_tokenizer =
        "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"prepend_scheme\":\"first\"}";
    check_json(j, BAL_E_UNSUP, "without split only");
    j.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"_\",\"split\":false}";
    check_json(j, BAL_E_UNSUP, "replacement U+2581");
    j.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"split\":false,"
                      "\"prepend_scheme\":\"first\"}";
    check_json(j, BAL_E_UNSUP, "both normalizer and pre_tokenizer");
    j.normalizer = "null";
    check_json(j, BAL_E_FORMAT, "no token is the single byte 0x00");
    j.more_root = ",\"decoder\":{\"type\":\"ByteLevel\"}";
    check_json(j, BAL_E_UNSUP, "decoder of type 'ByteLevel'");
    j.more_root = "";
    j.pre_tokenizer = "{\"type\":\"Metaspace\",\"replacement\":\"\xe2\x96\x81\",\"split\":false}";
    check_json(j, BAL_E_UNSUP, "prepend_scheme '?'");
}

static void test_digits(void **state)
{
    (void)state;
    BROKEN(pre_tokenizer,
           "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Digits\",\"individual_digits\":"
           "false},{\"type\":\"ByteLevel\",\"add_prefix_space\":false}]}",
           BAL_E_UNSUP, "Digits without individual_digits");
}

static void test_no_tokenizer_at_all(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    static const struct {
        const char *json, *part;
    } rows[] = {
        {"", "x: line 1"},
        {"[]", "x: expected a JSON object"},
        {"{}", "x: model is not an object"},
        {"{\"model\":{\"type\":\"Unigram\"}}", "x: model of type 'Unigram'"},
        {"{\"model\":{}}", "x: model.vocab is not an object"},
        {"{\"model\":{\"vocab\":{},\"merges\":[]}", "x: line 1"},
        {"{\"model\":{\"vocab\":{\"\xff\":0},\"merges\":[]}}", "x: line 1"},
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        const bal_status st =
            bal_tokenizer_open_json(&t, "x", rows[i].json, strlen(rows[i].json), &err);
        if (st >= 0 || t || !strstr(err.text, rows[i].part))
            fail_msg("'%s': status %d, '%s'", rows[i].json, (int)st, err.text);
    }
}

/* The GPT-2 expression comes with a bare ByteLevel, and merges as strings or pairs are the same. */
static void test_accepted_forms(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    tiny_json j = tiny_default;
    j.pre_tokenizer = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"trim_offsets\":true}";
    j.normalizer = "null";
    j.more_model = ",\"continuing_subword_prefix\":\"\",\"unk_token\":\"x\",\"dropout\":null";
    j.more_root = ",\"post_processor\":{\"type\":\"ByteLevel\"},\"decoder\":null";
    ASSERT_OK(tiny_open(&t, j, &err));
    const int32_t decomposed[] = {257, 'e', 0xcc, 0x81}; /* no NFC */
    assert_ids(t, "abce\xcc\x81", 6, decomposed, 4);
    bal_tokenizer_close(t);
}

/* ---- The older form ------------------------------------------------------------------------ */

static const char good_config[] =
    "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"added_tokens_decoder\":{"
    "\"258\":{\"content\":\"<|im_start|>\",\"special\":true},"
    "\"259\":{\"content\":\"<|im_end|>\",\"special\":true},"
    "\"260\":{\"content\":\"<image>\",\"special\":false}}}";
static const char good_merges[] = "#version: 0.2\r\na b\r\nab c\n";

/* Writes the three files; NULL leaves one out. */
static void write_old_form(const char *merges, const char *config, const char *added)
{
    char vocab[8192];
    size_t n = (size_t)snprintf(vocab, sizeof vocab, "{");
    n += tiny_alphabet(vocab + n, sizeof vocab - n);
    snprintf(vocab + n, sizeof vocab - n, "%s}", tiny_default.more_vocab);
    scratch_text(scratch("vocab.json"), vocab);
    const struct {
        const char *name, *text;
    } files[] = {
        {"merges.txt", merges}, {"tokenizer_config.json", config}, {"added_tokens.json", added}};
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        if (files[i].text)
            scratch_text(scratch(files[i].name), files[i].text);
        else
            unlink(scratch(files[i].name));
    }
}

static void test_old_form_is_the_same_tokenizer(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL, *json = NULL;
    write_old_form(good_merges, good_config, "{\"<image>\":260}");
    ASSERT_OK(bal_tokenizer_open_dir(&t, scratch_dir, &err));
    tiny_json j = tiny_default;
    j.pre_tokenizer =
        "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\""
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}| "
        "?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},"
        "\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","
        "\"add_prefix_space\":false,\"trim_offsets\":true,\"use_regex\":false}]}";
    ASSERT_OK(tiny_open(&json, j, &err));
    size_t n = 0, n_json = 0;
    const uint8_t *blob = bal_tokenizer_blob(t, &n), *other = bal_tokenizer_blob(json, &n_json);
    assert_int_equal(n, n_json);
    assert_memory_equal(blob, other, n);
    bal_tokenizer_close(t);
    bal_tokenizer_close(json);
}

/* added_tokens.json alone does not say what is special: then all of it is. */
static void test_old_form_with_plain_added_tokens(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    write_old_form(good_merges, "{\"tokenizer_class\":\"GPT2Tokenizer\"}", "{\"<end>\":258}");
    ASSERT_OK(bal_tokenizer_open_dir(&t, scratch_dir, &err));
    assert_int_equal(bal_tokenizer_token_id(t, "<end>"), 258);
    assert_true(bal_tokenizer_is_special(t, 258));
    bal_tokenizer_close(t);
}

static void check_dir(bal_status expected, const char *part)
{
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_FAILS(expected, part, bal_tokenizer_open_dir(&t, scratch_dir, &err));
    assert_non_null(strstr(err.text, scratch_dir));
    assert_null(t);
}

static void test_old_form_broken(void **state)
{
    (void)state;
    write_old_form("a b\nab\n", good_config, NULL);
    check_dir(BAL_E_FORMAT, "merges.txt: line 2: expected two parts");
    write_old_form("a b\n\nab c\n", good_config, NULL);
    check_dir(BAL_E_FORMAT, "merges.txt: line 2: expected two parts");
    write_old_form("a b\nab q\n", good_config, NULL);
    check_dir(BAL_E_FORMAT, "merges.txt: line 2: 'abq' is not in the vocabulary");
    write_old_form("a b c\n", good_config, NULL);
    check_dir(BAL_E_FORMAT, "merges.txt: line 1: expected two parts");
    write_old_form(NULL, good_config, NULL);
    check_dir(BAL_E_IO, "merges.txt");
    write_old_form(good_merges, NULL, NULL);
    check_dir(BAL_E_UNSUP, "tokenizer_class is '?'");
    write_old_form(good_merges, "{\"tokenizer_class\":\"LlamaTokenizer\"}", NULL);
    check_dir(BAL_E_UNSUP, "tokenizer_class is 'LlamaTokenizer'");
    write_old_form(good_merges, good_config, "{\"<image>\":261}");
    check_dir(BAL_E_FORMAT,
              "added_tokens.json: '<image>' has id 261, in tokenizer_config.json 260");
    write_old_form(good_merges, good_config, "{\"<more>\":264}");
    check_dir(BAL_E_FORMAT, "'<more>' has id 264");
    write_old_form(good_merges,
                   "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"added_tokens_decoder\":{\"x\":{}}}",
                   NULL);
    check_dir(BAL_E_FORMAT, "added_tokens_decoder[\"x\"]: the key is not a token id");
    write_old_form(good_merges,
                   "{\"tokenizer_class\":\"Qwen2Tokenizer\",\"add_prefix_space\":true}", NULL);
    check_dir(BAL_E_UNSUP, "add_prefix_space");
    write_old_form(good_merges, "{", NULL);
    check_dir(BAL_E_FORMAT, "tokenizer_config.json: line 1");
}

static void test_folder_without_tokenizer(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    ASSERT_FAILS(BAL_E_IO, "no tokenizer.json, tokenizer.model, vocab.json or encoder.json",
                 bal_tokenizer_open_dir(&t, scratch("nowhere"), &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merges),
        cmocka_unit_test(test_vocabulary),
        cmocka_unit_test(test_missing_byte),
        cmocka_unit_test(test_added_tokens),
        cmocka_unit_test(test_added_token_of_the_vocabulary),
        cmocka_unit_test(test_components),
        cmocka_unit_test(test_post_processor),
        cmocka_unit_test(test_character_components),
        cmocka_unit_test(test_digits),
        cmocka_unit_test(test_no_tokenizer_at_all),
        cmocka_unit_test(test_accepted_forms),
        cmocka_unit_test(test_old_form_is_the_same_tokenizer),
        cmocka_unit_test(test_old_form_with_plain_added_tokens),
        cmocka_unit_test(test_old_form_broken),
        cmocka_unit_test(test_folder_without_tokenizer),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
