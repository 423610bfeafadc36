/* SPDX-License-Identifier: MIT
 * See the header for the rules and where they come from. Doubles here follow Python's floats
 * operation by operation; do not rearrange them. */
#include "image/anyres.h"

#include "image/views.h"

#include <math.h>
#include <string.h>

enum { MAX_VIEW = 4096, MAX_PATCHES = 1024, MAX_GRID = 64, MAX_SQUARE = 16384 };

/* ---- Plan ---------------------------------------------------------------------------------- */

/* int(round(x, 7)) for x >= 0: truncation, except that what stands less than half of 1e-7 below an
 * integer goes up to it. */
static int truncate_rounded(double x)
{
    const double up = floor(x) + 1.0;
    return (int)(up - x < 5e-8 ? up : up - 1.0);
}

/* int(a // b) of Python: the exact quotient is floored, where floor(a / b) would round first. A
 * square grid of 135 meets ratio 135/81 rounded up: 80, not 81. */
static int floor_divide(int a, double b)
{
    const double quotient = (a - fmod(a, b)) / b, low = floor(quotient);
    return (int)(quotient - low > 0.5 ? low + 1.0 : low);
}

static bal_status check_sizes(int image_w, int image_h, int view_size, int patch_side,
                              bal_error *err)
{
    if (image_w < 1 || image_h < 1 || image_w > BAL_IMAGE_MAX_SIDE || image_h > BAL_IMAGE_MAX_SIDE)
        return bal_fail(err, BAL_E_ARG, "picture of %d x %d pixels, each side must be 1 to %d",
                        image_w, image_h, BAL_IMAGE_MAX_SIDE);
    if (view_size < 1 || view_size > MAX_VIEW || patch_side < 1 || patch_side > MAX_PATCHES)
        return bal_fail(err, BAL_E_ARG,
                        "view of %d pixels and %d patches a side; 1 to %d and 1 to %d are possible",
                        view_size, patch_side, MAX_VIEW, MAX_PATCHES);
    return BAL_OK;
}

static bal_status check_pinpoints(const int (*pinpoints)[2], size_t n, int view_size,
                                  bal_error *err)
{
    if (n < 1) return bal_fail(err, BAL_E_ARG, "image_grid_pinpoints is empty");
    for (size_t i = 0; i < n; i++)
        for (int axis = 0; axis < 2; axis++) {
            const int side = pinpoints[i][axis];
            if (side < view_size || side % view_size || side / view_size > MAX_GRID)
                return bal_fail(err, BAL_E_ARG,
                                "image_grid_pinpoints[%zu] is (%d, %d), expected 1 to %d times the "
                                "view size %d",
                                i, pinpoints[i][0], pinpoints[i][1], MAX_GRID, view_size);
        }
    return BAL_OK;
}

/* The resolution that keeps most of the picture's pixels; among equals the one that wastes least.
 */
static const int *best_pinpoint(int image_w, int image_h, const int (*pinpoints)[2], size_t n)
{
    const int *best = NULL;
    int64_t most = 0, least_waste = INT64_MAX;
    for (size_t i = 0; i < n; i++) {
        const int64_t h = pinpoints[i][0], w = pinpoints[i][1];
        const double scale = fmin((double)w / image_w, (double)h / image_h);
        const int64_t fitted = (int64_t)(image_w * scale) * (int64_t)(image_h * scale);
        const int64_t own = (int64_t)image_w * image_h, kept = fitted < own ? fitted : own;
        const int64_t waste = w * h - kept;
        if (kept < most || (kept == most && waste >= least_waste)) continue;
        most = kept;
        least_waste = waste;
        best = pinpoints[i];
    }
    return best;
}

static int ceil_at_most(double x, int limit)
{
    const double up = ceil(x);
    return up < limit ? (int)up : limit;
}

