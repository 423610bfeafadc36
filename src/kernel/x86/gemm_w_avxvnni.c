/* SPDX-License-Identifier: MIT
 * gemm_w2, w3, w4, w6, w8 for AVX-VNNI; read a16_body_avx2.h and a16_avxvnni.h. */
#include "kernel/x86/a16_avxvnni.h"

GEMM_W(AVXVNNI(bal_gemm_w2), 2)
GEMM_W(AVXVNNI(bal_gemm_w3), 3)
GEMM_W(AVXVNNI(bal_gemm_w4), 4)
GEMM_W(AVXVNNI(bal_gemm_w6), 6)
GEMM_W(AVXVNNI(bal_gemm_w8), 8)
