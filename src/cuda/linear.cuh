/* SPDX-License-Identifier: MIT
 * The linear kernel, for linear_w*.cu to instantiate: y = W x for up to 8 nt rows of x.
 *
 * A block is 8 warps on one row block (32 rows) and one of `splits` ranges of its inputs; warp w
 * takes the eighth w of the range. A unit is what a warp has of weights at a time: 128 inputs,
 * 64 or 32 for wide weights. Units run through a ring in shared memory that belongs to the warp,
 * filled by cp.async some units ahead, across row blocks: each lane copies the very bytes it reads,
 * so a ring needs no barrier (scales, which lanes share, need __syncwarp). x comes through L1,
 * where it stays, because a block keeps its range of inputs.
 *
 * Within a unit, weights are f16 numbers offset + q (cuda/tiles.h) and x is f16, so
 *   acc = sum (offset + q) x - sum offset x                          on tensor cores, f32 sums
 *   y  += scale_w scale_x (acc - zero sum x)
 * per group, with the sums of x taken when it was staged: the accumulators start at
 * -(sum offset x), so taking the offsets out costs nothing.
 *
 * 8-bit activations are bytes, multiplied by codes as bytes into int32 sums, exactly:
 *   y  += scale_w scale_x (sum q x - zero sum x)
 * per run of inputs with one scale on both sides, a unit at most. Where a whole row has one scale
 * on both sides, sums stay integers to the end, so that y is exact but for one rounding.
 *
 * A single row of x may be staged by the blocks themselves (cuda/stage.cuh), each its own range
 * into shared memory, while their first weights are on the way: a step of one token then runs no
 * kernel but this one between its sums.
 *
 * Order of sums, which depends on the shape only: units of a warp ascending, then warps 0 .. 7,
 * then splits ascending; the block that arrives last at a row block adds the splits. */
#ifndef BAL_CUDA_LINEAR_CUH
#define BAL_CUDA_LINEAR_CUH

#include "cuda/bytes.cuh"
#include "cuda/port.cuh"
#include "cuda/stage.cuh"

enum { BAL_LINEAR_THREADS = 256, BAL_LINEAR_WARPS = 8 };

/* Codes of b bits that name levels are width BAL_TABLE + b of the templates below. */
enum { BAL_TABLE = 32 };

struct bal_k_linear_args {
    uint4 table; /* bal_tiles.level */
    const uint4 *codes;
    const unsigned char *meta;
    const uint16_t *x;   /* halves, or bytes, of the first row */
    const float *x_info; /* info of the first row */
    const float *bias;   /* or NULL */
    float *y;
    float *partial;    /* [row blocks][splits][256 nt] */
    unsigned *arrived; /* [row blocks], 0 */
    size_t ld;
    int rows_staged; /* rows from a tile to the next in x, whole panels of 8 */
    int m;           /* rows of this launch */
    int n;           /* rows of W, or pairs of them */
    int row_blocks, k_tiles, groups;
    int units_per_group; /* where a group is a unit or more */
    int groups_per_unit; /* where a unit is a group or more */
    int splits;
    int paired, add;
    int whole;      /* of 8-bit activations: one scale for a row of W and one for a row of x */
    int stepped;    /* groups have integers for scales, and rows a scale (cuda/tiles.h) */
    int block_meta; /* bytes of a row block */
};

/* How many halves a staged row has in a tile, and words of info. */
template <bool bytes> constexpr int bal_linear_x_stride = bytes ? 64 : 128;
template <bool bytes> constexpr int bal_linear_info_stride = bytes ? 8 : 16;

/* What sums are kept in: f32; with 8-bit activations an int32, or the bits of an f32 where scales
 * change within a row. */
template <bool bytes> struct bal_linear_sum {
    using type = float;
};
template <> struct bal_linear_sum<true> {
    using type = int;
};

BAL_DEVICE float bal_linear_add(const bal_k_linear_args &, float a, float b)
{
    return a + b;
}

BAL_DEVICE int bal_linear_add(const bal_k_linear_args &a, int x, int y)
{
    return a.whole ? x + y : __float_as_int(__int_as_float(x) + __int_as_float(y));
}

/* How a width is walked and decoded. Pair j of a row's words as f16 numbers, offset + q (of a table
 * offset + level): even pairs with the offset `even`, odd pairs with `odd`. */
template <int bits> struct bal_width;

template <> struct bal_width<2> {
    static constexpr int cols = 128, stages = 4, even = 16, odd = 64;
    BAL_DEVICE uint32_t pair(const uint4 &, const uint32_t *w, int j)
    {
        const uint32_t v = w[j / 8];
        const uint32_t s = j % 8 < 2 ? v : j % 8 < 4 ? v << 4 : j % 8 < 6 ? v >> 4 : v >> 8;
        return j % 2 ? bal_and_or(s, 0x00300030u, 0x54005400u)
                     : bal_and_or(s, 0x00c000c0u, 0x4c004c00u);
    }
};

