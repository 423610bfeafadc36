/* SPDX-License-Identifier: MIT
 * The chosen kernels, one pointer per op. Each op's contract stands in its header. */
#ifndef BAL_KERNEL_TABLE_H
#define BAL_KERNEL_TABLE_H

#include <stdbool.h>

#include "base/cpu.h"
#include "kernel/activation.h"
#include "kernel/gemm_a8.h"
#include "kernel/gemm_nn.h"
#include "kernel/gemm_nt.h"
#include "kernel/gemm_panel.h"
#include "kernel/gemm_t.h"
#include "kernel/gemm_tile.h"
#include "kernel/gemm_w.h"
#include "kernel/hadamard.h"
#include "kernel/quant_a16.h"
#include "kernel/widen.h"

typedef struct bal_kernels {
    bal_quant_a16_fn *quant_a16;
    bal_gemm_w_fn *gemm_w2, *gemm_w3, *gemm_w4, *gemm_w6, *gemm_w8;
    bal_gemm_t_fn *gemm_t2, *gemm_t3, *gemm_t4, *gemm_d4;
    bal_quant_a8_fn *quant_a8;
    bal_quant_a8_fixed_fn *quant_a8_fixed;
    bal_gemm_a8_fn *gemm_a8w2, *gemm_a8w3, *gemm_a8w4, *gemm_a8w6, *gemm_a8w8;
    bal_gemm_a8d_fn *gemm_a8d4;
    bal_tile_a16_fn *tile_w2, *tile_w3, *tile_w4, *tile_w6, *tile_w8, *tile_t2, *tile_t3, *tile_t4,
        *tile_d4;
    bal_tile_a8_fn *tile_a8w2, *tile_a8w3, *tile_a8w4, *tile_a8w6, *tile_a8w8;
    bal_gemm_nt_fn *gemm_nt_f32, *gemm_nt_bf16, *gemm_nt_f16;
    bal_pack_x_fn *pack_x;
    bal_pack_w_fn *pack_f32, *pack_bf16, *pack_f16;
    bal_gemm_panel_fn *gemm_panel;
    bal_gemm_nn_f32_fn *gemm_nn_f32;
    bal_softmax_exp_fn *softmax_exp;
    bal_softmax_row_fn *softmax_row;
    bal_silu_mul_fn *silu_mul;
    bal_gelu_tanh_fn *gelu_tanh;
    bal_widen_f16_fn *widen_f16;
    bal_widen_i8_fn *widen_i8;
    bal_hadamard_fn *hadamard;
} bal_kernels;

/* Fills every pointer with the last variant of kernels.def that `isa` (base/cpu.h) can run. The
 * caller passes bal_cpu_isa() or a subset of it; results are the same bits for every subset. */
void bal_kernels_init(bal_kernels *t, unsigned isa);

/* The gemm of 2, 3, 4, 6 or 8 bit weights for 16-bit and for 8-bit activations. */
bal_gemm_w_fn *bal_kernels_gemm_w(const bal_kernels *t, int bits);
bal_gemm_a8_fn *bal_kernels_gemm_a8(const bal_kernels *t, int bits);
/* The gemm of tables of 2, 3 or 4 bits. */
bal_gemm_t_fn *bal_kernels_gemm_t(const bal_kernels *t, int bits);
/* The same products of many tokens: of groups, of tables, and of groups with 8-bit activations. */
bal_tile_a16_fn *bal_kernels_tile_w(const bal_kernels *t, int bits);
bal_tile_a16_fn *bal_kernels_tile_t(const bal_kernels *t, int bits);
bal_tile_a8_fn *bal_kernels_tile_a8(const bal_kernels *t, int bits);
/* Whether those are more than their definitions, so worth the packing. */
bool bal_kernels_have_tiles(const bal_kernels *t);

#endif
