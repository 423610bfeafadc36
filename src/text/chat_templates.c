/* SPDX-License-Identifier: MIT
 * The templates by family, and their names. Each is what the published chat_template (or, for
 * InternVL's remote code, conversation.py) writes for plain conversations; tools and video have no
 * place here. */
#include <stdio.h>
#include <string.h>

#include "text/chat_template.h"

#define CHATML_TURNS                                                                               \
    .turn = {"{<|im_start|>}system\n", "{<|im_start|>}user\n", "{<|im_start|>}assistant\n"},       \
    .end = {"{<|im_end|>}\n", "{<|im_end|>}\n", "{<|im_end|>}\n"}, .stop = "<|im_end|>"
#define LLAMA3_TURN(role) "{<|start_header_id|>}" role "{<|end_header_id|>}\n\n"
#define LLAMA3_TURNS(in_system)                                                                    \
    .turn = {LLAMA3_TURN("system") in_system, LLAMA3_TURN("user"), LLAMA3_TURN("assistant")},      \
    .end = {"{<|eot_id|>}", "{<|eot_id|>}", "{<|eot_id|>}"}, .stop = "<|eot_id|>"
#define UTTERANCES                                                                                 \
    .turn = {"System:", "User:", "Assistant:"}, .spacer = " ", .image = "{@<image>}",              \
    .end = {"{<end_of_utterance>}\n", "{<end_of_utterance>}\n", "{<end_of_utterance>}\n"},         \
    .stop = "<end_of_utterance>"
#define INTERNVL_IMAGES .image = "{@<IMG_CONTEXT>}\n", .images = "Image-#: {@<IMG_CONTEXT>}\n"

