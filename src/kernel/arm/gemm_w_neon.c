/* SPDX-License-Identifier: MIT
 * gemm_w2, w3, w4, w6, w8 for plain NEON; read a16_body.h and dots_neon.h. */
#include "kernel/arm/dots_neon.h"

#include "kernel/arm/a16_body.h"

GEMM_W(bal_gemm_w2_neon, 2)
GEMM_W(bal_gemm_w3_neon, 3)
GEMM_W(bal_gemm_w4_neon, 4)
GEMM_W(bal_gemm_w6_neon, 6)
GEMM_W(bal_gemm_w8_neon, 8)
