/* SPDX-License-Identifier: MIT
 * Block files: writing one whole, and opening one that may have been damaged or put there by
 * somebody else. Refuses every tensor that the block does not have, and every other packing than
 * the recipe's. */
#include "quant/part.h"

#include "base/size.h"
#include "format/safetensors_write.h"
#include "quant/actsim.h"
#include "quant/fold.h"
#include "quant/lowrank.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* weight, bias and two matrices of small rank of each linear, norms */
enum { MAX_TENSORS = 4 * BAL_DECODER_LINEARS + BAL_PART_NORMS };

/* ---- Names and sizes ------------------------------------------------------------------------- */

void bal_part_norm_name(char out[BAL_PART_NAME], int index, bal_part_norm which)
{
    static const char *const names[BAL_PART_NORMS] = {"input_layernorm", "post_attention_layernorm",
                                                      "self_attn.q_norm", "self_attn.k_norm"};
    snprintf(out, BAL_PART_NAME, "model.language_model.layers.%d.%s.weight", index, names[which]);
}

int bal_part_norm_size(const bal_text_config *c, bal_part_norm which)
{
    if (which == BAL_PART_ATTN_NORM || which == BAL_PART_MLP_NORM) return c->hidden;
    return c->qk_norm ? c->head_dim : 0;
}

void bal_part_bias_name(char out[BAL_PART_NAME], int index, int linear)
{
    snprintf(out, BAL_PART_NAME, "model.language_model.layers.%d.%s.bias", index,
             bal_decoder_linear_name(linear));
}

void bal_part_packed_name(char out[BAL_PART_NAME], int index, int linear)
{
    snprintf(out, BAL_PART_NAME, "model.language_model.layers.%d.%s.weight.packed", index,
             bal_decoder_linear_name(linear));
}

void bal_part_low_name(char out[BAL_PART_NAME], int index, int linear, bal_low_rows rows, bool b)
{
    snprintf(out, BAL_PART_NAME, "model.language_model.layers.%d.%s.weight%s.low_%c", index,
             bal_decoder_linear_name(linear), rows == BAL_LOW_VISION ? ".vision" : "",
             b ? 'b' : 'a');
}

void bal_part_layout_key(char out[BAL_PART_NAME], int index, int linear)
{
    snprintf(out, BAL_PART_NAME, "layout.model.language_model.layers.%d.%s.weight", index,
             bal_decoder_linear_name(linear));
}

void bal_part_act_key(char out[BAL_PART_NAME], int index, int linear)
{
    snprintf(out, BAL_PART_NAME, "act.model.language_model.layers.%d.%s.weight", index,
             bal_decoder_linear_name(linear));
}

void bal_part_linear_size(const bal_text_config *c, int i, int *n, int *k)
{
    const int hidden = c->hidden, inter = c->intermediate, q = c->heads * c->head_dim;
    const int kv = c->kv_heads * c->head_dim;
    const int sizes[BAL_DECODER_LINEARS][2] = {{q, hidden},    {kv, hidden},    {kv, hidden},
                                               {hidden, q},    {inter, hidden}, {inter, hidden},
                                               {hidden, inter}};
    *n = sizes[i][0];
    *k = sizes[i][1];
}

/* ---- Writing --------------------------------------------------------------------------------- */

typedef struct writer {
    bal_tensor_view tensors[MAX_TENSORS];
    char names[MAX_TENSORS][BAL_PART_NAME];
    int n_tensors;
    bal_st_meta meta[2 * BAL_DECODER_LINEARS];
    size_t n_meta;
    char keys[2 * BAL_DECODER_LINEARS][BAL_PART_NAME];
    char ids[BAL_DECODER_LINEARS][BAL_PACKED_ID_SIZE], acts[BAL_DECODER_LINEARS][BAL_ACT_ID_SIZE];
    void *weights[BAL_DECODER_LINEARS]; /* packed, or floats */
} writer;

