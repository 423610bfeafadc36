/* SPDX-License-Identifier: MIT
 * From the bytes of a token to its id: an open hash table over bytes that lie elsewhere, built
 * once, then read only. Knows no file and no rule of tokenizing. */
#ifndef BAL_TEXT_TOKEN_INDEX_H
#define BAL_TEXT_TOKEN_INDEX_H

#include "base/status.h"

typedef struct bal_token_index_slot {
    const char *bytes; /* borrowed; NULL is free */
    uint32_t n, id;
} bal_token_index_slot;

/* Zero-initialised it is empty: nothing is found. */
typedef struct bal_token_index {
    bal_token_index_slot *slots;
    size_t mask;
} bal_token_index;

/* Room for n tokens. */
bal_status bal_token_index_init(bal_token_index *x, size_t n, bal_error *err);
void bal_token_index_deinit(bal_token_index *x);
/* Puts in a token of n >= 1 bytes and returns its id, or returns the id these bytes have already.
 */
uint32_t bal_token_index_add(bal_token_index *x, const char *bytes, uint32_t n, uint32_t id);
/* -1 if no token has these bytes. */
int32_t bal_token_index_find(const bal_token_index *x, const char *bytes, size_t n);

#endif
