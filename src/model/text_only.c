/* SPDX-License-Identifier: MIT
 * Language models without a vision tower: Llama, Qwen2 (and 2.5), Qwen3, InternLM2. They differ in
 * fields of the config only (model/config_read.c); InternLM2 also in names and in one tensor for
 * q, k and v. */
#include "model/config_read.h"
#include "model/family.h"

static bal_status read_text(bal_config *c, const bal_json *root, const char *type, bal_error *err)
{
    const char *const types[] = {type, NULL};
    return bal_config_text(&c->text, root, root, type, types, false, err);
}

static bal_status read_llama(bal_config *c, const bal_json *root, bal_error *err)
{
    return read_text(c, root, "llama", err);
}

static bal_status read_qwen2(bal_config *c, const bal_json *root, bal_error *err)
{
    return read_text(c, root, "qwen2", err);
}

static bal_status read_qwen3(bal_config *c, const bal_json *root, bal_error *err)
{
    return read_text(c, root, "qwen3", err);
}

static bal_status read_internlm2(bal_config *c, const bal_json *root, bal_error *err)
{
    return read_text(c, root, "internlm2", err);
}

static const bal_bind_rename prefixes[] = {{"model.language_model.", "model."}};

static const bal_bind_rename internlm2_prefixes[] = {{"model.language_model.", "model."},
                                                     {"lm_head.", "output."}};

static const bal_bind_rename internlm2_infixes[] = {BAL_INTERNLM2_INFIXES};

const bal_family_def bal_family_llama = {
    .id = 2,
    .model_type = "llama",
    .chat = "llama",
    .read = read_llama,
    .names = {prefixes, 1, NULL, 0},
};
const bal_family_def bal_family_qwen2 = {
    .id = 3,
    .model_type = "qwen2",
    .chat = "qwen2",
    .read = read_qwen2,
    .names = {prefixes, 1, NULL, 0},
};
const bal_family_def bal_family_qwen3 = {
    .id = 4,
    .model_type = "qwen3",
    .chat = "qwen3",
    .read = read_qwen3,
    .names = {prefixes, 1, NULL, 0},
};
const bal_family_def bal_family_internlm2 = {
    .id = 5,
    .model_type = "internlm2",
    .chat = "internlm2",
    .read = read_internlm2,
    .names = {internlm2_prefixes, 2, internlm2_infixes,
              sizeof internlm2_infixes / sizeof *internlm2_infixes},
};
