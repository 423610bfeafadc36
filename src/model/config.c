/* SPDX-License-Identifier: MIT
 * The way from files to a checked config, and the compiled form. Limits stand here once, for
 * both; what is one family's own stands in its file. */
#include "model/config.h"

#include "base/file.h"
#include "base/size.h"
#include "model/config_read.h"
#include "model/family.h"
#include "op/attention.h"

#include <stdlib.h>
#include <string.h>

#define CONFIG_MAX_BYTES ((size_t)8 << 20)

/* ---- Limits: one list for both forms. What is out of range, or NULL. ---- */

static bool in_range(int32_t v, int32_t lo, int32_t hi)
{
    return v >= lo && v <= hi;
}

static bool is_flag(int32_t v)
{
    return v == 0 || v == 1;
}

static bool float_in(float v, float lo, float hi)
{
    return v >= lo && v <= hi;
}

static const char *rope_fault(const bal_text_config *t)
{
    if (!in_range(t->rope_kind, BAL_ROPE_PLAIN, BAL_ROPE_YARN)) return "rope kind";
    if (!in_range(t->rope_original, 0, 1 << 24)) return "original maximum positions";
    if (!float_in(t->rope_theta, 1.0f, 1e12f)) return "rope theta";
    if (!float_in(t->rope_factor, 0.0f, 1e6f) || !float_in(t->rope_low, 0.0f, 1e6f) ||
        !float_in(t->rope_high, 0.0f, 1e6f) || !float_in(t->rope_magnitude, 0.0f, 1e3f))
        return "rope scaling";
    if (t->rope_kind != BAL_ROPE_PLAIN && t->rope_factor < 1.0f) return "rope factor";
    if (t->rope_kind > BAL_ROPE_LINEAR && (t->rope_original < 1 || !(t->rope_high > t->rope_low)))
        return "rope frequency factors";
    for (int i = 0; i < 3; i++)
        if (!in_range(t->mrope[i], 0, BAL_MAX_HEAD_DIM)) return "mrope section";
    const int sum = t->mrope[0] + t->mrope[1] + t->mrope[2];
    return sum && sum != t->head_dim / 2 ? "sum of the mrope sections" : NULL;
}

static const char *text_fault(const bal_text_config *t)
{
    if (!in_range(t->hidden, 2, BAL_MAX_DIM)) return "text hidden size";
    if (!in_range(t->layers, 1, BAL_MAX_LAYERS)) return "text layers";
    if (!in_range(t->heads, 1, BAL_MAX_SIDE) || !in_range(t->kv_heads, 1, BAL_MAX_SIDE) ||
        t->heads % t->kv_heads)
        return "text heads";
    if (!in_range(t->head_dim, 2, BAL_MAX_HEAD_DIM) || t->head_dim % 2) return "text head size";
    if (!in_range(t->heads * t->head_dim, 2, BAL_MAX_DIM)) return "text heads times head size";
    if (!in_range(t->intermediate, 1, BAL_MAX_DIM)) return "text intermediate size";
    if (!in_range(t->vocab, 1, 1 << 24)) return "vocabulary size";
    if (!in_range(t->max_positions, 1, 1 << 24)) return "maximum positions";
    if (!is_flag(t->tied)) return "tied head";
    if (!is_flag(t->qkv_bias) || !is_flag(t->o_bias) || !is_flag(t->mlp_bias)) return "text biases";
    if (!is_flag(t->qk_norm) || !is_flag(t->grouped_qkv)) return "text attention flags";
    if (!float_in(t->rms_eps, 0.0f, 1.0f)) return "rms eps";
    return rope_fault(t);
}

