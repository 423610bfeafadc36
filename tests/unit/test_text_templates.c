/* SPDX-License-Identifier: MIT
 * Chat templates of every family against what Jinja renders (tests/golden/make/make_chat.py), byte
 * for byte; that text makes no special tokens; tags; how a template, a name and a model folder lead
 * to a family; conversations that go on. */
#include "scratch.h"
#include "text_tiny.h"
#include "text/chat_template.h"

#include <jansson.h>

static bal_tokenizer *tokenizer; /* bytes and every token that some template needs */
static json_t *golden;

static const char *const special[] = {"<|im_start|>",
                                      "<|im_end|>",
                                      "<image>",
                                      "<IMG_CONTEXT>",
                                      "<|vision_start|>",
                                      "<|vision_end|>",
                                      "<|image_pad|>",
                                      "<end_of_utterance>",
                                      "<|begin_of_text|>",
                                      "<|start_header_id|>",
                                      "<|end_header_id|>",
                                      "<|eot_id|>",
                                      "<s>",
                                      "</s>",
                                      "<think>",
                                      "</think>"};
#define N_SPECIAL (sizeof special / sizeof *special)

/* with_bos: a post-processor puts <s> in front. */
static bal_tokenizer *open_all_tokens(bool with_bos)
{
    bal_error err;
    char added[2048];
    size_t n = 0;
    for (size_t i = 0; i < N_SPECIAL; i++)
        n += (size_t)snprintf(added + n, sizeof added - n,
                              "%s{\"id\":%zu,\"content\":\"%s\",\"special\":%s}", i ? "," : "[",
                              258 + i, special[i], i % 2 ? "true" : "false");
    snprintf(added + n, sizeof added - n, "]");
    tiny_json j = tiny_default;
    j.added = added;
    j.normalizer = "null";
    if (with_bos)
        j.more_root = ",\"post_processor\":{\"type\":\"TemplateProcessing\",\"single\":[{"
                      "\"SpecialToken\":{\"id\":\"<s>\"}},{\"Sequence\":{\"id\":\"A\"}}]}";
    bal_tokenizer *t = NULL;
    ASSERT_OK(tiny_open(&t, j, &err));
    return t;
}

static bal_chat_family family_of(const char *name)
{
    bal_error err;
    bal_chat_family f;
    ASSERT_OK(bal_chat_family_find(&f, name, &err));
    return f;
}

/* ---- Golden conversations -------------------------------------------------------------------- */

typedef struct conversation {
    bal_chat_message m[8];
    size_t n;
} conversation;

static conversation read_conversation(const json_t *messages)
{
    bal_error err;
    conversation c = {.n = json_array_size(messages)};
    assert_in_range(c.n, 1, 8);
    for (size_t i = 0; i < c.n; i++) {
        const json_t *v = json_array_get(messages, i), *text = json_object_get(v, "text");
        ASSERT_OK(
            bal_chat_role_find(&c.m[i].role, json_string_value(json_object_get(v, "role")), &err));
        c.m[i].text = json_string_value(text);
        c.m[i].n = json_string_length(text);
        c.m[i].n_images = (size_t)json_integer_value(json_object_get(v, "images"));
    }
    return c;
}

static size_t count_added(const bal_chat_tokens *t)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) n += t->ids[i] >= 258;
    return n;
}

static size_t join(const bal_chat_tokens *t, char *out, size_t size)
{
    size_t n = 0;
    for (size_t i = 0; i < t->n; i++) {
        const bal_token_view v = bal_tokenizer_decode(tokenizer, t->ids[i], true);
        assert_true(n + v.n < size);
        memcpy(out + n, v.bytes, v.n);
        n += v.n;
    }
    out[n] = 0;
    return n;
}

/* Whatever stands in the texts, there are as many special tokens as with harmless ones; thoughts
 * are marked by the template itself. */
static void check_no_injection(bal_chat_family f, conversation c, bool generate, size_t expected)
{
    bal_error err;
    bal_chat_tokens out;
    for (size_t i = 0; i < c.n; i++) {
        if (c.m[i].n >= 7 && strstr(c.m[i].text, "think>")) return;
        c.m[i].text = "x";
        c.m[i].n = 1;
    }
    ASSERT_OK(bal_chat_encode(&out, tokenizer, f, c.m, c.n, generate, &err));
    assert_int_equal(count_added(&out), expected);
    bal_chat_tokens_deinit(&out);
}

