/* SPDX-License-Identifier: MIT
 * Reads the one-operator cases of onnx/backend/test/data/node: a model.onnx with one node, its
 * input and output tensors as protocol buffers. Field numbers from onnx.proto. Only what such cases
 * hold; anything else fails the test that asks. */
#ifndef BAL_TESTS_ONNX_CASE_H
#define BAL_TESTS_ONNX_CASE_H

#include "check.h"

#include "base/half.h"
#include "text/protobuf.h"

enum { ONNX_F32 = 1, ONNX_U8 = 2, ONNX_I8 = 3, ONNX_I64 = 7, ONNX_F16 = 10, ONNX_BF16 = 16 };
enum { ONNX_U4 = 21, ONNX_I4 = 22, ONNX_U2 = 25, ONNX_I2 = 26 };
enum { ONNX_MAX_IO = 10, ONNX_MAX_DIMS = 6, ONNX_MAX_ATTRIBUTES = 8 };

typedef struct onnx_tensor {
    int type, n_dims; /* type 0: the input is absent */
    int64_t dims[ONNX_MAX_DIMS];
    size_t n; /* elements */
    uint8_t *raw;
    size_t n_raw;
} onnx_tensor;

typedef struct onnx_attribute {
    char name[48], s[32];
    float f;
    int64_t i;
} onnx_attribute;

typedef struct onnx_case {
    char op[48];
    onnx_attribute attributes[ONNX_MAX_ATTRIBUTES];
    int n_attributes, n_inputs, n_outputs; /* of the node; outputs without a name not counted */
    onnx_tensor in[ONNX_MAX_IO], out[ONNX_MAX_IO];
} onnx_case;

static inline void onnx_text(char *out, size_t size, const bal_pb_field *f)
{
    snprintf(out, size, "%.*s", (int)f->n, (const char *)f->bytes);
}

#define ONNX_EACH(r, f)                                                                            \
    bal_status st_ = BAL_OK;                                                                       \
    while (bal_pb_next(&(r), &(f), &st_, NULL))

static inline bal_pb_reader onnx_inside(const bal_pb_field *f)
{
    return (bal_pb_reader){f->bytes, f->n, 0};
}

/* ---- Tensors ---- */

static inline void onnx_put_dims(onnx_tensor *t, const bal_pb_field *f)
{
    bal_pb_reader r = onnx_inside(f);
    uint64_t v = f->value;
    if (f->kind == BAL_PB_VARINT) {
        assert_true(t->n_dims < ONNX_MAX_DIMS);
        t->dims[t->n_dims++] = (int64_t)v;
        return;
    }
    while (r.at < r.n) {
        assert_true(t->n_dims < ONNX_MAX_DIMS && bal_pb_varint(&r, &v));
        t->dims[t->n_dims++] = (int64_t)v;
    }
}

/* int32_data, one varint each or packed: the elements of types below 32 bits. */
static inline void onnx_put_ints(onnx_tensor *t, const bal_pb_field *f, size_t *n, size_t size)
{
    bal_pb_reader r = onnx_inside(f);
    uint64_t v = f->value;
    for (bool one = f->kind == BAL_PB_VARINT; one || r.at < r.n; one = false) {
        if (!one) assert_true(bal_pb_varint(&r, &v));
        t->raw = realloc(t->raw, (*n + 1) * size);
        memcpy(t->raw + *n * size, &v, size);
        ++*n;
        t->n_raw = *n * size;
    }
}

static inline size_t onnx_int_size(int type)
{
    return type == ONNX_F16 || type == ONNX_BF16 ? 2 : 1;
}

static inline void onnx_take_raw(onnx_tensor *t, const bal_pb_field *f)
{
    free(t->raw);
    t->raw = malloc(f->n + 1);
    memcpy(t->raw, f->bytes, f->n);
    t->n_raw = f->n;
}

/* False if there is no such file. */
static inline bool onnx_read_tensor(onnx_tensor *t, const char *dir, const char *kind, int index)
{
    char path[1200];
    uint8_t *data = NULL;
    size_t n = 0, n_ints = 0;
    bal_error err;
    snprintf(path, sizeof path, "%s/test_data_set_0/%s_%d.pb", dir, kind, index);
    if (!bal_path_exists(path)) return false;
    ASSERT_OK(bal_read_file(&data, &n, path, 1 << 22, &err));
    bal_pb_reader r = {data, n, 0};
    bal_pb_field f;
    *t = (onnx_tensor){0};
    ONNX_EACH(r, f)
    {
        if (f.number == 1) onnx_put_dims(t, &f);
        if (f.number == 2) t->type = (int)f.value;
        if (f.number == 5) onnx_put_ints(t, &f, &n_ints, onnx_int_size(t->type));
        if (f.number == 9 && f.kind == BAL_PB_BYTES) onnx_take_raw(t, &f);
    }
    assert_int_equal(st_, BAL_OK);
    t->n = 1;
    for (int i = 0; i < t->n_dims; i++) t->n *= (size_t)t->dims[i];
    free(data);
    return true;
}

