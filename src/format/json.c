/* SPDX-License-Identifier: MIT */
#include "format/json.h"

#include "base/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Documents ------------------------------------------------------------------------------ */

static bool too_deep(const json_t *v, int depth)
{
    if (!json_is_object(v) && !json_is_array(v)) return false;
    if (depth == 0) return true;
    size_t i;
    const char *key;
    json_t *child;
    json_array_foreach(v, i, child)
    {
        if (too_deep(child, depth - 1)) return true;
    }
    json_object_foreach((json_t *)(uintptr_t)v, key, child)
    {
        if (too_deep(child, depth - 1)) return true;
    }
    return false;
}

/* Python writes integers of any length (int(1e30) stands in many tokenizer configs); jansson stops
 * at 64 bits, so then every number is read as a double. */
static json_t *parse_numbers(const void *bytes, size_t n_bytes, json_error_t *je)
{
    const size_t flags = JSON_REJECT_DUPLICATES;
    json_t *root = json_loadb(bytes, n_bytes, flags, je);
    if (root || json_error_code(je) != json_error_numeric_overflow) return root;
    return json_loadb(bytes, n_bytes, flags | JSON_DECODE_INT_AS_REAL, je);
}

bal_status bal_json_parse(bal_json_doc *doc, const void *bytes, size_t n_bytes, size_t max_bytes,
                          const char *file, bal_error *err)
{
    *doc = (bal_json_doc){0};
    if (n_bytes > max_bytes)
        return bal_fail(err, BAL_E_FORMAT, "%s: %zu bytes, more than the %zu allowed", file,
                        n_bytes, max_bytes);
    json_error_t je;
    doc->root = parse_numbers(bytes, n_bytes, &je);
    if (!doc->root) {
        const bal_status st =
            json_error_code(&je) == json_error_out_of_memory ? BAL_E_NOMEM : BAL_E_FORMAT;
        char line[32] = ""; /* a text of one line, as in JSONL, has its line's number in `file` */
        if (memchr(bytes, '\n', n_bytes)) snprintf(line, sizeof line, "line %d, ", je.line);
        return bal_fail(err, st, "%s: %scolumn %d: %s", file, line, je.column, je.text);
    }
    doc->file = strdup(file);
    bal_status st = BAL_OK;
    if (!doc->file)
        st = bal_nomem(err, strlen(file) + 1, file);
    else if (too_deep(doc->root, BAL_JSON_MAX_DEPTH))
        st = bal_fail(err, BAL_E_FORMAT, "%s: nested deeper than %d levels", file,
                      (int)BAL_JSON_MAX_DEPTH);
    if (st < 0) bal_json_close(doc);
    return st;
}

bal_status bal_json_load(bal_json_doc *doc, const char *path, size_t max_bytes, bal_error *err)
{
    *doc = (bal_json_doc){0};
    uint8_t *bytes;
    size_t n;
    BAL_TRY(bal_read_file(&bytes, &n, path, max_bytes, err));
    const bal_status st = bal_json_parse(doc, bytes, n, max_bytes, path, err);
    free(bytes);
    return st;
}

void bal_json_close(bal_json_doc *doc)
{
    json_decref(doc->root);
    free(doc->file);
    *doc = (bal_json_doc){0};
}

/* ---- Places --------------------------------------------------------------------------------- */

bal_json bal_json_root(const bal_json_doc *doc)
{
    return (bal_json){.value = doc->root, .file = doc->file};
}

bal_json bal_json_get(const bal_json *obj, const char *key)
{
    bal_json v = {.value = json_object_get(obj->value, key), .file = obj->file};
    const char *dot = obj->path[0] ? "." : "";
    if (snprintf(v.path, sizeof v.path, "%s%s%s", obj->path, dot, key) >= (int)sizeof v.path)
        memcpy(v.path + sizeof v.path - 4, "...", 4);
    return v;
}

bool bal_json_has(const bal_json *obj, const char *key)
{
    const json_t *v = json_object_get(obj->value, key);
    return v && !json_is_null(v);
}

size_t bal_json_len(const bal_json *array)
{
    return json_array_size(array->value);
}

bal_json bal_json_at(const bal_json *array, size_t i)
{
    bal_json v = {.value = json_array_get(array->value, i), .file = array->file};
    snprintf(v.path, sizeof v.path, "%.*s[%zu]", BAL_JSON_PATH - 24, array->path, i);
    return v;
}

/* ---- What was found instead ----------------------------------------------------------------- */

