/* SPDX-License-Identifier: MIT */
#include "op/kv.h"

#include "base/half.h"
#include "base/size.h"

#include <math.h>
#include <string.h>

static const bal_kv_type DEFAULT_TYPE = BAL_KV_F16;

/* ---- Formats --------------------------------------------------------------------------------- */

static float put_f32(void *out, const float *x, size_t n)
{
    memcpy(out, x, n * sizeof *x);
    return 0.0f;
}

static float put_f16(void *out, const float *x, size_t n)
{
    uint16_t *h = out;
    for (size_t i = 0; i < n; i++) {
        const bool beyond = isfinite(x[i]) && fabsf(x[i]) > 65504.0f;
        h[i] = bal_f32_to_f16(beyond ? copysignf(65504.0f, x[i]) : x[i]);
    }
    return 0.0f;
}

/* A NaN compares false and would be lost in the maximum, so it is looked for by itself. */
static float scale_i8(const float *x, size_t n)
{
    float top = 0.0f;
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(x[i])) return NAN;
        top = fmaxf(top, fabsf(x[i]));
    }
    return top / 127.0f;
}

static float put_i8(void *out, const float *x, size_t n)
{
    const float scale = scale_i8(x, n);
    int8_t *q = out;
    for (size_t i = 0; i < n; i++) q[i] = scale > 0.0f ? (int8_t)rintf(x[i] / scale) : 0;
    return scale;
}

static void get_f16(const bal_kernels *k, float *out, const void *row, float scale, size_t n)
{
    (void)scale;
    k->widen_f16(out, row, n);
}

static void get_i8(const bal_kernels *k, float *out, const void *row, float scale, size_t n)
{
    k->widen_i8(out, row, scale, n);
}

typedef struct format {
    const char *name;
    size_t element_bytes;
    bool scaled;                                       /* one f32 per row behind the codes */
    float (*put)(void *out, const float *x, size_t n); /* gives the scale */
    void (*get)(const bal_kernels *k, float *out, const void *row, float scale, size_t n);
} format;

static const format formats[BAL_KV_TYPES] = {
    [BAL_KV_F32] = {"f32", 4, false, put_f32, NULL},
    [BAL_KV_F16] = {"f16", 2, false, put_f16, get_f16},
    [BAL_KV_I8] = {"i8", 1, true, put_i8, get_i8},
};

static bal_kv_type resolve(bal_kv_type type)
{
    return type == BAL_KV_DEFAULT ? DEFAULT_TYPE : type;
}

const char *bal_kv_type_name(bal_kv_type type)
{
    return formats[resolve(type)].name;
}

bal_status bal_kv_type_find(bal_kv_type *out, const char *name, bal_error *err)
{
    for (int i = BAL_KV_DEFAULT + 1; i < BAL_KV_TYPES; i++)
        if (strcmp(formats[i].name, name) == 0) {
            *out = (bal_kv_type)i;
            return BAL_OK;
        }
    return bal_fail(err, BAL_E_ARG, "cache type '%s', expected f32, f16 or i8", name);
}

/* ---- Pages ----------------------------------------------------------------------------------- */

/* Codes of a tile, before the scales. */
static size_t code_bytes(const bal_kv_layout *l, bal_kv_part part)
{
    return (size_t)BAL_PAGE * (size_t)l->dim * formats[l->type[part]].element_bytes;
}

static size_t tile_bytes(const bal_kv_layout *l, bal_kv_part part)
{
    const size_t scales = formats[l->type[part]].scaled ? BAL_PAGE * sizeof(float) : 0;
    return bal_round_up(code_bytes(l, part) + scales, 64);
}

bal_status bal_kv_layout_init(bal_kv_layout *l, bal_kv_type type, int layers, int heads, int dim,
                              bal_error *err)
{
    *l = (bal_kv_layout){.layers = layers, .heads = heads, .dim = dim};
    size_t per_head = 0;
    for (int p = 0; p < BAL_KV_PARTS; p++) {
        l->type[p] = resolve(type);
        l->tile_bytes[p] = tile_bytes(l, (bal_kv_part)p);
        per_head += l->tile_bytes[p];
    }
    if (layers < 1 || heads < 1 || dim < 1 || dim > BAL_MAX_HEAD_DIM ||
        !bal_size_mul(per_head, (size_t)heads, &l->layer_bytes) ||
        !bal_size_mul(l->layer_bytes, (size_t)layers, &l->page_bytes))
        return bal_fail(err, BAL_E_ARG, "a cache of %d layers, %d heads, %d wide", layers, heads,
                        dim);
    return BAL_OK;
}

static size_t tile_offset(const bal_kv_layout *l, int layer, bal_kv_part part, int head)
{
    const size_t before = part == BAL_VALUES ? l->tile_bytes[BAL_KEYS] * (size_t)l->heads : 0;
    return (size_t)layer * l->layer_bytes + before + (size_t)head * l->tile_bytes[part];
}

bal_kv_tile bal_kv_tile_at(const bal_kv_layout *l, const uint8_t *page, int layer, bal_kv_part part,
                           int head)
{
    const uint8_t *codes = page + tile_offset(l, layer, part, head);
    return (bal_kv_tile){.type = l->type[part],
                         .ld = (size_t)l->dim,
                         .codes = codes,
                         .scales = (const float *)(const void *)(codes + code_bytes(l, part))};
}

const float *bal_kv_tile_read(const bal_kernels *k, const bal_kv_tile *t, int n, int dim,
                              float *room, size_t *ld)
{
    const format *f = &formats[t->type];
    *ld = f->get ? (size_t)dim : t->ld;
    if (!f->get) return t->codes;
    for (size_t i = 0; i < (size_t)n; i++)
        f->get(k, room + i * (size_t)dim, (const uint8_t *)t->codes + i * t->ld * f->element_bytes,
               f->scaled ? t->scales[i] : 0.0f, (size_t)dim);
    return room;
}

static void write_part(const bal_kv_layout *l, uint8_t *page, int layer, int row, bal_kv_part part,
                       const float *x)
{
    const format *f = &formats[l->type[part]];
    const size_t dim = (size_t)l->dim;
    for (int h = 0; h < l->heads; h++) {
        uint8_t *tile = page + tile_offset(l, layer, part, h);
        float *scales = (float *)(void *)(tile + code_bytes(l, part));
        const float scale =
            f->put(tile + (size_t)row * dim * f->element_bytes, x + (size_t)h * dim, dim);
        if (f->scaled) scales[row] = scale;
    }
}

void bal_kv_write(const bal_kv_layout *l, uint8_t *page, int layer, int row, const float *k,
                  const float *v)
{
    write_part(l, page, layer, row, BAL_KEYS, k);
    write_part(l, page, layer, row, BAL_VALUES, v);
}

static void copy_tile(const bal_kv_layout *l, bal_kv_part part, uint8_t *to, const uint8_t *from,
                      int n)
{
    const format *f = &formats[l->type[part]];
    memcpy(to, from, (size_t)n * (size_t)l->dim * f->element_bytes);
    if (f->scaled)
        memcpy(to + code_bytes(l, part), from + code_bytes(l, part), (size_t)n * sizeof(float));
}

void bal_kv_copy_rows(const bal_kv_layout *l, uint8_t *to, const uint8_t *from, int n)
{
    for (int layer = 0; layer < l->layers; layer++)
        for (int part = 0; part < BAL_KV_PARTS; part++)
            for (int h = 0; h < l->heads; h++) {
                const size_t at = tile_offset(l, layer, (bal_kv_part)part, h);
                copy_tile(l, (bal_kv_part)part, to + at, from + at, n);
            }
}
