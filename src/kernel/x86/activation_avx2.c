/* SPDX-License-Identifier: MIT
 * Softmax and gated activations for AVX2; read activation_body.h. */
#include "kernel/x86/lanes_avx2.h"

#define ISA(name) name##_avx2
#include "kernel/body/activation_body.h"
