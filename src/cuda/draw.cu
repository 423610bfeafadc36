/* SPDX-License-Identifier: MIT
 * The next token of each row, drawn as base/weight.h and run/sampler.c define it: a block finds the
 * largest logit, the last token that may be drawn (digit by digit of its logit, most significant
 * first), the mass of all before it, and the token that a point of that mass falls on. All sums are
 * of integers. */
#include "base/weight.h"
#include "cuda/ops.h"
#include "cuda/order.cuh"

enum {
    THREADS = 512,
    WARPS = THREADS / 32,
    BINS = 2048, /* values of a digit of 11 bits */
    TOGETHER = 8 /* loads of a thread under way */
};

typedef unsigned long long mass_t; /* the type of CUDA's atomics */

struct bal_k_draw_args {
    const float *x;
    const bal_device_draw *draws;
    int32_t *out;
    int n;
};

/* Shared memory: a bin for each value of a digit, then a few words per warp. */
struct draw_room {
    mass_t *bins, *sums;
    int32_t *words; /* [2 * WARPS] */
};

static const size_t draw_bytes = (BINS + WARPS) * sizeof(mass_t) + 2 * WARPS * sizeof(int32_t);

BAL_DEVICE draw_room room_of()
{
    draw_room r;
    r.bins = (mass_t *)bal_shared();
    r.sums = r.bins + BINS;
    r.words = (int32_t *)(r.sums + WARPS);
    return r;
}

/* bal_weight_of with no operation fused. */
BAL_DEVICE mass_t weight_of(float logit, float top, float scale)
{
    if (logit == top) return (mass_t)1 << BAL_WEIGHT_BITS;
    const float x = __fmul_rn(__fsub_rn(logit, top), scale);
    if (!(x >= -(float)BAL_WEIGHT_BITS)) return 0;
    const float n = rintf(x), f = __fsub_rn(x, n);
    float p = BAL_WEIGHT_C6;
    p = __fadd_rn(__fmul_rn(p, f), BAL_WEIGHT_C5);
    p = __fadd_rn(__fmul_rn(p, f), BAL_WEIGHT_C4);
    p = __fadd_rn(__fmul_rn(p, f), BAL_WEIGHT_C3);
    p = __fadd_rn(__fmul_rn(p, f), BAL_WEIGHT_C2);
    p = __fadd_rn(__fmul_rn(p, f), BAL_WEIGHT_C1);
    p = __fadd_rn(__fmul_rn(p, f), 1.0f);
    const uint32_t units = (uint32_t)__fmul_rn(p, 0x1p23f);
    return (mass_t)units << (BAL_WEIGHT_BITS - 23) >> (int)-n;
}

/* bal_weight_enough. */
BAL_DEVICE mass_t enough_of(float top_p, mass_t all)
{
    const mass_t w = (mass_t)((double)top_p * (double)all);
    return w ? w : 1;
}

BAL_DEVICE mass_t shuffle_up(mass_t v, unsigned by)
{
    const uint32_t lo = __shfl_up_sync(BAL_WARP, (uint32_t)v, by);
    const uint32_t hi = __shfl_up_sync(BAL_WARP, (uint32_t)(v >> 32), by);
    return (mass_t)hi << 32 | lo;
}

BAL_DEVICE mass_t shuffle(mass_t v, int from)
{
    const uint32_t lo = __shfl_sync(BAL_WARP, (uint32_t)v, from);
    const uint32_t hi = __shfl_sync(BAL_WARP, (uint32_t)(v >> 32), from);
    return (mass_t)hi << 32 | lo;
}

/* Values i, i + step, ... of n; those beyond are the last. */
BAL_DEVICE void load_values(const float *x, int i, int step, int n, float (&v)[TOGETHER])
{
    BAL_UNROLL
    for (int j = 0; j < TOGETHER; j++) v[j] = x[min(i + j * step, n - 1)];
}

