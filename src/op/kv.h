/* SPDX-License-Identifier: MIT
 * How keys and values lie in memory: pages of 64 positions, in them one tile per layer, kv head and
 * K or V, in one of several formats. A new format is a row of bal_kv_formats, a writer and a
 * reader in kv.c; nothing else asks for the type. Every format stores a position on its own, so
 * what is cached does not depend on what was cached with it. */
#ifndef BAL_OP_KV_H
#define BAL_OP_KV_H

#include "base/status.h"

enum {
    BAL_PAGE = 64,
    BAL_MAX_HEAD_DIM = 1024, /* scratch is sized for it; configs above are refused */
};

typedef enum bal_kv_type {
    BAL_KV_DEFAULT, /* F16 */
    BAL_KV_F32,     /* what the linears gave, exactly */
    BAL_KV_F16,     /* rounded half to even */
    BAL_KV_I8,      /* rint(x / s), s = max |x| / 127 in f32 per position and head */
    BAL_KV_TYPES,
} bal_kv_type;

/* "f32", "f16", "i8" (and "" for the default); BAL_E_ARG names the known ones. */
bal_status bal_kv_type_find(bal_kv_type *out, const char *name, bal_error *err);
const char *bal_kv_type_name(bal_kv_type type); /* of the default: that of its type */

#endif
