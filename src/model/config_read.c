/* SPDX-License-Identifier: MIT
 * Published configs are partial: what they leave out comes from the class defaults of transformers
 * (LlamaConfig, Qwen2Config, Qwen3Config; InternLM2's of its published config.json). */
#include "model/config_read.h"

#include "image/tiles.h"
#include "model/family.h"

#include <math.h>
#include <string.h>

const double bal_clip_mean[3] = {0.48145466, 0.4578275, 0.40821073};
const double bal_clip_std[3] = {0.26862954, 0.26130258, 0.27577711};

bal_status bal_config_fail(bal_error *err, const bal_json *obj, const char *key, const char *what)
{
    return bal_fail(err, BAL_E_FORMAT, "%s: %s%s%s: %s", obj->file, obj->path,
                    obj->path[0] ? "." : "", key, what);
}

bal_status bal_config_expect(const bal_json *obj, const char *key, const char *otherwise,
                             const char *expected, bal_error *err)
{
    const char *found;
    BAL_TRY(bal_json_str_or(obj, key, otherwise, &found, err));
    if (strcmp(found, expected) == 0) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "%s: %s%s%s: \"%s\" is not supported, expected \"%s\"",
                    obj->file, obj->path, obj->path[0] ? "." : "", key, found, expected);
}

/* ---- Language models ------------------------------------------------------------------------ */

/* What the classes disagree about when a key is absent. */
typedef struct text_class {
    const char *model_type;
    int hidden, layers, heads, intermediate, vocab, max_positions; /* for partial configs */
    double theta;
    const char *bias_key; /* NULL: always */
    bool bias, o_bias;    /* default of bias_key, and whether it covers the output too */
    bool qk_norm, grouped;
    int head_dim; /* 0: hidden / heads */
} text_class;

static const text_class classes[] = {
    {"llama", 4096, 32, 32, 11008, 32000, 2048, 1e4, "attention_bias", false, true, false, false,
     0},
    {"qwen2", 4096, 32, 32, 22016, 151936, 32768, 1e4, NULL, true, false, false, false, 0},
    {"qwen3", 4096, 32, 32, 22016, 151936, 32768, 1e4, "attention_bias", false, true, true, false,
     128},
    {"qwen2_vl", 8192, 80, 64, 29568, 152064, 32768, 1e6, NULL, true, false, false, false, 0},
    {"qwen2_vl_text", 8192, 80, 64, 29568, 152064, 32768, 1e6, NULL, true, false, false, false, 0},
    {"qwen2_5_vl", 8192, 80, 64, 29568, 152064, 32768, 1e6, NULL, true, false, false, false, 0},
    {"qwen2_5_vl_text", 8192, 80, 64, 29568, 152064, 32768, 1e6, NULL, true, false, false, false,
     0},
    {"internlm2", 2048, 24, 16, 8192, 92544, 32768, 1e6, "bias", false, true, false, true, 0},
};

static bal_status find_class(const bal_json *o, const char *otherwise, const char *const *types,
                             const text_class **out, bal_error *err)
{
    const char *found;
    char known[160] = "";
    BAL_TRY(bal_json_str_or(o, "model_type", otherwise, &found, err));
    for (; *types; types++) {
        for (size_t i = 0; i < sizeof classes / sizeof *classes; i++) {
            *out = &classes[i];
            if (strcmp(*types, found) == 0 && strcmp(classes[i].model_type, found) == 0)
                return BAL_OK;
        }
        const size_t at = strlen(known);
        snprintf(known + at, sizeof known - at, "%s\"%s\"", at ? ", " : "", *types);
    }
    return bal_fail(err, BAL_E_UNSUP, "%s: %s%smodel_type: \"%s\" is not supported, expected %s",
                    o->file, o->path, o->path[0] ? "." : "", found, known);
}

