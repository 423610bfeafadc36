/* SPDX-License-Identifier: MIT
 * Several processes that make one file together. Each computes what belongs to its own samples, or
 * its own rows of a matrix; what comes of that is exchanged, and every sum is added up on every
 * rank in the order in which one process alone would add it: a shard is one sample, whatever the
 * number of ranks, and the file has the bytes of one rank.
 *
 * All ranks run the same program on the same data and meet at the same collective calls in the same
 * order. Each of these first asks whether anybody failed: then all return that failure, and no
 * later call waits for anybody. A rank that fails anywhere only has to come to one more collective
 * call before it leaves, which the caller of the whole makes (bal_rank_agree); so nobody hangs.
 *
 * A NULL bal_rank is one process alone: everything is its own and nothing is exchanged. How bytes
 * travel is behind bal_rank_ops; MPI is one way (rank_mpi.c). */
#ifndef BAL_QUANT_RANK_H
#define BAL_QUANT_RANK_H

#include "base/status.h"

/* A way for bytes to travel. A transport that breaks ends the processes; that is not returned. */
typedef struct bal_rank_ops {
    /* Bytes of rank `root` to all others. */
    void (*share)(void *ctx, void *bytes, size_t n, int root);
    /* The lowest rank that says failed, or -1. */
    int (*first_failed)(void *ctx, bool failed);
    void (*close)(void *ctx);
} bal_rank_ops;

typedef struct bal_rank {
    int index, count;
    const bal_rank_ops *ops;
    void *ctx;
    bal_status ended; /* a failure that all ranks know of; 0: none */
} bal_rank;

/* Joins the processes that this one was started with, by mpirun or the like; NULL where it is
 * alone. BAL_E_UNSUP when it was started with others but built without MPI: each would do the whole
 * work. Once per process. */
bal_status bal_rank_join(bal_rank **out, bal_error *err);
void bal_rank_leave(bal_rank *r); /* collective; NULL is fine */

/* Rank 0 alone writes files and speaks. */
static inline bool bal_rank_is_first(const bal_rank *r)
{
    return !r || r->index == 0;
}

/* ---- Who does what ---------------------------------------------------------------------------
 */

static inline int bal_rank_owner(const bal_rank *r, int sample)
{
    return r ? sample % r->count : 0;
}
static inline bool bal_rank_owns(const bal_rank *r, int sample)
{
    return !r || sample % r->count == r->index;
}

typedef struct bal_range {
    size_t begin, end;
} bal_range;

/* Rows of an [n] matrix that rank `index` computes: consecutive, in multiples of `unit` but at the
 * end. */
bal_range bal_rank_rows_of(const bal_rank *r, int index, size_t n, size_t unit);
bal_range bal_rank_rows(const bal_rank *r, size_t n, size_t unit); /* of this rank */
/* Likewise of a triangle whose row i has i + 1 columns: about equal areas. */
bal_range bal_rank_triangle_of(const bal_rank *r, int index, size_t n, size_t unit);

/* ---- Collective calls: every rank must come to each, with the same arguments ------------------
 */

/* BAL_OK if st is that on all ranks; otherwise what the lowest that failed says, everywhere. */
bal_status bal_rank_agree(bal_rank *r, bal_status st, bal_error *err);

/* n bytes of rank `root` to all. */
bal_status bal_rank_share(bal_rank *r, void *bytes, size_t n, int root, bal_error *err);

/* base [n][row_bytes], of which each rank has filled its own rows; the others' are filled in. */
bal_status bal_rank_join_rows(bal_rank *r, void *base, size_t n, size_t unit, size_t row_bytes,
                              bal_error *err);

/* base [row0[n]][row_bytes], rows row0[i] .. row0[i + 1] being sample i's: likewise by sample. */
bal_status bal_rank_join_samples(bal_rank *r, void *base, const size_t *row0, int n,
                                 size_t row_bytes, bal_error *err);

#endif
