/* SPDX-License-Identifier: MIT
 * Rotary angles of a model: frequencies with the published scalings, and which of a position's
 * three coordinates each frequency follows. */
#ifndef BAL_MODEL_ROPE_H
#define BAL_MODEL_ROPE_H

#include "model/config.h"

/* cos, sin [m][head_dim / 2] of rows at positions pos[i] = (t, h, w). One-dimensional models read
 * t; with c->mrope the first mrope[0] frequencies follow t, the next h, the last w, in contiguous
 * sections (Qwen2-VL). In f32 as transformers computes them; frequencies in double, rounded once.
 */
void bal_rope_angles(const bal_text_config *c, const int32_t (*pos)[3], int m, float *cos_out,
                     float *sin_out);

/* Frequency i of head_dim / 2, for tests and reports. */
float bal_rope_frequency(const bal_text_config *c, int i);

#endif