/* A size that may be absent where the class's default is meant. */
static bal_status size_of(const bal_json *o, const char *key, int max, bool partial, int otherwise,
                          int32_t *out, bal_error *err)
{
    return partial ? bal_json_int_or(o, key, 1, max, otherwise, out, err)
                   : bal_json_int(o, key, 1, max, out, err);
}

static bal_status read_sizes(bal_text_config *t, const bal_json *o, const text_class *k,
                             bool partial, bal_error *err)
{
    BAL_TRY(size_of(o, "hidden_size", BAL_MAX_DIM, partial, k->hidden, &t->hidden, err));
    BAL_TRY(size_of(o, "num_hidden_layers", BAL_MAX_LAYERS, partial, k->layers, &t->layers, err));
    BAL_TRY(size_of(o, "num_attention_heads", BAL_MAX_SIDE, partial, k->heads, &t->heads, err));
    BAL_TRY(
        bal_json_int_or(o, "num_key_value_heads", 1, BAL_MAX_SIDE, t->heads, &t->kv_heads, err));
    const int dim = k->head_dim ? k->head_dim : t->hidden / t->heads;
    BAL_TRY(bal_json_int_or(o, "head_dim", 2, BAL_MAX_DIM, dim < 2 ? 2 : dim, &t->head_dim, err));
    BAL_TRY(size_of(o, "intermediate_size", BAL_MAX_DIM, partial, k->intermediate, &t->intermediate,
                    err));
    BAL_TRY(bal_json_int_or(o, "vocab_size", 1, 1 << 24, k->vocab, &t->vocab, err));
    BAL_TRY(bal_json_int_or(o, "max_position_embeddings", 1, 1 << 24, k->max_positions,
                            &t->max_positions, err));
    if (t->heads % t->kv_heads)
        return bal_config_fail(err, o, "num_key_value_heads",
                               "does not divide num_attention_heads");
    if (t->head_dim % 2)
        return bal_config_fail(err, o, "head_dim", "is odd, rotary positions need pairs");
    return BAL_OK;
}

static bal_status read_f32(const bal_json *o, const char *key, double lo, double hi,
                           double otherwise, float *out, bal_error *err)
{
    double v;
    BAL_TRY(bal_json_f64_or(o, key, lo, hi, otherwise, &v, err));
    *out = (float)v;
    return BAL_OK;
}

/* transformers' get_mscale: 0.1 m ln(factor) + 1 */
static double yarn_magnitude(double factor, double m)
{
    return factor <= 1.0 ? 1.0 : 0.1 * m * log(factor) + 1.0;
}

static bal_status read_yarn(bal_text_config *t, const bal_json *r, bal_error *err)
{
    double m, all, attention;
    t->rope_kind = BAL_ROPE_YARN;
    BAL_TRY(read_f32(r, "factor", 1.0, 1e6, 1.0, &t->rope_factor, err));
    BAL_TRY(read_f32(r, "beta_slow", 1e-3, 1e6, 1.0, &t->rope_low, err));
    BAL_TRY(read_f32(r, "beta_fast", 1e-3, 1e6, 32.0, &t->rope_high, err));
    BAL_TRY(bal_json_f64_or(r, "mscale", 0.0, 100.0, 0.0, &m, err));
    BAL_TRY(bal_json_f64_or(r, "mscale_all_dim", 0.0, 100.0, 0.0, &all, err));
    const double factor = (double)t->rope_factor;
    const double otherwise = m > 0.0 && all > 0.0
                                 ? yarn_magnitude(factor, m) / yarn_magnitude(factor, all)
                                 : yarn_magnitude(factor, 1.0);
    BAL_TRY(bal_json_f64_or(r, "attention_factor", 1e-3, 1e3, otherwise, &attention, err));
    t->rope_magnitude = (float)attention;
    return BAL_OK;
}

