/* SPDX-License-Identifier: MIT
 * Attention over cache pages, twice. Decode: sums in f32, keys split over blocks by pages, the
 * query heads of a kv head together, and a merge by (O, m, l) in the order of the pages
 * (flash-decoding). How many pages a block takes depends on the row's own length alone, so a row's
 * bits do not depend on the rows beside it. Prefill: tiles of 64 pairs of row and head on tensor
 * cores in f16, sums in f32 (FlashAttention-2's order: Dao 2023).
 *
 * A "pair" is a row and one of the G query heads that share a kv head: pair p of a tile is row
 * first + p / G, head kv G + p % G. */
#include "cuda/cache.cuh"
#include "cuda/ops.h"

enum { PAGE = BAL_DEVICE_PAGE, THREADS = 128, PAIRS = 16, PAD = 4 };

BAL_DEVICE float quad_max(float v)
{
    v = fmaxf(v, __shfl_xor_sync(BAL_WARP, v, 1));
    return fmaxf(v, __shfl_xor_sync(BAL_WARP, v, 2));
}

BAL_DEVICE float quad_sum(float v)
{
    v += __shfl_xor_sync(BAL_WARP, v, 1);
    return v + __shfl_xor_sync(BAL_WARP, v, 2);
}

BAL_DEVICE float warp_max(float v)
{
    for (int bits = 16; bits > 0; bits /= 2) v = fmaxf(v, __shfl_xor_sync(BAL_WARP, v, bits));
    return v;
}

BAL_DEVICE float warp_sum(float v)
{
    for (int bits = 16; bits > 0; bits /= 2) v += __shfl_xor_sync(BAL_WARP, v, bits);
    return v;
}

/* Pages that one block of a row of n positions takes. */
BAL_DEVICE int pages_of_split(int n)
{
    const int pages = (n + PAGE - 1) / PAGE;
    return (pages + BAL_SPLITS - 1) / BAL_SPLITS;
}

/* ---- Decode ---------------------------------------------------------------------------------- */

/* Shared memory of a block, in floats: queries and output [PAIRS][wide], scores [PAGE][PAIRS], a
 * tile of keys and then of values [PAGE][wide + PAD], and m, l, rescale [PAIRS]. wide is dim as
 * whole quads, zeros behind dim; PAD sets eight rows' quads apart by banks. */
struct decode_room {
    float *q, *o, *s, *tile, *m, *l, *keep;
    int wide, pitch;
};

BAL_DEVICE decode_room room_of(int dim)
{
    decode_room r;
    r.wide = (dim + 3) / 4 * 4;
    r.pitch = r.wide + PAD;
    r.q = (float *)bal_shared();
    r.o = r.q + PAIRS * r.wide;
    r.s = r.o + PAIRS * r.wide;
    r.tile = r.s + PAGE * PAIRS;
    r.m = r.tile + PAGE * r.pitch;
    r.l = r.m + PAIRS;
    r.keep = r.l + PAIRS;
    return r;
}

static size_t decode_bytes(int dim)
{
    const int wide = (dim + 3) / 4 * 4;
    return sizeof(float) *
           (size_t)(2 * PAIRS * wide + PAGE * PAIRS + PAGE * (wide + PAD) + 3 * PAIRS);
}

/* What a block does: which tile and split, its pairs and keys. */
struct decode_job {
    int first, pairs, group, kv, from; /* pair i of the block is pair from + i of the tile */
    int begin, end;                    /* pages */
    int split;
};

BAL_DEVICE int row_of(const decode_job &j, int i)
{
    return j.first + (j.from + i) / j.group;
}

BAL_DEVICE int head_of(const decode_job &j, int i)
{
    return j.kv * j.group + (j.from + i) % j.group;
}

/* A thread has columns of all pairs, whose loads go together. */
BAL_DEVICE void load_queries(const bal_attend_args &a, const decode_job &j, const decode_room &r)
{
    const int dim = a.cache.dim;
    const float scale = 1.4426950408889634f / sqrtf((float)dim); /* log2(e): exp2 follows */
    for (int d = (int)threadIdx.x; d < r.wide; d += THREADS) {
        float v[PAIRS];
        BAL_UNROLL
        for (int p = 0; p < PAIRS; p++) {
            const float *q = (const float *)a.q + (size_t)row_of(j, p) * a.ld;
            v[p] = p < j.pairs && d < dim ? q[head_of(j, p) * dim + d] * scale : 0.0f;
        }
        BAL_UNROLL
        for (int p = 0; p < PAIRS; p++) {
            r.q[p * r.wide + d] = v[p];
            r.o[p * r.wide + d] = 0.0f;
        }
    }
    if (threadIdx.x < PAIRS) {
        r.m[threadIdx.x] = -INFINITY;
        r.l[threadIdx.x] = 0.0f;
    }
}