static void describe(char out[64], const json_t *v)
{
    if (!v)
        snprintf(out, 64, "it is missing");
    else if (json_is_object(v))
        snprintf(out, 64, "an object");
    else if (json_is_array(v))
        snprintf(out, 64, "an array of %zu", json_array_size(v));
    else if (json_is_string(v))
        snprintf(out, 64, "\"%.40s\"", json_string_value(v));
    else if (json_is_integer(v))
        snprintf(out, 64, "%lld", (long long)json_integer_value(v));
    else if (json_is_real(v))
        snprintf(out, 64, "%.17g", json_real_value(v));
    else
        snprintf(out, 64, "%s", json_is_true(v) ? "true" : json_is_false(v) ? "false" : "null");
}

bal_status bal_json_mismatch(const bal_json *v, bal_error *err, const char *expected, ...)
{
    char found[64], want[160];
    describe(found, v->value);
    va_list ap;
    va_start(ap, expected);
    vsnprintf(want, sizeof want, expected, ap);
    va_end(ap);
    const char *file = v->file ? v->file : "JSON", *path = v->path[0] ? v->path : "top level";
    return bal_fail(err, BAL_E_FORMAT, "%.150s: %s: expected %s, %s%s", file, path, want,
                    v->value ? "found " : "", found);
}

/* ---- A value in hand ------------------------------------------------------------------------ */

static bool exact_integer(const json_t *v, int64_t *out)
{
    if (json_is_integer(v)) {
        *out = json_integer_value(v);
        return true;
    }
    const double d = json_is_real(v) ? json_real_value(v) : NAN;
    if (!(fabs(d) <= 0x1p53) || d != floor(d)) return false;
    *out = (int64_t)d;
    return true;
}

bal_status bal_json_as_i64(const bal_json *v, int64_t min, int64_t max, int64_t *out,
                           bal_error *err)
{
    int64_t x;
    *out = min;
    if (!exact_integer(v->value, &x) || x < min || x > max)
        return bal_json_mismatch(v, err, "an integer from %lld to %lld", (long long)min,
                                 (long long)max);
    *out = x;
    return BAL_OK;
}

bal_status bal_json_as_int(const bal_json *v, int min, int max, int *out, bal_error *err)
{
    int64_t x;
    const bal_status st = bal_json_as_i64(v, min, max, &x, err);
    *out = (int)x;
    return st;
}

bal_status bal_json_as_f64(const bal_json *v, double min, double max, double *out, bal_error *err)
{
    const double x = json_is_number(v->value) ? json_number_value(v->value) : NAN;
    const bool good = x >= min && x <= max;
    *out = good ? x : min;
    if (good) return BAL_OK;
    return bal_json_mismatch(v, err, "a number from %.9g to %.9g", min, max);
}

bal_status bal_json_as_bool(const bal_json *v, bool *out, bal_error *err)
{
    *out = json_is_true(v->value);
    if (json_is_boolean(v->value)) return BAL_OK;
    return bal_json_mismatch(v, err, "true or false");
}

bal_status bal_json_as_str(const bal_json *v, const char **out, bal_error *err)
{
    *out = json_string_value(v->value);
    return *out ? BAL_OK : bal_json_mismatch(v, err, "a string");
}

bal_status bal_json_as_obj(const bal_json *v, bal_error *err)
{
    return json_is_object(v->value) ? BAL_OK : bal_json_mismatch(v, err, "an object");
}

/* ---- By key --------------------------------------------------------------------------------- */

bal_status bal_json_obj(const bal_json *obj, const char *key, bal_json *out, bal_error *err)
{
    *out = bal_json_get(obj, key);
    return bal_json_as_obj(out, err);
}

bal_status bal_json_obj_or(const bal_json *obj, const char *key, bal_json *out, bal_error *err)
{
    *out = bal_json_get(obj, key);
    if (bal_json_has(obj, key)) return bal_json_as_obj(out, err);
    out->value = NULL;
    return BAL_OK;
}

bal_status bal_json_array(const bal_json *obj, const char *key, size_t min_n, size_t max_n,
                          bal_json *out, bal_error *err)
{
    *out = bal_json_get(obj, key);
    const size_t n = bal_json_len(out);
    if (json_is_array(out->value) && n >= min_n && n <= max_n) return BAL_OK;
    const bal_status st =
        min_n == max_n
            ? bal_json_mismatch(out, err, "an array of %zu", min_n)
            : bal_json_mismatch(out, err, "an array of %zu to %zu elements", min_n, max_n);
    out->value = NULL;
    return st;
}

bal_status bal_json_i64(const bal_json *obj, const char *key, int64_t min, int64_t max,
                        int64_t *out, bal_error *err)
{
    const bal_json v = bal_json_get(obj, key);
    return bal_json_as_i64(&v, min, max, out, err);
}

bal_status bal_json_int(const bal_json *obj, const char *key, int min, int max, int *out,
                        bal_error *err)
{
    const bal_json v = bal_json_get(obj, key);
    return bal_json_as_int(&v, min, max, out, err);
}

