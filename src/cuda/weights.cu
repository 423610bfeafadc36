/* SPDX-License-Identifier: MIT
 * Linears of the contract: weights become tiles (cuda/repack.h) on the way to the device, rows are
 * staged and multiplied by the kernels of stage.cu and linear.cu, and a row of an embedding table
 * is read back from its tiles. */
#include "cuda/backend.h"
#include "cuda/linear.h"
#include "cuda/repack.h"
#include "cuda/stage_op.h"

#include <stdlib.h>

extern "C" {
#include "base/pool.h"
}

enum {
    MOST_PARTS = 3,
    THREADS = 128,             /* of a block, on the device */
    WEIGHTS_PER_LANE = 1 << 20 /* of an upload, at least: a fraction of a millisecond, of which the
                                  start of a thread is a small part */
};

struct bal_device_weight {
    bal_linear_weight w;
    bal_dptr codes, meta, bias;
};

/* Work memory of the linear kernel, as large as the largest weight needs. */
struct bal_cuda_linears {
    bal_dptr work;
    size_t bytes;
};

bal_status bal_cuda_linears_open(bal_device *d, bal_error *err)
{
    d->linears = (bal_cuda_linears *)calloc(1, sizeof *d->linears);
    return d->linears ? BAL_OK : bal_nomem(err, sizeof *d->linears, "a device");
}

void bal_cuda_linears_close(bal_device *d)
{
    if (d->linears) bal_cuda_release(d, d->linears->work);
    free(d->linears);
}

static bal_status reserve_work(bal_device *d, size_t bytes, bal_error *err)
{
    bal_cuda_linears *l = d->linears;
    if (bytes <= l->bytes) return BAL_OK;
    bal_cuda_release(d, l->work);
    l->bytes = 0;
    BAL_TRY(bal_cuda_alloc(d, &l->work, bytes, "sums of linears", err));
    l->bytes = bytes;
    bal_cuda_keep(d, cudaMemsetAsync((void *)l->work, 0, BAL_LINEAR_ZEROED, d->stream), "clearing");
    return BAL_OK;
}

/* ---- Upload ---------------------------------------------------------------------------------- */

/* Row blocks from `first` on, on their way to the device. */
struct repacking {
    const bal_tiles *t;
    const bal_tiles_part *parts;
    size_t first;
    unsigned char *codes, *meta;
};

static void repack(void *ctx, size_t begin, size_t end, int)
{
    const repacking *r = (const repacking *)ctx;
    for (size_t b = begin; b < end; b++)
        bal_tiles_write(r->t, r->parts, r->first + b, r->codes + b * r->t->block_codes,
                        r->meta + b * r->t->block_meta);
}

/* Threads for one weight, gone when it is made; NULL where the caller's alone is enough, or all
 * that can be had. */
static bal_pool *repack_pool(const bal_tiles *t, size_t blocks)
{
    bal_pool *pool = NULL;
    size_t lanes = t->n * t->k / WEIGHTS_PER_LANE, most = (size_t)bal_pool_size_of(0);
    if (lanes > most) lanes = most;
    if (lanes > blocks) lanes = blocks;
    if (lanes > 1) bal_pool_create(&pool, (int)lanes, NULL);
    return pool;
}

static void queue_copy(bal_device *d, bal_dptr to, const void *from, size_t n)
{
    bal_cuda_keep(d, cudaMemcpyAsync((void *)to, from, n, cudaMemcpyHostToDevice, d->stream),
                  "upload of weights");
}

/* As many row blocks at a time as half of the pinned buffer holds, codes and scales apart, so that
 * copies are few, and the second half is filled while the first is copied. */
