/* SPDX-License-Identifier: MIT
 * Every position of a sequence has a modality, from the tokenizer to the KV cache. */
#ifndef BAL_BASE_MODALITY_H
#define BAL_BASE_MODALITY_H

/* Image features and newline embeddings are VISION; generated tokens and, in calibration, the
 * tokens of assistant turns with their closing mark are ANSWER; all else is PROMPT. */
typedef enum bal_modality { BAL_PROMPT, BAL_ANSWER, BAL_VISION, BAL_MODALITIES } bal_modality;

#endif
