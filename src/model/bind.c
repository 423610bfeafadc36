/* SPDX-License-Identifier: MIT */
#include "model/bind.h"

#include "base/half.h"
#include "base/size.h"
#include "model/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { NAME_SIZE = 256 };

typedef struct binder {
    bal_model *m;
    const bal_bind_names *names;
    uint8_t *claimed; /* one per tensor of the set */
    bal_error *err;
} binder;

/* A chunk of memory that the model owns. */
typedef struct owned {
    struct owned *next;
    _Alignas(16) uint8_t data[];
} owned;

static bal_status own(bal_model *m, size_t n, size_t size, void **out, bal_error *err)
{
    size_t bytes;
    *out = NULL;
    if (!bal_size_mul(n, size, &bytes) || !bal_size_add(bytes, sizeof(owned), &bytes))
        return bal_fail(err, BAL_E_FORMAT, "a tensor of %zu elements", n);
    owned *o = malloc(bytes);
    if (!o) return bal_nomem(err, bytes, "copies of small tensors");
    o->next = m->owned;
    m->owned = o;
    *out = o->data;
    return BAL_OK;
}

static uint64_t frames_of(const bal_vision_config *v)
{
    return v->temporal > 1 ? (uint64_t)v->temporal : 1;
}

static uint64_t dim_of(const bal_config *c, bal_bind_dim d)
{
    const bal_text_config *t = &c->text;
    const bal_vision_config *v = &c->vision;
    switch (d) {
    case BAL_DIM_NONE: return 0;
    case BAL_DIM_HIDDEN: return (uint64_t)t->hidden;
    case BAL_DIM_Q: return (uint64_t)t->heads * (uint64_t)t->head_dim;
    case BAL_DIM_KV: return (uint64_t)t->kv_heads * (uint64_t)t->head_dim;
    case BAL_DIM_HEAD: return (uint64_t)t->head_dim;
    case BAL_DIM_INTER: return (uint64_t)t->intermediate;
    case BAL_DIM_VOCAB: return (uint64_t)t->vocab;
    case BAL_DIM_V_HIDDEN: return (uint64_t)v->hidden;
    case BAL_DIM_V_INTER: return (uint64_t)v->intermediate;
    case BAL_DIM_V_POSITIONS: return (uint64_t)v->side * (uint64_t)v->side + (uint64_t)v->cls;
    case BAL_DIM_V_PATCH_SIZE:
        return 3 * frames_of(v) * (uint64_t)v->patch_size * (uint64_t)v->patch_size;
    case BAL_DIM_V_TOKEN: return (uint64_t)v->hidden * (uint64_t)v->shuffle * (uint64_t)v->shuffle;
    }
    return 0;
}

/* name with prefix `from` replaced by `to`; false if it does not start with `from` */
static bool swap_prefix(char *out, size_t size, const char *name, const char *from, const char *to)
{
    const size_t n = strlen(from);
    if (strncmp(name, from, n) != 0) return false;
    return snprintf(out, size, "%s%s", to, name + n) < (int)size;
}

/* Replaces `from` wherever it occurs; false if the result is too long. */
static bool replace_all(char *name, size_t size, const char *from, const char *to)
{
    const size_t n_from = strlen(from), n_to = strlen(to);
    for (char *at = name; (at = strstr(at, from)) != NULL; at += n_to) {
        const size_t rest = strlen(at + n_from) + 1;
        if ((size_t)(at - name) + n_to + rest > size) return false;
        memmove(at + n_to, at + n_from, rest);
        memcpy(at, to, n_to);
    }
    return true;
}

/* With the names of a checkpoint behind the prefix, or NULL. */
static const bal_tensor_view *find_infixed(const bal_tensor_set *set, const bal_bind_names *names,
                                           const char *name)
{
    char old[NAME_SIZE];
    if (names->n_infixes == 0 || snprintf(old, sizeof old, "%s", name) >= (int)sizeof old)
        return NULL;
    for (size_t i = 0; i < names->n_infixes; i++)
        if (!replace_all(old, sizeof old, names->infixes[i].canonical, names->infixes[i].old))
            return NULL;
    return bal_tensor_find(set, old);
}

