/* SPDX-License-Identifier: MIT
 * How a packed linear reads its input: as 16-bit integers in units of 32 (kernel/quant_a16.h), or
 * as bytes with one scale per token or per group of inputs (kernel/quant_a8.h). A property of the
 * linear in the file, since what was searched for one is not best for the other. */
#ifndef BAL_TYPE_ACT_H
#define BAL_TYPE_ACT_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bal_act_kind { BAL_ACT_A16, BAL_ACT_A8 } bal_act_kind;

/* Zeroed: a16. group: inputs that share a scale of a8, a multiple of 32; 0: the token. */
typedef struct bal_act {
    bal_act_kind kind;
    size_t group;
} bal_act;

/* Id as files carry it: "a16", "a8g0" for one scale per token, "a8g32", "a8g128". */
enum { BAL_ACT_ID_SIZE = 24 };
void bal_act_id(bal_act a, char out[BAL_ACT_ID_SIZE]);
/* The inverse; any other text is BAL_E_UNSUP. */
bal_status bal_act_parse(const char *id, bal_act *out, bal_error *err);

enum { BAL_HADAMARD_LEAST = 8, BAL_HADAMARD_MOST = 128 };

/* Of an input of k: the largest run that Hadamard's transform can have there, a power of two up to
 * BAL_HADAMARD_MOST that divides k; 0 where even the least does not. */
int bal_hadamard_block(int k);
/* Id as files carry it, "h128"; BAL_E_UNSUP for any other text and where the run does not fit k. */
void bal_hadamard_id(int block, char out[BAL_ACT_ID_SIZE]);
bal_status bal_hadamard_parse(const char *id, int k, int *block, bal_error *err);

static inline bool bal_act_equal(bal_act a, bal_act b)
{
    return a.kind == b.kind && (a.kind == BAL_ACT_A16 || a.group == b.group);
}

#ifdef __cplusplus
}
#endif

#endif
