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

typedef enum bal_chat_family {
    BAL_CHAT_LLAVA_ONEVISION, /* ChatML, no default system turn; transformers' conversion script */
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
    const char *text; /* n bytes, borrowed; may be NULL when n is 0 */
    size_t n;
    size_t n_images; /* all images of a message come before its text */
} bal_chat_message;

/* Zero-initialise; bal_chat_tokens_deinit frees both rows. */
typedef struct bal_chat_tokens {
    int32_t *ids;
    uint8_t *tags; /* bal_token_tag */
    size_t n;
} bal_chat_tokens;

/* By config.json's model_type ("llava_onevision"); BAL_E_UNSUP names the known ones. */
bal_status bal_chat_family_find(bal_chat_family *out, const char *model_type, bal_error *err);
/* By name ("user"); BAL_E_ARG names the known ones. */
bal_status bal_chat_role_find(bal_chat_role *out, const char *name, bal_error *err);
/* The token that ends an assistant turn; BAL_E_FORMAT if the tokenizer lacks it. */
bal_status bal_chat_stop_id(const bal_tokenizer *t, bal_chat_family family, int32_t *id,
                            bal_error *err);

/* generation_prompt: ends with the header of an assistant turn that is yet to come. Zero messages
 * are fine. *out is overwritten. A token that holds bytes of the header and of the content ("\n\n"
 * where an answer begins with a newline) counts as content. */
bal_status bal_chat_encode(bal_chat_tokens *out, const bal_tokenizer *t, bal_chat_family family,
                           const bal_chat_message *messages, size_t n_messages,
                           bool generation_prompt, bal_error *err);
void bal_chat_tokens_deinit(bal_chat_tokens *tokens);

#endif