const bal_tensor_view *bal_bind_find(const bal_tensor_set *set, const bal_bind_names *names,
                                     const char *canonical)
{
    char old[NAME_SIZE];
    const bal_tensor_view *t = bal_tensor_find(set, canonical);
    if (!t) t = find_infixed(set, names, canonical);
    for (size_t i = 0; !t && i < names->n_prefixes; i++) {
        const bal_bind_rename *p = &names->prefixes[i];
        if (!swap_prefix(old, sizeof old, canonical, p->canonical, p->old)) continue;
        t = bal_tensor_find(set, old);
        if (!t) t = find_infixed(set, names, old);
    }
    return t;
}

bal_status bal_bind_canonical(char *out, size_t size, const bal_bind_names *names, const char *name,
                              bal_error *err)
{
    bool fits = snprintf(out, size, "%s", name) < (int)size;
    for (size_t i = 0; fits && i < names->n_prefixes; i++) {
        const bal_bind_rename *p = &names->prefixes[i];
        if (strncmp(name, p->canonical, strlen(p->canonical)) == 0) break;
        if (strncmp(name, p->old, strlen(p->old)) != 0) continue;
        fits = swap_prefix(out, size, name, p->old, p->canonical);
        break;
    }
    for (size_t i = 0; fits && i < names->n_infixes; i++)
        if (!strstr(out, names->infixes[i].canonical))
            fits = replace_all(out, size, names->infixes[i].old, names->infixes[i].canonical);
    if (fits) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "tensor name of %zu characters is too long: %.80s...",
                    strlen(name), name);
}

static void claim(binder *b, const bal_tensor_view *t)
{
    b->claimed[t - b->m->tensors.tensors] = 1;
}

static void shape_text(char *out, size_t size, const uint64_t *shape, int n_dims)
{
    int at = snprintf(out, size, "[");
    for (int i = 0; i < n_dims && at < (int)size; i++)
        at += snprintf(out + at, size - (size_t)at, "%s%llu", i ? ", " : "",
                       (unsigned long long)shape[i]);
    if (at < (int)size) snprintf(out + at, size - (size_t)at, "]");
}

static bal_status wrong(const binder *b, const bal_tensor_view *t, const char *expected)
{
    char found[120];
    shape_text(found, sizeof found, t->shape, t->n_dims);
    return bal_fail(b->err, BAL_E_FORMAT, "%s: tensor %s: expected %s, found %s %s",
                    bal_tensor_file(&b->m->tensors, t), t->name, expected,
                    bal_st_dtype_name(t->dtype), found);
}

/* Rows of the tensor that `r` is a part of. */
static uint64_t rows_of(const bal_config *c, const bal_bind_row *r)
{
    switch (r->part) {
    case BAL_PART_WHOLE: break;
    case BAL_PART_THIRD_0:
    case BAL_PART_THIRD_1:
    case BAL_PART_THIRD_2: return 3 * dim_of(c, r->n);
    case BAL_PART_GROUP_Q:
    case BAL_PART_GROUP_K:
    case BAL_PART_GROUP_V: return dim_of(c, BAL_DIM_Q) + 2 * dim_of(c, BAL_DIM_KV);
    }
    return dim_of(c, r->n);
}

/* The shape a row asks for; convolution kernels have four dimensions. */
static int expected_shape(const bal_config *c, const bal_bind_row *r, uint64_t shape[5])
{
    shape[0] = rows_of(c, r);
    if (r->k == BAL_DIM_NONE) return 1;
    shape[1] = dim_of(c, r->k);
    if (r->k != BAL_DIM_V_PATCH_SIZE) return 2;
    int n = 1;
    shape[n++] = 3;
    if (frames_of(&c->vision) > 1) shape[n++] = frames_of(&c->vision);
    shape[n++] = (uint64_t)c->vision.patch_size;
    shape[n++] = (uint64_t)c->vision.patch_size;
    return n;
}

static bool float_type(bal_st_dtype dtype, bal_type *out)
{
    if (dtype == BAL_ST_F32)
        *out = BAL_TYPE_F32;
    else if (dtype == BAL_ST_F16)
        *out = BAL_TYPE_F16;
    else if (dtype == BAL_ST_BF16)
        *out = BAL_TYPE_BF16;
    else
        return false;
    return true;
}

