/* SPDX-License-Identifier: MIT
 * gemm_nt for AVX2; read gemm_nt_body.h. 4 x 3 sums and the 3 weights they share take 15 of 16
 * registers. */
#include "kernel/x86/lanes_avx2.h"

#define ISA(name) name##_avx2
#define MR        4
#define NR        3
#include "kernel/body/gemm_nt_body.h"
