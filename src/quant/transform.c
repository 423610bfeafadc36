/* SPDX-License-Identifier: MIT
 * One file a block and one a table; names come from the binding tables, so a family that binds is a
 * family that rotates. Rows are turned in double and rounded once. */
#include "quant/transform.h"

#include "base/half.h"
#include "base/size.h"
#include "format/safetensors_write.h"
#include "model/family.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    COLUMNS = 16, /* of a weight that one lane turns at a time */
    MOST = 2 * BAL_DECODER_LINEARS,
    PATH_SIZE = 1200
};

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

static bal_status list(bal_transform *t, const bal_recipe *recipe, uint64_t seed, bal_error *err)
{
    const bal_text_config *c = &t->model->config.text;
    const bal_status st = bal_rotation_create(&t->rotation, c->hidden, seed, err);
    if (st < 0) return bal_fail_in(err, st, "recipe %s, rotate=residual", recipe->name);
    t->n_pieces = c->layers + BAL_TRANSFORM_TENSORS;
    t->pieces = calloc((size_t)t->n_pieces, sizeof *t->pieces);
    t->ones = malloc((size_t)c->hidden * sizeof *t->ones);
    if (!t->pieces || !t->ones)
        return bal_nomem(err, (size_t)t->n_pieces * sizeof *t->pieces, "rotated weights");
    for (int i = 0; i < c->hidden; i++) t->ones[i] = 1.0f;
    list_tensors(t);
    return BAL_OK;
}

