/* SPDX-License-Identifier: MIT
 * One list of tensors and metadata serves two uses: the file itself, from finished blocks, and its
 * exact size before there is one. */
#include "quant/artifact.h"

#include "base/file.h"
#include "base/size.h"
#include "format/safetensors_write.h"
#include "quant/actsim.h"
#include "quant/lowrank.h"
#include "model/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { FIXED_META = 9 };

/* Everything of a decoder block is in its part: linears, biases, norms. */
static const char BLOCKS[] = "model.language_model.layers.";

typedef struct builder {
    const bal_engine *engine;
    const bal_artifact_origin *origin;
    bal_tensor_view *tensors;
    bal_st_meta *meta;
    size_t n_tensors, n_meta, room_tensors, room_meta;
    char **strings; /* names that were made here */
    size_t n_strings;
    uint8_t *config;
    char *recipe;
    bal_error *err;
} builder;

/* ---- Lists -------------------------------------------------------------------------------------
 */

static bal_status builder_init(builder *b)
{
    const size_t layers = (size_t)b->engine->model.config.text.layers;
    b->room_meta = FIXED_META + 3 * layers * BAL_DECODER_LINEARS + 2 * b->origin->tower->n;
    b->room_tensors = b->engine->model.tensors.n_tensors + 2 + b->origin->tower->n +
                      BAL_TRANSFORM_TENSORS + layers * (4 * BAL_DECODER_LINEARS + BAL_PART_NORMS);
    b->tensors = calloc(b->room_tensors, sizeof *b->tensors);
    b->meta = calloc(b->room_meta, sizeof *b->meta);
    b->strings = calloc(b->room_tensors + 2 * b->room_meta, sizeof *b->strings);
    if (b->tensors && b->meta && b->strings) return BAL_OK;
    return bal_nomem(b->err, b->room_tensors * sizeof *b->tensors, "tensor list");
}

static void builder_deinit(builder *b)
{
    for (size_t i = 0; i < b->n_strings; i++) free(b->strings[i]);
    free(b->strings);
    free(b->tensors);
    free(b->meta);
    free(b->config);
    free(b->recipe);
}

static bal_status keep(builder *b, const char *text, const char **out)
{
    char *copy = strdup(text);
    if (!copy) return bal_nomem(b->err, strlen(text) + 1, "a name");
    b->strings[b->n_strings++] = copy;
    *out = copy;
    return BAL_OK;
}

static bal_status add_tensor(builder *b, const char *name, const bal_tensor_view *t)
{
    if (b->n_tensors == b->room_tensors)
        return bal_fail(b->err, BAL_E_FORMAT, "tensor %s: more than the %zu tensors expected", name,
                        b->room_tensors);
    bal_tensor_view *slot = &b->tensors[b->n_tensors];
    *slot = *t;
    BAL_TRY(keep(b, name, &slot->name));
    b->n_tensors++;
    return BAL_OK;
}

static bal_status add_flat(builder *b, const char *name, bal_st_dtype dtype, const void *data,
                           size_t n)
{
    bal_tensor_view t = {.dtype = dtype, .n_dims = 1, .shape = {n}, .data = data};
    if (!bal_st_bytes(dtype, n, &t.n_bytes))
        return bal_fail(b->err, BAL_E_ARG, "tensor %s is too large", name);
    return add_tensor(b, name, &t);
}

static void add_meta(builder *b, const char *key, const char *value)
{
    b->meta[b->n_meta++] = (bal_st_meta){key, value};
}

static bal_status add_kept_meta(builder *b, const char *key, const char *value)
{
    bal_st_meta *m = &b->meta[b->n_meta];
    BAL_TRY(keep(b, key, &m->key));
    BAL_TRY(keep(b, value, &m->value));
    b->n_meta++;
    return BAL_OK;
}

static bal_status add_layout(builder *b, int layer, int i, const char *id)
{
    char key[BAL_PART_NAME];
    bal_part_layout_key(key, layer, i);
    return add_kept_meta(b, key, id);
}

/* act NULL: nothing is said, which means a16 */
static bal_status add_act(builder *b, int layer, int i, const char *act)
{
    char key[BAL_PART_NAME];
    if (!act) return BAL_OK;
    bal_part_act_key(key, layer, i);
    return add_kept_meta(b, key, act);
}

