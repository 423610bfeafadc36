/* SPDX-License-Identifier: MIT
 * gemm_nt for AVX2; read gemm_nt_body.h. 2 x 3 outputs take 12 of 16 registers, and a step of 16
 * inputs needs 10 loads for 12 multiply-adds. */
#include "kernel/x86/lanes_avx2.h"

#define ISA(name) name##_avx2
#define MR        2
#define NR        3
#define NR1       4
#define NR_MAX    4
#include "kernel/x86/gemm_nt_body.h"