bal_status bal_json_int_or(const bal_json *obj, const char *key, int min, int max, int otherwise,
                           int *out, bal_error *err)
{
    *out = otherwise;
    return bal_json_has(obj, key) ? bal_json_int(obj, key, min, max, out, err) : BAL_OK;
}

bal_status bal_json_f64(const bal_json *obj, const char *key, double min, double max, double *out,
                        bal_error *err)
{
    const bal_json v = bal_json_get(obj, key);
    return bal_json_as_f64(&v, min, max, out, err);
}

bal_status bal_json_f64_or(const bal_json *obj, const char *key, double min, double max,
                           double otherwise, double *out, bal_error *err)
{
    *out = otherwise;
    return bal_json_has(obj, key) ? bal_json_f64(obj, key, min, max, out, err) : BAL_OK;
}

bal_status bal_json_bool(const bal_json *obj, const char *key, bool *out, bal_error *err)
{
    const bal_json v = bal_json_get(obj, key);
    return bal_json_as_bool(&v, out, err);
}

bal_status bal_json_bool_or(const bal_json *obj, const char *key, bool otherwise, bool *out,
                            bal_error *err)
{
    *out = otherwise;
    return bal_json_has(obj, key) ? bal_json_bool(obj, key, out, err) : BAL_OK;
}

bal_status bal_json_str(const bal_json *obj, const char *key, const char **out, bal_error *err)
{
    const bal_json v = bal_json_get(obj, key);
    return bal_json_as_str(&v, out, err);
}

bal_status bal_json_str_or(const bal_json *obj, const char *key, const char *otherwise,
                           const char **out, bal_error *err)
{
    *out = otherwise;
    return bal_json_has(obj, key) ? bal_json_str(obj, key, out, err) : BAL_OK;
}

/* "a, b or c" as far as it fits */
static void join_names(char *out, size_t out_size, const char *const names[], size_t n)
{
    size_t at = 0;
    out[0] = 0;
    for (size_t i = 0; i < n && at < out_size; i++) {
        const char *sep = i == 0 ? "" : i + 1 == n ? " or " : ", ";
        at += (size_t)snprintf(out + at, out_size - at, "%s%.60s", sep, names[i]);
    }
}

static bool name_index(const char *const names[], size_t n, const char *s, size_t *index)
{
    for (*index = 0; *index < n; ++*index)
        if (strcmp(names[*index], s) == 0) return true;
    *index = 0;
    return false;
}

bal_status bal_json_choice(const bal_json *obj, const char *key, const char *const names[],
                           size_t n, size_t *index, bal_error *err)
{
    const bal_json v = bal_json_get(obj, key);
    const char *s = json_string_value(v.value);
    *index = 0;
    if (s && name_index(names, n, s, index)) return BAL_OK;
    char list[600];
    join_names(list, sizeof list, names, n);
    return bal_json_mismatch(&v, err, "%s", list);
}

bal_status bal_json_ints(const bal_json *obj, const char *key, int min, int max, int out[],
                         size_t max_n, size_t *n, bal_error *err)
{
    bal_json array;
    *n = 0;
    BAL_TRY(bal_json_array(obj, key, 0, max_n, &array, err));
    for (size_t i = 0; i < bal_json_len(&array); i++) {
        const bal_json v = bal_json_at(&array, i);
        BAL_TRY(bal_json_as_int(&v, min, max, &out[i], err));
    }
    *n = bal_json_len(&array);
    return BAL_OK;
}

bal_status bal_json_f64s(const bal_json *obj, const char *key, double min, double max, double out[],
                         size_t max_n, size_t *n, bal_error *err)
{
    bal_json array;
    *n = 0;
    BAL_TRY(bal_json_array(obj, key, 0, max_n, &array, err));
    for (size_t i = 0; i < bal_json_len(&array); i++) {
        const bal_json v = bal_json_at(&array, i);
        BAL_TRY(bal_json_as_f64(&v, min, max, &out[i], err));
    }
    *n = bal_json_len(&array);
    return BAL_OK;
}

bal_status bal_json_only_keys(const bal_json *obj, const char *const allowed[], size_t n,
                              bal_error *err)
{
    size_t index;
    for (void *it = json_object_iter((json_t *)(uintptr_t)obj->value); it;
         it = json_object_iter_next((json_t *)(uintptr_t)obj->value, it)) {
        const char *key = json_object_iter_key(it);
        if (name_index(allowed, n, key, &index)) continue;
        char list[800];
        join_names(list, sizeof list, allowed, n);
        const bal_json v = bal_json_get(obj, key);
        return bal_fail(err, BAL_E_FORMAT, "%.80s: unknown key %.80s; known are %s", obj->file,
                        v.path, list);
    }
    return BAL_OK;
}
