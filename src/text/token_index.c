/* SPDX-License-Identifier: MIT */
#include "text/token_index.h"

#include <stdlib.h>
#include <string.h>

#include "base/size.h"

bal_status bal_token_index_init(bal_token_index *x, size_t n, bal_error *err)
{
    size_t n_slots = 16;
    while (n_slots < 2 * n) n_slots *= 2;
    *x = (bal_token_index){.slots = calloc(n_slots, sizeof *x->slots), .mask = n_slots - 1};
    return x->slots ? BAL_OK : bal_nomem(err, n_slots * sizeof *x->slots, "an index of tokens");
}

void bal_token_index_deinit(bal_token_index *x)
{
    free(x->slots);
    *x = (bal_token_index){0};
}

/* FNV-1a, and a last round that brings the high bits down to where the mask looks. */
static size_t hash(const char *bytes, size_t n)
{
    uint64_t h = 0xcbf29ce484222325u;
    for (size_t i = 0; i < n; i++) h = (h ^ (uint8_t)bytes[i]) * 0x100000001b3u;
    h *= 0x9e3779b97f4a7c15u;
    return (size_t)(h ^ h >> 32);
}

/* The slot that holds these bytes, or the free one where they belong: at most half are taken. */
static bal_token_index_slot *slot_of(const bal_token_index *x, const char *bytes, size_t n)
{
    size_t i = hash(bytes, n) & x->mask;
    for (;; i = (i + 1) & x->mask) {
        bal_token_index_slot *s = x->slots + i;
        if (!s->bytes || (s->n == n && memcmp(s->bytes, bytes, n) == 0)) return s;
    }
}

uint32_t bal_token_index_add(bal_token_index *x, const char *bytes, uint32_t n, uint32_t id)
{
    bal_token_index_slot *s = slot_of(x, bytes, n);
    if (!s->bytes) *s = (bal_token_index_slot){bytes, n, id};
    return s->id;
}

int32_t bal_token_index_find(const bal_token_index *x, const char *bytes, size_t n)
{
    if (!x->slots) return -1;
    const bal_token_index_slot *s = slot_of(x, bytes, n);
    return s->bytes ? (int32_t)s->id : -1;
}
