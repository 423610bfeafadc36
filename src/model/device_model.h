/* SPDX-License-Identifier: MIT
 * A bound model uploaded to a device: weights as the backend keeps them, norms, rotary frequencies.
 * Immutable once open. The tower's half stands in model/device_vision.h; a tower that the backend
 * cannot compute stays on the CPU. Work of several sessions goes through one device, so whoever
 * queues holds the lock. */
#ifndef BAL_MODEL_DEVICE_MODEL_H
#define BAL_MODEL_DEVICE_MODEL_H

#include "device/load.h"
#include "model/model.h"

#include <pthread.h>

/* The matrices of small rank of a group: A of all its linears one below the other, and B with each
 * linear's own where its outputs meet its part of A, else 0. So they are two weights for a group.
 */
typedef struct bal_device_low {
    bal_device_weight *a, *b; /* [rank][k], [width][rank] */
    int rank;                 /* of all linears together; 0: none */
} bal_device_low;

/* Linears that read the same rows; their outputs stand side by side. Those stored alike and next to
 * each other are one weight. */
typedef struct bal_device_group {
    int n, width, k; /* weights; outputs of all; inputs */
    bool gated;      /* gate and up as one weight, whose outputs are silu(gate) * up */
    int hadamard;    /* inputs that are mixed in front of it, 0: none */
    struct {
        bal_device_weight *w;
        int column; /* of its first output */
        bal_act act;
    } part[3];
    bal_device_low low[2]; /* what all rows get, and what rows of vision alone get */
} bal_device_group;

typedef struct bal_device_layer {
    bal_dptr attn_norm, mlp_norm; /* f32 [hidden] */
    bal_dptr q_norm, k_norm;      /* f32 [head_dim], or 0 */
    bal_device_group qkv, o, gate_up, down;
} bal_device_layer;

typedef struct bal_device_vision bal_device_vision; /* model/device_vision.h */

typedef struct bal_device_model {
    bal_device_handle handle;
    const bal_device_api *api; /* of the handle */
    bal_device *device;
    pthread_mutex_t lock;
    bool have_lock;
    const bal_model *model;
    int index;
    bal_device_layer *layers; /* [text.layers] */
    bal_device_weight *embed;
    bal_device_group head;     /* of the embedding table when tied */
    bal_dptr vectors;          /* norms, frequencies, axes, one behind the other */
    bal_dptr final_norm;       /* f32 [hidden] */
    bal_dptr frequency, axis;  /* f32, i32 [head_dim / 2] */
    bal_device_vision *vision; /* NULL: no tower, or one that stays on the CPU, */
    bal_error no_vision;       /* which is why */
} bal_device_model;

/* `model` must outlive it. Failures name the device, and the tensor where it is one's. */
bal_status bal_device_model_open(bal_device_model **out, const bal_model *model, int index,
                                 bal_error *err);
void bal_device_model_close(bal_device_model *d); /* NULL is fine */

void bal_device_model_lock(bal_device_model *d);
void bal_device_model_unlock(bal_device_model *d);

/* n linears that read the same rows, uploaded as few weights: gated (gate, up) only where both are
 * stored alike and nothing is added to either. BAL_E_UNSUP names what a device does not compute. */
bal_status bal_device_group_upload(bal_device_model *d, bal_device_group *g,
                                   const bal_linear *linears, int n, bool gated, bal_error *err);
void bal_device_group_free(bal_device_model *d, bal_device_group *g); /* zeroed is fine */

/* Words in device memory, one run behind the other, each on 256 bytes. Filled twice by the same
 * calls: with `base` 0 it only counts. */
typedef struct bal_device_words {
    const bal_device_model *d;
    bal_dptr base;
    size_t at; /* words so far */
} bal_device_words;

/* Where n words of 4 bytes go, 0 for NULL. */
bal_dptr bal_device_words_put(bal_device_words *w, const void *words, size_t n);

/* Work memory of a forward of m rows: as they are staged, and what matrices of small rank make of
 * them. */
size_t bal_device_group_bytes(const bal_device_model *d, const bal_device_group *g, int m);

/* Stages rows as each of the group's weights reads them and multiplies: y f32 [m][ld]. stage.act is
 * filled in here, stage.out is work memory of bal_device_group_bytes. Inputs that are mixed are so
 * in place, whole rows of stage.ld values, which is a multiple of what is mixed. What is for vision
 * alone costs nothing where stage.modality is 0. y may overlap the rows where the group is one
 * weight. Under the lock. */
void bal_device_group_forward(const bal_device_model *d, const bal_device_group *g,
                              bal_stage_args stage, bal_dptr y, size_t ld, bool add);

#endif
