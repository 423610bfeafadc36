/* SPDX-License-Identifier: MIT
 * gemm_nn_f32 for AVX-512; read gemm_nn_body.h. 8 x 32 outputs take 16 of 32 registers. */
#include "kernel/x86/lanes_avx512.h"

#define MR         8
#define NV         2
#define EACH_MR(X) X(1) X(2) X(3) X(4) X(5) X(6) X(7)
#include "kernel/body/gemm_nn_body.h"
