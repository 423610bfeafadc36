/* SPDX-License-Identifier: MIT
 * Class defaults and rules are those of transformers 4.57.1 (Qwen2VLConfig, Qwen2_5_VLConfig,
 * Qwen2VLImageProcessor, get_rope_index). */
#include "model/native.h"

#include "image/smart_resize.h"
#include "op/attention.h"

#include <string.h>

enum { DEFAULT_MIN = 56 * 56, DEFAULT_MAX = 28 * 28 * 1280 };

const bal_bind_rename bal_native_prefixes[BAL_NATIVE_PREFIXES] = {
    {"model.visual.", "visual."},
    {"model.language_model.", "model."},
};

/* ---- Config -----------------------------------------------------------------------------------
 */

bal_status bal_native_read_text(bal_config *c, const bal_json *root, const char *model_type,
                                const char *text_type, bal_error *err)
{
    const char *const types[] = {model_type, text_type, NULL};
    bal_json o;
    BAL_TRY(bal_json_obj_or(root, "text_config", &o, err));
    if (!o.value) o = *root;
    BAL_TRY(bal_config_text(&c->text, &o, root, text_type, types, false, err));
    if (!bal_json_has(&o, "rms_norm_eps")) c->text.rms_eps = 1e-5f;
    const int32_t *s = c->text.mrope;
    if (s[0] + s[1] + s[2] != c->text.head_dim / 2)
        return bal_fail(err, BAL_E_FORMAT,
                        "%s: %s%srope_scaling.mrope_section: %d, %d, %d, expected three numbers "
                        "that make half of the head size %d",
                        o.file, o.path, o.path[0] ? "." : "", s[0], s[1], s[2], c->text.head_dim);
    return bal_config_image_token(c, root, 151655, err);
}

/* A picture is one view, whose least size is one token. */
static bal_status read_patches(bal_vision_config *v, const bal_json *o, bal_error *err)
{
    int channels;
    const char *key = bal_json_has(o, "in_channels") ? "in_channels" : "in_chans";
    BAL_TRY(bal_json_int_or(o, key, 3, 3, 3, &channels, err));
    BAL_TRY(bal_json_int_or(o, "patch_size", 1, 256, 14, &v->patch_size, err));
    BAL_TRY(bal_json_int_or(o, "spatial_merge_size", 1, 16, 2, &v->shuffle, err));
    BAL_TRY(bal_json_int_or(o, "temporal_patch_size", 1, 16, 2, &v->temporal, err));
    v->side = v->shuffle;
    v->image_size = v->shuffle * v->patch_size;
    return BAL_OK;
}

bal_status bal_native_read_vision(bal_config *c, const bal_json *o, const char *width_key,
                                  int otherwise, bal_error *err)
{
    bal_vision_config *v = &c->vision;
    BAL_TRY(read_patches(v, o, err));
    BAL_TRY(bal_json_int_or(o, "depth", 1, BAL_MAX_LAYERS, 32, &v->layers, err));
    BAL_TRY(bal_json_int_or(o, width_key, 1, BAL_MAX_DIM, otherwise, &v->hidden, err));
    BAL_TRY(bal_json_int_or(o, "num_heads", 1, BAL_MAX_SIDE, 16, &v->heads, err));
    v->file_layers = v->layers;
    v->projector_act = BAL_ACT_GELU;
    v->qkv_bias = 1;
    v->ln_eps = 1e-6f;
    if (v->hidden % v->heads)
        return bal_config_fail(err, o, "num_heads", "does not divide the tower's width");
    if (v->hidden / v->heads % 4)
        return bal_config_fail(err, o, "num_heads",
                               "leaves heads that are no multiple of 4, as rotary positions of two "
                               "dimensions need");
    return BAL_OK;
}

bal_status bal_native_read_out(const bal_config *c, const bal_json *o, const char *key,
                               bal_error *err)
{
    int out;
    BAL_TRY(bal_json_int_or(o, key, 1, BAL_MAX_DIM, 3584, &out, err));
    if (out == c->text.hidden) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT,
                    "%s: %s.%s: the tower gives features of width %d, the language model takes %d",
                    o->file, o->path, key, out, c->text.hidden);
}

/* A size that both files may give. */
static bal_status same_size(const bal_json *o, const char *key, int expected, bal_error *err)
{
    int found;
    BAL_TRY(bal_json_int_or(o, key, 1, BAL_MAX_DIM, expected, &found, err));
    if (found == expected) return BAL_OK;
    return bal_fail(err, BAL_E_FORMAT, "%s: %s: %d, config.json's vision_config says %d", o->file,
                    key, found, expected);
}

