/* SPDX-License-Identifier: MIT
 * What a test can ask of the shim, and what the shim does to kernels (cuda_runtime.h beside this):
 *   - Threads of a block are fibers of one OS thread, resumed in random order; blocks run in random
 *     order; both orders follow from the seed.
 *   - Shared and fresh device memory hold poison (0xff: NaN as f16, bf16 and f32; -1 as an
 * integer).
 *   - cp.async poisons its destination at once and copies at the wait, no earlier.
 *   - Streams do nothing until somebody waits: a missing synchronisation reads poison.
 *   - A kernel launched `early` runs up to bal_grid_wait() before the kernel in front of it runs.
 *   - A barrier or warp collective that not all threads reach, or reach at different lines, a copy
 *     that nobody waits for, bytes written beside shared memory, and copies outside of an
 *     allocation are faults. AddressSanitizer sees accesses outside of every buffer.
 * After a fault, calls return cudaErrorLaunchFailure until it is taken.
 * Environment, read at the first call: BAL_SHIM_SEED; BAL_SHIM_MEMORY, bytes of the device (default
 * 1 GiB); BAL_SHIM_DEVICES, how many there are (default 1); BAL_SHIM_DRIVER, version (0: none). */
#ifndef BAL_SHIM_SHIM_H
#define BAL_SHIM_SHIM_H

#include <cstddef>
#include <cstdint>

/* Sets the order of fibers and blocks from here on. */
void bal_shim_seed(uint64_t seed);

/* The first fault since the last call, in words, or NULL; clears it. Valid until the next fault. */
const char *bal_shim_take_fault();

/* Bytes the device has, and bytes in use. */
void bal_shim_memory_limit(size_t n_bytes);
size_t bal_shim_memory_used();

/* mma rounds its sums toward zero after each addition instead of once to nearest: a pessimistic
 * stand-in for what tensor cores may do, to see how much a result depends on it. */
void bal_shim_mma_truncate(bool on);

/* Warp collectives done so far: a measure of work that does not depend on the machine. */
uint64_t bal_shim_collectives();

#endif
