/* SPDX-License-Identifier: MIT
 * The published stories260k (llama2.c's checkpoint, version 1, and its tokenizer.bin) as a folder
 * in Hugging Face's form: config.json, model.safetensors, tokenizer.model. The layouts are those of
 * llama2.c's export.py and tokenizer.py. Fails the test that calls it on any other file. */
#ifndef BAL_TESTS_STORIES_H
#define BAL_TESTS_STORIES_H

#include "check.h"
#include "unit/pb_writer.h"

#include "format/safetensors_write.h"

#include <sys/stat.h>

enum {
    STORIES_MAGIC = 0x616b3432,
    STORIES_HEADER = 256,
    STORIES_TENSORS = 64,
    STORIES_PIECE = 256
};

typedef struct stories_config { /* as in the file, behind magic and version */
    int32_t dim, hidden, layers, heads, kv_heads, vocab, positions;
} stories_config;

typedef struct stories_tensors {
    bal_tensor_view view[STORIES_TENSORS];
    char name[STORIES_TENSORS][96];
    size_t n;
    uint8_t *memory; /* the file; rows of q and k are put in order here */
    size_t at, n_bytes;
} stories_tensors;

static inline void stories_write(const char *dir, const char *name, const void *data, size_t n)
{
    char path[1200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    assert_int_equal(fclose(f), 0);
}

static inline uint8_t *stories_read(const char *data, const char *name, size_t *n)
{
    char path[1200];
    uint8_t *bytes = NULL;
    bal_error err = {0};
    snprintf(path, sizeof path, "%s/%s", data, name);
    ASSERT_OK(bal_read_file(&bytes, n, path, 1 << 22, &err));
    return bytes;
}

/* ---- Weights ---- */

/* The next rows x cols floats of the file as tensor `name` (one %d: the layer); rows 0: a vector.
 */
static inline uint8_t *stories_take(stories_tensors *t, const char *name, int layer, int rows,
                                    int cols)
{
    const size_t n = (size_t)(rows ? rows : 1) * (size_t)cols * sizeof(float);
    assert_true(t->n < STORIES_TENSORS && n <= t->n_bytes - t->at);
    bal_tensor_view *v = &t->view[t->n];
    snprintf(t->name[t->n], sizeof t->name[0], name, layer);
    *v = (bal_tensor_view){.name = t->name[t->n], .dtype = BAL_ST_F32, .n_bytes = n};
    v->n_dims = rows ? 2 : 1;
    v->shape[0] = (uint64_t)(rows ? rows : cols);
    v->shape[1] = (uint64_t)(rows ? cols : 0);
    v->data = t->memory + t->at;
    t->n++;
    t->at += n;
    return t->memory + t->at - n;
}

static inline void stories_layers(stories_tensors *t, const stories_config *c, const char *name,
                                  int rows, int cols)
{
    for (int l = 0; l < c->layers; l++) stories_take(t, name, l, rows, cols);
}

/* Rows of one head from neighbours that rotate together, (2i, 2i + 1), to (i, i + d/2). */
static inline void stories_reorder_head(float *w, int dim, int cols)
{
    const size_t n = (size_t)cols;
    float *old = malloc((size_t)dim * n * sizeof *old);
    assert_non_null(old);
    memcpy(old, w, (size_t)dim * n * sizeof *old);
    for (int i = 0; i < dim; i++)
        memcpy(w + (size_t)(i % 2 ? dim / 2 + i / 2 : i / 2) * n, old + (size_t)i * n,
               n * sizeof *w);
    free(old);
}

static inline void stories_rotated(stories_tensors *t, const stories_config *c, const char *name,
                                   int heads)
{
    const int dim = c->dim / c->heads;
    for (int l = 0; l < c->layers; l++) {
        float *w = (float *)(void *)stories_take(t, name, l, heads * dim, c->dim);
        for (int h = 0; h < heads; h++)
            stories_reorder_head(w + (size_t)h * (size_t)dim * (size_t)c->dim, dim, c->dim);
    }
}

#define STORIES_LAYER "model.layers.%d."
static inline void stories_weights(stories_tensors *t, const stories_config *c, const char *dir)
{
    const int kv = c->dim / c->heads * c->kv_heads;
    char path[1200];
    bal_error err = {0};
    stories_layers(t, c, STORIES_LAYER "input_layernorm.weight", 0, c->dim);
    stories_layers(t, c, STORIES_LAYER "post_attention_layernorm.weight", 0, c->dim);
    stories_take(t, "model.norm.weight", 0, 0, c->dim);
    stories_take(t, "model.embed_tokens.weight", 0, c->vocab, c->dim);
    stories_rotated(t, c, STORIES_LAYER "self_attn.q_proj.weight", c->heads);
    stories_rotated(t, c, STORIES_LAYER "self_attn.k_proj.weight", c->kv_heads);
    stories_layers(t, c, STORIES_LAYER "self_attn.v_proj.weight", kv, c->dim);
    stories_layers(t, c, STORIES_LAYER "self_attn.o_proj.weight", c->dim, c->dim);
    stories_layers(t, c, STORIES_LAYER "mlp.gate_proj.weight", c->hidden, c->dim);
    stories_layers(t, c, STORIES_LAYER "mlp.down_proj.weight", c->dim, c->hidden);
    stories_layers(t, c, STORIES_LAYER "mlp.up_proj.weight", c->hidden, c->dim);
    assert_int_equal(t->at, t->n_bytes);
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    ASSERT_OK(bal_safetensors_write(path, t->view, t->n, NULL, 0, &err));
}

static inline void stories_config_json(const stories_config *c, const char *dir)
{
    char text[1024];
    snprintf(text, sizeof text,
             "{\"model_type\": \"llama\", \"hidden_act\": \"silu\", \"rms_norm_eps\": 1e-5, "
             "\"rope_theta\": 10000.0, \"tie_word_embeddings\": true, \"bos_token_id\": 1, "
             "\"eos_token_id\": 1, \"hidden_size\": %d, \"intermediate_size\": %d, "
             "\"num_hidden_layers\": %d, \"num_attention_heads\": %d, "
             "\"num_key_value_heads\": %d, \"vocab_size\": %d, \"max_position_embeddings\": %d}\n",
             c->dim, c->hidden, c->layers, c->heads, c->kv_heads, c->vocab, c->positions);
    stories_write(dir, "config.json", text, strlen(text));
}

/* ---- Tokenizer ---- */

/* A piece as the model had it: U+2581 for a space. *type as pb_piece takes it. */
static inline size_t stories_piece(const uint8_t *text, size_t n, int id, char *out, int *type)
{
    static const char *const special[] = {"<unk>", "<s>", "</s>"};
    size_t at = 0;
    *type = id == 0 ? 2 : id < 3 ? 3 : id < 259 ? 6 : 1;
    if (id < 3) return memcpy(out, special[id], strlen(special[id])), strlen(special[id]);
    assert_true(3 * n < STORIES_PIECE);
    for (size_t i = 0; i < n; i++) {
        if (text[i] == ' ')
            memcpy(out + at, "\xe2\x96\x81", 3);
        else
            out[at] = (char)text[i];
        at += text[i] == ' ' ? 3 : 1;
    }
    return at;
}

static inline void stories_tokenizer(const char *data, int vocab, const char *dir)
{
    static uint8_t out[1 << 20];
    pb_writer w = {out, 0, sizeof out};
    size_t n, at = 4; /* behind the length of the longest piece */
    uint8_t *bytes = stories_read(data, "tokenizer.bin", &n);
    for (int id = 0; id < vocab; id++) {
        float score;
        int32_t length;
        char piece[STORIES_PIECE];
        int type;
        assert_true(n - at >= 8);
        memcpy(&score, bytes + at, 4);
        memcpy(&length, bytes + at + 4, 4);
        at += 8;
        assert_true(length >= 0 && (size_t)length <= n - at);
        const size_t size = stories_piece(bytes + at, (size_t)length, id, piece, &type);
        pb_piece(&w, piece, size, score, type);
        at += (size_t)length;
    }
    assert_int_equal(at, n);
    pb_specs(&w, 2, true, false, "");
    stories_write(dir, "tokenizer.model", w.data, w.n);
    free(bytes);
}

/* data: the folder of published files; dir: the folder to make. */
static inline void stories_convert(const char *data, const char *dir)
{
    stories_tensors t = {.at = STORIES_HEADER};
    stories_config c;
    uint32_t magic, version;
    t.memory = stories_read(data, "checkpoint_v1.bin", &t.n_bytes);
    assert_true(t.n_bytes > STORIES_HEADER);
    memcpy(&magic, t.memory, 4);
    memcpy(&version, t.memory + 4, 4);
    memcpy(&c, t.memory + 8, sizeof c);
    assert_int_equal(magic, STORIES_MAGIC);
    assert_int_equal(version, 1);
    assert_int_equal(t.memory[8 + sizeof c], 1); /* the head is the embedding table */
    assert_true(mkdir(dir, 0777) == 0);
    stories_weights(&t, &c, dir);
    stories_config_json(&c, dir);
    stories_tokenizer(data, c.vocab, dir);
    free(t.memory);
}

#endif
