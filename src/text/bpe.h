/* SPDX-License-Identifier: MIT
 * Byte-pair encoding of one piece of text: the table of merges and the merging itself. Knows ids
 * and ranks only; bytes, files and special tokens are the tokenizer's. */
#ifndef BAL_TEXT_BPE_H
#define BAL_TEXT_BPE_H

#include "base/status.h"

#define BAL_BPE_IDS_MAX    (1u << 20) /* ids are below this */
#define BAL_BPE_MERGES_MAX (1u << 22)
#define BAL_BPE_NO_RANK    UINT32_MAX

/* ---- Ids in a growing row. Zero-initialise; v is malloc'ed and the holder's. ---- */
typedef struct bal_ids {
    int32_t *v;
    size_t n, cap;
} bal_ids;

/* Makes room for n_more ids behind the first n. */
bal_status bal_ids_reserve(bal_ids *ids, size_t n_more, bal_error *err);
bal_status bal_ids_push(bal_ids *ids, int32_t id, bal_error *err);

/* ---- Merges: an open hash table (left id, right id) -> rank, built once, then read only. ---- */
typedef struct bal_bpe_table {
    uint64_t *slots;    /* left << 44 | right << 24 | rank + 1; 0 is free */
    unsigned shift;     /* a product of 64 bits >> shift is a slot number */
    uint32_t *priority; /* of each rank, malloc'ed, lowest first; NULL: the rank itself */
} bal_bpe_table;

bal_status bal_bpe_table_init(bal_bpe_table *t, size_t n_merges, bal_error *err);
void bal_bpe_table_deinit(bal_bpe_table *t);
/* Puts in (left, right) with this rank, or returns the rank the pair has already. Ids and rank
 * must be below their limits and no more than n_merges pairs may go in. */
uint32_t bal_bpe_table_add(bal_bpe_table *t, uint32_t left, uint32_t right, uint32_t rank);
/* BAL_BPE_NO_RANK if the pair does not merge. */
uint32_t bal_bpe_table_find(const bal_bpe_table *t, uint32_t left, uint32_t right);

/* ---- Merging ---- */
typedef struct bal_bpe_symbol {
    uint32_t id, rank; /* rank of the pair this symbol and the next one make */
    uint32_t prev, next;
} bal_bpe_symbol;

/* Working memory for one thread; zero-initialise. */
typedef struct bal_bpe_scratch {
    bal_bpe_symbol *symbols;
    uint64_t *heap; /* rank << 32 | position */
    size_t n_heap, cap;
} bal_bpe_scratch;

void bal_bpe_scratch_deinit(bal_bpe_scratch *s);

/* Merges ids[0..n) in place, at any time the pair of lowest priority and of those the leftmost,
 * until no pair merges; *n becomes the number left. result_of(ctx, rank) is the id that merge
 * makes. O(n log n). n < 2^31. Fails for memory only. */
typedef uint32_t bal_bpe_result_fn(const void *ctx, uint32_t rank);
bal_status bal_bpe_merge(const bal_bpe_table *t, bal_bpe_result_fn *result_of, const void *ctx,
                         bal_bpe_scratch *scratch, int32_t *ids, size_t *n, bal_error *err);

#endif
