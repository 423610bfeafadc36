/* SPDX-License-Identifier: MIT
 * Names of activation paths and of transforms in front of them. Refuses runs that do not divide the
 * input. */
#include "type/act.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "type/packed.h"

void bal_act_id(bal_act a, char out[BAL_ACT_ID_SIZE])
{
    if (a.kind == BAL_ACT_A16)
        snprintf(out, BAL_ACT_ID_SIZE, "a16");
    else
        snprintf(out, BAL_ACT_ID_SIZE, "a8g%zu", a.group);
}

bal_status bal_act_parse(const char *id, bal_act *out, bal_error *err)
{
    char again[BAL_ACT_ID_SIZE];
    uint32_t group = 0;
    *out = (bal_act){BAL_ACT_A16, 0};
    if (!strcmp(id, "a16")) return BAL_OK;
    if (sscanf(id, "a8g%9" SCNu32, &group) == 1 && group % BAL_UNIT == 0) {
        const bal_act a = {BAL_ACT_A8, group};
        bal_act_id(a, again);
        if (!strcmp(id, again)) {
            *out = a;
            return BAL_OK;
        }
    }
    return bal_fail(err, BAL_E_UNSUP,
                    "activation path '%.40s' is not known to this build; expected a16 or a8gG with "
                    "G a multiple of %d, 0 for the token",
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
