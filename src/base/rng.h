/* SPDX-License-Identifier: MIT
 * xoshiro256** seeded by splitmix64 (Blackman and Vigna, public domain reference): one small,
 * fast, reproducible generator for sampling, shuffles, bootstrap and tests. */
#ifndef BAL_BASE_RNG_H
#define BAL_BASE_RNG_H

#include <stdint.h>

typedef struct bal_rng {
    uint64_t s[4];
} bal_rng;

void bal_rng_seed(bal_rng *r, uint64_t seed);
uint64_t bal_rng_u64(bal_rng *r);
/* uniform in [0, 1), 24 bits */
float bal_rng_f32(bal_rng *r);
/* uniform in [0, n), n >= 1, without modulo bias */
uint64_t bal_rng_below(bal_rng *r, uint64_t n);

#endif
