/* SPDX-License-Identifier: MIT
 * A tokenizer.json small enough to break on purpose: ids 0 to 255 are the bytes, 256 "ab", 257
 * "abc", 258 to 260 added tokens. Every field of tiny_json replaces one part of it. */
#ifndef BAL_TESTS_TEXT_TINY_H
#define BAL_TESTS_TEXT_TINY_H

#include "check.h"
#include "text/tokenizer.h"
#include "text/utf8.h"

typedef struct tiny_json {
    const char *more_vocab, *merges, *added, *normalizer, *pre_tokenizer, *more_model, *more_root;
} tiny_json;

#define TINY_SPLIT                                                                                 \
    "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\" "     \
    "?[^\\\\s]+|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},{\"type\":\"ByteLevel\","    \
    "\"add_prefix_space\":false,\"use_regex\":false}]}"

static const tiny_json tiny_default = {
    .more_vocab = ",\"ab\":256,\"abc\":257",
    .merges = "[\"a b\",[\"ab\",\"c\"]]",
    .added = "[{\"id\":258,\"content\":\"<|im_start|>\",\"special\":true},"
             "{\"id\":259,\"content\":\"<|im_end|>\",\"special\":true},"
             "{\"id\":260,\"content\":\"<image>\",\"special\":false}]",
    .normalizer = "{\"type\":\"NFC\"}",
    .pre_tokenizer = TINY_SPLIT,
    .more_model = "",
    .more_root = "",
};

/* "letter":byte for all 256 bytes, in GPT-2's alphabet */
static inline size_t tiny_alphabet(char *out, size_t size)
{
    size_t n = 0;
    unsigned next = 256;
    for (unsigned b = 0; b < 256; b++) {
        const bool shown = (b > 32 && b < 127) || (b > 160 && b != 173);
        char letter[5] = {0};
        bal_utf8_put(shown ? b : next++, letter);
        const char *escape = b == '"' || b == '\\' ? "\\" : "";
        n += (size_t)snprintf(out + n, size - n, "%s\"%s%s\":%u", b ? "," : "", escape, letter, b);
    }
    return n;
}

/* The JSON in a static buffer, good until the next call. */
static inline const char *tiny_text(tiny_json j)
{
    static char text[32768];
    char alphabet[8192];
    tiny_alphabet(alphabet, sizeof alphabet);
    const int n =
        snprintf(text, sizeof text,
                 "{\"version\":\"1.0\",\"added_tokens\":%s,\"normalizer\":%s,\"pre_tokenizer\":%s,"
                 "\"model\":{\"type\":\"BPE\"%s,\"vocab\":{%s%s},\"merges\":%s}%s}",
                 j.added, j.normalizer, j.pre_tokenizer, j.more_model, alphabet, j.more_vocab,
                 j.merges, j.more_root);
    assert_in_range(n, 1, sizeof text - 1);
    return text;
}

static inline bal_status tiny_open(bal_tokenizer **t, tiny_json j, bal_error *err)
{
    const char *text = tiny_text(j);
    return bal_tokenizer_open_json(t, "tiny.json", text, strlen(text), err);
}

/* Encodes and compares with n expected ids. */
static inline void assert_ids(const bal_tokenizer *t, const char *text, size_t n_text,
                              const int32_t *expected, size_t n)
{
    bal_error err;
    int32_t *ids = NULL;
    size_t n_ids = 0;
    ASSERT_OK(bal_tokenizer_encode(t, text, n_text, &ids, &n_ids, &err));
    for (size_t i = 0; i < n && i < n_ids; i++)
        if (ids[i] != expected[i])
            fail_msg("'%.*s': id %d at %zu, expected %d", (int)n_text, text, ids[i], i,
                     expected[i]);
    if (n_ids != n) fail_msg("'%.*s': %zu ids, expected %zu", (int)n_text, text, n_ids, n);
    free(ids);
}

#endif