enum { TOGETHER = 8 }; /* loads of a thread under way */

/* Where a thread's next 16 bytes of a tile are: row, and piece of the row. */
struct tile_walk {
    int row, piece, pieces; /* of a row */
};

BAL_DEVICE tile_walk walk_of(const bal_device_cache &c)
{
    tile_walk w;
    w.pieces = c.dim * c.element / 16;
    w.row = (int)threadIdx.x / w.pieces;
    w.piece = (int)threadIdx.x % w.pieces;
    return w;
}

BAL_DEVICE void walk_on(tile_walk *w, int rows_step, int piece_step)
{
    w->row += rows_step;
    w->piece += piece_step;
    if (w->piece >= w->pieces) w->piece -= w->pieces, w->row++;
}

/* TOGETHER pieces of a tile, of rows that hold something; the others are 0. */
struct tile_pieces {
    uint4 v[TOGETHER];
};

BAL_DEVICE tile_pieces fetch_pieces(const bal_device_cache &c, const unsigned char *tile,
                                    tile_walk w, int rows)
{
    const int rows_step = THREADS / w.pieces, piece_step = THREADS % w.pieces;
    tile_pieces t;
    BAL_UNROLL
    for (int i = 0; i < TOGETHER; i++) {
        const size_t at = (size_t)w.row * (size_t)(c.dim * c.element) + (size_t)w.piece * 16;
        t.v[i] = w.row < rows ? *(const uint4 *)(tile + at) : make_uint4(0, 0, 0, 0);
        walk_on(&w, rows_step, piece_step);
    }
    return t;
}

/* Two numbers of 16 bits, or four codes of 8, as floats. */
BAL_DEVICE float2 two_halves(uint32_t v)
{
    return make_float2(bal_f16_float(v), bal_f16_float(v >> 16));
}

BAL_DEVICE float4 four_codes(uint32_t v, float scale)
{
    return make_float4(scale * (float)(signed char)v, scale * (float)(signed char)(v >> 8),
                       scale * (float)(signed char)(v >> 16),
                       scale * (float)(signed char)(v >> 24));
}

BAL_DEVICE void put_piece(const bal_device_cache &c, const unsigned char *tile, const tile_walk &w,
                          uint4 v, bool real, float *row)
{
    if (c.element == 4) {
        *(float4 *)(row + 4 * w.piece) = make_float4(__uint_as_float(v.x), __uint_as_float(v.y),
                                                     __uint_as_float(v.z), __uint_as_float(v.w));
    } else if (c.element == 2) {
        const float2 x = two_halves(v.x), y = two_halves(v.y), z = two_halves(v.z),
                     u = two_halves(v.w);
        float4 *to = (float4 *)(row + 8 * w.piece);
        to[0] = make_float4(x.x, x.y, y.x, y.y);
        to[1] = make_float4(z.x, z.y, u.x, u.y);
    } else {
        const float scale = real ? bal_tile_scales(c, (unsigned char *)tile)[w.row] : 0.0f;
        float4 *to = (float4 *)(row + 16 * w.piece);
        to[0] = four_codes(v.x, scale);
        to[1] = four_codes(v.y, scale);
        to[2] = four_codes(v.z, scale);
        to[3] = four_codes(v.w, scale);
    }
}

/* Moves w on to what follows the pieces. */
BAL_DEVICE void put_pieces(const bal_device_cache &c, const decode_room &r,
                           const unsigned char *tile, tile_walk *w, const tile_pieces &t, int rows)
{
    const int rows_step = THREADS / w->pieces, piece_step = THREADS % w->pieces;
    BAL_UNROLL
    for (int i = 0; i < TOGETHER; i++) {
        if (w->row < PAGE) put_piece(c, tile, *w, t.v[i], w->row < rows, r.tile + w->row * r.pitch);
        walk_on(w, rows_step, piece_step);
    }
}

