/* SPDX-License-Identifier: MIT
 * ballast inspect: what a model file or folder holds, in bits and bytes, and where it came from.
 * Every byte is accounted for: header, padding and tensors add up to the size on disk, or the
 * command fails. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/file.h"
#include "commands.h"
#include "console.h"
#include "model/family.h"
#include "quant/quantizer.h"
#include "quant/recipe.h"
#include "run/engine.h"

/* What a tensor is part of. */
typedef enum part {
    PART_LINEARS,
    PART_VECTORS,
    PART_EMBEDDINGS,
    PART_HEAD,
    PART_VISION,
    PART_PROJECTOR,
    PART_COMPILED,
    PARTS
} part;

static const char *const part_names[PARTS] = {
    "decoder linears", "decoder norms and biases", "embeddings", "head", "vision tower",
    "projector",       "config, tokenizer"};

typedef struct item {
    const bal_tensor_view *t;
    char name[256];   /* canonical */
    char storage[72]; /* "F16", or the layout id of packed weights and their activation path */
    part part;
    uint64_t weights;
    uint64_t offset; /* in its file */
} item;

typedef struct sheet {
    bal_model model;
    item *items;
    size_t n;
    uint64_t json_bytes, padding_bytes, tensor_bytes, disk_bytes;
} sheet;

/* ---- Gathering ---------------------------------------------------------------------------------
 */

static bool starts(const char *name, const char *prefix)
{
    return strncmp(name, prefix, strlen(prefix)) == 0;
}

static bool ends(const char *name, const char *suffix)
{
    const size_t n = strlen(name), m = strlen(suffix);
    return n >= m && strcmp(name + n - m, suffix) == 0;
}

static part part_of(const char *name)
{
    if (starts(name, "ballast.")) return PART_COMPILED;
    if (starts(name, "lm_head.")) return PART_HEAD;
    if (starts(name, "model.visual.merger.")) return PART_PROJECTOR;
    if (starts(name, "model.vision_tower.") || starts(name, "model.visual.")) return PART_VISION;
    if (starts(name, "model.language_model.embed_tokens.")) return PART_EMBEDDINGS;
    if (!starts(name, "model.language_model.")) return PART_PROJECTOR;
    return strstr(name, "_proj.weight") ? PART_LINEARS : PART_VECTORS;
}

/* The linear that is a view of a packed tensor, or NULL. */
static const bal_linear *packed_in(bal_model *m, const bal_tensor_view *t)
{
    const void *codes = t->data;
    for (int layer = 0; layer < m->config.text.layers; layer++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
            const bal_linear *l = bal_decoder_linear(&m->layers[layer], i);
            if (l->packed.codes == codes) return l;
        }
    for (int layer = 0; layer < m->config.vision.layers; layer++)
        for (int i = 0; i < BAL_VISION_LINEARS; i++) {
            const bal_linear *l = bal_vision_linear(&m->vision_layers[layer], i);
            if (l->packed.codes == codes) return l;
        }
    for (int i = 0; i < 2; i++)
        if (m->projector[i].packed.codes == codes) return &m->projector[i];
    return m->head.packed.codes == codes ? &m->head : NULL;
}

/* Weights behind the packed tensors: their sizes stand in the config, not in the file's shapes. */
static void count_packed(sheet *s, item *it)
{
    const bal_linear *l = packed_in(&s->model, it->t);
    if (!l) return;
    it->weights = (uint64_t)l->n * (uint64_t)l->k;
    bal_packed_layout_id(&l->packed.layout, it->storage);
    if (l->act.kind == BAL_ACT_A8) {
        char act[BAL_ACT_ID_SIZE];
        const size_t n = strlen(it->storage);
        bal_act_id(l->act, act);
        if (l->act.scale !=
            BAL_ACT_DYNAMIC) /* without the scales, so that equal storage is one line */
            snprintf(act, sizeof act, "%s", l->act.scale == BAL_ACT_STATIC ? "a8s" : "a8sv");
        snprintf(it->storage + n, sizeof it->storage - n, " %s", act);
    }
}

