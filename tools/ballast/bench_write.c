/* SPDX-License-Identifier: MIT
 * Random weights, streamed: the list of tensors is made whole, their bytes as they are written.
 * Codes are random bits, and scales give weights a deviation of 1 / sqrt(inputs), so that
 * activations keep their size through any number of layers. */
#include "bench_shape.h"

#include "base/file.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/size.h"
#include "format/safetensors_write.h"
#include "model/family.h"
#include "type/packed.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>

enum { SAMPLES = 4096, FIXED = 2, META = 3, MIB = 1 << 20 };

typedef enum fill_kind { FILL_DATA, FILL_PACKED, FILL_NOISE, FILL_ONES } fill_kind;

typedef struct item {
    fill_kind kind;
    bal_packed_layout layout; /* FILL_PACKED */
    float deviation;          /* FILL_NOISE */
} item;

typedef struct builder {
    const bal_shape_file *file;
    bal_tensor_view *tensors; /* [room] */
    item *items;              /* [room], of each tensor */
    bal_st_meta *meta;        /* [2 * room] */
    char **strings;           /* [4 * room] */
    size_t n_tensors, n_meta, n_strings, room;
    uint8_t *config, *tokenizer;
    char source[160], act[BAL_ACT_ID_SIZE];

    bal_rng rng;
    uint16_t sample[SAMPLES]; /* values of the tensor being written */
    uint64_t n_bytes, n_written;
    bal_progress_fn *progress;
    void *ctx;
} builder;

/* ---- What goes in ---------------------------------------------------------------------------- */

static bal_status keep(builder *b, const char *text, const char **out, bal_error *err)
{
    char *copy = strdup(text);
    if (!copy) return bal_nomem(err, strlen(text) + 1, "a name");
    b->strings[b->n_strings++] = copy;
    *out = copy;
    return BAL_OK;
}

static bal_status add(builder *b, const char *name, bal_st_dtype dtype, const uint64_t *shape,
                      int n_dims, item how, bal_error *err)
{
    uint64_t count;
    bal_tensor_view *t = &b->tensors[b->n_tensors];
    *t = (bal_tensor_view){.dtype = dtype, .n_dims = n_dims};
    memcpy(t->shape, shape, (size_t)n_dims * sizeof *shape);
    if (!bal_st_count(shape, n_dims, &count) || !bal_st_bytes(dtype, count, &t->n_bytes))
        return bal_fail(err, BAL_E_ARG, "tensor %s is too large", name);
    BAL_TRY(keep(b, name, &t->name, err));
    b->items[b->n_tensors++] = how;
    return BAL_OK;
}

static bal_status add_packed(builder *b, const char *name, const uint64_t *shape, int bits,
                             bool bytes, bal_error *err)
{
    char packed[300], id[BAL_PACKED_ID_SIZE];
    item how = {.kind = FILL_PACKED};
    BAL_TRY(bal_packed_layout_init(&how.layout, bits, (size_t)shape[0], (size_t)shape[1],
                                   b->file->group, err));
    const uint64_t n_bytes = how.layout.n_bytes;
    bal_st_meta *m = &b->meta[b->n_meta++];
    bal_packed_layout_id(&how.layout, id);
    snprintf(packed, sizeof packed, "layout.%s", name);
    BAL_TRY(keep(b, packed, &m->key, err));
    BAL_TRY(keep(b, id, &m->value, err));
    if (bytes) {
        m = &b->meta[b->n_meta++];
        snprintf(packed, sizeof packed, "act.%s", name);
        BAL_TRY(keep(b, packed, &m->key, err));
        m->value = b->act;
    }
    snprintf(packed, sizeof packed, "%s.packed", name);
    return add(b, packed, BAL_ST_U8, &n_bytes, 1, how, err);
}

static bool ends_in(const char *text, const char *end)
{
    const size_t n = strlen(text), n_end = strlen(end);
    return n >= n_end && strcmp(text + n - n_end, end) == 0;
}

