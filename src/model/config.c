/* SPDX-License-Identifier: MIT
 * Published configs are partial: what they leave out comes from the transformers class defaults
 * (LlavaOnevisionConfig, Qwen2Config, SiglipVisionConfig, LlavaOnevisionImageProcessor). */
#include "model/config.h"

#include "base/file.h"
#include "format/json.h"
#include "op/attention.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_DIM = 1 << 20, MAX_LAYERS = 1024, MAX_SIDE = 4096, MAX_PATCHES = 1 << 24 };
#define CONFIG_MAX_BYTES ((size_t)8 << 20)

/* ---- Limits: one list for both forms. What is out of range, or NULL. ---- */

static bool in_range(int32_t v, int32_t lo, int32_t hi)
{
    return v >= lo && v <= hi;
}

static const char *text_fault(const bal_text_config *t)
{
    if (!in_range(t->hidden, 2, MAX_DIM)) return "text hidden size";
    if (!in_range(t->layers, 1, MAX_LAYERS)) return "text layers";
    if (!in_range(t->heads, 1, MAX_SIDE) || !in_range(t->kv_heads, 1, MAX_SIDE) ||
        t->heads % t->kv_heads)
        return "text heads";
    if (!in_range(t->head_dim, 2, BAL_MAX_HEAD_DIM) || t->head_dim % 2) return "text head size";
    if (!in_range(t->heads * t->head_dim, 2, MAX_DIM)) return "text heads times head size";
    if (!in_range(t->intermediate, 1, MAX_DIM)) return "text intermediate size";
    if (!in_range(t->vocab, 1, 1 << 24)) return "vocabulary size";
    if (!in_range(t->max_positions, 1, 1 << 24)) return "maximum positions";
    if (!in_range(t->tied, 0, 1)) return "tied head";
    if (!(t->rope_theta >= 1.0f && t->rope_theta <= 1e12f)) return "rope theta";
    if (!(t->rms_eps >= 0.0f && t->rms_eps <= 1.0f)) return "rms eps";
    return NULL;
}

/* A multiple of the view size, and not more patches in all views than one picture may have. */
static bool good_pinpoint(const bal_vision_config *v, const int32_t p[2])
{
    for (int j = 0; j < 2; j++)
        if (!in_range(p[j], 1, 1 << 16) || p[j] % v->image_size) return false;
    const int64_t views = 1 + (int64_t)(p[0] / v->image_size) * (p[1] / v->image_size);
    return views * v->side * v->side <= MAX_PATCHES;
}

static const char *vision_fault(const bal_config *c)
{
    const bal_vision_config *v = &c->vision;
    if (!in_range(v->hidden, 1, MAX_DIM) || !in_range(v->layers, 1, MAX_LAYERS))
        return "vision size";
    if (!in_range(v->heads, 1, MAX_SIDE) || v->hidden % v->heads ||
        v->hidden / v->heads > BAL_MAX_HEAD_DIM)
        return "vision heads";
    if (!in_range(v->intermediate, 1, MAX_DIM)) return "vision intermediate size";
    if (!in_range(v->image_size, 1, MAX_SIDE) || !in_range(v->patch_size, 1, v->image_size) ||
        v->side != v->image_size / v->patch_size)
        return "vision view size";
    if (!(v->ln_eps >= 0.0f && v->ln_eps <= 1.0f)) return "vision layer norm eps";
    if (!in_range(c->n_pinpoints, 1, BAL_MAX_PINPOINTS)) return "number of pinpoints";
    for (int i = 0; i < c->n_pinpoints; i++)
        if (!good_pinpoint(v, c->pinpoints[i])) return "image_grid_pinpoints";
    for (int i = 0; i < 3; i++)
        if (!(c->image_std[i] >= 1e-6f && c->image_std[i] <= 10.0f) ||
            !(c->image_mean[i] >= -10.0f && c->image_mean[i] <= 10.0f))
            return "image mean or std";
    if (!in_range(c->max_tiles, 1, 1024)) return "maximum tiles";
    return NULL;
}