/* What a page holds for a kv head, keys or values, on its way into shared memory. */
struct tile_load {
    const unsigned char *tile;
    int rows; /* that hold something; the others become 0 */
    tile_walk walk;
    tile_pieces first;
};

/* Whether rows are whole pieces of 16 bytes. */
BAL_DEVICE bool in_pieces(const bal_device_cache &c)
{
    return c.dim * c.element % 16 == 0;
}

/* Of a page with `rows` positions or more. Its first loads are under way then. */
BAL_DEVICE tile_load begin_tile(const bal_attend_args &a, const decode_job &j, int page, int part,
                                int rows)
{
    tile_load t;
    t.tile = bal_tile(a.cache, a.rows, j.first, page, a.layer, part, j.kv);
    t.rows = min(rows, (int)PAGE);
    if (!in_pieces(a.cache)) return t;
    t.walk = walk_of(a.cache);
    t.first = fetch_pieces(a.cache, t.tile, t.walk, t.rows);
    return t;
}

BAL_DEVICE void end_tile(const bal_attend_args &a, const decode_room &r, tile_load &t)
{
    const bal_device_cache &c = a.cache;
    if (in_pieces(c)) {
        put_pieces(c, r, t.tile, &t.walk, t.first, t.rows);
        while (t.walk.row < PAGE) {
            const tile_pieces more = fetch_pieces(c, t.tile, t.walk, t.rows);
            put_pieces(c, r, t.tile, &t.walk, more, t.rows);
        }
        return;
    }
    for (int i = (int)threadIdx.x; i < PAGE * r.wide; i += THREADS) {
        const int row = i / r.wide, d = i % r.wide;
        const bool real = row < t.rows && d < c.dim;
        r.tile[row * r.pitch + d] = real ? bal_tile_value(c, t.tile, row, d) : 0.0f;
    }
}

/* Thread t has key t % 64 and every second pair, n of them. */
template <int n>
BAL_DEVICE void scores_of(const decode_job &j, const decode_room &r, const int32_t *at, int page)
{
    const int key = (int)threadIdx.x % PAGE, odd = (int)threadIdx.x / PAGE;
    const float4 *k = (const float4 *)(r.tile + key * r.pitch);
    float sum[n];
    BAL_UNROLL
    for (int i = 0; i < n; i++) sum[i] = 0.0f;
    for (int d = 0; d < r.wide / 4; d++) {
        const float4 x = k[d];
        BAL_UNROLL
        for (int i = 0; i < n; i++) {
            const float4 q = ((const float4 *)(r.q + (2 * i + odd) * r.wide))[d];
            sum[i] = fmaf(q.x, x.x, sum[i]);
            sum[i] = fmaf(q.y, x.y, sum[i]);
            sum[i] = fmaf(q.z, x.z, sum[i]);
            sum[i] = fmaf(q.w, x.w, sum[i]);
        }
    }
    BAL_UNROLL
    for (int i = 0; i < n; i++) {
        const int p = 2 * i + odd;
        const bool seen = p < j.pairs && page * PAGE + key <= at[row_of(j, p < j.pairs ? p : 0)];
        r.s[key * PAIRS + p] = seen ? sum[i] : -INFINITY;
    }
}

BAL_DEVICE void scores(const decode_job &j, const decode_room &r, const int32_t *at, int page)
{
    if (j.pairs <= 2)
        scores_of<1>(j, r, at, page);
    else if (j.pairs <= 8)
        scores_of<4>(j, r, at, page);
    else
        scores_of<PAIRS / 2>(j, r, at, page);
}

/* Scores become weights; m, l and what the output so far is multiplied by follow. */
BAL_DEVICE void softmax(const decode_job &j, const decode_room &r)
{
    const int lane = (int)threadIdx.x % 32;
    for (int p = (int)threadIdx.x / 32; p < j.pairs; p += THREADS / 32) {
        float *s = r.s + p;
        const float a = s[lane * PAIRS], b = s[(lane + 32) * PAIRS], old = r.m[p];
        const float top = fmaxf(old, warp_max(fmaxf(a, b)));
        const float base = top == -INFINITY ? 0.0f : top;
        const float pa = exp2f(a - base), pb = exp2f(b - base), sum = warp_sum(pa + pb);
        const float keep = exp2f(old - base);
        s[lane * PAIRS] = pa;
        s[(lane + 32) * PAIRS] = pb;
        __syncwarp();
        if (lane == 0) {
            r.m[p] = top;
            r.l[p] = r.l[p] * keep + sum;
            r.keep[p] = keep;
        }
    }
}

