/* SPDX-License-Identifier: MIT
 * One file a block and one a table; names come from the binding tables, so a family that binds is a
 * family that rotates. Rows are turned in double and rounded once; mixed inputs go through the
 * engine's own kernel, which is its own inverse up to rounding. */
#include "quant/transform.h"

#include "base/half.h"
#include "base/rng.h"
#include "base/size.h"
#include "format/safetensors_write.h"
#include "model/family.h"
#include "quant/fold.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    COLUMNS = 16, /* of a weight that one lane turns at a time */
    MOST = 2 * BAL_DECODER_LINEARS,
    PATH_SIZE = 1200
};

/* ---- Which linears ----------------------------------------------------------------------------
 */

/* Those that write to the stream; the others read it. */
static bool writes(int linear)
{
    return linear == BAL_LINEAR_O || linear == BAL_LINEAR_DOWN;
}

/* Those whose inputs are mixed, and those that make such inputs. */
static bool is_mixed(const bal_transform *t, int linear)
{
    if (linear == BAL_LINEAR_DOWN) return t->mixing != BAL_MIXING_NONE;
    return linear == BAL_LINEAR_O && t->mixing == BAL_MIXING_ALL;
}

static bool feeds_mixed(const bal_transform *t, int linear)
{
    if (linear == BAL_LINEAR_UP) return is_mixed(t, BAL_LINEAR_DOWN);
    return linear == BAL_LINEAR_V && is_mixed(t, BAL_LINEAR_O);
}

static bool changes(const bal_transform *t, int linear)
{
    return t->rotation.n || is_mixed(t, linear) || feeds_mixed(t, linear);
}

/* ---- The list ---------------------------------------------------------------------------------
 */

/* Name of the row that binds this field of the model, or NULL. */
static const char *name_of(const bal_model *m, bal_bind_kind kind, const void *field)
{
    const bal_family_def *f = bal_family_of(&m->config);
    const size_t offset = (size_t)((const uint8_t *)field - (const uint8_t *)m);
    for (size_t i = 0; i < bal_n_text_rows + f->n_rows; i++) {
        const bal_bind_row *r =
            i < bal_n_text_rows ? &bal_text_rows[i] : &f->rows[i - bal_n_text_rows];
        if (r->owner == BAL_OWNER_MODEL && r->kind == kind && r->offset == offset) return r->name;
    }
    return NULL;
}

static void add(bal_transform *t, bal_bind_kind kind, const void *field, bal_st_dtype dtype, int n,
                int k)
{
    bal_tensor_view *v = &t->tensors[t->n_tensors];
    uint64_t count = 0;
    *v = (bal_tensor_view){.name = name_of(t->model, kind, field),
                           .dtype = dtype,
                           .n_dims = k ? 2 : 1,
                           .shape = {(uint64_t)n, (uint64_t)k}};
    if (!v->name) return;
    bal_st_count(v->shape, v->n_dims, &count);
    bal_st_bytes(dtype, count, &v->n_bytes);
    t->n_tensors++;
}

static bal_linear *projector_of(bal_model *m)
{
    if (!m->config.has_vision) return NULL;
    return &m->projector[m->projector[1].k ? 1 : 0];
}

static void add_linear(bal_transform *t, const bal_linear *field, bal_type like)
{
    const bal_text_config *c = &t->model->config.text;
    const bool table = field == &t->model->embed || field == &t->model->head;
    add(t, BAL_BIND_LINEAR, field, like == BAL_TYPE_F32 ? BAL_ST_F32 : BAL_ST_F16,
        table ? c->vocab : field->n, table ? c->hidden : field->k);
}

static void list_tensors(bal_transform *t)
{
    bal_model *m = t->model;
    const bal_linear *last = projector_of(m);
    const int hidden = m->config.text.hidden;
    add_linear(t, &m->embed, m->embed.type);
    add_linear(t, &m->head, m->head.type);
    add(t, BAL_BIND_VECTOR, &m->final_norm, BAL_ST_F32, hidden, 0);
    if (last) add_linear(t, last, last->type);
    if (last && last->bias) add(t, BAL_BIND_BIAS, last, BAL_ST_F32, hidden, 0);
    if (m->newline) add(t, BAL_BIND_VECTOR, &m->newline, BAL_ST_F32, hidden, 0);
}

