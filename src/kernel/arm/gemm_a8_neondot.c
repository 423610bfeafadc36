/* SPDX-License-Identifier: MIT
 * gemm_a8w2, w3, w4, w6, w8 for NEON with SDOT; read a8_body.h and dots_neondot.h. */
#include "kernel/arm/dots_neondot.h"

#include "kernel/arm/a8_body.h"

GEMM_A8(bal_gemm_a8w2_neondot, 2)
GEMM_A8(bal_gemm_a8w3_neondot, 3)
GEMM_A8(bal_gemm_a8w4_neondot, 4)
GEMM_A8(bal_gemm_a8w6_neondot, 6)
GEMM_A8(bal_gemm_a8w8_neondot, 8)