/* Norms are ones, everything else is noise: matrices by their inputs, the rest small. */
static item noise_for(const bal_bind_row *row, const char *name, const uint64_t *shape, int n_dims)
{
    double inputs = 1;
    for (int i = 1; i < n_dims; i++) inputs *= (double)shape[i];
    const bool matrix = row->kind == BAL_BIND_LINEAR;
    if (row->kind == BAL_BIND_VECTOR && n_dims == 1 && ends_in(name, ".weight"))
        return (item){.kind = FILL_ONES};
    return (item){.kind = FILL_NOISE, .deviation = matrix ? (float)(1 / sqrt(inputs)) : 0.02f};
}

/* What quantize leaves untouched keeps the checkpoint's type; small tensors of a block become F32
 * there. */
static bal_status add_tensor(void *ctx, const bal_bind_row *row, const char *name,
                             const uint64_t *shape, int n_dims, bal_error *err)
{
    builder *b = ctx;
    const bool block = row->owner == BAL_OWNER_DECODER, packs = b->file->bits < 16;
    if (strcmp(name, "lm_head.weight") == 0) {
        if (b->file->head < 16) return add_packed(b, name, shape, b->file->head, false, err);
        if (!b->file->shape->lm_head) return BAL_OK;
    }
    if (block && packs && row->kind == BAL_BIND_LINEAR)
        return add_packed(b, name, shape, b->file->bits, b->file->act.kind == BAL_ACT_A8, err);
    if (row->owner == BAL_OWNER_VISION && row->kind == BAL_BIND_LINEAR && b->file->tower < 16)
        return add_packed(b, name, shape, b->file->tower, b->file->act.kind == BAL_ACT_A8, err);
    const bal_st_dtype dtype = block && packs ? BAL_ST_F32 : b->file->shape->dtype;
    return add(b, name, dtype, shape, n_dims, noise_for(row, name, shape, n_dims), err);
}

static bal_status count_tensor(void *ctx, const bal_bind_row *row, const char *name,
                               const uint64_t *shape, int n_dims, bal_error *err)
{
    (void)row, (void)name, (void)shape, (void)n_dims, (void)err;
    ++*(size_t *)ctx;
    return BAL_OK;
}

static bal_status add_blob(builder *b, const char *name, const uint8_t *data, size_t n,
                           bal_error *err)
{
    const uint64_t shape = n;
    BAL_TRY(add(b, name, BAL_ST_U8, &shape, 1, (item){0}, err));
    b->tensors[b->n_tensors - 1].data = data;
    return BAL_OK;
}

static void describe(char *out, size_t size, const bal_shape_file *f)
{
    char act[BAL_ACT_ID_SIZE];
    bal_act_id(f->act, act);
    int n = snprintf(out, size, "random weights in the shape of %s", f->shape->name);
    if (f->bits < 16)
        n += snprintf(out + n, size - (size_t)n, ", w%dg%zu %s", f->bits, f->group, act);
    if (f->head < 16) n += snprintf(out + n, size - (size_t)n, ", head w%dg%zu", f->head, f->group);
    if (f->tower < 16) snprintf(out + n, size - (size_t)n, ", tower w%dg%zu", f->tower, f->group);
}

static bal_status collect(builder *b, bal_error *err)
{
    const bal_config *c = &b->file->shape->config;
    size_t n;
    BAL_TRY(bal_bind_each(c, count_tensor, &b->room, err));
    b->room += FIXED + META;
    b->tensors = calloc(b->room, sizeof *b->tensors);
    b->items = calloc(b->room, sizeof *b->items);
    b->meta = calloc(2 * b->room, sizeof *b->meta);
    b->strings = calloc(4 * b->room, sizeof *b->strings);
    if (!b->tensors || !b->items || !b->meta || !b->strings)
        return bal_nomem(err, b->room * sizeof *b->tensors, "tensor list");
    describe(b->source, sizeof b->source, b->file);
    bal_act_id(b->file->act, b->act);
    b->meta[b->n_meta++] = (bal_st_meta){"ballast_format", "1.0"};
    b->meta[b->n_meta++] = (bal_st_meta){"program", "ballast " BALLAST_VERSION};
    b->meta[b->n_meta++] = (bal_st_meta){"source", b->source};
    BAL_TRY(bal_config_blob(c, &b->config, &n, err));
    BAL_TRY(add_blob(b, "ballast.config", b->config, n, err));
    const char *image = c->has_vision ? bal_family_of(c)->image_token : NULL;
    BAL_TRY(bal_shape_tokenizer(c->text.vocab, image, c->image_token, &b->tokenizer, &n, err));
    BAL_TRY(add_blob(b, "ballast.tokenizer", b->tokenizer, n, err));
    return bal_bind_each(c, add_tensor, b, err);
}

