/* SPDX-License-Identifier: MIT
 * Dealing out work, meeting, exchanging: what is the same for every transport. Refuses nothing but
 * what another rank refused. */
#include "quant/rank.h"

#include "base/size.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- Who does what ---------------------------------------------------------------------------
 */

/* Multiples of unit up to the fraction `part` of n, all of n at 1. */
static size_t boundary(size_t n, size_t unit, double part)
{
    const size_t units = bal_ceil_div(n, unit);
    return bal_min(n, unit * (size_t)((double)units * part + 0.5));
}

bal_range bal_rank_rows_of(const bal_rank *r, int index, size_t n, size_t unit)
{
    if (!r) return (bal_range){0, n};
    return (bal_range){boundary(n, unit, (double)index / r->count),
                       boundary(n, unit, (double)(index + 1) / r->count)};
}

bal_range bal_rank_rows(const bal_rank *r, size_t n, size_t unit)
{
    return bal_rank_rows_of(r, r ? r->index : 0, n, unit);
}

bal_range bal_rank_triangle_of(const bal_rank *r, int index, size_t n, size_t unit)
{
    if (!r) return (bal_range){0, n};
    return (bal_range){boundary(n, unit, sqrt((double)index / r->count)),
                       boundary(n, unit, sqrt((double)(index + 1) / r->count))};
}

/* ---- Meeting ---------------------------------------------------------------------------------
 */

bal_status bal_rank_agree(bal_rank *r, bal_status st, bal_error *err)
{
    if (!r) return st;
    if (r->ended < 0) return r->ended;
    const int first = r->ops->first_failed(r->ctx, st < 0);
    if (first < 0) return st;
    bal_error said = {.status = st};
    if (first == r->index && err) said = *err;
    r->ops->share(r->ctx, &said, sizeof said, first);
    said.text[sizeof said.text - 1] = 0;
    r->ended = said.status < 0 ? said.status : BAL_E_NUMERIC;
    return first > 0 ? bal_fail(err, r->ended, "rank %d: %s", first, said.text)
                     : bal_fail(err, r->ended, "%s", said.text);
}

bal_status bal_rank_share(bal_rank *r, void *bytes, size_t n, int root, bal_error *err)
{
    if (!r) return BAL_OK;
    BAL_TRY(bal_rank_agree(r, BAL_OK, err));
    r->ops->share(r->ctx, bytes, n, root);
    return BAL_OK;
}

bal_status bal_rank_join_rows(bal_rank *r, void *base, size_t n, size_t unit, size_t row_bytes,
                              bal_error *err)
{
    if (!r) return BAL_OK;
    BAL_TRY(bal_rank_agree(r, BAL_OK, err));
    for (int i = 0; i < r->count; i++) {
        const bal_range rows = bal_rank_rows_of(r, i, n, unit);
        if (rows.end > rows.begin)
            r->ops->share(r->ctx, (char *)base + rows.begin * row_bytes,
                          (rows.end - rows.begin) * row_bytes, i);
    }
    return BAL_OK;
}

/* Bytes of one rank's samples one behind the other: from base to packed, or back. Returns their
 * number; packed NULL: only that. */
static size_t pack(const bal_rank *r, int index, char *base, const size_t *row0, int n,
                   size_t row_bytes, char *packed, bool back)
{
    size_t at = 0;
    for (int i = index; i < n; i += r->count) {
        char *rows = base + row0[i] * row_bytes;
        const size_t n_bytes = (row0[i + 1] - row0[i]) * row_bytes;
        if (packed) memcpy(back ? rows : packed + at, back ? packed + at : rows, n_bytes);
        at += n_bytes;
    }
    return at;
}

bal_status bal_rank_join_samples(bal_rank *r, void *base, const size_t *row0, int n,
                                 size_t row_bytes, bal_error *err)
{
    if (!r) return BAL_OK;
    size_t most = 1;
    for (int i = 0; i < r->count; i++)
        most = bal_max(most, pack(r, i, base, row0, n, row_bytes, NULL, false));
    char *packed = malloc(most);
    const bal_status st = packed ? BAL_OK : bal_nomem(err, most, "what ranks exchange");
    if (bal_rank_agree(r, st, err) < 0) {
        free(packed);
        return r->ended;
    }
    for (int i = 0; i < r->count; i++) {
        const size_t n_bytes = pack(r, i, base, row0, n, row_bytes, packed, false);
        r->ops->share(r->ctx, packed, n_bytes, i);
        pack(r, i, base, row0, n, row_bytes, packed, true);
    }
    free(packed);
    return BAL_OK;
}