static bal_status check_mixing(const bal_transform *t, const bal_recipe *recipe, bal_error *err)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        int n, k;
        bal_part_linear_size(&t->model->config.text, i, &n, &k);
        if (!is_mixed(t, i) || bal_hadamard_block(k)) continue;
        return bal_fail(err, BAL_E_UNSUP,
                        "recipe %s, hadamard: %s has %d inputs, which is no multiple of %d",
                        recipe->name, bal_decoder_linear_name(i), k, BAL_HADAMARD_LEAST);
    }
    return BAL_OK;
}

static bal_status list_rotation(bal_transform *t, const bal_recipe *recipe, bal_error *err)
{
    const int hidden = t->model->config.text.hidden;
    if (recipe->rotate == BAL_ROTATE_NONE) return BAL_OK;
    const bal_status st = bal_rotation_create(&t->rotation, hidden, t->seed, err);
    if (st < 0) return bal_fail_in(err, st, "recipe %s, rotate=residual", recipe->name);
    t->ones = malloc((size_t)hidden * sizeof *t->ones);
    if (!t->ones) return bal_nomem(err, (size_t)hidden * sizeof *t->ones, "gains of norms");
    for (int i = 0; i < hidden; i++) t->ones[i] = 1.0f;
    list_tensors(t);
    return BAL_OK;
}

static bal_status list(bal_transform *t, const bal_recipe *recipe, bal_error *err)
{
    BAL_TRY(check_mixing(t, recipe, err));
    BAL_TRY(list_rotation(t, recipe, err));
    if (!bal_transform_any(t)) return BAL_OK;
    t->n_pieces = t->model->config.text.layers + BAL_TRANSFORM_TENSORS;
    t->pieces = calloc((size_t)t->n_pieces, sizeof *t->pieces);
    return t->pieces ? BAL_OK
                     : bal_nomem(err, (size_t)t->n_pieces * sizeof *t->pieces, "changed weights");
}

bal_status bal_transform_list(bal_transform *t, bal_model *m, const bal_recipe *recipe,
                              uint64_t seed, bal_error *err)
{
    *t = (bal_transform){.model = m, .mixing = recipe->hadamard, .seed = seed};
    const bal_status st = list(t, recipe, err);
    if (st < 0) bal_transform_close(t);
    return st;
}

bool bal_transform_any(const bal_transform *t)
{
    return t->rotation.n || t->mixing != BAL_MIXING_NONE;
}

int bal_transform_block(const bal_transform *t, int linear)
{
    int n, k;
    if (!is_mixed(t, linear)) return 0;
    bal_part_linear_size(&t->model->config.text, linear, &n, &k);
    return bal_hadamard_block(k);
}

const bal_tensor_view *bal_transform_find(const bal_transform *t, const char *name)
{
    for (size_t i = 0; i < t->n_tensors; i++)
        if (strcmp(t->tensors[i].name, name) == 0) return &t->tensors[i];
    return NULL;
}

uint64_t bal_transform_bytes(const bal_transform *t)
{
    uint64_t n = 0, weights = 0;
    if (!bal_transform_any(t)) return 0;
    for (size_t i = 0; i < t->n_tensors; i++) n += t->tensors[i].n_bytes;
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        int rows, k;
        bal_part_linear_size(&t->model->config.text, i, &rows, &k);
        if (changes(t, i)) weights += (uint64_t)rows * (uint64_t)k;
    }
    return n + weights * (uint64_t)t->model->config.text.layers * sizeof(float);
}

void bal_transform_close(bal_transform *t)
{
    for (int i = 0; t->pieces && i < t->n_pieces; i++) bal_tensor_set_close(&t->pieces[i]);
    bal_rotation_destroy(&t->rotation);
    free(t->pieces);
    free(t->ones);
    *t = (bal_transform){0};
}

/* ---- Turning ----------------------------------------------------------------------------------
 */

typedef struct turn {
    const bal_rotation *q;
    const bal_linear *from;
    const float *gain; /* [k] of the norm in front, or NULL */
    float *w;          /* [n][k] */
    double *scratch;   /* [lanes][(COLUMNS + 1) n of q] */
} turn;

static double *lane_of(const turn *j, int lane)
{
    return j->scratch + (size_t)lane * (COLUMNS + 1) * (size_t)j->q->n;
}

