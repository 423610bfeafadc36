/* SPDX-License-Identifier: MIT
 * gemm_t2, t3, t4 and d4 for AVX-VNNI; read a16_body_avx2.h and a16_avxvnni.h. */
#include "kernel/x86/a16_avxvnni.h"

GEMM_T(AVXVNNI(bal_gemm_t2), TABLE | 2)
GEMM_T(AVXVNNI(bal_gemm_t3), TABLE | 3)
GEMM_T(AVXVNNI(bal_gemm_t4), TABLE | 4)
GEMM_T(AVXVNNI(bal_gemm_d4), TWO_LEVEL | 4)
