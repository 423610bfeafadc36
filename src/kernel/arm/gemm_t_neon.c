/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for plain NEON; read a16_body.h and dots_neon.h. */
#include "kernel/arm/dots_neon.h"

#include "kernel/arm/a16_body.h"

GEMM_T(bal_gemm_t2_neon, TABLE | 2)
GEMM_T(bal_gemm_t3_neon, TABLE | 3)
GEMM_T(bal_gemm_t4_neon, TABLE | 4)
GEMM_T(bal_gemm_d4_neon, TWO_LEVEL | 4)