/* Thread t has the columns t, t + 128, ... of the first 4 n pairs. */
template <int n> BAL_DEVICE void add_values_of(const decode_job &j, const decode_room &r, int dim)
{
    for (int d = (int)threadIdx.x; d < dim; d += THREADS) {
        float sum[4 * n];
        BAL_UNROLL
        for (int p = 0; p < 4 * n; p++) sum[p] = 0.0f;
        for (int key = 0; key < PAGE; key++) {
            const float v = r.tile[key * r.pitch + d];
            const float4 *w = (const float4 *)(r.s + key * PAIRS);
            BAL_UNROLL
            for (int i = 0; i < n; i++) {
                const float4 x = w[i];
                sum[4 * i] = fmaf(x.x, v, sum[4 * i]);
                sum[4 * i + 1] = fmaf(x.y, v, sum[4 * i + 1]);
                sum[4 * i + 2] = fmaf(x.z, v, sum[4 * i + 2]);
                sum[4 * i + 3] = fmaf(x.w, v, sum[4 * i + 3]);
            }
        }
        BAL_UNROLL
        for (int p = 0; p < 4 * n; p++)
            if (p < j.pairs) r.o[p * r.wide + d] = r.o[p * r.wide + d] * r.keep[p] + sum[p];
    }
}

BAL_DEVICE void add_values(const decode_job &j, const decode_room &r, int dim)
{
    if (j.pairs <= 4)
        add_values_of<1>(j, r, dim);
    else if (j.pairs <= 8)
        add_values_of<2>(j, r, dim);
    else
        add_values_of<PAIRS / 4>(j, r, dim);
}

/* States [row][head][split] of (O, m, l): dim + 2 floats, or the finished rows when nothing was
 * split. */
BAL_DEVICE void store_states(const bal_attend_args &a, const decode_job &j, const decode_room &r)
{
    const int dim = a.cache.dim;
    for (int p = 0; p < j.pairs; p++) {
        const size_t pair = (size_t)row_of(j, p) * a.heads + head_of(j, p);
        float *state = (float *)a.work + (pair * BAL_SPLITS + j.split) * (dim + 2);
        float *to = a.work ? state : (float *)a.out + pair * dim;
        const float by = a.work ? 1.0f : r.l[p];
        for (int d = (int)threadIdx.x; d < dim; d += THREADS) to[d] = r.o[p * r.wide + d] / by;
        if (a.work && threadIdx.x == 0) {
            state[dim] = r.m[p];
            state[dim + 1] = r.l[p];
        }
    }
}

/* Grid: pair chunks of the tiles, kv heads, splits. a.work 0: one block sees all keys. */
__global__ void __launch_bounds__(THREADS, 2) bal_k_attend_decode(const bal_attend_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const int32_t *tile = (const int32_t *)a.tiles, *at = (const int32_t *)a.rows.at;
    const int group = a.heads / a.cache.heads, chunks = (a.tile_rows * group + PAIRS - 1) / PAIRS;
    const int t = (int)blockIdx.x / chunks, last = at[tile[2 * t] + tile[2 * t + 1] - 1];
    const int per_split = a.work ? pages_of_split(last + 1) : (last + PAGE) / PAGE;
    const decode_room r = room_of(a.cache.dim);
    decode_job j;
    j.first = tile[2 * t];
    j.group = group;
    j.kv = (int)blockIdx.y;
    j.from = ((int)blockIdx.x % chunks) * PAIRS;
    j.pairs = min(tile[2 * t + 1] * group - j.from, (int)PAIRS);
    j.split = (int)blockIdx.z;
    j.begin = j.split * per_split;
    j.end = min(j.begin + per_split, (last + PAGE) / PAGE);
    if (last < 0 || j.pairs < 1 || j.begin >= j.end) return;
    const int all = last + 1; /* positions */
    tile_load keys = begin_tile(a, j, j.begin, BAL_CACHE_KEYS, all - j.begin * PAGE);
    load_queries(a, j, r);
    for (int page = j.begin; page < j.end; page++) {
        __syncthreads();
        end_tile(a, r, keys);
        tile_load values = begin_tile(a, j, page, BAL_CACHE_VALUES, all - page * PAGE);
        __syncthreads();
        scores(j, r, at, page);
        __syncthreads();
        softmax(j, r);
        end_tile(a, r, values);
        if (page + 1 < j.end)
            keys = begin_tile(a, j, page + 1, BAL_CACHE_KEYS, all - (page + 1) * PAGE);
        __syncthreads();
        add_values(j, r, a.cache.dim);
    }
    __syncthreads();
    store_states(a, j, r);
}