template <> struct bal_width<3> {
    static constexpr int cols = 128, stages = 3, even = 8, odd = 64;
    /* bits 7 to 9, and bits 4 to 6 */
    BAL_DEVICE uint32_t high(uint32_t s)
    {
        return bal_and_or(s, 0x03800380u, 0x48004800u);
    }
    BAL_DEVICE uint32_t low(uint32_t s)
    {
        return bal_and_or(s, 0x00700070u, 0x54005400u);
    }
    BAL_DEVICE uint32_t pair(const uint4 &, const uint32_t *w, int j)
    {
        switch (j) {
        case 0: return high(w[0]);
        case 1: return low(w[0]);
        case 2: return high(w[0] >> 6);
        case 3: return low(w[0] >> 6);
        case 4: return high(w[0] << 6);
        case 5: return low(w[1]);
        case 6: return high(w[1]);
        case 7: return low(w[1] >> 6);
        case 8: return high(w[1] >> 6);
        case 9: return low(w[2]);
        case 10: return high(w[1] << 6);
        case 11: return low(w[2] >> 6);
        case 12: return high(w[2]);
        case 13: return low(w[2] << 3);
        case 14: return high(w[2] >> 6);
        default: {
            uint32_t s = bal_and_or(w[0] << 6, 0x00400040u, 0x54005400u);
            s = bal_and_or(w[1] << 5, 0x00200020u, s);
            return bal_and_or(w[2] << 4, 0x00100010u, s);
        }
        }
    }
};

template <> struct bal_width<4> {
    static constexpr int cols = 128, stages = 3, even = 16, odd = 64;
    BAL_DEVICE uint32_t pair(const uint4 &, const uint32_t *w, int j)
    {
        const uint32_t v = w[j / 4];
        const uint32_t s = j % 4 == 0 ? v >> 2 : j % 4 == 1 ? v : j % 4 == 2 ? v >> 6 : v << 4;
        return j % 2 ? bal_and_or(s, 0x00f000f0u, 0x54005400u)
                     : bal_and_or(s, 0x03c003c0u, 0x4c004c00u);
    }
};

template <> struct bal_width<6> {
    static constexpr int cols = 128, stages = 2, even = 64, odd = 64;
    BAL_DEVICE uint32_t pair(const uint4 &, const uint32_t *w, int j)
    {
        if (j < 12) return bal_and_or(j % 2 ? w[j / 2] >> 6 : w[j / 2], 0x03f003f0u, 0x54005400u);
        const int i = j - 12;
        const uint32_t low = bal_and_or(w[i] << 4, 0x00f000f0u, 0x54005400u);
        return bal_and_or(w[4 + i / 2] << (i % 2 ? 6 : 8), 0x03000300u, low);
    }
};

template <> struct bal_width<8> {
    static constexpr int cols = 64, stages = 3, even = 256, odd = 256;
    BAL_DEVICE uint32_t pair(const uint4 &, const uint32_t *w, int j)
    {
        return bal_and_or(j % 2 ? w[j / 2] >> 6 : w[j / 2] << 2, 0x03fc03fcu, 0x5c005c00u);
    }
};

template <> struct bal_width<16> {
    static constexpr int cols = 32, stages = 4, even = 0, odd = 0;
    BAL_DEVICE uint32_t pair(const uint4 &, const uint32_t *w, int j)
    {
        return w[j];
    }
};

/* Octet o of a row's words: a code in each nibble (cuda/tiles.h). */
template <int bits> BAL_DEVICE uint32_t bal_table_octet(const uint32_t *w, int o)
{
    if (bits == 2) return w[o / 2] >> o % 2 * 2 & 0x33333333u;
    if (bits == 4) return w[o];
    if (o < 3) return w[o] & 0x77777777u;
    const uint32_t low = w[0] >> 3 & 0x11111111u;
    return bal_and_or(w[2] >> 1, 0x44444444u, bal_and_or(w[1] >> 2, 0x22222222u, low));
}

/* The levels of the four codes in the low half of `codes`, a byte each. */
template <int bits> BAL_DEVICE uint32_t bal_table_levels(const uint4 &table, uint32_t codes)
{
    if (bits < 4) return __byte_perm(table.x, table.y, codes);
    const uint32_t low = __byte_perm(table.x, table.y, codes & 0x7777u),
                   high = __byte_perm(table.z, table.w, codes & 0x7777u);
    return __byte_perm(low, high, bal_and_or(codes >> 1, 0x4444u, 0x3210u));
}

template <int bits> struct bal_table_width {
    static constexpr int cols = 128, stages = bits == 2 ? 4 : 3, even = 16 << bits, odd = even;
    BAL_DEVICE uint32_t pair(const uint4 &table, const uint32_t *w, int j)
    {
        constexpr uint32_t exponent = bits == 2 ? 0x54u : bits == 3 ? 0x58u : 0x5cu; /* of even */
        const uint32_t codes = bal_table_octet<bits>(w, j / 4) >> j % 4 / 2 * 16;
        return __byte_perm(bal_table_levels<bits>(table, codes), exponent,
                           j % 2 ? 0x4342u : 0x4140u);
    }
};

template <> struct bal_width<BAL_TABLE + 2> : bal_table_width<2> {
};
template <> struct bal_width<BAL_TABLE + 3> : bal_table_width<3> {
};
template <> struct bal_width<BAL_TABLE + 4> : bal_table_width<4> {
};

