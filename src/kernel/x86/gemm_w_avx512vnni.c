/* SPDX-License-Identifier: MIT
 * gemm_w2, w3, w4, w6, w8 for AVX-512 with VNNI; read a16_avx512vnni.h. */
#include "kernel/x86/a16_avx512vnni.h"

bal_gemm_w2_fn VNNI(bal_gemm_w2);
bal_gemm_w3_fn VNNI(bal_gemm_w3);
bal_gemm_w4_fn VNNI(bal_gemm_w4);
bal_gemm_w6_fn VNNI(bal_gemm_w6);
bal_gemm_w8_fn VNNI(bal_gemm_w8);

GEMM_W(bal_gemm_w2, 2)
GEMM_W(bal_gemm_w3, 3)
GEMM_W(bal_gemm_w4, 4)
GEMM_W(bal_gemm_w6, 6)
GEMM_W(bal_gemm_w8, 8)
