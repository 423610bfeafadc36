/* SPDX-License-Identifier: MIT
 * What a position of a sequence stands for, from the prompt to the cache. */
#ifndef BAL_RUN_TOKEN_H
#define BAL_RUN_TOKEN_H

#include "base/modality.h"

#include <stdint.h>

typedef struct bal_token_info {
    int32_t id;       /* token id; the image token at VISION positions */
    int32_t pos[3];   /* rotary positions (t, h, w); equal for 1-D families */
    int32_t image;    /* running number of the picture, -1 for text */
    uint8_t modality; /* bal_modality */
} bal_token_info;

/* Rotary position of what comes behind a token: behind its largest coordinate, which closes a
 * picture's block as well. */
static inline int32_t bal_next_pos(const bal_token_info *last)
{
    const int32_t hw = last->pos[1] > last->pos[2] ? last->pos[1] : last->pos[2];
    return 1 + (last->pos[0] > hw ? last->pos[0] : hw);
}

#endif
