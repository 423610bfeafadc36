/* SPDX-License-Identifier: MIT
 * Any bytes as a shape table: what is accepted is in order, and every choice is one that a linear
 * of its key may be given; what is not is refused with a sentence and leaves nothing. */
#include "run/shapes_file.h"
#include "type/type.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_entry(const bal_shapes *t, const bal_shapes_entry *e)
{
    char format[BAL_PACKED_ID_SIZE], act[BAL_ACT_ID_SIZE];
    const bal_shapes_choice *c = &e->choice;
    require(e->key.n && e->key.k && e->key.type < BAL_TYPE_COUNT);
    require(e->key.bucket < BAL_SHAPES_BUCKETS && c->kernel < BAL_SHAPES_KERNELS);
    require(c->grain >= 1 && c->chunk >= 1);
    require(c->chunk <= bal_shapes_most_rows(&e->key, (bal_shapes_kernel)c->kernel));
    require(bal_shapes_find(t, &e->key) == c);
    bal_shapes_format(&e->key, format, act);
    require(format[0] && (act[0] != 0) == bal_type_get(e->key.type)->packed);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const bal_shapes_host host = {"fuzz", "avx2", 2};
    bal_shapes t;
    bal_error err = {0};
    if (bal_shapes_parse(&t, data, size, "fuzz.json", &host, &err) < 0) {
        require(err.text[0] && !t.entries && !t.n);
        return 0;
    }
    require(t.n <= BAL_SHAPES_MOST);
    for (size_t i = 0; i < t.n; i++) check_entry(&t, &t.entries[i]);
    bal_shapes_free(&t);
    return 0;
}
