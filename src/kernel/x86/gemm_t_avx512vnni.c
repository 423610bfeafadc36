/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for AVX-512 with VNNI; read a16_avx512vnni.h. */
#include "kernel/x86/a16_avx512vnni.h"

bal_gemm_t2_fn VNNI(bal_gemm_t2);
bal_gemm_t3_fn VNNI(bal_gemm_t3);
bal_gemm_t4_fn VNNI(bal_gemm_t4);
bal_gemm_d4_fn VNNI(bal_gemm_d4);

GEMM_T(bal_gemm_t2, TABLE | 2)
GEMM_T(bal_gemm_t3, TABLE | 3)
GEMM_T(bal_gemm_t4, TABLE | 4)
GEMM_T(bal_gemm_d4, TWO_LEVEL | 4)