static const char *flags_fault(const bal_vision_config *v)
{
    if (!in_range(v->act, 0, BAL_N_ACTS - 1) || !in_range(v->projector_act, 0, BAL_N_ACTS - 1))
        return "vision activation";
    if (!in_range(v->norm, BAL_NORM_RMS, BAL_NORM_LAYER)) return "vision norm";
    if (!is_flag(v->cls) || !is_flag(v->pre_norm) || !is_flag(v->post_norm) ||
        !is_flag(v->qkv_bias) || !is_flag(v->qk_norm) || !is_flag(v->shuffle_columns) ||
        !is_flag(v->gated))
        return "vision flags";
    if (!in_range(v->temporal, 0, 16)) return "frames of a patch";
    if (!in_range(v->window, 0, BAL_MAX_SIDE)) return "vision window";
    for (int i = 0; i < BAL_MAX_LAYERS; i++) /* only blocks that could have windows are listed */
        if ((i >= v->layers || !v->window) && (uint32_t)v->full_blocks[i / 32] >> i % 32 & 1)
            return "vision blocks without windows";
    return NULL;
}

static const char *tower_fault(const bal_vision_config *v)
{
    if (!in_range(v->hidden, 1, BAL_MAX_DIM) || !in_range(v->layers, 1, BAL_MAX_LAYERS) ||
        !in_range(v->file_layers, v->layers, BAL_MAX_LAYERS))
        return "vision size";
    if (!in_range(v->heads, 1, BAL_MAX_SIDE) || v->hidden % v->heads ||
        v->hidden / v->heads > BAL_MAX_HEAD_DIM)
        return "vision heads";
    if (!in_range(v->intermediate, 1, BAL_MAX_DIM)) return "vision intermediate size";
    if (!in_range(v->image_size, 1, BAL_MAX_SIDE) || !in_range(v->patch_size, 1, v->image_size) ||
        v->side != v->image_size / v->patch_size)
        return "vision view size";
    if (!in_range(v->shuffle, 1, v->side) || v->side % v->shuffle ||
        (int64_t)v->hidden * v->shuffle * v->shuffle > BAL_MAX_DIM)
        return "pixel shuffle";
    if (!float_in(v->ln_eps, 0.0f, 1.0f)) return "vision norm eps";
    return flags_fault(v);
}

static const char *picture_fault(const bal_config *c)
{
    if (!in_range(c->n_pinpoints, 0, BAL_MAX_PINPOINTS)) return "number of pinpoints";
    for (int i = 0; i < 3; i++)
        if (!float_in(c->image_std[i], 1e-6f, 10.0f) || !float_in(c->image_mean[i], -10.0f, 10.0f))
            return "image mean or std";
    if (!in_range(c->min_tiles, 0, c->max_tiles) || !in_range(c->max_tiles, 0, 1024))
        return "tiles";
    if (!is_flag(c->thumbnail)) return "thumbnail";
    if (!in_range(c->resample, 1, 3)) return "resample";
    if (!in_range(c->resize_edge, 0, 1 << 16)) return "edge to resize to";
    if (c->min_pixels < 0 || c->max_pixels < c->min_pixels) return "pixels of a picture";
    if (!in_range(c->image_token, -1, c->text.vocab - 1)) return "image token";
    const bal_vision_config *v = &c->vision;
    const int64_t views = 1 + (int64_t)c->max_tiles;
    return views * v->side * v->side > BAL_MAX_PATCHES ? "tiles times patches" : NULL;
}

/* Without a tower nothing of it may be set. */
static const char *blind_fault(const bal_config *c)
{
    static const bal_vision_config none;
    if (memcmp(&c->vision, &none, sizeof none) != 0) return "vision without a tower";
    return c->n_pinpoints ? "pinpoints without a tower" : NULL;
}

