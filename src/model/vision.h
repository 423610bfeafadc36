/* SPDX-License-Identifier: MIT
 * The shared vision tower and projector: square views to features, through blocks whose
 * differences are fields of bal_vision_config. What a family does with the features stands in its
 * file. */
#ifndef BAL_MODEL_VISION_H
#define BAL_MODEL_VISION_H

#include "model/decoder.h"

/* Rows of the tower that go through a block together; attention stays inside a segment. */
typedef struct bal_vision_rows {
    int n;
    const int *starts; /* [n_segments + 1]: segment i is rows starts[i] .. starts[i + 1] - 1 */
    int n_segments;
} bal_vision_rows;

/* Work buffers of a block. */
typedef struct bal_vision_buf {
    float *norm, *q, *k, *v, *ctx; /* [n][hidden] */
    float *mlp;                    /* [n][intermediate] */
    bal_kv_page *pages;            /* of the longest segment */
} bal_vision_buf;

/* h [n][hidden] in place. */
void bal_vision_block(const bal_exec *e, const bal_vision_config *v, const bal_vision_layer *l,
                      const bal_vision_rows *rows, float *h, bal_vision_buf *b);

/* The config's norm: LayerNorm with b, or RMSNorm (b NULL). y may be x. */
void bal_vision_norm_rows(const bal_exec *e, const bal_vision_config *v, const float *x,
                          const float *w, const float *b, int rows, float *y);
/* "Valid" convolution with stride = kernel is a linear over flattened patches in (channel, row,
 * column) order: view [3][image_size][image_size] -> out [side * side][3 * patch_size^2]. Pixels
 * past side * patch_size are unused. */
void bal_vision_patches(const bal_vision_config *v, const float *view, float *out);
/* In place over rows * cols values; act is a bal_vision_act. */
void bal_vision_activate(const bal_exec *e, int act, float *x, int rows, int cols);

/* nn.LayerNorm's default, which InternVL's projector has */
#define BAL_PROJECTOR_NORM_EPS 1e-5f

/* pixels [n_views][3][image_size][image_size], normalised -> out [n_views * bal_view_tokens][hidden
 * of the decoder], view after view, rows of patches from the top. Views are independent of each
 * other and go through a few at a time, so memory does not grow with their number. Allocates its
 * work memory per call. */
bal_status bal_vision_views(const bal_exec *e, const bal_model *m, const float *pixels, int n_views,
                            float *out, bal_taps taps, bal_error *err);

/* The work memory of such a call, bytes. */
size_t bal_vision_views_bytes(const bal_model *m, int n_views);

#endif
