/* SPDX-License-Identifier: MIT
 * gemm_w2, w3, w4, w6, w8 for NEON with SDOT; read a16_body.h and dots_neondot.h. */
#include "kernel/arm/dots_neondot.h"

#include "kernel/arm/a16_body.h"

GEMM_W(bal_gemm_w2_neondot, 2)
GEMM_W(bal_gemm_w3_neondot, 3)
GEMM_W(bal_gemm_w4_neondot, 4)
GEMM_W(bal_gemm_w6_neondot, 6)
GEMM_W(bal_gemm_w8_neondot, 8)