/* Grid: heads, rows. Shared memory: weight and l of each split. */
__global__ void __launch_bounds__(THREADS) bal_k_attend_merge(const bal_attend_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const int dim = a.cache.dim, row = (int)blockIdx.y, at = ((const int32_t *)a.rows.at)[row];
    const size_t pair = (size_t)row * a.heads + blockIdx.x;
    const float *states = (const float *)a.work + pair * BAL_SPLITS * (size_t)(dim + 2);
    const int pages = (at + PAGE) / PAGE, per_split = pages_of_split(at + 1);
    if (at < 0) return;
    const int splits = (pages + per_split - 1) / per_split, t = (int)threadIdx.x;
    float *weight = (float *)bal_shared(), *sums = weight + BAL_SPLITS, top = -INFINITY;
    if (t < splits) {
        weight[t] = states[t * (dim + 2) + dim];
        sums[t] = states[t * (dim + 2) + dim + 1];
    }
    __syncthreads();
    for (int i = 0; i < splits; i++) top = fmaxf(top, weight[i]);
    __syncthreads();
    if (t < splits) weight[t] = exp2f(weight[t] - top);
    __syncthreads();
    for (int d = t; d < dim; d += THREADS) {
        float o = 0.0f, l = 0.0f;
        for (int from = 0; from < splits; from += TOGETHER) {
            float s[TOGETHER];
            BAL_UNROLL
            for (int i = 0; i < TOGETHER; i++)
                s[i] = from + i < splits ? states[(from + i) * (dim + 2) + d] : 0.0f;
            BAL_UNROLL
            for (int i = 0; i < TOGETHER; i++) {
                if (from + i >= splits) break;
                o = fmaf(s[i], weight[from + i], o);
                l = fmaf(sums[from + i], weight[from + i], l);
            }
        }
        ((float *)a.out)[pair * dim + d] = o / l;
    }
}

/* ---- Prefill --------------------------------------------------------------------------------- */

enum { TILE_PAIRS = 64, KEY_TILES = PAGE / 8 };

/* Halves from row to row of a tile in shared memory: an odd number of 16 bytes, so that the eight
 * rows of a fragment lie in different banks. */
template <int STEPS> BAL_DEVICE constexpr int pitch_of()
{
    return 16 * STEPS + 8;
}

/* A page's tile as f16, columns beyond dim and rows beyond `rows` 0. */
template <int STEPS>
BAL_DEVICE void load_half_tile(const bal_attend_args &a, uint16_t *to, int row0, int page, int part,
                               int kv, int rows)
{
    const int dim = a.cache.dim, wide = 16 * STEPS;
    const unsigned char *tile = bal_tile(a.cache, a.rows, row0, page, a.layer, part, kv);
    if (a.cache.element == 2 && dim % 8 == 0) {
        for (int i = (int)threadIdx.x; i < PAGE * wide / 8; i += THREADS) {
            const int row = i / (wide / 8), d = i % (wide / 8) * 8;
            uint4 v = make_uint4(0, 0, 0, 0);
            if (row < rows && d < dim) v = *(const uint4 *)((const uint16_t *)tile + row * dim + d);
            *(uint4 *)(to + row * pitch_of<STEPS>() + d) = v;
        }
        return;
    }
    for (int i = (int)threadIdx.x; i < PAGE * wide; i += THREADS) {
        const int row = i / wide, d = i % wide;
        float v = 0.0f;
        if (row < rows && d < dim) v = bal_tile_value(a.cache, tile, row, d);
        const uint16_t h = bal_f16(fminf(fmaxf(v, -65504.0f), 65504.0f));
        to[row * pitch_of<STEPS>() + d] = h;
    }
}

/* Two neighbouring columns of a pair's query, scaled. */
BAL_DEVICE uint32_t query_pair(const float *q, int d, int dim, float scale)
{
    const float lo = q && d < dim ? q[d] * scale : 0.0f;
    const float hi = q && d + 1 < dim ? q[d + 1] * scale : 0.0f;
    return bal_f16_pair(lo, hi);
}