static bal_status check_float(const binder *b, const bal_bind_row *r, const bal_tensor_view *t,
                              bal_type *type)
{
    uint64_t shape[5];
    char text[120], expected[160];
    const int n_dims = expected_shape(&b->m->config, r, shape);
    int skip = 0; /* leading dimensions of 1 */
    if (r->kind == BAL_BIND_VECTOR)
        while (t->n_dims - skip > n_dims && t->shape[skip] == 1) skip++;
    if (float_type(t->dtype, type) && t->n_dims - skip == n_dims &&
        memcmp(t->shape + skip, shape, (size_t)n_dims * sizeof *shape) == 0)
        return BAL_OK;
    shape_text(text, sizeof text, shape, n_dims);
    snprintf(expected, sizeof expected, "F32, F16 or BF16 %s", text);
    return wrong(b, t, expected);
}

/* Where row i of the part stands among the tensor's rows. */
static size_t source_row(const bal_text_config *t, bal_bind_part part, size_t n, size_t i)
{
    const size_t dim = (size_t)t->head_dim, shared = (size_t)(t->heads / t->kv_heads);
    const size_t group = (shared + 2) * dim;
    switch (part) {
    case BAL_PART_WHOLE:
    case BAL_PART_THIRD_0: break;
    case BAL_PART_THIRD_1: return n + i;
    case BAL_PART_THIRD_2: return 2 * n + i;
    case BAL_PART_GROUP_Q: return i / (shared * dim) * group + i % (shared * dim);
    case BAL_PART_GROUP_K: return i / dim * group + shared * dim + i % dim;
    case BAL_PART_GROUP_V: return i / dim * group + (shared + 1) * dim + i % dim;
    }
    return i;
}

static void widen(float *out, const uint8_t *data, bal_type type, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        if (type == BAL_TYPE_F32) {
            memcpy(out + i, data + 4 * i, 4);
            continue;
        }
        memcpy(&h, data + 2 * i, 2);
        out[i] = type == BAL_TYPE_BF16 ? bal_bf16_to_f32(h) : bal_f16_to_f32(h);
    }
}

static bal_status copy_floats(binder *b, const bal_bind_row *r, const bal_tensor_view *t,
                              float **out)
{
    bal_type type;
    void *copy;
    BAL_TRY(check_float(b, r, t, &type));
    const size_t bytes = type == BAL_TYPE_F32 ? 4 : 2;
    const size_t n = r->part == BAL_PART_WHOLE ? (size_t)t->n_bytes / bytes
                                               : (size_t)dim_of(&b->m->config, r->n);
    BAL_TRY(own(b->m, n, sizeof **out, &copy, b->err));
    *out = copy;
    if (r->part == BAL_PART_WHOLE) {
        widen(*out, t->data, type, n);
        return BAL_OK;
    }
    for (size_t i = 0; i < n; i++)
        widen(*out + i, t->data + source_row(&b->m->config.text, r->part, n, i) * bytes, type, 1);
    return BAL_OK;
}

/* Rows of a KV group stand apart from each other, so they are copied, in the type they have. */
static bal_status gather_rows(binder *b, const bal_bind_row *r, const bal_tensor_view *t,
                              bal_linear *l)
{
    const size_t row = (size_t)l->k * (l->type == BAL_TYPE_F32 ? 4 : 2), n = (size_t)l->n;
    void *copy;
    BAL_TRY(own(b->m, n, row, &copy, b->err));
    for (size_t i = 0; i < n; i++)
        memcpy((uint8_t *)copy + i * row,
               t->data + source_row(&b->m->config.text, r->part, n, i) * row, row);
    l->w = copy;
    return BAL_OK;
}

static bal_status bind_float_linear(binder *b, const bal_bind_row *r, const bal_tensor_view *t,
                                    bal_linear *l)
{
    BAL_TRY(check_float(b, r, t, &l->type));
    l->n = (int)dim_of(&b->m->config, r->n);
    l->k = (int)dim_of(&b->m->config, r->k);
    if (r->part >= BAL_PART_GROUP_Q) return gather_rows(b, r, t, l);
    const size_t row = (size_t)l->k * (l->type == BAL_TYPE_F32 ? 4 : 2);
    l->w = t->data + source_row(&b->m->config.text, r->part, (size_t)l->n, 0) * row;
    return BAL_OK;
}