/* What linear i reads its inputs through, if anything. */
static bal_status add_hadamard(builder *b, int layer, int i)
{
    char key[BAL_PART_NAME], name[BAL_PART_NAME], id[BAL_ACT_ID_SIZE];
    const int block = bal_transform_block(b->origin->transform, i);
    if (!block) return BAL_OK;
    bal_decoder_tensor_name(name, sizeof name, layer, i);
    snprintf(key, sizeof key, "hadamard.%.180s", name);
    bal_hadamard_id(block, id);
    return add_kept_meta(b, key, id);
}

/* ---- What goes in ------------------------------------------------------------------------------
 */

static bal_status add_compiled(builder *b)
{
    size_t n;
    BAL_TRY(bal_config_blob(&b->engine->model.config, &b->config, &n, b->err));
    BAL_TRY(add_flat(b, "ballast.config", BAL_ST_U8, b->config, n));
    const uint8_t *blob = bal_tokenizer_blob(b->engine->tokenizer, &n);
    return add_flat(b, "ballast.tokenizer", BAL_ST_U8, blob, n);
}

static bool plain(const builder *b)
{
    return b->origin->recipe->store == BAL_STORAGE_FLOAT;
}

static bal_status add_part(builder *b, const bal_part *part, int layer)
{
    char key[BAL_PART_NAME], name[BAL_PART_NAME];
    for (int i = 0; !plain(b) && i < BAL_DECODER_LINEARS; i++) {
        bal_part_layout_key(key, layer, i);
        BAL_TRY(add_layout(b, layer, i, bal_tensor_meta(&part->set, key)));
        bal_part_act_key(key, layer, i);
        BAL_TRY(add_act(b, layer, i, bal_tensor_meta(&part->set, key)));
        BAL_TRY(add_hadamard(b, layer, i));
        bal_part_packed_name(name, layer, i);
        BAL_TRY(add_tensor(b, name, bal_tensor_find(&part->set, name)));
    }
    for (size_t i = 0; i < part->set.n_tensors; i++) {
        const bal_tensor_view *t = &part->set.tensors[i];
        if (t->dtype != BAL_ST_U8) BAL_TRY(add_tensor(b, t->name, t));
    }
    return BAL_OK;
}

static bal_packed_format planned_format(const builder *b, int layer, int i)
{
    const bal_artifact_origin *o = b->origin;
    bal_packed_format f = bal_recipe_format(o->recipe, i);
    if (o->bits) f.bits = o->bits[layer][i];
    return f;
}

static int by_name(const void *a, const void *b)
{
    const bal_tensor_view *x = a, *y = b;
    return strcmp(x->name, y->name);
}

static bal_status add_planned_matrix(builder *b, const char *name, bal_st_dtype dtype, int rows,
                                     int columns)
{
    BAL_TRY(add_flat(b, name, dtype, NULL, (size_t)rows * (size_t)columns));
    bal_tensor_view *t = &b->tensors[b->n_tensors - 1];
    t->n_dims = 2;
    t->shape[0] = (uint64_t)rows;
    t->shape[1] = (uint64_t)columns;
    return BAL_OK;
}

static bal_status add_planned_low(builder *b, int layer, int i)
{
    int n, k;
    char name[BAL_PART_NAME];
    bal_part_linear_size(&b->engine->model.config.text, i, &n, &k);
    const int rank = bal_lowrank_of(b->origin->recipe->rank, n, k);
    if (!rank) return BAL_OK;
    bal_part_low_name(name, layer, i, b->origin->recipe->rank_rows, false);
    BAL_TRY(add_planned_matrix(b, name, BAL_ST_F16, rank, k));
    bal_part_low_name(name, layer, i, b->origin->recipe->rank_rows, true);
    return add_planned_matrix(b, name, BAL_ST_F16, n, rank);
}

static bal_status add_planned_float(builder *b, int layer, int i)
{
    int n, k;
    char name[BAL_PART_NAME];
    bal_part_linear_size(&b->engine->model.config.text, i, &n, &k);
    bal_decoder_tensor_name(name, sizeof name, layer, i);
    return add_planned_matrix(b, name, BAL_ST_F32, n, k);
}

