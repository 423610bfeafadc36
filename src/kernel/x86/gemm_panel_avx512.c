/* SPDX-License-Identifier: MIT
 * gemm_panel for AVX-512; read body/gemm_panel_body.h. 12 tokens x 16 outputs are 12 sums, enough
 * to cover the latency of two multiply-adds a cycle. */
#include "kernel/x86/lanes_avx512.h"

#define MR 12
#include "kernel/body/gemm_panel_body.h"
