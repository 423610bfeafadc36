/* SPDX-License-Identifier: MIT
 * gemm_a8d4 for plain NEON; read a8_body.h and dots_neon.h. */
#include "kernel/arm/dots_neon.h"

#define ISA(name) name##_neon
#include "kernel/arm/a8_body.h"
#include "kernel/gemm_t.h"

bal_gemm_a8d_fn ISA(bal_gemm_a8d4);

GEMM_A8D(bal_gemm_a8d4)
