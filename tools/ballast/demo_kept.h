/* SPDX-License-Identifier: MIT
 * What it took to make each file of the demo, kept beside the file, so that a demo that was stopped
 * can go on. */
#ifndef BAL_TOOLS_DEMO_KEPT_H
#define BAL_TOOLS_DEMO_KEPT_H

#include <jansson.h>

#include "measured.h"

/* Forgets what is kept at base.cost.json, before the file is made anew. */
void demo_forget(const char *base);
bal_status demo_keep(const char *base, const json_t *identity, const bal_cost *cost,
                     bal_error *err);
/* Whether base.safetensors and its report base.json are of a run with this identity, and what that
 * took. Anything else there, damaged or not, is none. */
bool demo_kept(const char *base, const json_t *identity, bal_cost *cost);

#endif
