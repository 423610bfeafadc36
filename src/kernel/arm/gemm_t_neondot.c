/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for NEON with SDOT; read a16_body.h and dots_neondot.h. */
#include "kernel/arm/dots_neondot.h"

#include "kernel/arm/a16_body.h"

GEMM_T(bal_gemm_t2_neondot, TABLE | 2)
GEMM_T(bal_gemm_t3_neondot, TABLE | 3)
GEMM_T(bal_gemm_t4_neondot, TABLE | 4)
GEMM_T(bal_gemm_d4_neondot, TWO_LEVEL | 4)