static void upload_tiles(bal_device *d, const bal_device_weight *w, const bal_tiles_part *parts)
{
    const bal_tiles *t = &w->w.tiles;
    const size_t bytes = t->block_codes + t->block_meta, fit = BAL_PINNED / 2 / bytes;
    const size_t most = fit ? fit : 1;
    bal_pool *pool = repack_pool(t, most);
    for (size_t b = 0, n; b < t->row_blocks && d->failed.status == BAL_OK; b += n) {
        n = t->row_blocks - b < most ? t->row_blocks - b : most;
        unsigned char *room = bal_cuda_pinned(d, n * bytes);
        repacking r = {t, parts, b, room, room + n * t->block_codes};
        if (pool)
            bal_pool_run(pool, repack, &r, n, 1);
        else
            repack(&r, 0, n, 0);
        queue_copy(d, w->codes + b * t->block_codes, r.codes, n * t->block_codes);
        queue_copy(d, w->meta + b * t->block_meta, r.meta, n * t->block_meta);
    }
    bal_pool_destroy(pool);
}

static bal_status upload_bias(bal_device *d, bal_device_weight *w, const bal_device_part *parts,
                              int n_parts, bal_error *err)
{
    bool any = false;
    size_t at = 0;
    for (int i = 0; i < n_parts; i++) any |= parts[i].bias != NULL;
    if (!any) return BAL_OK;
    float *all = (float *)calloc(w->w.tiles.n, sizeof *all);
    if (!all) return bal_nomem(err, w->w.tiles.n * sizeof *all, "a bias");
    for (int i = 0; i < n_parts; at += parts[i++].n)
        if (parts[i].bias) memcpy(all + at, parts[i].bias, parts[i].n * sizeof *all);
    const bal_status st = bal_cuda_alloc(d, &w->bias, at * sizeof *all, "a bias", err);
    if (st == BAL_OK) bal_cuda_upload(d, w->bias, all, at * sizeof *all);
    w->w.bias = (const float *)w->bias;
    free(all);
    return st;
}

static bal_status check(const bal_tiles *t, const bal_device_part *parts, int n_parts,
                        bal_error *err)
{
    if (t->bits == 16 && parts[0].act.kind == BAL_ACT_A8)
        return bal_fail(err, BAL_E_UNSUP, "8-bit activations of a linear whose weights are floats");
    if (t->table && parts[0].act.kind == BAL_ACT_A8)
        return bal_fail(err, BAL_E_UNSUP,
                        "8-bit activations of a linear whose weights are in tables");
    for (int i = 1; i < n_parts; i++)
        if (!bal_act_equal(parts[i].act, parts[0].act))
            return bal_fail(err, BAL_E_ARG, "parts of a linear that read unlike activations");
    for (int i = 0; i < n_parts; i++)
        if (!bal_stage_can(parts[i].act, t->k))
            return bal_fail(err, BAL_E_UNSUP,
                            "8-bit activations in groups of %zu are not computed on this device",
                            parts[i].act.group);
    if (t->block_codes + t->block_meta <= BAL_PINNED) return BAL_OK;
    return bal_fail(err, BAL_E_UNSUP, "a linear of %zu inputs is too wide for this device", t->k);
}

static bal_status create(bal_device *d, bal_device_weight *w, const bal_device_part *parts,
                         int n_parts, size_t k, bool gated, bal_error *err)
{
    bal_tiles_part tiles[MOST_PARTS] = {};
    bal_tiles *t = &w->w.tiles;
    if (n_parts > MOST_PARTS) return bal_fail(err, BAL_E_ARG, "%d parts of a linear", n_parts);
    for (int i = 0; i < n_parts; i++) {
        const bal_tiles_part part = {parts[i].type, parts[i].n, parts[i].w, parts[i].packed};
        tiles[i] = part;
    }
    BAL_TRY(bal_tiles_init(t, tiles, n_parts, k, gated, err));
    BAL_TRY(check(t, parts, n_parts, err));
    BAL_TRY(reserve_work(d, bal_linear_work_bytes(t, 0), err));
    BAL_TRY(bal_cuda_alloc(d, &w->codes, bal_tiles_codes_bytes(t), "weights", err));
    BAL_TRY(bal_cuda_alloc(d, &w->meta, bal_tiles_meta_bytes(t), "scales", err));
    BAL_TRY(upload_bias(d, w, parts, n_parts, err));
    w->w.act = parts[0].act;
    w->w.codes = (const void *)w->codes;
    w->w.meta = (const void *)w->meta;
    upload_tiles(d, w, tiles);
    return BAL_OK;
}

