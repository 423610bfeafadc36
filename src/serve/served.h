/* SPDX-License-Identifier: MIT
 * A model being served: engine, scheduler with its thread, sorted vocabulary, figures. */
#ifndef BAL_SERVE_SERVED_H
#define BAL_SERVE_SERVED_H

#include "serve/matcher.h"
#include "serve/metrics.h"

#include <jansson.h>

typedef struct bal_served {
    char name[256]; /* what requests call it */
    bal_engine engine;
    bal_scheduler *scheduler;
    pthread_t thread;
    bool has_thread, has_metrics;
    bal_vocab vocab;
    bal_metrics metrics;
    int ctx;
    int64_t created;           /* Unix time of opening */
    double linear_bits;        /* per weight of the decoder's linears, scales and zeros counted */
    double file_bits;          /* per weight of the whole file */
    uint64_t weights, n_bytes; /* of the whole file */
    char storage[48];          /* of the decoder's linears: "f16", "w3g128.p16u32.v1", "mixed" */
} bal_served;

/* How a model's engine is opened; zero means the default of each. */
typedef struct bal_served_opts {
    int threads;
    const char *isa, *device, *shapes;
    int image_max_tokens;
    const char *chat_template; /* NULL: each model's own */
    bal_scheduler_opts scheduler;
} bal_served_opts;

/* name NULL: the last part of the path without .safetensors. On failure *m is empty. */
bal_status bal_served_open(bal_served *m, const char *path, const char *name,
                           const bal_served_opts *opts, bal_error *err);
/* Starts the engine thread. */
bal_status bal_served_start(bal_served *m, bal_error *err);
/* Runs a short request with a picture, if the model sees, so that the first user does not pay for
 * cold pages; /metrics does not count it. Needs the engine thread. */
bal_status bal_served_warm_up(bal_served *m, bal_error *err);
/* Stops the thread and closes everything; no request may be left. Idempotent; a zeroed struct is
 * fine. */
void bal_served_close(bal_served *m);

/* The entry of /v1/models; NULL when memory is short. */
json_t *bal_served_json(const bal_served *m);

/* How a picture of w x h is seen among n pictures of a request. tokens 0 if it cannot be. */
typedef struct bal_picture_view {
    int width, height, rows, cols, views, tokens;
} bal_picture_view;
bal_picture_view bal_served_view(const bal_served *m, int w, int h, int n_pictures);

#endif