/* min_pixels and max_pixels, or the same two numbers as edges of `size`. */
static bal_status read_limits(bal_config *c, const bal_json *o, bal_error *err)
{
    bal_json size;
    int lo, hi;
    BAL_TRY(bal_json_obj_or(o, "size", &size, err));
    BAL_TRY(bal_json_int_or(&size, "shortest_edge", 1, INT32_MAX, DEFAULT_MIN, &lo, err));
    BAL_TRY(bal_json_int_or(&size, "longest_edge", 1, INT32_MAX, DEFAULT_MAX, &hi, err));
    BAL_TRY(bal_json_int_or(o, "min_pixels", 1, INT32_MAX, lo, &c->min_pixels, err));
    BAL_TRY(bal_json_int_or(o, "max_pixels", 1, INT32_MAX, hi, &c->max_pixels, err));
    if (c->min_pixels <= c->max_pixels) return BAL_OK;
    return bal_config_fail(err, o, "min_pixels", "is above max_pixels");
}

bal_status bal_native_read_processor(bal_config *c, const bal_json *o, bal_error *err)
{
    const bal_vision_config *v = &c->vision;
    BAL_TRY(bal_config_norm(c, o, bal_clip_mean, bal_clip_std, 3, err));
    BAL_TRY(same_size(o, "patch_size", v->patch_size, err));
    BAL_TRY(same_size(o, "merge_size", v->shuffle, err));
    BAL_TRY(same_size(o, "temporal_patch_size", v->temporal, err));
    return read_limits(c, o, err);
}

const char *bal_native_fault(const bal_config *c)
{
    const bal_vision_config *v = &c->vision;
    const int32_t *s = c->text.mrope;
    if (c->image_token < 0) return "image token";
    if (s[0] + s[1] + s[2] != c->text.head_dim / 2) return "mrope sections";
    if (v->hidden / v->heads % 4) return "vision head size";
    if (v->side != v->shuffle || v->image_size != v->side * v->patch_size)
        return "pixels of a token";
    if (v->temporal < 1) return "frames of a patch";
    if (c->min_pixels < 1) return "pixels of a picture";
    return NULL;
}

/* ---- Pictures ---------------------------------------------------------------------------------
 */

bal_status bal_native_plan(const bal_config *c, int w, int h, bal_view_mode mode, bal_view_plan *p,
                           bal_error *err)
{
    (void)mode;
    const bal_vision_config *v = &c->vision;
    const int unit = v->patch_size * v->shuffle;
    bal_view_plan plan = {.image_w = w, .image_h = h, .view_size = unit, .patch_side = v->shuffle};
    *p = (bal_view_plan){0};
    BAL_TRY(bal_smart_resize(w, h, unit, c->min_pixels, c->max_pixels, &plan.resized_w,
                             &plan.resized_h, err));
    plan.w0 = plan.w1 = plan.resized_w / unit;
    plan.h0 = plan.h1 = plan.resized_h / unit;
    plan.n_views = 1;
    const int64_t tokens = (int64_t)plan.w0 * plan.h0;
    if (tokens * v->shuffle * v->shuffle > BAL_MAX_PATCHES)
        return bal_fail(err, BAL_E_ARG, "a %d x %d picture would take %lld tokens", w, h,
                        (long long)tokens);
    plan.n_tokens = (int)tokens;
    plan.n_floats = 3 * (size_t)plan.resized_w * (size_t)plan.resized_h;
    *p = plan;
    return BAL_OK;
}

bal_status bal_native_limit(bal_config *c, int n, bal_error *err)
{
    const int64_t unit = (int64_t)c->vision.patch_size * c->vision.shuffle;
    const int64_t least = (c->min_pixels + unit * unit - 1) / (unit * unit);
    if (n < least)
        return bal_fail(err, BAL_E_ARG,
                        "at most %d tokens for a picture: this model's limit cannot be below %lld "
                        "(min_pixels)",
                        n, (long long)least);
    if (n * unit * unit < c->max_pixels) c->max_pixels = (int32_t)(n * unit * unit);
    return BAL_OK;
}

bal_status bal_native_pixels(const bal_config *c, const bal_view_plan *p, const bal_image *image,
                             float *out, bal_error *err)
{
    if (image->width != p->image_w || image->height != p->image_h)
        return bal_fail(err, BAL_E_ARG, "the plan is for %d x %d pixels, the picture has %d x %d",
                        p->image_w, p->image_h, image->width, image->height);
    return bal_smart_pixels(image, p->resized_w, p->resized_h, c->image_mean, c->image_std,
                            (bal_filter)c->resample, out, err);
}

int bal_native_positions(const bal_config *c, const bal_view_plan *p, int start, int32_t (*pos)[3])
{
    (void)c;
    for (int y = 0; y < p->h0; y++)
        for (int x = 0; x < p->w0; x++, pos++) {
            (*pos)[0] = start;
            (*pos)[1] = start + y;
            (*pos)[2] = start + x;
        }
    return start + (p->h0 > p->w0 ? p->h0 : p->w0);
}
