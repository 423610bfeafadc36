/* SPDX-License-Identifier: MIT
 * A job is published by a new epoch in `state`; workers enter it and claim pieces, each from a
 * range of its own, then from what others have left: pieces that follow each other are mostly one
 * lane's, so what a kernel asks memory for ahead of use is what it reads next. When none is left
 * the caller closes the job and waits for those who are inside, not for those who never came: where
 * other programs want the CPUs too, a worker that is not running must not hold up every job.
 * Sleeping and waking go through one mutex and condition variable, so a wake-up cannot be lost; the
 * spin before it keeps decode steps (hundreds of jobs per token) out of the kernel. */
#include "base/pool.h"

#include "base/cpu.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>

enum { MAX_THREADS = 256, SPINS = 4000 };

/* The lower half of `state`: whether workers may enter the job, and how many are inside. */
#define OPEN   0x80000000u
#define INSIDE 0x7fffffffu

typedef struct worker {
    bal_pool *pool;
    pthread_t thread;
    int lane;
} worker;

/* Items that a lane begins with; those from `next` on are not claimed yet. On a cache line alone.
 */
typedef struct range {
    atomic_size_t next;
    size_t end;
    char pad[64 - 2 * sizeof(size_t)];
} range;

struct bal_pool {
    int size; /* threads, the caller included */
    int started;
    pthread_mutex_t run_lock;  /* one job at a time */
    pthread_mutex_t idle_lock; /* guards sleeping on `wake` */
    pthread_cond_t wake;
    _Atomic(uint64_t) state; /* epoch in the upper half */
    atomic_bool stop;
    bal_pool_fn *fn;
    void *ctx;
    size_t grain;
    range ranges[MAX_THREADS];
    worker workers[MAX_THREADS];
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work_on(bal_pool *p, range *r, int lane)
{
    while (atomic_load(&r->next) < r->end) {
        const size_t begin = atomic_fetch_add(&r->next, p->grain);
        if (begin >= r->end) return;
        const size_t left = r->end - begin;
        p->fn(p->ctx, begin, begin + (left < p->grain ? left : p->grain), lane);
    }
}

static void work(bal_pool *p, int lane)
{
    for (int i = 0; i < p->size; i++) work_on(p, &p->ranges[(lane + i) % p->size], lane);
}

/* The same number of pieces for every lane, or one more. */
static void deal(bal_pool *p, size_t n)
{
    const size_t pieces = n / p->grain + (n % p->grain != 0), size = (size_t)p->size;
    size_t begin = 0;
    for (size_t l = 0, dealt = 0; l < size; l++) {
        dealt += pieces / size + (l < pieces % size);
        range *r = &p->ranges[l];
        r->end = dealt == pieces ? n : dealt * p->grain;
        atomic_store(&r->next, begin);
        begin = r->end;
    }
}

static uint32_t epoch_of(bal_pool *p)
{
    return (uint32_t)(atomic_load(&p->state) >> 32);
}

/* Whether the job of this epoch is still open; the caller is then inside and it stays as it is. */
static bool enter(bal_pool *p, uint32_t epoch)
{
    uint64_t s = atomic_load(&p->state);
    do {
        if ((uint32_t)(s >> 32) != epoch || !(s & OPEN)) return false;
    } while (!atomic_compare_exchange_weak(&p->state, &s, s + 1));
    return true;
}

/* Returns the new epoch once it differs from `seen`. */
static uint32_t wait_for_job(bal_pool *p, uint32_t seen)
{
    uint32_t e;
    for (int i = 0; i < SPINS; i++) {
        if ((e = epoch_of(p)) != seen) return e;
        relax();
    }
    pthread_mutex_lock(&p->idle_lock);
    while ((e = epoch_of(p)) == seen) pthread_cond_wait(&p->wake, &p->idle_lock);
    pthread_mutex_unlock(&p->idle_lock);
    return e;
}

static void *worker_main(void *arg)
{
    worker *w = arg;
    bal_pool *p = w->pool;
    uint32_t seen = 0;
    for (;;) {
        seen = wait_for_job(p, seen);
        if (atomic_load(&p->stop)) return NULL;
        if (!enter(p, seen)) continue;
        work(p, w->lane);
        atomic_fetch_sub(&p->state, 1);
    }
}

/* Nobody is inside. */
static void publish(bal_pool *p)
{
    const uint64_t next = (uint64_t)(epoch_of(p) + 1u) << 32;
    pthread_mutex_lock(&p->idle_lock);
    atomic_store(&p->state, next | OPEN);
    pthread_cond_broadcast(&p->wake);
    pthread_mutex_unlock(&p->idle_lock);
}

/* The lane-th CPU of the affinity mask; a failure only costs speed. */
static void pin(pthread_t thread, const cpu_set_t *mask, int lane)
{
    const int n = CPU_COUNT(mask);
    if (n < 1) return;
    int want = lane % n;
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++) {
        if (!CPU_ISSET(cpu, mask) || want-- > 0) continue;
        cpu_set_t one;
        CPU_ZERO(&one);
        CPU_SET(cpu, &one);
        pthread_setaffinity_np(thread, sizeof one, &one);
        return;
    }
}

