/* SPDX-License-Identifier: MIT
 * Dispatch: declares every variant of kernels.def and lets the last one the mask can run win. */
#include "kernel/table.h"

#define KERNEL(op, variant, needs) bal_##op##_fn bal_##op##_##variant;
#include "kernel/kernels.def"
#undef KERNEL

void bal_kernels_init(bal_kernels *t, unsigned isa)
{
#define KERNEL(op, variant, needs)                                                                 \
    if ((isa & (needs)) == (needs)) t->op = bal_##op##_##variant;
#include "kernel/kernels.def"
#undef KERNEL
}

bal_gemm_w_fn *bal_kernels_gemm_w(const bal_kernels *t, int bits)
{
    switch (bits) {
    case 2: return t->gemm_w2;
    case 3: return t->gemm_w3;
    case 4: return t->gemm_w4;
    case 6: return t->gemm_w6;
    default: assert(bits == 8); return t->gemm_w8;
    }
}

bal_gemm_a8_fn *bal_kernels_gemm_a8(const bal_kernels *t, int bits)
{
    switch (bits) {
    case 2: return t->gemm_a8w2;
    case 3: return t->gemm_a8w3;
    case 4: return t->gemm_a8w4;
    case 6: return t->gemm_a8w6;
    default: assert(bits == 8); return t->gemm_a8w8;
    }
}

bal_gemm_t_fn *bal_kernels_gemm_t(const bal_kernels *t, int bits)
{
    switch (bits) {
    case 2: return t->gemm_t2;
    case 3: return t->gemm_t3;
    default: assert(bits == 4); return t->gemm_t4;
    }
}

bal_tile_a16_fn *bal_kernels_tile_w(const bal_kernels *t, int bits)
{
    switch (bits) {
    case 2: return t->tile_w2;
    case 3: return t->tile_w3;
    case 4: return t->tile_w4;
    case 6: return t->tile_w6;
    default: assert(bits == 8); return t->tile_w8;
    }
}

bal_tile_a16_fn *bal_kernels_tile_t(const bal_kernels *t, int bits)
{
    switch (bits) {
    case 2: return t->tile_t2;
    case 3: return t->tile_t3;
    default: assert(bits == 4); return t->tile_t4;
    }
}

bal_tile_a8_fn *bal_kernels_tile_a8(const bal_kernels *t, int bits)
{
    switch (bits) {
    case 2: return t->tile_a8w2;
    case 3: return t->tile_a8w3;
    case 4: return t->tile_a8w4;
    case 6: return t->tile_a8w6;
    default: assert(bits == 8); return t->tile_a8w8;
    }
}

bool bal_kernels_have_tiles(const bal_kernels *t)
{
    return t->tile_w2 != bal_tile_w2_ref;
}
