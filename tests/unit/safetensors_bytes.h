/* SPDX-License-Identifier: MIT
 * Safetensors files put together by hand for tests: independent of the writer, and free to be
 * wrong. In headers ' stands for ". */
#ifndef BAL_TESTS_SAFETENSORS_BYTES_H
#define BAL_TESTS_SAFETENSORS_BYTES_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

typedef struct st_bytes {
    uint8_t *data;
    size_t n;
} st_bytes;

/* length word (that of the header plus `lie`), header, and n_data bytes counting up from 0; of
 * exactly that size, so that a sanitizer sees the first byte past the end. Free .data. */
static inline st_bytes st_make_lying(const char *header, size_t n_data, int64_t lie)
{
    const size_t len = strlen(header);
    const uint64_t word = len + (uint64_t)lie;
    st_bytes b = {malloc(8 + len + n_data), 8 + len + n_data};
    for (int i = 0; i < 8; i++) b.data[i] = (uint8_t)(word >> 8 * i);
    for (size_t i = 0; i < len; i++) b.data[8 + i] = header[i] == '\'' ? '"' : (uint8_t)header[i];
    for (size_t i = 0; i < n_data; i++) b.data[8 + len + i] = (uint8_t)i;
    return b;
}

static inline st_bytes st_make(const char *header, size_t n_data)
{
    return st_make_lying(header, n_data, 0);
}

#endif