static const char *config_fault(const bal_config *c)
{
    const bal_family_def *family = bal_family_by_id(c->family);
    if (!family) return "family";
    if (c->has_vision != (family->plan != NULL)) return "vision flag";
    const char *fault = text_fault(&c->text);
    if (!fault) fault = c->has_vision ? tower_fault(&c->vision) : blind_fault(c);
    if (!fault && c->has_vision) fault = picture_fault(c);
    if (!fault && family->fault) fault = family->fault(c);
    if (fault) return fault;
    if (!in_range(c->n_eos, 0, BAL_MAX_EOS)) return "number of stop tokens";
    for (int i = 0; i < c->n_eos; i++)
        if (!in_range(c->eos[i], 0, c->text.vocab - 1)) return "stop tokens";
    return NULL;
}

/* ---- config.json and its neighbours ---- */

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

/* Weights that another program has packed have names and types of its own. */
static bal_status refuse_packed(const bal_json *o, bal_error *err)
{
    static const char *const keys[] = {"quantization_config", "compression_config"};
    for (int i = 0; i < 2; i++) {
        bal_json packed;
        const char *method;
        BAL_TRY(bal_json_obj_or(o, keys[i], &packed, err));
        if (!packed.value) continue;
        BAL_TRY(
            bal_json_str_or(&packed, "quant_method", "a method it does not name", &method, err));
        return bal_fail(err, BAL_E_UNSUP,
                        "%s: %s%s%s: this checkpoint is already quantized with %.60s; take the "
                        "original one, ballast quantize makes it small",
                        o->file, o->path, o->path[0] ? "." : "", keys[i], method);
    }
    return BAL_OK;
}

static bal_status read_main(bal_config *c, const bal_json *root, bal_error *err)
{
    static const char *const parts[] = {"text_config", "llm_config"};
    const char *type;
    const bal_family_def *family;
    BAL_TRY(bal_json_str(root, "model_type", &type, err));
    BAL_TRY(bal_family_find(&family, type, root->file, err));
    BAL_TRY(refuse_packed(root, err));
    c->family = family->id;
    c->has_vision = family->plan != NULL;
    BAL_TRY(family->read(c, root, err));
    for (int i = 0; i < 2; i++) {
        bal_json part;
        BAL_TRY(bal_json_obj_or(root, parts[i], &part, err));
        if (!part.value) continue;
        BAL_TRY(refuse_packed(&part, err));
        BAL_TRY(read_eos(c, &part, err));
    }
    return read_eos(c, root, err);
}

static bal_status read_processor(bal_config *c, const bal_json *root, bal_error *err)
{
    return bal_family_of(c)->read_processor(c, root, err);
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
    if (c->has_vision)
        BAL_TRY(with_json(c, dir, "preprocessor_config.json", true, read_processor, err));
    BAL_TRY(with_json(c, dir, "generation_config.json", false, read_eos, err));
    const char *fault = config_fault(c);
    return fault ? bal_fail(err, BAL_E_FORMAT, "%s: config: %s out of range", dir, fault) : BAL_OK;
}

bal_status bal_config_from_json(bal_config *c, const bal_json *config, const bal_json *processor,
                                bal_error *err)
{
    *c = (bal_config){0};
    BAL_TRY(read_main(c, config, err));
    if (c->has_vision) BAL_TRY(read_processor(c, processor, err));
    const char *fault = config_fault(c);
    if (!fault) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "%s: config: %s out of range", config->file, fault);
}

/* ---- The compiled form: magic, count, then the struct's 32-bit fields in order -----------------
 * "BLC2" is bal_config. "BLC1" was the config of the one family that there was; its fields stand
 * below and are read for good, because files are kept. */

enum { MAGIC_1 = 0x31434c42, MAGIC_2 = 0x32434c42, WORDS = sizeof(bal_config) / 4 };
_Static_assert(sizeof(bal_config) % 4 == 0, "bal_config must consist of 32-bit fields");

