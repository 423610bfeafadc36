/* SPDX-License-Identifier: MIT
 * gemm_nt for AVX-512; read gemm_nt_body.h. 4 x 4 outputs take 16 of 32 registers, and a step of 16
 * inputs needs 8 loads for 16 multiply-adds. */
#include "kernel/x86/lanes_avx512.h"

#define MR     4
#define NR     4
#define NR1    4
#define NR_MAX 4
#include "kernel/x86/gemm_nt_body.h"
