/* SPDX-License-Identifier: MIT
 * A model from end to end: how long until it can answer, what it keeps in memory, how fast it
 * looks, reads and writes, and what part of the machine's limits that is, measured in the same run.
 */
#ifndef BAL_TOOL_BENCH_MODEL_H
#define BAL_TOOL_BENCH_MODEL_H

#include "ballast.h"
#include "bench_row.h"

typedef struct bal_model_bench {
    const char *path;     /* a Ballast file or a Hugging Face folder */
    int threads;          /* 0: all */
    const char *isa;      /* NULL: all that the CPU has */
    const char *device;   /* bal_engine_use_device; on a device rows of the decoder name it instead
                             of the ISA level, and have no limit: those measured are the CPU's */
    const char *shapes;   /* bal_engine_use_shapes */
    int ctx;              /* positions of the session */
    int prompt;           /* tokens of the prompt, */
    int tokens;           /* and of the answer */
    int width, height;    /* of the picture, which is made up; 0: none */
    int image_max_tokens; /* 0: what the model is made for */
    bool cold;            /* also once with the file dropped from the page cache */
    int repeats;
    bal_progress_fn *progress; /* NULL: nobody watches; stage "measuring", in steps */
    void *ctx_progress;
} bal_model_bench;

/* Memory in bytes, as the kernel counts it for this process. */
typedef struct bal_bench_memory {
    double resident, anonymous;
} bal_bench_memory;

enum { BAL_MODEL_ROWS = 12, BAL_MODEL_ROUNDS = 101 };

typedef struct bal_model_report {
    bal_bench_row rows[BAL_MODEL_ROWS];
    int n_rows;
    const char *family, *isa;
    char device[16];        /* "cuda:0", or empty */
    int threads, bits, ctx; /* bits of the decoder's linears */
    size_t group;
    size_t n_shapes;                        /* entries of the shape table in use */
    double weights, file_bytes;             /* of the whole model */
    double planned;                         /* bytes a session allocates, by its plan */
    double picture_planned;                 /* and looking at the picture, for a while */
    bal_bench_memory before, text, picture; /* before opening; after a text prompt; after a picture
                                               has been looked at */
    bool has_picture;
    int picture_views, picture_tokens, resized_width, resized_height;
    double cold_s; /* from opening to the first token, nothing of the file in memory; below 0: not
                      measured */
    char cold_why[160]; /* why not */
} bal_model_report;

/* Rows: the limits, "load" (open a model and a session), "first_token" (the same up to the logits
 * of a prompt of one token), "pixels" and "encode" (the picture: resize and normalise; tower and
 * projector), "prefill" and "decode". The file's pages are in memory ("warm") except in cold_s. To
 * a device a model is loaded once, its pages as they are: rows "load" and "first_token" have one
 * round. */
bal_status bal_bench_model(const bal_model_bench *plan, bal_model_report *out, bal_error *err);

#endif
