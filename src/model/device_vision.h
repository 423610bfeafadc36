/* SPDX-License-Identifier: MIT
 * The tower and the projector of a bound model on a device: what model/vision.h and
 * model/vision_native.h compute, with weights, rows and features in its memory. Patches are
 * unfolded by the host. Attention is the decoder's over a cache of one layer, in which a view, a
 * picture or a window is a sequence whose rows all see its last position. Immutable once open. */
#ifndef BAL_MODEL_DEVICE_VISION_H
#define BAL_MODEL_DEVICE_VISION_H

#include "image/plan.h"
#include "model/decoder.h"
#include "model/device_model.h"

typedef struct bal_device_vision_layer {
    bal_dptr ln1_w, ln1_b, ln2_w, ln2_b; /* f32 [hidden], 0 where the family has none, as below */
    bal_dptr q_norm, k_norm, scale1, scale2;
    bal_device_group qkv, out, up, down; /* up: with gate in front of it where the MLP is gated */
} bal_device_vision_layer;

struct bal_device_vision {
    bal_device_model *on;
    bal_device_vision_layer *layers; /* [vision.layers] */
    bal_device_group patch, projector[2];
    bal_dptr vectors; /* of all of these */
    bal_dptr origin;  /* f32 [cls + side * side][hidden]: what patches are added to, or 0 */
    bal_dptr pre_w, pre_b, post_w, post_b, projector_w, projector_b;
    bal_dptr frequency, axis; /* f32, i32 [head_dim / 2] */
};

/* Uploads them to d->device. BAL_E_UNSUP: a tower that is not computed there, and why. */
bal_status bal_device_vision_open(bal_device_vision **out, bal_device_model *d, bal_error *err);
void bal_device_vision_close(bal_device_vision *t); /* NULL is fine */

/* As bal_vision_views and bal_native_encode. taps hear of BAL_TAP_VISION_LAYER only, with data
 * NULL, when the layer is queued and the device is nobody's: others may use it in between. Work
 * memory is allocated per call, device and host. */
bal_status bal_device_vision_views(bal_device_vision *t, const float *pixels, int n_views,
                                   float *out, bal_taps taps, bal_error *err);
bal_status bal_device_vision_native(bal_device_vision *t, const bal_view_plan *p,
                                    const float *pixels, float *out, bal_taps taps, bal_error *err);

#endif
