/* SPDX-License-Identifier: MIT
 * See the header for the rules. Doubles here follow Python's floats operation by operation; do not
 * rearrange them. */
#include "image/tiles.h"

#include "image/views.h"

#include <math.h>

/* MAX_EDGE: Idefics3's absolute maximum. MAX_FIELD: pixels of a resized picture */
enum { MAX_VIEW = 4096, MAX_TILES = 1024, MAX_EDGE = 4096, MAX_FIELD = 1 << 26 };

static bal_status start(bal_view_plan *p, int image_w, int image_h, int view_size, int patch_side,
                        bal_error *err)
{
    *p = (bal_view_plan){0};
    if (image_w < 1 || image_h < 1 || image_w > BAL_IMAGE_MAX_SIDE || image_h > BAL_IMAGE_MAX_SIDE)
        return bal_fail(err, BAL_E_ARG, "picture of %d x %d pixels, each side must be 1 to %d",
                        image_w, image_h, BAL_IMAGE_MAX_SIDE);
    if (view_size < 1 || view_size > MAX_VIEW || patch_side < 1 || patch_side > view_size)
        return bal_fail(err, BAL_E_ARG, "view of %d pixels and %d tokens a side, 1 to %d expected",
                        view_size, patch_side, MAX_VIEW);
    *p = (bal_view_plan){
        .image_w = image_w, .image_h = image_h, .view_size = view_size, .patch_side = patch_side};
    return BAL_OK;
}

static bal_status finish(bal_view_plan *p, bal_error *err)
{
    const int tiles = p->rows * p->cols;
    const int64_t field = (int64_t)p->resized_w * p->resized_h;
    if (p->resized_w < 1 || p->resized_h < 1 || p->resized_w > BAL_IMAGE_MAX_SIDE ||
        p->resized_h > BAL_IMAGE_MAX_SIDE || field > MAX_FIELD || tiles > MAX_TILES) {
        const bal_view_plan q = *p;
        *p = (bal_view_plan){0};
        return bal_fail(err, BAL_E_UNSUP,
                        "a %d x %d picture is too extreme: it would be resized to %d x %d pixels",
                        q.image_w, q.image_h, q.resized_w, q.resized_h);
    }
    p->n_views = (tiles ? tiles : 1) + p->overview;
    p->n_tokens = p->n_views * p->patch_side * p->patch_side;
    p->n_floats = (size_t)p->n_views * 3 * (size_t)p->view_size * (size_t)p->view_size;
    return BAL_OK;
}

/* ---- LLaVA-1.5 --------------------------------------------------------------------------------
 */

/* Where a crop of `view` begins in `side` pixels; negative: so much black in front. */
static int middle(int side, int view)
{
    return side >= view ? (side - view) / 2 : -((view - side + 1) / 2);
}

bal_status bal_crop_plan(bal_view_plan *plan, int image_w, int image_h, int edge, int view_size,
                         int patch_side, bal_error *err)
{
    BAL_TRY(start(plan, image_w, image_h, view_size, patch_side, err));
    if (edge < 1 || edge > MAX_VIEW)
        return bal_fail(err, BAL_E_ARG, "shortest edge of %d pixels, 1 to %d expected", edge,
                        MAX_VIEW);
    const bool tall = image_w <= image_h;
    const double shorter = tall ? image_w : image_h, longer = tall ? image_h : image_w;
    const double scaled = edge * longer / shorter;
    const int along = scaled < INT32_MAX ? (int)scaled : INT32_MAX;
    plan->resized_w = tall ? edge : along;
    plan->resized_h = tall ? along : edge;
    plan->pad_x = -middle(plan->resized_w, view_size);
    plan->pad_y = -middle(plan->resized_h, view_size);
    return finish(plan, err);
}

/* ---- InternVL ---------------------------------------------------------------------------------
 */

bal_status bal_grid_plan(bal_view_plan *plan, int image_w, int image_h, int view_size,
                         int patch_side, int min_tiles, int max_tiles, bool overview,
                         bal_error *err)
{
    BAL_TRY(start(plan, image_w, image_h, view_size, patch_side, err));
    if (min_tiles < 1 || max_tiles < min_tiles || max_tiles > MAX_TILES)
        return bal_fail(err, BAL_E_ARG, "%d to %d tiles, 1 to %d are possible", min_tiles,
                        max_tiles, MAX_TILES);
    const double aspect = (double)image_w / image_h, area = (double)image_w * image_h;
    double nearest = INFINITY;
    plan->cols = plan->rows = 1;
    for (int tiles = min_tiles; tiles <= max_tiles; tiles++)
        for (int cols = 1; cols <= tiles; cols++) {
            if (tiles % cols) continue;
            const int rows = tiles / cols;
            const double away = fabs(aspect - (double)cols / rows);
            const bool larger = area > 0.5 * view_size * view_size * cols * rows;
            if (!(away < nearest || (away == nearest && larger))) continue;
            nearest = away;
            plan->cols = cols;
            plan->rows = rows;
        }
    plan->resized_w = plan->cols * view_size;
    plan->resized_h = plan->rows * view_size;
    plan->overview = overview && plan->cols * plan->rows > 1;
    return finish(plan, err);
}

/* ---- Idefics3 ---------------------------------------------------------------------------------
 */

static int at_least_1(int x)
{
    return x < 1 ? 1 : x;
}

