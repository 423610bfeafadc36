/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for AVX-512 with VNNI; read a16_avx512vnni.h. */
#include "kernel/x86/a16_avx512vnni.h"

GEMM_T(VNNI(bal_gemm_t2), TABLE | 2)
GEMM_T(VNNI(bal_gemm_t3), TABLE | 3)
GEMM_T(VNNI(bal_gemm_t4), TABLE | 4)
GEMM_T(VNNI(bal_gemm_d4), TWO_LEVEL | 4)