/* Sizes that follow from width, rows and groups per unit. */
template <int bits, int nt, int subs> struct bal_linear_sizes {
    static constexpr int cols = bal_width<bits>::cols;
    static constexpr int vectors =
        bits % BAL_TABLE * cols / 128; /* of 16 bytes per lane and unit */
    static constexpr int meta_bytes = bits == 16 ? 0 : 96 * subs;
    static constexpr int stage_bytes = vectors * 512 + meta_bytes;
    static constexpr int stages = bal_width<bits>::stages;
    static constexpr int ring_bytes = stages * stage_bytes;
    static constexpr int sums = 8 * nt; /* accumulators of a lane: [nt][two halves of 16 rows][4] */
    static constexpr int shared = BAL_LINEAR_WARPS * (ring_bytes + sums * 32 * 4) + 16;
};

/* The first unit of eighth i % 8 of split i / 8; the end of all for i = 8 splits. */
BAL_DEVICE int bal_linear_bound(int units, int splits, int i)
{
    const int split = i / BAL_LINEAR_WARPS, eighth = i % BAL_LINEAR_WARPS;
    const int begin = units * split / splits, end = units * (split + 1) / splits;
    return begin + (end - begin) * eighth / BAL_LINEAR_WARPS;
}

/* Where a warp stands in its units, and which group of scales that is. */
struct bal_linear_cursor {
    int block, unit;
    int group, left; /* units to the end of the group; not counted where a unit has several */
};

BAL_DEVICE bal_linear_cursor bal_linear_at(const bal_k_linear_args &a, int block, int unit)
{
    return {block, unit, unit / a.units_per_group, a.units_per_group - unit % a.units_per_group};
}

/* Starts copying the unit under the cursor into a stage of the ring, if there is one, and moves on:
 * within [first.unit, end), then to the row block `step` further. groups: of weights in a unit. */
template <int bits, int nt, int subs>
BAL_DEVICE void bal_linear_fetch(const bal_k_linear_args &a, bal_linear_cursor *at,
                                 const bal_linear_cursor &first, int end, int step, int groups,
                                 unsigned char *stage, uint64_t policy)
{
    using sizes = bal_linear_sizes<bits, nt, subs>;
    const int lane = (int)(threadIdx.x % 32);
    if (at->block < a.row_blocks) {
        const int units = a.k_tiles * (128 / sizes::cols);
        const uint4 *from =
            a.codes + ((size_t)at->block * units + at->unit) * (sizes::vectors * 32) + lane;
        BAL_UNROLL
        for (int v = 0; v < sizes::vectors; v++)
            bal_cp_async16_policy(stage + (v * 32 + lane) * 16, from + v * 32, policy);
        if (sizes::meta_bytes && lane < 6 * groups) {
            const int group = groups > 1 ? at->unit * groups : at->group;
            bal_cp_async16(stage + sizes::vectors * 512 + lane * 16,
                           a.meta + (size_t)at->block * a.block_meta + group * 96 + lane * 16);
        }
        at->unit++;
        if (--at->left == 0) at->left = a.units_per_group, at->group++;
        if (at->unit == end) {
            const int block = at->block + step;
            *at = first;
            at->block = block;
        }
    }
    bal_cp_commit();
}

/* Where a lane finds its rows of x: bytes from the start of a panel (cuda/stage.h). Lanes whose row
 * is not there read that of another if there are fewer than eight, which costs no load, else what
 * nobody has written: what comes of it stays in its own column of a product, which is not stored.
 * A panel has `panel` rows: 8, or the one that a block has staged for itself in shared memory. */
template <int panel> struct bal_linear_rows {
    uint32_t x;     /* B fragments of row g */
    uint32_t info;  /* word 0 of rows 2 t and 2 t + 1 */
    int first_tile; /* of what is staged */
};

template <int panel> BAL_DEVICE bal_linear_rows<panel> bal_linear_rows_of(int m, int first_tile)
{
    const int lane = (int)threadIdx.x % 32, last = min(m, panel) - 1;
    const int row = min(lane / 4, last), pair = min(lane % 4 * 2, last / 2 * 2);
    return {(uint32_t)(row * 64 + lane % 4 * 16), (uint32_t)pair * 4, first_tile};
}

/* A tile of x, as bytes. */
struct bal_linear_tile {
    const char *x, *info;
};

template <bool bytes, int panel>
BAL_DEVICE bal_linear_tile bal_linear_tile_at(const bal_k_linear_args &a,
                                              const bal_linear_rows<panel> &x_rows, int tile)
{
    const uint32_t at =
        (uint32_t)(tile - x_rows.first_tile) * (panel == 1 ? 1u : (uint32_t)a.rows_staged);
    return {(const char *)a.x + (size_t)at * (2 * bal_linear_x_stride<bytes>),
            (const char *)a.x_info + (size_t)at * (4 * bal_linear_info_stride<bytes>)};
}

/* x[.][s] = B fragments of run `run` of the tile: 32 inputs at 16 bits, or two units of 32 bytes.
 */
template <bool bytes, int panel, int nt, int n>
BAL_DEVICE void bal_linear_inputs(const bal_linear_tile &tile, const bal_linear_rows<panel> &x_rows,
                                  int run, uint4 (&x)[nt][n], int s)
{
    BAL_UNROLL
    for (int c = 0; c < nt; c++)
        x[c][s] = *(const uint4 *)(tile.x + x_rows.x + run * (64 * panel) +
                                   c * (2 * panel * bal_linear_x_stride<bytes>));
}