static bal_status add_planned_packed(builder *b, int layer)
{
    const bal_text_config *c = &b->engine->model.config.text;
    char name[BAL_PART_NAME], id[BAL_PACKED_ID_SIZE], act[BAL_ACT_ID_SIZE];
    bal_act widest = bal_act_of(b->origin->recipe); /* by the length of its id */
    if (b->origin->recipe->spikes == BAL_SPIKES_FINE && widest.scale == BAL_ACT_DYNAMIC &&
        !widest.group)
        widest.group = BAL_SPIKE_GROUP;
    bal_act_id(widest, act);
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        bal_packed_layout layout;
        int n, k;
        bal_part_linear_size(c, i, &n, &k);
        BAL_TRY(bal_packed_layout_of(&layout, planned_format(b, layer, i), (size_t)n, (size_t)k,
                                     b->err));
        bal_packed_layout_id(&layout, id);
        BAL_TRY(add_layout(b, layer, i, id));
        BAL_TRY(add_act(b, layer, i, b->origin->recipe->act == BAL_ACT_A8 ? act : NULL));
        BAL_TRY(add_hadamard(b, layer, i));
        bal_part_packed_name(name, layer, i);
        BAL_TRY(add_flat(b, name, BAL_ST_U8, NULL, layout.n_bytes));
    }
    return BAL_OK;
}

/* The same names and sizes as a part would have, before there is one, in the part's order, since
 * the digits of offsets count too. */
static bal_status add_planned(builder *b, int layer)
{
    const bal_text_config *c = &b->engine->model.config.text;
    char name[BAL_PART_NAME];
    if (!plain(b)) BAL_TRY(add_planned_packed(b, layer));
    const size_t first = b->n_tensors;
    for (int i = 0; plain(b) && i < BAL_DECODER_LINEARS; i++)
        BAL_TRY(add_planned_float(b, layer, i));
    for (int i = 0; i < BAL_PART_NORMS; i++) {
        const int n = bal_part_norm_size(c, (bal_part_norm)i);
        bal_part_norm_name(name, layer, (bal_part_norm)i);
        if (n > 0) BAL_TRY(add_flat(b, name, BAL_ST_F32, NULL, (size_t)n));
    }
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
        const bal_linear *l = bal_decoder_linear(&b->engine->model.layers[layer], i);
        bal_part_bias_name(name, layer, i);
        if (l->bias) BAL_TRY(add_flat(b, name, BAL_ST_F32, NULL, (size_t)l->n));
    }
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) BAL_TRY(add_planned_low(b, layer, i));
    qsort(b->tensors + first, b->n_tensors - first, sizeof *b->tensors, by_name);
    return BAL_OK;
}

/* Without data as long as it is not packed. */
static bal_status add_tower(builder *b)
{
    char text[BAL_PART_NAME + 16], id[BAL_PACKED_ID_SIZE], act[BAL_ACT_ID_SIZE];
    for (size_t i = 0; i < b->origin->tower->n; i++) {
        const bal_tower_linear *t = &b->origin->tower->items[i];
        const bool done = bal_type_get(t->linear->type)->packed;
        snprintf(text, sizeof text, "layout.%s", t->name);
        bal_packed_layout_id(&t->layout, id);
        BAL_TRY(add_kept_meta(b, text, id));
        snprintf(text, sizeof text, "act.%s", t->name);
        bal_act_id(t->act, act);
        if (t->act.kind == BAL_ACT_A8) BAL_TRY(add_kept_meta(b, text, act));
        snprintf(text, sizeof text, "%s.packed", t->name);
        BAL_TRY(
            add_flat(b, text, BAL_ST_U8, done ? t->linear->packed.codes : NULL, t->layout.n_bytes));
    }
    return BAL_OK;
}

/* What is not packed, rotated where it was. In order of the new names, so that old and new
 * checkpoints of a model give the same file. */
static bal_status add_untouched(builder *b)
{
    const bal_tensor_set *set = &b->engine->model.tensors;
    const size_t first = b->n_tensors;
    for (size_t i = 0; i < set->n_tensors; i++) {
        char name[512];
        BAL_TRY(bal_bind_canonical(name, sizeof name,
                                   &bal_family_of(&b->engine->model.config)->names,
                                   set->tensors[i].name, b->err));
        if (strncmp(name, BLOCKS, sizeof BLOCKS - 1) == 0) continue;
        if (bal_tower_holds(b->origin->tower, name)) continue;
        if (bal_transform_find(b->origin->transform, name)) continue;
        BAL_TRY(add_tensor(b, name, &set->tensors[i]));
    }
    for (size_t i = 0; i < b->origin->transform->n_tensors; i++) {
        const bal_tensor_view *t = &b->origin->transform->tensors[i];
        if (!bal_tower_holds(b->origin->tower, t->name)) BAL_TRY(add_tensor(b, t->name, t));
    }
    qsort(b->tensors + first, b->n_tensors - first, sizeof *b->tensors, by_name);
    return BAL_OK;
}

