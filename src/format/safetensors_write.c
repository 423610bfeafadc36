/* SPDX-License-Identifier: MIT */
#include "format/safetensors_write.h"

#include "base/file.h"
#include "base/size.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { ALIGN = 64, PREFIX = 8, PIECE = 4 << 20 };
static const char META_KEY[] = "__metadata__";

/* A file laid out but not written. */
typedef struct plan {
    const bal_tensor_view **order; /* [n], as they stand in the file */
    size_t n;
    char *header; /* length word, JSON and padding: n_header bytes */
    size_t n_header;
    uint64_t n_data;
} plan;

static void plan_free(plan *p)
{
    free(p->order);
    free(p->header);
    *p = (plan){0};
}

/* ---- Order ---------------------------------------------------------------------------------- */

/* 0 for whole 64-byte units, then by descending width of the element */
static int place_rank(const bal_tensor_view *t)
{
    return t->n_bytes % ALIGN == 0 ? 0 : 1000 - bal_st_dtype_bits(t->dtype);
}

/* All given tensors stand in one array, so addresses break ties in the given order. */
static int by_rank(const void *pa, const void *pb)
{
    const bal_tensor_view *a = *(const bal_tensor_view *const *)pa;
    const bal_tensor_view *b = *(const bal_tensor_view *const *)pb;
    const int ra = place_rank(a), rb = place_rank(b);
    if (ra != rb) return ra < rb ? -1 : 1;
    return a < b ? -1 : a > b;
}

/* jansson, as most readers, stops at 63 bits; an empty tensor may have any other dimension */
static bool shape_fits(const bal_tensor_view *t, uint64_t *count)
{
    for (int i = 0; i < t->n_dims; i++)
        if (t->shape[i] > INT64_MAX) return false;
    return bal_st_count(t->shape, t->n_dims, count);
}

static bal_status check_tensor(const bal_tensor_view *t, bal_error *err)
{
    uint64_t count, need;
    if (!t->name || strcmp(t->name, META_KEY) == 0)
        return bal_fail(err, BAL_E_ARG, "a tensor has no name, or the reserved one %s", META_KEY);
    if (t->n_dims < 0 || t->n_dims > BAL_ST_MAX_DIMS || bal_st_dtype_bits(t->dtype) == 0)
        return bal_fail(err, BAL_E_ARG, "tensor '%.100s': %d dimensions of dtype %d", t->name,
                        t->n_dims, (int)t->dtype);
    if (!shape_fits(t, &count) || !bal_st_bytes(t->dtype, count, &need))
        return bal_fail(err, BAL_E_ARG, "tensor '%.100s': shape times dtype %s overflows", t->name,
                        bal_st_dtype_name(t->dtype));
    if (need == t->n_bytes) return BAL_OK;
    return bal_fail(
        err, BAL_E_ARG, "tensor '%.100s': shape and dtype %s need %llu bytes, given %llu", t->name,
        bal_st_dtype_name(t->dtype), (unsigned long long)need, (unsigned long long)t->n_bytes);
}

static bal_status plan_order(plan *p, const bal_tensor_view *tensors, size_t n, bal_error *err)
{
    p->order = calloc(n + 1, sizeof *p->order);
    if (!p->order) return bal_nomem(err, n * sizeof *p->order, "an order of tensors");
    p->n = n;
    for (size_t i = 0; i < n; i++) {
        BAL_TRY(check_tensor(&tensors[i], err));
        p->order[i] = &tensors[i];
        if (__builtin_add_overflow(p->n_data, tensors[i].n_bytes, &p->n_data) ||
            p->n_data > INT64_MAX)
            return bal_fail(err, BAL_E_ARG, "tensor '%.100s': sizes overflow", tensors[i].name);
    }
    qsort(p->order, n, sizeof *p->order, by_rank);
    return BAL_OK;
}

/* ---- Header --------------------------------------------------------------------------------- */

/* Takes over `value`. */
static bal_status put(json_t *obj, const char *key, json_t *value, bal_error *err)
{
    if (!value) return bal_fail(err, BAL_E_ARG, "'%.100s': value is not UTF-8 or too large", key);
    if (json_object_get(obj, key)) {
        json_decref(value);
        return bal_fail(err, BAL_E_ARG, "'%.100s': given twice", key);
    }
    if (json_object_set_new(obj, key, value) == 0) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "'%.100s': name is not UTF-8", key);
}

static bal_status put_meta(json_t *root, const bal_st_meta *meta, size_t n, bal_error *err)
{
    if (n == 0) return BAL_OK;
    json_t *pairs = json_object();
    BAL_TRY(put(root, META_KEY, pairs, err));
    for (size_t i = 0; i < n; i++)
        BAL_TRY(put(pairs, meta[i].key, json_string(meta[i].value), err));
    return BAL_OK;
}

static json_t *shape_json(const bal_tensor_view *t)
{
    json_t *shape = json_array();
    for (int i = 0; i < t->n_dims; i++) {
        if (json_array_append_new(shape, json_integer((json_int_t)t->shape[i])) == 0) continue;
        json_decref(shape);
        return NULL;
    }
    return shape;
}

static bal_status put_tensors(json_t *root, const plan *p, bal_error *err)
{
    uint64_t at = 0;
    for (size_t i = 0; i < p->n; i++) {
        const bal_tensor_view *t = p->order[i];
        json_t *info =
            json_pack("{s:s, s:o, s:[I, I]}", "dtype", bal_st_dtype_name(t->dtype), "shape",
                      shape_json(t), "data_offsets", (json_int_t)at, (json_int_t)(at + t->n_bytes));
        if (!info) return bal_nomem(err, 0, "a header");
        BAL_TRY(put(root, t->name, info, err));
        at += t->n_bytes;
    }
    return BAL_OK;
}