/* Word `word` of the info of the two rows of panel c whose columns of a product a lane has. */
template <bool bytes, int panel>
BAL_DEVICE void bal_linear_words(const bal_linear_tile &tile, const bal_linear_rows<panel> &x_rows,
                                 int c, int word, float (&v)[2])
{
    const int at = (c * bal_linear_info_stride<bytes> + word) * (4 * panel);
    if (panel == 1) {
        v[0] = v[1] = *(const float *)(tile.info + at);
    } else {
        const float2 both = *(const float2 *)(tile.info + x_rows.info + at);
        v[0] = both.x, v[1] = both.y;
    }
}

/* Scale and sums of `inputs` inputs from `first` of the tile on. */
template <int bits, int inputs, int panel>
BAL_DEVICE void bal_linear_info(const bal_linear_tile &tile, const bal_linear_rows<panel> &x_rows,
                                int c, int first, float (&scale)[2], float (&even)[2],
                                float (&odd)[2])
{
    constexpr bool all = inputs == 128; /* of the tile */
    bal_linear_words<false>(tile, x_rows, c, 0, scale);
    BAL_UNROLL
    for (int u = 0; bits != 16 && u < (all ? 1 : inputs / 32); u++) {
        float more[2][2];
        const int word = all ? 1 : 4 + 2 * (first / 32 + u);
        BAL_UNROLL
        for (int i = 0; i < 2; i++) bal_linear_words<false>(tile, x_rows, c, word + i, more[i]);
        BAL_UNROLL
        for (int e = 0; e < 2; e++) {
            even[e] = u ? even[e] + more[0][e] : more[0][e];
            odd[e] = u ? odd[e] + more[1][e] : more[1][e];
        }
    }
}

/* y[lane's sums] += one unit of weights times x. */
template <int bits, int nt, int subs, int panel>
BAL_DEVICE void bal_linear_unit(const bal_k_linear_args &a, const bal_linear_rows<panel> &x_rows,
                                int unit, const unsigned char *stage, float (&y)[nt][2][4])
{
    using width = bal_width<bits>;
    using sizes = bal_linear_sizes<bits, nt, subs>;
    constexpr int steps = sizes::cols / 16, steps_per_sub = steps / subs; /* of 16 inputs */
    constexpr int per_tile = 128 / sizes::cols;
    constexpr bool at_once =
        nt == 1 || (nt == 2 && subs == 1 && bits != BAL_TABLE + 4); /* as far as registers go */
    const int lane = (int)(threadIdx.x % 32), g = lane / 4;
    const bal_linear_tile tile = bal_linear_tile_at<false>(a, x_rows, unit / per_tile);
    const int within = unit % per_tile * sizes::cols; /* first input in the tile */

    uint4 x[nt][steps / 2]; /* two steps of 16 inputs each */
    if (at_once) {
        BAL_UNROLL
        for (int s = 0; s < steps / 2; s++)
            bal_linear_inputs<false>(tile, x_rows, within / 32 + s, x, s);
    }
    uint32_t w[4][sizes::vectors];
    BAL_UNROLL
    for (int v = 0; v < sizes::vectors; v++) {
        const uint4 word = ((const uint4 *)stage)[v * 32 + lane];
        w[0][v] = word.x, w[1][v] = word.y, w[2][v] = word.z, w[3][v] = word.w;
    }
    BAL_UNROLL
    for (int sub = 0; sub < subs; sub++) {
        float acc[nt][2][4], x_sum[nt][2], x_scale[nt][2];
        BAL_UNROLL
        for (int c = 0; c < nt; c++) {
            float even[2] = {0, 0}, odd[2] = {0, 0};
            bal_linear_info<bits, sizes::cols / subs>(
                tile, x_rows, c, within + sub * (sizes::cols / subs), x_scale[c], even, odd);
            float start[2];
            BAL_UNROLL
            for (int e = 0; e < 2; e++) {
                x_sum[c][e] = even[e] + odd[e];
                start[e] = -(even[e] * width::even + odd[e] * width::odd);
            }
            BAL_UNROLL
            for (int h = 0; h < 2; h++)
                acc[c][h][0] = acc[c][h][2] = start[0], acc[c][h][1] = acc[c][h][3] = start[1];
        }
        BAL_UNROLL
        for (int i = 0; i < steps_per_sub; i++) {
            const int s = sub * steps_per_sub + i;
            if (!at_once && s % 2 == 0)
                bal_linear_inputs<false>(tile, x_rows, within / 32 + s / 2, x, s / 2);
            BAL_UNROLL
            for (int h = 0; h < 2; h++) {
                const uint32_t rows[4] = {width::pair(a.table, w[2 * h], 2 * s),
                                          width::pair(a.table, w[2 * h + 1], 2 * s),
                                          width::pair(a.table, w[2 * h], 2 * s + 1),
                                          width::pair(a.table, w[2 * h + 1], 2 * s + 1)};
                BAL_UNROLL
                for (int c = 0; c < nt; c++) {
                    const uint4 &v = x[c][s / 2];
                    const uint32_t cols[2] = {s % 2 ? v.z : v.x, s % 2 ? v.w : v.y};
                    bal_mma_f16(acc[c][h], rows, cols, acc[c][h]);
                }
            }
        }
        float scale[4] = {1, 1, 1, 1}, zero[4] = {0, 0, 0, 0};
        if (bits != 16) {
            const unsigned char *meta = stage + sizes::vectors * 512 + sub * 96;
            const uint2 s = *(const uint2 *)(meta + 8 * g);
            const uint32_t z = *(const uint32_t *)(meta + 64 + 4 * g);
            scale[0] = bal_f16_float(s.x), scale[1] = bal_f16_float(s.x >> 16);
            scale[2] = bal_f16_float(s.y), scale[3] = bal_f16_float(s.y >> 16);
            BAL_UNROLL
            for (int i = 0; i < 4; i++) /* 2^23 + z, without a conversion */
                zero[i] =
                    __uint_as_float(__byte_perm(z, 0x4b000000u, 0x7540u | (uint32_t)i)) - 0x1p23f;
        }
        BAL_UNROLL
        for (int c = 0; c < nt; c++) BAL_UNROLL
        for (int h = 0; h < 2; h++) BAL_UNROLL
        for (int r = 0; r < 4; r++) {
            const float v = bits == 16 ? acc[c][h][r]
                                       : fmaf(-zero[2 * h + r / 2], x_sum[c][r % 2], acc[c][h][r]);
            const float by =
                bits == 16 ? x_scale[c][r % 2] : scale[2 * h + r / 2] * x_scale[c][r % 2];
            y[c][h][r] = fmaf(by, v, y[c][h][r]);
        }
    }
}

