/* SPDX-License-Identifier: MIT
 * gemm_w2, w3, w4, w6, w8 for AVX-VNNI; read a16_body_avx2.h and a16_avxvnni.h. */
#include "kernel/x86/a16_avxvnni.h"

bal_gemm_w2_fn AVXVNNI(bal_gemm_w2);
bal_gemm_w3_fn AVXVNNI(bal_gemm_w3);
bal_gemm_w4_fn AVXVNNI(bal_gemm_w4);
bal_gemm_w6_fn AVXVNNI(bal_gemm_w6);
bal_gemm_w8_fn AVXVNNI(bal_gemm_w8);

GEMM_W(AVXVNNI(bal_gemm_w2), 2)
GEMM_W(AVXVNNI(bal_gemm_w3), 3)
GEMM_W(AVXVNNI(bal_gemm_w4), 4)
GEMM_W(AVXVNNI(bal_gemm_w6), 6)
GEMM_W(AVXVNNI(bal_gemm_w8), 8)
