/* SPDX-License-Identifier: MIT
 * gemm_nn_f32 for NEON; read gemm_nn_body.h. 6 x 16 outputs take 24 of 32 registers, and a step of
 * t needs 10 loads for 24 multiply-adds. */
#include "kernel/arm/lanes_neon.h"

#define ISA(name)  name##_neon
#define MR         6
#define NV         1
#define EACH_MR(X) X(1) X(2) X(3) X(4) X(5)
#include "kernel/body/gemm_nn_body.h"