/* The least version whose readers know everything in the file. */
static const char *format_of(const bal_recipe *r)
{
    if (r->rank_rows == BAL_LOW_VISION) return BAL_ARTIFACT_FORMAT_PATCH;
    if (r->act_scale != BAL_ACT_DYNAMIC) return BAL_ARTIFACT_FORMAT_FIXED;
    if (r->hadamard != BAL_MIXING_NONE || r->rank) return BAL_ARTIFACT_FORMAT_MIXED;
    if (r->store == BAL_STORAGE_PACKED && bal_recipe_format(r, 0).kind != BAL_PACKED_GROUPS)
        return BAL_ARTIFACT_FORMAT_STEPS;
    return r->act == BAL_ACT_A8 || r->vision_act == BAL_ACT_A8 ? BAL_ARTIFACT_FORMAT_ACTS
                                                               : BAL_ARTIFACT_FORMAT;
}

static bal_status add_origin(builder *b)
{
    const bal_artifact_origin *o = b->origin;
    BAL_TRY(bal_recipe_to_json(o->recipe, &b->recipe, b->err));
    add_meta(b, "ballast_format", format_of(o->recipe));
    add_meta(b, "program", "ballast " BALLAST_VERSION);
    add_meta(b, "isa", o->isa);
    add_meta(b, "recipe", b->recipe);
    add_meta(b, "source", o->source);
    add_meta(b, "model_sha256", o->model_sha256);
    add_meta(b, "chat_template", bal_engine_chat_name(b->engine));
    if (o->calibration) add_meta(b, "calibration", o->calibration);
    if (bal_transform_any(o->transform)) {
        char seed[32];
        snprintf(seed, sizeof seed, "%llu", (unsigned long long)o->transform->seed);
        BAL_TRY(add_kept_meta(b, "rotation_seed", seed));
    }
    return BAL_OK;
}

/* parts NULL: planned sizes instead of data */
static bal_status collect(builder *b, const bal_part *parts)
{
    BAL_TRY(builder_init(b));
    BAL_TRY(add_origin(b));
    BAL_TRY(add_compiled(b));
    for (int i = 0; i < b->engine->model.config.text.layers; i++)
        BAL_TRY(parts ? add_part(b, &parts[i], i) : add_planned(b, i));
    BAL_TRY(add_tower(b));
    return add_untouched(b);
}

/* ---- Both uses ---------------------------------------------------------------------------------
 */

static void count_weights(bal_artifact_sizes *s, const builder *b)
{
    const bal_tensor_set *set = &b->engine->model.tensors;
    for (size_t i = 0; i < set->n_tensors; i++) {
        uint64_t n = 0;
        bal_st_count(set->tensors[i].shape, set->tensors[i].n_dims, &n);
        s->all_weights += n;
    }
    for (int layer = 0; layer < b->engine->model.config.text.layers; layer++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
            int n, k;
            bal_part_linear_size(&b->engine->model.config.text, i, &n, &k);
            s->linear_weights += (uint64_t)n * (uint64_t)k;
            if (plain(b)) s->format_bytes += bal_format_bytes(b->origin->recipe, i, n, k);
        }
    /* packed bytes and matrices; what else a block has are vectors of floats */
    for (size_t i = 0; i < b->n_tensors; i++) {
        const bal_tensor_view *t = &b->tensors[i];
        if (strncmp(t->name, BLOCKS, sizeof BLOCKS - 1) == 0 &&
            (t->dtype == BAL_ST_U8 || t->n_dims == 2))
            s->linear_bytes += t->n_bytes;
    }
}

double bal_bits_per_weight(uint64_t n_bytes, uint64_t weights)
{
    return weights ? 8.0 * (double)n_bytes / (double)weights : 0.0;
}

