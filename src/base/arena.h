/* SPDX-License-Identifier: MIT
 * A bump arena: one block of memory sized once, handed out in pieces that start on 64 bytes and
 * are given back all at once or down to a mark. A session owns one, so that nothing is allocated
 * while decoding. It never grows and never clears: contents are undefined.
 *
 * Under AddressSanitizer unused space is poisoned and each piece is followed by a redzone; that
 * space is not counted, so an arena holds exactly as much with and without the sanitizer. */
#ifndef BAL_BASE_ARENA_H
#define BAL_BASE_ARENA_H

#include "base/size.h"
#include "base/status.h"

#define BAL_ARENA_ALIGN ((size_t)64)

typedef struct bal_arena {
    uint8_t *base;
    size_t n_bytes; /* what can be handed out, a multiple of 64 */
    size_t used;    /* handed out now, each piece rounded up to 64 */
    size_t high;    /* largest `used` since init */
    size_t at;      /* offset of the next piece: `used` plus redzones */
    const char *what;
} bal_arena;

typedef struct bal_arena_mark {
    size_t used, at;
} bal_arena_mark;

/* Bytes that a piece of n_bytes takes: a plan adds these up and passes the sum to init. A piece of
 * 0 bytes takes 64 and has an address of its own. SIZE_MAX if it does not fit a size_t. */
size_t bal_arena_need(size_t n_bytes);

/* Allocates the block; deinit frees it (idempotent, a zeroed struct is fine). `what` names the
 * arena in errors and must outlive it ("session", "thread scratch"). */
bal_status bal_arena_init(bal_arena *a, size_t n_bytes, const char *what, bal_error *err);
void bal_arena_deinit(bal_arena *a);

/* `out` is the address of a pointer to any object type; it gets n_bytes of undefined contents,
 * aligned to 64. Fails with BAL_E_NOMEM and a NULL pointer when the arena is exhausted; the
 * sentence says how much was asked for and how much is left. */
bal_status bal_arena_alloc(void *out, bal_arena *a, size_t n_bytes, bal_error *err);
/* The same for count * size bytes, the product checked. */
bal_status bal_arena_alloc_array(void *out, bal_arena *a, size_t count, size_t size,
                                 bal_error *err);
/* count elements of what `ptr` points to, into the pointer `ptr`; a bal_status */
#define BAL_ARENA_NEW(ptr, arena, count, err)                                                      \
    bal_arena_alloc_array(&(ptr), arena, count, sizeof *(ptr), err)

/* Everything handed out after mark() is given back by reset(); pieces older than it stay. */
bal_arena_mark bal_arena_get_mark(const bal_arena *a);
void bal_arena_reset(bal_arena *a, bal_arena_mark mark);

#endif
