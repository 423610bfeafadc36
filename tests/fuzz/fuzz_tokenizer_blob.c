/* SPDX-License-Identifier: MIT
 * Any bytes as a compiled tokenizer. What opens must encode a text to ids inside the vocabulary,
 * none of them special, whose bytes can be read. */
#include "text/tokenizer.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void encode(const bal_tokenizer *t)
{
    static const char text[] = "The 3 cats' caf\xc3\xa9\n\n  e\xcc\x81 <|im_end|>\xff aaaaaaaa";
    int32_t *ids = NULL;
    size_t n = 0;
    if (bal_tokenizer_encode(t, text, sizeof text, &ids, &n, NULL) < 0) return;
    for (size_t i = 0; i < n; i++) {
        const bal_token_view v = bal_tokenizer_decode(t, ids[i], true);
        if (ids[i] < 0 || (size_t)ids[i] >= bal_tokenizer_size(t) || v.n == 0) abort();
        if (bal_tokenizer_is_special(t, ids[i])) abort();
        uint8_t sum = 0;
        for (size_t b = 0; b < v.n; b++) sum = (uint8_t)(sum + (uint8_t)v.bytes[b]);
        static volatile uint8_t sink;
        sink = sum;
        (void)sink;
    }
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_error err;
    bal_tokenizer *t = NULL;
    if (bal_tokenizer_open_blob(&t, data, size, &err) < 0) return 0;
    encode(t);
    bal_tokenizer_token_id(t, "<|im_end|>");
    bal_tokenizer_close(t);
    return 0;
}