/* Sum over the lanes up to this one. */
BAL_DEVICE mass_t warp_scan(mass_t v)
{
    const unsigned lane = threadIdx.x % 32;
    for (unsigned by = 1; by < 32; by *= 2) {
        const mass_t other = shuffle_up(v, by);
        if (lane >= by) v += other;
    }
    return v;
}

/* ---- The largest ----------------------------------------------------------------------------- */

/* In every thread: the key of the largest, 0 if one is not finite. */
BAL_DEVICE uint32_t top_key(const draw_room &r, const float *x, int n)
{
    uint32_t top = 0;
    bool finite = true;
    for (int i = (int)threadIdx.x; i < n; i += TOGETHER * THREADS) {
        float v[TOGETHER];
        load_values(x, i, THREADS, n, v); /* the last more than once, which changes nothing */
        BAL_UNROLL
        for (int j = 0; j < TOGETHER; j++) {
            finite &= bal_is_finite(v[j]);
            const uint32_t key = bal_key_of(v[j]);
            top = key > top ? key : top;
        }
    }
    if (!finite) top = BAL_KEY_NOT_FINITE;
    for (int bits = 16; bits > 0; bits /= 2) {
        const uint32_t other = __shfl_xor_sync(BAL_WARP, top, bits);
        top = other > top ? other : top;
    }
    if (threadIdx.x % 32 == 0) r.words[threadIdx.x / 32] = (int32_t)top;
    __syncthreads();
    for (int w = 0; w < WARPS; w++) {
        const uint32_t other = (uint32_t)r.words[w];
        top = other > top ? other : top;
    }
    __syncthreads();
    return top == BAL_KEY_NOT_FINITE ? 0 : top;
}

/* ---- The last that may be drawn -------------------------------------------------------------- */

/* Tokens of larger keys may be drawn, and `equal` of those of this one, the lowest ids. */
struct draw_cut {
    uint32_t key;
    mass_t equal;
};

/* What a token counts for in the search. */
BAL_DEVICE mass_t amount_of(bool by_weight, float v, float top, float scale)
{
    return by_weight ? weight_of(v, top, scale) : 1;
}

/* Sums of 64 bits in shared memory by additions of 32, which are instructions of their own; where
 * the low half wraps, whoever made it do so carries. */
BAL_DEVICE void add_amount(mass_t *bin, mass_t amount)
{
    uint32_t *half = (uint32_t *)bin;
    const uint32_t low = (uint32_t)amount, before = atomicAdd(half, low);
    const uint32_t high = (uint32_t)(amount >> 32) + (before + low < before);
    if (high) atomicAdd(half + 1, high);
}

BAL_DEVICE void fill_bins(const draw_room &r, const float *x, int n, bool by_weight, float top,
                          float scale, uint32_t prefix, uint32_t known, int shift)
{
    for (int i = (int)threadIdx.x; i < BINS; i += THREADS) r.bins[i] = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < n; i += TOGETHER * THREADS) {
        float v[TOGETHER];
        load_values(x, i, THREADS, n, v);
        for (int j = 0; j < TOGETHER && i + j * THREADS < n; j++) {
            const uint32_t key = bal_key_of(v[j]);
            if ((key ^ prefix) & known) continue;
            const mass_t amount = amount_of(by_weight, v[j], top, scale);
            if (amount) add_amount(&r.bins[key >> shift & (BINS - 1)], amount);
        }
    }
    __syncthreads();
}

/* One warp: the largest digit from which upwards the bins hold `need`; *need becomes what its own
 * bin must give. Lane 0 has the highest bins. */