typedef struct config_1 {
    int32_t family, hidden, layers, heads, kv_heads, head_dim, intermediate, vocab, max_positions;
    int32_t tied;
    float rope_theta, rms_eps;
    int32_t has_vision, v_hidden, v_layers, v_heads, v_intermediate, image_size, patch_size, side;
    float ln_eps;
    int32_t image_token, max_tiles, n_pinpoints, pinpoints[256][2];
    float image_mean[3], image_std[3];
    int32_t n_eos, eos[8];
} config_1;
enum { WORDS_1 = sizeof(config_1) / 4 };
_Static_assert(BAL_MAX_PINPOINTS == 256 && BAL_MAX_EOS == 8, "config_1 has tables of these sizes");

static void from_first(bal_config *c, const config_1 *o)
{
    *c = (bal_config){.family = o->family, .has_vision = o->has_vision};
    c->text = (bal_text_config){.hidden = o->hidden,
                                .layers = o->layers,
                                .heads = o->heads,
                                .kv_heads = o->kv_heads,
                                .head_dim = o->head_dim,
                                .intermediate = o->intermediate,
                                .vocab = o->vocab,
                                .max_positions = o->max_positions,
                                .tied = o->tied,
                                .qkv_bias = 1,
                                .rope_theta = o->rope_theta,
                                .rms_eps = o->rms_eps};
    c->vision = (bal_vision_config){.hidden = o->v_hidden,
                                    .layers = o->v_layers,
                                    .file_layers = o->v_layers,
                                    .heads = o->v_heads,
                                    .intermediate = o->v_intermediate,
                                    .image_size = o->image_size,
                                    .patch_size = o->patch_size,
                                    .side = o->side,
                                    .act = BAL_ACT_GELU_TANH,
                                    .norm = BAL_NORM_LAYER,
                                    .qkv_bias = 1,
                                    .shuffle = 1,
                                    .projector_act = BAL_ACT_GELU,
                                    .ln_eps = o->ln_eps};
    c->image_token = o->image_token;
    c->max_tiles = o->max_tiles;
    c->resample = 3;
    c->n_pinpoints = o->n_pinpoints;
    memcpy(c->pinpoints, o->pinpoints, sizeof c->pinpoints);
    memcpy(c->image_mean, o->image_mean, sizeof c->image_mean);
    memcpy(c->image_std, o->image_std, sizeof c->image_std);
    c->n_eos = o->n_eos;
    memcpy(c->eos, o->eos, sizeof c->eos);
}

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
    *n_bytes = 4 * (WORDS + 2);
    *out = malloc(*n_bytes);
    if (!*out) return bal_nomem(err, *n_bytes, "compiled config");
    uint32_t words[WORDS];
    memcpy(words, c, sizeof words);
    put32(*out, MAGIC_2);
    put32(*out + 4, WORDS);
    for (int i = 0; i < WORDS; i++) put32(*out + 8 + 4 * i, words[i]);
    return BAL_OK;
}

static bool is_version(const uint8_t *data, size_t n_bytes, uint32_t magic, uint32_t words)
{
    return n_bytes == 4 * ((size_t)words + 2) && get32(data) == magic && get32(data + 4) == words;
}

static void get_words(void *out, const uint8_t *data, int n)
{
    for (int i = 0; i < n; i++) {
        const uint32_t word = get32(data + 8 + 4 * i);
        memcpy((uint8_t *)out + 4 * i, &word, 4);
    }
}

bal_status bal_config_from_blob(bal_config *c, const uint8_t *data, size_t n_bytes, bal_error *err)
{
    config_1 first;
    *c = (bal_config){0};
    if (is_version(data, n_bytes, MAGIC_2, WORDS)) {
        get_words(c, data, WORDS);
    } else if (is_version(data, n_bytes, MAGIC_1, WORDS_1)) {
        get_words(&first, data, WORDS_1);
        from_first(c, &first);
    } else
        return bal_fail(err, BAL_E_FORMAT, "compiled config: %zu bytes, not of this version",
                        n_bytes);
    const char *fault = config_fault(c);
    if (!fault) return BAL_OK;
    *c = (bal_config){0};
    return bal_fail(err, BAL_E_FORMAT, "compiled config: %s out of range", fault);
}
