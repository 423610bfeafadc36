/* SPDX-License-Identifier: MIT
 * Which records of a data file calibrate: the clean ones among the candidates, and of these a few
 * that lie far apart. Knows nothing of files and models; what it compares are features that
 * gather.h takes from the model's own embeddings. */
#ifndef BAL_QUANT_SELECT_H
#define BAL_QUANT_SELECT_H

#include "base/hash.h"

/* first: in the order of the file; random: by the seed; diverse: as below */
typedef enum bal_select { BAL_SELECT_RANDOM, BAL_SELECT_FIRST, BAL_SELECT_DIVERSE } bal_select;
/* BAL_E_ARG names the three. NULL: random. */
bal_status bal_select_parse(bal_select *out, const char *word, bal_error *err);
const char *bal_select_name(bal_select s);

/* A candidate as it was looked at. */
typedef struct bal_prospect {
    bool broken; /* a picture cannot be read, or the model has no room for it */
    bool sees;   /* has a picture */
    int tokens;  /* of text */
    uint8_t content[BAL_SHA256_BYTES]; /* of its pictures and texts, case and spaces aside */
    uint8_t answer[BAL_SHA256_BYTES];  /* of its answers, likewise */
} bal_prospect;

/* What became of the candidates, for the report. */
typedef struct bal_select_log {
    size_t candidates, broken, duplicates, repeated, long_or_short, outliers;
} bal_select_log;

/* Chooses up to `want` of n candidates with features [n][2][dim], the means of their text's and of
 * their pictures' embeddings. Left out are, in this order: broken ones; what has the content of one
 * before it; beyond an eighth of `want`, what gives an answer that others give; texts whose
 * length's logarithm lies beyond 1.5 quartile distances of the quartiles, and a factor of two;
 * features likewise far from the mean. If fewer than `want` are then left, those with repeated
 * answers come back, in order. Of the clean ones a first is drawn by the seed, then always the one
 * farthest from all chosen; with and without pictures apart, in the proportion in which the clean
 * ones have them. chosen [want] are indices, rising. features are overwritten. BAL_E_ARG when none
 * is left. */
bal_status bal_select_diverse(const bal_prospect *c, float *features, size_t n, size_t dim,
                              uint64_t seed, size_t want, size_t *chosen, size_t *n_chosen,
                              bal_select_log *log, bal_error *err);

#endif
