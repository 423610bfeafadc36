/* SPDX-License-Identifier: MIT
 * The paged cache: pages of 64 positions from one pool with counted references, sequences as lists
 * of pages, and an index by which a new sequence finds pages that hold its beginning already.
 *
 * A position's key is a hash of everything up to it (run/prefix.h), so equal keys mean equal
 * contents. A page in the index is sealed: it never changes again; a sequence that ends inside one
 * and grows gets a copy of what it uses. Pages in the index that nobody holds stay until they are
 * needed, the longest unused first. One thread at a time. */
#ifndef BAL_RUN_KV_CACHE_H
#define BAL_RUN_KV_CACHE_H

#include "base/hash.h"
#include "model/device_model.h"
#include "op/kv.h"
#include "run/token.h"

typedef struct bal_key {
    uint8_t b[BAL_SHA256_BYTES];
} bal_key;

typedef struct bal_kv_slot bal_kv_slot; /* what is known of a page */

typedef struct bal_kv_pool {
    bal_kv_layout layout;
    int n_pages;
    int n_free;               /* never used or given back, */
    int n_idle;               /* in the index and held by nobody: free when needed */
    bool indexed;             /* pages are put into the index */
    uint8_t *memory;          /* with a device: an address there, which the host cannot read */
    bal_device_model *device; /* whose memory it is; NULL: the host's */
    bal_kv_slot *slots;       /* [n_pages] */
    bal_token_info *info;     /* [n_pages][64] */
    bal_key *keys;            /* [n_pages][64], if indexed */
    int32_t *buckets;         /* [n_buckets] first page of each chain of the index, or -1 */
    int n_buckets;
    int32_t free_head, newest, oldest; /* lists of free and of idle pages */
} bal_kv_pool;

/* BAL_E_ARG if n_pages < 1 or the sum does not fit a size_t. Memory that is not used yet costs
 * address space only. */
bal_status bal_kv_pool_create(bal_kv_pool *p, const bal_kv_layout *layout, int n_pages,
                              bool indexed, bal_error *err);
/* The same with the pages in a device's memory (NULL: the host's). */
bal_status bal_kv_pool_create_on(bal_kv_pool *p, bal_device_model *device,
                                 const bal_kv_layout *layout, int n_pages, bool indexed,
                                 bal_error *err);
/* What that allocates; SIZE_MAX: more than a size_t counts. */
size_t bal_kv_pool_bytes(const bal_kv_layout *layout, int n_pages, bool indexed);
void bal_kv_pool_destroy(bal_kv_pool *p); /* idempotent; zeroed struct is fine */

/* Pages that a sequence could get now. */
int bal_kv_pool_available(const bal_kv_pool *p);

/* A sequence: its first n positions are cached. data[i] is page i, for bal_kv_span. */
typedef struct bal_kv_seq {
    bal_kv_pool *pool;
    int n, n_pages, max_pages;
    int32_t *ids;   /* [max_pages] */
    uint8_t **data; /* [max_pages] */
} bal_kv_seq;

/* max: positions it may grow to. */
bal_status bal_kv_seq_create(bal_kv_seq *s, bal_kv_pool *pool, int max, bal_error *err);
void bal_kv_seq_destroy(bal_kv_seq *s); /* gives all pages back; idempotent */

/* How many of the first n positions with these keys the index holds. */
int bal_kv_pool_match(const bal_kv_pool *p, const bal_key *keys, int n);
/* Takes those pages into the empty sequence; returns s->n. */
int bal_kv_seq_attach(bal_kv_seq *s, const bal_key *keys, int n);

/* Pages that reserve(total) would take from the pool. */
int bal_kv_seq_need(const bal_kv_seq *s, int total);
/* Makes positions s->n .. total - 1 writable (total <= max). False, with nothing changed, when the
 * pool has too few pages. */
bool bal_kv_seq_reserve(bal_kv_seq *s, int total);
/* The next m reserved positions have been written. keys, if the pool is indexed, those of the
 * whole sequence (NULL keeps its pages out of the index); pages that became full are sealed, and
 * one that was in the index already is exchanged for that one. */
void bal_kv_seq_commit(bal_kv_seq *s, const bal_token_info *info, const bal_key *keys, int m);
/* Seals the last page as it is, for sequences that begin with this one. */
void bal_kv_seq_publish(bal_kv_seq *s);
/* Forgets positions from n on; pages wholly behind n are given back. */
void bal_kv_seq_truncate(bal_kv_seq *s, int n);
/* Forgets everything, the later pages becoming idle before the earlier ones. */
void bal_kv_seq_clear(bal_kv_seq *s);

/* What is cached at position i < s->n. */
const bal_token_info *bal_kv_seq_info(const bal_kv_seq *s, int i);

#endif