static void check_row(const json_t *row)
{
    bal_error err;
    char text[8192];
    const char *name = json_string_value(json_object_get(row, "conversation"));
    const char *family = json_string_value(json_object_get(row, "family"));
    const char *rendered = json_string_value(json_object_get(row, "rendered"));
    const bool generate = json_is_true(json_object_get(row, "generate"));
    const bal_chat_family f = family_of(family);
    const conversation c = read_conversation(json_object_get(row, "messages"));
    bal_chat_tokens out;
    ASSERT_OK(bal_chat_encode(&out, tokenizer, f, c.m, c.n, generate, &err));
    join(&out, text, sizeof text);
    if (strcmp(text, rendered) != 0)
        fail_msg("%s, %s:\n'%s', expected\n'%s'", family, name, text, rendered);
    size_t slots = 0, images = 0;
    for (size_t i = 0; i < out.n; i++) slots += out.tags[i] == BAL_TAG_IMAGE_SLOT;
    for (size_t i = 0; i < c.n; i++) images += c.m[i].n_images;
    assert_int_equal(slots, images);
    check_no_injection(f, c, generate, count_added(&out));
    bal_chat_tokens_deinit(&out);
}

static void test_as_rendered(void **state)
{
    (void)state;
    const json_t *rows = json_object_get(golden, "rows");
    assert_true(json_array_size(rows) >= 200);
    for (size_t i = 0; i < json_array_size(rows); i++) check_row(json_array_get(rows, i));
}

/* ---- Tags and beginnings -----------------------------------------------------------------------
 */

static void check_tags(const bal_tokenizer *t, bal_chat_family f, const bal_chat_message *m,
                       size_t n, const char *expected)
{
    bal_error err;
    char got[512];
    bal_chat_tokens out;
    ASSERT_OK(bal_chat_encode(&out, t, f, m, n, true, &err));
    assert_true(out.n < sizeof got);
    for (size_t i = 0; i < out.n; i++) got[i] = ".AI"[out.tags[i]];
    got[out.n] = 0;
    assert_string_equal(got, expected);
    bal_chat_tokens_deinit(&out);
}

#define TEXT(role, s, images)                                                                      \
    {                                                                                              \
        role, s, sizeof s - 1, images                                                              \
    }

static void test_tags(void **state)
{
    (void)state;
    const bal_chat_message talk[] = {TEXT(BAL_CHAT_USER, "q", 1),
                                     TEXT(BAL_CHAT_ASSISTANT, "yes", 0),
                                     TEXT(BAL_CHAT_USER, "r", 0)};
    check_tags(tokenizer, BAL_CHAT_LLAVA, talk, 3,
               "......I..." /* USER: ~\nq_ */ "..........." /* ASSISTANT:_ */ "AAA." /* yes_ */
               "........" /* USER: r_ */ "..........");
    check_tags(tokenizer, BAL_CHAT_SMOLVLM, talk, 3,
               "......I..."
               "..........."
               "AAAA."
               "........."
               "..........");
    bal_chat_message plain[] = {talk[0], talk[1]};
    plain[0].n_images = 0;
    check_tags(tokenizer, BAL_CHAT_LLAMA2, plain, 2,
               "........." /* <s>[INST] q */ "........" /* _[/INST] */ "."
               "AAAAA" /* yes_</s> */);
    check_tags(tokenizer, BAL_CHAT_QWEN3, plain, 2,
               "........." /* <|im_start|>user\nq, <|im_end|>\n */ "..........."
               "A"
               "A"
               "A"
               "A"
               "AA"
               "AAA"
               "A."
               "...........");
}

static void test_bos(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = open_all_tokens(true);
    const int32_t bos = bal_tokenizer_token_id(t, "<s>");
    assert_int_equal(bal_tokenizer_bos(t), bos);
    const bal_chat_message m = TEXT(BAL_CHAT_USER, "q", 0);
    for (int f = 0; f < BAL_CHAT_N_FAMILIES; f++) {
        bal_chat_tokens out;
        ASSERT_OK(bal_chat_encode(&out, t, (bal_chat_family)f, &m, 1, true, &err));
        size_t n = 0;
        for (size_t i = 0; i < out.n; i++) n += out.ids[i] == bos;
        const bool own = f == BAL_CHAT_LLAMA2 || f == BAL_CHAT_INTERNLM2;
        const bool put = bal_chat_template_of((bal_chat_family)f)->rules & BAL_CHAT_BOS;
        assert_int_equal(n, own || put);
        if (n) assert_int_equal(out.ids[0], bos);
        bal_chat_tokens_deinit(&out);
    }
    bal_tokenizer_close(t);
}

