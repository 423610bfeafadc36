/* SPDX-License-Identifier: MIT
 * The storage type table. Everything else about a type derives from its row. */
#include "type/type.h"

#include <assert.h>
#include <string.h>

static const bal_type_info type_table[BAL_TYPE_COUNT] = {
#define X(id, name, bits, packed) {name, bits, packed},
    BAL_TYPE_LIST(X)
#undef X
};

const bal_type_info *bal_type_get(bal_type type)
{
    assert((unsigned)type < BAL_TYPE_COUNT);
    return &type_table[type];
}

bal_status bal_type_from_name(bal_type *out, const char *name, bal_error *err)
{
    *out = BAL_TYPE_F32;
    for (int i = 0; i < BAL_TYPE_COUNT; i++)
        if (!strcmp(name, type_table[i].name)) {
            *out = (bal_type)i;
            return BAL_OK;
        }
    return bal_fail(err, BAL_E_ARG,
                    "storage type '%s' is unknown; expected one of"
#define X(id, text, bits, packed) " " text
                    BAL_TYPE_LIST(X)
#undef X
                        ,
                    name);
}

bal_status bal_type_from_bits(bal_type *out, int bits, bal_error *err)
{
    *out = BAL_TYPE_F32;
    for (int i = 0; i < BAL_TYPE_COUNT; i++)
        if (type_table[i].packed && type_table[i].bits == bits) {
            *out = (bal_type)i;
            return BAL_OK;
        }
    return bal_fail(err, BAL_E_ARG, "weights cannot be packed to %d bits; expected 2, 3, 4, 6 or 8",
                    bits);
}