bal_status bal_artifact_size(bal_artifact_sizes *s, const bal_engine *engine,
                             const bal_artifact_origin *origin, bal_error *err)
{
    *s = (bal_artifact_sizes){0};
    builder b = {.engine = engine, .origin = origin, .err = err};
    bal_status st = collect(&b, NULL);
    if (st == BAL_OK) {
        count_weights(s, &b);
        st = bal_safetensors_size(&s->n_bytes, b.tensors, b.n_tensors, b.meta, b.n_meta, err);
    }
    builder_deinit(&b);
    return st;
}

bal_status bal_artifact_write(const char *path, const bal_engine *engine, const bal_part *parts,
                              const bal_artifact_origin *origin, bal_error *err)
{
    builder b = {.engine = engine, .origin = origin, .err = err};
    bal_status st = collect(&b, parts);
    if (st == BAL_OK)
        st = bal_safetensors_write(path, b.tensors, b.n_tensors, b.meta, b.n_meta, err);
    builder_deinit(&b);
    return st;
}

/* ---- Hash of a checkpoint ----------------------------------------------------------------------
 */

static bal_status add_file(bal_sha256 *h, const char *dir, const char *name, bal_error *err)
{
    char path[1400];
    uint8_t digest[BAL_SHA256_BYTES];
    BAL_TRY(bal_path_join(path, sizeof path, dir, name, err));
    BAL_TRY(bal_sha256_file(digest, path, err));
    BAL_TRY(bal_sha256_update(h, name, strlen(name) + 1, err));
    return bal_sha256_update(h, digest, sizeof digest, err);
}

static bool is_there(const char *dir, const char *name)
{
    char path[1400];
    return bal_path_join(path, sizeof path, dir, name, NULL) == BAL_OK && bal_path_exists(path);
}

static bal_status add_files(bal_sha256 *h, const char *dir, const char *const *names,
                            bal_error *err)
{
    for (; *names; names++)
        if (is_there(dir, *names)) BAL_TRY(add_file(h, dir, *names, err));
    return BAL_OK;
}

/* The older form of a tokenizer is read only where there is no tokenizer.json, and the index only
 * where there is no model.safetensors. */
static bal_status add_configs(bal_sha256 *h, const char *dir, bal_error *err)
{
    static const char *const configs[] = {"config.json", "preprocessor_config.json",
                                          "generation_config.json", NULL};
    static const char *const tokenizer[] = {"tokenizer.json", NULL};
    static const char *const old_tokenizer[] = {
        "tokenizer.model",       "vocab.json", "merges.txt",
        "encoder.json",          "vocab.bpe",  "added_tokens.json",
        "tokenizer_config.json", NULL};
    static const char *const index[] = {"model.safetensors.index.json", NULL};
    BAL_TRY(add_files(h, dir, configs, err));
    BAL_TRY(add_files(h, dir, is_there(dir, tokenizer[0]) ? tokenizer : old_tokenizer, err));
    return is_there(dir, "model.safetensors") ? BAL_OK : add_files(h, dir, index, err);
}

static bal_status add_weights(bal_sha256 *h, const bal_model *m, bal_error *err)
{
    const bal_tensor_set *set = &m->tensors;
    for (size_t file = 0; file < set->n_files; file++)
        for (size_t i = 0; i < set->n_tensors; i++) {
            if ((size_t)set->tensors[i].file != file) continue;
            const char *path = bal_tensor_file(set, &set->tensors[i]), *slash = strrchr(path, '/');
            BAL_TRY(add_file(h, m->path, slash ? slash + 1 : path, err));
            break;
        }
    return BAL_OK;
}

static bal_status hash_model(bal_sha256 *h, const bal_model *m, char out[BAL_SHA256_HEX],
                             bal_error *err)
{
    uint8_t digest[BAL_SHA256_BYTES];
    BAL_TRY(bal_sha256_init(h, err));
    BAL_TRY(add_configs(h, m->path, err));
    BAL_TRY(add_weights(h, m, err));
    BAL_TRY(bal_sha256_final(h, digest, err));
    bal_hex(out, digest, sizeof digest);
    return BAL_OK;
}

bal_status bal_artifact_hash_model(char out[BAL_SHA256_HEX], const bal_model *m, bal_error *err)
{
    bal_sha256 h = {0};
    const bal_status st = hash_model(&h, m, out, err);
    bal_sha256_deinit(&h);
    return st;
}
