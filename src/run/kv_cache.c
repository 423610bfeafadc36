/* SPDX-License-Identifier: MIT
 * Lists are links by page number, so nothing is allocated after creation. A page is in one of four
 * states: free (in the free list), private (held by one sequence, writable), sealed (in the index,
 * held by any number), idle (in the index, held by nobody, in the list by age). */
#include "run/kv_cache.h"

#include "base/size.h"

#include <stdlib.h>
#include <string.h>

enum { NONE = -1 };

struct bal_kv_slot {
    int refs, n;          /* holders; positions written when it was sealed */
    bool listed;          /* in the index */
    bal_key parent;       /* key of the position before its first */
    int32_t chain;        /* next page of the same bucket */
    int32_t older, newer; /* idle pages; `older` also links free ones */
};

/* ---- Pool ------------------------------------------------------------------------------------ */

static bal_status allocate_pages(bal_kv_pool *p, size_t bytes, bal_error *err)
{
    bal_device_model *d = p->device;
    bal_dptr at = 0;
    if (!d) {
        p->memory = aligned_alloc(64, bytes);
        return p->memory ? BAL_OK : bal_nomem(err, bytes, "key-value cache");
    }
    bal_device_model_lock(d);
    const bal_status st = d->api->alloc(d->device, &at, bytes, "key-value cache", err);
    bal_device_model_unlock(d);
    p->memory = (uint8_t *)(uintptr_t)at;
    return st < 0 ? bal_fail_in(err, st, "device cuda:%d", d->index) : BAL_OK;
}

static void free_pages(bal_kv_pool *p)
{
    bal_device_model *d = p->device;
    if (!d) {
        free(p->memory);
        return;
    }
    bal_device_model_lock(d);
    d->api->release(d->device, (bal_dptr)(uintptr_t)p->memory);
    bal_device_model_unlock(d);
}

static bal_status allocate(bal_kv_pool *p, bal_error *err)
{
    const size_t n = (size_t)p->n_pages;
    size_t bytes, rows;
    if (!bal_size_mul(n, p->layout.page_bytes, &bytes) ||
        !bal_size_mul(n, BAL_PAGE * sizeof *p->keys, &rows))
        return bal_fail(err, BAL_E_ARG, "a cache of %d pages of %zu bytes", p->n_pages,
                        p->layout.page_bytes);
    BAL_TRY(allocate_pages(p, bytes, err));
    p->slots = calloc(n, sizeof *p->slots);
    p->info = malloc(n * BAL_PAGE * sizeof *p->info);
    p->keys = p->indexed ? malloc(rows) : NULL;
    p->buckets = malloc((size_t)p->n_buckets * sizeof *p->buckets);
    if (!p->slots || !p->info || (p->indexed && !p->keys) || !p->buckets)
        return bal_nomem(err, bytes, "key-value cache");
    return BAL_OK;
}

static int buckets_for(int n_pages)
{
    int n = 64;
    while (n < n_pages && n < 1 << 24) n *= 2;
    return n;
}

size_t bal_kv_pool_bytes(const bal_kv_layout *layout, int n_pages, bool indexed)
{
    const size_t page = sizeof(bal_kv_slot) + BAL_PAGE * sizeof(bal_token_info) +
                        (indexed ? BAL_PAGE * sizeof(bal_key) : 0);
    size_t each, all;
    if (!bal_size_add(layout->page_bytes, page, &each) ||
        !bal_size_mul(each, (size_t)n_pages, &all) ||
        !bal_size_add(all, (size_t)buckets_for(n_pages) * sizeof(int32_t), &all))
        return SIZE_MAX;
    return all;
}

bal_status bal_kv_pool_create(bal_kv_pool *p, const bal_kv_layout *layout, int n_pages,
                              bool indexed, bal_error *err)
{
    return bal_kv_pool_create_on(p, NULL, layout, n_pages, indexed, err);
}

