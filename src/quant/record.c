/* SPDX-License-Identifier: MIT
 * Records to JSON and back. What is not finite becomes null on the way out; on the way in
 * everything is checked, since the files lie where others can write. */
#include "quant/record.h"

#include "base/file.h"
#include "format/json.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

const char *const bal_modality_names[BAL_MODALITIES] = {"prompt", "answer", "vision"};
const char *const bal_sub_names[BAL_SUBS] = {"attn", "mlp"};
const char *const bal_group_names[BAL_GROUPS] = {"qkv", "o", "gate_up", "down"};

/* ---- To JSON --------------------------------------------------------------------------------- */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *by_modality(const double v[BAL_MODALITIES])
{
    json_t *o = json_object();
    for (int i = 0; i < BAL_MODALITIES; i++)
        if (json_object_set_new(o, bal_modality_names[i], number(v[i])) < 0) {
            json_decref(o);
            return NULL;
        }
    return o;
}

static json_t *cell_json(const bal_sensitivity_cell *c)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "g1", by_modality(c->g1), "g2", by_modality(c->g2),
                     "ratio", number(c->ratio), "weight", number(c->weight));
}

json_t *bal_record_sensitivity(const bal_sensitivity *s)
{
    json_t *layers = json_array();
    for (int i = 0; i < s->layers; i++) {
        json_t *layer = json_object();
        for (int sub = 0; sub < BAL_SUBS; sub++)
            json_object_set_new(layer, bal_sub_names[sub], cell_json(&s->cell[i][sub]));
        json_array_append_new(layers, layer);
    }
    return json_pack("{s:o, s:o}", "loss", number(s->loss), "layers", layers);
}

static json_t *error_json(const bal_sub_error *e)
{
    return json_pack("{s:o, s:o, s:o}", "mse", by_modality(e->mse), "mae", by_modality(e->mae),
                     "ref_ms", by_modality(e->ref_ms));
}

static json_t *errors_json(const bal_sub_error e[BAL_SUBS])
{
    json_t *o = json_object();
    for (int sub = 0; sub < BAL_SUBS; sub++)
        json_object_set_new(o, bal_sub_names[sub], error_json(&e[sub]));
    return o;
}

/* null for a modality without rows */
static json_t *measured(const bal_input_log *in, const double v[BAL_MODALITIES])
{
    double shown[BAL_MODALITIES];
    for (int i = 0; i < BAL_MODALITIES; i++) shown[i] = in->rows[i] ? v[i] : NAN;
    return by_modality(shown);
}

static json_t *steps_json(const bal_group_log *g)
{
    json_t *steps = json_array();
    for (int i = 0; i < g->n_steps; i++)
        json_array_append_new(steps, json_pack("{s:s, s:o, s:b}", "name", g->step[i].name, "error",
                                               number(g->step[i].error), "kept", g->step[i].kept));
    return steps;
}

static json_t *group_json(const bal_group_log *g, const char *name, bal_act act)
{
    char id[BAL_ACT_ID_SIZE];
    bal_act_id(act, id);
    json_t *o = json_pack("{s:s, s:s, s:b, s:o, s:o}", "name", name, "act", id, "searched",
                          g->searched, "mean_abs", measured(&g->input, g->input.mean_abs),
                          "max_abs", measured(&g->input, g->input.max_abs));
    if (g->n_steps > 0) {
        json_object_set_new(o, "damp", number(g->damp));
        json_object_set_new(o, "steps", steps_json(g));
    }
    if (!g->searched) return o;
    json_t *loss = json_array();
    for (int i = 0; i < BAL_SCALE_POINTS; i++) json_array_append_new(loss, number(g->loss[i]));
    json_object_set_new(o, "best", json_integer(g->best));
    json_object_set_new(o, "exponent", json_real((double)g->best / BAL_SCALE_POINTS));
    json_object_set_new(o, "loss", loss);
    return o;
}

