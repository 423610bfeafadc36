/* SPDX-License-Identifier: MIT
 * Any bytes as a configuration file: parsing, walking every place in it, and every getter on every
 * place. What a getter returns must lie in the range that was asked for. */
#include "format/json.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void require(bool good)
{
    if (!good) abort();
}

static void check_numbers(const bal_json *v)
{
    bal_error err;
    int i;
    int64_t l;
    double d;
    if (bal_json_as_int(v, -3, 1000, &i, &err) == BAL_OK) require(i >= -3 && i <= 1000);
    if (bal_json_as_i64(v, INT64_MIN, 5, &l, &err) == BAL_OK) require(l <= 5);
    if (bal_json_as_f64(v, -1e10, 0.5, &d, &err) == BAL_OK) require(d >= -1e10 && d <= 0.5);
}

static void check_keyed(const bal_json *v, const char *key)
{
    static const char *const names[] = {"silu", "gelu"};
    bal_error err;
    bal_json out;
    int ints[3];
    double reals[3];
    size_t n;
    if (bal_json_ints(v, key, 0, 9, ints, 3, &n, &err) < 0) require(n == 0);
    if (bal_json_f64s(v, key, 0, 9, reals, 3, &n, &err) < 0) require(n == 0);
    if (bal_json_choice(v, key, names, 2, &n, &err) == BAL_OK) require(n < 2);
    if (bal_json_obj_or(v, key, &out, &err) == BAL_OK)
        require(!out.value || json_is_object(out.value));
    if (bal_json_only_keys(v, names, 2, &err) < 0) require(strncmp(err.text, "fuzz: ", 6) == 0);
}

static void walk(const bal_json *v)
{
    bal_error err;
    const char *s;
    bool b;
    check_numbers(v);
    if (bal_json_as_str(v, &s, &err) < 0) require(strncmp(err.text, "fuzz: ", 6) == 0);
    (void)bal_json_as_bool(v, &b, &err);
    require(strlen(v->path) < BAL_JSON_PATH);
    for (size_t i = 0; i < bal_json_len(v); i++) {
        const bal_json child = bal_json_at(v, i);
        walk(&child);
    }
    json_t *obj = (json_t *)(uintptr_t)v->value;
    for (void *it = json_object_iter(obj); it; it = json_object_iter_next(obj, it)) {
        const char *key = json_object_iter_key(it);
        check_keyed(v, key);
        const bal_json child = bal_json_get(v, key);
        walk(&child);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    bal_error err;
    bal_json_doc doc;
    if (bal_json_parse(&doc, data, size, 1 << 16, "fuzz", &err) < 0) {
        require(!doc.root && !doc.file && strncmp(err.text, "fuzz: ", 6) == 0);
        return 0;
    }
    const bal_json root = bal_json_root(&doc);
    walk(&root);
    bal_json_close(&doc);
    return 0;
}