/* Rows w := w diag(gain) Q, for linears that read the stream. */
static void turn_rows(void *ctx, size_t begin, size_t end, int lane)
{
    const turn *j = ctx;
    const size_t k = (size_t)j->from->k;
    double *x = lane_of(j, lane);
    for (size_t r = begin; r < end; r++) {
        float *w = j->w + r * k;
        bal_linear_row(j->from, (int)r, w);
        for (size_t c = 0; c < k; c++) x[c] = (double)w[c] * (j->gain ? (double)j->gain[c] : 1.0);
        bal_rotation_row(j->q, x, x + k);
        for (size_t c = 0; c < k; c++) w[c] = (float)x[c];
    }
}

static void widen_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const turn *j = ctx;
    for (size_t r = begin; r < end; r++)
        bal_linear_row(j->from, (int)r, j->w + r * (size_t)j->from->k);
}

/* Columns w := Q^T w, for linears that write to the stream. */
static void turn_columns(void *ctx, size_t begin, size_t end, int lane)
{
    const turn *j = ctx;
    const size_t n = (size_t)j->from->n, k = (size_t)j->from->k;
    double *x = lane_of(j, lane);
    for (size_t tile = begin; tile < end; tile++) {
        const size_t c0 = tile * COLUMNS, cols = bal_min(COLUMNS, k - c0);
        for (size_t r = 0; r < n; r++)
            for (size_t c = 0; c < cols; c++) x[c * n + r] = (double)j->w[r * k + c0 + c];
        for (size_t c = 0; c < cols; c++) bal_rotation_row(j->q, x + c * n, x + COLUMNS * n);
        for (size_t r = 0; r < n; r++)
            for (size_t c = 0; c < cols; c++) j->w[r * k + c0 + c] = (float)x[c * n + r];
    }
}

/* A weight as f32, malloc'ed [n][k]; rotated, if there is a rotation: behind the stream with
 * `reads`, else in front of it. */
static bal_status turn_linear(const bal_transform *t, const bal_exec *e, const bal_linear *from,
                              bool reads, const float *gain, float **out, bal_error *err)
{
    const size_t n = (size_t)from->n, k = (size_t)from->k, lanes = (size_t)bal_pool_size(e->pool);
    const size_t scratch = lanes * (COLUMNS + 1) * (size_t)t->rotation.n;
    turn j = {&t->rotation, from, gain, NULL, malloc(scratch * sizeof *j.scratch + 1)};
    *out = j.w = malloc(n * k * sizeof *j.w);
    const bool room = j.scratch && j.w, turns = t->rotation.n > 0;
    if (room) bal_pool_run(e->pool, turns && reads ? turn_rows : widen_rows, &j, n, 8);
    if (room && turns && !reads)
        bal_pool_run(e->pool, turn_columns, &j, bal_ceil_div(k, COLUMNS), 1);
    free(j.scratch);
    return room ? BAL_OK : bal_nomem(err, n * k * sizeof(float), "a changed weight");
}

/* v [hidden] that is added to the stream, malloc'ed. */
static bal_status turn_vector(const bal_transform *t, const float *v, float **out, bal_error *err)
{
    const size_t n = (size_t)t->rotation.n;
    double *x = malloc(2 * n * sizeof *x);
    *out = malloc(n * sizeof **out);
    const bool room = x && *out;
    for (size_t i = 0; room && i < n; i++) x[i] = (double)v[i];
    if (room) bal_rotation_row(&t->rotation, x, x + n);
    for (size_t i = 0; room && i < n; i++) (*out)[i] = (float)x[i];
    free(x);
    return room ? BAL_OK : bal_nomem(err, 3 * n * sizeof *x, "a rotated vector");
}

/* ---- Mixing -----------------------------------------------------------------------------------
 */

/* The sign of value i of an input that is mixed; all heads that share a value share its sign. */
typedef struct signs {
    float *of;     /* [width of what makes the input] */
    size_t repeat; /* heads that share a value */
    size_t dim;    /* of a head; the whole where nothing is shared */
} signs;

static size_t source_of(const signs *s, size_t input)
{
    return input / (s->dim * s->repeat) * s->dim + input % s->dim;
}

