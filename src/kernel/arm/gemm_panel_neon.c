/* SPDX-License-Identifier: MIT
 * gemm_panel for NEON; read body/gemm_panel_body.h. 6 tokens x 16
 * outputs are 24 sums of the 32 registers. */
#include "kernel/arm/lanes_neon.h"

#define ISA(name) name##_neon
#define MR        6
#include "kernel/body/gemm_panel_body.h"