bal_status bal_cuda_weight_create(bal_device *d, bal_device_weight **out,
                                  const bal_device_part *parts, int n_parts, size_t k, bool gated,
                                  bal_error *err)
{
    *out = NULL;
    bal_device_weight *w = (bal_device_weight *)calloc(1, sizeof *w);
    if (!w) return bal_nomem(err, sizeof *w, "a weight");
    const bal_status st = create(d, w, parts, n_parts, k, gated, err);
    if (st < 0)
        bal_cuda_weight_destroy(d, w);
    else
        *out = w;
    return st;
}

void bal_cuda_weight_destroy(bal_device *d, bal_device_weight *w)
{
    if (!w) return;
    bal_cuda_release(d, w->codes);
    bal_cuda_release(d, w->meta);
    bal_cuda_release(d, w->bias);
    free(w);
}

/* ---- Running --------------------------------------------------------------------------------- */

size_t bal_cuda_act_bytes(int m, size_t k)
{
    return bal_stage_bytes((size_t)m, k);
}

static bal_stage_job stage_job(const bal_stage_args *a, bool early)
{
    bal_stage_job job = {};
    job.kind = (bal_staged)a->kind;
    job.x = (const float *)a->x;
    job.w = (const float *)a->w;
    job.b = (const float *)a->b;
    job.out = (void *)a->out;
    job.ld = a->ld;
    job.m = a->m;
    job.k = a->k;
    job.eps = a->eps;
    job.act = a->act;
    job.modality = (const int32_t *)a->modality;
    job.vision_only = a->vision_only;
    job.early = early;
    return job;
}

cudaError_t bal_cuda_stage(const bal_stage_args *a, bal_cuda_queue queue)
{
    return bal_stage(stage_job(a, queue.early), queue.stream);
}

/* A single row is staged by the linear itself. */
cudaError_t bal_cuda_linear_run(bal_device *d, const bal_device_linear_args *a)
{
    bal_linear_job job = {};
    const bal_stage_job stage = stage_job(&a->stage, d->early);
    if (a->input != BAL_INPUT_STAGED && a->m == 1) job.own = &stage;
    if (a->input == BAL_INPUT_FRESH && !job.own) {
        const cudaError_t e = bal_stage(stage, d->stream);
        if (e != cudaSuccess) return e;
    }
    job.w = &a->w->w;
    job.x = (const void *)a->x;
    job.y = (float *)a->y;
    job.ld = a->ld;
    job.m = a->m;
    job.add = a->add;
    job.work = (void *)d->linears->work;
    job.processors = d->processors;
    job.early = d->early;
    return bal_linear(job, d->stream);
}

/* ---- Rows of a table ------------------------------------------------------------------------- */

struct bal_k_embed_args {
    const uint32_t *codes;
    const unsigned char *meta;
    const int32_t *ids;
    float *h;
    int bits, k, k_tiles, group, groups;
    int stepped, table, block_meta; /* cuda/tiles.h */
    uint8_t level[16];
};

/* Bits [first, first + n) of each half of w. */
BAL_DEVICE uint32_t field(uint32_t w, int odd, int first, int n)
{
    return w >> (16 * odd + first) & ((1u << n) - 1);
}

/* Code `odd` of pair j among the words of a lane and slot, 128 apart (cuda/tiles.h). */
BAL_DEVICE uint32_t code_at(const uint32_t *w, int bits, int j, int odd)
{
    if (bits == 2) return field(w[j / 8 * 128], odd, (int)(0xce8a0246u >> 4 * (j % 8) & 15), 2);
    if (bits == 3 && j == 15)
        return field(w[2 * 128], odd, 0, 1) | field(w[128], odd, 0, 1) << 1 |
               field(w[0], odd, 0, 1) << 2;
    if (bits == 3) {
        const uint64_t word = 0x222212111100000ull; /* a nibble per pair */
        const uint64_t first = 0xd17a14da741ad47ull;
        return field(w[(word >> 4 * j & 15) * 128], odd, (int)(first >> 4 * j & 15), 3);
    }
    if (bits == 4) return field(w[j / 4 * 128], odd, 0x0c48 >> 4 * (j % 4) & 15, 4);
    if (bits == 6 && j >= 12)
        return field(w[(j - 12) * 128], odd, 0, 4) |
               field(w[(4 + (j - 12) / 2) * 128], odd, 2 * (j % 2), 2) << 4;
    if (bits == 6) return field(w[j / 2 * 128], odd, j % 2 ? 10 : 4, 6);
    if (bits == 8) return field(w[j / 2 * 128], odd, j % 2 * 8, 8);
    return field(w[j * 128], odd, 0, 16);
}

