/* SPDX-License-Identifier: MIT
 * Softmax and gated activations for NEON; read activation_body.h. */
#include "kernel/arm/lanes_neon.h"

#define ISA(name) name##_neon
#include "kernel/body/activation_body.h"
