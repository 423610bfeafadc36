/* SPDX-License-Identifier: MIT
 * gemm_w2, w3, w4, w6, w8 for NEON with SDOT; read a16_body.h and dots_neondot.h. */
#include "kernel/arm/dots_neondot.h"

#define ISA(name) name##_neondot
#include "kernel/arm/a16_body.h"

bal_gemm_w2_fn ISA(bal_gemm_w2);
bal_gemm_w3_fn ISA(bal_gemm_w3);
bal_gemm_w4_fn ISA(bal_gemm_w4);
bal_gemm_w6_fn ISA(bal_gemm_w6);
bal_gemm_w8_fn ISA(bal_gemm_w8);

GEMM_W(bal_gemm_w2, 2)
GEMM_W(bal_gemm_w3, 3)
GEMM_W(bal_gemm_w4, 4)
GEMM_W(bal_gemm_w6, 6)
GEMM_W(bal_gemm_w8, 8)
