/* SPDX-License-Identifier: MIT
 * Calibration samples as the solvers see them: token tags in memory, hidden states on disk. */
#ifndef BAL_QUANT_SAMPLE_H
#define BAL_QUANT_SAMPLE_H

#include "base/modality.h"
#include "quant/rank.h"

typedef struct bal_sample {
    int n;             /* positions of the expanded sequence */
    int32_t *ids;      /* [n] token id; the image token at VISION positions */
    uint8_t *modality; /* [n] bal_modality */
    int32_t (*pos)[3]; /* [n] rotary positions (t, h, w); NULL: 0, 1, 2, ... in all three */
} bal_sample;

struct bal_store;

typedef struct bal_samples {
    int n, max_len;
    bal_sample *items;
    struct bal_store *gradients; /* [n][bal_recipe_token_columns() layers] of each token:
                                    bal_sensitivity_run's to fill, the solver's to read; NULL: not
                                    asked for */
    bal_rank *rank;              /* who computes which sample; NULL: this process all of them */
} bal_samples;

/* Positions row[0 .. *n-1] whose next token is an answer token, at most `max` of them, from
 * position `from` on; returns where to go on, n - 1 or more at the end. */
int bal_sample_labels(const bal_sample *s, int from, int max, int *row, int *n);

/* Every sample has 1 .. max_len positions and modalities in range, or BAL_E_ARG. */
bal_status bal_samples_check(const bal_samples *s, bal_error *err);

/* A matrix [sum of n][cols] f32 in an unlinked temporary file, read and written sample by sample,
 * so that memory does not grow with their number. */
typedef struct bal_store {
    int fd;
    int cols;
    int n_samples;
    size_t *row0; /* [n_samples + 1] first row of each sample */
    char *dir;    /* where the file was made, for messages */
} bal_store;

/* The file is made in folder `dir` and unlinked at once. */
bal_status bal_store_create(bal_store *s, const char *dir, const bal_samples *samples, int cols,
                            bal_error *err);
void bal_store_destroy(bal_store *s);
bal_status bal_store_read(const bal_store *s, int sample, float *rows, bal_error *err);
bal_status bal_store_write(bal_store *s, int sample, const float *rows, bal_error *err);
/* Collective: every rank has written its own samples and gets the others'. rows: room for the
 * longest sample. */
bal_status bal_store_join(bal_store *s, bal_rank *rank, float *rows, bal_error *err);

#endif