bal_status bal_kv_pool_create_on(bal_kv_pool *p, bal_device_model *device,
                                 const bal_kv_layout *layout, int n_pages, bool indexed,
                                 bal_error *err)
{
    *p = (bal_kv_pool){.layout = *layout, .n_pages = n_pages, .indexed = indexed, .device = device};
    if (n_pages < 1) return bal_fail(err, BAL_E_ARG, "a cache of %d pages", n_pages);
    p->n_buckets = buckets_for(n_pages);
    const bal_status st = allocate(p, err);
    if (st < 0) {
        bal_kv_pool_destroy(p);
        return st;
    }
    for (int i = 0; i < p->n_buckets; i++) p->buckets[i] = NONE;
    for (int i = 0; i < n_pages; i++) p->slots[i].older = i + 1 < n_pages ? i + 1 : NONE;
    p->newest = p->oldest = NONE;
    p->n_free = n_pages;
    return BAL_OK;
}

void bal_kv_pool_destroy(bal_kv_pool *p)
{
    free_pages(p);
    free(p->slots);
    free(p->info);
    free(p->keys);
    free(p->buckets);
    *p = (bal_kv_pool){0};
}

int bal_kv_pool_available(const bal_kv_pool *p)
{
    return p->n_free + p->n_idle;
}

static uint8_t *page_memory(const bal_kv_pool *p, int32_t id)
{
    return p->memory + (size_t)id * p->layout.page_bytes;
}

static bal_key *page_keys(const bal_kv_pool *p, int32_t id)
{
    return p->keys + (size_t)id * BAL_PAGE;
}

/* ---- Idle pages, by age ---------------------------------------------------------------------- */

static void idle_push(bal_kv_pool *p, int32_t id)
{
    bal_kv_slot *s = &p->slots[id];
    s->older = p->newest;
    s->newer = NONE;
    if (p->newest != NONE) p->slots[p->newest].newer = id;
    p->newest = id;
    if (p->oldest == NONE) p->oldest = id;
    p->n_idle++;
}

static void idle_remove(bal_kv_pool *p, int32_t id)
{
    const bal_kv_slot *s = &p->slots[id];
    if (s->newer != NONE) p->slots[s->newer].older = s->older;
    if (s->older != NONE) p->slots[s->older].newer = s->newer;
    if (p->newest == id) p->newest = s->older;
    if (p->oldest == id) p->oldest = s->newer;
    p->n_idle--;
}

/* ---- Index ----------------------------------------------------------------------------------- */

static const bal_key ROOT = {{0}};

