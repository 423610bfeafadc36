/* SPDX-License-Identifier: MIT */
#include "run/picture.h"

#include "base/size.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

/* ---- Pixels ---------------------------------------------------------------------------------- */

struct bal_picture {
    atomic_int refs;
    bal_image image;
    bal_key digest;
};

static bal_status digest_of(bal_key *out, const bal_image *image, bal_error *err)
{
    const int32_t size[2] = {image->width, image->height};
    const size_t bytes = 3 * (size_t)image->width * (size_t)image->height;
    bal_sha256 h = {0};
    bal_status st;
    BAL_GOTO(bal_sha256_init(&h, err), done);
    BAL_GOTO(bal_sha256_update(&h, size, sizeof size, err), done);
    BAL_GOTO(bal_sha256_update(&h, image->rgb, bytes, err), done);
    BAL_GOTO(bal_sha256_final(&h, out->b, err), done);
done:
    bal_sha256_deinit(&h);
    return st;
}

bal_status bal_picture_create(bal_picture **out, bal_image *image, bal_error *err)
{
    *out = NULL;
    bal_picture *p = calloc(1, sizeof *p);
    if (!p) return bal_nomem(err, sizeof *p, "a picture");
    const bal_status st = digest_of(&p->digest, image, err);
    if (st < 0) {
        free(p);
        return st;
    }
    atomic_init(&p->refs, 1);
    p->image = *image;
    *image = (bal_image){0};
    *out = p;
    return BAL_OK;
}

bal_picture *bal_picture_retain(bal_picture *p)
{
    atomic_fetch_add(&p->refs, 1);
    return p;
}

void bal_picture_release(bal_picture *p)
{
    if (!p || atomic_fetch_sub(&p->refs, 1) > 1) return;
    bal_image_free(&p->image);
    free(p);
}

const bal_image *bal_picture_image(const bal_picture *p)
{
    return &p->image;
}

const uint8_t *bal_picture_digest(const bal_picture *p)
{
    return p->digest.b;
}

/* ---- Embeddings ------------------------------------------------------------------------------ */

bal_status bal_features_key(bal_key *out, const bal_picture *p, const bal_view_plan *plan,
                            bal_error *err)
{
    bal_sha256 h = {0};
    bal_status st;
    BAL_GOTO(bal_sha256_init(&h, err), done);
    BAL_GOTO(bal_sha256_update(&h, p->digest.b, sizeof p->digest.b, err), done);
    BAL_GOTO(bal_sha256_update(&h, plan, sizeof *plan, err), done);
    BAL_GOTO(bal_sha256_final(&h, out->b, err), done);
done:
    bal_sha256_deinit(&h);
    return st;
}

bal_status bal_features_create(bal_features **out, const bal_key *key, int n, int hidden,
                               bal_error *err)
{
    *out = NULL;
    size_t bytes = 0;
    if (!bal_size_mul((size_t)n * sizeof(float), (size_t)hidden, &bytes))
        return bal_nomem(err, bytes, "picture embeddings");
    bal_features *f = calloc(1, sizeof *f);
    float *rows = f ? malloc(bytes + 1) : NULL;
    if (!rows) {
        free(f);
        return bal_nomem(err, bytes, "picture embeddings");
    }
    *f = (bal_features){.key = *key, .rows = rows, .n = n, .bytes = bytes, .refs = 1};
    *out = f;
    return BAL_OK;
}

static void features_free(bal_features *f)
{
    free(f->rows);
    free(f);
}

static void unlink_entry(bal_feature_cache *c, bal_features *f)
{
    *(f->newer ? &f->newer->older : &c->newest) = f->older;
    *(f->older ? &f->older->newer : &c->oldest) = f->newer;
    c->bytes -= f->bytes;
    c->n--;
}

static void link_newest(bal_feature_cache *c, bal_features *f)
{
    f->newer = NULL;
    f->older = c->newest;
    *(c->newest ? &c->newest->newer : &c->oldest) = f;
    c->newest = f;
    c->bytes += f->bytes;
    c->n++;
}

static void shrink(bal_feature_cache *c)
{
    for (bal_features *f = c->oldest, *next; f && c->bytes > c->limit; f = next) {
        next = f->newer;
        if (f->refs > 0) continue;
        unlink_entry(c, f);
        features_free(f);
    }
}

bal_features *bal_feature_cache_find(bal_feature_cache *c, const bal_key *key)
{
    bal_features *f = c->newest;
    while (f && memcmp(&f->key, key, sizeof *key) != 0) f = f->older;
    if (!f) return NULL;
    f->refs++;
    unlink_entry(c, f);
    link_newest(c, f);
    return f;
}

void bal_feature_cache_keep(bal_feature_cache *c, bal_features *f)
{
    f->kept = true;
    link_newest(c, f);
    shrink(c);
}

void bal_feature_cache_release(bal_feature_cache *c, bal_features *f)
{
    if (!f || --f->refs > 0) return;
    if (f->kept)
        shrink(c);
    else
        features_free(f);
}

void bal_feature_cache_clear(bal_feature_cache *c)
{
    for (bal_features *f = c->newest, *next; f; f = next) {
        next = f->older;
        features_free(f);
    }
    *c = (bal_feature_cache){.limit = c->limit};
}