static bal_status read_scaling(bal_text_config *t, const bal_json *r, bal_error *err)
{
    static const char *const kinds[] = {"default", "linear", "llama3", "yarn", "dynamic", "mrope"};
    const char *key = bal_json_has(r, "rope_type") ? "rope_type" : "type";
    size_t kind = 0;
    if (bal_json_has(r, key)) BAL_TRY(bal_json_choice(r, key, kinds, 6, &kind, err));
    BAL_TRY(bal_json_int_or(r, "original_max_position_embeddings", 1, 1 << 24, t->max_positions,
                            &t->rope_original, err));
    if (bal_json_has(r, "mrope_section")) {
        size_t n;
        BAL_TRY(bal_json_ints(r, "mrope_section", 1, BAL_MAX_DIM, t->mrope, 3, &n, err));
        if (n != 3) return bal_config_fail(err, r, "mrope_section", "expected three numbers");
    }
    if (kind == 1) {
        t->rope_kind = BAL_ROPE_LINEAR;
        return read_f32(r, "factor", 1.0, 1e6, 1.0, &t->rope_factor, err);
    }
    if (kind == 3) return read_yarn(t, r, err);
    if (kind != 2) return BAL_OK;
    t->rope_kind = BAL_ROPE_LLAMA3;
    BAL_TRY(read_f32(r, "factor", 1.0, 1e6, 8.0, &t->rope_factor, err));
    BAL_TRY(read_f32(r, "low_freq_factor", 1e-3, 1e6, 1.0, &t->rope_low, err));
    BAL_TRY(read_f32(r, "high_freq_factor", 1e-3, 1e6, 4.0, &t->rope_high, err));
    if (t->rope_high > t->rope_low) return BAL_OK;
    return bal_config_fail(err, r, "high_freq_factor", "is not above low_freq_factor");
}

/* rope_scaling up to transformers 4, rope_parameters (with the base in it) from 5 on. */
static bal_status read_rope(bal_text_config *t, const bal_json *o, double theta, bal_error *err)
{
    static const char *const keys[] = {"rope_scaling", "rope_parameters"};
    BAL_TRY(bal_json_f64_or(o, "rope_theta", 1.0, 1e12, theta, &theta, err));
    for (int i = 0; i < 2; i++) {
        bal_json r;
        BAL_TRY(bal_json_obj_or(o, keys[i], &r, err));
        if (!r.value) continue;
        BAL_TRY(read_scaling(t, &r, err));
        BAL_TRY(bal_json_f64_or(&r, "rope_theta", 1.0, 1e12, theta, &theta, err));
    }
    t->rope_theta = (float)theta;
    return BAL_OK;
}

static bal_status read_biases(bal_text_config *t, const bal_json *o, const text_class *k,
                              bal_error *err)
{
    bool bias = k->bias, mlp = false;
    if (k->bias_key) BAL_TRY(bal_json_bool_or(o, k->bias_key, k->bias, &bias, err));
    if (strcmp(k->model_type, "llama") == 0)
        BAL_TRY(bal_json_bool_or(o, "mlp_bias", false, &mlp, err));
    t->qkv_bias = bias;
    t->o_bias = bias && k->o_bias;
    t->mlp_bias = mlp;
    t->qk_norm = k->qk_norm;
    t->grouped_qkv = k->grouped;
    return BAL_OK;
}

static bal_status read_tied(bal_text_config *t, const bal_json *o, const bal_json *root,
                            bal_error *err)
{
    bool top, text;
    BAL_TRY(bal_json_bool_or(root, "tie_word_embeddings", false, &top, err));
    BAL_TRY(bal_json_bool_or(o, "tie_word_embeddings", top, &text, err));
    t->tied = top || text;
    return BAL_OK;
}

