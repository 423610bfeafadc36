/* SPDX-License-Identifier: MIT
 * gemm_a8d4 for NEON with SDOT; read a8_body.h and dots_neondot.h. */
#include "kernel/arm/dots_neondot.h"

#define ISA(name) name##_neondot
#include "kernel/arm/a8_body.h"
#include "kernel/gemm_t.h"

bal_gemm_a8d_fn ISA(bal_gemm_a8d4);

GEMM_A8D(bal_gemm_a8d4)
