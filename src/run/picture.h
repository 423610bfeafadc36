/* SPDX-License-Identifier: MIT
 * Pictures that several requests share, and what the vision tower made of them: counted references
 * to decoded pixels (thread-safe), and a cache of embeddings with a limit on its bytes (one
 * thread). An embedding is known by the hash of the pixels and of the plan that cuts them into
 * views: everything else that preprocessing and tower depend on belongs to the model. */
#ifndef BAL_RUN_PICTURE_H
#define BAL_RUN_PICTURE_H

#include "image/anyres.h"
#include "run/kv_cache.h"

/* ---- Pixels ---------------------------------------------------------------------------------- */

typedef struct bal_picture bal_picture;

/* Takes *image over (and empties it) and hashes size and pixels. One reference, the caller's. On
 * failure the image stays the caller's. */
bal_status bal_picture_create(bal_picture **out, bal_image *image, bal_error *err);
bal_picture *bal_picture_retain(bal_picture *p);
void bal_picture_release(bal_picture *p); /* NULL is fine */
const bal_image *bal_picture_image(const bal_picture *p);
const uint8_t *bal_picture_digest(const bal_picture *p); /* SHA-256 of size and pixels */

/* ---- Embeddings ------------------------------------------------------------------------------ */

typedef struct bal_features {
    bal_key key;
    float *rows; /* [n][hidden] */
    int n;
    size_t bytes;
    int refs;
    bool kept; /* in the cache's list; else it goes with its last reference */
    struct bal_features *older, *newer;
} bal_features;

typedef struct bal_feature_cache {
    size_t limit, bytes; /* of kept entries; those in use may exceed the limit */
    int n;
    bal_features *newest, *oldest;
} bal_feature_cache;

bal_status bal_features_key(bal_key *out, const bal_picture *p, const bal_view_plan *plan,
                            bal_error *err);

/* A new entry with one reference and undefined rows, known to nobody. */
bal_status bal_features_create(bal_features **out, const bal_key *key, int n, int hidden,
                               bal_error *err);
/* The entry with that key and a reference to it, or NULL. */
bal_features *bal_feature_cache_find(bal_feature_cache *c, const bal_key *key);
/* Lists an entry whose rows are complete; the oldest unused ones go. */
void bal_feature_cache_keep(bal_feature_cache *c, bal_features *f);
/* Gives a reference back; NULL is fine. */
void bal_feature_cache_release(bal_feature_cache *c, bal_features *f);
/* Frees what is kept; every reference must have been given back. */
void bal_feature_cache_clear(bal_feature_cache *c);

#endif
