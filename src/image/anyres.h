/* SPDX-License-Identifier: MIT
 * The views of LLaVA-OneVision: how a picture is cut up for the vision tower, and which grid of
 * features (hence how many tokens) that will give. Plans are arithmetic only; pixels follow a plan.
 * The rules are those of transformers 4.57.1 (llava_onevision: image processor, processor and
 * pack_image_features), down to Python's truncations and float floor divisions, because a plan
 * that is off by one makes the prompt disagree with the features.
 *
 * One picture in a sample: bal_anyres_*. A base view of the whole picture, aspect not kept, then
 * tiles of the picture fitted into the best of the allowed resolutions.
 * Tokens of an anyres plan: patch_side^2 + h1 * (w1 + 1), a newline behind each row; of a square
 * plan patch_side^2 + 1.
 * Several pictures in one sample: bal_square_* for each of them, no tiles. transformers decides by
 * the nesting of the call: images=[[a, b]] is one sample with two pictures (batch_num_images [2])
 * and takes this way; images=[a, b] is two samples of one, and both are tiled. */
#ifndef BAL_IMAGE_ANYRES_H
#define BAL_IMAGE_ANYRES_H

#include "image/plan.h"
#include "image/resize.h"

/* pinpoints: n pairs (height, width), multiples of view_size, in the order of the config; the
 * first of equals wins. max_tiles: 9 for "anyres_max_9"; grids above 1.21 times that many tiles'
 * features are resampled. A picture thinner than a feature can leave h0 or w0 = 0 (h1 * (w1 + 1)
 * still holds). BAL_E_ARG for a picture, view or pinpoint that is empty, too large or no multiple;
 * BAL_E_UNSUP if resampling would leave no feature at all. */
bal_status bal_anyres_plan(bal_view_plan *plan, int image_w, int image_h, const int (*pinpoints)[2],
                           size_t n_pinpoints, int view_size, int patch_side, int max_tiles,
                           bal_error *err);

/* BAL_E_ARG for an image whose long side is above 16384: the square would be too large. */
bal_status bal_square_plan(bal_view_plan *plan, int image_w, int image_h, int view_size,
                           int patch_side, bal_error *err);

/* out: [n_views][3][view_size][view_size], each value
 *     (float(u8 * (1 / 255)) - float(mean)) / float(std)
 * with the product in double and the rest in float: the slow (Pillow) processor bit for bit.
 * Padding is pixel value 0 before that in an anyres plan, int(mean * 255) in a square plan.
 * `image` must have the plan's size. */
bal_status bal_anyres_pixels(const bal_view_plan *plan, const bal_image *image,
                             const bal_norm *norm, bal_filter filter, float *out, bal_error *err);
bal_status bal_square_pixels(const bal_view_plan *plan, const bal_image *image,
                             const bal_norm *norm, bal_filter filter, float *out, bal_error *err);

#endif
