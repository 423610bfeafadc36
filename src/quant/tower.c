/* SPDX-License-Identifier: MIT
 * Names come from the family's binding table, so a family that binds is a family that packs. */
#include "quant/tower.h"

#include "base/size.h"
#include "format/safetensors_write.h"
#include "model/family.h"
#include "quant/quantizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- The list ---------------------------------------------------------------------------------
 */

static bal_side side_of(const bal_model *m, int piece)
{
    const int layers = m->config.vision.layers;
    if (piece < layers) return BAL_SIDE_VISION;
    return piece == layers ? BAL_SIDE_PROJECTOR : BAL_SIDE_HEAD;
}

/* The field of a row in that piece, or NULL: not one of its linears. */
static bal_linear *field_of(bal_model *m, const bal_bind_row *r, int piece)
{
    const bal_side side = side_of(m, piece);
    if (r->kind != BAL_BIND_LINEAR) return NULL;
    if ((r->owner == BAL_OWNER_VISION) != (side == BAL_SIDE_VISION)) return NULL;
    if (side == BAL_SIDE_VISION)
        return (bal_linear *)(void *)((uint8_t *)&m->vision_layers[piece] + r->offset);
    if (r->owner != BAL_OWNER_MODEL) return NULL;
    bal_linear *l = (bal_linear *)(void *)((uint8_t *)m + r->offset);
    const bool projector = l >= m->projector && l < m->projector + 2;
    return (side == BAL_SIDE_HEAD ? l == &m->head : projector) ? l : NULL;
}

static bal_tower_linear *item_of(bal_tower *t, const bal_linear *l)
{
    for (size_t i = 0; i < t->n; i++)
        if (t->items[i].linear == l) return &t->items[i];
    return NULL;
}

const int bal_side_widths[BAL_SIDE_WIDTHS] = {4, 6, 8};

bal_status bal_tower_layout(const bal_tower *t, const bal_tower_linear *item, int bits,
                            bal_packed_layout *out, bal_error *err)
{
    return bal_packed_layout_init(out, bits, (size_t)item->linear->n, (size_t)item->linear->k,
                                  (size_t)t->group, err);
}

typedef struct lister {
    bal_tower *t;
    bal_model *m;
    const bal_recipe *recipe;
    bal_error *err;
} lister;

static bal_status add(const lister *w, const bal_bind_row *r, bal_linear *l, int piece)
{
    bal_tower *t = w->t;
    const bal_side side = side_of(w->m, piece);
    char name[BAL_PART_NAME];
    snprintf(name, sizeof name, r->name, piece);
    bal_tower_linear *item = item_of(t, l);
    if (!item) {
        item = &t->items[t->n++];
        const bal_act act = {.kind = side == BAL_SIDE_HEAD ? BAL_ACT_A16 : w->recipe->vision_act};
        *item = (bal_tower_linear){.linear = l, .piece = piece, .side = side, .act = act};
        const int bits = w->recipe->side[side];
        BAL_TRY(bal_tower_layout(t, item, bits == BAL_SIDE_AUTO ? bal_side_widths[0] : bits,
                                 &item->layout, w->err));
    }
    memcpy(r->part == BAL_PART_WHOLE ? item->name : item->fused, name, sizeof name);
    return BAL_OK;
}

/* Those of block `piece`, of the projector, or the head. */
static bal_status add_piece(const lister *w, int piece)
{
    const bal_family_def *f = bal_family_of(&w->m->config);
    const bool packs = w->recipe->side[side_of(w->m, piece)] != 0;
    for (size_t i = 0; packs && i < bal_n_text_rows + f->n_rows; i++) {
        const bal_bind_row *r =
            i < bal_n_text_rows ? &bal_text_rows[i] : &f->rows[i - bal_n_text_rows];
        bal_linear *l = field_of(w->m, r, piece);
        if (l && l->k) BAL_TRY(add(w, r, l, piece));
    }
    return BAL_OK;
}

