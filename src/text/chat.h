/* SPDX-License-Identifier: MIT
 * Conversations to token ids, one table row per family of templates. The result is what Hugging
 * Face gets by rendering the family's chat template and tokenizing the text, with one difference
 * on purpose: special tokens that stand in a message's own text stay plain text, so a message
 * cannot end its turn, open another one or claim an image.
 *
 * Every token has a tag (design, "a token has a modality"): the content of assistant turns and the
 * token that closes it are ANSWER, a picture's placeholder is IMAGE_SLOT (the caller expands it to
 * the picture's features), everything else is PROMPT. */
#ifndef BAL_TEXT_CHAT_H
#define BAL_TEXT_CHAT_H

#include "text/tokenizer.h"

typedef enum bal_token_tag {
    BAL_TAG_PROMPT,
    BAL_TAG_ANSWER,
    BAL_TAG_IMAGE_SLOT,
} bal_token_tag;

/* What each one renders: chat_templates.c, docs/families.md. */
typedef enum bal_chat_family {
    BAL_CHAT_LLAVA_ONEVISION,        /* ChatML by lines, no default system turn */
    BAL_CHAT_LLAVA_ONEVISION_SPACED, /* as the llava-hf checkpoints have it */
    BAL_CHAT_LLAVA,                  /* LLaVA-1.5: USER: / ASSISTANT: */
    BAL_CHAT_QWEN2_VL,               /* Qwen2-VL and Qwen2.5-VL */
    BAL_CHAT_INTERNVL,               /* InternVL, native layout */
    BAL_CHAT_INTERNVL2,              /* InternVL2, remote code: internlm2-chat and Hermes-2 */
    BAL_CHAT_INTERNVL2_5,            /* InternVL2.5 and 3, remote code */
    BAL_CHAT_SMOLVLM,
    BAL_CHAT_IDEFICS3,
    BAL_CHAT_LLAMA2,
    BAL_CHAT_LLAMA3,
    BAL_CHAT_LLAMA3_1, /* 3.1 to 3.3, with the date a template has where nobody gives one */
    BAL_CHAT_QWEN2,
    BAL_CHAT_QWEN2_5,
    BAL_CHAT_QWEN3,
    BAL_CHAT_QWEN3_NO_THINKING, /* the answer begins behind an empty block of thoughts */
    BAL_CHAT_INTERNLM2,
    BAL_CHAT_SMOLLM2,
    BAL_CHAT_CHATML, /* no default system turn */
    BAL_CHAT_PLAIN,  /* base models: the text and nothing around it */
    BAL_CHAT_N_FAMILIES,
} bal_chat_family;

typedef enum bal_chat_role {
    BAL_CHAT_SYSTEM,
    BAL_CHAT_USER,
    BAL_CHAT_ASSISTANT,
    BAL_CHAT_N_ROLES,
} bal_chat_role;

typedef struct bal_chat_message {
    bal_chat_role role;
    const char *text; /* n bytes, borrowed; NULL is a message without text */
    size_t n;
    size_t n_images; /* all images of a message come before its text */
} bal_chat_message;

/* Zero-initialise; bal_chat_tokens_deinit frees both rows. */
typedef struct bal_chat_tokens {
    int32_t *ids;
    uint8_t *tags; /* bal_token_tag */
    size_t n;
} bal_chat_tokens;

/* The name of a family ("qwen2_vl"), for files and messages; a static string. */
const char *bal_chat_family_name(bal_chat_family family);
/* By that name, or by a model_type of config.json: what its models have where no template is at
 * hand
 * ("qwen2_5_vl", "llama": plain). BAL_E_UNSUP names the known ones. */
bal_status bal_chat_family_find(bal_chat_family *out, const char *name, bal_error *err);
/* By the text of a chat_template (Jinja), from the marks that only this family's has.
 * BAL_E_UNSUP: none of the known ones, which the message lists. */
bal_status bal_chat_family_recognise(bal_chat_family *out, const char *text, size_t n,
                                     bal_error *err);
/* The family of a model folder: its template in chat_template.jinja, chat_template.json,
 * processor_config.json or tokenizer_config.json, in this order; for "internvl_chat", whose code
 * has templates of its own, the one that config.json names; without any the model_type's. */
bal_status bal_chat_family_of_dir(bal_chat_family *out, const char *dir, const char *model_type,
                                  bal_error *err);
/* By name ("user"); BAL_E_ARG names the known ones. */
bal_status bal_chat_role_find(bal_chat_role *out, const char *name, bal_error *err);
/* The token that ends an assistant turn; BAL_E_FORMAT if the tokenizer lacks it. */
bal_status bal_chat_stop_id(const bal_tokenizer *t, bal_chat_family family, int32_t *id,
                            bal_error *err);

/* A conversation from its beginning. generation_prompt: ends with the header of an assistant turn
 * that is yet to come. Zero messages are fine. *out is overwritten. A token that holds bytes of the
 * header and of the content ("\n\n" where an answer begins with a newline) counts as what its last
 * byte is. BAL_E_ARG: roles in an order that the template has no words for, pictures for one that
 * takes none. */
bal_status bal_chat_encode(bal_chat_tokens *out, const bal_tokenizer *t, bal_chat_family family,
                           const bal_chat_message *messages, size_t n_messages,
                           bool generation_prompt, bal_error *err);
/* What comes behind the tokens of a generated answer, its stop token not among them: the close of
 * that turn, the next question and the header of the next answer. */
bal_status bal_chat_continue(bal_chat_tokens *out, const bal_tokenizer *t, bal_chat_family family,
                             const bal_chat_message *question, bal_error *err);
void bal_chat_tokens_deinit(bal_chat_tokens *tokens);

#endif