/* ---- Going on ----------------------------------------------------------------------------------
 */

/* What is asked, answered without its closing token, and asked again is the whole conversation. */
static void check_continue(bal_chat_family f)
{
    bal_error err;
    char text[2048], whole[2048];
    const bal_chat_message talk[] = {TEXT(BAL_CHAT_USER, "q", 0),
                                     TEXT(BAL_CHAT_ASSISTANT, "yes", 0),
                                     TEXT(BAL_CHAT_USER, "r", 0)};
    bal_chat_tokens first, second, all;
    ASSERT_OK(bal_chat_encode(&first, tokenizer, f, talk, 1, true, &err));
    ASSERT_OK(bal_chat_continue(&second, tokenizer, f, talk + 2, &err));
    ASSERT_OK(bal_chat_encode(&all, tokenizer, f, talk, 3, true, &err));
    join(&all, whole, sizeof whole);
    size_t n = join(&first, text, sizeof text);
    const char *answer = strstr(whole, "yes");
    assert_non_null(answer);
    const bool same_start = strncmp(text, whole, n) == 0;
    /* these two write another header for an answer to come than for one that is there */
    assert_int_equal(!same_start,
                     f == BAL_CHAT_LLAVA_ONEVISION_SPACED || f == BAL_CHAT_QWEN3_NO_THINKING);
    join(&second, text, sizeof text);
    assert_string_equal(text, answer + 3);
    bal_chat_tokens_deinit(&first);
    bal_chat_tokens_deinit(&second);
    bal_chat_tokens_deinit(&all);
}

static void test_continue(void **state)
{
    (void)state;
    bal_error err;
    bal_chat_tokens out;
    for (int f = 0; f < BAL_CHAT_N_FAMILIES; f++) check_continue((bal_chat_family)f);
    const bal_chat_message m = TEXT(BAL_CHAT_ASSISTANT, "q", 0);
    ASSERT_FAILS(BAL_E_ARG, "goes on with a question",
                 bal_chat_continue(&out, tokenizer, BAL_CHAT_QWEN2, &m, &err));
    ASSERT_FAILS(BAL_E_ARG, "chat family",
                 bal_chat_continue(&out, tokenizer, BAL_CHAT_N_FAMILIES, &m, &err));
}

/* Behind text there is no space that a tokenizer puts in front of a text. */
static void test_continue_adds_no_space(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *t = NULL;
    bal_chat_tokens out;
    ASSERT_OK(bal_tokenizer_open_dir(&t, source_path("tests/golden/text/spm"), &err));
    const bal_chat_message m = TEXT(BAL_CHAT_USER, "q", 0);
    ASSERT_OK(bal_chat_continue(&out, t, BAL_CHAT_LLAVA, &m, &err));
    size_t n = 0;
    for (size_t i = 0; i < out.n; i++) n += bal_tokenizer_decode(t, out.ids[i], true).n;
    assert_int_equal(n, strlen(" USER: q ASSISTANT:"));
    bal_chat_tokens_deinit(&out);
    ASSERT_OK(bal_chat_encode(&out, t, BAL_CHAT_LLAVA, &m, 1, true, &err));
    assert_int_equal(out.ids[0], bal_tokenizer_bos(t));
    assert_memory_equal(bal_tokenizer_decode(t, out.ids[1], true).bytes, " ", 1);
    bal_chat_tokens_deinit(&out);
    bal_tokenizer_close(t);
}

/* ---- What is refused ---------------------------------------------------------------------------
 */

