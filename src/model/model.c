/* SPDX-License-Identifier: MIT */
#include "model/model.h"

#include "base/file.h"
#include "model/family.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Format version of Ballast files: "MAJOR.MINOR"; a newer major is refused. */
enum { FORMAT_MAJOR = 2 };

static bal_status check_format(const bal_model *m, bal_error *err)
{
    const char *version = bal_tensor_meta(&m->tensors, "ballast_format");
    int major = 0, minor = 0;
    if (!version)
        return bal_fail(err, BAL_E_FORMAT,
                        "%s: not a Ballast file (its metadata has no ballast_format); give the "
                        "model's folder to open a checkpoint",
                        m->path);
    if (sscanf(version, "%d.%d", &major, &minor) != 2 || major < 1)
        return bal_fail(err, BAL_E_FORMAT, "%s: ballast_format \"%s\" is not a version", m->path,
                        version);
    if (major <= FORMAT_MAJOR) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP,
                    "%s: file format %s is newer than this program reads (%d.x); update ballast",
                    m->path, version, FORMAT_MAJOR);
}

static bal_status read_config(bal_model *m, bal_error *err)
{
    if (!m->is_artifact) return bal_config_read(&m->config, m->path, err);
    const bal_tensor_view *t;
    BAL_TRY(check_format(m, err));
    BAL_TRY(bal_tensor_get(&m->tensors, "ballast.config", &t, err));
    const bal_status st = bal_config_from_blob(&m->config, t->data, (size_t)t->n_bytes, err);
    return st < 0 ? bal_fail_in(err, st, "%s", m->path) : st;
}

static bal_status allocate_layers(bal_model *m, bal_error *err)
{
    const size_t n = (size_t)m->config.text.layers, nv = (size_t)m->config.vision.layers;
    m->layers = calloc(n, sizeof *m->layers);
    m->vision_layers = calloc(nv + 1, sizeof *m->vision_layers);
    if (m->layers && m->vision_layers) return BAL_OK;
    return bal_nomem(err, n * sizeof *m->layers + nv * sizeof *m->vision_layers, "layer tables");
}

/* The rule that published files obey: lm_head.weight if it is there, else the embedding table, and
 * only if the config says that they are tied. */
static bal_status choose_head(bal_model *m, bal_error *err)
{
    if (m->head.k) return BAL_OK;
    if (!m->config.text.tied)
        return bal_fail(err, BAL_E_FORMAT,
                        "%s: tensor lm_head.weight is missing, and tie_word_embeddings is false",
                        m->path);
    m->head = m->embed;
    return BAL_OK;
}

/* q, k and v may come from one tensor, so their rows are optional; here they must be there. */
static bal_status check_decoder(const bal_model *m, bal_error *err)
{
    for (int layer = 0; layer < m->config.text.layers; layer++)
        for (int i = 0; i < 3; i++) {
            const bal_linear *l = bal_decoder_linear(&m->layers[layer], i);
            const bool weight = l->k != 0, bias = l->bias || !m->config.text.qkv_bias;
            if (weight && bias) continue;
            return bal_fail(err, BAL_E_FORMAT,
                            "%s: tensor model.language_model.layers.%d.%s.%s is missing", m->path,
                            layer, bal_decoder_linear_name(i), weight ? "bias" : "weight");
        }
    return BAL_OK;
}

/* The same for the tower. */
static bal_status check_tower(const bal_model *m, bal_error *err)
{
    for (int i = 0; i < m->config.vision.layers; i++) {
        const bal_vision_layer *l = &m->vision_layers[i];
        const bool weights = l->q.k && l->k.k && l->v.k;
        const bool biases = (l->q.bias && l->k.bias && l->v.bias) || !m->config.vision.qkv_bias;
        if (weights && biases) continue;
        return bal_fail(err, BAL_E_FORMAT, "%s: vision layer %d: the %s of q, k or v are missing",
                        m->path, i, weights ? "biases" : "weights");
    }
    return BAL_OK;
}