/* One warp: 16 pairs. Row g and g + 8 of fragments are pairs g and g + 8 of it. */
template <int STEPS> struct prefill_state {
    uint32_t q[STEPS][4];
    float o[2 * STEPS][4], m[2], l[2];
    int at[2]; /* last key each of the two pairs sees; -1: no pair */
};

template <int STEPS>
BAL_DEVICE void add_page(prefill_state<STEPS> &st, const uint16_t *keys, const uint16_t *values,
                         int page)
{
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int pitch = pitch_of<STEPS>();
    float s[KEY_TILES][4];
    for (int n = 0; n < KEY_TILES; n++) {
        for (int i = 0; i < 4; i++) s[n][i] = 0.0f;
        for (int k = 0; k < STEPS; k++) {
            const uint16_t *row = keys + (8 * n + g) * pitch + 16 * k + 2 * t;
            const uint32_t b[2] = {*(const uint32_t *)row, *(const uint32_t *)(row + 8)};
            bal_mma_f16(s[n], st.q[k], b, s[n]);
        }
        for (int i = 0; i < 4; i++)
            if (page * PAGE + 8 * n + 2 * t + i % 2 > st.at[i / 2]) s[n][i] = -INFINITY;
    }
    for (int half = 0; half < 2; half++) {
        float top = st.m[half], sum = 0.0f;
        for (int n = 0; n < KEY_TILES; n++)
            top = fmaxf(top, fmaxf(s[n][2 * half], s[n][2 * half + 1]));
        top = quad_max(top);
        const float base = top == -INFINITY ? 0.0f : top, keep = exp2f(st.m[half] - base);
        for (int n = 0; n < KEY_TILES; n++)
            for (int i = 2 * half; i < 2 * half + 2; i++) {
                s[n][i] = exp2f(s[n][i] - base);
                sum += s[n][i];
            }
        st.m[half] = top;
        st.l[half] = st.l[half] * keep + quad_sum(sum);
        for (int n = 0; n < 2 * STEPS; n++)
            for (int i = 2 * half; i < 2 * half + 2; i++) st.o[n][i] *= keep;
    }
    for (int k = 0; k < PAGE / 16; k++) {
        const uint32_t p[4] = {bal_f16_pair(s[2 * k][0], s[2 * k][1]),
                               bal_f16_pair(s[2 * k][2], s[2 * k][3]),
                               bal_f16_pair(s[2 * k + 1][0], s[2 * k + 1][1]),
                               bal_f16_pair(s[2 * k + 1][2], s[2 * k + 1][3])};
        for (int n = 0; n < STEPS; n++) {
            uint32_t v[4]; /* keys 0..7 and 8..15 of columns 16n .. 16n + 7, then of the next 8 */
            const int row = 16 * k + lane % 16, column = 16 * n + lane / 16 * 8;
            bal_ldmatrix_x4_trans(v, values + row * pitch + column);
            bal_mma_f16(st.o[2 * n], p, v, st.o[2 * n]);
            bal_mma_f16(st.o[2 * n + 1], p, v + 2, st.o[2 * n + 1]);
        }
    }
}