static char *add_tensor(writer *w, bal_st_dtype dtype, const void *data, size_t n)
{
    const int i = w->n_tensors++;
    uint64_t n_bytes = 0;
    bal_st_bytes(dtype, n, &n_bytes);
    w->tensors[i] = (bal_tensor_view){.name = w->names[i],
                                      .dtype = dtype,
                                      .n_dims = 1,
                                      .shape = {n},
                                      .data = data,
                                      .n_bytes = n_bytes};
    return w->names[i];
}

static char *add_matrix(writer *w, bal_st_dtype dtype, const void *data, size_t rows,
                        size_t columns)
{
    bal_tensor_view *t = &w->tensors[w->n_tensors];
    char *name = add_tensor(w, dtype, data, rows * columns);
    t->n_dims = 2;
    t->shape[0] = rows;
    t->shape[1] = columns;
    return name;
}

/* The values that codes stand for, as a reader of packed weights computes them. */
static bal_status float_linear(writer *w, const bal_quantized_linear *q, int index, int i,
                               bal_error *err)
{
    const size_t n = (size_t)q->n, k = (size_t)q->k;
    float *values = malloc(n * k * sizeof *values);
    w->weights[i] = values;
    if (!values) return bal_nomem(err, n * k * sizeof *values, "weights of a linear");
    for (int r = 0; r < q->n; r++) bal_quantized_row(q, r, values + (size_t)r * k);
    bal_decoder_tensor_name(add_matrix(w, BAL_ST_F32, values, n, k), BAL_PART_NAME, index, i);
    return BAL_OK;
}

static bal_status pack_linear(writer *w, const bal_quantized_linear *q, int index, int i,
                              bal_error *err)
{
    bal_packed_layout layout;
    const bal_packed_parts parts = bal_quantized_parts(q);
    BAL_TRY(bal_packed_layout_of(&layout, (bal_packed_format){q->kind, q->bits, (size_t)q->group},
                                 (size_t)q->n, (size_t)q->k, err));
    w->weights[i] = aligned_alloc(BAL_PACKED_ALIGN, layout.n_bytes);
    if (!w->weights[i]) return bal_nomem(err, layout.n_bytes, "packed weights");
    const bal_status st = bal_pack_parts(&layout, &parts, w->weights[i], err);
    if (st < 0) return bal_fail_in(err, st, "block %d, %s", index, bal_decoder_linear_name(i));
    bal_packed_layout_id(&layout, w->ids[i]);
    bal_part_layout_key(w->keys[w->n_meta], index, i);
    w->meta[w->n_meta] = (bal_st_meta){w->keys[w->n_meta], w->ids[i]};
    w->n_meta++;
    bal_part_packed_name(add_tensor(w, BAL_ST_U8, w->weights[i], layout.n_bytes), index, i);
    return BAL_OK;
}

static void add_act(writer *w, bal_act act, int index, int i)
{
    bal_act_id(act, w->acts[i]);
    bal_part_act_key(w->keys[w->n_meta], index, i);
    w->meta[w->n_meta] = (bal_st_meta){w->keys[w->n_meta], w->acts[i]};
    w->n_meta++;
}

static void add_low(writer *w, const bal_quantized_linear *q, int index, int i)
{
    const bal_low_rows rows = q->low_vision ? BAL_LOW_VISION : BAL_LOW_ALL;
    const size_t rank = (size_t)q->rank, n = (size_t)q->n, k = (size_t)q->k;
    if (!rank) return;
    bal_part_low_name(add_matrix(w, BAL_ST_F16, q->low_a, rank, k), index, i, rows, false);
    bal_part_low_name(add_matrix(w, BAL_ST_F16, q->low_b, n, rank), index, i, rows, true);
}