static bal_status fill_item(sheet *s, item *it, const bal_tensor_view *t, bal_error *err)
{
    it->t = t;
    BAL_TRY(bal_bind_canonical(it->name, sizeof it->name, &bal_family_of(&s->model.config)->names,
                               t->name, err));
    it->part = part_of(it->name);
    snprintf(it->storage, sizeof it->storage, "%s", bal_st_dtype_name(t->dtype));
    if (ends(it->name, ".packed"))
        count_packed(s, it);
    else if (ends(it->name, ".low_a") ||
             ends(it->name, ".low_b")) /* beside weights counted there */
        snprintf(it->storage, sizeof it->storage, "%s %s", bal_st_dtype_name(t->dtype),
                 strstr(it->name, ".vision.low_") ? "rank, vision" : "of small rank");
    else if (it->part != PART_COMPILED)
        bal_st_count(t->shape, t->n_dims, &it->weights);
    s->tensor_bytes += t->n_bytes;
    return BAL_OK;
}

/* Header of one file: the length word and JSON, and the spaces behind it. */
static bal_status read_header(sheet *s, const char *path, uint64_t *start, bal_error *err)
{
    bal_mapping m;
    uint64_t n;
    BAL_TRY(bal_map_open(&m, path, err));
    memcpy(&n, m.data, sizeof n); /* the set was opened, so the file has a checked header */
    uint64_t spaces = 0;
    while (spaces < n && m.data[8 + n - 1 - spaces] == ' ') spaces++;
    *start = 8 + n;
    s->json_bytes += 8 + n - spaces;
    s->padding_bytes += spaces;
    s->disk_bytes += m.n_bytes;
    bal_map_close(&m);
    return BAL_OK;
}

/* Tensors of a file follow each other without holes, so the first one starts behind the header. */
static bal_status place_file(sheet *s, int file, bal_error *err)
{
    const uint8_t *first = NULL;
    const bal_tensor_view *any = NULL;
    uint64_t start;
    for (size_t i = 0; i < s->n; i++) {
        const bal_tensor_view *t = s->items[i].t;
        if (t->file != file) continue;
        any = t;
        if (!first || t->data < first) first = t->data;
    }
    if (!any) return BAL_OK;
    BAL_TRY(read_header(s, bal_tensor_file(&s->model.tensors, any), &start, err));
    for (size_t i = 0; i < s->n; i++)
        if (s->items[i].t->file == file)
            s->items[i].offset = start + (uint64_t)(s->items[i].t->data - first);
    return BAL_OK;
}

static int by_place(const void *a, const void *b)
{
    const item *x = a, *y = b;
    if (x->t->file != y->t->file) return x->t->file < y->t->file ? -1 : 1;
    if (x->offset != y->offset) return x->offset < y->offset ? -1 : 1;
    return strcmp(x->name, y->name);
}

static bal_status sheet_fill(sheet *s, bal_error *err)
{
    const bal_tensor_set *set = &s->model.tensors;
    s->items = calloc(set->n_tensors + 1, sizeof *s->items);
    if (!s->items) return bal_nomem(err, set->n_tensors * sizeof *s->items, "tensor list");
    for (size_t i = 0; i < set->n_tensors; i++)
        BAL_TRY(fill_item(s, &s->items[s->n++], &set->tensors[i], err));
    for (size_t f = 0; f < set->n_files; f++) BAL_TRY(place_file(s, (int)f, err));
    qsort(s->items, s->n, sizeof *s->items, by_place);
    const uint64_t sum = s->json_bytes + s->padding_bytes + s->tensor_bytes;
    if (sum == s->disk_bytes) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "%s: %" PRIu64 " bytes on disk, %" PRIu64 " accounted for",
                    s->model.path, s->disk_bytes, sum);
}

static bal_status sheet_open(sheet *s, const char *path, bal_error *err)
{
    *s = (sheet){0};
    BAL_TRY(bal_model_load(&s->model, path, err));
    return sheet_fill(s, err);
}

static void sheet_close(sheet *s)
{
    free(s->items);
    bal_model_unload(&s->model);
}

/* ---- Text --------------------------------------------------------------------------------------
 */

static double bits(uint64_t n_bytes, uint64_t weights)
{
    return weights ? 8.0 * (double)n_bytes / (double)weights : 0.0;
}

/* Of the model: a packed head that was tied to the embedding table is the table once more. */
static uint64_t all_weights(const sheet *s)
{
    const bool tied = s->model.config.text.tied;
    uint64_t n = 0;
    for (size_t i = 0; i < s->n; i++)
        if (!tied || s->items[i].part != PART_HEAD) n += s->items[i].weights;
    return n;
}