/* Of the input that linear `mixed` (o or down) of a block reads. */
static bal_status signs_create(signs *s, const bal_transform *t, int index, int mixed,
                               bal_error *err)
{
    const bal_text_config *c = &t->model->config.text;
    const bool heads = mixed == BAL_LINEAR_O;
    const size_t n = heads ? (size_t)c->kv_heads * (size_t)c->head_dim : (size_t)c->intermediate;
    bal_rng rng;
    *s = (signs){malloc(n * sizeof *s->of), heads ? (size_t)(c->heads / c->kv_heads) : 1,
                 heads ? (size_t)c->head_dim : n};
    if (!s->of) return bal_nomem(err, n * sizeof *s->of, "signs");
    bal_rng_seed(&rng, t->seed + 1 + 2 * (uint64_t)index + heads);
    for (size_t i = 0; i < n; i++) s->of[i] = bal_rng_below(&rng, 2) ? -1.0f : 1.0f;
    return BAL_OK;
}

/* Rows of what makes the input, and its bias if there is one: times the signs. */
static void sign_rows(const signs *s, float *w, size_t n, size_t k)
{
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < k; c++) w[r * k + c] *= s->of[r];
}

typedef struct mix_job {
    const bal_exec *e;
    const signs *s;
    float *w;
    size_t k, block;
} mix_job;

static void mix_rows(void *ctx, size_t begin, size_t end, int lane)
{
    (void)lane;
    const mix_job *j = ctx;
    for (size_t r = begin; r < end; r++) {
        float *w = j->w + r * j->k;
        for (size_t c = 0; c < j->k; c++) w[c] *= j->s->of[source_of(j->s, c)];
        j->e->kernels->hadamard(w, j->k, j->block);
    }
}

/* What the basis of its inputs makes of linear i: w [n][k] in place, bias [n] or NULL. */
static bal_status mix_linear(const bal_transform *t, const bal_exec *e, int index, int i, float *w,
                             float *bias, bal_error *err)
{
    const bal_linear *l = bal_decoder_linear(&t->model->layers[index], i);
    const size_t n = (size_t)l->n, k = (size_t)l->k;
    signs s;
    if (!is_mixed(t, i) && !feeds_mixed(t, i)) return BAL_OK;
    const bool attention = i == BAL_LINEAR_V || i == BAL_LINEAR_O;
    BAL_TRY(signs_create(&s, t, index, attention ? BAL_LINEAR_O : BAL_LINEAR_DOWN, err));
    mix_job j = {e, &s, w, k, (size_t)bal_transform_block(t, i)};
    if (is_mixed(t, i))
        bal_pool_run(e->pool, mix_rows, &j, n, 8);
    else
        sign_rows(&s, w, n, k);
    if (bias && feeds_mixed(t, i)) sign_rows(&s, bias, n, 1);
    free(s.of);
    return BAL_OK;
}

/* ---- Files ------------------------------------------------------------------------------------
 */

typedef struct piece {
    bal_tensor_view tensors[MOST];
    char names[MOST][BAL_PART_NAME];
    void *data[MOST];
    size_t n;
} piece;

static void free_piece(piece *p)
{
    for (size_t i = 0; i < p->n; i++) free(p->data[i]);
    *p = (piece){0};
}

/* Takes `data` over. */
static char *keep(piece *p, void *data, bal_st_dtype dtype, size_t n)
{
    bal_tensor_view *v = &p->tensors[p->n];
    p->data[p->n] = data;
    *v = (bal_tensor_view){
        .name = p->names[p->n], .dtype = dtype, .n_dims = 1, .shape = {n}, .data = data};
    bal_st_bytes(dtype, n, &v->n_bytes);
    return p->names[p->n++];
}

/* The first rank writes what it has made, and all open it; st: what came of the making. */
static bal_status share_piece(bal_transform *t, const bal_workspace *space, const piece *p,
                              int index, bal_status st, bal_error *err)
{
    char name[64], path[PATH_SIZE];
    snprintf(name, sizeof name, "rotated_%03d.safetensors", index);
    if (st == BAL_OK) st = bal_workspace_path(space, path, sizeof path, name, err);
    if (st == BAL_OK && bal_rank_is_first(space->rank))
        st = bal_safetensors_write(path, p->tensors, p->n, NULL, 0, err);
    BAL_TRY(bal_rank_agree(space->rank, st, err));
    return bal_tensor_set_open(&t->pieces[index], path, err);
}

