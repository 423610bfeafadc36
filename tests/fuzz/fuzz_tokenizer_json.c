/* SPDX-License-Identifier: MIT
 * Any text as a tokenizer.json. What opens must encode, and its compiled form must open again and
 * give the same ids. */
#include "text/tokenizer.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] = "The 3 cats' caf\xc3\xa9\n\n  e\xcc\x81 <|im_end|>\xff abcabcabc";

static void compare(const bal_tokenizer *a, const bal_tokenizer *b)
{
    int32_t *ids_a = NULL, *ids_b = NULL;
    size_t n_a = 0, n_b = 0;
    const bal_status st_a = bal_tokenizer_encode(a, text, sizeof text, &ids_a, &n_a, NULL);
    const bal_status st_b = bal_tokenizer_encode(b, text, sizeof text, &ids_b, &n_b, NULL);
    if (st_a != st_b || n_a != n_b) abort();
    if (n_a && memcmp(ids_a, ids_b, n_a * sizeof *ids_a) != 0) abort();
    free(ids_a);
    free(ids_b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_error err;
    bal_tokenizer *t = NULL, *again = NULL;
    if (bal_tokenizer_open_json(&t, "fuzz", (const char *)data, size, &err) < 0) return 0;
    size_t n = 0;
    const uint8_t *blob = bal_tokenizer_blob(t, &n);
    if (bal_tokenizer_open_blob(&again, blob, n, &err) < 0) abort();
    compare(t, again);
    bal_tokenizer_close(again);
    bal_tokenizer_close(t);
    return 0;
}