/* Whether any linear reads bytes: then all say what they read. */
static bool reads_bytes(const bal_block_result *r)
{
    for (int g = 0; g < BAL_GROUPS; g++)
        if (r->act[g].kind == BAL_ACT_A8) return true;
    return false;
}

static bal_status collect(writer *w, const bal_block_result *r, const bal_text_config *c,
                          const bal_decoder_layer *source, int index, bal_error *err)
{
    const bool plain = r->store == BAL_STORAGE_FLOAT;
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        BAL_TRY((plain ? float_linear : pack_linear)(w, &r->linear[i], index, i, err));
    for (int i = 0; reads_bytes(r) && i < BAL_DECODER_LINEARS; i++)
        add_act(w, r->act[bal_group_of_linear(i)], index, i);
    const float *const norms[BAL_PART_NORMS] = {r->attn_norm, r->mlp_norm, source->q_norm,
                                                source->k_norm};
    for (int i = 0; i < BAL_PART_NORMS; i++) {
        const int n = bal_part_norm_size(c, (bal_part_norm)i);
        if (n > 0)
            bal_part_norm_name(add_tensor(w, BAL_ST_F32, norms[i], (size_t)n), index,
                               (bal_part_norm)i);
    }
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        if (r->bias[i])
            bal_part_bias_name(add_tensor(w, BAL_ST_F32, r->bias[i], (size_t)r->linear[i].n), index,
                               i);
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) add_low(w, &r->linear[i], index, i);
    return BAL_OK;
}

static bal_status write_file(const writer *w, const char *path, bal_error *err)
{
    char tmp[1200];
    if (snprintf(tmp, sizeof tmp, "%s.tmp", path) >= (int)sizeof tmp)
        return bal_fail(err, BAL_E_ARG, "path too long: %.200s", path);
    BAL_TRY(bal_safetensors_write(tmp, w->tensors, (size_t)w->n_tensors, w->meta, w->n_meta, err));
    if (rename(tmp, path) == 0) return BAL_OK;
    const int e = errno;
    unlink(tmp);
    return bal_fail(err, BAL_E_IO, "%s: cannot rename: %s", tmp, strerror(e));
}

bal_status bal_part_write(const char *path, const bal_block_result *r, const bal_text_config *c,
                          const bal_decoder_layer *source, int index, bal_error *err)
{
    writer *w = calloc(1, sizeof *w);
    if (!w) return bal_nomem(err, sizeof *w, "block file");
    bal_status st = collect(w, r, c, source, index, err);
    if (st == BAL_OK) st = write_file(w, path, err);
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) free(w->weights[i]);
    free(w);
    return st;
}

/* ---- Reading --------------------------------------------------------------------------------- */

static bal_status need(const bal_part *p, const char *name, const bal_tensor_view **out,
                       bal_error *err)
{
    *out = bal_tensor_find(&p->set, name);
    return *out ? BAL_OK : bal_fail(err, BAL_E_FORMAT, "tensor %s is missing", name);
}

static bal_status vector(const bal_part *p, const char *name, size_t n, const float **out,
                         bal_error *err)
{
    const bal_tensor_view *t;
    BAL_TRY(need(p, name, &t, err));
    *out = (const float *)(const void *)t->data;
    if (t->dtype == BAL_ST_F32 && t->n_bytes == n * sizeof(float) &&
        (uintptr_t)t->data % sizeof(float) == 0)
        return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "tensor %s: expected F32 [%zu], found %s of %llu bytes",
                    name, n, bal_st_dtype_name(t->dtype), (unsigned long long)t->n_bytes);
}

typedef struct opener {
    bal_part *p;
    const bal_text_config *c;
    const bal_decoder_layer *source;
    const bal_recipe *recipe;
    int index;
    bal_error *err;
} opener;

