/* SPDX-License-Identifier: MIT
 * Pictures at (nearly) their own resolution, as Qwen2-VL and Qwen2.5-VL see them: both sides become
 * multiples of `factor`, the area stays between two limits, the aspect as it was. Rule and rounding
 * are those of transformers 4.57.1 (qwen2_vl/image_processing_qwen2_vl.py, smart_resize); one
 * picture is one view. Refuses pictures more than 200 times as long as wide, as the original. */
#ifndef BAL_IMAGE_SMART_RESIZE_H
#define BAL_IMAGE_SMART_RESIZE_H

#include "image/resize.h"

enum { BAL_SMART_MAX_ASPECT = 200 };

/* The size that a picture of image_w x image_h pixels is resized to. factor 1..4096 pixels;
 * 1 <= min_pixels <= max_pixels. A side is at least one factor, so a long picture can stay above
 * max_pixels. BAL_E_ARG for an empty, too large or too long picture and for limits out of range. */
bal_status bal_smart_resize(int image_w, int image_h, int factor, int64_t min_pixels,
                            int64_t max_pixels, int *width, int *height, bal_error *err);

/* The picture resized to width x height and normalised: out [3][height][width], each value
 *     (float(u8 * (1 / 255)) - mean) / std
 * with the product in double and the rest in float, the slow (Pillow) processor bit for bit.
 * BAL_E_ARG, BAL_E_NOMEM. */
bal_status bal_smart_pixels(const bal_image *image, int width, int height, const float mean[3],
                            const float std[3], bal_filter filter, float *out, bal_error *err);

#endif