static bal_status load(bal_model *m, bal_error *err)
{
    BAL_TRY(bal_tensor_set_open(&m->tensors, m->path, err));
    BAL_TRY(read_config(m, err));
    BAL_TRY(allocate_layers(m, err));
    BAL_TRY(bal_bind(m, bal_family_of(&m->config), err));
    BAL_TRY(check_decoder(m, err));
    BAL_TRY(check_tower(m, err));
    return choose_head(m, err);
}

/* "Qwen/Qwen2-VL-7B-Instruct" is a name on the hub, unless a folder of the first word is here. */
static bool is_hub_name(const char *path)
{
    static const char letters[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_.";
    char owner[200];
    const size_t n = strspn(path, letters), rest = path[n] ? strspn(path + n + 1, letters) : 0;
    if (n == 0 || n >= sizeof owner || path[0] == '.' || path[n] != '/') return false;
    if (rest == 0 || path[n + 1 + rest]) return false;
    snprintf(owner, sizeof owner, "%.*s", (int)n, path);
    return !bal_path_exists(owner);
}

static bal_status not_there(const char *path, bal_error *err)
{
    if (!is_hub_name(path)) return bal_fail(err, BAL_E_IO, "%s: no such file or folder", path);
    return bal_fail(err, BAL_E_IO,
                    "%s: no such file or folder; if this is a name on the hub: Ballast downloads "
                    "nothing, give the folder that the model was downloaded to",
                    path);
}

bal_status bal_model_load(bal_model *m, const char *path, bal_error *err)
{
    *m = (bal_model){0};
    if (snprintf(m->path, sizeof m->path, "%s", path) >= (int)sizeof m->path)
        return bal_fail(err, BAL_E_ARG, "path too long: %.200s", path);
    if (!bal_path_exists(path)) return not_there(path, err);
    m->is_artifact = !bal_path_is_dir(path);
    const bal_status st = load(m, err);
    if (st < 0) bal_model_unload(m);
    return st;
}

void bal_model_unload(bal_model *m)
{
    /* every owned chunk starts with the address of the next */
    for (void *o = m->owned; o;) {
        void *next = *(void **)o;
        free(o);
        o = next;
    }
    free(m->layers);
    free(m->vision_layers);
    bal_tensor_set_close(&m->tensors);
    *m = (bal_model){0};
}

static void widest(int *max, const bal_linear *l)
{
    if (l->k > *max) *max = l->k;
}

int bal_model_max_k(const bal_model *m)
{
    int max = m->head.k;
    for (int layer = 0; layer < m->config.text.layers; layer++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++)
            widest(&max, bal_decoder_linear(&m->layers[layer], i));
    widest(&max, &m->patch);
    widest(&max, &m->projector[0]);
    widest(&max, &m->projector[1]);
    for (int i = 0; i < m->config.vision.layers; i++) {
        for (int j = 0; j < BAL_VISION_LINEARS; j++)
            widest(&max, bal_vision_linear(&m->vision_layers[i], j));
    }
    return max;
}

bal_linear *bal_vision_linear(bal_vision_layer *l, int i)
{
    bal_linear *const all[BAL_VISION_LINEARS] = {&l->q,   &l->k,   &l->v,   &l->out,
                                                 &l->fc1, &l->fc2, &l->gate};
    return all[i];
}

bal_linear *bal_decoder_linear(bal_decoder_layer *l, int i)
{
    bal_linear *const all[BAL_DECODER_LINEARS] = {&l->q,    &l->k,  &l->v,   &l->o,
                                                  &l->gate, &l->up, &l->down};
    return all[i];
}

const char *bal_decoder_linear_name(int i)
{
    static const char *const names[BAL_DECODER_LINEARS] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    return names[i];
}

void bal_decoder_tensor_name(char *out, size_t size, int layer, int i)
{
    snprintf(out, size, "model.language_model.layers.%d.%s.weight", layer,
             bal_decoder_linear_name(i));
}