static bool same_key(const bal_key *a, const bal_key *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

/* Keys are hashes, so any bytes of one serve. */
static int32_t *bucket_of(const bal_kv_pool *p, const bal_key *parent)
{
    uint32_t h;
    memcpy(&h, parent->b, sizeof h);
    return &p->buckets[h & (uint32_t)(p->n_buckets - 1)];
}

static void index_remove(bal_kv_pool *p, int32_t id)
{
    int32_t *link = bucket_of(p, &p->slots[id].parent);
    while (*link != id) link = &p->slots[*link].chain;
    *link = p->slots[id].chain;
    p->slots[id].listed = false;
}

/* Leading positions of a page that have these keys; n of them are given. */
static int page_match(const bal_kv_pool *p, int32_t id, const bal_key *keys, int n)
{
    const bal_key *own = page_keys(p, id);
    const int limit = p->slots[id].n < n ? p->slots[id].n : n;
    int i = 0;
    while (i < limit && same_key(&own[i], &keys[i])) i++;
    return i;
}

/* The page behind `parent` that holds most of the n keys, or NONE. */
static int32_t best_child(const bal_kv_pool *p, const bal_key *parent, const bal_key *keys, int n,
                          int *matched)
{
    int32_t best = NONE;
    *matched = 0;
    for (int32_t id = *bucket_of(p, parent); id != NONE; id = p->slots[id].chain) {
        if (!same_key(&p->slots[id].parent, parent)) continue;
        const int m = page_match(p, id, keys, n);
        if (m <= *matched) continue;
        *matched = m;
        best = id;
    }
    return best;
}

static void page_free(bal_kv_pool *p, int32_t id)
{
    p->slots[id].older = p->free_head;
    p->slots[id].n = 0;
    p->free_head = id;
    p->n_free++;
}

/* Idle pages whose positions are the beginning of those of page `id` say nothing that it does not.
 */
static void drop_beginnings(bal_kv_pool *p, int32_t id)
{
    const bal_kv_slot *s = &p->slots[id];
    int32_t next;
    for (int32_t i = *bucket_of(p, &s->parent); i != NONE; i = next) {
        const bal_kv_slot *o = &p->slots[i];
        next = o->chain;
        if (i == id || o->refs > 0 || o->n > s->n || !same_key(&o->parent, &s->parent)) continue;
        if (page_match(p, i, page_keys(p, id), o->n) < o->n) continue;
        idle_remove(p, i);
        index_remove(p, i);
        page_free(p, i);
    }
}

static void index_add(bal_kv_pool *p, int32_t id, const bal_key *parent, int n)
{
    bal_kv_slot *s = &p->slots[id];
    int32_t *bucket = bucket_of(p, parent);
    s->parent = *parent;
    s->n = n;
    s->listed = true;
    s->chain = *bucket;
    *bucket = id;
    drop_beginnings(p, id);
}

/* ---- References ------------------------------------------------------------------------------ */

/* There is one: the caller has asked for what is available. */
static int32_t take(bal_kv_pool *p)
{
    int32_t id = p->free_head;
    if (p->n_free > 0) {
        p->free_head = p->slots[id].older;
        p->n_free--;
    } else {
        id = p->oldest;
        idle_remove(p, id);
        index_remove(p, id);
    }
    p->slots[id].refs = 1;
    p->slots[id].n = 0;
    return id;
}

static void hold(bal_kv_pool *p, int32_t id)
{
    if (p->slots[id].refs++ == 0) idle_remove(p, id);
}

static void release(bal_kv_pool *p, int32_t id)
{
    if (--p->slots[id].refs > 0) return;
    if (p->slots[id].listed)
        idle_push(p, id);
    else
        page_free(p, id);
}

/* ---- Sequences ------------------------------------------------------------------------------- */

bal_status bal_kv_seq_create(bal_kv_seq *s, bal_kv_pool *pool, int max, bal_error *err)
{
    *s = (bal_kv_seq){.pool = pool, .max_pages = (max + BAL_PAGE - 1) / BAL_PAGE};
    const size_t n = (size_t)s->max_pages;
    s->ids = malloc((n + 1) * sizeof *s->ids);
    s->data = malloc((n + 1) * sizeof *s->data);
    if (s->ids && s->data) return BAL_OK;
    bal_kv_seq_destroy(s);
    return bal_nomem(err, n * sizeof *s->data, "page list");
}

void bal_kv_seq_destroy(bal_kv_seq *s)
{
    bal_kv_seq_clear(s);
    free(s->ids);
    free(s->data);
    *s = (bal_kv_seq){0};
}

static void append_page(bal_kv_seq *s, int32_t id)
{
    s->ids[s->n_pages] = id;
    s->data[s->n_pages++] = page_memory(s->pool, id);
}

/* Pages from page `keep` on are given back, the last one first. */
static void drop_pages(bal_kv_seq *s, int keep)
{
    while (s->n_pages > keep) release(s->pool, s->ids[--s->n_pages]);
}

void bal_kv_seq_truncate(bal_kv_seq *s, int n)
{
    if (n >= s->n) return;
    s->n = n;
    drop_pages(s, (n + BAL_PAGE - 1) / BAL_PAGE);
}

void bal_kv_seq_clear(bal_kv_seq *s)
{
    s->n = 0;
    drop_pages(s, 0);
}

/* Walks the index along the keys; `s` collects the pages or is NULL. */
static int follow(const bal_kv_pool *p, const bal_key *keys, int n, bal_kv_seq *s)
{
    int at = 0, matched = BAL_PAGE;
    while (p->indexed && at < n && matched == BAL_PAGE) {
        const int32_t id = best_child(p, at ? &keys[at - 1] : &ROOT, keys + at, n - at, &matched);
        if (matched == 0) break;
        at += matched;
        if (!s) continue;
        hold(s->pool, id);
        append_page(s, id);
    }
    return at;
}

int bal_kv_pool_match(const bal_kv_pool *p, const bal_key *keys, int n)
{
    return follow(p, keys, n, NULL);
}

int bal_kv_seq_attach(bal_kv_seq *s, const bal_key *keys, int n)
{
    s->n = follow(s->pool, keys, n, s);
    return s->n;
}

/* Whether the page in which the sequence goes on must be copied first. */
static bool must_copy(const bal_kv_seq *s)
{
    return s->n % BAL_PAGE != 0 && s->pool->slots[s->ids[s->n / BAL_PAGE]].listed;
}

int bal_kv_seq_need(const bal_kv_seq *s, int total)
{
    const int pages = (total + BAL_PAGE - 1) / BAL_PAGE - s->n_pages;
    return (pages > 0 ? pages : 0) + (total > s->n && must_copy(s));
}

/* On a device the whole page, since nobody reads rows behind those that are used. */
static void copy_page(bal_kv_pool *p, int32_t to, int32_t from, int rows)
{
    bal_device_model *d = p->device;
    if (!d) {
        bal_kv_copy_rows(&p->layout, page_memory(p, to), page_memory(p, from), rows);
        return;
    }
    bal_device_model_lock(d);
    d->api->copy(d->device, (bal_dptr)(uintptr_t)page_memory(p, to),
                 (bal_dptr)(uintptr_t)page_memory(p, from), p->layout.page_bytes);
    bal_device_model_unlock(d);
}

static void copy_last(bal_kv_seq *s)
{
    bal_kv_pool *p = s->pool;
    const int at = s->n / BAL_PAGE, rows = s->n % BAL_PAGE;
    const int32_t old = s->ids[at], id = take(p);
    copy_page(p, id, old, rows);
    memcpy(p->info + (size_t)id * BAL_PAGE, p->info + (size_t)old * BAL_PAGE,
           (size_t)rows * sizeof *p->info);
    memcpy(page_keys(p, id), page_keys(p, old), (size_t)rows * sizeof *p->keys);
    s->ids[at] = id;
    s->data[at] = page_memory(p, id);
    release(p, old);
}

bool bal_kv_seq_reserve(bal_kv_seq *s, int total)
{
    if (bal_kv_seq_need(s, total) > bal_kv_pool_available(s->pool)) return false;
    if (total > s->n && must_copy(s)) copy_last(s);
    while (s->n_pages * BAL_PAGE < total) append_page(s, take(s->pool));
    return true;
}

/* Page `at` holds n positions for good: into the index, unless they are there already. */
static void seal(bal_kv_seq *s, int at, int n)
{
    bal_kv_pool *p = s->pool;
    const int32_t id = s->ids[at];
    const bal_key *parent = at ? &page_keys(p, s->ids[at - 1])[BAL_PAGE - 1] : &ROOT;
    int matched;
    const int32_t twin = best_child(p, parent, page_keys(p, id), n, &matched);
    if (matched < n) {
        index_add(p, id, parent, n);
        return;
    }
    hold(p, twin);
    release(p, id);
    s->ids[at] = twin;
    s->data[at] = page_memory(p, twin);
}

void bal_kv_seq_commit(bal_kv_seq *s, const bal_token_info *info, const bal_key *keys, int m)
{
    bal_kv_pool *p = s->pool;
    for (int i = 0; i < m; i++, s->n++) {
        const size_t row = (size_t)s->ids[s->n / BAL_PAGE] * BAL_PAGE + (size_t)(s->n % BAL_PAGE);
        p->info[row] = info[i];
        if (!p->indexed || !keys) continue;
        p->keys[row] = keys[s->n];
        if (s->n % BAL_PAGE == BAL_PAGE - 1) seal(s, s->n / BAL_PAGE, BAL_PAGE);
    }
}

void bal_kv_seq_publish(bal_kv_seq *s)
{
    const int at = s->n / BAL_PAGE, rows = s->n % BAL_PAGE;
    if (!s->pool->indexed || rows == 0 || s->pool->slots[s->ids[at]].listed) return;
    seal(s, at, rows);
}

const bal_token_info *bal_kv_seq_info(const bal_kv_seq *s, int i)
{
    return &s->pool->info[(size_t)s->ids[i / BAL_PAGE] * BAL_PAGE + (size_t)(i % BAL_PAGE)];
}