json_t *bal_record_block(const bal_block_result *r, int index)
{
    json_t *groups = json_array(), *undone = json_object();
    for (int i = 0; i < BAL_GROUPS; i++)
        json_array_append_new(groups, group_json(&r->group[i], bal_group_names[i], r->act[i]));
    for (int sub = 0; sub < BAL_SUBS; sub++)
        json_object_set_new(undone, bal_sub_names[sub], json_boolean(r->clip_undone[sub]));
    return json_pack("{s:i, s:o, s:o, s:o, s:o}", "layer", index, "groups", groups, "rtn",
                     errors_json(r->rtn), "final", errors_json(r->final), "clip_undone", undone);
}

json_t *bal_record_drift(const bal_drift *d)
{
    double mse[BAL_MODALITIES], ref[BAL_MODALITIES];
    for (int i = 0; i < BAL_MODALITIES; i++) {
        mse[i] = d->count[i] > 0 ? d->sq[i] / d->count[i] : 0.0;
        ref[i] = d->count[i] > 0 ? d->ref_sq[i] / d->count[i] : 0.0;
    }
    return json_pack("{s:o, s:o}", "mse", by_modality(mse), "ref_ms", by_modality(ref));
}

/* ---- From JSON ------------------------------------------------------------------------------- */

enum { RECORD_BYTES = 1 << 26 };

static bal_status read_modalities(const bal_json *cell, const char *key, double out[BAL_MODALITIES],
                                  bal_error *err)
{
    bal_json o;
    BAL_TRY(bal_json_obj(cell, key, &o, err));
    for (int i = 0; i < BAL_MODALITIES; i++)
        BAL_TRY(bal_json_f64_or(&o, bal_modality_names[i], 0.0, 1e300, NAN, &out[i], err));
    return BAL_OK;
}

static bal_status read_cell(bal_sensitivity_cell *c, const bal_json *cell, bal_error *err)
{
    BAL_TRY(read_modalities(cell, "g1", c->g1, err));
    BAL_TRY(read_modalities(cell, "g2", c->g2, err));
    BAL_TRY(bal_json_f64(cell, "ratio", 0.0, 1e300, &c->ratio, err));
    return bal_json_f64(cell, "weight", 0.0, 1e300, &c->weight, err);
}

static bal_status read_cells(bal_sensitivity *s, const bal_json *root, bal_error *err)
{
    bal_json list, cell;
    BAL_TRY(bal_json_f64(root, "loss", 0.0, 1e300, &s->loss, err));
    BAL_TRY(bal_json_array(root, "layers", (size_t)s->layers, (size_t)s->layers, &list, err));
    for (int i = 0; i < s->layers; i++)
        for (int sub = 0; sub < BAL_SUBS; sub++) {
            const bal_json layer = bal_json_at(&list, (size_t)i);
            BAL_TRY(bal_json_obj(&layer, bal_sub_names[sub], &cell, err));
            BAL_TRY(read_cell(&s->cell[i][sub], &cell, err));
        }
    return BAL_OK;
}

bal_status bal_record_read_sensitivity(bal_sensitivity *s, const char *path, int layers,
                                       bal_error *err)
{
    *s = (bal_sensitivity){.layers = layers};
    bal_json_doc doc;
    BAL_TRY(bal_json_load(&doc, path, RECORD_BYTES, err));
    const bal_json root = bal_json_root(&doc);
    s->cell = calloc((size_t)layers, sizeof *s->cell);
    bal_status st = s->cell ? read_cells(s, &root, err)
                            : bal_nomem(err, (size_t)layers * sizeof *s->cell, "sensitivity");
    bal_json_close(&doc);
    if (st < 0) bal_sensitivity_free(s);
    return st;
}

bal_status bal_record_save(const char *path, const json_t *value, bal_error *err)
{
    char *text =
        value ? json_dumps(value, JSON_INDENT(1) | JSON_PRESERVE_ORDER | JSON_REAL_PRECISION(17))
              : NULL;
    if (!text) return bal_nomem(err, RECORD_BYTES, path);
    const bal_status st = bal_write_file(path, text, strlen(text), err);
    free(text);
    return st;
}

bal_status bal_record_load(json_t **out, const char *path, bal_error *err)
{
    bal_json_doc doc;
    *out = NULL;
    BAL_TRY(bal_json_load(&doc, path, RECORD_BYTES, err));
    *out = json_incref(doc.root);
    bal_json_close(&doc);
    return BAL_OK;
}