/* Names and metadata are the file's. */
static void print_line(const char *text)
{
    bal_print_foreign(text, strlen(text), true);
    putchar('\n');
}

static void print_architecture(const sheet *s)
{
    const bal_text_config *t = &s->model.config.text;
    const bal_vision_config *v = &s->model.config.vision;
    printf("%s\n", s->model.path);
    if (s->model.is_artifact) {
        printf("  Ballast file, format ");
        print_line(bal_tensor_meta(&s->model.tensors, "ballast_format"));
    } else {
        printf("  Hugging Face folder, %zu weight file%s\n", s->model.tensors.n_files,
               s->model.tensors.n_files == 1 ? "" : "s");
    }
    printf("  %s, %.1f million weights\n", bal_family_of(&s->model.config)->model_type,
           (double)all_weights(s) / 1e6);
    bal_chat_family chat;
    if (bal_model_chat(&chat, &s->model, NULL) == BAL_OK)
        printf("  chat template %s\n", bal_chat_family_name(chat));
    else
        printf("  chat template unknown\n");
    printf("  decoder  %d layers, width %d, MLP %d, %d heads of %d (%d for keys), %d words\n",
           t->layers, t->hidden, t->intermediate, t->heads, t->head_dim, t->kv_heads, t->vocab);
    if (s->model.config.has_vision && s->model.config.max_pixels)
        printf("  vision   %d layers, width %d, MLP %d, one token of %d x %d pixels, up to %d\n",
               v->layers, v->hidden, v->intermediate, v->image_size, v->image_size,
               s->model.config.max_pixels / (v->image_size * v->image_size));
    else if (s->model.config.has_vision)
        printf("  vision   %d layers, width %d, MLP %d, views of %d pixels, %d tokens each\n",
               v->layers, v->hidden, v->intermediate, v->image_size, bal_view_tokens(v));
}

static void print_row(const char *label, const char *storage, size_t n, uint64_t weights,
                      uint64_t n_bytes)
{
    printf("  %-26s %-18s", label, storage);
    if (n)
        printf("%6zu", n);
    else
        printf("%6s", "");
    printf(" %14" PRIu64, n_bytes);
    if (weights)
        printf(" %14" PRIu64 " %8.3f\n", weights, bits(n_bytes, weights));
    else
        printf("\n");
}

static bool seen_before(const sheet *s, size_t i)
{
    for (size_t j = 0; j < i; j++)
        if (s->items[j].part == s->items[i].part &&
            strcmp(s->items[j].storage, s->items[i].storage) == 0)
            return true;
    return false;
}

/* One row per part and storage type, in the order of the parts. */
static void print_parts(const sheet *s)
{
    for (int p = 0; p < PARTS; p++)
        for (size_t i = 0; i < s->n; i++) {
            if (s->items[i].part != (part)p || seen_before(s, i)) continue;
            uint64_t n_bytes = 0, weights = 0;
            size_t n = 0;
            for (size_t j = i; j < s->n; j++) {
                const item *it = &s->items[j];
                if (it->part != (part)p || strcmp(it->storage, s->items[i].storage) != 0) continue;
                n_bytes += it->t->n_bytes;
                weights += it->weights;
                n++;
            }
            print_row(part_names[p], s->items[i].storage, n, weights, n_bytes);
        }
}

/* Of the decoder's linears in a storage of their recipe's format, where they stand as floats for
 * it; else 0. */
static double format_bits(const sheet *s)
{
    const char *text = bal_tensor_meta(&s->model.tensors, "recipe");
    uint64_t n_bytes = 0, weights = 0;
    bal_recipe r;
    if (!s->model.is_artifact || !text || bal_recipe_parse(&r, text, NULL) < 0) return 0.0;
    for (int layer = 0; layer < s->model.config.text.layers; layer++)
        for (int i = 0; r.store == BAL_STORAGE_FLOAT && i < BAL_DECODER_LINEARS; i++) {
            const bal_linear *l = bal_decoder_linear(&s->model.layers[layer], i);
            n_bytes += bal_format_bytes(&r, i, l->n, l->k);
            weights += (uint64_t)l->n * (uint64_t)l->k;
        }
    return bits(n_bytes, weights);
}

