/* SPDX-License-Identifier: MIT
 * Makes a checkpoint as wide as a 7B (hidden 3584, intermediate 18944, 28 heads, 4 of keys) and as
 * shallow as asked for, out of the embedded model: its tower, tokenizer and preprocessing, random
 * bf16 weights of the usual size for the rest, a few loud channels. It answers nonsense; it takes
 * the time and memory of the real one.
 *
 *   make_wide DEMO_MODEL OUT_DIR [LAYERS] */
#include "base/file.h"
#include "base/half.h"
#include "base/rng.h"
#include "base/size.h"
#include "format/safetensors_write.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { HIDDEN = 3584, INTERMEDIATE = 18944, HEADS = 28, KV_HEADS = 4, HEAD = 128, MOST = 400 };

typedef struct maker {
    bal_tensor_set demo;
    bal_tensor_view out[MOST];
    char names[MOST][200];
    size_t n;
    bal_rng rng;
    bal_error err;
} maker;

static int fail(const char *what)
{
    fprintf(stderr, "make_wide: %s\n", what);
    return 1;
}

static uint16_t *add(maker *w, const char *name, size_t rows, size_t cols)
{
    const size_t count = rows * bal_max(cols, 1);
    uint16_t *data = malloc(count * sizeof *data);
    if (!data || w->n == MOST) exit(fail("out of room"));
    snprintf(w->names[w->n], sizeof w->names[0], "%s", name);
    w->out[w->n] = (bal_tensor_view){.name = w->names[w->n],
                                     .dtype = BAL_ST_BF16,
                                     .n_dims = cols ? 2 : 1,
                                     .shape = {rows, cols},
                                     .data = (const uint8_t *)data,
                                     .n_bytes = count * sizeof *data};
    w->n++;
    return data;
}

/* About normal: four uniform numbers added up. */
static void add_random(maker *w, const char *name, size_t rows, size_t cols, double deviation)
{
    uint16_t *data = add(w, name, rows, cols);
    const float unit = (float)(deviation * sqrt(3.0) / 65536.0);
    for (size_t i = 0; i < rows * bal_max(cols, 1); i++) {
        const uint64_t r = bal_rng_u64(&w->rng);
        const int64_t sum = (int64_t)(r & 0xffff) + (int64_t)(r >> 16 & 0xffff) +
                            (int64_t)(r >> 32 & 0xffff) + (int64_t)(r >> 48) - 2 * 65535;
        data[i] = bal_f32_to_bf16((float)sum * unit);
    }
}

/* One channel in a hundred eight times as loud as the others. */
static void add_norm(maker *w, const char *name)
{
    uint16_t *data = add(w, name, HIDDEN, 0);
    for (size_t i = 0; i < HIDDEN; i++)
        data[i] = bal_f32_to_bf16(bal_rng_below(&w->rng, 100) == 0 ? 8.0f : 1.0f);
}

static void add_layer(maker *w, int layer)
{
    static const struct {
        const char *name;
        size_t n, k;
        bool bias;
    } linears[] = {{"self_attn.q_proj", HEADS * HEAD, HIDDEN, true},
                   {"self_attn.k_proj", KV_HEADS * HEAD, HIDDEN, true},
                   {"self_attn.v_proj", KV_HEADS * HEAD, HIDDEN, true},
                   {"self_attn.o_proj", HIDDEN, HEADS * HEAD, false},
                   {"mlp.gate_proj", INTERMEDIATE, HIDDEN, false},
                   {"mlp.up_proj", INTERMEDIATE, HIDDEN, false},
                   {"mlp.down_proj", HIDDEN, INTERMEDIATE, false}};
    char name[200];
    for (size_t i = 0; i < sizeof linears / sizeof linears[0]; i++) {
        const char *prefix = "language_model.model.layers";
        snprintf(name, sizeof name, "%s.%d.%s.weight", prefix, layer, linears[i].name);
        add_random(w, name, linears[i].n, linears[i].k, 0.02);
        snprintf(name, sizeof name, "%s.%d.%s.bias", prefix, layer, linears[i].name);
        if (linears[i].bias) add_random(w, name, linears[i].n, 0, 0.1);
    }
    snprintf(name, sizeof name, "language_model.model.layers.%d.input_layernorm.weight", layer);
    add_norm(w, name);
    snprintf(name, sizeof name, "language_model.model.layers.%d.post_attention_layernorm.weight",
             layer);
    add_norm(w, name);
}