static void test_orders(void **state)
{
    (void)state;
    bal_error err;
    bal_chat_tokens out;
    const bal_chat_message late[] = {TEXT(BAL_CHAT_USER, "a", 0), TEXT(BAL_CHAT_SYSTEM, "s", 0)};
    const bal_chat_message twice[] = {TEXT(BAL_CHAT_USER, "a", 0), TEXT(BAL_CHAT_USER, "b", 0)};
    const bal_chat_message seen[] = {TEXT(BAL_CHAT_USER, "a", 1)};
    ASSERT_FAILS(BAL_E_ARG, "message 1 is a system turn, which the chat template 'internvl2' has",
                 bal_chat_encode(&out, tokenizer, BAL_CHAT_INTERNVL2, late, 2, true, &err));
    ASSERT_FAILS(BAL_E_ARG, "message 1 has role user, the chat template 'llama2' expects assistant",
                 bal_chat_encode(&out, tokenizer, BAL_CHAT_LLAMA2, twice, 2, true, &err));
    ASSERT_FAILS(BAL_E_ARG, "'llama3' takes no pictures",
                 bal_chat_encode(&out, tokenizer, BAL_CHAT_LLAMA3, seen, 1, true, &err));
    ASSERT_OK(bal_chat_encode(&out, tokenizer, BAL_CHAT_QWEN2, late, 2, true, &err));
    bal_chat_tokens_deinit(&out);
}

static void test_stop(void **state)
{
    (void)state;
    bal_error err;
    bal_tokenizer *bare = NULL;
    ASSERT_OK(tiny_open(&bare, tiny_default, &err));
    for (int f = 0; f < BAL_CHAT_N_FAMILIES; f++) {
        int32_t id = -1;
        ASSERT_OK(bal_chat_stop_id(tokenizer, (bal_chat_family)f, &id, &err));
        assert_true(id >= 258);
    }
    int32_t id = 0;
    ASSERT_FAILS(BAL_E_FORMAT, "'<|eot_id|>'", bal_chat_stop_id(bare, BAL_CHAT_LLAMA3, &id, &err));
    bal_tokenizer_close(bare);
}

/* ---- Families by template, name and folder
 * ------------------------------------------------------- */

static void test_recognise(void **state)
{
    (void)state;
    bal_error err;
    const char *name;
    json_t *text;
    int n = 0;
    json_object_foreach(json_object_get(golden, "templates"), name, text)
    {
        bal_chat_family f = BAL_CHAT_N_FAMILIES;
        ASSERT_OK(
            bal_chat_family_recognise(&f, json_string_value(text), json_string_length(text), &err));
        assert_string_equal(bal_chat_family_name(f), name);
        n++;
    }
    assert_int_equal(n, 16);
}

static void check_unknown(const char *text)
{
    bal_error err;
    bal_chat_family f;
    ASSERT_FAILS(BAL_E_UNSUP, "is none of the known ones: llava_onevision, ",
                 bal_chat_family_recognise(&f, text, strlen(text), &err));
    assert_non_null(strstr(err.text, "smollm2, chatml"));
}

static void test_unknown_templates(void **state)
{
    (void)state;
    bal_error err;
    bal_chat_family f;
    check_unknown("");
    check_unknown("{{ messages }}");
    check_unknown("{% for message in messages %}<start_of_turn>{{ message.content }}{% endfor %}");
    /* a system turn of somebody else's */
    check_unknown(
        "{% if true %}{{ '<|im_start|>system\\nYou are Bob.<|im_end|>\\n' }}{% endif %}{{ "
        "'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + "
        "'\\n' }}");
    /* spelling of one and the same */
    const char *other = "{{\"<|im_start|>\"+message['role']+\"\n\"  +  message['content']+"
                        "'<|im_end|>' + '\\n'}}";
    ASSERT_OK(bal_chat_family_recognise(&f, other, strlen(other), &err));
    assert_int_equal(f, BAL_CHAT_CHATML);
    char *long_text = calloc(1, (1 << 20) + 1);
    assert_non_null(long_text);
    ASSERT_FAILS(BAL_E_UNSUP, "1048577 bytes",
                 bal_chat_family_recognise(&f, long_text, (1 << 20) + 1, &err));
    free(long_text);
}

static void test_names(void **state)
{
    (void)state;
    bal_error err;
    bal_chat_family f;
    for (int i = 0; i < BAL_CHAT_N_FAMILIES; i++)
        assert_int_equal(family_of(bal_chat_family_name((bal_chat_family)i)), i);
    assert_int_equal(family_of("qwen2_5_vl"), BAL_CHAT_QWEN2_VL);
    assert_int_equal(family_of("llama"), BAL_CHAT_PLAIN);
    ASSERT_FAILS(BAL_E_UNSUP, "'gpt9', expected one of llava_onevision, ",
                 bal_chat_family_find(&f, "gpt9", &err));
    assert_non_null(strstr(err.text, "plain"));
}

