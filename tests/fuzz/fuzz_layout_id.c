/* SPDX-License-Identifier: MIT
 * Any text as the layout id, the activation path or the transform of a packed weight: what is
 * accepted is written again as the same text, what is not is refused with a sentence. */
#include "type/act.h"
#include "type/packed.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static_assert((int)BAL_ACT_ID_SIZE <= (int)BAL_PACKED_ID_SIZE, "one buffer serves both");

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char text[64], again[BAL_PACKED_ID_SIZE]; /* the longer of the two */
    bal_error err = {0};
    bal_act act;
    bal_packed_format f;
    if (size >= sizeof text) return 0;
    if (size) memcpy(text, data, size);
    text[size] = 0;
    if (bal_act_parse(text, &act, &err) >= 0) {
        bal_act_id(act, again);
        if (strcmp(text, again)) abort();
    } else if (!err.text[0]) {
        abort();
    }
    err.text[0] = 0;
    int block;
    if (bal_hadamard_parse(text, 96, &block, &err) >= 0) {
        bal_hadamard_id(block, again);
        if (strcmp(text, again) || 96 % block) abort();
    } else if (!err.text[0]) {
        abort();
    }
    err.text[0] = 0;
    if (bal_packed_id_parse(text, &f, &err) >= 0) {
        const bal_packed_layout l = {.kind = f.kind, .bits = f.bits, .group = f.group};
        bal_packed_layout_id(&l, again);
        if (strcmp(text, again)) abort();
    } else if (!err.text[0]) {
        abort();
    }
    return 0;
}
