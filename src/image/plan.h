/* SPDX-License-Identifier: MIT
 * How one picture becomes views (the images that pass through a vision tower) and tokens. Each
 * rule has its own file: anyres.h (LLaVA-OneVision), tiles.h (centre crop of LLaVA-1.5, InternVL,
 * Idefics3 and SmolVLM). Plans are arithmetic on the picture's size only. */
#ifndef BAL_IMAGE_PLAN_H
#define BAL_IMAGE_PLAN_H

#include <stddef.h>
#include <stdint.h>

typedef struct bal_view_plan {
    int image_w, image_h;     /* the picture this plan is for */
    int view_size;            /* side of a view in pixels, e.g. 384 */
    int patch_side;           /* features along a side of a view, e.g. 27 */
    int rows, cols;           /* tiles; 0 without */
    int step_w, step_h;       /* the picture is resized to this first; 0: it is not. tiles.h only */
    int resized_w, resized_h; /* the picture inside the rows x cols field of tiles, pixels; */
    int pad_x, pad_y;         /* black left of and above it (negative: cut off). In a square plan:
                                 in the square */
    int square_side;          /* above 0 in a square plan of anyres.h only */
    int crop_x, crop_y;       /* of the rows*patch_side x cols*patch_side grid of tile features, */
    int w0, h0;               /* keep w0 x h0 from there on (what is not padding), */
    int w1, h1;               /* then resample to w1 x h1: bilinear, not antialiased, align_corners
                                 off; equal to w0 x h0 if nothing is to be resampled. anyres only */
    int overview;             /* a view of the whole picture beside the tiles: -1 in front of them,
                                 1 behind them, 0 none */
    int n_views;              /* rows * cols, at least 1, and the overview */
    int n_tokens;             /* features behind the projector, newlines of anyres.h included */
    size_t n_floats;          /* of the normalised views */
} bal_view_plan;

/* As preprocessor_config.json has them. Doubles, because int(mean * 255) is taken of them. */
typedef struct bal_norm {
    double mean[3], std[3];
} bal_norm;

#endif
