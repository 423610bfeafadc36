/* SPDX-License-Identifier: MIT
 * gemm_nt for NEON; read gemm_nt_body.h. 4 x 4 sums and the 4 weights they share take 20 of 32
 * registers. */
#include "kernel/arm/lanes_neon.h"

#define ISA(name) name##_neon
#define MR        4
#define NR        4
#include "kernel/body/gemm_nt_body.h"
