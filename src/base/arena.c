/* SPDX-License-Identifier: MIT */
#include "base/arena.h"

#include <stdlib.h>
#include <string.h>

#if defined(__SANITIZE_ADDRESS__)
#define ARENA_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ARENA_ASAN 1
#endif
#endif

#ifdef ARENA_ASAN
#include <sanitizer/asan_interface.h>
enum { REDZONE = 64 };
#else
/* without the sanitizer both are no-ops */
#define ASAN_POISON_MEMORY_REGION(p, n)   ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
enum { REDZONE = 0 };
#endif

size_t bal_arena_need(size_t n_bytes)
{
    if (n_bytes == 0) return BAL_ARENA_ALIGN;
    if (n_bytes > SIZE_MAX - BAL_ARENA_ALIGN) return SIZE_MAX;
    return bal_round_up(n_bytes, BAL_ARENA_ALIGN);
}

/* A piece takes at least 64 bytes, so redzones of 64 at most double the block. */
static size_t block_bytes(size_t n_bytes)
{
    return REDZONE ? 2 * n_bytes : n_bytes;
}

bal_status bal_arena_init(bal_arena *a, size_t n_bytes, const char *what, bal_error *err)
{
    *a = (bal_arena){.what = what};
    const size_t need = bal_arena_need(n_bytes);
    if (need > SIZE_MAX / 4) return bal_nomem(err, n_bytes, what);
    a->base = aligned_alloc(BAL_ARENA_ALIGN, block_bytes(need));
    if (!a->base) return bal_nomem(err, block_bytes(need), what);
    a->n_bytes = need;
    ASAN_POISON_MEMORY_REGION(a->base, block_bytes(need));
    return BAL_OK;
}

void bal_arena_deinit(bal_arena *a)
{
    if (a->base) ASAN_UNPOISON_MEMORY_REGION(a->base, block_bytes(a->n_bytes));
    free(a->base);
    *a = (bal_arena){0};
}

static void store_pointer(void *out, void *p)
{
    memcpy(out, &p, sizeof p); /* the caller's pointer type is not void *: no aliasing this way */
}

bal_status bal_arena_alloc(void *out, bal_arena *a, size_t n_bytes, bal_error *err)
{
    store_pointer(out, NULL);
    const size_t need = bal_arena_need(n_bytes), left = a->n_bytes - a->used;
    if (need > left)
        return bal_fail(err, BAL_E_NOMEM, "%s: %zu bytes asked for, %zu of %zu left",
                        a->what ? a->what : "arena", n_bytes, left, a->n_bytes);
    uint8_t *piece = a->base + a->at;
    ASAN_UNPOISON_MEMORY_REGION(piece, n_bytes);
    store_pointer(out, piece);
    a->at += need + REDZONE;
    a->used += need;
    a->high = bal_max(a->high, a->used);
    return BAL_OK;
}

bal_status bal_arena_alloc_array(void *out, bal_arena *a, size_t count, size_t size, bal_error *err)
{
    size_t n_bytes;
    if (!bal_size_mul(count, size, &n_bytes)) n_bytes = SIZE_MAX;
    return bal_arena_alloc(out, a, n_bytes, err);
}

bal_arena_mark bal_arena_get_mark(const bal_arena *a)
{
    return (bal_arena_mark){.used = a->used, .at = a->at};
}

void bal_arena_reset(bal_arena *a, bal_arena_mark mark)
{
    if (!a->base) return;
    ASAN_POISON_MEMORY_REGION(a->base + mark.at, a->at - mark.at);
    a->used = mark.used;
    a->at = mark.at;
}
