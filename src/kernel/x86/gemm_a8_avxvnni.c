/* SPDX-License-Identifier: MIT
 * gemm_a8w2, w3, w4, w6, w8 for AVX-VNNI; read a8_body_avx2.h and a8_avxvnni.h. */
#include "kernel/x86/a8_avxvnni.h"

#include "kernel/x86/a8_body_avx2.h"

GEMM_A8(AVXVNNI(bal_gemm_a8w2), 2)
GEMM_A8(AVXVNNI(bal_gemm_a8w3), 3)
GEMM_A8(AVXVNNI(bal_gemm_a8w4), 4)
GEMM_A8(AVXVNNI(bal_gemm_a8w6), 6)
GEMM_A8(AVXVNNI(bal_gemm_a8w8), 8)
