/* SPDX-License-Identifier: MIT
 * Views by cutting: the rules of LLaVA-1.5, InternVL and Idefics3 (SmolVLM), as the Pillow-backed
 * processors of transformers 4.57 do them, down to Python's truncations, because a plan that is
 * off by one makes the prompt disagree with the features.
 *
 * patch_side is what a view has behind the projector: a view becomes patch_side^2 tokens.
 * All plans: BAL_E_ARG for a picture or view that is empty or too large, BAL_E_UNSUP for one too
 * extreme for the rule. */
#ifndef BAL_IMAGE_TILES_H
#define BAL_IMAGE_TILES_H

#include "image/plan.h"
#include "image/resize.h"

/* The short side is resized to `edge`, then the middle square of view_size is cut out: what stands
 * at the ends of a long picture is lost. */
bal_status bal_crop_plan(bal_view_plan *plan, int image_w, int image_h, int edge, int view_size,
                         int patch_side, bal_error *err);

/* The grid of min_tiles to max_tiles tiles whose shape is nearest to the picture's; among equals
 * the larger as long as the picture has more than half its pixels. The picture is stretched to
 * it. With `overview` and more than one tile, the whole picture stretched to one view comes last.
 */
bal_status bal_grid_plan(bal_view_plan *plan, int image_w, int image_h, int view_size,
                         int patch_side, int min_tiles, int max_tiles, bool overview,
                         bal_error *err);

/* The long side is resized to `longest_edge` (small pictures are enlarged), both sides are then
 * rounded up to whole views, and the rows x cols tiles are followed by an overview. A picture that
 * fits one view has neither rows nor cols; so has every picture when `split` is off. */
bal_status bal_rows_plan(bal_view_plan *plan, int image_w, int image_h, int longest_edge,
                         int view_size, int patch_side, bool split, bal_error *err);

/* out: [n_views][3][view_size][view_size], tiles row by row, for any plan from this file. `image`
 * must have the plan's size. */
bal_status bal_tiles_pixels(const bal_view_plan *plan, const bal_image *image, const bal_norm *norm,
                            bal_filter filter, float *out, bal_error *err);

#endif
