/* SPDX-License-Identifier: MIT
 * safetensors files and model directories, read as checked views into the mapping. Untrusted bytes:
 * nothing is handed out before the whole header has been checked against every rule below.
 *
 *   u64 little-endian n | n bytes of JSON | data
 *   JSON: { "__metadata__": {string: string}, NAME: {dtype, shape, data_offsets: [begin, end)} }
 *
 * Refused: n above 100,000,000 or past the end of the file; a header that does not start with '{',
 * is not UTF-8 JSON, or repeats a key; unknown dtype; a shape whose product overflows, or does not
 * fill begin..end exactly; begin > end; tensors that overlap, leave a hole, or leave bytes at the
 * end. Scalars and empty tensors are fine. Verdicts are those of the safetensors library 0.8 except
 * that it accepts, and we refuse, repeated keys, space in front of '{' (both against the format's
 * text) and NUL in names; more than 8 dimensions are BAL_E_UNSUP. Like it we accept "__metadata__":
 * null as no metadata, tensors listed out of offset order, and unknown fields in a tensor's object.
 */
#ifndef BAL_FORMAT_SAFETENSORS_H
#define BAL_FORMAT_SAFETENSORS_H

#include "base/status.h"

/* id, name in the file, bits per element */
#define BAL_ST_DTYPES(X)                                                                           \
    X(BOOL, "BOOL", 8)                                                                             \
    X(F4, "F4", 4)                                                                                 \
    X(F6_E2M3, "F6_E2M3", 6)                                                                       \
    X(F6_E3M2, "F6_E3M2", 6)                                                                       \
    X(U8, "U8", 8)                                                                                 \
    X(I8, "I8", 8)                                                                                 \
    X(F8_E5M2, "F8_E5M2", 8)                                                                       \
    X(F8_E4M3, "F8_E4M3", 8)                                                                       \
    X(F8_E8M0, "F8_E8M0", 8)                                                                       \
    X(F8_E4M3FNUZ, "F8_E4M3FNUZ", 8)                                                               \
    X(F8_E5M2FNUZ, "F8_E5M2FNUZ", 8)                                                               \
    X(I16, "I16", 16)                                                                              \
    X(U16, "U16", 16)                                                                              \
    X(F16, "F16", 16)                                                                              \
    X(BF16, "BF16", 16)                                                                            \
    X(I32, "I32", 32)                                                                              \
    X(U32, "U32", 32)                                                                              \
    X(F32, "F32", 32)                                                                              \
    X(C64, "C64", 64)                                                                              \
    X(F64, "F64", 64)                                                                              \
    X(I64, "I64", 64)                                                                              \
    X(U64, "U64", 64)

typedef enum bal_st_dtype {
#define X(id, name, bits) BAL_ST_##id,
    BAL_ST_DTYPES(X)
#undef X
        BAL_ST_DTYPE_COUNT
} bal_st_dtype;

enum { BAL_ST_MAX_DIMS = 8, BAL_ST_MAX_HEADER = 100000000, BAL_ST_MAX_SHARDS = 4096 };

const char *bal_st_dtype_name(bal_st_dtype dtype); /* "?" out of range */
int bal_st_dtype_bits(bal_st_dtype dtype);         /* 0 out of range */
bool bal_st_dtype_from_name(bal_st_dtype *dtype, const char *name);

/* One tensor, row-major little-endian, borrowed from its set. `data` may stand on any address: read
 * it with memcpy or unaligned loads. n_bytes is exactly the product of shape times the dtype. */
typedef struct bal_tensor_view {
    const char *name;
    bal_st_dtype dtype;
    int n_dims; /* 0 is a scalar of one element */
    uint64_t shape[BAL_ST_MAX_DIMS];
    const uint8_t *data;
    uint64_t n_bytes;
    int file; /* which of the set's files it stands in */
} bal_tensor_view;

typedef struct bal_st_meta {
    const char *key, *value;
} bal_st_meta;

struct bal_st_file;
struct json_t;

/* All tensors of a file or of the shards of a model directory. n_file_bytes = n_header_bytes +
 * n_data_bytes: every byte is accounted for, by the length word, header and padding on one side and
 * by exactly one tensor on the other. Immutable once open, safe to share between threads. */
typedef struct bal_tensor_set {
    bal_tensor_view *tensors; /* [n_tensors], sorted by name (strcmp) */
    size_t n_tensors;
    bal_st_meta *meta; /* [n_meta], sorted by key; of shards the union, the first shard wins */
    size_t n_meta;
    struct bal_st_file *files; /* in order of their names */
    size_t n_files;
    uint64_t n_file_bytes, n_header_bytes, n_data_bytes;
    struct json_t *meta_json; /* owns the strings of meta */
} bal_tensor_set;

/* Opens `path`: a .safetensors file, or a directory with model.safetensors or else
 * model.safetensors.index.json and its shards. The index must name plain files of that directory;
 * its weight_map and the shards must agree in both directions, and no tensor stands twice. (A plain
 * name may be a symbolic link: download caches are made of them.) The
 * index's metadata.total_size is not checked: published ones are often wrong. On failure *set is
 * empty; errors name file and tensor. */
bal_status bal_tensor_set_open(bal_tensor_set *set, const char *path, bal_error *err);
/* The same for one file's bytes, which stay the caller's and must outlive the set; `name` stands
 * for the file in errors. */
bal_status bal_tensor_set_open_bytes(bal_tensor_set *set, const void *bytes, size_t n_bytes,
                                     const char *name, bal_error *err);
void bal_tensor_set_close(bal_tensor_set *set); /* idempotent; a zeroed struct is fine */

/* NULL where there is none; get() fails with BAL_E_FORMAT and a sentence instead. */
const bal_tensor_view *bal_tensor_find(const bal_tensor_set *set, const char *name);
bal_status bal_tensor_get(const bal_tensor_set *set, const char *name, const bal_tensor_view **out,
                          bal_error *err);
/* File that holds the tensor, for errors and reports. `view` must come from `set`. */
const char *bal_tensor_file(const bal_tensor_set *set, const bal_tensor_view *view);
/* Value of a __metadata__ key, or NULL. */
const char *bal_tensor_meta(const bal_tensor_set *set, const char *key);

/* Elements in a shape; false on overflow (multiplied from the left, as the reference does). */
bool bal_st_count(const uint64_t shape[], int n_dims, uint64_t *count);
/* Bytes of `count` elements; false on overflow or where bits do not fill whole bytes. */
bool bal_st_bytes(bal_st_dtype dtype, uint64_t count, uint64_t *n_bytes);

#endif
