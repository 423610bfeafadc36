/* SPDX-License-Identifier: MIT
 * See the header. Llama 3.1's smoothing and YaRN (Peng et al. 2023, arXiv 2309.00071) follow the
 * published formulas with transformers' choice of constants. */
#include "model/rope.h"

#include <math.h>

static const double two_pi = 6.283185307179586476925;

/* Long waves are divided by the factor, short ones kept, between them a straight mix. */
static double llama3(const bal_text_config *c, double inv)
{
    const double wave = two_pi / inv, original = c->rope_original;
    const double low = (double)c->rope_low, high = (double)c->rope_high;
    const double scaled = inv / (double)c->rope_factor;
    if (wave < original / high) return inv;
    if (wave > original / low) return scaled;
    const double smooth = (original / wave - low) / (high - low);
    return (1.0 - smooth) * scaled + smooth * inv;
}

/* The dimension that turns `rotations` times within the original positions. */
static double yarn_dimension(const bal_text_config *c, double rotations)
{
    return c->head_dim * log(c->rope_original / (rotations * two_pi)) /
           (2.0 * log((double)c->rope_theta));
}

static double yarn(const bal_text_config *c, double inv, int i)
{
    double low = floor(yarn_dimension(c, (double)c->rope_high));
    double high = ceil(yarn_dimension(c, (double)c->rope_low));
    if (low < 0.0) low = 0.0;
    if (high > c->head_dim - 1) high = c->head_dim - 1;
    if (high - low < 1e-3) high = low + 1e-3;
    double ramp = (i - low) / (high - low);
    ramp = ramp < 0.0 ? 0.0 : ramp > 1.0 ? 1.0 : ramp;
    return inv / (double)c->rope_factor * ramp + inv * (1.0 - ramp);
}

float bal_rope_frequency(const bal_text_config *c, int i)
{
    const double inv = 1.0 / pow((double)c->rope_theta, 2.0 * i / c->head_dim);
    switch (c->rope_kind) {
    case BAL_ROPE_LINEAR: return (float)(inv / (double)c->rope_factor);
    case BAL_ROPE_LLAMA3: return (float)llama3(c, inv);
    case BAL_ROPE_YARN: return (float)yarn(c, inv, i);
    default: return (float)inv;
    }
}

/* 0, 1, 2: the coordinate that frequency i follows. */
static int axis_of(const bal_text_config *c, int i)
{
    if (c->mrope[0] + c->mrope[1] + c->mrope[2] == 0 || i < c->mrope[0]) return 0;
    return i < c->mrope[0] + c->mrope[1] ? 1 : 2;
}

void bal_rope_angles(const bal_text_config *c, const int32_t (*pos)[3], int m, float *cos_out,
                     float *sin_out)
{
    const int half = c->head_dim / 2;
    const float scale = c->rope_kind == BAL_ROPE_YARN ? c->rope_magnitude : 1.0f;
    for (int i = 0; i < half; i++) {
        const float inv = bal_rope_frequency(c, i);
        const int axis = axis_of(c, i);
        for (int r = 0; r < m; r++) {
            const float angle = (float)pos[r][axis] * inv;
            cos_out[(size_t)r * (size_t)half + (size_t)i] = cosf(angle) * scale;
            sin_out[(size_t)r * (size_t)half + (size_t)i] = sinf(angle) * scale;
        }
    }
}