static bal_status view_of(const bal_transform *t, int index, const char *name, const uint8_t **data,
                          bal_error *err)
{
    const bal_tensor_view *v;
    BAL_TRY(bal_tensor_get(&t->pieces[index], name, &v, err));
    *data = v->data;
    return BAL_OK;
}

/* ---- Blocks -----------------------------------------------------------------------------------
 */

static const float *gain_of(const bal_decoder_layer *l, int linear)
{
    if (writes(linear)) return NULL;
    return linear <= BAL_LINEAR_V ? l->attn_norm : l->mlp_norm;
}

/* The bias of a linear in the new basis, malloc'ed; NULL where it stays as it is. */
static bal_status turn_bias(const bal_transform *t, const bal_linear *l, int linear, float **out,
                            bal_error *err)
{
    const size_t n_bytes = (size_t)l->n * sizeof(float);
    *out = NULL;
    if (!l->bias) return BAL_OK;
    if (t->rotation.n && writes(linear)) return turn_vector(t, l->bias, out, err);
    if (!feeds_mixed(t, linear)) return BAL_OK;
    *out = malloc(n_bytes);
    if (!*out) return bal_nomem(err, n_bytes, "a bias");
    memcpy(*out, l->bias, n_bytes);
    return BAL_OK;
}

static bal_status turn_block_linear(const bal_transform *t, const bal_exec *e, int index, int i,
                                    piece *p, bal_error *err)
{
    const bal_decoder_layer *l = &t->model->layers[index];
    const bal_linear *from = bal_layer_linear(l, i);
    float *w = NULL, *bias = NULL;
    bal_status st = turn_linear(t, e, from, !writes(i), gain_of(l, i), &w, err);
    bal_decoder_tensor_name(keep(p, w, BAL_ST_F32, (size_t)from->n * (size_t)from->k),
                            BAL_PART_NAME, index, i);
    if (st == BAL_OK) st = turn_bias(t, from, i, &bias, err);
    if (bias) bal_part_bias_name(keep(p, bias, BAL_ST_F32, (size_t)from->n), index, i);
    return st == BAL_OK ? mix_linear(t, e, index, i, w, bias, err) : st;
}

static bal_status turn_block(const bal_transform *t, const bal_exec *e, int index, piece *p,
                             bal_error *err)
{
    for (int i = 0; i < BAL_DECODER_LINEARS; i++)
        if (changes(t, i)) BAL_TRY(turn_block_linear(t, e, index, i, p, err));
    return BAL_OK;
}

/* The block's fields become views of its file. */
static bal_status view_block(const bal_transform *t, int index, bal_error *err)
{
    bal_decoder_layer *l = &t->model->layers[index];
    char name[BAL_PART_NAME];
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        bal_linear *to = bal_decoder_linear(l, i);
        const uint8_t *data;
        if (!changes(t, i)) continue;
        bal_decoder_tensor_name(name, sizeof name, index, i);
        BAL_TRY(view_of(t, index, name, &data, err));
        to->type = BAL_TYPE_F32;
        to->w = data;
        to->hadamard = bal_transform_block(t, i);
        bal_part_bias_name(name, index, i);
        const bal_tensor_view *bias = bal_tensor_find(&t->pieces[index], name);
        if (bias) to->bias = (const float *)(const void *)bias->data;
    }
    if (t->rotation.n) l->attn_norm = l->mlp_norm = t->ones;
    return BAL_OK;
}

static bal_status do_block(bal_transform *t, const bal_exec *e, const bal_workspace *space,
                           int index, bal_error *err)
{
    piece p = {0};
    bal_status st = BAL_OK;
    if (bal_rank_is_first(space->rank)) st = turn_block(t, e, index, &p, err);
    st = share_piece(t, space, &p, index, st, err);
    if (st == BAL_OK) st = view_block(t, index, err);
    free_piece(&p);
    return st;
}

/* ---- Tables and vectors -----------------------------------------------------------------------
 */

/* w [count] as `dtype`, in place; w stays malloc'ed. */
static bal_status narrow(float *w, size_t count, bal_st_dtype dtype, const char *name,
                         bal_error *err)
{
    for (size_t i = 0; dtype == BAL_ST_F16 && i < count; i++) {
        if (fabsf(w[i]) > 65504.0f)
            return bal_fail(err, BAL_E_NUMERIC, "tensor %s, rotated: %g at %zu is beyond 16 bits",
                            name, (double)w[i], i);
        const uint16_t h = bal_f32_to_f16(w[i]);
        memcpy((uint8_t *)w + 2 * i, &h, sizeof h);
    }
    return BAL_OK;
}

