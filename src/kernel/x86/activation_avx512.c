/* SPDX-License-Identifier: MIT
 * Softmax and gated activations for AVX-512; read activation_body.h. */
#include "kernel/x86/lanes_avx512.h"

#include "kernel/body/activation_body.h"