/* The same with bytes. `subs` runs of inputs with one scale each. */
template <int bits, int nt, int subs, int panel>
BAL_DEVICE void bal_linear_unit(const bal_k_linear_args &a, const bal_linear_rows<panel> &x_rows,
                                int unit, const unsigned char *stage, int (&y)[nt][2][4])
{
    using bytes = bal_bytes<bits>;
    using sizes = bal_linear_sizes<bits, nt, subs>;
    constexpr int steps = sizes::cols / 32, steps_per_sub = steps / subs; /* of 32 inputs */
    constexpr int per_tile = 128 / sizes::cols;
    const int lane = (int)(threadIdx.x % 32), g = lane / 4;
    const bal_linear_tile tile = bal_linear_tile_at<true>(a, x_rows, unit / per_tile);
    const int within = unit % per_tile * steps; /* first unit of 32 in the tile */

    uint4 x[nt][steps / 2];
    BAL_UNROLL
    for (int s = 0; s < steps / 2; s++) bal_linear_inputs<true>(tile, x_rows, within / 2 + s, x, s);
    uint32_t w[4][sizes::vectors];
    BAL_UNROLL
    for (int v = 0; v < sizes::vectors; v++) {
        const uint4 word = ((const uint4 *)stage)[v * 32 + lane];
        w[0][v] = word.x, w[1][v] = word.y, w[2][v] = word.z, w[3][v] = word.w;
    }
    BAL_UNROLL
    for (int sub = 0; sub < subs; sub++) {
        int dot[nt][2][4] = {};
        BAL_UNROLL
        for (int i = 0; i < steps_per_sub; i++) {
            const int s = sub * steps_per_sub + i;
            BAL_UNROLL
            for (int h = 0; h < 2; h++) {
                const uint32_t rows[4] = {
                    bytes::quad(w[2 * h], s, 0), bytes::quad(w[2 * h + 1], s, 0),
                    bytes::quad(w[2 * h], s, 1), bytes::quad(w[2 * h + 1], s, 1)};
                BAL_UNROLL
                for (int c = 0; c < nt; c++) {
                    const uint4 &v = x[c][s / 2];
                    const uint32_t cols[2] = {s % 2 ? v.z : v.x, s % 2 ? v.w : v.y};
                    bal_mma_u8s8(dot[c][h], rows, cols, dot[c][h]);
                }
            }
        }
        const unsigned char *meta =
            stage + sizes::vectors * 512 + sub * a.groups_per_unit / subs * 96;
        const uint2 halves = *(const uint2 *)(meta + 8 * g);
        const uint32_t zeros = *(const uint32_t *)(meta + 64 + 4 * g);
        const float scale[4] = {bal_f16_float(halves.x), bal_f16_float(halves.x >> 16),
                                bal_f16_float(halves.y), bal_f16_float(halves.y >> 16)};
        BAL_UNROLL
        for (int c = 0; c < nt; c++) {
            const int from = within + sub * steps_per_sub;
            float x_scale[2];
            int x_sum[2] = {0, 0};
            bal_linear_words<true>(tile, x_rows, c, from, x_scale);
            BAL_UNROLL
            for (int u = 0; u < steps_per_sub; u++) {
                float more[2];
                bal_linear_words<true>(tile, x_rows, c, 4 + from + u, more);
                x_sum[0] += __float_as_int(more[0]), x_sum[1] += __float_as_int(more[1]);
            }
            BAL_UNROLL
            for (int i = 0; i < 8; i++) {
                const int e = i % 2, slot = i / 2;
                int &sum = y[c][slot / 2][slot % 2 * 2 + e];
                const int zero = (int)(zeros >> 8 * slot & 255);
                const int v = dot[c][slot / 2][slot % 2 * 2 + e] - zero * x_sum[e];
                sum = a.whole ? sum + (a.stepped ? __float2int_rn(scale[slot]) * v : v)
                              : __float_as_int(
                                    fmaf((float)v, scale[slot] * x_scale[e], __int_as_float(sum)));
            }
        }
    }
}