/* Fits the picture into the tiles' field of w x h pixels and centres it there. */
static void fit(bal_view_plan *p, int h, int w)
{
    const double scale_w = (double)w / p->image_w, scale_h = (double)h / p->image_h;
    p->resized_w = scale_w < scale_h ? w : ceil_at_most(p->image_w * scale_h, w);
    p->resized_h = scale_w < scale_h ? ceil_at_most(p->image_h * scale_w, h) : h;
    p->pad_x = (w - p->resized_w) / 2;
    p->pad_y = (h - p->resized_h) / 2;
}

/* What of the tiles' feature grid belongs to the picture. The same number of features goes on both
 * sides, so an odd remainder stays. */
static void unpad(bal_view_plan *p)
{
    const int grid_w = p->cols * p->patch_side, grid_h = p->rows * p->patch_side;
    const double own = (double)p->image_w / p->image_h, grid = (double)grid_w / grid_h;
    if (own > grid)
        p->crop_y = (grid_h - truncate_rounded(p->image_h * ((double)grid_w / p->image_w))) / 2;
    else
        p->crop_x = (grid_w - truncate_rounded(p->image_w * ((double)grid_h / p->image_h))) / 2;
    p->w0 = grid_w - 2 * p->crop_x;
    p->h0 = grid_h - 2 * p->crop_y;
}

/* The anyres_max_N rule. */
static bal_status limit_grid(bal_view_plan *p, int max_tiles, bal_error *err)
{
    const double budget = (double)max_tiles * p->patch_side * p->patch_side;
    const double ratio = sqrt((double)p->h0 * p->w0 / budget);
    p->w1 = ratio > 1.1 ? floor_divide(p->w0, ratio) : p->w0;
    p->h1 = ratio > 1.1 ? floor_divide(p->h0, ratio) : p->h0;
    if (ratio > 1.1 && (p->w1 < 1 || p->h1 < 1))
        return bal_fail(err, BAL_E_UNSUP,
                        "a %d x %d picture's grid of %d x %d features cannot shrink to %d tiles",
                        p->image_w, p->image_h, p->w0, p->h0, max_tiles);
    return BAL_OK;
}

bal_status bal_anyres_plan(bal_view_plan *plan, int image_w, int image_h, const int (*pinpoints)[2],
                           size_t n_pinpoints, int view_size, int patch_side, int max_tiles,
                           bal_error *err)
{
    *plan = (bal_view_plan){0};
    BAL_TRY(check_sizes(image_w, image_h, view_size, patch_side, err));
    BAL_TRY(check_pinpoints(pinpoints, n_pinpoints, view_size, err));
    if (max_tiles < 1 || max_tiles > MAX_GRID * MAX_GRID)
        return bal_fail(err, BAL_E_ARG, "anyres_max_%d: 1 to %d tiles are possible", max_tiles,
                        MAX_GRID * MAX_GRID);
    const int *best = best_pinpoint(image_w, image_h, pinpoints, n_pinpoints);
    bal_view_plan p = {.image_w = image_w, .image_h = image_h, .view_size = view_size};
    p.patch_side = patch_side;
    p.rows = best[0] / view_size;
    p.cols = best[1] / view_size;
    fit(&p, best[0], best[1]);
    unpad(&p);
    BAL_TRY(limit_grid(&p, max_tiles, err));
    const int64_t n_tokens = (int64_t)patch_side * patch_side + (int64_t)p.h1 * (p.w1 + 1);
    if (n_tokens > INT32_MAX)
        return bal_fail(err, BAL_E_ARG, "a %d x %d picture would take %lld tokens", image_w,
                        image_h, (long long)n_tokens);
    p.n_tokens = (int)n_tokens;
    p.overview = -1;
    p.n_views = 1 + p.rows * p.cols;
    p.n_floats = (size_t)p.n_views * 3 * (size_t)view_size * (size_t)view_size;
    *plan = p;
    return BAL_OK;
}

