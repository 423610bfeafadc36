/* SPDX-License-Identifier: MIT
 * Any bytes as a safetensors file: either a sentence, or tensors that tile the data exactly and
 * are all found by name. Input that starts with '{' is given the length word it needs, so that
 * mutation reaches what lies behind it. */
#include "format/safetensors.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_tensor(const bal_tensor_set *set, const bal_tensor_view *t, const uint8_t *data,
                         size_t size)
{
    uint64_t count, n_bytes = 0;
    require(bal_tensor_find(set, t->name) == t);
    require(t->n_dims >= 0 && t->n_dims <= BAL_ST_MAX_DIMS);
    require(bal_st_count(t->shape, t->n_dims, &count) && bal_st_bytes(t->dtype, count, &n_bytes));
    require(n_bytes == t->n_bytes);
    require(t->data >= data + set->n_header_bytes && t->data + t->n_bytes <= data + size);
    require(strcmp(bal_tensor_file(set, t), "fuzz") == 0);
}

static void check_file(const uint8_t *data, size_t size)
{
    bal_error err;
    err.text[0] = 0;
    bal_tensor_set set;
    const bal_status st = bal_tensor_set_open_bytes(&set, data, size, "fuzz", &err);
    if (st < 0) {
        require(err.status == st && strstr(err.text, "fuzz") && !set.files && !set.tensors);
        return;
    }
    uint64_t sum = 0;
    for (size_t i = 0; i < set.n_tensors; i++) {
        check_tensor(&set, &set.tensors[i], data, size);
        sum += set.tensors[i].n_bytes;
    }
    require(sum == set.n_data_bytes && set.n_header_bytes + sum == size);
    for (size_t i = 0; i < set.n_meta; i++)
        require(bal_tensor_meta(&set, set.meta[i].key) == set.meta[i].value);
    bal_tensor_set_close(&set);
}

/* Text up to the first NUL as header, with the length that it has; what follows as data. */
static void check_framed(const uint8_t *data, size_t size)
{
    const uint8_t *nul = memchr(data, 0, size);
    const size_t len = nul ? (size_t)(nul - data) : size, n_data = size - len - (nul != NULL);
    uint8_t *file = malloc(8 + len + n_data);
    if (!file) return;
    for (int i = 0; i < 8; i++) file[i] = (uint8_t)((uint64_t)len >> 8 * i);
    memcpy(file + 8, data, len);
    if (n_data) memcpy(file + 8 + len, nul + 1, n_data);
    check_file(file, 8 + len + n_data);
    free(file);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size && data[0] == '{')
        check_framed(data, size);
    else
        check_file(data, size);
    return 0;
}
