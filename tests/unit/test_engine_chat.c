/* SPDX-License-Identifier: MIT
 * The chat template of a folder is the one its conversations get, here and in the file made of it;
 * an unknown one keeps nobody from completing text, and another can be named in its place. */
#include "scratch.h"

#include "ballast_quant.h"
#include "run/generate.h"

#include <limits.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define QWEN2 "tests/golden/families/qwen2/model"

static const char QWEN2_5[] =
    "{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] "
    "}}{%- else %}{{- '<|im_start|>system\\nYou are Qwen, created by Alibaba Cloud. You are a "
    "helpful assistant.<|im_end|>\\n' }}{%- endif %}";

/* A folder with the files of the golden model and that template, or without one (NULL). */
static const char *folder(const char *name, const char *jinja)
{
    static const char *const files[] = {"config.json", "generation_config.json",
                                        "model.safetensors", "tokenizer.json"};
    static char path[600];
    char root[PATH_MAX], from[PATH_MAX + 100], to[1100];
    assert_non_null(realpath(source_path(QWEN2), root));
    snprintf(path, sizeof path, "%s", scratch(name));
    assert_int_equal(mkdir(path, 0700), 0);
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        snprintf(from, sizeof from, "%s/%s", root, files[i]);
        snprintf(to, sizeof to, "%s/%s", path, files[i]);
        assert_int_equal(symlink(from, to), 0);
    }
    snprintf(to, sizeof to, "%s/chat_template.jinja", path);
    if (jinja) scratch_text(to, jinja);
    return path;
}

static void test_template_of_a_folder(void **state)
{
    (void)state;
    bal_engine e;
    bal_error err;
    ASSERT_OK(bal_engine_open(&e, folder("without", NULL), 1, NULL, &err));
    assert_string_equal(bal_chat_family_name(e.chat), "qwen2");
    bal_engine_close(&e);
    ASSERT_OK(bal_engine_open(&e, folder("qwen2_5", QWEN2_5), 1, NULL, &err));
    assert_string_equal(bal_chat_family_name(e.chat), "qwen2_5");
    bal_engine_close(&e);
}

static void test_file_keeps_it(void **state)
{
    (void)state;
    char out[600];
    bal_engine e;
    bal_error err;
    const bal_quant_opts o = {.size = sizeof o, .recipe = "rtn"};
    snprintf(out, sizeof out, "%s", scratch("kept.safetensors"));
    ASSERT_OK(bal_quantize(folder("to_keep", QWEN2_5), out, &o, &err));
    ASSERT_OK(bal_engine_open(&e, out, 1, NULL, &err));
    assert_string_equal(bal_chat_family_name(e.chat), "qwen2_5");
    bal_engine_close(&e);
}

static void test_unknown_template(void **state)
{
    (void)state;
    bal_engine e;
    bal_dialog d;
    bal_error err;
    const bal_sampling greedy = {.top_p = 1.0f};
    ASSERT_OK(bal_engine_open(&e, folder("unknown", "{{ messages }}"), 1, NULL, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "chat_template.jinja: the chat template '{{ messages }}...' is none",
                 bal_dialog_create(&d, &e, 64, &greedy, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "'plane'", bal_engine_use_chat(&e, "plane", &err));
    ASSERT_OK(bal_engine_use_chat(&e, "qwen2", &err));
    ASSERT_OK(bal_dialog_create(&d, &e, 64, &greedy, &err));
    bal_dialog_destroy(&d);
    bal_engine_close(&e);
}

static void test_unknown_template_is_kept_unknown(void **state)
{
    (void)state;
    char out[600];
    bal_engine e;
    bal_error err;
    bal_quant_opts o = {.size = sizeof o, .recipe = "rtn"};
    snprintf(out, sizeof out, "%s", scratch("unknown.safetensors"));
    const char *from = folder("unknown_too", "{{ messages }}");
    ASSERT_OK(bal_quantize(from, out, &o, &err));
    ASSERT_OK(bal_engine_open(&e, out, 1, NULL, &err));
    assert_int_equal(e.chat, BAL_CHAT_N_FAMILIES);
    assert_int_equal(bal_engine_check_chat(&e, &err), BAL_E_UNSUP);
    bal_engine_close(&e);
    o.chat_template = "chatml";
    o.force = true;
    ASSERT_OK(bal_quantize(from, out, &o, &err));
    ASSERT_OK(bal_engine_open(&e, out, 1, NULL, &err));
    assert_string_equal(bal_chat_family_name(e.chat), "chatml");
    bal_engine_close(&e);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_template_of_a_folder),
        cmocka_unit_test(test_file_keeps_it),
        cmocka_unit_test(test_unknown_template),
        cmocka_unit_test(test_unknown_template_is_kept_unknown),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