bal_status bal_square_plan(bal_view_plan *plan, int image_w, int image_h, int view_size,
                           int patch_side, bal_error *err)
{
    *plan = (bal_view_plan){0};
    BAL_TRY(check_sizes(image_w, image_h, view_size, patch_side, err));
    const int side = image_w > image_h ? image_w : image_h;
    if (side > MAX_SQUARE)
        return bal_fail(err, BAL_E_ARG,
                        "a %d x %d picture among several would be padded to a square; its long "
                        "side may be %d pixels",
                        image_w, image_h, MAX_SQUARE);
    *plan = (bal_view_plan){.image_w = image_w,
                            .image_h = image_h,
                            .view_size = view_size,
                            .patch_side = patch_side,
                            .resized_w = image_w,
                            .resized_h = image_h,
                            .pad_x = (side - image_w) / 2,
                            .pad_y = (side - image_h) / 2,
                            .square_side = side,
                            .n_views = 1,
                            .n_floats = 3 * (size_t)view_size * (size_t)view_size,
                            .n_tokens = patch_side * patch_side + 1};
    return BAL_OK;
}

/* ---- Pixels -------------------------------------------------------------------------------- */

static bal_status check_call(const bal_view_plan *plan, const bal_image *image,
                             const bal_norm *norm, bool square, bal_error *err)
{
    if (plan->n_views < 1 || (plan->square_side > 0) != square)
        return bal_fail(err, BAL_E_ARG, "the plan was not made by bal_%s_plan",
                        square ? "square" : "anyres");
    if (image->width != plan->image_w || image->height != plan->image_h)
        return bal_fail(err, BAL_E_ARG, "the plan is for %d x %d pixels, the picture has %d x %d",
                        plan->image_w, plan->image_h, image->width, image->height);
    return bal_norm_check(norm, err);
}

static bal_status base_view(float *out, const bal_framed *src, int view_size, bal_filter filter,
                            const bal_norm_table *t, bal_error *err)
{
    bal_image view;
    BAL_TRY(bal_framed_resize(&view, src, view_size, view_size, filter, err));
    bal_view_normalise(out, &view, 0, 0, view_size, t);
    bal_image_free(&view);
    return BAL_OK;
}

bal_status bal_anyres_pixels(const bal_view_plan *plan, const bal_image *image,
                             const bal_norm *norm, bal_filter filter, float *out, bal_error *err)
{
    BAL_TRY(check_call(plan, image, norm, false, err));
    bal_norm_table t;
    bal_norm_table_init(&t, norm);
    const int side = plan->view_size;
    const bal_framed whole = {.image = image, .width = image->width, .height = image->height};
    BAL_TRY(base_view(out, &whole, side, filter, &t, err));
    bal_image fitted;
    BAL_TRY(bal_image_resize(&fitted, image, plan->resized_w, plan->resized_h, filter, err));
    const size_t n_view = 3 * (size_t)side * (size_t)side;
    for (int i = 0; i < plan->rows * plan->cols; i++) {
        const int x0 = i % plan->cols * side - plan->pad_x,
                  y0 = i / plan->cols * side - plan->pad_y;
        bal_view_normalise(out + (size_t)(i + 1) * n_view, &fitted, x0, y0, side, &t);
    }
    bal_image_free(&fitted);
    return BAL_OK;
}

bal_status bal_square_pixels(const bal_view_plan *plan, const bal_image *image,
                             const bal_norm *norm, bal_filter filter, float *out, bal_error *err)
{
    BAL_TRY(check_call(plan, image, norm, true, err));
    bal_norm_table t;
    bal_norm_table_init(&t, norm);
    bal_framed square = {.image = image,
                         .width = plan->square_side,
                         .height = plan->square_side,
                         .x = plan->pad_x,
                         .y = plan->pad_y};
    for (int c = 0; c < 3; c++) {
        const double v =
            norm->mean[c] * 255.0; /* int(): towards zero; a u8 array in the original */
        square.colour[c] = (uint8_t)(v < 0.0 ? 0 : v > 255.0 ? 255 : v);
    }
    return base_view(out, &square, plan->view_size, filter, &t, err);
}