/* `text` becomes the length word, the JSON and spaces up to a multiple of 64. */
static bal_status frame_header(plan *p, const char *text, bal_error *err)
{
    const size_t len = strlen(text);
    p->n_header = bal_round_up(PREFIX + len, ALIGN);
    const uint64_t n = p->n_header - PREFIX;
    if (n > BAL_ST_MAX_HEADER)
        return bal_fail(err, BAL_E_ARG, "a header of %zu bytes, readers accept at most %d", len,
                        (int)BAL_ST_MAX_HEADER);
    p->header = malloc(p->n_header);
    if (!p->header) return bal_nomem(err, p->n_header, "a header");
    memset(p->header, ' ', p->n_header);
    for (int i = 0; i < PREFIX; i++) p->header[i] = (char)(n >> 8 * i & 255);
    memcpy(p->header + PREFIX, text, len);
    return BAL_OK;
}

static bal_status plan_header(plan *p, const bal_st_meta *meta, size_t n_meta, bal_error *err)
{
    json_t *root = json_object();
    char *text = NULL;
    bal_status st;
    BAL_GOTO(put_meta(root, meta, n_meta, err), done);
    BAL_GOTO(put_tensors(root, p, err), done);
    text = json_dumps(root, JSON_COMPACT); /* keys in the order they were put */
    st = text ? frame_header(p, text, err) : bal_nomem(err, 0, "a header");
done:
    free(text);
    json_decref(root);
    return st;
}

static bal_status plan_make(plan *p, const bal_tensor_view *tensors, size_t n_tensors,
                            const bal_st_meta *meta, size_t n_meta, bal_error *err)
{
    *p = (plan){0};
    bal_status st = plan_order(p, tensors, n_tensors, err);
    if (st == BAL_OK) st = plan_header(p, meta, n_meta, err);
    if (st < 0) plan_free(p);
    return st;
}

/* ---- Output --------------------------------------------------------------------------------- */

bal_status bal_safetensors_size(uint64_t *n_bytes, const bal_tensor_view *tensors, size_t n_tensors,
                                const bal_st_meta *meta, size_t n_meta, bal_error *err)
{
    plan p;
    *n_bytes = 0;
    BAL_TRY(plan_make(&p, tensors, n_tensors, meta, n_meta, err));
    *n_bytes = p.n_header + p.n_data;
    plan_free(&p);
    return BAL_OK;
}

/* Where the bytes of tensors without data come from; fn NULL: there are none. */
typedef struct source {
    bal_st_fill_fn *fn;
    void *ctx;
    uint8_t *piece; /* [PIECE] */
} source;

static bal_status write_filled(int fd, const source *from, const bal_tensor_view *t,
                               const char *path, bal_error *err)
{
    for (uint64_t at = 0; at < t->n_bytes; at += PIECE) {
        const size_t n = (size_t)bal_min(PIECE, t->n_bytes - at);
        BAL_TRY(from->fn(from->ctx, t, at, from->piece, n, err));
        BAL_TRY(bal_write_all(fd, from->piece, n, path, err));
    }
    return BAL_OK;
}

static bal_status write_plan(int fd, const plan *p, const source *from, const char *path,
                             bal_error *err)
{
    BAL_TRY(bal_write_all(fd, p->header, p->n_header, path, err));
    for (size_t i = 0; i < p->n; i++) {
        const bal_tensor_view *t = p->order[i];
        BAL_TRY(t->data || !from->fn ? bal_write_all(fd, t->data, (size_t)t->n_bytes, path, err)
                                     : write_filled(fd, from, t, path, err));
    }
    if (fsync(fd) == 0) return BAL_OK;
    return bal_fail(err, BAL_E_IO, "%s: cannot sync: %s", path, strerror(errno));
}

static bool is_regular(int fd)
{
    struct stat sb;
    return fstat(fd, &sb) == 0 && S_ISREG(sb.st_mode);
}

static bal_status write_file(const char *path, const plan *p, const source *from, bal_error *err)
{
    const int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) return bal_fail(err, BAL_E_IO, "%s: cannot create: %s", path, strerror(errno));
    const bool regular = is_regular(fd);
    bal_status st = write_plan(fd, p, from, path, err);
    if (close(fd) != 0 && st == BAL_OK)
        st = bal_fail(err, BAL_E_IO, "%s: cannot close: %s", path, strerror(errno));
    if (st < 0 && regular) unlink(path);
    return st;
}

static bal_status write_new(const char *path, const bal_tensor_view *tensors, size_t n_tensors,
                            const bal_st_meta *meta, size_t n_meta, const source *from,
                            bal_error *err)
{
    plan p;
    BAL_TRY(plan_make(&p, tensors, n_tensors, meta, n_meta, err));
    const bal_status st = write_file(path, &p, from, err);
    plan_free(&p);
    return st;
}

bal_status bal_safetensors_write(const char *path, const bal_tensor_view *tensors, size_t n_tensors,
                                 const bal_st_meta *meta, size_t n_meta, bal_error *err)
{
    const source none = {0};
    return write_new(path, tensors, n_tensors, meta, n_meta, &none, err);
}

bal_status bal_safetensors_stream(const char *path, const bal_tensor_view *tensors,
                                  size_t n_tensors, const bal_st_meta *meta, size_t n_meta,
                                  bal_st_fill_fn *fill, void *ctx, bal_error *err)
{
    const source from = {fill, ctx, malloc(PIECE)};
    if (!from.piece) return bal_nomem(err, PIECE, "a piece of a file");
    const bal_status st = write_new(path, tensors, n_tensors, meta, n_meta, &from, err);
    free(from.piece);
    return st;
}