/* What the recipe makes of linear i, provided that the file's metadata says the same. */
static bal_status layout_of(const opener *o, const bal_linear *l, int i, bal_packed_layout *layout)
{
    char key[BAL_PART_NAME], want[BAL_PACKED_ID_SIZE];
    BAL_TRY(bal_packed_layout_of(layout, bal_recipe_format(o->recipe, i), (size_t)l->n,
                                 (size_t)l->k, o->err));
    bal_packed_layout_id(layout, want);
    bal_part_layout_key(key, o->index, i);
    const char *id = bal_tensor_meta(&o->p->set, key);
    if (id && strcmp(id, want) == 0) return BAL_OK;
    return bal_fail(o->err, BAL_E_FORMAT, "metadata %s: expected %s, found %.40s", key, want,
                    id ? id : "nothing");
}

/* Whether the recipe may have given a linear this path; only the run knows what scales it fixed. */
static bool may_read(const bal_recipe *r, bal_act act)
{
    const bal_act fine = {.kind = BAL_ACT_A8, .group = BAL_SPIKE_GROUP};
    if (bal_act_alike(act, bal_act_of(r))) return true;
    if (act.kind == BAL_ACT_A16) return r->spikes == BAL_SPIKES_A16;
    return r->spikes == BAL_SPIKES_FINE && bal_act_alike(act, fine);
}

/* The activation path of linear i: the recipe's, or what spikes made of it. */
static bal_status act_of(const opener *o, int i, bal_act *act)
{
    char key[BAL_PART_NAME], want[BAL_ACT_ID_SIZE];
    bal_error unused;
    bal_part_act_key(key, o->index, i);
    const char *id = bal_tensor_meta(&o->p->set, key);
    if (bal_act_parse(id ? id : "a16", act, &unused) == BAL_OK && may_read(o->recipe, *act))
        return BAL_OK;
    bal_act_id(bal_act_of(o->recipe), want);
    if (o->recipe->act_scale != BAL_ACT_DYNAMIC) snprintf(want, sizeof want, "fixed scales");
    return bal_fail(o->err, BAL_E_FORMAT, "metadata %s: expected %s, found %.40s", key, want,
                    id ? id : "nothing");
}

static bal_status open_bias(const opener *o, bal_linear *l, int i)
{
    char name[BAL_PART_NAME];
    if (!bal_layer_linear(o->source, i)->bias) return BAL_OK;
    bal_part_bias_name(name, o->index, i);
    return vector(o->p, name, (size_t)l->n, &l->bias, o->err);
}

/* What stands beside the packed weight where the recipe says so. */
static bal_status open_low(const opener *o, bal_linear *l, int i)
{
    char name[BAL_PART_NAME];
    const int rank = bal_lowrank_of(o->recipe->rank, l->n, l->k);
    const bal_tensor_view *t[2];
    for (int b = 0; rank && b < 2; b++) {
        const uint64_t rows = (uint64_t)(b ? l->n : rank), columns = (uint64_t)(b ? rank : l->k);
        bal_part_low_name(name, o->index, i, o->recipe->rank_rows, b);
        BAL_TRY(need(o->p, name, &t[b], o->err));
        if (t[b]->dtype != BAL_ST_F16 || t[b]->n_dims != 2 || t[b]->shape[0] != rows ||
            t[b]->shape[1] != columns)
            return bal_fail(o->err, BAL_E_FORMAT, "tensor %s: expected F16 [%llu, %llu]", name,
                            (unsigned long long)rows, (unsigned long long)columns);
    }
    if (!rank) return BAL_OK;
    l->rank = rank;
    l->low_vision = o->recipe->rank_rows == BAL_LOW_VISION;
    l->low_a = t[0]->data;
    l->low_b = t[1]->data;
    return BAL_OK;
}