/* Bits for what the model has not. */
static bal_status check_sides(const lister *w)
{
    for (int s = 0; s < BAL_SIDE_HEAD; s++) {
        char bits[16] = "auto";
        if (!w->recipe->side[s] || w->m->config.has_vision) continue;
        if (w->recipe->side[s] > 0) snprintf(bits, sizeof bits, "%d", w->recipe->side[s]);
        return bal_fail(w->err, BAL_E_ARG,
                        "recipe %s: %s=%s for a model without a vision tower; expected float",
                        w->recipe->name, bal_side_names[s], bits);
    }
    return BAL_OK;
}

static bal_status list(const lister *w)
{
    bal_tower *t = w->t;
    const size_t layers = (size_t)w->m->config.vision.layers;
    bool any = false;
    for (int s = 0; s < BAL_SIDES; s++) any = any || w->recipe->side[s];
    BAL_TRY(check_sides(w));
    if (!any) return BAL_OK;
    t->n_pieces = (int)layers + 2;
    t->group = w->recipe->group;
    t->pieces = calloc(layers + 2, sizeof *t->pieces);
    t->items = calloc(layers * BAL_VISION_LINEARS + 3, sizeof *t->items);
    if (!t->pieces || !t->items)
        return bal_nomem(w->err, layers * BAL_VISION_LINEARS * sizeof *t->items, "vision tower");
    for (int i = 0; i < t->n_pieces; i++) BAL_TRY(add_piece(w, i));
    for (size_t i = 0; i < t->n; i++)
        if (!t->items[i].name[0])
            return bal_fail(w->err, BAL_E_UNSUP,
                            "%s: a part of %s has no name of its own in family %s", w->m->path,
                            t->items[i].fused, bal_family_of(&w->m->config)->model_type);
    return BAL_OK;
}

bal_status bal_tower_list(bal_tower *t, bal_model *m, const bal_recipe *recipe, bal_error *err)
{
    *t = (bal_tower){0};
    const lister w = {t, m, recipe, err};
    const bal_status st = list(&w);
    if (st < 0) bal_tower_close(t);
    return st;
}

bool bal_tower_holds(const bal_tower *t, const char *name)
{
    for (size_t i = 0; i < t->n; i++)
        if (strcmp(t->items[i].name, name) == 0 || strcmp(t->items[i].fused, name) == 0)
            return true;
    return false;
}

void bal_tower_close(bal_tower *t)
{
    for (int i = 0; t->pieces && i < t->n_pieces; i++) bal_tensor_set_close(&t->pieces[i]);
    free(t->pieces);
    free(t->items);
    *t = (bal_tower){0};
}

/* ---- Packing ----------------------------------------------------------------------------------
 */

/* Symmetric around zero: where K leaves a last group of a few columns of one sign, a range from
 * minimum to maximum would not hold zero and saturate. */
bal_status bal_tower_round(const bal_exec *e, const bal_tower_linear *item, uint8_t **out,
                           bal_error *err)
{
    const bal_linear *l = item->linear;
    const bal_packed_layout *p = &item->layout;
    const bal_quantizer z = {.bits = p->bits, .group = (int)p->group, .grid = BAL_GRID_SYM};
    bal_quantized_linear q = {0};
    float *w = malloc(p->n * p->k * sizeof *w);
    *out = aligned_alloc(BAL_PACKED_ALIGN, p->n_bytes);
    bal_status st = w && *out ? bal_quantized_linear_create(&q, l->n, l->k, p->bits, z.group, err)
                              : bal_nomem(err, p->n * p->k * sizeof *w, "weights of a linear");
    for (int r = 0; st == BAL_OK && r < l->n; r++) bal_linear_row(l, r, w + (size_t)r * p->k);
    if (st == BAL_OK) {
        bal_quantize_matrix(e->pool, &z, w, &q);
        st = bal_pack(p, q.codes, q.scales, q.zeros, *out, err);
    }
    bal_quantized_linear_free(&q);
    free(w);
    return st;
}