BAL_DEVICE uint32_t find_digit(const draw_room &r, mass_t *need)
{
    const int lane = (int)threadIdx.x % 32, each = BINS / 32, first = BINS - 1 - lane * each;
    mass_t sum = 0;
    for (int i = 0; i < each; i++) sum += r.bins[first - i];
    const mass_t upto = warp_scan(sum);
    const unsigned reached = __ballot_sync(BAL_WARP, upto >= *need);
    const int found = reached ? __ffs((int)reached) - 1 : 31;
    mass_t left = *need - (upto - sum);
    int digit = first;
    if (lane == found)
        for (int i = 0; i < each; i++, digit--) {
            if (r.bins[digit] >= left || i == each - 1) break;
            left -= r.bins[digit];
        }
    *need = shuffle(left, found);
    return (uint32_t)__shfl_sync(BAL_WARP, digit, found);
}

/* Where the likeliest tokens reach `need`, tokens or weight. */
BAL_DEVICE draw_cut find_cut(const draw_room &r, const float *x, int n, bool by_weight, float top,
                             float scale, mass_t need)
{
    uint32_t prefix = 0, known = 0;
    for (int shift = 21; shift >= 0; shift -= shift == 21 ? 11 : 10) { /* 21, 10, 0 */
        fill_bins(r, x, n, by_weight, top, scale, prefix, known, shift);
        if (threadIdx.x < 32) {
            mass_t left = need;
            const uint32_t digit = find_digit(r, &left);
            if (threadIdx.x == 0) {
                r.sums[0] = left;
                r.words[0] = (int32_t)digit;
            }
        }
        __syncthreads();
        need = r.sums[0];
        prefix |= (uint32_t)r.words[0] << shift;
        known = 0xffffffffu << shift;
        __syncthreads();
    }
    const mass_t each = amount_of(by_weight, bal_key_value(prefix), top, scale);
    const draw_cut cut = {prefix, (need + each - 1) / each};
    return cut;
}

/* ---- The draw -------------------------------------------------------------------------------- */

/* Ids of a warp: first .. end - 1, so that lanes read neighbours. */
struct draw_share {
    int first, end;
};

BAL_DEVICE draw_share share_of(int warp, int n)
{
    const int each = ((n + WARPS - 1) / WARPS + 31) / 32 * 32, first = warp * each;
    const draw_share s = {first < n ? first : n, first + each < n ? first + each : n};
    return s;
}

/* Into sums and words of each warp: the weight of its tokens above the cut, how many are on it. */
BAL_DEVICE void weigh(const draw_room &r, const float *x, int n, const draw_cut &cut, float top,
                      float scale)
{
    const int warp = (int)threadIdx.x / 32, lane = (int)threadIdx.x % 32;
    const draw_share s = share_of(warp, n);
    mass_t above = 0;
    int equal = 0;
    for (int i = s.first + lane; i < s.end; i += TOGETHER * 32) {
        float v[TOGETHER];
        load_values(x, i, 32, s.end, v);
        for (int j = 0; j < TOGETHER && i + j * 32 < s.end; j++) {
            const uint32_t key = bal_key_of(v[j]);
            equal += key == cut.key;
            if (key > cut.key) above += weight_of(v[j], top, scale);
        }
    }
    above = warp_scan(above);
    for (int bits = 16; bits > 0; bits /= 2) equal += __shfl_xor_sync(BAL_WARP, equal, bits);
    __syncthreads();
    if (lane == 31) {
        r.sums[warp] = above;
        r.words[warp] = equal;
    }
    __syncthreads();
}

/* How many of a warp's tokens on the cut may be drawn, after `before` of others. */
BAL_DEVICE mass_t equal_kept(const draw_cut &cut, mass_t before, mass_t here)
{
    const mass_t left = cut.equal > before ? cut.equal - before : 0;
    return here < left ? here : left;
}

/* Where a warp stands in its share: tokens on the cut so far, and what of the point is left. */
struct draw_walk {
    mass_t equal, point;
};

