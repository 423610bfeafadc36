/* SPDX-License-Identifier: MIT
 * Ranks without MPI: processes forked from the test, bytes through memory that they share. Runs a
 * function on each and collects what it said; ranks that never come back are killed and reported
 * as status -1000. */
#ifndef BAL_TESTS_FORK_RANKS_H
#define BAL_TESTS_FORK_RANKS_H

#include "check.h"

#include "quant/rank.h"

#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FORK_MOST = 4, FORK_BYTES = 1 << 16, FORK_SECONDS = 120 };

typedef struct fork_world {
    pthread_barrier_t barrier;
    int count;
    bool failed[FORK_MOST];
    bal_status status[FORK_MOST];
    bal_error error[FORK_MOST];
    char bytes[FORK_BYTES];
} fork_world;

typedef struct fork_rank {
    bal_rank rank;
    fork_world *world;
} fork_rank;

static inline void fork_share(void *ctx, void *bytes, size_t n, int root)
{
    const fork_rank *r = ctx;
    fork_world *w = r->world;
    for (size_t at = 0; at < n; at += FORK_BYTES) {
        const size_t part = n - at < FORK_BYTES ? n - at : FORK_BYTES;
        if (r->rank.index == root) memcpy(w->bytes, (char *)bytes + at, part);
        pthread_barrier_wait(&w->barrier);
        if (r->rank.index != root) memcpy((char *)bytes + at, w->bytes, part);
        pthread_barrier_wait(&w->barrier);
    }
}

static inline int fork_first_failed(void *ctx, bool failed)
{
    const fork_rank *r = ctx;
    fork_world *w = r->world;
    int first = -1;
    w->failed[r->rank.index] = failed;
    pthread_barrier_wait(&w->barrier);
    for (int i = w->count - 1; i >= 0; i--)
        if (w->failed[i]) first = i;
    pthread_barrier_wait(&w->barrier);
    return first;
}

static inline void fork_close(void *ctx)
{
    (void)ctx;
}

typedef bal_status fork_fn(bal_rank *rank, void *ctx, bal_error *err);

/* In the child. */
static inline void fork_run(fork_world *w, int index, fork_fn *fn, void *ctx)
{
    static const bal_rank_ops ops = {fork_share, fork_first_failed, fork_close};
    fork_rank r = {{index, w->count, &ops, &r, BAL_OK}, w};
    w->status[index] = fn(&r.rank, ctx, &w->error[index]);
    _exit(0);
}

/* Waits for all children; kills those that are still there when time is up. */
static inline void fork_wait(const pid_t *pid, int count)
{
    for (int i = 0; i < count; i++) {
        int left = FORK_SECONDS * 100;
        while (waitpid(pid[i], NULL, WNOHANG) == 0) {
            if (left-- > 0) {
                usleep(10000);
                continue;
            }
            kill(pid[i], SIGKILL);
            waitpid(pid[i], NULL, 0);
            break;
        }
    }
}

/* fn on `count` ranks; status[count] and error[count] of each. */
static inline void fork_ranks(int count, fork_fn *fn, void *ctx, bal_status *status,
                              bal_error *error)
{
    pid_t pid[FORK_MOST];
    pthread_barrierattr_t shared;
    fork_world *w =
        mmap(NULL, sizeof *w, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(w != MAP_FAILED && count <= FORK_MOST);
    w->count = count;
    pthread_barrierattr_init(&shared);
    pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED);
    pthread_barrier_init(&w->barrier, &shared, (unsigned)count);
    fflush(NULL);
    for (int i = 0; i < count; i++) {
        w->status[i] = (bal_status)-1000;
        pid[i] = fork();
        assert_true(pid[i] >= 0);
        if (pid[i] == 0) fork_run(w, i, fn, ctx);
    }
    fork_wait(pid, count);
    memcpy(status, w->status, (size_t)count * sizeof *status);
    memcpy(error, w->error, (size_t)count * sizeof *error);
    munmap(w, sizeof *w);
}

#endif
