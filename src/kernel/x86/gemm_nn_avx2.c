/* SPDX-License-Identifier: MIT
 * gemm_nn_f32 for AVX2; read gemm_nn_body.h. 6 x 16 outputs take 12 of 16 registers, and a step of
 * t needs 8 loads for 12 multiply-adds. */
#include "kernel/x86/lanes_avx2.h"

#define ISA(name)  name##_avx2
#define MR         6
#define NV         1
#define EACH_MR(X) X(1) X(2) X(3) X(4) X(5)
#include "kernel/body/gemm_nn_body.h"