/* 32 tokens from `from` on, v the lane's: the token on which the point falls, or -1. */
BAL_DEVICE int walk_on(draw_walk *w, float v, int from, draw_share s, const draw_cut &cut,
                       float top, float scale)
{
    const int lane = (int)threadIdx.x % 32;
    const bool real = from + lane < s.end;
    const uint32_t key = real ? bal_key_of(v) : 0;
    const bool on = real && key == cut.key;
    const unsigned all_on = __ballot_sync(BAL_WARP, on);
    const mass_t rank = w->equal + (mass_t)__popc(all_on & ((1u << lane) - 1));
    const bool kept = real && (key > cut.key || (on && rank < cut.equal));
    const mass_t sum = warp_scan(kept ? weight_of(v, top, scale) : 0);
    const unsigned hit = __ballot_sync(BAL_WARP, w->point < sum);
    if (hit) return from + __ffs((int)hit) - 1;
    w->point -= shuffle(sum, 31);
    w->equal += (mass_t)__popc(all_on);
    return -1;
}

/* The token of the warp's share on which the point falls. */
BAL_DEVICE int walk(const float *x, draw_share s, const draw_cut &cut, float top, float scale,
                    draw_walk w)
{
    for (int from = s.first; from < s.end; from += TOGETHER * 32) {
        float v[TOGETHER];
        load_values(x, from + (int)threadIdx.x % 32, 32, s.end, v);
        for (int j = 0; j < TOGETHER && from + 32 * j < s.end; j++) {
            const int id = walk_on(&w, v[j], from + 32 * j, s, cut, top, scale);
            if (id >= 0) return id;
        }
    }
    return s.end - 1; /* not reached: the point is below the share's mass */
}

/* Grid: rows. */
__global__ void __launch_bounds__(THREADS, 1) bal_k_draw(const bal_k_draw_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const draw_room r = room_of();
    const float *x = a.x + (size_t)blockIdx.x * (size_t)a.n;
    const bal_device_draw how = a.draws[blockIdx.x];
    const uint32_t best = top_key(r, x, a.n);
    if (best == 0) {
        if (threadIdx.x == 0) a.out[blockIdx.x] = -1;
        return;
    }
    const float top = bal_key_value(best);
    draw_cut cut = {0, 0};
    if (how.top_k > 0 && how.top_k < a.n)
        cut = find_cut(r, x, a.n, false, top, how.scale, (mass_t)how.top_k);
    for (int pass = 0;; pass++) {
        weigh(r, x, a.n, cut, top, how.scale);
        const mass_t each = cut.equal ? weight_of(bal_key_value(cut.key), top, how.scale) : 0;
        mass_t mass = cut.equal * each;
        for (int w = 0; w < WARPS; w++) mass += r.sums[w];
        if (pass == 0 && how.top_p < 1.0f) {
            const mass_t enough = enough_of(how.top_p, mass);
            __syncthreads();
            cut = find_cut(r, x, a.n, true, top, how.scale, enough);
            continue;
        }
        mass_t point = __umul64hi(how.random, mass), equal = 0;
        int warp = 0;
        for (; warp < WARPS - 1; warp++) {
            const mass_t kept = equal_kept(cut, equal, (mass_t)r.words[warp]);
            const mass_t here = r.sums[warp] + kept * each;
            if (point < here) break;
            point -= here;
            equal += (mass_t)r.words[warp];
        }
        if ((int)threadIdx.x / 32 != warp) return;
        const int id = walk(x, share_of(warp, a.n), cut, top, how.scale, {equal, point});
        if (threadIdx.x % 32 == 0) a.out[blockIdx.x] = id;
        return;
    }
}

cudaError_t bal_cuda_draw(bal_dptr x, int m, int n, bal_dptr draws, bal_dptr out,
                          bal_cuda_queue queue)
{
    const bal_k_draw_args args = {(const float *)x, (const bal_device_draw *)draws, (int32_t *)out,
                                  n};
    bal_launch_shape shape = {};
    shape.grid = dim3((unsigned)m);
    shape.threads = THREADS;
    shape.shared = draw_bytes;
    shape.stream = queue.stream;
    shape.early = queue.early;
    return bal_launch(bal_k_draw, shape, args);
}