static bal_status open_float(const opener *o, bal_linear *l, int i)
{
    char name[BAL_PART_NAME];
    const bal_tensor_view *t;
    bal_decoder_tensor_name(name, sizeof name, o->index, i);
    BAL_TRY(need(o->p, name, &t, o->err));
    if (t->dtype != BAL_ST_F32 || t->n_dims != 2 || t->shape[0] != (uint64_t)l->n ||
        t->shape[1] != (uint64_t)l->k)
        return bal_fail(o->err, BAL_E_FORMAT, "tensor %s: expected F32 [%d, %d]", name, l->n, l->k);
    l->type = BAL_TYPE_F32;
    l->w = t->data;
    return BAL_OK;
}

static bal_status open_packed(const opener *o, bal_linear *l, int i)
{
    char name[BAL_PART_NAME];
    bal_packed_layout layout;
    const bal_tensor_view *t;
    bal_part_packed_name(name, o->index, i);
    BAL_TRY(need(o->p, name, &t, o->err));
    if (t->dtype != BAL_ST_U8)
        return bal_fail(o->err, BAL_E_FORMAT, "tensor %s: expected U8, found %s", name,
                        bal_st_dtype_name(t->dtype));
    BAL_TRY(layout_of(o, l, i, &layout));
    BAL_TRY(bal_packed_view_init(&l->packed, &layout, t->data, (size_t)t->n_bytes, o->err));
    BAL_TRY(bal_type_from_bits(&l->type, layout.bits, o->err));
    BAL_TRY(act_of(o, i, &l->act));
    l->hadamard = bal_layer_linear(o->source, i)->hadamard;
    return open_low(o, l, i);
}

static bal_status open_linear(const opener *o, int i)
{
    bal_linear *l = bal_decoder_linear(&o->p->layer, i);
    const bool plain = o->recipe->store == BAL_STORAGE_FLOAT;
    bal_part_linear_size(o->c, i, &l->n, &l->k);
    BAL_TRY((plain ? open_float : open_packed)(o, l, i));
    return open_bias(o, l, i);
}

/* All that are needed were found, so a file with this many holds nothing else. */
static bal_status check_count(const opener *o)
{
    size_t want = BAL_DECODER_LINEARS;
    for (int i = 0; i < BAL_PART_NORMS; i++) want += bal_part_norm_size(o->c, (bal_part_norm)i) > 0;
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_linear *l = bal_layer_linear(o->source, i);
        want += l->bias != NULL;
        want += bal_lowrank_of(o->recipe->rank, l->n, l->k) ? 2 : 0;
    }
    if (o->p->set.n_tensors == want) return BAL_OK;
    return bal_fail(o->err, BAL_E_FORMAT, "expected the %zu tensors of block %d, found %zu tensors",
                    want, o->index, o->p->set.n_tensors);
}

static bal_status open_tensors(const opener *o)
{
    char name[BAL_PART_NAME];
    bal_decoder_layer *l = &o->p->layer;
    const float **const norms[BAL_PART_NORMS] = {&l->attn_norm, &l->mlp_norm, &l->q_norm,
                                                 &l->k_norm};
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) BAL_TRY(open_linear(o, i));
    for (int i = 0; i < BAL_PART_NORMS; i++) {
        const int n = bal_part_norm_size(o->c, (bal_part_norm)i);
        bal_part_norm_name(name, o->index, (bal_part_norm)i);
        if (n > 0) BAL_TRY(vector(o->p, name, (size_t)n, norms[i], o->err));
    }
    return check_count(o);
}

bal_status bal_part_open(bal_part *p, const char *path, const bal_text_config *c,
                         const bal_decoder_layer *source, const bal_recipe *recipe, int index,
                         bal_error *err)
{
    *p = (bal_part){0};
    const opener o = {p, c, source, recipe, index, err};
    BAL_TRY(bal_tensor_set_open(&p->set, path, err));
    const bal_status st = open_tensors(&o);
    if (st >= 0) return st;
    bal_part_close(p);
    return bal_fail_in(err, st, "%s", path);
}

void bal_part_close(bal_part *p)
{
    bal_tensor_set_close(&p->set);
    *p = (bal_part){0};
}
