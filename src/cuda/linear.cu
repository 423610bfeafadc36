/* SPDX-License-Identifier: MIT
 * Which of the linear kernel's forms runs, and on how many blocks. */
#include "cuda/linear.h"

#include "cuda/linear_forms.cuh"
#include "cuda/stage.h"

#include <string.h>

/* Counters in the zeroed bytes: row blocks of a weight that may be split. */
static const size_t most_split_blocks = BAL_LINEAR_ZEROED / sizeof(unsigned);

/* Inputs whose products with 8-bit activations an int32 can sum: 255 * 127 each. */
static const size_t most_whole = 32768;

/* Two blocks for each processor of the largest device this was planned for, so that a result does
 * not depend on the device; no more than 40 tiles of inputs a block, whose activations (8 rows) its
 * L1 cache holds; no fewer than a tile a warp. */
int bal_linear_splits(const bal_tiles *t)
{
    if (t->row_blocks > most_split_blocks) return 1;
    const size_t blocks = 264, to_fill = (blocks + t->row_blocks / 2) / t->row_blocks;
    const size_t to_cache = (t->k_tiles + 39) / 40, most = t->k_tiles / BAL_LINEAR_WARPS;
    const size_t want = to_fill > to_cache ? to_fill : to_cache;
    const size_t splits = want < most ? want : most;
    return splits > 1 ? (int)splits : 1;
}

size_t bal_linear_work_bytes(const bal_tiles *t, int splits)
{
    const size_t n = (size_t)(splits ? splits : bal_linear_splits(t));
    const size_t sums = n > 1 ? t->row_blocks * n * BAL_TILE_ROWS * BAL_LINEAR_ROWS : 0;
    return BAL_LINEAR_ZEROED + sums * sizeof(float);
}

/* Scales of a unit as the kernel tells them apart. */
static int groups_per_unit(const bal_tiles *t, int cols)
{
    return t->bits == 16 || t->group >= (size_t)cols ? 1 : cols / (int)t->group;
}

/* Inputs that share a scale of 8-bit activations. */
static size_t act_group(const bal_linear_weight *w)
{
    return w->act.group ? w->act.group : w->tiles.k_tiles * BAL_TILE_COLS;
}

/* Runs of a unit that have one scale in weights and 8-bit activations, as the kernel tells them
 * apart. */
static int runs_per_unit(const bal_linear_weight *w, int cols)
{
    const bool one = w->tiles.group >= (size_t)cols && act_group(w) >= (size_t)cols;
    return one ? 1 : cols / 32;
}

static bal_linear_form byte_form_of(const bal_linear_weight *w, int nt)
{
    switch (w->tiles.bits) {
    case 2: return bal_linear_bytes_w2(nt, runs_per_unit(w, 128));
    case 3: return bal_linear_bytes_w3(nt, runs_per_unit(w, 128));
    case 4: return bal_linear_bytes_w4(nt, runs_per_unit(w, 128));
    case 6: return bal_linear_bytes_w6(nt, runs_per_unit(w, 128));
    default: return bal_linear_bytes_w8(nt, runs_per_unit(w, 64));
    }
}

static bal_linear_form table_form_of(const bal_tiles *t, int nt)
{
    const int subs = groups_per_unit(t, 128);
    if (t->bits == 2) return bal_linear_form_t2(nt, subs);
    return t->bits == 3 ? bal_linear_form_t3(nt, subs) : bal_linear_form_t4(nt, subs);
}

static bal_linear_form form_of(const bal_linear_weight *w, int m)
{
    const bal_tiles *t = &w->tiles;
    const int nt = m > BAL_LINEAR_ROWS ? 0 : m > 8 ? 2 : 1;
    if (w->act.kind == BAL_ACT_A8) return byte_form_of(w, nt);
    if (t->table) return table_form_of(t, nt);
    switch (t->bits) {
    case 2: return bal_linear_form_w2(nt, groups_per_unit(t, 128));
    case 3: return bal_linear_form_w3(nt, groups_per_unit(t, 128));
    case 4: return bal_linear_form_w4(nt, groups_per_unit(t, 128));
    case 6: return bal_linear_form_w6(nt, groups_per_unit(t, 128));
    case 8: return bal_linear_form_w8(nt, groups_per_unit(t, 64));
    default: return bal_linear_form_f16(nt, 1);
    }
}