/* Metadata act.NAME; a16 where there is none. Modalities are those of the decoder's rows. */
static bal_status bind_act(binder *b, const bal_bind_row *r, const char *name, bal_linear *l)
{
    char key[NAME_SIZE + 8];
    snprintf(key, sizeof key, "act.%s", name);
    const char *id = bal_tensor_meta(&b->m->tensors, key);
    const bal_status st = id ? bal_act_parse(id, &l->act, b->err) : BAL_OK;
    if (st >= 0 && l->act.scale != BAL_ACT_DYNAMIC && r->owner != BAL_OWNER_DECODER)
        return bal_fail(b->err, BAL_E_UNSUP,
                        "%s: metadata %s: only linears of decoder blocks have fixed scales",
                        b->m->path, key);
    return st < 0 ? bal_fail_in(b->err, st, "%s: metadata %s", b->m->path, key) : st;
}

/* Metadata hadamard.NAME; none where there is none. Only o and down are read through a transform.
 */
static bal_status bind_hadamard(binder *b, const bal_bind_row *r, const char *name, bal_linear *l)
{
    char key[NAME_SIZE + 16];
    snprintf(key, sizeof key, "hadamard.%s", name);
    const char *id = bal_tensor_meta(&b->m->tensors, key);
    const bool may =
        r->owner == BAL_OWNER_DECODER && (r->offset == offsetof(bal_decoder_layer, o) ||
                                          r->offset == offsetof(bal_decoder_layer, down));
    if (id && !may)
        return bal_fail(b->err, BAL_E_UNSUP,
                        "%s: metadata %s: this linear reads its inputs as they are", b->m->path,
                        key);
    const bal_status st = id ? bal_hadamard_parse(id, l->k, &l->hadamard, b->err) : BAL_OK;
    return st < 0 ? bal_fail_in(b->err, st, "%s: metadata %s", b->m->path, key) : st;
}

/* NAME.which: F16 [rows][columns]. */
static bal_status bind_low(binder *b, const char *name, const char *which, uint64_t rows,
                           uint64_t columns, const void **out)
{
    char full[NAME_SIZE + 16], expected[120];
    snprintf(full, sizeof full, "%s.%s", name, which);
    const bal_tensor_view *t = bal_tensor_find(&b->m->tensors, full);
    if (!t) return bal_fail(b->err, BAL_E_FORMAT, "%s: tensor %s is missing", b->m->path, full);
    claim(b, t);
    *out = t->data;
    if (t->dtype == BAL_ST_F16 && t->n_dims == 2 && t->shape[0] == rows && t->shape[1] == columns)
        return BAL_OK;
    snprintf(expected, sizeof expected, "F16 [%llu, %llu]", (unsigned long long)rows,
             (unsigned long long)columns);
    return wrong(b, t, expected);
}

static const bal_tensor_view *find_low(const binder *b, const char *name, const char *which)
{
    char full[NAME_SIZE + 16];
    snprintf(full, sizeof full, "%s.%s", name, which);
    return bal_tensor_find(&b->m->tensors, full);
}

/* What is added to packed weights; the rank is that of NAME.low_a, or, for rows of vision, of
 * NAME.vision.low_a, none without either. Vision is known in the decoder only. */
static bal_status bind_lowrank(binder *b, const bal_bind_row *r, const char *name, bal_linear *l)
{
    char expected[120];
    const bool vision = r->owner == BAL_OWNER_DECODER && !find_low(b, name, "low_a");
    const char *const side[] = {vision ? "vision.low_a" : "low_a",
                                vision ? "vision.low_b" : "low_b"};
    const bal_tensor_view *t = find_low(b, name, side[0]);
    const int half = (l->n < l->k ? l->n : l->k) / 2;
    const int most = half < BAL_RANK_MOST ? half : BAL_RANK_MOST;
    if (!t) return BAL_OK;
    snprintf(expected, sizeof expected, "F16 [1 to %d, %d]", most, l->k);
    if (t->n_dims != 2 || t->shape[0] < 1 || t->shape[0] > (uint64_t)most)
        return wrong(b, t, expected);
    l->rank = (int)t->shape[0];
    l->low_vision = vision;
    BAL_TRY(bind_low(b, name, side[0], t->shape[0], (uint64_t)l->k, &l->low_a));
    return bind_low(b, name, side[1], (uint64_t)l->n, t->shape[0], &l->low_b);
}

