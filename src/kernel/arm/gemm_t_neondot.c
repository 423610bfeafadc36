/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for NEON with SDOT; read a16_body.h and dots_neondot.h. */
#include "kernel/arm/dots_neondot.h"

#define ISA(name) name##_neondot
#include "kernel/arm/a16_body.h"

bal_gemm_t2_fn ISA(bal_gemm_t2);
bal_gemm_t3_fn ISA(bal_gemm_t3);
bal_gemm_t4_fn ISA(bal_gemm_t4);
bal_gemm_d4_fn ISA(bal_gemm_d4);

GEMM_T(bal_gemm_t2, TABLE | 2)
GEMM_T(bal_gemm_t3, TABLE | 3)
GEMM_T(bal_gemm_t4, TABLE | 4)
GEMM_T(bal_gemm_d4, TWO_LEVEL | 4)
