/* SPDX-License-Identifier: MIT
 * The storage types of weights and what each costs. What the bits of the packed ones mean stands
 * in packed.h; the float ones are rows of little-endian elements as a checkpoint holds them.
 * Activations are always f32 outside kernels. */
#ifndef BAL_TYPE_TYPE_H
#define BAL_TYPE_TYPE_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

/* id, name in files and on the command line, bits of one code or element, packed? */
#define BAL_TYPE_LIST(X)                                                                           \
    X(F32, "f32", 32, false)                                                                       \
    X(F16, "f16", 16, false)                                                                       \
    X(BF16, "bf16", 16, false)                                                                     \
    X(W2, "w2", 2, true)                                                                           \
    X(W3, "w3", 3, true)                                                                           \
    X(W4, "w4", 4, true)                                                                           \
    X(W6, "w6", 6, true)                                                                           \
    X(W8, "w8", 8, true)

typedef enum bal_type {
#define X(id, name, bits, packed) BAL_TYPE_##id,
    BAL_TYPE_LIST(X)
#undef X
        BAL_TYPE_COUNT
} bal_type;

typedef struct bal_type_info {
    const char *name;
    int bits;    /* per code or element, scales and zeros not counted */
    bool packed; /* group-quantized, layout of packed.h */
} bal_type_info;

/* The table row of `type`, which must be below BAL_TYPE_COUNT. Static memory. */
const bal_type_info *bal_type_get(bal_type type);

/* "bf16" to BAL_TYPE_BF16. An unknown name fails with BAL_E_ARG and lists the known ones. */
bal_status bal_type_from_name(bal_type *out, const char *name, bal_error *err);

/* The packed type of 2, 3, 4, 6 or 8 bits; any other number fails with BAL_E_ARG. */
bal_status bal_type_from_bits(bal_type *out, int bits, bal_error *err);

#ifdef __cplusplus
}
#endif

#endif
