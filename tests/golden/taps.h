/* SPDX-License-Identifier: MIT
 * Comparing what the engine computes at its taps with what the original computed (taps.safetensors
 * of a golden case). The first wrong tap in computing order is the one to look at. */
#ifndef BAL_TESTS_TAPS_H
#define BAL_TESTS_TAPS_H

#include "check.h"
#include "format/safetensors.h"
#include "model/decoder.h"

#include <math.h>

typedef struct tap_check {
    bal_tensor_set golden;
    size_t image_row; /* rows of image features seen so far, where several images follow */
    /* rows of earlier batches of views: inside the tower, behind it, behind the projector; and how
     * many of the first two this batch has */
    size_t tower_row, out_row, view_row, tower_rows, out_rows;
    int compared, missing;
    double worst; /* largest difference over the standard deviation of its tap */
    char worst_name[64], first_bad[160];
    double limit;
} tap_check;

static inline const bal_tensor_view *tap_tensor(const tap_check *c, const char *name)
{
    return bal_tensor_find(&c->golden, name);
}

static inline double tap_deviation(const float *x, size_t n)
{
    double sum = 0, square = 0;
    for (size_t i = 0; i < n; i++) sum += (double)x[i];
    for (size_t i = 0; i < n; i++)
        square += ((double)x[i] - sum / (double)n) * ((double)x[i] - sum / (double)n);
    return sqrt(square / (double)n);
}

/* Compares n floats at element `from` of the golden tensor. */
static inline void tap_compare(tap_check *c, const char *name, size_t from, const float *data,
                               size_t n)
{
    const bal_tensor_view *t = tap_tensor(c, name);
    if (!t) {
        c->missing++;
        return;
    }
    const size_t all = t->n_bytes / 4;
    float *want = malloc(t->n_bytes);
    assert_non_null(want);
    memcpy(want, t->data, t->n_bytes);
    double diff = from + n <= all ? 0.0 : INFINITY;
    for (size_t i = 0; i < n && diff < INFINITY; i++) {
        const double d = fabs((double)data[i] - (double)want[from + i]);
        diff = d > diff || isnan(d) ? (isnan(d) ? INFINITY : d) : diff;
    }
    const double relative = diff / tap_deviation(want, all);
    free(want);
    c->compared++;
    if (relative > c->worst) {
        c->worst = relative;
        snprintf(c->worst_name, sizeof c->worst_name, "%s", name);
    }
    if (relative > c->limit && !c->first_bad[0])
        snprintf(c->first_bad, sizeof c->first_bad, "%s: %.3g of its deviation (%zu values at %zu)",
                 name, relative, n, from);
}

static inline void tap_seen(void *ctx, bal_tap tap, int layer, const float *data, int rows,
                            int cols)
{
    tap_check *c = ctx;
    char name[64];
    size_t from = 0;
    const size_t n = (size_t)rows * (size_t)cols;
    switch (tap) {
    case BAL_TAP_VISION_EMBED:
        snprintf(name, sizeof name, "vision.embeddings");
        from = c->tower_row * (size_t)cols;
        c->tower_rows = (size_t)rows;
        break;
    case BAL_TAP_VISION_LAYER:
        snprintf(name, sizeof name, "vision.layer.%d", layer);
        from = c->tower_row * (size_t)cols;
        break;
    case BAL_TAP_VISION_OUT:
        snprintf(name, sizeof name, "vision.features");
        from = c->out_row * (size_t)cols;
        c->out_rows = (size_t)rows;
        break;
    case BAL_TAP_PROJECTOR:
        snprintf(name, sizeof name, "projector.out");
        from = c->view_row * (size_t)cols;
        c->tower_row += c->tower_rows;
        c->out_row += c->out_rows;
        c->view_row += (size_t)rows;
        break;
    case BAL_TAP_IMAGE:
        snprintf(name, sizeof name, "image_features");
        from = c->image_row * (size_t)cols;
        c->image_row += (size_t)rows;
        break;
    case BAL_TAP_EMBED: snprintf(name, sizeof name, "inputs_embeds"); break;
    case BAL_TAP_ATTN: snprintf(name, sizeof name, "text.layer.%d.attn", layer); break;
    case BAL_TAP_MLP: snprintf(name, sizeof name, "text.layer.%d.mlp", layer); break;
    case BAL_TAP_BLOCK: snprintf(name, sizeof name, "text.layer.%d", layer); break;
    case BAL_TAP_NORM: /* row by row in a session: the caller compares the logits of each row */
    case BAL_TAP_LOGITS: return;
    default: return;
    }
    tap_compare(c, name, from, data, n);
}

#endif
