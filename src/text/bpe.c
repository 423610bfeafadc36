/* SPDX-License-Identifier: MIT */
#include "text/bpe.h"

#include <stdlib.h>

#include "base/size.h"

#define NONE UINT32_MAX

bal_status bal_ids_reserve(bal_ids *ids, size_t n_more, bal_error *err)
{
    size_t need = 0, n_bytes = 0;
    if (!bal_size_add(ids->n, n_more, &need)) return bal_nomem(err, n_more, "token ids");
    if (need <= ids->cap) return BAL_OK;
    const size_t cap = bal_max(need, bal_max(64, ids->cap + ids->cap / 2));
    int32_t *v = bal_size_mul(cap, sizeof *v, &n_bytes) ? realloc(ids->v, n_bytes) : NULL;
    if (!v) return bal_nomem(err, n_bytes, "token ids");
    ids->v = v;
    ids->cap = cap;
    return BAL_OK;
}

bal_status bal_ids_push(bal_ids *ids, int32_t id, bal_error *err)
{
    BAL_TRY(bal_ids_reserve(ids, 1, err));
    ids->v[ids->n++] = id;
    return BAL_OK;
}

/* ---- Table ------------------------------------------------------------------------------- */

bal_status bal_bpe_table_init(bal_bpe_table *t, size_t n_merges, bal_error *err)
{
    unsigned bits = 4;
    while (((size_t)1 << bits) < 2 * n_merges) bits++;
    *t = (bal_bpe_table){.slots = calloc((size_t)1 << bits, sizeof *t->slots), .shift = 64 - bits};
    return t->slots ? BAL_OK : bal_nomem(err, sizeof *t->slots << bits, "the table of merges");
}

void bal_bpe_table_deinit(bal_bpe_table *t)
{
    free(t->slots);
    free(t->priority);
    *t = (bal_bpe_table){0};
}

/* The slot that holds `pair`, or the free one where it belongs: at most half of them are taken. */
static uint64_t *slot_of(const bal_bpe_table *t, uint64_t pair)
{
    const size_t mask = SIZE_MAX >> t->shift;
    size_t i = (size_t)(pair * 0x9e3779b97f4a7c15u >> t->shift);
    while (t->slots[i] && t->slots[i] >> 24 != pair) i = (i + 1) & mask;
    return t->slots + i;
}

uint32_t bal_bpe_table_add(bal_bpe_table *t, uint32_t left, uint32_t right, uint32_t rank)
{
    const uint64_t pair = (uint64_t)left << 20 | right;
    uint64_t *slot = slot_of(t, pair);
    if (!*slot) *slot = pair << 24 | (rank + 1);
    return (uint32_t)(*slot & 0xffffff) - 1;
}

uint32_t bal_bpe_table_find(const bal_bpe_table *t, uint32_t left, uint32_t right)
{
    const uint64_t slot = *slot_of(t, (uint64_t)left << 20 | right);
    return (uint32_t)(slot & 0xffffff) - 1; /* a free slot gives BAL_BPE_NO_RANK */
}

/* ---- Heap of (rank, position), smallest first ---------------------------------------------- */

static void sift_down(uint64_t *heap, size_t n, size_t i)
{
    const uint64_t key = heap[i];
    for (size_t child; (child = 2 * i + 1) < n; i = child) {
        child += child + 1 < n && heap[child + 1] < heap[child];
        if (heap[child] >= key) break;
        heap[i] = heap[child];
    }
    heap[i] = key;
}

static void heap_push(bal_bpe_scratch *s, uint64_t key)
{
    size_t i = s->n_heap++;
    for (; i > 0 && s->heap[(i - 1) / 2] > key; i = (i - 1) / 2) s->heap[i] = s->heap[(i - 1) / 2];
    s->heap[i] = key;
}

static uint64_t heap_pop(bal_bpe_scratch *s)
{
    const uint64_t top = s->heap[0];
    s->heap[0] = s->heap[--s->n_heap];
    sift_down(s->heap, s->n_heap, 0);
    return top;
}

/* ---- Merging ------------------------------------------------------------------------------- */

