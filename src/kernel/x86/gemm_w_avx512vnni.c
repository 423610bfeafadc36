/* SPDX-License-Identifier: MIT
 * gemm_w2, w3, w4, w6, w8 for AVX-512 with VNNI; read a16_avx512vnni.h. */
#include "kernel/x86/a16_avx512vnni.h"

GEMM_W(VNNI(bal_gemm_w2), 2)
GEMM_W(VNNI(bal_gemm_w3), 3)
GEMM_W(VNNI(bal_gemm_w4), 4)
GEMM_W(VNNI(bal_gemm_w6), 6)
GEMM_W(VNNI(bal_gemm_w8), 8)