/* Element i as a float; the types that the covered cases have. */
static inline float onnx_float(const onnx_tensor *t, size_t i)
{
    uint16_t half = 0;
    float x = 0;
    const bool small = t->type == ONNX_U4 || t->type == ONNX_I4;
    const unsigned per_byte = small ? 2 : t->type == ONNX_U2 || t->type == ONNX_I2 ? 4 : 1;
    switch (t->type) {
    case ONNX_F32:
        assert_true(4 * i + 4 <= t->n_raw);
        memcpy(&x, t->raw + 4 * i, 4);
        return x;
    case ONNX_F16:
    case ONNX_BF16:
        assert_true(2 * i + 2 <= t->n_raw);
        memcpy(&half, t->raw + 2 * i, 2);
        return t->type == ONNX_F16 ? bal_f16_to_f32(half) : bal_bf16_to_f32(half);
    case ONNX_U8:
    case ONNX_I8:
        assert_true(i < t->n_raw);
        return t->type == ONNX_U8 ? t->raw[i] : (float)(int8_t)t->raw[i];
    case ONNX_U4:
    case ONNX_I4:
    case ONNX_U2:
    case ONNX_I2: {
        assert_true(i / per_byte < t->n_raw);
        const unsigned bits = 8 / per_byte, top = 1u << (bits - 1);
        const unsigned q = (unsigned)t->raw[i / per_byte] >> bits * (i % per_byte) & (2 * top - 1);
        const bool sign = t->type == ONNX_I4 || t->type == ONNX_I2;
        return sign && q >= top ? (float)q - (float)(2 * top) : (float)q;
    }
    default: fail_msg("tensor of type %d", t->type);
    }
    return 0;
}

static inline int64_t onnx_int(const onnx_tensor *t, size_t i)
{
    int64_t v = 0;
    assert_int_equal(t->type, ONNX_I64);
    assert_true(8 * i + 8 <= t->n_raw);
    memcpy(&v, t->raw + 8 * i, 8);
    return v;
}

/* All elements, malloc'ed; NULL for an absent tensor. */
static inline float *onnx_floats(const onnx_tensor *t)
{
    if (!t->type) return NULL;
    float *x = malloc((t->n + 1) * sizeof *x);
    for (size_t i = 0; i < t->n; i++) x[i] = onnx_float(t, i);
    return x;
}

/* ---- Nodes ---- */

static inline void onnx_read_attribute(onnx_case *c, const bal_pb_field *field)
{
    bal_pb_reader r = onnx_inside(field);
    bal_pb_field f;
    assert_true(c->n_attributes < ONNX_MAX_ATTRIBUTES);
    onnx_attribute *a = c->attributes + c->n_attributes++;
    ONNX_EACH(r, f)
    {
        if (f.number == 1) onnx_text(a->name, sizeof a->name, &f);
        if (f.number == 2) a->f = bal_pb_float(&f);
        if (f.number == 3) a->i = (int64_t)f.value;
        if (f.number == 4) onnx_text(a->s, sizeof a->s, &f);
    }
}

static inline void onnx_read_node(onnx_case *c, const bal_pb_field *field, const char *dir)
{
    bal_pb_reader r = onnx_inside(field);
    bal_pb_field f;
    int n_files = 0;
    ONNX_EACH(r, f)
    {
        if (f.number == 1) {
            assert_true(c->n_inputs < ONNX_MAX_IO);
            onnx_tensor *t = c->in + c->n_inputs++;
            if (f.n > 0) assert_true(onnx_read_tensor(t, dir, "input", n_files++));
        }
        if (f.number == 2 && f.n > 0) {
            assert_true(c->n_outputs < ONNX_MAX_IO);
            assert_true(onnx_read_tensor(c->out + c->n_outputs, dir, "output", c->n_outputs));
            c->n_outputs++;
        }
        if (f.number == 4) onnx_text(c->op, sizeof c->op, &f);
        if (f.number == 5) onnx_read_attribute(c, &f);
    }
}

static inline void onnx_read_graph(onnx_case *c, const bal_pb_field *field, const char *dir)
{
    bal_pb_reader r = onnx_inside(field);
    bal_pb_field f;
    int n_nodes = 0;
    ONNX_EACH(r, f)
    {
        if (f.number == 1) {
            onnx_read_node(c, &f, dir);
            n_nodes++;
        }
    }
    assert_int_equal(n_nodes, 1);
}

static inline void onnx_open(onnx_case *c, const char *dir)
{
    char path[1200];
    uint8_t *data = NULL;
    size_t n = 0;
    bal_error err;
    *c = (onnx_case){0};
    snprintf(path, sizeof path, "%s/model.onnx", dir);
    ASSERT_OK(bal_read_file(&data, &n, path, 1 << 22, &err));
    bal_pb_reader r = {data, n, 0};
    bal_pb_field f;
    ONNX_EACH(r, f) if (f.number == 7) onnx_read_graph(c, &f, dir);
    assert_int_equal(st_, BAL_OK);
    free(data);
}

static inline void onnx_close(onnx_case *c)
{
    for (int i = 0; i < ONNX_MAX_IO; i++) {
        free(c->in[i].raw);
        free(c->out[i].raw);
    }
}

static inline const onnx_attribute *onnx_attribute_of(const onnx_case *c, const char *name)
{
    for (int i = 0; i < c->n_attributes; i++)
        if (strcmp(c->attributes[i].name, name) == 0) return c->attributes + i;
    return NULL;
}

static inline bool onnx_says(const onnx_case *c, const char *name, const char *text)
{
    const onnx_attribute *a = onnx_attribute_of(c, name);
    return a && strcmp(a->s, text) == 0;
}

static inline int64_t onnx_option(const onnx_case *c, const char *name, int64_t otherwise)
{
    const onnx_attribute *a = onnx_attribute_of(c, name);
    return a ? a->i : otherwise;
}

static inline float onnx_number(const onnx_case *c, const char *name, float otherwise)
{
    const onnx_attribute *a = onnx_attribute_of(c, name);
    return a ? a->f : otherwise;
}

#endif