bal_status bal_config_text(bal_text_config *t, const bal_json *o, const bal_json *root,
                           const char *otherwise, const char *const *types, bool partial,
                           bal_error *err)
{
    const text_class *k = NULL;
    bool sliding;
    BAL_TRY(find_class(o, otherwise, types, &k, err));
    BAL_TRY(bal_config_expect(o, "hidden_act", "silu", "silu", err));
    BAL_TRY(read_sizes(t, o, k, partial, err));
    BAL_TRY(read_f32(o, "rms_norm_eps", 0.0, 1.0, 1e-6, &t->rms_eps, err));
    BAL_TRY(read_tied(t, o, root, err));
    BAL_TRY(read_biases(t, o, k, err));
    BAL_TRY(read_rope(t, o, k->theta, err));
    BAL_TRY(bal_json_bool_or(o, "use_sliding_window", false, &sliding, err));
    if (!sliding) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "%s: %s%suse_sliding_window: not supported", o->file, o->path,
                    o->path[0] ? "." : "");
}

/* ---- Vision towers and pictures ---------------------------------------------------------------
 */

bal_status bal_config_act(const bal_json *o, const char *key, const char *otherwise, int32_t *out,
                          bal_error *err)
{
    static const char *const names[] = {"gelu_pytorch_tanh", "gelu", "quick_gelu", "gelu_new"};
    const char *found;
    BAL_TRY(bal_json_str_or(o, key, otherwise, &found, err));
    for (int i = 0; i < 4; i++) {
        *out = i < BAL_N_ACTS ? i : BAL_ACT_GELU_TANH; /* gelu_new is the tanh form */
        if (strcmp(found, names[i]) == 0) return BAL_OK;
    }
    return bal_fail(err, BAL_E_UNSUP,
                    "%s: %s%s%s: \"%s\" is not supported, expected \"gelu_pytorch_tanh\", "
                    "\"gelu\" or \"quick_gelu\"",
                    o->file, o->path, o->path[0] ? "." : "", key, found);
}

/* A side, or [height, width] of a square. */
static bal_status read_side(const bal_json *o, const char *key, int otherwise, int32_t *out,
                            bal_error *err)
{
    const bal_json v = bal_json_get(o, key);
    if (!v.value || bal_json_len(&v) != 2)
        return bal_json_int_or(o, key, 1, BAL_MAX_SIDE, otherwise, out, err);
    int both[2];
    size_t n;
    BAL_TRY(bal_json_ints(o, key, 1, BAL_MAX_SIDE, both, 2, &n, err));
    *out = both[0];
    return both[0] == both[1] ? BAL_OK : bal_config_fail(err, o, key, "is not a square");
}

bal_status bal_config_vision(bal_vision_config *v, const bal_json *o, const bal_vision_defaults *d,
                             bal_error *err)
{
    BAL_TRY(bal_config_act(o, "hidden_act", d->act, &v->act, err));
    BAL_TRY(bal_json_int_or(o, "hidden_size", 1, BAL_MAX_DIM, d->hidden, &v->hidden, err));
    BAL_TRY(bal_json_int_or(o, "num_hidden_layers", 1, BAL_MAX_LAYERS, d->layers, &v->layers, err));
    BAL_TRY(bal_json_int_or(o, "num_attention_heads", 1, BAL_MAX_SIDE, d->heads, &v->heads, err));
    BAL_TRY(bal_json_int_or(o, "intermediate_size", 1, BAL_MAX_DIM, d->intermediate,
                            &v->intermediate, err));
    BAL_TRY(read_f32(o, "layer_norm_eps", 0.0, 1.0, d->ln_eps, &v->ln_eps, err));
    BAL_TRY(read_side(o, "patch_size", d->patch_size, &v->patch_size, err));
    BAL_TRY(read_side(o, "image_size", d->image_size, &v->image_size, err));
    v->side = v->image_size / v->patch_size;
    v->file_layers = v->layers;
    v->norm = BAL_NORM_LAYER;
    v->qkv_bias = 1;
    v->shuffle = 1;
    v->projector_act = BAL_ACT_GELU;
    if (v->hidden % v->heads)
        return bal_config_fail(err, o, "num_attention_heads", "does not divide hidden_size");
    if (v->side < 1) return bal_config_fail(err, o, "patch_size", "is larger than image_size");
    return BAL_OK;
}