/* Grid: tiles by chunks of 64 pairs, kv heads. */
template <int STEPS>
__global__ void __launch_bounds__(THREADS) bal_k_attend_prefill(const bal_attend_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const int32_t *tile = (const int32_t *)a.tiles, *at = (const int32_t *)a.rows.at;
    const int group = a.heads / a.cache.heads, dim = a.cache.dim, kv = (int)blockIdx.y;
    const int chunks = (a.tile_rows * group + TILE_PAIRS - 1) / TILE_PAIRS;
    const int i = (int)blockIdx.x / chunks, first = tile[2 * i], n = tile[2 * i + 1];
    const int lane = (int)threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int pair0 = (int)blockIdx.x % chunks * TILE_PAIRS + (int)threadIdx.x / 32 * 16;
    const int last = at[first + n - 1];
    const float scale = 1.4426950408889634f / sqrtf((float)dim);
    uint16_t *keys = (uint16_t *)bal_shared(), *values = keys + PAGE * pitch_of<STEPS>();
    prefill_state<STEPS> st;
    const float *q[2];
    size_t out[2];
    for (int h = 0; h < 2; h++) {
        const int p = pair0 + g + 8 * h, row = first + p / group;
        const bool real = p < n * group;
        st.at[h] = real ? at[row] : -1;
        st.m[h] = -INFINITY;
        st.l[h] = 0.0f;
        out[h] = ((size_t)(real ? row : first) * a.heads + kv * group + p % group) * (size_t)dim;
        q[h] = real ? (const float *)a.q + (size_t)row * a.ld + (kv * group + p % group) * dim
                    : (const float *)0;
    }
    for (int k = 0; k < STEPS; k++)
        for (int r = 0; r < 4; r++)
            st.q[k][r] = query_pair(q[r % 2], 16 * k + 2 * t + r / 2 * 8, dim, scale);
    for (int c = 0; c < 2 * STEPS; c++)
        for (int r = 0; r < 4; r++) st.o[c][r] = 0.0f;
    for (int page = 0; page <= last / PAGE && last >= 0; page++) {
        const int rows = min((int)PAGE, last + 1 - page * PAGE);
        __syncthreads();
        load_half_tile<STEPS>(a, keys, first, page, BAL_CACHE_KEYS, kv, rows);
        load_half_tile<STEPS>(a, values, first, page, BAL_CACHE_VALUES, kv, rows);
        __syncthreads();
        add_page<STEPS>(st, keys, values, page);
    }
    for (int c = 0; c < 2 * STEPS; c++)
        for (int r = 0; r < 4; r++) {
            const int d = 8 * c + 2 * t + r % 2;
            if (st.at[r / 2] >= 0 && d < dim)
                ((float *)a.out)[out[r / 2] + d] = st.o[c][r] / st.l[r / 2];
        }
}

template <int STEPS> static cudaError_t prefill(const bal_attend_args *a, bal_cuda_queue queue)
{
    const int group = a->heads / a->cache.heads;
    bal_launch_shape shape = {};
    shape.grid =
        dim3((unsigned)(a->n_tiles * ((a->tile_rows * group + TILE_PAIRS - 1) / TILE_PAIRS)),
             (unsigned)a->cache.heads);
    shape.threads = THREADS;
    shape.shared = 2 * PAGE * (16 * STEPS + 8) * sizeof(uint16_t);
    shape.stream = queue.stream;
    shape.early = queue.early;
    return bal_launch(bal_k_attend_prefill<STEPS>, shape, *a);
}

/* ---- Choice ---------------------------------------------------------------------------------- */

size_t bal_cuda_attend_bytes(int m, int heads, int dim, size_t most_shared)
{
    if (decode_bytes(dim) > most_shared) return 0;
    const size_t rows = (size_t)(m < BAL_SPLIT_ROWS ? m : BAL_SPLIT_ROWS);
    return rows * (size_t)heads * BAL_SPLITS * (size_t)(dim + 2) * sizeof(float);
}

static cudaError_t decode(const bal_attend_args *a, bool split, bal_cuda_queue queue)
{
    const int group = a->heads / a->cache.heads, pages = (a->keys + PAGE - 1) / PAGE;
    const int splits = !split ? 1 : pages < BAL_SPLITS ? pages : BAL_SPLITS;
    bal_attend_args args = *a;
    bal_launch_shape shape = {};
    if (!split) args.work = 0;
    shape.grid = dim3((unsigned)(a->n_tiles * ((a->tile_rows * group + PAIRS - 1) / PAIRS)),
                      (unsigned)a->cache.heads, (unsigned)splits);
    shape.threads = THREADS;
    shape.shared = decode_bytes(a->cache.dim);
    shape.stream = queue.stream;
    shape.early = queue.early;
    const cudaError_t e = bal_launch(bal_k_attend_decode, shape, args);
    if (e != cudaSuccess || !split) return e;
    shape.grid = dim3((unsigned)a->heads, (unsigned)a->m);
    shape.shared = 2 * BAL_SPLITS * sizeof(float);
    return bal_launch(bal_k_attend_merge, shape, args);
}

cudaError_t bal_cuda_attend(const bal_attend_args *a, bal_cuda_queue queue)
{
    const int dim = a->cache.dim;
    if (a->tile_rows == 1 || dim > BAL_MMA_DIM)
        return decode(a, a->tile_rows == 1 && a->m <= BAL_SPLIT_ROWS, queue);
    if (dim <= 32) return prefill<2>(a, queue);
    if (dim <= 64) return prefill<4>(a, queue);
    if (dim <= 96) return prefill<6>(a, queue);
    return prefill<8>(a, queue);
}
