/* SPDX-License-Identifier: MIT
 * Stacks to run code on and a switch between them, known to AddressSanitizer. x86-64 switches in a
 * few instructions; elsewhere ucontext does, with a system call. */
#ifndef BAL_SHIM_FIBER_H
#define BAL_SHIM_FIBER_H

#include <cstddef>

struct bal_fiber {
    void *context; /* saved stack pointer, or ucontext_t */
    void *stack;
    size_t stack_bytes;
    void *shadow; /* AddressSanitizer's */
};

/* A fiber that calls body(), which ends in bal_fiber_leave and never returns. Its stack comes from
 * a pool; bal_fiber_free gives it back, whatever it was doing. */
void bal_fiber_make(bal_fiber *f, void (*body)());
void bal_fiber_free(bal_fiber *f);

/* From the main stack to f, until it calls bal_fiber_leave. */
void bal_fiber_enter(bal_fiber *f);
/* Back to where bal_fiber_enter was called; returns when f is entered again. `last`: never. */
void bal_fiber_leave(bal_fiber *f, bool last);
/* The first thing that body() calls. */
void bal_fiber_begin();

#endif