static void release(builder *b)
{
    for (size_t i = 0; i < b->n_strings; i++) free(b->strings[i]);
    free(b->strings);
    free(b->tensors);
    free(b->items);
    free(b->meta);
    free(b->config);
    free(b->tokenizer);
    free(b);
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

static void fill_random(builder *b, uint8_t *out, size_t n)
{
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t v = bal_rng_u64(&b->rng);
        memcpy(out + i, &v, bal_min(8, n - i));
    }
}

/* Lanes without an output, and the unit that the inputs do not fill, are zero by definition. */
static void clear_padding(const bal_packed_layout *l, uint64_t offset, uint8_t *out, size_t n)
{
    enum { LINE = BAL_PANEL * 4 }; /* a word of 16 lanes; pieces are whole lines */
    const size_t real = l->n % BAL_PANEL;
    if (real == 0 && l->k % BAL_UNIT == 0) return;
    for (size_t i = 0; i < n; i += LINE) {
        const size_t unit = (size_t)((offset + i) / LINE) / (size_t)l->bits;
        if (l->k % BAL_UNIT && unit % l->units == l->units - 1)
            memset(out + i, 0, LINE);
        else if (real && unit / l->units == l->panels - 1)
            memset(out + i + 4 * real, 0, LINE - 4 * real);
    }
}

/* One value for every scale, half of the range for every zero point. */
static void fill_sides(const bal_packed_layout *l, uint64_t offset, uint8_t *out, size_t n)
{
    const double top = (double)(1 << l->bits);
    const double deviation = sqrt((top * top - 1) / 12); /* of uniform codes */
    const uint16_t s = bal_f32_to_f16((float)(1 / (deviation * sqrt((double)l->k))));
    const size_t line = BAL_PANEL * l->groups, real = l->n % BAL_PANEL;
    for (size_t i = 0; i < n; i++) {
        const uint64_t at = offset + i;
        const bool scale = at < l->zeros_offset;
        const uint64_t element = scale ? (at - l->scales_offset) / 2 : at - l->zeros_offset;
        const bool padding =
            element / line > l->panels - 1 ||
            (real && element / line == l->panels - 1 && element % BAL_PANEL >= real);
        const unsigned value = scale ? (unsigned)s >> 8 * (at & 1) & 255 : 1u << (l->bits - 1);
        out[i] = padding ? 0 : (uint8_t)value;
    }
}

static void fill_packed(builder *b, const bal_packed_layout *l, uint64_t offset, uint8_t *out,
                        size_t n)
{
    const size_t codes =
        offset < l->scales_offset ? bal_min(n, l->scales_offset - (size_t)offset) : 0;
    fill_random(b, out, codes);
    clear_padding(l, offset, out, codes);
    fill_sides(l, offset + codes, out + codes, n - codes);
}

/* 12 uniform numbers make one that is close to normal. */
static float normal(bal_rng *rng)
{
    float sum = -6.0f;
    for (int i = 0; i < 12; i++) sum += bal_rng_f32(rng);
    return sum;
}

static uint16_t half_of(bal_st_dtype dtype, float v)
{
    return dtype == BAL_ST_F16 ? bal_f32_to_f16(v) : bal_f32_to_bf16(v);
}

