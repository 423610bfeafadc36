/* SPDX-License-Identifier: MIT
 * Cuts text into the pieces that byte-pair encoding then works on, by the regular expression of a
 * tokenizer.json ("Split" with behavior "Isolated": matches and the gaps between them are pieces).
 * Those expressions are written for Oniguruma and run here on PCRE2; what the two engines read
 * differently is translated (white space) or refused with a sentence, never run on a guess. */
#ifndef BAL_TEXT_SPLITTER_H
#define BAL_TEXT_SPLITTER_H

#include "base/status.h"

/* The expression of GPT-2 (what "ByteLevel" with use_regex means) and that of Qwen2. */
#define BAL_SPLIT_GPT2                                                                             \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"
#define BAL_SPLIT_QWEN2                                                                            \
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}"                            \
    "| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

/* What "Digits" with individual_digits and then "ByteLevel" with use_regex do one after the other
 * (SmolLM2): every digit is a piece of its own, and GPT-2's expression sees the text between them,
 * so that for it white space before a digit stands at the end. */
#define BAL_SPLIT_DIGITS_GPT2                                                                      \
    "\\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?![^\\s\\p{N}])|\\s+"

#define BAL_SPLIT_PATTERN_MAX 4096 /* bytes */

/* Immutable once open; any number of threads may use one at the same time. */
typedef struct bal_splitter bal_splitter;

/* Fails with BAL_E_UNSUP for constructs outside the common ground of both engines and for
 * expressions that can match nothing at all, with BAL_E_FORMAT for broken ones. */
bal_status bal_splitter_open(bal_splitter **out, const char *pattern, size_t n, bal_error *err);
void bal_splitter_close(bal_splitter *s);

/* Called with each piece (at least one byte) in order; a negative status stops the walk. */
typedef bal_status bal_piece_fn(void *ctx, const char *piece, size_t n, bal_error *err);

/* Text must be valid UTF-8. Fails when fn fails, for memory, and with BAL_E_FORMAT when the
 * expression backtracks without end. */
bal_status bal_splitter_each(const bal_splitter *s, const char *text, size_t n, bal_piece_fn *fn,
                             void *ctx, bal_error *err);

#endif