static const char *config_fault(const bal_config *c)
{
    if (c->family != BAL_FAMILY_LLAVA_ONEVISION) return "family";
    if (c->has_vision != 1) return "vision flag"; /* the one family so far has a tower */
    const char *fault = text_fault(&c->text);
    if (!fault) fault = vision_fault(c);
    if (fault) return fault;
    if (!in_range(c->image_token, 0, c->text.vocab - 1)) return "image token";
    if (!in_range(c->n_eos, 0, BAL_MAX_EOS)) return "number of stop tokens";
    for (int i = 0; i < c->n_eos; i++)
        if (!in_range(c->eos[i], 0, c->text.vocab - 1)) return "stop tokens";
    return NULL;
}

/* ---- config.json and its neighbours ---- */

static bal_status fail_at(bal_error *err, const bal_json *obj, const char *key, const char *what)
{
    return bal_fail(err, BAL_E_FORMAT, "%s: %s%s%s: %s", obj->file, obj->path,
                    obj->path[0] ? "." : "", key, what);
}

/* A string key that must have one value for this build to be right about the model. */
static bal_status expect_str(const bal_json *obj, const char *key, const char *otherwise,
                             const char *expected, bal_error *err)
{
    const char *found;
    BAL_TRY(bal_json_str_or(obj, key, otherwise, &found, err));
    if (strcmp(found, expected) == 0) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "%s: %s%s%s: \"%s\" is not supported, expected \"%s\"",
                    obj->file, obj->path, obj->path[0] ? "." : "", key, found, expected);
}

/* rope_scaling up to transformers 4, rope_parameters (with the base in it) from 5 on; only the
 * plain rotary embedding is known here. */
static bal_status read_rope(bal_text_config *t, const bal_json *o, bal_error *err)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    double theta;
    BAL_TRY(bal_json_f64_or(o, "rope_theta", 1.0, 1e12, 10000.0, &theta, err));
    for (int i = 0; i < 2; i++) {
        bal_json r;
        BAL_TRY(bal_json_obj_or(o, keys[i], &r, err));
        if (!r.value) continue;
        const char *key = bal_json_has(&r, "rope_type") ? "rope_type" : "type";
        BAL_TRY(expect_str(&r, key, "default", "default", err));
        BAL_TRY(bal_json_f64_or(&r, "rope_theta", 1.0, 1e12, theta, &theta, err));
    }
    t->rope_theta = (float)theta;
    return BAL_OK;
}

static bal_status read_text(bal_text_config *t, const bal_json *root, bal_error *err)
{
    bal_json o;
    double eps;
    bool tied_top, tied_text;
    BAL_TRY(bal_json_obj(root, "text_config", &o, err));
    BAL_TRY(expect_str(&o, "model_type", "qwen2", "qwen2", err));
    BAL_TRY(expect_str(&o, "hidden_act", "silu", "silu", err));
    BAL_TRY(bal_json_int(&o, "hidden_size", 2, MAX_DIM, &t->hidden, err));
    BAL_TRY(bal_json_int(&o, "num_hidden_layers", 1, MAX_LAYERS, &t->layers, err));
    BAL_TRY(bal_json_int(&o, "num_attention_heads", 1, MAX_SIDE, &t->heads, err));
    BAL_TRY(bal_json_int_or(&o, "num_key_value_heads", 1, MAX_SIDE, t->heads, &t->kv_heads, err));
    BAL_TRY(bal_json_int_or(&o, "head_dim", 2, MAX_DIM, t->hidden / t->heads, &t->head_dim, err));
    BAL_TRY(bal_json_int(&o, "intermediate_size", 1, MAX_DIM, &t->intermediate, err));
    BAL_TRY(bal_json_int_or(&o, "vocab_size", 1, 1 << 24, 151936, &t->vocab, err));
    BAL_TRY(
        bal_json_int_or(&o, "max_position_embeddings", 1, 1 << 24, 32768, &t->max_positions, err));
    BAL_TRY(bal_json_f64_or(&o, "rms_norm_eps", 0.0, 1.0, 1e-6, &eps, err));
    BAL_TRY(bal_json_bool_or(root, "tie_word_embeddings", false, &tied_top, err));
    BAL_TRY(bal_json_bool_or(&o, "tie_word_embeddings", tied_top, &tied_text, err));
    t->tied = tied_top || tied_text;
    t->rms_eps = (float)eps;
    if (t->heads % t->kv_heads)
        return fail_at(err, &o, "num_key_value_heads", "does not divide num_attention_heads");
    if (t->head_dim % 2) return fail_at(err, &o, "head_dim", "is odd, rotary positions need pairs");
    BAL_TRY(read_rope(t, &o, err));
    bool sliding;
    BAL_TRY(bal_json_bool_or(&o, "use_sliding_window", false, &sliding, err));
    if (sliding)
        return bal_fail(err, BAL_E_UNSUP, "%s: text_config.use_sliding_window: not supported",
                        o.file);
    return BAL_OK;
}

