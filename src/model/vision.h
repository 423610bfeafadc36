/* SPDX-License-Identifier: MIT
 * Pictures to decoder embeddings: SigLIP tower, projector, and the packing of several views with
 * newline embeddings (LLaVA-OneVision, notes in docs/families.md). */
#ifndef BAL_MODEL_VISION_H
#define BAL_MODEL_VISION_H

#include "model/decoder.h"

/* How the views of one picture become tokens. View 0 is the base view. With tiles > 0, views
 * 1 .. tiles are a rows x cols grid; their patch grid (rows * side x cols * side) is cropped to
 * h0 x w0 at (top, left), resized to h1 x w1 (torch bilinear, align_corners false, no antialias)
 * and each of its h1 rows is followed by one newline embedding. With tiles == 0 the base view is
 * followed by a single newline. */
typedef struct bal_view_grid {
    int rows, cols, top, left, h0, w0, h1, w1;
} bal_view_grid;

/* side * side + (h1 * (w1 + 1), or 1 without tiles) */
int bal_view_grid_tokens(const bal_view_grid *p, int side);

/* pixels [n_views][3][image_size][image_size], normalised; n_views = 1 + rows * cols.
 * out [bal_view_grid_tokens][hidden of the decoder]. Allocates its work memory per call. */
bal_status bal_vision_encode(const bal_exec *e, const bal_model *m, const float *pixels,
                             const bal_view_grid *grid, float *out, bal_taps taps, bal_error *err);

#endif