bal_status bal_transform_list(bal_transform *t, bal_model *m, const bal_recipe *recipe,
                              uint64_t seed, bal_error *err)
{
    *t = (bal_transform){.model = m, .seed = seed};
    if (recipe->rotate == BAL_ROTATE_NONE) return BAL_OK;
    const bal_status st = list(t, recipe, seed, err);
    if (st < 0) bal_transform_close(t);
    return st;
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
    if (!t->rotation.n) return 0;
    for (size_t i = 0; i < t->n_tensors; i++) n += t->tensors[i].n_bytes;
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        int rows, k;
        bal_part_linear_size(&t->model->config.text, i, &rows, &k);
        weights += (uint64_t)rows * (uint64_t)k;
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

/* The rotated weight, malloc'ed [n][k]: behind the stream with `reads`, else in front of it. */
static bal_status turn_linear(const bal_transform *t, const bal_exec *e, const bal_linear *from,
                              bool reads, const float *gain, float **out, bal_error *err)
{
    const size_t n = (size_t)from->n, k = (size_t)from->k, lanes = (size_t)bal_pool_size(e->pool);
    const size_t scratch = lanes * (COLUMNS + 1) * (size_t)t->rotation.n;
    turn j = {&t->rotation, from, gain, NULL, malloc(scratch * sizeof *j.scratch)};
    *out = j.w = malloc(n * k * sizeof *j.w);
    const bool room = j.scratch && j.w;
    if (room && reads) bal_pool_run(e->pool, turn_rows, &j, n, 8);
    if (room && !reads) {
        bal_pool_run(e->pool, widen_rows, &j, n, 8);
        bal_pool_run(e->pool, turn_columns, &j, bal_ceil_div(k, COLUMNS), 1);
    }
    free(j.scratch);
    return room ? BAL_OK : bal_nomem(err, n * k * sizeof(float), "a rotated weight");
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

static bal_status write_piece(bal_transform *t, const bal_workspace *space, const piece *p,
                              int index, bal_error *err)
{
    char name[64], path[PATH_SIZE];
    snprintf(name, sizeof name, "rotated_%03d.safetensors", index);
    BAL_TRY(bal_workspace_path(space, path, sizeof path, name, err));
    bal_status st = BAL_OK;
    if (bal_rank_is_first(space->rank))
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

/* Which linears write to the stream, and the norm in front of the others. */
static bool writes(int linear)
{
    return linear == 3 || linear == 6; /* o, down */
}

static const float *gain_of(const bal_decoder_layer *l, int linear)
{
    if (writes(linear)) return NULL;
    return linear < 3 ? l->attn_norm : l->mlp_norm;
}

static bal_status turn_block(const bal_transform *t, const bal_exec *e, int index, piece *p,
                             bal_error *err)
{
    bal_decoder_layer *l = &t->model->layers[index];
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_linear *from = bal_decoder_linear(l, i);
        float *w = NULL, *bias = NULL;
        const bal_status st = turn_linear(t, e, from, !writes(i), gain_of(l, i), &w, err);
        bal_decoder_tensor_name(keep(p, w, BAL_ST_F32, (size_t)from->n * (size_t)from->k),
                                BAL_PART_NAME, index, i);
        BAL_TRY(st);
        if (!writes(i) || !from->bias) continue;
        const bal_status turned = turn_vector(t, from->bias, &bias, err);
        bal_part_bias_name(keep(p, bias, BAL_ST_F32, (size_t)from->n), index, i);
        BAL_TRY(turned);
    }
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
        bal_decoder_tensor_name(name, sizeof name, index, i);
        BAL_TRY(view_of(t, index, name, &data, err));
        to->type = BAL_TYPE_F32;
        to->w = data;
        if (!writes(i) || !to->bias) continue;
        bal_part_bias_name(name, index, i);
        BAL_TRY(view_of(t, index, name, &data, err));
        to->bias = (const float *)(const void *)data;
    }
    l->attn_norm = l->mlp_norm = t->ones;
    return BAL_OK;
}

static bal_status do_block(bal_transform *t, const bal_exec *e, const bal_workspace *space,
                           int index, bal_error *err)
{
    piece p = {0};
    bal_status st = turn_block(t, e, index, &p, err);
    if (st == BAL_OK) st = write_piece(t, space, &p, index, err);
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

/* Writes tensor `which` of the list, its values being `w`, which is taken over. */
static bal_status finish(bal_transform *t, const bal_workspace *space, size_t which, float *w,
                         bal_error *err)
{
    bal_tensor_view *v = &t->tensors[which];
    const int index = t->model->config.text.layers + (int)which;
    uint64_t count = 0;
    piece p = {0};
    bal_st_count(v->shape, v->n_dims, &count);
    bal_status st = narrow(w, (size_t)count, v->dtype, v->name, err);
    snprintf(keep(&p, w, v->dtype, (size_t)count), BAL_PART_NAME, "%s", v->name);
    if (st == BAL_OK) st = write_piece(t, space, &p, index, err);
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
    const bal_status st = turn_linear(t, e, field, reads, gain, &w, err);
    if (st < 0) {
        free(w);
        return st;
    }
    BAL_TRY(finish(t, space, which, w, err));
    field->w = t->tensors[which].data;
    field->type = t->tensors[which].dtype == BAL_ST_F32 ? BAL_TYPE_F32 : BAL_TYPE_F16;
    return BAL_OK;
}

static bal_status do_vector(bal_transform *t, const bal_workspace *space, size_t which,
                            const float **field, bal_error *err)
{
    float *w = NULL;
    const bal_status st = turn_vector(t, *field, &w, err);
    if (st < 0) {
        free(w);
        return st;
    }
    BAL_TRY(finish(t, space, which, w, err));
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
    const int layers = t->rotation.n ? t->model->config.text.layers : 0;
    for (size_t i = 0; i < t->n_tensors; i++) BAL_TRY(do_tensor(t, e, space, i, err));
    if (layers) t->model->final_norm = t->ones;
    for (int i = 0; i < layers; i++) {
        BAL_TRY(do_block(t, e, space, i, err));
        if (step && step(step_ctx, "rotation", i + 1, layers))
            return bal_fail(err, BAL_E_CANCELLED, "cancelled while rotating weights");
    }
    return BAL_OK;
}