static bal_k_linear_args args_of(const bal_linear_job &job, int cols)
{
    const bal_tiles *t = &job.w->tiles;
    bal_k_linear_args a = {};
    a.codes = (const uint4 *)job.w->codes;
    a.meta = (const unsigned char *)job.w->meta;
    a.x = (const uint16_t *)job.x;
    const size_t m = (size_t)job.m;
    const bool bytes = job.w->act.kind == BAL_ACT_A8;
    if (!job.own)
        a.x_info =
            (const float *)((const char *)job.x + (bytes ? bal_stage_byte_info_offset(m, t->k)
                                                         : bal_stage_info_offset(m, t->k)));
    a.bias = job.w->bias;
    a.y = job.y;
    a.arrived = (unsigned *)job.work;
    a.partial = (float *)((char *)job.work + BAL_LINEAR_ZEROED);
    a.ld = job.ld;
    a.rows_staged = job.own ? 1 : (int)bal_stage_rows(m);
    a.m = job.m;
    a.n = (int)(t->paired ? t->n / 2 : t->n);
    a.row_blocks = (int)t->row_blocks;
    a.k_tiles = (int)t->k_tiles;
    a.groups = (int)t->groups;
    a.units_per_group = t->group > (size_t)cols ? (int)(t->group / (size_t)cols) : 1;
    a.groups_per_unit = groups_per_unit(t, cols);
    a.whole =
        bytes && (t->groups == 1 || t->stepped) && act_group(job.w) >= t->k && t->k <= most_whole;
    a.stepped = t->stepped;
    memcpy(&a.table, t->level, sizeof a.table);
    a.block_meta = (int)t->block_meta;
    a.splits = job.splits ? job.splits : bal_linear_splits(t);
    a.paired = t->paired;
    a.add = job.add;
    return a;
}

/* Few rows: two blocks a processor, or fewer, a whole number of blocks for each split; a half more
 * where that gives each row block its own, which beats a second round for some. Many: a block for
 * form.rows of x and 8 row blocks. */
static dim3 grid_of(const bal_linear_job &job, const bal_linear_form &form,
                    const bal_k_linear_args &a)
{
    if (job.m > BAL_LINEAR_ROWS)
        return dim3((unsigned)((a.m + form.rows - 1) / form.rows),
                    (unsigned)((a.row_blocks + BAL_LINEAR_WARPS - 1) / BAL_LINEAR_WARPS));
    const int fit = 2 * job.processors / a.splits, more = 3 * job.processors / a.splits;
    const int steps = a.row_blocks <= more ? a.row_blocks : fit > 1 ? fit : 1;
    return dim3((unsigned)(steps * a.splits));
}

/* Bytes for the tiles of x that a block stages: those that its range of inputs touches. */
static size_t own_bytes(const bal_linear_form &form, const bal_k_linear_args &a)
{
    const size_t splits = (size_t)a.splits, tiles = (size_t)a.k_tiles;
    return (tiles / splits + 2 < tiles ? tiles / splits + 2 : tiles) * form.own_tile;
}

cudaError_t bal_linear(const bal_linear_job &job, cudaStream_t s)
{
    const bal_linear_form form = form_of(job.w, job.m);
    const bal_k_linear_args args = args_of(job, form.cols);
    bal_launch_shape shape = {grid_of(job, form, args), BAL_LINEAR_THREADS, form.shared, s,
                              job.early};
    if (!job.own) return bal_launch(form.kernel, shape, args);
    const bal_k_linear_own_args own = {args, bal_stage_source_of(*job.own)};
    shape.shared += own_bytes(form, args);
    return bal_launch(form.own, shape, own);
}
