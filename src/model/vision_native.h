/* SPDX-License-Identifier: MIT
 * The towers of Qwen2-VL and Qwen2.5-VL: a picture at its own resolution is one view of patches
 * with rotary positions of two dimensions, attention over all of them or inside windows, and a
 * merger that makes one token of each square of shuffle x shuffle patches. Definitions: Qwen2-VL
 * (arXiv 2409.12191) and Qwen2.5-VL (arXiv 2502.13923), details as in transformers 4.57.1. */
#ifndef BAL_MODEL_VISION_NATIVE_H
#define BAL_MODEL_VISION_NATIVE_H

#include "image/plan.h"
#include "model/decoder.h"

/* The order in which the tokens of a rows x cols grid pass through windows of side x side of them:
 * order[i] is the token (counted row by row) at place i, window after window, row by row inside;
 * windows at the right and the lower edge are smaller. starts [windows + 1] are the places where
 * windows begin, the last is rows * cols. Returns the number of windows. side 0: one window. */
int bal_window_order(int rows, int cols, int side, int32_t *order, int *starts);
/* How many windows that will be. */
int bal_window_count(int rows, int cols, int side);

/* Angles of the patches of n tokens (squares of merge x merge patches) in `order` on a grid of
 * `cols` tokens a row: cos, sin [n * merge^2][head_dim / 2]. The first half of a row's frequencies
 * follows the patch's row, the second its column, base 10000, so head_dim is a multiple of 4. */
void bal_vision_rope(const int32_t *order, int n, int cols, int merge, int head_dim, float *cos_out,
                     float *sin_out);

/* Frequency i < head_dim / 4 of one coordinate. */
float bal_native_frequency(int i, int head_dim);

/* Whether block `layer` sees the whole picture rather than windows. */
bool bal_native_sees_all(const bal_vision_config *v, int layer);

/* Patch `inner` of a token (both counted row by row, on a grid of rows x cols tokens) as the
 * convolution's weights are laid out: channel, time, row, column. A still picture stands in every
 * moment of time. */
void bal_native_patch(const bal_vision_config *v, int rows, int cols, int32_t token, int inner,
                      const float *pixels, float *out);

/* out [p->n_tokens][text hidden] of a plan of h0 x w0 tokens, each shuffle^2 patches; pixels
 * [3][resized_h][resized_w]. Memory: three floats per patch and channel of the tower, and a few
 * rows. */
bal_status bal_native_encode(const bal_exec *e, const bal_model *m, const bal_view_plan *p,
                             const float *pixels, float *out, bal_taps taps, bal_error *err);

/* The work memory of such a call, bytes: it grows with the picture's patches, never with their
 * square. */
size_t bal_native_work(const bal_model *m, const bal_view_plan *p);

#endif
