/* SPDX-License-Identifier: MIT
 * Kernels on fibers: the half of the shim that runs blocks. runtime.cpp queues them. */
#ifndef BAL_SHIM_BLOCK_H
#define BAL_SHIM_BLOCK_H

#include <cuda_runtime.h>
#include <map>
#include <memory>

struct bal_shim_block;

/* One launch, and the blocks of it that have begun. */
struct bal_shim_kernel {
    dim3 grid;
    unsigned threads;
    size_t shared;
    bool early;
    std::function<void()> thread;
    std::map<unsigned, std::shared_ptr<bal_shim_block>> begun;
};

/* Runs blocks up to bal_grid_wait(), most 64 of them. */
void bal_shim_kernel_begin(bal_shim_kernel *k);
/* Runs what is left of the kernel to its end, or to the first fault. */
void bal_shim_kernel_run(bal_shim_kernel *k);

/* Keeps the first fault. Inside of a kernel, the block is given up: does not return there. */
void bal_shim_fault(const char *format, ...) __attribute__((format(printf, 1, 2)));
bool bal_shim_faulty();

/* 64-bit xorshift, of bal_shim_seed. */
uint64_t bal_shim_random();

/* Exact-size memory full of poison; bytes beside it are watched. */
void *bal_shim_alloc(size_t n_bytes);
/* False: something was written beside it. */
bool bal_shim_release(void *p, size_t n_bytes);

#endif