static const bal_chat_template templates[BAL_CHAT_N_FAMILIES] = {
    [BAL_CHAT_LLAVA_ONEVISION] = {"llava_onevision", .image = "{@<image>}\n", CHATML_TURNS},
    [BAL_CHAT_LLAVA_ONEVISION_SPACED] = {"llava_onevision_spaced",
                                         .turn = {"{<|im_start|>}system ", "{<|im_start|>}user ",
                                                  "{<|im_start|>}assistant "},
                                         .image = "{@<image>}", .before_text = "\n",
                                         .end = {"{<|im_end|>}", "{<|im_end|>}", "{<|im_end|>}"},
                                         .generation = "{<|im_start|>}assistant\n",
                                         .stop = "<|im_end|>"},
    [BAL_CHAT_LLAVA] = {"llava", BAL_CHAT_BOS, .turn = {"", "USER: ", "ASSISTANT: "},
                        .image = "{@<image>}\n", .after_text = " ", .end = {"", "", ""},
                        .generation = "ASSISTANT:", .stop = "</s>"},
    [BAL_CHAT_QWEN2_VL] = {"qwen2_vl", BAL_CHAT_BOS, .system = "You are a helpful assistant.",
                           .image = "{<|vision_start|>}{@<|image_pad|>}{<|vision_end|>}",
                           CHATML_TURNS},
    [BAL_CHAT_INTERNVL] = {"internvl", BAL_CHAT_BOS, .image = "{@<IMG_CONTEXT>}\n", CHATML_TURNS},
    [BAL_CHAT_INTERNVL2] =
        {"internvl2", BAL_CHAT_BOS | BAL_CHAT_SYSTEM_FIRST,
         .system = "你是由上海人工智能实验室联合商汤科技开发的书生多模态大模型，英文名叫InternVL, "
                   "是一个有用无害的人工智能助手。",
         .turn = {"{<|im_start|>}system\n", "{<|im_start|>}user\n", "{<|im_start|>}assistant\n"},
         INTERNVL_IMAGES, .end = {"{<|im_end|>}", "{<|im_end|>}", "{<|im_end|>}"},
         .stop = "<|im_end|>"},
    [BAL_CHAT_INTERNVL2_5] =
        {"internvl2_5", BAL_CHAT_BOS | BAL_CHAT_SYSTEM_FIRST,
         .system = "你是书生·万象，英文名是InternVL，是由上海人工智能实验室、清华大学及多家合作单位"
                   "联合开发的多模态大语言模型。",
         INTERNVL_IMAGES, CHATML_TURNS},
    [BAL_CHAT_SMOLVLM] = {"smolvlm", .open = "{<|im_start|>}", UTTERANCES},
    [BAL_CHAT_IDEFICS3] = {"idefics3", .open = "{<|begin_of_text|>}", UTTERANCES},
    [BAL_CHAT_LLAMA2] = {"llama2",
                         BAL_CHAT_STRIP | BAL_CHAT_SYSTEM_FIRST | BAL_CHAT_ALTERNATE |
                             BAL_CHAT_INSIDE,
                         .turn = {"{<s>}[INST] <<SYS>>\n", "{<s>}[INST] ", " "},
                         .end = {"\n<</SYS>>\n\n", " [/INST]", " {</s>}"}, .generation = "",
                         .stop = "</s>"},
    [BAL_CHAT_LLAMA3] = {"llama3", BAL_CHAT_STRIP, .open = "{<|begin_of_text|>}", LLAMA3_TURNS("")},
    [BAL_CHAT_LLAMA3_1] = {"llama3_1", BAL_CHAT_STRIP | BAL_CHAT_SYSTEM_FIRST,
                           .open = "{<|begin_of_text|>}", .system = "",
                           LLAMA3_TURNS("Cutting Knowledge Date: December 2023\n"
                                        "Today Date: 26 Jul 2024\n\n")},
    [BAL_CHAT_QWEN2] = {"qwen2", .system = "You are a helpful assistant.", CHATML_TURNS},
    [BAL_CHAT_QWEN2_5] = {"qwen2_5",
                          .system = "You are Qwen, created by Alibaba Cloud. You are a helpful "
                                    "assistant.",
                          CHATML_TURNS},
    [BAL_CHAT_QWEN3] = {"qwen3", BAL_CHAT_THINKS, CHATML_TURNS},
    [BAL_CHAT_QWEN3_NO_THINKING] = {"qwen3_no_thinking", BAL_CHAT_THINKS, CHATML_TURNS,
                                    .generation =
                                        "{<|im_start|>}assistant\n{<think>}\n\n{</think>}\n\n"},
    [BAL_CHAT_INTERNLM2] = {"internlm2", .open = "{<s>}", CHATML_TURNS},
    [BAL_CHAT_SMOLLM2] = {"smollm2",
                          .system = "You are a helpful AI assistant named SmolLM, trained by "
                                    "Hugging Face",
                          CHATML_TURNS},
    [BAL_CHAT_CHATML] = {"chatml", CHATML_TURNS},
    [BAL_CHAT_PLAIN] = {"plain", BAL_CHAT_BOS, .turn = {"", "", ""}, .end = {"", "", ""}},
};

const bal_chat_template *bal_chat_template_of(bal_chat_family family)
{
    return templates + family;
}

const char *bal_chat_family_name(bal_chat_family family)
{
    return (unsigned)family < BAL_CHAT_N_FAMILIES ? templates[family].name : "?";
}

/* model_type of config.json, where it is not a family's name */
static const struct {
    const char *model_type;
    bal_chat_family family;
} model_types[] = {
    {"qwen2_5_vl", BAL_CHAT_QWEN2_VL},
    {"internvl_chat", BAL_CHAT_INTERNVL2_5},
    {"llama", BAL_CHAT_PLAIN},
};

bal_status bal_chat_family_find(bal_chat_family *out, const char *name, bal_error *err)
{
    char known[512];
    size_t n = 0;
    for (int f = 0; f < BAL_CHAT_N_FAMILIES; f++) {
        *out = (bal_chat_family)f;
        if (strcmp(name, templates[f].name) == 0) return BAL_OK;
        const int room = (int)(sizeof known - n);
        n += (size_t)snprintf(known + n, (size_t)room, "%s%s", f ? ", " : "", templates[f].name);
    }
    for (size_t i = 0; i < sizeof model_types / sizeof *model_types; i++) {
        *out = model_types[i].family;
        if (strcmp(name, model_types[i].model_type) == 0) return BAL_OK;
    }
    return bal_fail(err, BAL_E_UNSUP, "no chat template is named '%.60s', expected one of %s", name,
                    known);
}
