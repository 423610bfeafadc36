/* SPDX-License-Identifier: MIT
 * One thread pool per process context: workers pinned inside the affinity mask, one primitive.
 * Work is split over outputs, never over a reduction, so results do not depend on the number of
 * threads. Workers spin briefly for the next job, then sleep. */
#ifndef BAL_BASE_POOL_H
#define BAL_BASE_POOL_H

#include "base/status.h"

typedef struct bal_pool bal_pool;

/* Handles items [begin, end) on lane 0..size-1; a lane runs one call at a time. */
typedef void bal_pool_fn(void *ctx, size_t begin, size_t end, int lane);

/* n_threads counts the caller; 0 means one per CPU of the affinity mask. At most 256. */
bal_status bal_pool_create(bal_pool **out, int n_threads, bal_error *err);
void bal_pool_destroy(bal_pool *p); /* NULL is fine */
int bal_pool_size(const bal_pool *p);
/* The size of a pool that bal_pool_create makes of n_threads. */
int bal_pool_size_of(int n_threads);

/* Runs fn over items 0..n-1 in pieces of `grain` (>= 1) and returns when all are done. Serial when
 * there is one piece or one thread. Calls from different threads queue; a nested call runs on the
 * caller's own lane only if it passes through no other pool job, so do not nest. */
void bal_pool_run(bal_pool *p, bal_pool_fn *fn, void *ctx, size_t n, size_t grain);

#endif
