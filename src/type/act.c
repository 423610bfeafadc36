/* SPDX-License-Identifier: MIT
 * Names of activation paths and of transforms in front of them. Refuses runs that do not divide the
 * input, and fixed scales that are negative or no numbers. */
#include "type/act.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "type/packed.h"

void bal_act_id(bal_act a, char out[BAL_ACT_ID_SIZE])
{
    const uint32_t text = bal_f32_bits(a.fixed[BAL_ACT_TEXT]);
    if (a.kind == BAL_ACT_A16)
        snprintf(out, BAL_ACT_ID_SIZE, "a16");
    else if (a.scale == BAL_ACT_DYNAMIC)
        snprintf(out, BAL_ACT_ID_SIZE, "a8g%zu", a.group);
    else if (a.scale == BAL_ACT_STATIC)
        snprintf(out, BAL_ACT_ID_SIZE, "a8s%08" PRIx32, text);
    else
        snprintf(out, BAL_ACT_ID_SIZE, "a8s%08" PRIx32 "v%08" PRIx32, text,
                 bal_f32_bits(a.fixed[BAL_ACT_VISION]));
}

/* Whether bits are those of a number that is not negative. */
static bool is_scale(uint32_t bits)
{
    return bits < 0x7f800000u;
}

/* What text may be the id of; the caller compares. */
static bal_act read_id(const char *id)
{
    uint32_t group = 0, text = 0, vision = 0;
    if (sscanf(id, "a8g%9" SCNu32, &group) == 1 && group % BAL_UNIT == 0)
        return (bal_act){.kind = BAL_ACT_A8, .group = group};
    const int n = sscanf(id, "a8s%8" SCNx32 "v%8" SCNx32, &text, &vision);
    if (n < 2) vision = text;
    if (n < 1 || !is_scale(text) || !is_scale(vision)) return (bal_act){0};
    return (bal_act){.kind = BAL_ACT_A8,
                     .scale = n == 1 ? BAL_ACT_STATIC : BAL_ACT_STATIC_MODALITY,
                     .fixed = {bal_f32_from_bits(text), bal_f32_from_bits(vision)}};
}

bal_status bal_act_parse(const char *id, bal_act *out, bal_error *err)
{
    char again[BAL_ACT_ID_SIZE];
    *out = read_id(id);
    bal_act_id(*out, again);
    if (!strcmp(id, again)) return BAL_OK;
    *out = (bal_act){0};
    return bal_fail(err, BAL_E_UNSUP,
                    "activation path '%.40s' is not known to this build; expected a16 or a8gG with "
                    "G a multiple of %d, 0 for the token, or a8sT or a8sTvV with the bits of fixed "
                    "scales",
                    id, BAL_UNIT);
}

int bal_hadamard_block(int k)
{
    const int power = k & -k, block = power < BAL_HADAMARD_MOST ? power : BAL_HADAMARD_MOST;
    return block >= BAL_HADAMARD_LEAST ? block : 0;
}

void bal_hadamard_id(int block, char out[BAL_ACT_ID_SIZE])
{
    snprintf(out, BAL_ACT_ID_SIZE, "h%d", block);
}

bal_status bal_hadamard_parse(const char *id, int k, int *block, bal_error *err)
{
    char known[BAL_ACT_ID_SIZE];
    *block = 0;
    for (int b = BAL_HADAMARD_LEAST; b <= BAL_HADAMARD_MOST; b *= 2) {
        bal_hadamard_id(b, known);
        if (strcmp(id, known) == 0 && k % b == 0) *block = b;
    }
    if (*block) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP,
                    "transform '%.40s' is not known to this build for %d inputs; expected hB with "
                    "B a power of two from %d to %d that divides them",
                    id, k, BAL_HADAMARD_LEAST, BAL_HADAMARD_MOST);
}