static bal_status bind_packed_linear(binder *b, const bal_bind_row *r, const char *name,
                                     const bal_tensor_view *t, bal_linear *l)
{
    char key[NAME_SIZE + 8];
    bal_packed_format format;
    bal_packed_layout layout;
    snprintf(key, sizeof key, "layout.%s", name);
    const char *id = bal_tensor_meta(&b->m->tensors, key);
    if (!id)
        return bal_fail(b->err, BAL_E_FORMAT, "%s: metadata has no %s for tensor %s", b->m->path,
                        key, t->name);
    l->n = (int)dim_of(&b->m->config, r->n);
    l->k = (int)dim_of(&b->m->config, r->k);
    BAL_TRY(bal_packed_id_parse(id, &format, b->err));
    BAL_TRY(bal_packed_layout_of(&layout, format, (size_t)l->n, (size_t)l->k, b->err));
    if (t->dtype != BAL_ST_U8 || t->n_dims != 1 || t->n_bytes != layout.n_bytes) {
        char expected[120];
        snprintf(expected, sizeof expected, "U8 [%zu] (%s of %d x %d)", layout.n_bytes, id, l->n,
                 l->k);
        return wrong(b, t, expected);
    }
    BAL_TRY(bal_type_from_bits(&l->type, format.bits, b->err));
    BAL_TRY(bind_act(b, r, name, l));
    BAL_TRY(bind_hadamard(b, r, name, l));
    BAL_TRY(bind_lowrank(b, r, name, l));
    if (format.kind == BAL_PACKED_TABLE && l->act.kind == BAL_ACT_A8)
        return bal_fail(b->err, BAL_E_UNSUP,
                        "%s: tensor %s has layout %s and reads bytes; tables read 16-bit "
                        "activations",
                        b->m->path, t->name, id);
    return bal_packed_view_init(&l->packed, &layout, t->data, (size_t)t->n_bytes, b->err);
}

/* Whether the field has its tensor already; fused ones come second. */
static bool is_bound(const bal_bind_row *r, const void *field)
{
    const bal_linear *l = field;
    if (r->part == BAL_PART_WHOLE) return false;
    return r->kind == BAL_BIND_BIAS ? l->bias != NULL : l->k != 0;
}

static bal_status missing(const binder *b, const bal_bind_row *r, const char *name)
{
    if (r->optional) return BAL_OK;
    return bal_fail(b->err, BAL_E_FORMAT, "%s: tensor %s is missing", b->m->path, name);
}

static bal_status bind_row(binder *b, const bal_bind_row *r, const char *name, void *field)
{
    char packed[NAME_SIZE + 8];
    if (is_bound(r, field)) return BAL_OK;
    const bal_tensor_view *t = bal_bind_find(&b->m->tensors, b->names, name);
    if (!t && r->kind == BAL_BIND_LINEAR && r->part == BAL_PART_WHOLE) {
        snprintf(packed, sizeof packed, "%s.packed", name);
        t = bal_tensor_find(&b->m->tensors, packed);
        if (t) claim(b, t);
        return t ? bind_packed_linear(b, r, name, t, field) : missing(b, r, name);
    }
    if (!t) return missing(b, r, name);
    claim(b, t);
    float *copy = NULL;
    switch (r->kind) {
    case BAL_BIND_LINEAR: return bind_float_linear(b, r, t, field);
    case BAL_BIND_UNUSED: return BAL_OK;
    case BAL_BIND_VECTOR:
        BAL_TRY(copy_floats(b, r, t, &copy));
        *(const float **)field = copy;
        return BAL_OK;
    case BAL_BIND_BIAS:
        BAL_TRY(copy_floats(b, r, t, &copy));
        ((bal_linear *)field)->bias = copy;
        return BAL_OK;
    }
    return BAL_OK;
}

/* Blocks that the file has and the model does not run: what they have is nobody's business. */
static void claim_layer(binder *b, const char *name)
{
    const bal_tensor_view *t = bal_bind_find(&b->m->tensors, b->names, name);
    if (t) claim(b, t);
}

static bal_status bind_layers(binder *b, const bal_bind_row *r)
{
    bal_model *m = b->m;
    const bool decoder = r->owner == BAL_OWNER_DECODER;
    const int layers = decoder ? m->config.text.layers : m->config.vision.layers;
    const int in_file = decoder ? layers : m->config.vision.file_layers;
    for (int i = 0; i < in_file; i++) {
        char name[NAME_SIZE];
        snprintf(name, sizeof name, r->name, i);
        if (i >= layers) {
            claim_layer(b, name);
            continue;
        }
        uint8_t *base = decoder ? (uint8_t *)&m->layers[i] : (uint8_t *)&m->vision_layers[i];
        BAL_TRY(bind_row(b, r, name, base + r->offset));
    }
    return BAL_OK;
}

