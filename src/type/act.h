/* SPDX-License-Identifier: MIT
 * How a packed linear reads its input: as 16-bit integers in units of 32 (kernel/quant_a16.h), or
 * as bytes with one scale per token or per group of inputs (kernel/quant_a8.h), found in them or
 * fixed before. A property of the linear in the file, since what was searched for one is not best
 * for the other. */
#ifndef BAL_TYPE_ACT_H
#define BAL_TYPE_ACT_H

#include "base/modality.h"
#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef enum bal_act_kind { BAL_ACT_A16, BAL_ACT_A8 } bal_act_kind;

/* Where scales of a8 come from: the inputs themselves; calibration, one for all tokens;
 * calibration, one for vision tokens and one for all others. */
typedef enum bal_act_scale {
    BAL_ACT_DYNAMIC,
    BAL_ACT_STATIC,
    BAL_ACT_STATIC_MODALITY
} bal_act_scale;

/* Tokens that share a fixed scale. */
typedef enum bal_act_row { BAL_ACT_TEXT, BAL_ACT_VISION, BAL_ACT_ROWS } bal_act_row;
static inline bal_act_row bal_act_row_of(int modality)
{
    return modality == BAL_VISION ? BAL_ACT_VISION : BAL_ACT_TEXT;
}

/* Zeroed: a16. group: inputs that share a scale of a8, a multiple of 32; 0: the token. */
typedef struct bal_act {
    bal_act_kind kind;
    size_t group;
    bal_act_scale scale;       /* anything but dynamic: group is 0 */
    float fixed[BAL_ACT_ROWS]; /* scales that are not dynamic, both the same with static */
} bal_act;

/* Id as files carry it: "a16", "a8g0" for one scale per token, "a8g32", "a8g128"; "a8sT" for a
 * fixed scale T and "a8sTvV" for V of vision tokens beside it, 8 hexadecimal digits of the f32
 * each. */
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

/* Whether all but fixed scales are the same. */
static inline bool bal_act_alike(bal_act a, bal_act b)
{
    return a.kind == b.kind &&
           (a.kind == BAL_ACT_A16 || (a.group == b.group && a.scale == b.scale));
}

static inline bool bal_act_equal(bal_act a, bal_act b)
{
    const bool fixed = a.kind == BAL_ACT_A8 && a.scale != BAL_ACT_DYNAMIC;
    return bal_act_alike(a, b) && (!fixed || (a.fixed[BAL_ACT_TEXT] == b.fixed[BAL_ACT_TEXT] &&
                                              a.fixed[BAL_ACT_VISION] == b.fixed[BAL_ACT_VISION]));
}

#ifdef __cplusplus
}
#endif

#endif
