/* SPDX-License-Identifier: MIT
 * Seconds of the monotonic clock, and waiting on it. */
#ifndef BAL_SERVE_CLOCK_H
#define BAL_SERVE_CLOCK_H

#include <pthread.h>
#include <time.h>

static inline double bal_clock_s(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* A condition that bal_cond_wait may be used on. */
static inline int bal_cond_init(pthread_cond_t *c)
{
    pthread_condattr_t a;
    pthread_condattr_init(&a);
    pthread_condattr_setclock(&a, CLOCK_MONOTONIC);
    const int failed = pthread_cond_init(c, &a);
    pthread_condattr_destroy(&a);
    return failed;
}

/* Waits at most `seconds`; m is held before and after. */
static inline void bal_cond_wait(pthread_cond_t *c, pthread_mutex_t *m, double seconds)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    const double at = (double)t.tv_nsec * 1e-9 + seconds;
    t.tv_sec += (time_t)at;
    t.tv_nsec = (long)((at - (double)(time_t)at) * 1e9);
    pthread_cond_timedwait(c, m, &t);
}

#endif
