/* SPDX-License-Identifier: MIT
 * gemm_a8w2, w3, w4, w6, w8 for NEON with SDOT; read a8_body.h and dots_neondot.h. */
#include "kernel/arm/dots_neondot.h"

#define ISA(name) name##_neondot
#include "kernel/arm/a8_body.h"

bal_gemm_a8w2_fn ISA(bal_gemm_a8w2);
bal_gemm_a8w3_fn ISA(bal_gemm_a8w3);
bal_gemm_a8w4_fn ISA(bal_gemm_a8w4);
bal_gemm_a8w6_fn ISA(bal_gemm_a8w6);
bal_gemm_a8w8_fn ISA(bal_gemm_a8w8);

GEMM_A8(bal_gemm_a8w2, 2)
GEMM_A8(bal_gemm_a8w3, 3)
GEMM_A8(bal_gemm_a8w4, 4)
GEMM_A8(bal_gemm_a8w6, 6)
GEMM_A8(bal_gemm_a8w8, 8)
