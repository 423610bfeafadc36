/* SPDX-License-Identifier: MIT
 * gemm_panel for AVX2; read body/gemm_panel_body.h. 6 tokens x 16
 * outputs are 12 sums; with two weights and a token 15 of 16 registers. */
#include "kernel/x86/lanes_avx2.h"

#define ISA(name) name##_avx2
#define MR        6
#include "kernel/body/gemm_panel_body.h"