/* The long side becomes `edge`, the other keeps the shape and is rounded to an even number. */
static void to_longest_edge(int edge, int *w, int *h)
{
    const double aspect = (double)*w / *h;
    if (*w >= *h) {
        *w = edge;
        *h = (int)(*w / aspect);
        *h += *h % 2;
    } else {
        *h = edge;
        *w = (int)(*h * aspect);
        *w += *w % 2;
    }
    *w = at_least_1(*w);
    *h = at_least_1(*h);
}

static void below_maximum(int *w, int *h)
{
    const double aspect = (double)*w / *h;
    if (*w >= *h && *w > MAX_EDGE) {
        *w = MAX_EDGE;
        *h = at_least_1((int)(*w / aspect));
    } else if (*h > *w && *h > MAX_EDGE) {
        *h = MAX_EDGE;
        *w = at_least_1((int)(*h * aspect));
    }
}

static int round_up(int x, int view)
{
    return (x + view - 1) / view * view;
}

static void to_whole_views(int view, int *w, int *h)
{
    const double aspect = (double)*w / *h;
    if (*w >= *h) {
        *w = round_up(*w, view);
        *h = round_up((int)(*w / aspect), view);
    } else {
        *h = round_up(*h, view);
        *w = round_up((int)(*h * aspect), view);
    }
}

bal_status bal_rows_plan(bal_view_plan *plan, int image_w, int image_h, int longest_edge,
                         int view_size, int patch_side, bool split, bal_error *err)
{
    BAL_TRY(start(plan, image_w, image_h, view_size, patch_side, err));
    if (longest_edge < 1 || longest_edge > BAL_IMAGE_MAX_SIDE)
        return bal_fail(err, BAL_E_ARG, "longest edge of %d pixels, 1 to %d expected", longest_edge,
                        BAL_IMAGE_MAX_SIDE);
    plan->step_w = image_w;
    plan->step_h = image_h;
    to_longest_edge(longest_edge, &plan->step_w, &plan->step_h);
    below_maximum(&plan->step_w, &plan->step_h);
    plan->resized_w = plan->step_w;
    plan->resized_h = plan->step_h;
    to_whole_views(view_size, &plan->resized_w, &plan->resized_h);
    if (!split) plan->resized_w = plan->resized_h = view_size;
    if (plan->resized_w > view_size || plan->resized_h > view_size) {
        plan->cols = plan->resized_w / view_size;
        plan->rows = plan->resized_h / view_size;
        plan->overview = 1;
    }
    return finish(plan, err);
}

/* ---- Pixels -----------------------------------------------------------------------------------
 */

/* The tiles, or the one view, of a picture that has its final size. */
static void cut(const bal_view_plan *p, const bal_image *resized, const bal_norm_table *t,
                float *out)
{
    const size_t view = 3 * (size_t)p->view_size * (size_t)p->view_size;
    const int cols = p->cols ? p->cols : 1, n = p->n_views - p->overview;
    for (int i = 0; i < n; i++)
        bal_view_normalise(out + (size_t)i * view, resized, i % cols * p->view_size - p->pad_x,
                           i / cols * p->view_size - p->pad_y, p->view_size, t);
}

/* Idefics3 takes its overview from the field of tiles, InternVL from the picture itself. */
static bal_status add_overview(const bal_view_plan *p, const bal_image *source,
                               const bal_norm_table *t, bal_filter filter, float *out,
                               bal_error *err)
{
    const size_t view = 3 * (size_t)p->view_size * (size_t)p->view_size;
    bal_image small;
    BAL_TRY(bal_image_resize(&small, source, p->view_size, p->view_size, filter, err));
    bal_view_normalise(out + (size_t)(p->n_views - 1) * view, &small, 0, 0, p->view_size, t);
    bal_image_free(&small);
    return BAL_OK;
}

static bal_status resize_all(const bal_view_plan *p, const bal_image *image, bal_filter filter,
                             bal_image *resized, bal_error *err)
{
    if (!p->step_w)
        return bal_image_resize(resized, image, p->resized_w, p->resized_h, filter, err);
    bal_image step;
    BAL_TRY(bal_image_resize(&step, image, p->step_w, p->step_h, filter, err));
    const bal_status st = bal_image_resize(resized, &step, p->resized_w, p->resized_h, filter, err);
    bal_image_free(&step);
    return st;
}

bal_status bal_tiles_pixels(const bal_view_plan *plan, const bal_image *image, const bal_norm *norm,
                            bal_filter filter, float *out, bal_error *err)
{
    if (plan->n_views < 1 || plan->square_side)
        return bal_fail(err, BAL_E_ARG, "the plan was not made for cutting");
    if (image->width != plan->image_w || image->height != plan->image_h)
        return bal_fail(err, BAL_E_ARG, "the plan is for %d x %d pixels, the picture has %d x %d",
                        plan->image_w, plan->image_h, image->width, image->height);
    BAL_TRY(bal_norm_check(norm, err));
    bal_norm_table t;
    bal_norm_table_init(&t, norm);
    bal_image resized;
    BAL_TRY(resize_all(plan, image, filter, &resized, err));
    cut(plan, &resized, &t, out);
    bal_status st = BAL_OK;
    if (plan->overview)
        st = add_overview(plan, plan->step_w ? &resized : image, &t, filter, out, err);
    bal_image_free(&resized);
    return st;
}