static bal_status read_vision(bal_vision_config *v, const bal_json *root, bal_error *err)
{
    bal_json o;
    double eps;
    BAL_TRY(bal_json_obj(root, "vision_config", &o, err));
    BAL_TRY(expect_str(&o, "model_type", "siglip_vision_model", "siglip_vision_model", err));
    BAL_TRY(expect_str(&o, "hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh", err));
    BAL_TRY(bal_json_int_or(&o, "hidden_size", 1, MAX_DIM, 1152, &v->hidden, err));
    BAL_TRY(bal_json_int_or(&o, "num_hidden_layers", 1, MAX_LAYERS, 26, &v->layers, err));
    BAL_TRY(bal_json_int_or(&o, "num_attention_heads", 1, MAX_SIDE, 16, &v->heads, err));
    BAL_TRY(bal_json_int_or(&o, "intermediate_size", 1, MAX_DIM, 4304, &v->intermediate, err));
    BAL_TRY(bal_json_int_or(&o, "image_size", 1, MAX_SIDE, 384, &v->image_size, err));
    BAL_TRY(bal_json_int_or(&o, "patch_size", 1, MAX_SIDE, 14, &v->patch_size, err));
    BAL_TRY(bal_json_f64_or(&o, "layer_norm_eps", 0.0, 1.0, 1e-6, &eps, err));
    v->ln_eps = (float)eps;
    v->side = v->image_size / v->patch_size;
    if (v->hidden % v->heads)
        return fail_at(err, &o, "num_attention_heads", "does not divide hidden_size");
    if (v->side < 1) return fail_at(err, &o, "patch_size", "is larger than image_size");
    return BAL_OK;
}

/* "anyres_max_9" -> 9 */
static bal_status read_aspect(bal_config *c, const bal_json *root, bal_error *err)
{
    const char *s;
    int used = 0;
    BAL_TRY(bal_json_str_or(root, "vision_aspect_ratio", "anyres_max_9", &s, err));
    if (sscanf(s, "anyres_max_%d%n", &c->max_tiles, &used) == 1 && s[used] == 0 &&
        c->max_tiles >= 1 && c->max_tiles <= 1024)
        return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP,
                    "%s: vision_aspect_ratio: \"%s\" is not supported, expected \"anyres_max_N\"",
                    root->file, s);
}

/* The 36 pairs of the published checkpoints, the class default. */
static void default_pinpoints(bal_config *c)
{
    for (int h = 384; h <= 2304; h += 384)
        for (int w = 384; w <= 2304; w += 384) {
            c->pinpoints[c->n_pinpoints][0] = h;
            c->pinpoints[c->n_pinpoints++][1] = w;
        }
}

