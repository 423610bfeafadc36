/* SPDX-License-Identifier: MIT
 * An independent reading of the JSON schemas that serve/schema.h names: whether a value satisfies
 * one. And a walk through a grammar that writes what it lets through. */
#ifndef BAL_TESTS_SCHEMA_CHECK_H
#define BAL_TESTS_SCHEMA_CHECK_H

#include "base/rng.h"
#include "serve/matcher.h"
#include "serve/schema.h"

#include <stdlib.h>
#include <string.h>

static inline bool satisfies(const json_t *root, const json_t *s, const json_t *v, int depth);

/* "#/a/0/b" */
static inline const json_t *pointed_at(const json_t *root, const char *pointer)
{
    for (pointer++; *pointer == '/';) {
        char key[256];
        size_t n = 0;
        for (pointer++; *pointer && *pointer != '/' && n < sizeof key - 1; pointer++) {
            const bool escaped = *pointer == '~' && (pointer[1] == '0' || pointer[1] == '1');
            key[n++] = !escaped ? *pointer : *++pointer == '0' ? '~' : '/';
        }
        key[n] = 0;
        root = json_is_array(root) ? json_array_get(root, strtoul(key, NULL, 10))
                                   : json_object_get(root, key);
    }
    return root;
}

static inline bool is_a(const json_t *v, const char *type)
{
    const char *const names[] = {"object", "array",   "string",  "integer",
                                 "number", "boolean", "boolean", "null"};
    const bool number = strcmp(type, "number") == 0 && json_is_number(v);
    return number || strcmp(names[json_typeof(v)], type) == 0;
}

static inline bool has_type(const json_t *v, const json_t *type)
{
    if (!type) return true;
    if (json_is_string(type)) return is_a(v, json_string_value(type));
    for (size_t i = 0; i < json_array_size(type); i++)
        if (is_a(v, json_string_value(json_array_get(type, i)))) return true;
    return false;
}

static inline size_t length_of(const json_t *v)
{
    const char *s = json_string_value(v);
    size_t n = 0;
    for (size_t i = 0; i < json_string_length(v); i++) n += ((unsigned char)s[i] & 0xc0) != 0x80;
    return n;
}

static inline bool within(const json_t *s, const char *low, const char *high, size_t n)
{
    const json_t *min = json_object_get(s, low), *max = json_object_get(s, high);
    return (!min || (json_int_t)n >= json_integer_value(min)) &&
           (!max || (json_int_t)n <= json_integer_value(max));
}

static inline bool object_satisfies(const json_t *root, const json_t *s, const json_t *v, int depth)
{
    const json_t *required = json_object_get(s, "required");
    const json_t *properties = json_object_get(s, "properties");
    const json_t *others = json_object_get(s, "additionalProperties");
    for (size_t i = 0; i < json_array_size(required); i++)
        if (!json_object_get(v, json_string_value(json_array_get(required, i)))) return false;
    json_t *obj = (json_t *)(uintptr_t)v;
    for (void *it = json_object_iter(obj); it; it = json_object_iter_next(obj, it)) {
        const json_t *known = json_object_get(properties, json_object_iter_key(it));
        if (!known && json_is_false(others)) return false;
        const json_t *inner = known ? known : json_is_object(others) ? others : json_true();
        if (!satisfies(root, inner, json_object_iter_value(it), depth + 1)) return false;
    }
    return true;
}

static inline bool array_satisfies(const json_t *root, const json_t *s, const json_t *v, int depth)
{
    const json_t *items = json_object_get(s, "items");
    for (size_t i = 0; items && i < json_array_size(v); i++)
        if (!satisfies(root, items, json_array_get(v, i), depth + 1)) return false;
    return within(s, "minItems", "maxItems", json_array_size(v));
}

/* Beyond a depth nothing is judged any more: $ref can go round in circles. */
static inline bool satisfies(const json_t *root, const json_t *s, const json_t *v, int depth)
{
    const json_t *ways = json_object_get(s, "anyOf"), *values = json_object_get(s, "enum");
    const json_t *ref = json_object_get(s, "$ref"), *constant = json_object_get(s, "const");
    bool good = !ways && !values;
    if (depth > 200 || json_is_true(s)) return true;
    if (ref) return satisfies(root, pointed_at(root, json_string_value(ref)), v, depth + 1);
    for (size_t i = 0; i < json_array_size(ways); i++)
        good |= satisfies(root, json_array_get(ways, i), v, depth + 1);
    for (size_t i = 0; i < json_array_size(values); i++)
        good |= json_equal(json_array_get(values, i), v);
    if (constant) good = json_equal(constant, v);
    good = good && has_type(v, json_object_get(s, "type"));
    if (json_is_object(v)) return good && object_satisfies(root, s, v, depth);
    if (json_is_array(v)) return good && array_satisfies(root, s, v, depth);
    if (json_is_string(v)) return good && within(s, "minLength", "maxLength", length_of(v));
    return good;
}

/* One byte that the matcher takes, closing brackets and quotes first half of the time. */
static inline int next_byte(bal_matcher *m, bal_rng *rng, bal_error *err)
{
    static const char closing[] = "\"}],:0e";
    const size_t n = sizeof closing - 1, from = (size_t)bal_rng_below(rng, 256);
    const bool hurry = bal_rng_below(rng, 2);
    for (size_t i = hurry ? 0 : n; i < n + 256; i++) {
        const char byte = i < n ? closing[(i + from) % n] : (char)((i + from) & 0xff);
        bool fits;
        if (bal_matcher_push(m, &byte, 1, &fits, err) < 0) return -1;
        if (fits) return (unsigned char)byte;
    }
    return -1;
}

/* Writes what the grammar lets through, at most max bytes; *complete says whether it came to an
 * end. */
static inline size_t walk_grammar(bal_matcher *m, bal_rng *rng, char *out, size_t max,
                                  bool *complete)
{
    bal_error err;
    size_t n = 0;
    bal_matcher_reset(m);
    while (n < max) {
        *complete = bal_matcher_complete(m);
        if (*complete && bal_rng_below(rng, 2)) return n;
        const int byte = next_byte(m, rng, &err);
        if (byte < 0) return n;
        out[n++] = (char)byte;
    }
    *complete = bal_matcher_complete(m);
    return n;
}

#endif