/* The same of a table: the level. */
BAL_DEVICE uint32_t level_at(const bal_k_embed_args &a, const uint32_t *w, int j, int odd)
{
    const int octet = j / 4, nibble = j % 4 * 8 + odd * 4;
    uint32_t q = 0;
    if (a.bits == 3 && octet == 3)
        for (int i = 0; i < 3; i++) q |= (w[i * 128] >> (nibble + 3) & 1) << i;
    else
        q = w[(a.bits == 2 ? octet / 2 : octet) * 128] >>
            (nibble + (a.bits == 2 ? octet % 2 * 2 : 0));
    return (uint32_t)a.level[q & ((1u << a.bits) - 1)] >> (6 - a.bits);
}

/* Grid: rows. */
__global__ void __launch_bounds__(THREADS) bal_k_embed(const bal_k_embed_args a)
{
    bal_grid_release();
    bal_grid_wait();
    const int row = a.ids[blockIdx.x], block = row / 32, slot = row % 32 / 8, g = row % 8;
    const uint32_t *codes = a.codes + (size_t)block * a.k_tiles * a.bits * 128;
    const unsigned char *meta = a.meta + (size_t)block * a.block_meta;
    const float *scales = (const float *)(meta + a.groups * 96); /* of floats, or stepped */
    float *h = a.h + (size_t)blockIdx.x * a.k;
    for (int c = (int)threadIdx.x; c < a.k; c += THREADS) {
        const int in = c % 128, j = in / 8, lane = 4 * g + in % 8 / 2;
        const uint32_t *w = codes + (size_t)(c / 128) * a.bits * 128 + lane * 4 + slot;
        const uint32_t q = a.table ? level_at(a, w, j, in % 2) : code_at(w, a.bits, j, in % 2);
        if (a.bits == 16) {
            h[c] = bal_f16_float(q) * scales[row % 32];
            continue;
        }
        const unsigned char *of_group = meta + c / a.group * 96;
        const float scale = bal_f16_float(((const uint16_t *)of_group)[4 * g + slot]) *
                            (a.stepped ? scales[row % 32] : 1);
        h[c] = (float)((int)q - (int)of_group[64 + 4 * g + slot]) * scale;
    }
}

cudaError_t bal_cuda_embed(const bal_device_weight *w, bal_dptr ids, int m, bal_dptr h,
                           bal_cuda_queue queue)
{
    const bal_tiles *t = &w->w.tiles;
    bal_k_embed_args a = {};
    a.codes = (const uint32_t *)w->codes;
    a.meta = (const unsigned char *)w->meta;
    a.ids = (const int32_t *)ids;
    a.h = (float *)h;
    a.bits = t->bits;
    a.k = (int)t->k;
    a.k_tiles = (int)t->k_tiles;
    a.group = (int)(t->group ? t->group : t->k_tiles * 128);
    a.groups = (int)t->groups;
    a.stepped = t->stepped;
    a.table = t->table;
    memcpy(a.level, t->level, sizeof a.level);
    a.block_meta = (int)t->block_meta;
    bal_launch_shape shape = {};
    shape.grid = dim3((unsigned)m);
    shape.threads = THREADS;
    shape.stream = queue.stream;
    shape.early = queue.early;
    return bal_launch(bal_k_embed, shape, a);
}

cudaError_t bal_cuda_compiled_for(int *version)
{
    cudaFuncAttributes of_kernel;
    const cudaError_t e = cudaFuncGetAttributes(&of_kernel, (const void *)bal_k_embed);
    *version = e == cudaSuccess ? of_kernel.ptxVersion : 0;
    return e;
}