static bal_status read_pinpoints(bal_config *c, const bal_json *root, bal_error *err)
{
    bal_json list;
    if (!bal_json_has(root, "image_grid_pinpoints")) {
        default_pinpoints(c);
        return BAL_OK;
    }
    BAL_TRY(bal_json_array(root, "image_grid_pinpoints", 1, BAL_MAX_PINPOINTS, &list, err));
    for (size_t i = 0; i < bal_json_len(&list); i++) {
        const bal_json pair = bal_json_at(&list, i);
        if (bal_json_len(&pair) != 2)
            return bal_json_mismatch(&pair, err, "a pair of height and width");
        for (size_t j = 0; j < 2; j++) {
            const bal_json side = bal_json_at(&pair, j);
            BAL_TRY(bal_json_as_int(&side, 1, 1 << 16, &c->pinpoints[i][j], err));
            if (c->pinpoints[i][j] % c->vision.image_size)
                return bal_json_mismatch(&side, err, "a multiple of the view size %d",
                                         c->vision.image_size);
        }
    }
    c->n_pinpoints = (int32_t)bal_json_len(&list);
    return BAL_OK;
}

/* One id or a list of ids. */
static bal_status read_eos(bal_config *c, const bal_json *obj, bal_error *err)
{
    const bal_json v = bal_json_get(obj, "eos_token_id");
    if (!v.value || json_is_null(v.value)) return BAL_OK;
    size_t n = 1;
    if (json_is_array(v.value)) {
        BAL_TRY(
            bal_json_ints(obj, "eos_token_id", 0, c->text.vocab - 1, c->eos, BAL_MAX_EOS, &n, err));
    } else {
        BAL_TRY(bal_json_as_int(&v, 0, c->text.vocab - 1, &c->eos[0], err));
    }
    c->n_eos = (int32_t)n;
    return BAL_OK;
}

static bal_status read_main(bal_config *c, const bal_json *root, bal_error *err)
{
    const char *type;
    BAL_TRY(bal_json_str(root, "model_type", &type, err));
    if (strcmp(type, "llava_onevision") != 0)
        return bal_fail(err, BAL_E_UNSUP,
                        "%s: model_type: \"%s\" is not supported, expected \"llava_onevision\"",
                        root->file, type);
    c->family = BAL_FAMILY_LLAVA_ONEVISION;
    c->has_vision = 1;
    BAL_TRY(read_text(&c->text, root, err));
    BAL_TRY(read_vision(&c->vision, root, err));
    BAL_TRY(expect_str(root, "projector_hidden_act", "gelu", "gelu", err));
    BAL_TRY(expect_str(root, "vision_feature_select_strategy", "full", "full", err));
    int layer;
    BAL_TRY(bal_json_int_or(root, "vision_feature_layer", -1, -1, -1, &layer, err));
    BAL_TRY(read_aspect(c, root, err));
    BAL_TRY(read_pinpoints(c, root, err));
    const int token_otherwise = c->text.vocab > 151646 ? 151646 : c->text.vocab - 1;
    BAL_TRY(bal_json_int_or(
        root, bal_json_has(root, "image_token_id") ? "image_token_id" : "image_token_index", 0,
        c->text.vocab - 1, token_otherwise, &c->image_token, err));
    const bal_json text = bal_json_get(root, "text_config");
    BAL_TRY(read_eos(c, &text, err));
    return read_eos(c, root, err);
}

/* The class defaults are CLIP's, although every published file says 0.5. */
static bal_status read_floats3(const bal_json *o, const char *key, const double otherwise[3],
                               double lowest, float out[3], bal_error *err)
{
    double v[3];
    size_t n = 3;
    memcpy(v, otherwise, sizeof v);
    if (bal_json_has(o, key)) BAL_TRY(bal_json_f64s(o, key, lowest, 10.0, v, 3, &n, err));
    if (n != 3) return fail_at(err, o, key, "expected three numbers");
    for (int i = 0; i < 3; i++) out[i] = (float)v[i];
    return BAL_OK;
}