/* Sum i of a row block: of all warps, or of all splits. */
template <int sums, class T>
BAL_DEVICE T bal_linear_of_warps(const bal_k_linear_args &a, const T *shared, int i)
{
    T v = shared[i];
    BAL_UNROLL
    for (int w = 1; w < BAL_LINEAR_WARPS; w++) v = bal_linear_add(a, v, shared[w * sums * 32 + i]);
    return v;
}

template <class T>
BAL_DEVICE T bal_linear_of_splits(const bal_k_linear_args &a, const T *partial, int n_sums, int i)
{
    T v = __ldcg(partial + i);
    for (int s = 1; s < a.splits; s++) v = bal_linear_add(a, v, __ldcg(partial + s * n_sums + i));
    return v;
}

/* Of a row block whose rows have one: of floats, or stepped. */
BAL_DEVICE const float *bal_linear_row_scales(const bal_k_linear_args &a, int block)
{
    return (const float *)(a.meta + (size_t)block * a.block_meta + a.groups * 96);
}

/* What becomes of sums once they are whole. i: index of a sum, as [nt][half][register][lane].
 * scaled: a row's scale is in them. */
template <int bits>
BAL_DEVICE void bal_linear_store(const bal_k_linear_args &a, int block, int i, float v, float up,
                                 bool scaled = false)
{
    const int lane = i % 32, r = i / 32 % 4, half = i / 128 % 2, c = i / 256;
    const int in_half = lane / 4 + (r & 2) * 4, col = 8 * c + lane % 4 * 2 + (r & 1);
    const int row = a.paired ? block * 16 + in_half : block * 32 + 16 * half + in_half;
    if (row >= a.n || col >= a.m) return;
    if (bits == 16 || (a.stepped && !scaled)) {
        const float *scale = bal_linear_row_scales(a, block) + 16 * half + in_half;
        v *= scale[0];
        up *= a.paired ? scale[16] : 0;
    }
    if (a.bias) {
        v += a.bias[row];
        up += a.paired ? a.bias[a.n + row] : 0;
    }
    if (a.paired) v = v / (1 + __expf(-v)) * up;
    float *y = a.y + (size_t)col * a.ld + row;
    *y = a.add ? *y + v : v;
}

/* An integer sum with its scales: of the row of W in `slot_row` of the block, and of row col of x.
 */
BAL_DEVICE float bal_linear_scaled(const bal_k_linear_args &a, int block, int slot_row, int col,
                                   int v)
{
    const uint16_t *scales = (const uint16_t *)(a.meta + (size_t)block * a.block_meta);
    const float scale = a.stepped ? bal_linear_row_scales(a, block)[slot_row]
                                  : bal_f16_float(scales[slot_row % 8 * 4 + slot_row / 8]);
    return col < a.m ? fmaf((float)v, scale * a.x_info[col / 8 * 64 + col % 8], 0.0f) : 0;
}

template <int bits>
BAL_DEVICE void bal_linear_store(const bal_k_linear_args &a, int block, int i, int v, int up)
{
    float y = __int_as_float(v), y_up = __int_as_float(up);
    if (a.whole) {
        const int lane = i % 32, r = i / 32 % 4, half = i / 128 % 2;
        const int col = 8 * (i / 256) + lane % 4 * 2 + (r & 1);
        const int slot_row = 16 * half + lane / 4 + (r & 2) * 4;
        y = bal_linear_scaled(a, block, slot_row, col, v);
        y_up = a.paired ? bal_linear_scaled(a, block, slot_row + 16, col, up) : 0;
    }
    bal_linear_store<bits>(a, block, i, y, y_up, a.whole);
}

/* A block's own tiles of the single row of x, from `first` of its inputs on, into shared memory. */
template <bool bytes>
BAL_DEVICE void bal_linear_stage(const bal_stage_source &from, int first_tile, int end_tile,
                                 unsigned char *x, unsigned char *info, float *scratch)
{
    constexpr int together = 4; /* tiles of a warp whose loads go together */
    const bal_stage_row row = stage_row(from, 0, scratch);
    for (int tile = first_tile + (int)threadIdx.x / 32; tile < end_tile;
         tile += together * STAGE_WARPS) {
        float v[together][4];
        BAL_UNROLL
        for (int i = 0; i < together; i++)
            stage_values(from, row.x, row.norm, min(tile + i * STAGE_WARPS, end_tile - 1), v[i]);
        BAL_UNROLL
        for (int i = 0; i < together; i++) {
            const int at = tile + i * STAGE_WARPS - first_tile;
            if (at >= end_tile - first_tile) break;
            unsigned char *to = x + at * (2 * bal_linear_x_stride<bytes>);
            unsigned char *words = info + at * (4 * bal_linear_info_stride<bytes>);
            if (bytes)
                stage_byte_tile<1>(from, row, v[i], to, (uint32_t *)words, 0);
            else
                stage_tile<1>(v[i], (uint16_t *)to, (float *)words, 0);
        }
    }
    __syncthreads();
}

/* Bytes of shared memory behind a kernel's own that a staged tile of one row takes. */
template <bool bytes>
constexpr int bal_linear_own_bytes =
    2 * bal_linear_x_stride<bytes> + 4 * bal_linear_info_stride<bytes>;

