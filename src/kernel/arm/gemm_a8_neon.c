/* SPDX-License-Identifier: MIT
 * gemm_a8w2, w3, w4, w6, w8 for plain NEON; read a8_body.h and dots_neon.h. */
#include "kernel/arm/dots_neon.h"

#include "kernel/arm/a8_body.h"

GEMM_A8(bal_gemm_a8w2_neon, 2)
GEMM_A8(bal_gemm_a8w3_neon, 3)
GEMM_A8(bal_gemm_a8w4_neon, 4)
GEMM_A8(bal_gemm_a8w6_neon, 6)
GEMM_A8(bal_gemm_a8w8_neon, 8)