static bal_status read_preprocessor(bal_config *c, const bal_json *o, bal_error *err)
{
    static const double mean[3] = {0.48145466, 0.4578275, 0.40821073};
    static const double std[3] = {0.26862954, 0.26130258, 0.27577711};
    BAL_TRY(read_floats3(o, "image_mean", mean, -10.0, c->image_mean, err));
    BAL_TRY(read_floats3(o, "image_std", std, 1e-6, c->image_std, err));
    int resample;
    BAL_TRY(bal_json_int_or(o, "resample", 0, 5, 3, &resample, err));
    if (resample != 3) return fail_at(err, o, "resample", "only 3 (bicubic) is supported");
    bal_json size;
    BAL_TRY(bal_json_obj_or(o, "size", &size, err));
    int h;
    BAL_TRY(bal_json_int_or(&size, "height", 1, MAX_SIDE, c->vision.image_size, &h, err));
    if (h != c->vision.image_size)
        return fail_at(err, &size, "height", "differs from vision_config.image_size");
    return BAL_OK;
}

/* Reads DIR/name if it is there and hands its root to fn. */
static bal_status with_json(bal_config *c, const char *dir, const char *name, bool required,
                            bal_status (*fn)(bal_config *, const bal_json *, bal_error *),
                            bal_error *err)
{
    char path[1100];
    BAL_TRY(bal_path_join(path, sizeof path, dir, name, err));
    if (!required && !bal_path_exists(path)) return BAL_OK;
    bal_json_doc doc = {0};
    bal_status st;
    BAL_GOTO(bal_json_load(&doc, path, CONFIG_MAX_BYTES, err), done);
    const bal_json root = bal_json_root(&doc);
    st = fn(c, &root, err);
done:
    bal_json_close(&doc);
    return st;
}

bal_status bal_config_read(bal_config *c, const char *dir, bal_error *err)
{
    *c = (bal_config){0};
    BAL_TRY(with_json(c, dir, "config.json", true, read_main, err));
    BAL_TRY(with_json(c, dir, "preprocessor_config.json", true, read_preprocessor, err));
    BAL_TRY(with_json(c, dir, "generation_config.json", false, read_eos, err));
    const char *fault = config_fault(c);
    return fault ? bal_fail(err, BAL_E_FORMAT, "%s: config: %s out of range", dir, fault) : BAL_OK;
}

/* ---- The compiled form: magic, count, then the struct's 32-bit fields in order ----------------
 */

enum { BLOB_MAGIC = 0x31434c42, BLOB_WORDS = sizeof(bal_config) / 4 };
_Static_assert(sizeof(bal_config) % 4 == 0, "bal_config must consist of 32-bit fields");

static void put32(uint8_t *p, uint32_t v)
{
    for (int i = 0; i < 4; i++) p[i] = (uint8_t)(v >> 8 * i);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

bal_status bal_config_blob(const bal_config *c, uint8_t **out, size_t *n_bytes, bal_error *err)
{
    *n_bytes = 4 * (BLOB_WORDS + 2);
    *out = malloc(*n_bytes);
    if (!*out) return bal_nomem(err, *n_bytes, "compiled config");
    uint32_t words[BLOB_WORDS];
    memcpy(words, c, sizeof words);
    put32(*out, BLOB_MAGIC);
    put32(*out + 4, BLOB_WORDS);
    for (int i = 0; i < BLOB_WORDS; i++) put32(*out + 8 + 4 * i, words[i]);
    return BAL_OK;
}

bal_status bal_config_from_blob(bal_config *c, const uint8_t *data, size_t n_bytes, bal_error *err)
{
    *c = (bal_config){0};
    if (n_bytes != 4 * (BLOB_WORDS + 2) || get32(data) != BLOB_MAGIC ||
        get32(data + 4) != BLOB_WORDS)
        return bal_fail(err, BAL_E_FORMAT, "compiled config: %zu bytes, not of this version",
                        n_bytes);
    uint32_t words[BLOB_WORDS];
    for (int i = 0; i < BLOB_WORDS; i++) words[i] = get32(data + 8 + 4 * i);
    memcpy(c, words, sizeof *c);
    const char *fault = config_fault(c);
    if (!fault) return BAL_OK;
    *c = (bal_config){0};
    return bal_fail(err, BAL_E_FORMAT, "compiled config: %s out of range", fault);
}
