/* SPDX-License-Identifier: MIT
 * Names of activation paths. */
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
