/* SPDX-License-Identifier: MIT
 * Ranks under MPI: all of it that is named anywhere. Owns MPI's life unless the program has started
 * it itself. Refuses to be one of several processes in a build without MPI. */
#include "quant/rank.h"

#include <stdlib.h>

/* What launchers tell their processes: Open MPI, MPICH and its kin, PMIx (srun). MPI itself is not
 * asked, since starting it takes time that a process alone should not spend. */
static bool has_others(void)
{
    static const char *const sizes[] = {"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MPI_LOCALNRANKS"};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        const char *n = getenv(sizes[i]);
        if (n && atoi(n) > 1) return true;
    }
    if (!getenv("PMIX_RANK") || getenv("OMPI_COMM_WORLD_SIZE")) return false;
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    return !tasks || atoi(tasks) > 1;
}

#if BAL_HAVE_MPI
#include <mpi.h>

#define CHUNK ((size_t)1 << 30) /* counts of MPI are int */

typedef struct world {
    bal_rank rank;
    bool ours; /* started here, so ended here */
} world;

/* Errors of MPI end all processes, as is its default. */
static void mpi_share(void *ctx, void *bytes, size_t n, int root)
{
    (void)ctx;
    for (size_t at = 0; at < n; at += CHUNK)
        MPI_Bcast((char *)bytes + at, (int)(n - at < CHUNK ? n - at : CHUNK), MPI_BYTE, root,
                  MPI_COMM_WORLD);
}

static int mpi_first_failed(void *ctx, bool failed)
{
    const bal_rank *r = &((world *)ctx)->rank;
    int mine = failed ? r->index : r->count, first;
    MPI_Allreduce(&mine, &first, 1, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    return first < r->count ? first : -1;
}

static void mpi_close(void *ctx)
{
    world *w = ctx;
    if (w->ours) MPI_Finalize();
    free(w);
}

bal_status bal_rank_join(bal_rank **out, bal_error *err)
{
    static const bal_rank_ops ops = {mpi_share, mpi_first_failed, mpi_close};
    int started, ended;
    *out = NULL;
    MPI_Initialized(&started);
    MPI_Finalized(&ended);
    if (ended || (!started && !has_others())) return BAL_OK;
    world *w = calloc(1, sizeof *w);
    if (!w) return bal_nomem(err, sizeof *w, "ranks");
    w->ours = !started;
    if (!started) {
        int offered; /* only the thread that opened it calls MPI; every build gives that much */
        MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &offered);
    }
    w->rank = (bal_rank){.ops = &ops, .ctx = w};
    MPI_Comm_rank(MPI_COMM_WORLD, &w->rank.index);
    MPI_Comm_size(MPI_COMM_WORLD, &w->rank.count);
    *out = &w->rank;
    if (w->rank.count > 1) return BAL_OK;
    bal_rank_leave(*out);
    *out = NULL;
    return BAL_OK;
}
#else
bal_status bal_rank_join(bal_rank **out, bal_error *err)
{
    *out = NULL;
    if (!has_others()) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP,
                    "started as one of several processes, but built without MPI "
                    "(cmake -DBALLAST_MPI=ON)");
}
#endif

void bal_rank_leave(bal_rank *r)
{
    if (r) r->ops->close(r->ctx);
}
