/* SPDX-License-Identifier: MIT
 * JSON files of configuration, read with typed getters on top of jansson. Untrusted bytes: size and
 * depth are capped, duplicate keys refused, numbers checked against a range. Every failure names
 * the file, the path of the key inside it, what was expected and what was found.
 *
 * A required value that is absent or of another type fails with BAL_E_FORMAT. The _or forms take a
 * default where the key is absent or null (published configs write null for "not set"); a value of
 * another type or out of range still fails. */
#ifndef BAL_FORMAT_JSON_H
#define BAL_FORMAT_JSON_H

#include "base/status.h"

#include <jansson.h>

enum { BAL_JSON_MAX_DEPTH = 64, BAL_JSON_PATH = 120 };
#define BAL_JSON_MAX_BYTES                                                                         \
    ((size_t)64 << 20) /* tokenizer.json of large vocabularies: 20 to 35 MB */

typedef struct bal_json_doc {
    json_t *root; /* numbers are json_integer unless one of the file's integers exceeds 64 bits
                     ("model_max_length": 1e30 written out); then all are json_real */
    char *file;   /* name for errors */
} bal_json_doc;

/* A place in a document: valid until the document is closed. `value` is NULL where there is
 * nothing; the getters treat that as an empty object, so an absent section gives its defaults. */
typedef struct bal_json {
    const json_t *value;
    const char *file;
    char path[BAL_JSON_PATH]; /* "text_config.rope_scaling.type", cut at the end if longer */
} bal_json;

/* Parses n_bytes (more than max_bytes is refused) or the file at `path`. */
bal_status bal_json_parse(bal_json_doc *doc, const void *bytes, size_t n_bytes, size_t max_bytes,
                          const char *file, bal_error *err);
bal_status bal_json_load(bal_json_doc *doc, const char *path, size_t max_bytes, bal_error *err);
void bal_json_close(bal_json_doc *doc); /* idempotent; a zeroed struct is fine */

/* The top level, of any type: a config starts with bal_json_as_obj on it. */
bal_json bal_json_root(const bal_json_doc *doc);
/* The value at `key`, of any type; nothing (value NULL) where `obj` has no such key. */
bal_json bal_json_get(const bal_json *obj, const char *key);
bool bal_json_has(const bal_json *obj, const char *key); /* present and not null */

/* An object or an array. obj_or gives "nothing" where the key is absent or null. An array has
 * between min_n and max_n elements. */
bal_status bal_json_obj(const bal_json *obj, const char *key, bal_json *out, bal_error *err);
bal_status bal_json_obj_or(const bal_json *obj, const char *key, bal_json *out, bal_error *err);
bal_status bal_json_array(const bal_json *obj, const char *key, size_t min_n, size_t max_n,
                          bal_json *out, bal_error *err);
size_t bal_json_len(const bal_json *array); /* 0 for anything but an array */
bal_json bal_json_at(const bal_json *array, size_t i);

/* Scalars by key. Integers: min <= *out <= max; 32768.0 is an integer, 1.5 is not; beyond 2^53 only
 * where the file gives them exactly. Strings are borrowed from the document, never contain NUL. */
bal_status bal_json_int(const bal_json *obj, const char *key, int min, int max, int *out,
                        bal_error *err);
bal_status bal_json_int_or(const bal_json *obj, const char *key, int min, int max, int otherwise,
                           int *out, bal_error *err);
bal_status bal_json_i64(const bal_json *obj, const char *key, int64_t min, int64_t max,
                        int64_t *out, bal_error *err);
bal_status bal_json_f64(const bal_json *obj, const char *key, double min, double max, double *out,
                        bal_error *err);
bal_status bal_json_f64_or(const bal_json *obj, const char *key, double min, double max,
                           double otherwise, double *out, bal_error *err);
bal_status bal_json_bool(const bal_json *obj, const char *key, bool *out, bal_error *err);
bal_status bal_json_bool_or(const bal_json *obj, const char *key, bool otherwise, bool *out,
                            bal_error *err);
bal_status bal_json_str(const bal_json *obj, const char *key, const char **out, bal_error *err);
bal_status bal_json_str_or(const bal_json *obj, const char *key, const char *otherwise,
                           const char **out, bal_error *err);
/* A string that is one of names[n]; *index says which. The sentence lists them. */
bal_status bal_json_choice(const bal_json *obj, const char *key, const char *const names[],
                           size_t n, size_t *index, bal_error *err);

/* The same for a value in hand (an element of an array, a result of bal_json_get). */
bal_status bal_json_as_i64(const bal_json *v, int64_t min, int64_t max, int64_t *out,
                           bal_error *err);
bal_status bal_json_as_int(const bal_json *v, int min, int max, int *out, bal_error *err);
bal_status bal_json_as_f64(const bal_json *v, double min, double max, double *out, bal_error *err);
bal_status bal_json_as_bool(const bal_json *v, bool *out, bal_error *err);
bal_status bal_json_as_str(const bal_json *v, const char **out, bal_error *err);
bal_status bal_json_as_obj(const bal_json *v, bal_error *err);

/* Arrays of numbers: at most max_n into out, their count into *n. */
bal_status bal_json_ints(const bal_json *obj, const char *key, int min, int max, int out[],
                         size_t max_n, size_t *n, bal_error *err);
bal_status bal_json_f64s(const bal_json *obj, const char *key, double min, double max, double out[],
                         size_t max_n, size_t *n, bal_error *err);

/* Fails naming the first key of `obj` that is not one of allowed[n], and the allowed ones. */
bal_status bal_json_only_keys(const bal_json *obj, const char *const allowed[], size_t n,
                              bal_error *err);

/* Fails with "FILE: PATH: expected EXPECTED, found ...", for checks that the getters do not do. */
bal_status bal_json_mismatch(const bal_json *v, bal_error *err, const char *expected, ...)
    BAL_PRINTF(3, 4);

#endif
