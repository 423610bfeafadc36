/* SPDX-License-Identifier: MIT
 * Any bytes as a tokenizer.model, with and without a config beside it. What opens must encode
 * without special tokens, and its compiled form must give the same ids. */
#include "text/tokenizer_draft.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char text[] = "The 3 cats' caf\xc3\xa9\n\n  \xe2\x96\x81 <s>\xff abab <0x41>";
static const char config_text[] =
    "{\"tokenizer_class\":\"LlamaTokenizer\",\"legacy\":false,\"added_tokens_decoder\":"
    "{\"0\":{\"content\":\"<unk>\",\"special\":true},\"260\":{\"content\":\"<|im_end|>\"}}}";

static void compare(const bal_tokenizer *a, const bal_tokenizer *b)
{
    int32_t *ids_a = NULL, *ids_b = NULL;
    size_t n_a = 0, n_b = 0;
    const bal_status st_a = bal_tokenizer_encode(a, text, sizeof text, &ids_a, &n_a, NULL);
    const bal_status st_b = bal_tokenizer_encode(b, text, sizeof text, &ids_b, &n_b, NULL);
    if (st_a < 0 || st_b < 0 || n_a != n_b || memcmp(ids_a, ids_b, n_a * sizeof *ids_a) != 0)
        abort();
    for (size_t i = 0; i < n_a; i++)
        if (bal_tokenizer_is_special(a, ids_a[i])) abort();
    free(ids_a);
    free(ids_b);
}

static void try(const uint8_t *data, size_t size, const json_t *config)
{
    bal_error err;
    uint8_t *blob = NULL;
    size_t n = 0;
    bal_tokenizer *t = NULL, *again = NULL;
    if (bal_sentencepiece_pack(data, size, config, NULL, &blob, &n, &err) < 0) return;
    if (bal_tokenizer_open_owned(&t, blob, n, &err) < 0) return;
    if (bal_tokenizer_open_blob(&again, bal_tokenizer_blob(t, &n), n, &err) < 0) abort();
    compare(t, again);
    bal_tokenizer_close(again);
    bal_tokenizer_close(t);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *config = json_loads(config_text, 0, NULL);
    try(data, size, NULL);
    try(data, size, config);
    json_decref(config);
    return 0;
}