bal_status bal_config_feature_layer(bal_vision_config *v, const bal_json *root, const char *key,
                                    int otherwise, bal_error *err)
{
    int layer;
    BAL_TRY(bal_json_int_or(root, key, -v->layers, -1, otherwise, &layer, err));
    v->layers += layer + 1;
    return v->layers > 0 ? BAL_OK : bal_config_fail(err, root, key, "leaves no layer to run");
}

bal_status bal_config_view_size(const bal_config *c, const bal_json *o, const char *key,
                                bal_error *err)
{
    static const char *const names[] = {"height", "shortest_edge", "longest_edge"};
    const bal_json v = bal_json_get(o, key);
    int found = c->vision.image_size;
    if (v.value && json_is_integer(v.value)) BAL_TRY(bal_json_as_int(&v, 1, 1 << 16, &found, err));
    if (v.value && json_is_object(v.value))
        for (int i = 0; i < 3; i++)
            BAL_TRY(bal_json_int_or(&v, names[i], 1, 1 << 16, found, &found, err));
    if (found == c->vision.image_size) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "%s: %s: %d differs from vision_config.image_size, %d",
                    o->file, key, found, c->vision.image_size);
}

bal_status bal_config_views_within(const bal_config *c, int n, int *views, bal_error *err)
{
    const int each = bal_view_tokens(&c->vision);
    *views = each > 0 ? n / each : 0;
    if (*views >= 1) return BAL_OK;
    return bal_fail(err, BAL_E_ARG,
                    "at most %d tokens for a picture: this model's pictures take at least %d", n,
                    each);
}

bal_status bal_config_image_token(bal_config *c, const bal_json *root, int otherwise,
                                  bal_error *err)
{
    const char *key = bal_json_has(root, "image_token_id") ? "image_token_id" : "image_token_index";
    const int last = c->text.vocab - 1;
    return bal_json_int_or(root, key, 0, last, otherwise < last ? otherwise : last, &c->image_token,
                           err);
}

static bal_status read_floats3(const bal_json *o, const char *key, const double otherwise[3],
                               double lowest, float out[3], bal_error *err)
{
    double v[3];
    size_t n = 3;
    memcpy(v, otherwise, sizeof v);
    if (bal_json_has(o, key)) BAL_TRY(bal_json_f64s(o, key, lowest, 10.0, v, 3, &n, err));
    if (n != 3) return bal_config_fail(err, o, key, "expected three numbers");
    for (int i = 0; i < 3; i++) out[i] = (float)v[i];
    return BAL_OK;
}

bal_status bal_config_norm(bal_config *c, const bal_json *o, const double mean[3],
                           const double std[3], int resample, bal_error *err)
{
    BAL_TRY(read_floats3(o, "image_mean", mean, -10.0, c->image_mean, err));
    BAL_TRY(read_floats3(o, "image_std", std, 1e-6, c->image_std, err));
    BAL_TRY(bal_json_int_or(o, "resample", 0, 5, resample, &c->resample, err));
    if (c->resample >= 1 && c->resample <= 3) return BAL_OK;
    return bal_config_fail(err, o, "resample",
                           "only 1 (Lanczos), 2 (bilinear) and 3 (bicubic) are supported");
}

bal_norm bal_config_pixel_norm(const bal_config *c)
{
    bal_norm norm;
    for (int i = 0; i < 3; i++) {
        norm.mean[i] = (double)c->image_mean[i];
        norm.std[i] = (double)c->image_std[i];
    }
    return norm;
}

bal_status bal_family_tile_pixels(const bal_config *c, const bal_view_plan *p,
                                  const bal_image *image, float *out, bal_error *err)
{
    const bal_norm norm = bal_config_pixel_norm(c);
    return bal_tiles_pixels(p, image, &norm, (bal_filter)c->resample, out, err);
}
