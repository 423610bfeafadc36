/* SPDX-License-Identifier: MIT
 * Contract: Hadamard's transform of runs of a row. Class EXACT. The payload of a NaN is
 * unspecified. */
#ifndef BAL_KERNEL_HADAMARD_H
#define BAL_KERNEL_HADAMARD_H

#include "type/act.h"

#include <stddef.h>

/* In place: each run of `block` elements x becomes x H / sqrt(block). block: a power of two from
 * LEAST to MOST; n a multiple of it.
 * Definition: for half = 1, 2, 4 ... block / 2 in this order the elements i and i + half, i without
 * the bit half, become a + b and a - b; then each element is multiplied by 1 / sqrt(block) in f32.
 */
typedef void bal_hadamard_fn(float *x, size_t n, size_t block);

#endif