/* Shares tensor `which` of the list, its values being `w`, which is taken over; of the first rank
 * only. st: what came of making them. */
static bal_status finish(bal_transform *t, const bal_workspace *space, size_t which, float *w,
                         bal_status st, bal_error *err)
{
    bal_tensor_view *v = &t->tensors[which];
    const int index = t->model->config.text.layers + (int)which;
    uint64_t count = 0;
    piece p = {0};
    bal_st_count(v->shape, v->n_dims, &count);
    if (st == BAL_OK && w) st = narrow(w, (size_t)count, v->dtype, v->name, err);
    snprintf(keep(&p, w, v->dtype, (size_t)count), BAL_PART_NAME, "%s", v->name);
    st = share_piece(t, space, &p, index, st, err);
    if (st == BAL_OK) st = view_of(t, index, v->name, &v->data, err);
    free_piece(&p);
    return st;
}

static bool is(const bal_tensor_view *v, const bal_model *m, bal_bind_kind kind, const void *field)
{
    const char *name = name_of(m, kind, field);
    return name && strcmp(v->name, name) == 0;
}

static bal_status do_linear(bal_transform *t, const bal_exec *e, const bal_workspace *space,
                            size_t which, bal_linear *field, bool reads, const float *gain,
                            bal_error *err)
{
    float *w = NULL;
    bal_status st = BAL_OK;
    if (bal_rank_is_first(space->rank)) st = turn_linear(t, e, field, reads, gain, &w, err);
    BAL_TRY(finish(t, space, which, w, st, err));
    field->w = t->tensors[which].data;
    field->type = t->tensors[which].dtype == BAL_ST_F32 ? BAL_TYPE_F32 : BAL_TYPE_F16;
    return BAL_OK;
}

static bal_status do_vector(bal_transform *t, const bal_workspace *space, size_t which,
                            const float **field, bal_error *err)
{
    float *w = NULL;
    bal_status st = BAL_OK;
    if (bal_rank_is_first(space->rank)) st = turn_vector(t, *field, &w, err);
    BAL_TRY(finish(t, space, which, w, st, err));
    *field = (const float *)(const void *)t->tensors[which].data;
    return BAL_OK;
}

static bal_status do_tensor(bal_transform *t, const bal_exec *e, const bal_workspace *space,
                            size_t which, bal_error *err)
{
    bal_model *m = t->model;
    bal_tensor_view *v = &t->tensors[which];
    bal_linear *last = projector_of(m);
    if (is(v, m, BAL_BIND_LINEAR, &m->embed))
        return do_linear(t, e, space, which, &m->embed, true, NULL, err);
    if (is(v, m, BAL_BIND_LINEAR, &m->head))
        return do_linear(t, e, space, which, &m->head, true, m->final_norm, err);
    if (is(v, m, BAL_BIND_VECTOR, &m->newline)) return do_vector(t, space, which, &m->newline, err);
    if (last && is(v, m, BAL_BIND_LINEAR, last))
        return do_linear(t, e, space, which, last, false, NULL, err);
    if (last && is(v, m, BAL_BIND_BIAS, last)) return do_vector(t, space, which, &last->bias, err);
    v->data = (const uint8_t *)t->ones; /* the last norm */
    return BAL_OK;
}

bal_status bal_transform_apply(bal_transform *t, const bal_exec *e, const bal_workspace *space,
                               bal_step_fn *step, void *step_ctx, bal_error *err)
{
    const int layers = bal_transform_any(t) ? t->model->config.text.layers : 0;
    for (size_t i = 0; i < t->n_tensors; i++) BAL_TRY(do_tensor(t, e, space, i, err));
    if (t->rotation.n) t->model->final_norm = t->ones;
    for (int i = 0; i < layers; i++) {
        BAL_TRY(do_block(t, e, space, i, err));
        if (step && step(step_ctx, "rotation", i + 1, layers))
            return bal_fail(err, BAL_E_CANCELLED, "cancelled while rotating weights");
    }
    return BAL_OK;
}