static void print_format(const sheet *s)
{
    const double x = format_bits(s);
    if (x > 0.0)
        printf("\nthe decoder's linears are simulated, stored as floats: a storage of their format "
               "would take\n%.3f bits per weight\n",
               x);
}

static void print_tensors(const sheet *s)
{
    for (size_t i = 0; i < s->n; i++) {
        const item *it = &s->items[i];
        printf("  %12" PRIu64 " %12" PRIu64 "  %-18s ", it->offset, it->t->n_bytes, it->storage);
        print_line(it->name);
    }
}

/* Bits of linear i of a layer, 0 where it is not packed. */
static int bits_of(const sheet *s, int layer, int i)
{
    const bal_linear *l = bal_decoder_linear(&s->model.layers[layer], i);
    return bal_type_get(l->type)->packed ? l->packed.layout.bits : 0;
}

static bool is_mixed(const sheet *s)
{
    for (int layer = 0; layer < s->model.config.text.layers; layer++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++)
            if (bits_of(s, layer, i) != bits_of(s, 0, 0)) return true;
    return false;
}

/* Who got which width, where not all have the same. */
static void print_allocation(const sheet *s)
{
    static const char *const names[BAL_DECODER_LINEARS] = {"q",    "k",  "v",   "o",
                                                           "gate", "up", "down"};
    if (!is_mixed(s)) return;
    printf("\nbits per linear\n  layer");
    for (int i = 0; i < BAL_DECODER_LINEARS; i++) printf("%6s", names[i]);
    printf("\n");
    for (int layer = 0; layer < s->model.config.text.layers; layer++) {
        printf("  %5d", layer);
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) printf("%6d", bits_of(s, layer, i));
        printf("\n");
    }
}

/* What was changed of a recipe that comes with the program; all of it stands in the next line. */
static void print_title(const sheet *s)
{
    const char *text = bal_tensor_meta(&s->model.tensors, "recipe");
    char title[BAL_RECIPE_TITLE] = "";
    if (text) bal_recipe_title_of(text, title);
    if (!strchr(title, ',')) return;
    printf("  %-13s ", "made by");
    print_line(title);
}

static void print_origin(const sheet *s)
{
    static const char *const keys[] = {"source",      "model_sha256", "recipe",
                                       "calibration", "program",      "isa"};
    if (!s->model.is_artifact) return;
    printf("\nwhere it came from\n");
    print_title(s);
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        const char *value = bal_tensor_meta(&s->model.tensors, keys[i]);
        printf("  %-13s ", keys[i]);
        print_line(value ? value : "none");
    }
}

static void print_text(const sheet *s, bool tensors)
{
    print_architecture(s);
    printf("\n  %-26s %-18s%6s %14s %14s %8s\n", "part", "storage", "n", "bytes", "weights",
           "bits");
    print_parts(s);
    print_row("header", "JSON", 0, 0, s->json_bytes);
    print_row("padding of the header", "", 0, 0, s->padding_bytes);
    print_row("all, as on disk", "", s->n, all_weights(s), s->disk_bytes);
    if (tensors) {
        printf("\n  %12s %12s  %-18s tensor\n", "offset", "bytes", "storage");
        print_tensors(s);
    }
    print_format(s);
    print_allocation(s);
    print_origin(s);
}

/* ---- JSON --------------------------------------------------------------------------------------
 */

static json_t *tensors_json(const sheet *s)
{
    json_t *list = json_array();
    for (size_t i = 0; i < s->n; i++) {
        const item *it = &s->items[i];
        json_t *shape = json_array();
        for (int d = 0; d < it->t->n_dims; d++)
            json_array_append_new(shape, json_integer((json_int_t)it->t->shape[d]));
        json_array_append_new(
            list,
            json_pack("{s:s, s:s, s:s, s:o, s:s, s:I, s:I, s:I}", "name", it->name, "part",
                      part_names[it->part], "storage", it->storage, "shape", shape, "file",
                      bal_tensor_file(&s->model.tensors, it->t), "offset", (json_int_t)it->offset,
                      "bytes", (json_int_t)it->t->n_bytes, "weights", (json_int_t)it->weights));
    }
    return list;
}