static bool applies(const bal_config *c, const bal_bind_row *r)
{
    int32_t flag;
    if (r->flag == 0) return true;
    memcpy(&flag, (const uint8_t *)c + r->flag, sizeof flag);
    return flag != 0;
}

static bal_status bind_rows(binder *b, const bal_bind_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const bal_bind_row *r = &rows[i];
        if (!applies(&b->m->config, r)) continue;
        BAL_TRY(r->owner == BAL_OWNER_MODEL ? bind_row(b, r, r->name, (uint8_t *)b->m + r->offset)
                                            : bind_layers(b, r));
    }
    return BAL_OK;
}

/* ---- What a model needs ----------------------------------------------------------------------
 */

/* Whether checkpoints have the field as a part of a tensor: rows for it alone are then for packing.
 */
static bool is_fused(const bal_bind_row *rows, size_t n, const bal_bind_row *r)
{
    for (size_t i = 0; i < n; i++)
        if (rows[i].part != BAL_PART_WHOLE && !rows[i].optional && rows[i].kind == r->kind &&
            rows[i].owner == r->owner && rows[i].offset == r->offset)
            return true;
    return false;
}

/* A fused tensor is listed by its first part, and only where there is no other way to have it. */
static bool is_listed(const bal_config *c, const bal_bind_row *rows, size_t n,
                      const bal_bind_row *r)
{
    if (r->kind == BAL_BIND_UNUSED || !applies(c, r)) return false;
    if (r->part == BAL_PART_WHOLE) return !r->optional || !is_fused(rows, n, r);
    return r->part == BAL_PART_THIRD_0 && !r->optional;
}

static bal_status list_row(const bal_config *c, const bal_bind_row *r, bal_bind_tensor_fn *fn,
                           void *ctx, bal_error *err)
{
    uint64_t shape[5];
    char name[NAME_SIZE];
    const int n_dims = expected_shape(c, r, shape);
    int copies = 1;
    if (r->owner == BAL_OWNER_DECODER) copies = c->text.layers;
    if (r->owner == BAL_OWNER_VISION) copies = c->vision.file_layers;
    for (int i = 0; i < copies; i++) {
        snprintf(name, sizeof name, r->name, i);
        BAL_TRY(fn(ctx, r, name, shape, n_dims, err));
    }
    return BAL_OK;
}

static bal_status list_rows(const bal_config *c, const bal_bind_row *rows, size_t n,
                            bal_bind_tensor_fn *fn, void *ctx, bal_error *err)
{
    for (size_t i = 0; i < n; i++)
        if (is_listed(c, rows, n, &rows[i])) BAL_TRY(list_row(c, &rows[i], fn, ctx, err));
    return BAL_OK;
}

bal_status bal_bind_each(const bal_config *c, bal_bind_tensor_fn *fn, void *ctx, bal_error *err)
{
    const bal_family_def *family = bal_family_of(c);
    BAL_TRY(list_rows(c, bal_text_rows, bal_n_text_rows, fn, ctx, err));
    return list_rows(c, family->rows, family->n_rows, fn, ctx, err);
}

/* ---- All of it --------------------------------------------------------------------------------
 */

static bal_status check_claims(const binder *b)
{
    const bal_tensor_set *set = &b->m->tensors;
    for (size_t i = 0; i < set->n_tensors; i++) {
        const bal_tensor_view *t = &set->tensors[i];
        if (b->claimed[i] || strcmp(t->name, "ballast.config") == 0 ||
            strcmp(t->name, "ballast.tokenizer") == 0)
            continue;
        return bal_fail(b->err, BAL_E_FORMAT,
                        "%s: tensor %s belongs to no part of this model; a different model type, "
                        "or more layers than config.json says?",
                        bal_tensor_file(set, t), t->name);
    }
    return BAL_OK;
}

bal_status bal_bind(bal_model *m, const bal_family_def *family, bal_error *err)
{
    binder b = {.m = m, .names = &family->names, .err = err};
    b.claimed = calloc(m->tensors.n_tensors + 1, 1);
    if (!b.claimed) return bal_nomem(err, m->tensors.n_tensors, "tensor claims");
    bal_status st = bind_rows(&b, bal_text_rows, bal_n_text_rows);
    if (st == BAL_OK) st = bind_rows(&b, family->rows, family->n_rows);
    if (st == BAL_OK) st = check_claims(&b);
    free(b.claimed);
    return st;
}