static bal_status start_workers(bal_pool *p, const cpu_set_t *mask, bal_error *err)
{
    /* more threads than CPUs: leave placement to the kernel */
    const bool pinned = p->size <= CPU_COUNT(mask);
    for (int lane = 1; lane < p->size; lane++) {
        worker *w = &p->workers[lane];
        *w = (worker){.pool = p, .lane = lane};
        if (pthread_create(&w->thread, NULL, worker_main, w) != 0)
            return bal_fail(err, BAL_E_NOMEM, "cannot start thread %d of %d", lane, p->size);
        p->started++;
        if (pinned) pin(w->thread, mask, lane);
    }
    return BAL_OK;
}

int bal_pool_size_of(int n_threads)
{
    const int size = n_threads ? n_threads : bal_cpu_count();
    return size < MAX_THREADS ? size : MAX_THREADS;
}

bal_status bal_pool_create(bal_pool **out, int n_threads, bal_error *err)
{
    *out = NULL;
    if (n_threads < 0 || n_threads > MAX_THREADS)
        return bal_fail(err, BAL_E_ARG, "threads: %d, expected 0 to %d", n_threads, MAX_THREADS);
    bal_pool *p = calloc(1, sizeof *p);
    if (!p) return bal_nomem(err, sizeof *p, "thread pool");
    cpu_set_t mask;
    CPU_ZERO(&mask);
    if (sched_getaffinity(0, sizeof mask, &mask) != 0) CPU_SET(0, &mask);
    p->size = bal_pool_size_of(n_threads);
    pthread_mutex_init(&p->run_lock, NULL);
    pthread_mutex_init(&p->idle_lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    const bal_status st = start_workers(p, &mask, err);
    if (st < 0) {
        bal_pool_destroy(p);
        return st;
    }
    *out = p;
    return BAL_OK;
}

void bal_pool_destroy(bal_pool *p)
{
    if (!p) return;
    atomic_store(&p->stop, true);
    publish(p);
    for (int i = 1; i <= p->started; i++) pthread_join(p->workers[i].thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->idle_lock);
    pthread_mutex_destroy(&p->run_lock);
    free(p);
}

int bal_pool_size(const bal_pool *p)
{
    return p->size;
}

static void close_job(bal_pool *p)
{
    atomic_fetch_and(&p->state, ~(uint64_t)OPEN);
    for (int i = 0; atomic_load(&p->state) & INSIDE; i++) {
        if (i < SPINS)
            relax();
        else
            sched_yield();
    }
}

void bal_pool_run(bal_pool *p, bal_pool_fn *fn, void *ctx, size_t n, size_t grain)
{
    if (n == 0) return;
    if (n <= grain || p->size == 1) {
        fn(ctx, 0, n, 0);
        return;
    }
    pthread_mutex_lock(&p->run_lock);
    p->fn = fn;
    p->ctx = ctx;
    p->grain = grain;
    deal(p, n);
    publish(p);
    work(p, 0);
    close_job(p);
    pthread_mutex_unlock(&p->run_lock);
}