typedef struct piece {
    bal_tower_linear *items; /* they stand one behind the other */
    size_t n;
    uint8_t *bytes[BAL_VISION_LINEARS];
} piece;

static piece piece_of(const bal_tower *t, int index)
{
    piece p = {.items = t->items};
    while (p.items < t->items + t->n && p.items->piece < index) p.items++;
    while (p.items + p.n < t->items + t->n && p.items[p.n].piece == index) p.n++;
    return p;
}

static bal_status write_piece(piece *p, const bal_exec *e, const char *path, bal_error *err)
{
    bal_tensor_view tensors[BAL_VISION_LINEARS] = {0};
    for (size_t i = 0; i < p->n; i++) {
        BAL_TRY(bal_tower_round(e, &p->items[i], &p->bytes[i], err));
        tensors[i] = (bal_tensor_view){.name = p->items[i].name,
                                       .dtype = BAL_ST_U8,
                                       .n_dims = 1,
                                       .shape = {p->items[i].layout.n_bytes},
                                       .data = p->bytes[i],
                                       .n_bytes = p->items[i].layout.n_bytes};
    }
    return bal_safetensors_write(path, tensors, p->n, NULL, 0, err);
}

bal_status bal_tower_view(const bal_tower_linear *item, const uint8_t *data, uint64_t n_bytes,
                          bal_error *err)
{
    bal_packed_view view;
    BAL_TRY(bal_packed_view_init(&view, &item->layout, data, (size_t)n_bytes, err));
    BAL_TRY(bal_type_from_bits(&item->linear->type, item->layout.bits, err));
    item->linear->packed = view;
    item->linear->act = item->act;
    item->linear->w = NULL;
    return BAL_OK;
}

/* The linears become views of the file that was just written. */
static bal_status open_piece(const piece *p, bal_tensor_set *set, const char *path, bal_error *err)
{
    BAL_TRY(bal_tensor_set_open(set, path, err));
    for (size_t i = 0; i < p->n; i++) {
        const bal_tower_linear *item = &p->items[i];
        const bal_tensor_view *t = bal_tensor_find(set, item->name);
        if (!t) return bal_fail(err, BAL_E_FORMAT, "%s: tensor %s is missing", path, item->name);
        BAL_TRY(bal_tower_view(item, t->data, t->n_bytes, err));
    }
    return BAL_OK;
}

static bal_status do_piece(bal_tower *t, int index, const bal_exec *e, const bal_workspace *space,
                           bal_error *err)
{
    char name[64], path[1200];
    piece p = piece_of(t, index);
    if (p.n == 0) return BAL_OK;
    snprintf(name, sizeof name, "tower_%03d.safetensors", index);
    BAL_TRY(bal_workspace_path(space, path, sizeof path, name, err));
    bal_status st = BAL_OK;
    if (bal_rank_is_first(space->rank)) st = write_piece(&p, e, path, err);
    st = bal_rank_agree(space->rank, st, err);
    if (st == BAL_OK) st = open_piece(&p, &t->pieces[index], path, err);
    for (size_t i = 0; i < p.n; i++) free(p.bytes[i]);
    return st;
}

bal_status bal_tower_pack(bal_tower *t, const bal_exec *e, const bal_workspace *space,
                          bal_step_fn *step, void *step_ctx, bal_error *err)
{
    const int front = t->n_pieces - 1;
    if (!t->n || t->items[0].side == BAL_SIDE_HEAD) return BAL_OK;
    for (int i = 0; i < front; i++) {
        BAL_TRY(do_piece(t, i, e, space, err));
        if (step && step(step_ctx, "tower", (long)i + 1, (long)front))
            return bal_fail(err, BAL_E_CANCELLED, "cancelled while packing the vision tower");
    }
    return BAL_OK;
}

bal_status bal_tower_pack_head(bal_tower *t, const bal_exec *e, const bal_workspace *space,
                               bal_error *err)
{
    return t->n ? do_piece(t, t->n_pieces - 1, e, space, err) : BAL_OK;
}
