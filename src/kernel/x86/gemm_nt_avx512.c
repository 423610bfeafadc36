/* SPDX-License-Identifier: MIT
 * gemm_nt for AVX-512; read gemm_nt_body.h. */
#include "kernel/x86/lanes_avx512.h"

#define MR 4
#define NR 4
#include "kernel/body/gemm_nt_body.h"
