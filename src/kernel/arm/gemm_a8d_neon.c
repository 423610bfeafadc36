/* SPDX-License-Identifier: MIT
 * gemm_a8d4 for plain NEON; read a8_body.h and dots_neon.h. */
#include "kernel/arm/dots_neon.h"

#include "kernel/arm/a8_body.h"

GEMM_A8D(bal_gemm_a8d4_neon)
