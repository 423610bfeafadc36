/* SPDX-License-Identifier: MIT
 * Hidden states on disk, in a file without a name: nothing is left behind when the program is
 * killed. Refuses samples out of range and rows that were never written. */
#include "quant/sample.h"

#include "base/size.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

bal_status bal_samples_check(const bal_samples *s, bal_error *err)
{
    for (int i = 0; i < s->n; i++) {
        const bal_sample *one = &s->items[i];
        if (one->n < 1 || one->n > s->max_len)
            return bal_fail(err, BAL_E_ARG,
                            "calibration sample %d: %d positions, between 1 and %d "
                            "expected",
                            i, one->n, s->max_len);
        for (int t = 0; t < one->n; t++)
            if (one->modality[t] >= BAL_MODALITIES)
                return bal_fail(err, BAL_E_ARG, "calibration sample %d, position %d: modality %d",
                                i, t, one->modality[t]);
    }
    return BAL_OK;
}

int bal_sample_labels(const bal_sample *s, int from, int max, int *row, int *n)
{
    *n = 0;
    for (; from + 1 < s->n && *n < max; from++)
        if (s->modality[from + 1] == BAL_ANSWER) row[(*n)++] = from;
    return from;
}

/* A file without a name: nothing is left behind when the program is killed. */
static bal_status open_unlinked(int *fd, const char *dir, bal_error *err)
{
    char path[1100];
    const int n = snprintf(path, sizeof path, "%s/ballast-store-XXXXXX", dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return bal_fail(err, BAL_E_ARG, "%s: folder name is too long", dir);
    *fd = mkstemp(path);
    if (*fd < 0)
        return bal_fail(err, BAL_E_IO, "%s: no temporary file can be made: %s", dir,
                        strerror(errno));
    unlink(path);
    return BAL_OK;
}

bal_status bal_store_create(bal_store *s, const char *dir, const bal_samples *samples, int cols,
                            bal_error *err)
{
    *s = (bal_store){.fd = -1, .cols = cols, .n_samples = samples->n};
    if (cols < 1 || samples->n < 0)
        return bal_fail(err, BAL_E_ARG, "a store of %d samples and %d columns", samples->n, cols);
    s->row0 = calloc((size_t)samples->n + 1, sizeof *s->row0);
    s->dir = strdup(dir);
    if (!s->row0 || !s->dir) {
        bal_store_destroy(s);
        return bal_nomem(err, ((size_t)samples->n + 1) * sizeof *s->row0, "store index");
    }
    for (int i = 0; i < samples->n; i++) {
        size_t bytes;
        if (samples->items[i].n < 0 ||
            !bal_size_add(s->row0[i], (size_t)samples->items[i].n, &s->row0[i + 1]) ||
            !bal_size_mul(s->row0[i + 1], (size_t)cols * sizeof(float), &bytes)) {
            bal_store_destroy(s);
            return bal_fail(err, BAL_E_ARG, "sample %d: %d positions", i, samples->items[i].n);
        }
    }
    const bal_status st = open_unlinked(&s->fd, dir, err);
    if (st < 0) bal_store_destroy(s);
    return st;
}

void bal_store_destroy(bal_store *s)
{
    /* descriptor 0 of a zeroed struct is not ours: only a made store has an index */
    if (s->row0 && s->fd >= 0) close(s->fd);
    free(s->row0);
    free(s->dir);
    *s = (bal_store){.fd = -1};
}

typedef struct span {
    size_t offset, n_bytes;
} span;

static bal_status span_of(span *out, const bal_store *s, int sample, bal_error *err)
{
    *out = (span){0};
    if (sample < 0 || sample >= s->n_samples)
        return bal_fail(err, BAL_E_ARG, "sample %d of a store of %d", sample, s->n_samples);
    const size_t row = (size_t)s->cols * sizeof(float);
    *out = (span){s->row0[sample] * row, (s->row0[sample + 1] - s->row0[sample]) * row};
    return BAL_OK;
}

bal_status bal_store_read(const bal_store *s, int sample, float *rows, bal_error *err)
{
    span at;
    BAL_TRY(span_of(&at, s, sample, err));
    for (size_t done = 0; done < at.n_bytes;) {
        const ssize_t n =
            pread(s->fd, (char *)rows + done, at.n_bytes - done, (off_t)(at.offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return bal_fail(err, BAL_E_IO, "temporary store in %.300s, sample %d: %s", s->dir,
                            sample, strerror(errno));
        if (n == 0)
            return bal_fail(err, BAL_E_IO, "temporary store in %.300s, sample %d was never written",
                            s->dir, sample);
        done += (size_t)n;
    }
    return BAL_OK;
}

/* A rank whose disk fails goes on with the exchange, which the others wait for, and says so after.
 */
bal_status bal_store_join(bal_store *s, bal_rank *rank, float *rows, bal_error *err)
{
    bal_status st = BAL_OK;
    if (!rank) return BAL_OK;
    BAL_TRY(bal_rank_agree(rank, BAL_OK, err));
    for (int i = 0; i < s->n_samples; i++) {
        const size_t n_bytes = (s->row0[i + 1] - s->row0[i]) * (size_t)s->cols * sizeof *rows;
        const bool mine = bal_rank_owns(rank, i);
        if (mine && st >= 0) st = bal_store_read(s, i, rows, err);
        rank->ops->share(rank->ctx, rows, n_bytes, bal_rank_owner(rank, i));
        if (!mine && st >= 0) st = bal_store_write(s, i, rows, err);
    }
    return st;
}

bal_status bal_store_write(bal_store *s, int sample, const float *rows, bal_error *err)
{
    span at;
    BAL_TRY(span_of(&at, s, sample, err));
    for (size_t done = 0; done < at.n_bytes;) {
        const ssize_t n =
            pwrite(s->fd, (const char *)rows + done, at.n_bytes - done, (off_t)(at.offset + done));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0)
            return bal_fail(err, BAL_E_IO, "temporary store in %.300s, sample %d: %s", s->dir,
                            sample, strerror(errno));
        done += (size_t)n;
    }
    return BAL_OK;
}