static void fill_halves(builder *b, const bal_tensor_view *t, const item *how, bool first,
                        uint8_t *out, size_t n)
{
    const float one = how->kind == FILL_ONES ? 1.0f : 0.0f;
    for (int i = 0; first && i < SAMPLES; i++)
        b->sample[i] = half_of(t->dtype, one + how->deviation * normal(&b->rng));
    for (size_t i = 0; i < n; i += 8) {
        const uint64_t v = bal_rng_u64(&b->rng);
        uint16_t four[4];
        for (int j = 0; j < 4; j++) four[j] = b->sample[v >> 16 * j & (SAMPLES - 1)];
        memcpy(out + i, four, bal_min(8, n - i));
    }
}

static void fill_floats(builder *b, const item *how, uint8_t *out, size_t n)
{
    const float one = how->kind == FILL_ONES ? 1.0f : 0.0f;
    for (size_t i = 0; i < n; i += 4) {
        const float v = one + how->deviation * normal(&b->rng);
        memcpy(out + i, &v, 4);
    }
}

static bal_status fill(void *ctx, const bal_tensor_view *t, uint64_t offset, void *out, size_t n,
                       bal_error *err)
{
    builder *b = ctx;
    const item *how = &b->items[t - b->tensors];
    if (how->kind == FILL_PACKED)
        fill_packed(b, &how->layout, offset, out, n);
    else if (t->dtype == BAL_ST_F32)
        fill_floats(b, how, out, n);
    else
        fill_halves(b, t, how, offset == 0, out, n);
    b->n_written += n;
    const bal_progress p = {"writing", b->n_written / MIB, b->n_bytes / MIB};
    if (!b->progress || b->progress(b->ctx, &p)) return BAL_OK;
    return bal_fail(err, BAL_E_CANCELLED, "interrupted");
}

/* ---- The file -------------------------------------------------------------------------------- */

static bal_status check_room(const builder *b, const char *path, bal_error *err)
{
    char dir[1100];
    struct statvfs s;
    BAL_TRY(bal_path_dir(dir, sizeof dir, path, err));
    if (statvfs(dir, &s) != 0) return bal_fail(err, BAL_E_IO, "%s: %s", dir, strerror(errno));
    const uint64_t room = (uint64_t)s.f_bavail * s.f_frsize;
    if (room > b->n_bytes + b->n_bytes / 16) return BAL_OK;
    return bal_fail(err, BAL_E_IO,
                    "%s has %llu MiB left, the file takes %llu; --keep names another folder", dir,
                    (unsigned long long)(room / MIB), (unsigned long long)(b->n_bytes / MIB));
}

static bal_status write_all(builder *b, const char *path, bal_error *err)
{
    BAL_TRY(collect(b, err));
    BAL_TRY(bal_safetensors_size(&b->n_bytes, b->tensors, b->n_tensors, b->meta, b->n_meta, err));
    BAL_TRY(check_room(b, path, err));
    bal_rng_seed(&b->rng, 1);
    return bal_safetensors_stream(path, b->tensors, b->n_tensors, b->meta, b->n_meta, fill, b, err);
}

bal_status bal_shape_write(const char *path, const bal_shape_file *file, bal_progress_fn *progress,
                           void *ctx, bal_error *err)
{
    builder *b = calloc(1, sizeof *b);
    if (!b) return bal_nomem(err, sizeof *b, "a shape");
    b->file = file;
    b->progress = progress;
    b->ctx = ctx;
    const bal_status st = write_all(b, path, err);
    release(b);
    return st;
}

bool bal_shape_is(const char *path, const bal_shape_file *file)
{
    bal_tensor_set set;
    char source[160];
    if (bal_tensor_set_open(&set, path, NULL) < 0) return false;
    const char *found = bal_tensor_meta(&set, "source");
    describe(source, sizeof source, file);
    const bool same = found && strcmp(found, source) == 0;
    bal_tensor_set_close(&set);
    return same;
}