/* Few rows of x: staged, or `own`, one that each block stages for itself from `from`. */
template <int bits, int nt, int subs, bool bytes, bool own>
BAL_DEVICE void bal_linear_few(bal_k_linear_args a, const bal_stage_source *from)
{
    constexpr int panel = own ? 1 : BAL_STAGE_PANEL;
    using sum_type = typename bal_linear_sum<bytes>::type;
    using sizes = bal_linear_sizes<bits, nt, subs>;
    constexpr int n_sums = sizes::sums * 32; /* of a row block */
    constexpr int per_tile = 128 / sizes::cols;
    const int groups = bytes ? a.groups_per_unit : subs;
    const int warp = (int)(threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    const int split = (int)blockIdx.x % a.splits, step = (int)gridDim.x / a.splits;
    const int units = a.k_tiles * per_tile;
    const int first = bal_linear_bound(units, a.splits, split * BAL_LINEAR_WARPS + warp);
    const int end = bal_linear_bound(units, a.splits, split * BAL_LINEAR_WARPS + warp + 1);
    const int first_tile = own ? units * split / a.splits / per_tile : 0;

    unsigned char *ring = bal_shared() + warp * sizes::ring_bytes;
    sum_type *sums = (sum_type *)(bal_shared() + BAL_LINEAR_WARPS * sizes::ring_bytes);
    unsigned *last = (unsigned *)(sums + BAL_LINEAR_WARPS * n_sums);

    const bal_linear_rows<panel> x_rows = bal_linear_rows_of<panel>(a.m, first_tile);
    const uint64_t policy = bal_policy_stream();
    const bal_linear_cursor start = bal_linear_at(a, (int)blockIdx.x / a.splits, first);
    bal_linear_cursor next = start;
    if (first == end) next.block = a.row_blocks; /* nothing for this warp */
    int fill = 0, drain = 0;
    BAL_UNROLL
    for (int i = 0; i < sizes::stages - 1; i++)
        bal_linear_fetch<bits, nt, subs>(a, &next, start, end, step, groups,
                                         ring + i * sizes::stage_bytes, policy);
    fill = (sizes::stages - 1) * sizes::stage_bytes;
    bal_grid_release();
    bal_grid_wait();
    if (own) {
        const int end_tile = (units * (split + 1) / a.splits + per_tile - 1) / per_tile;
        unsigned char *x = bal_shared() + sizes::shared;
        unsigned char *info = x + (end_tile - first_tile) * (2 * bal_linear_x_stride<bytes>);
        bal_linear_stage<bytes>(*from, first_tile, end_tile, x, info, (float *)sums);
        a.x = (const uint16_t *)x;
        a.x_info = (const float *)info;
    }

    for (int block = (int)blockIdx.x / a.splits; block < a.row_blocks; block += step) {
        sum_type y[nt][2][4] = {};
        for (int unit = first; unit < end; unit++) {
            bal_cp_wait<sizes::stages - 2>();
            __syncwarp(); /* scales are there for all lanes, and all are done with the oldest stage
                           */
            bal_linear_fetch<bits, nt, subs>(a, &next, start, end, step, groups, ring + fill,
                                             policy);
            fill = fill + sizes::stage_bytes == sizes::ring_bytes ? 0 : fill + sizes::stage_bytes;
            bal_linear_unit<bits, nt, subs>(a, x_rows, unit, ring + drain, y);
            drain =
                drain + sizes::stage_bytes == sizes::ring_bytes ? 0 : drain + sizes::stage_bytes;
        }
        BAL_UNROLL
        for (int i = 0; i < sizes::sums; i++)
            sums[warp * n_sums + i * 32 + lane] = y[i / 8][i / 4 % 2][i % 4];
        __syncthreads();
        if (a.splits > 1) {
            sum_type *of_block = (sum_type *)a.partial + (size_t)block * a.splits * n_sums;
            sum_type *mine = of_block + split * n_sums;
            for (int i = (int)threadIdx.x; i < n_sums; i += BAL_LINEAR_THREADS)
                __stcg(mine + i, bal_linear_of_warps<sizes::sums>(a, sums, i));
            __threadfence();
            __syncthreads();
            if (threadIdx.x == 0) *last = atomicAdd(a.arrived + block, 1u);
            __syncthreads();
            if (*last == (unsigned)a.splits - 1) {
                __threadfence();
                for (int i = (int)threadIdx.x; i < n_sums; i += BAL_LINEAR_THREADS) {
                    if (a.paired && i / 128 % 2) continue;
                    const sum_type v = bal_linear_of_splits(a, of_block, n_sums, i);
                    const sum_type up =
                        a.paired ? bal_linear_of_splits(a, of_block, n_sums, i + 128) : 0;
                    bal_linear_store<bits>(a, block, i, v, up);
                }
                if (threadIdx.x == 0) a.arrived[block] = 0;
            }
        } else {
            for (int i = (int)threadIdx.x; i < n_sums; i += BAL_LINEAR_THREADS) {
                if (a.paired && i / 128 % 2) continue;
                const sum_type v = bal_linear_of_warps<sizes::sums>(a, sums, i);
                const sum_type up =
                    a.paired ? bal_linear_of_warps<sizes::sums>(a, sums, i + 128) : 0;
                bal_linear_store<bits>(a, block, i, v, up);
            }
        }
        __syncthreads(); /* the sums are read before the next row block's are written */
    }
}

template <int bits, int nt, int subs, bool bytes = false>
__global__ void __launch_bounds__(BAL_LINEAR_THREADS, nt == 2 && subs > 1 ? 1 : 2)
    bal_k_linear(const bal_k_linear_args a)
{
    bal_linear_few<bits, nt, subs, bytes, false>(a, nullptr);
}

struct bal_k_linear_own_args {
    bal_k_linear_args linear; /* m is 1, rows_staged 1; x and x_info are not read */
    bal_stage_source from;
};

/* One row of x, which every block stages for itself: no kernel of its own has to run in front, and
 * weights are on their way meanwhile. The same bits as with x staged. */
template <int bits, int subs, bool bytes>
__global__ void __launch_bounds__(BAL_LINEAR_THREADS, 2)
    bal_k_linear_own(const bal_k_linear_own_args a)
{
    bal_linear_few<bits, 1, subs, bytes, true>(a.linear, &a.from);
}

/* Rows of a block of bal_k_linear_many, as registers allow. */
template <int subs> constexpr int bal_linear_many = subs == 1 ? 32 : 16;

/* blockIdx.x: rows of x, so many each; blockIdx.y: row blocks, 8 each. Blocks that share weights
 * are neighbours, so that weights come from L2. a.m: all rows. */
template <int bits, int subs, bool bytes = false>
__global__ void __launch_bounds__(BAL_LINEAR_THREADS, 1)
    bal_k_linear_many(const bal_k_linear_args given)
{
    using sum_type = typename bal_linear_sum<bytes>::type;
    constexpr int rows = bal_linear_many<subs>, nt = rows / 8;
    using sizes = bal_linear_sizes<bits, nt, subs>;
    const int warp = (int)(threadIdx.x / 32), lane = (int)(threadIdx.x % 32);
    const int first_row = (int)blockIdx.x * rows;
    bal_k_linear_args a = given;
    a.x += (size_t)first_row * bal_linear_x_stride<bytes>;
    a.x_info += (size_t)first_row * bal_linear_info_stride<bytes>;
    a.y += (size_t)first_row * a.ld;
    a.m = min(a.m - first_row, rows);
    const int groups = bytes ? a.groups_per_unit : subs;

    const int block = (int)blockIdx.y * BAL_LINEAR_WARPS + warp,
              units = a.k_tiles * (128 / sizes::cols);
    unsigned char *ring = bal_shared() + warp * sizes::ring_bytes;
    /* what is whole of splits before this one, [sums][lane] */
    sum_type *whole = (sum_type *)(bal_shared() + BAL_LINEAR_WARPS * sizes::ring_bytes) +
                      warp * sizes::sums * 32 + lane;

    const auto x_rows = bal_linear_rows_of<BAL_STAGE_PANEL>(a.m, 0);
    const uint64_t policy = bal_policy_keep();
    const bal_linear_cursor start = bal_linear_at(a, block, 0);
    bal_linear_cursor next = start;
    BAL_UNROLL
    for (int i = 0; i < sizes::stages - 1; i++)
        bal_linear_fetch<bits, nt, subs>(a, &next, start, units, a.row_blocks, groups,
                                         ring + i * sizes::stage_bytes, policy);
    int fill = (sizes::stages - 1) * sizes::stage_bytes, drain = 0, unit = 0;
    bal_grid_release();
    bal_grid_wait();

    for (int split = 0; split < a.splits; split++) {
        sum_type total[nt][2][4];
        for (int eighth = 0; eighth < BAL_LINEAR_WARPS; eighth++) {
            sum_type y[nt][2][4] = {};
            const int end =
                bal_linear_bound(units, a.splits, split * BAL_LINEAR_WARPS + eighth + 1);
            for (; unit < end && block < a.row_blocks; unit++) {
                bal_cp_wait<sizes::stages - 2>();
                __syncwarp();
                bal_linear_fetch<bits, nt, subs>(a, &next, start, units, a.row_blocks, groups,
                                                 ring + fill, policy);
                fill =
                    fill + sizes::stage_bytes == sizes::ring_bytes ? 0 : fill + sizes::stage_bytes;
                bal_linear_unit<bits, nt, subs>(a, x_rows, unit, ring + drain, y);
                drain = drain + sizes::stage_bytes == sizes::ring_bytes
                            ? 0
                            : drain + sizes::stage_bytes;
            }
            BAL_UNROLL
            for (int i = 0; i < sizes::sums; i++) {
                const sum_type more = y[i / 8][i / 4 % 2][i % 4];
                sum_type &t = total[i / 8][i / 4 % 2][i % 4];
                t = eighth == 0 ? more : bal_linear_add(a, t, more);
            }
            __syncthreads(); /* warps stay together, so that x is in L1 for all */
        }
        BAL_UNROLL
        for (int i = 0; i < sizes::sums; i++) {
            const sum_type t = total[i / 8][i / 4 % 2][i % 4];
            whole[i * 32] = split == 0 ? t : bal_linear_add(a, whole[i * 32], t);
        }
    }
    if (block >= a.row_blocks) return;
    for (int i = 0; i < sizes::sums; i++)
        if (!a.paired || i / 4 % 2 == 0)
            bal_linear_store<bits>(a, block, i * 32 + lane, whole[i * 32],
                                   a.paired ? whole[(i + 4) * 32] : 0);
}

#endif