void bal_bpe_scratch_deinit(bal_bpe_scratch *s)
{
    free(s->symbols);
    free(s->heap);
    *s = (bal_bpe_scratch){0};
}

/* Every merge removes one symbol and pushes at most two keys: 3 n keys are always enough. */
static bal_status scratch_reserve(bal_bpe_scratch *s, size_t n, bal_error *err)
{
    if (n <= s->cap) return BAL_OK;
    const size_t cap = bal_max(64, n + n / 2);
    bal_bpe_scratch_deinit(s);
    size_t n_symbols = 0, n_heap = 0;
    if (bal_size_mul(cap, sizeof *s->symbols, &n_symbols)) s->symbols = malloc(n_symbols);
    if (bal_size_mul(cap, 3 * sizeof *s->heap, &n_heap)) s->heap = malloc(n_heap);
    if (!s->symbols || !s->heap) return bal_nomem(err, n_symbols + n_heap, "merging a text");
    s->cap = cap;
    return BAL_OK;
}

/* Looks up the pair that symbol i and its next make. */
static void rank_pair(const bal_bpe_table *t, bal_bpe_symbol *symbols, uint32_t i)
{
    bal_bpe_symbol *s = symbols + i;
    s->rank = s->next == NONE ? BAL_BPE_NO_RANK : bal_bpe_table_find(t, s->id, symbols[s->next].id);
}

static uint32_t priority_of(const bal_bpe_table *t, uint32_t rank)
{
    return t->priority && rank != BAL_BPE_NO_RANK ? t->priority[rank] : rank;
}

static void queue_pair(const bal_bpe_table *t, bal_bpe_scratch *s, uint32_t i)
{
    const uint32_t rank = s->symbols[i].rank;
    if (rank != BAL_BPE_NO_RANK) heap_push(s, (uint64_t)priority_of(t, rank) << 32 | i);
}

static void load(const bal_bpe_table *t, bal_bpe_scratch *s, const int32_t *ids, size_t n)
{
    for (uint32_t i = 0; i < n; i++)
        s->symbols[i] = (bal_bpe_symbol){
            .id = (uint32_t)ids[i], .prev = i ? i - 1 : NONE, .next = i + 1 < n ? i + 1 : NONE};
    s->n_heap = 0;
    for (uint32_t i = 0; i < n; i++) {
        rank_pair(t, s->symbols, i);
        queue_pair(t, s, i);
    }
}

/* Symbol i takes in its next one and becomes `id`. */
static void join(const bal_bpe_table *t, bal_bpe_scratch *s, uint32_t i, uint32_t id)
{
    bal_bpe_symbol *symbols = s->symbols, *left = symbols + i, *right = symbols + left->next;
    right->rank = BAL_BPE_NO_RANK; /* keys that name it are stale from now on */
    left->id = id;
    left->next = right->next;
    if (left->next != NONE) symbols[left->next].prev = i;
    rank_pair(t, symbols, i);
    queue_pair(t, s, i);
    if (left->prev == NONE) return;
    rank_pair(t, symbols, left->prev);
    queue_pair(t, s, left->prev);
}

bal_status bal_bpe_merge(const bal_bpe_table *t, bal_bpe_result_fn *result_of, const void *ctx,
                         bal_bpe_scratch *scratch, int32_t *ids, size_t *n, bal_error *err)
{
    if (*n < 2) return BAL_OK;
    BAL_TRY(scratch_reserve(scratch, *n, err));
    load(t, scratch, ids, *n);
    while (scratch->n_heap) {
        const uint64_t key = heap_pop(scratch);
        const uint32_t i = (uint32_t)key, rank = scratch->symbols[i].rank;
        /* a key is stale when its symbol is gone or makes another pair by now */
        if (rank != BAL_BPE_NO_RANK && priority_of(t, rank) == key >> 32)
            join(t, scratch, i, result_of(ctx, rank));
    }
    *n = 0;
    for (uint32_t i = 0; i != NONE; i = scratch->symbols[i].next)
        ids[(*n)++] = (int32_t)scratch->symbols[i].id;
    return BAL_OK;
}