static void add_tensors(maker *w, int layers)
{
    size_t vocab = 0, vision = 0;
    for (size_t i = 0; i < w->demo.n_tensors; i++) {
        const bal_tensor_view *t = &w->demo.tensors[i];
        if (strcmp(t->name, "language_model.model.embed_tokens.weight") == 0) vocab = t->shape[0];
        if (strcmp(t->name, "multi_modal_projector.linear_1.weight") == 0) vision = t->shape[1];
        if (strncmp(t->name, "vision_tower.", 13) == 0) w->out[w->n++] = *t;
    }
    add_random(w, "language_model.model.embed_tokens.weight", vocab, HIDDEN, 0.05);
    add_random(w, "multi_modal_projector.linear_1.weight", HIDDEN, vision, 0.05);
    add_random(w, "multi_modal_projector.linear_1.bias", HIDDEN, 0, 0.01);
    add_random(w, "multi_modal_projector.linear_2.weight", HIDDEN, HIDDEN, 0.02);
    add_random(w, "multi_modal_projector.linear_2.bias", HIDDEN, 0, 0.01);
    add_random(w, "image_newline", HIDDEN, 0, 0.05);
    for (int i = 0; i < layers; i++) add_layer(w, i);
    add_norm(w, "language_model.model.norm.weight");
}

static int write_config(const char *from, const char *to, int layers)
{
    json_t *root = json_load_file(from, 0, NULL), *types = json_array();
    if (!root) return fail("config.json of the embedded model cannot be read");
    for (int i = 0; i < layers; i++) json_array_append_new(types, json_string("full_attention"));
    json_t *wide =
        json_pack("{s:i, s:i, s:i, s:i, s:i, s:o}", "hidden_size", HIDDEN, "intermediate_size",
                  INTERMEDIATE, "num_attention_heads", HEADS, "num_key_value_heads", KV_HEADS,
                  "num_hidden_layers", layers, "layer_types", types);
    json_object_update(json_object_get(root, "text_config"), wide);
    const int bad = json_dump_file(root, to, JSON_INDENT(1));
    json_decref(wide);
    json_decref(root);
    return bad ? fail("config.json cannot be written") : 0;
}

/* Room for names: OUT_DIR/NAME. */
static const char *in(const char *dir, const char *name)
{
    static char path[2][1400];
    static int turn;
    turn = !turn;
    if (bal_path_join(path[turn], sizeof path[0], dir, name, NULL) < 0) exit(fail("long path"));
    return path[turn];
}

static int copy_files(const char *from, const char *to)
{
    static const char *const names[] = {"tokenizer.json",           "tokenizer_config.json",
                                        "preprocessor_config.json", "generation_config.json",
                                        "chat_template.jinja",      "special_tokens_map.json",
                                        "added_tokens.json"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        uint8_t *bytes;
        size_t n;
        bal_error err;
        if (bal_read_file(&bytes, &n, in(from, names[i]), 1 << 24, &err) < 0 ||
            bal_write_file(in(to, names[i]), bytes, n, &err) < 0)
            return fail(err.text);
        free(bytes);
    }
    return 0;
}

int main(int argc, char **argv)
{
    static maker w;
    if (argc < 3) return fail("usage: make_wide DEMO_MODEL OUT_DIR [LAYERS]");
    const int layers = argc > 3 ? atoi(argv[3]) : 2;
    if (layers < 1 || layers > 28) return fail("1 to 28 layers");
    bal_rng_seed(&w.rng, 7);
    if (bal_tensor_set_open(&w.demo, argv[1], &w.err) < 0) return fail(w.err.text);
    if (copy_files(argv[1], argv[2]) ||
        write_config(in(argv[1], "config.json"), in(argv[2], "config.json"), layers))
        return 1;
    add_tensors(&w, layers);
    if (bal_safetensors_write(in(argv[2], "model.safetensors"), w.out, w.n, NULL, 0, &w.err) < 0)
        return fail(w.err.text);
    return 0;
}