static void check_dir(const char *model_type, bal_chat_family expected)
{
    bal_error err;
    bal_chat_family f = BAL_CHAT_N_FAMILIES;
    ASSERT_OK(bal_chat_family_of_dir(&f, scratch("m"), model_type, &err));
    assert_string_equal(bal_chat_family_name(f), bal_chat_family_name(expected));
}

static void write_template(const char *file, const char *family)
{
    json_t *root = json_object();
    json_object_set(root, "chat_template",
                    json_object_get(json_object_get(golden, "templates"), family));
    char *text = json_dumps(root, 0);
    scratch_text(scratch(file), text);
    free(text);
    json_decref(root);
}

/* Two templates under names, as tokenizers with tools have them. */
static void write_list(const char *file, const char *name_a, const char *family_a,
                       const char *name_b, const char *family_b)
{
    const json_t *all = json_object_get(golden, "templates");
    json_t *root = json_pack("{s:[{s:s,s:O},{s:s,s:O}]}", "chat_template", "name", name_a,
                             "template", json_object_get(all, family_a), "name", name_b, "template",
                             json_object_get(all, family_b));
    char *text = json_dumps(root, 0);
    scratch_text(scratch(file), text);
    free(text);
    json_decref(root);
}

static void test_folders(void **state)
{
    (void)state;
    bal_error err;
    bal_chat_family f;
    mkdir(scratch("m"), 0700);
    check_dir("qwen2_vl", BAL_CHAT_QWEN2_VL);
    write_template("m/tokenizer_config.json", "qwen2");
    check_dir("llama", BAL_CHAT_QWEN2);
    write_list("m/tokenizer_config.json", "tool_use", "qwen3", "default", "smollm2");
    check_dir("llama", BAL_CHAT_SMOLLM2);
    write_template("m/processor_config.json", "smolvlm");
    check_dir("llama", BAL_CHAT_SMOLVLM);
    write_template("m/chat_template.json", "llava");
    check_dir("llama", BAL_CHAT_LLAVA);
    scratch_text(
        scratch("m/chat_template.jinja"),
        json_string_value(json_object_get(json_object_get(golden, "templates"), "llama3")));
    check_dir("llama", BAL_CHAT_LLAMA3);
    check_dir("internvl_chat", BAL_CHAT_INTERNVL2_5);
    scratch_text(scratch("m/config.json"), "{\"template\":\"Hermes-2\"}");
    check_dir("internvl_chat", BAL_CHAT_INTERNVL2);
    scratch_text(scratch("m/config.json"), "{\"template\":\"phi3-chat\"}");
    ASSERT_FAILS(BAL_E_UNSUP, "config.json: template is 'phi3-chat', expected",
                 bal_chat_family_of_dir(&f, scratch("m"), "internvl_chat", &err));
    scratch_text(scratch("m/chat_template.jinja"), "{{ x }}");
    ASSERT_FAILS(BAL_E_UNSUP, "chat_template.jinja: the chat template '{{ x }}...' is none",
                 bal_chat_family_of_dir(&f, scratch("m"), "llama", &err));
    unlink(scratch("m/chat_template.jinja"));
    scratch_text(scratch("m/chat_template.json"), "{");
    ASSERT_FAILS(BAL_E_FORMAT, "chat_template.json: line 1",
                 bal_chat_family_of_dir(&f, scratch("m"), "llama", &err));
}

static int setup(void **state)
{
    tokenizer = open_all_tokens(false);
    golden = json_load_file(source_path("tests/golden/text/chat.json"), 0, NULL);
    return golden ? scratch_setup(state) : -1;
}

static int teardown(void **state)
{
    bal_tokenizer_close(tokenizer);
    json_decref(golden);
    return scratch_teardown(state);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_rendered),
        cmocka_unit_test(test_tags),
        cmocka_unit_test(test_bos),
        cmocka_unit_test(test_continue),
        cmocka_unit_test(test_continue_adds_no_space),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_stop),
        cmocka_unit_test(test_recognise),
        cmocka_unit_test(test_unknown_templates),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_folders),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