/* Metadata but for the layouts, which the tensors show; JSON in it as JSON. */
static json_t *origin_json(const sheet *s)
{
    json_t *o = json_object();
    for (size_t i = 0; i < s->model.tensors.n_meta; i++) {
        const bal_st_meta *m = &s->model.tensors.meta[i];
        if (starts(m->key, "layout.")) continue;
        json_t *value = m->value[0] == '{' ? json_loads(m->value, 0, NULL) : NULL;
        json_object_set_new(o, m->key, value ? value : json_string(m->value));
    }
    return o;
}

/* [[7 per layer]], null for a model of float weights */
static json_t *allocation_json(const sheet *s)
{
    json_t *layers = json_array();
    if (!s->model.is_artifact) {
        json_decref(layers);
        return json_null();
    }
    for (int layer = 0; layer < s->model.config.text.layers; layer++) {
        json_t *row = json_array();
        for (int i = 0; i < BAL_DECODER_LINEARS; i++)
            json_array_append_new(row, json_integer(bits_of(s, layer, i)));
        json_array_append_new(layers, row);
    }
    return layers;
}

static json_t *config_json(const bal_model *m)
{
    const bal_config *c = &m->config;
    bal_chat_family chat;
    const bool known = bal_model_chat(&chat, m, NULL) == BAL_OK;
    const bal_text_config *t = &c->text;
    const bal_vision_config *v = &c->vision;
    json_t *text = json_pack("{s:i, s:i, s:i, s:i, s:i, s:i, s:i}", "layers", t->layers, "hidden",
                             t->hidden, "intermediate", t->intermediate, "heads", t->heads,
                             "kv_heads", t->kv_heads, "head_dim", t->head_dim, "vocab", t->vocab);
    json_t *vision = c->has_vision
                         ? json_pack("{s:i, s:i, s:i, s:i, s:i}", "layers", v->layers, "hidden",
                                     v->hidden, "intermediate", v->intermediate, "image_size",
                                     v->image_size, "view_tokens", bal_view_tokens(v))
                         : json_null();
    return json_pack("{s:s, s:s?, s:o, s:o}", "family", bal_family_of(c)->model_type,
                     "chat_template", known ? bal_chat_family_name(chat) : NULL, "text", text,
                     "vision", vision);
}

static int print_json(const sheet *s)
{
    const double format = format_bits(s);
    json_t *o = json_pack(
        "{s:s, s:b, s:o, s:I, s:f, s:I, s:I, s:I, s:I, s:o, s:o, s:o}", "model", s->model.path,
        "ballast_file", s->model.is_artifact, "config", config_json(&s->model), "weights",
        (json_int_t)all_weights(s), "bits_per_weight", bits(s->disk_bytes, all_weights(s)), "bytes",
        (json_int_t)s->disk_bytes, "header_bytes", (json_int_t)s->json_bytes, "padding_bytes",
        (json_int_t)s->padding_bytes, "tensor_bytes", (json_int_t)s->tensor_bytes, "bits",
        allocation_json(s), "origin", origin_json(s), "tensors", tensors_json(s));
    if (format > 0.0) json_object_set_new(o, "format_bits_per_weight", json_real(format));
    return bal_print_json("inspect", o);
}

int bal_cmd_inspect(int argc, char **argv)
{
    bal_common common = {0};
    bool tensors = false;
    const bal_arg args[] = {
        {"--tensors", 0, BAL_ARG_BOOL, &tensors, "", "list every tensor and where it stands", 0, 0},
    };
    const bal_command cmd = {"inspect",
                             "MODEL",
                             "Shows what a Hugging Face folder or a Ballast file holds, byte for\n"
                             "byte, and where it came from.",
                             args,
                             sizeof args / sizeof args[0],
                             1,
                             1,
                             "--threads --device --isa --shapes --ctx --seed --quiet --verbose"};
    const char *path;
    int n;
    sheet s;
    bal_error err;
    const int st = bal_args_read(&cmd, &common, argc, argv, &path, &n);
    if (st >= 0) return st;
    int status = 0;
    if (sheet_open(&s, path, &err) < 0)
        status = bal_failure("inspect", "%s", err.text);
    else if (common.json)
        status = print_json(&s);
    else
        print_text(&s, tensors);
    sheet_close(&s);
    return status ? status : bal_finish("inspect", 0);
}
