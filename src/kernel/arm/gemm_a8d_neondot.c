/* SPDX-License-Identifier: MIT
 * gemm_a8d4 for NEON with SDOT; read a8_body.h and dots_neondot.h. */
#include "kernel/arm/dots_neondot.h"

#include "kernel/arm/a8_body.h"

GEMM_A8D(bal_gemm_a8d4_neondot)
