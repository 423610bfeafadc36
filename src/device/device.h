/* SPDX-License-Identifier: MIT
 * The contract a backend fills: one table of functions on memory that the host cannot read. No type
 * of any vendor is in it, so the core neither links nor includes a GPU's toolkit; a backend is a
 * shared object that exports bal_device_entry and is loaded when somebody asks for it
 * (device/load.h).
 *
 * Order of work: what stands under "queued" below returns before it has run, runs in the order of
 * the calls, and cannot fail there; the first failure is kept, everything after it does nothing,
 * and sync says it. Sizes and addresses are the caller's care; shapes a backend cannot compute are
 * refused when weights are uploaded. A device belongs to one thread at a time.
 *
 * Numbers: f32 between ops. Weights of 16 and 32 bits are held as f16 with one power of two per
 * row, packed ones as codes; linears multiply f16 by f16 and sum in f32. So results differ from the
 * CPU's within a bound (docs/numerics.md), and do not depend on which rows share a step. */
#ifndef BAL_DEVICE_DEVICE_H
#define BAL_DEVICE_DEVICE_H

#include "type/act.h"
#include "type/packed.h"
#include "type/type.h"

#include <stdbool.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    BAL_DEVICE_ABI = 5,   /* of this header; a backend of another one is refused */
    BAL_DEVICE_PAGE = 64, /* positions of a cache page */
};

typedef struct bal_device bal_device;               /* an open device */
typedef struct bal_device_weight bal_device_weight; /* a linear's weights on it */
typedef struct bal_device_record bal_device_record; /* recorded work */
typedef uint64_t bal_dptr;                          /* an address there, in bytes; 0: none */

typedef struct bal_device_info {
    char name[128];
    int major, minor; /* compute capability; 0, 0 where there is none */
    int processors;   /* streaming multiprocessors */
    size_t memory, free_memory;
} bal_device_info;

/* ---- Weights ----------------------------------------------------------------------------------
 */

/* Rows of one matrix in host memory, read during the upload only. */
typedef struct bal_device_part {
    bal_type type; /* F32, F16, BF16: w [n][k], any alignment; packed types: `packed` */
    size_t n;
    const void *w;
    bal_packed_view packed;
    const float *bias; /* [n] or NULL */
    bal_act act;       /* how its rows will be staged */
} bal_device_part;

/* ---- Arguments of ops -------------------------------------------------------------------------
 */

/* What a staged row is made of. */
typedef enum bal_stage_kind {
    BAL_STAGE_PLAIN, /* x */
    BAL_STAGE_RMS,   /* x / sqrt(mean x^2 + eps) * w */
    BAL_STAGE_LAYER, /* (x - mean) / sqrt(var + eps) * w + b */
    BAL_STAGE_SILU,  /* silu(x[0 .. k)) * x[k .. 2k): a row of gate and up */
} bal_stage_kind;

/* x f32 [m][ld] -> activations of m rows of k values, as linears read them: an opaque buffer of
 * act_bytes(m, k). `act`: rounded to bytes as the linear's file says (docs/numerics.md), with the
 * fixed scale of the row's modality where it has fixed scales. */
typedef struct bal_stage_args {
    bal_stage_kind kind;
    bal_dptr x, w, b; /* w, b f32 [k] */
    bal_dptr out;
    size_t ld;
    int m, k;
    float eps;
    bal_act act;
    bal_dptr modality; /* i32 [m] of bal_modality, 0: no row is vision */
    bool vision_only;  /* all other rows are staged as zeros, whatever they hold */
} bal_stage_args;

/* Where a linear's rows come from. */
typedef enum bal_linear_input {
    BAL_INPUT_STAGED, /* they are in x, by op stage */
    BAL_INPUT_FRESH,  /* `stage` says: they are not in x = stage.out yet, nor need they be behind it
                       */
    BAL_INPUT_AGAIN   /* the same, and the linear in front had them so, from an equal `stage` */
} bal_linear_input;

/* y f32 [m][ld] = x W^T + bias, or added to what is there. Fresh or again, m is that of `stage`,
 * and y does not overlap what it reads: a backend may stage on its way. */
typedef struct bal_device_linear_args {
    const bal_device_weight *w;
    bal_dptr x; /* staged */
    bal_dptr y;
    size_t ld;
    int m;
    bool add;
    bal_linear_input input;
    bal_stage_args stage;
} bal_device_linear_args;

/* How the cache lies in memory: pages [layers][K, V][heads] of tiles; a tile is
 * BAL_DEVICE_PAGE rows of dim elements, and for codes of one byte an f32 scale per row behind
 * them. Sizes in bytes. */
typedef struct bal_device_cache {
    int element; /* bytes of one: 4 f32, 2 f16, 1 codes with scales */
    int heads, dim;
    size_t tile_bytes, layer_bytes;
} bal_device_cache;

/* The rows of a step in device memory: everything that changes from step to step without changing
 * a launch. Row i belongs to the sequence whose page list begins at lists[list[i]]. */
typedef struct bal_device_rows {
    bal_dptr at;    /* i32 [m] position in the cache, where its key goes; -1: a row of no sequence
                     */
    bal_dptr pos;   /* i32 [m][3] rotary position */
    bal_dptr list;  /* i32 [m] */
    bal_dptr pages; /* u64 addresses of pages, all lists one behind the other */
} bal_device_rows;

/* qkv f32 [m][(heads + 2 cache.heads) * dim]: norms of q and k where given, rotation of both in
 * place, keys and values into the cache. Angle i of dim / 2 is pos[axis[i]] * frequency[i], its
 * sine and cosine times magnitude. */
typedef struct bal_rotate_args {
    bal_dptr qkv;
    bal_dptr q_norm, k_norm;  /* f32 [dim], or 0 */
    bal_dptr frequency, axis; /* f32, i32 [dim / 2] */
    float magnitude, eps;
    int m, heads, layer;
    bal_device_cache cache;
    bal_device_rows rows;
} bal_rotate_args;

/* Attention over cached pages: a row sees the keys 0 .. rows.at of its list, which never fall from
 * one row of a tile to the next. (Where keys went says rotate's own rows.at: causal attention gives
 * both the same, rows that all see each other give this one the last position to all.) q f32
 * [m][ld], out f32 [m][heads * dim]. Rows are given as tiles: rows first .. first + n - 1 of one
 * list. `keys` bounds the positions any row sees, for the size of the launch. */
typedef struct bal_attend_args {
    bal_dptr q, out;
    size_t ld;
    bal_dptr tiles;         /* i32 [n_tiles][2]: first, n <= BAL_DEVICE_TILE */
    int n_tiles, tile_rows; /* tile_rows: the largest n */
    int m, heads, layer, keys;
    bal_device_cache cache;
    bal_device_rows rows;
    bal_dptr work; /* attend_bytes */
} bal_attend_args;

enum { BAL_DEVICE_TILE = 64 };

/* x f32 [m][ld]: the first k of each row in place, x / sqrt(mean x^2 + eps) * w, or with `layer`
 * (x - mean) / sqrt(var + eps) * w + b. */
typedef struct bal_norm_args {
    bool layer;
    bal_dptr x, w, b; /* w, b f32 [k]; b may be 0 */
    size_t ld;
    int m, k;
    float eps;
} bal_norm_args;

/* How a row's next token is drawn (run/sampler.h): from the top_k likeliest (0: all), of those from
 * as many as make up top_p (1: all), by weights (base/weight.h) and 64 random bits. */
typedef struct bal_device_draw {
    uint64_t random;
    float scale; /* bal_weight_scale */
    float top_p;
    int32_t top_k, unused;
} bal_device_draw;

typedef enum bal_device_gelu {
    BAL_DEVICE_GELU_TANH,
    BAL_DEVICE_GELU,       /* exact, through erf */
    BAL_DEVICE_QUICK_GELU, /* x sigmoid(1.702 x) */
} bal_device_gelu;

/* ---- The table --------------------------------------------------------------------------------
 */

typedef struct bal_device_api {
    uint32_t abi, size; /* BAL_DEVICE_ABI, sizeof(bal_device_api) */
    const char *name;   /* "cuda" */

    /* Devices of this machine. BAL_E_UNSUP says why there can be none (no driver, an old one). */
    bal_status (*count)(int *n, bal_error *err);
    /* index < count. */
    bal_status (*open)(bal_device **out, int index, bal_error *err);
    void (*close)(bal_device *d); /* NULL is fine */
    void (*describe)(bal_device *d, bal_device_info *info);

    /* BAL_E_NOMEM says how much was asked for, `what` it is, and how much is free. Addresses are
     * multiples of 256. Contents are undefined. */
    bal_status (*alloc)(bal_device *d, bal_dptr *out, size_t n_bytes, const char *what,
                        bal_error *err);
    void (*release)(bal_device *d, bal_dptr p); /* 0 is fine; waits for queued work */

    /* Parts one below the other, all of k inputs and stored alike (floats of any kind, or packed
     * with the same bits, groups, kind of grid and table). gated: two parts of n rows, gate and up,
     * which give n outputs silu(gate) * up. BAL_E_UNSUP names what the backend cannot compute. */
    bal_status (*weight_create)(bal_device *d, bal_device_weight **out,
                                const bal_device_part *parts, int n_parts, size_t k, bool gated,
                                bal_error *err);
    void (*weight_destroy)(bal_device *d, bal_device_weight *w); /* NULL is fine */

    size_t (*act_bytes)(int m, size_t k);
    size_t (*attend_bytes)(const bal_device *d, int m, int heads,
                           int dim); /* 0: heads of dim values
                                        are too wide */

    /* ---- queued */
    void (*upload)(bal_device *d, bal_dptr to, const void *from, size_t n); /* `from` is read at
                                                                               once */
    void (*download)(bal_device *d, void *to, bal_dptr from, size_t n);     /* there after sync */
    void (*copy)(bal_device *d, bal_dptr to, bal_dptr from, size_t n);

    /* h f32 [m][k] = rows ids[i] (i32) of a weight */
    void (*embed)(bal_device *d, const bal_device_weight *table, bal_dptr ids, int m, bal_dptr h);
    void (*stage)(bal_device *d, const bal_stage_args *a);
    void (*linear)(bal_device *d, const bal_device_linear_args *a);
    /* x f32 [n] in place: each run of `block` (a power of two up to 128, which divides n) through
     * Hadamard's transform, in the order of sums of kernel/hadamard.h */
    void (*hadamard)(bal_device *d, bal_dptr x, size_t n, int block);
    void (*rotate)(bal_device *d, const bal_rotate_args *a);
    void (*attend)(bal_device *d, const bal_attend_args *a);
    void (*norm)(bal_device *d, const bal_norm_args *a);
    void (*gelu)(bal_device *d, bal_device_gelu kind, bal_dptr x,
                 size_t n); /* x f32 [n] in place */
    /* x f32 [m][ld]: the first k of each row become silu(x[0 .. k)) * x[k .. 2k), as staging with
     * BAL_STAGE_SILU has them */
    void (*gate)(bal_device *d, bal_dptr x, size_t ld, int m, int k);
    /* h f32 [m][k] += x [m][k] * scale [k] */
    void (*add_scaled)(bal_device *d, bal_dptr h, bal_dptr x, bal_dptr scale, int m, int k);
    /* out f32 [n][k] = rows index[i] (i32) of x f32 [..][k] */
    void (*gather)(bal_device *d, bal_dptr x, size_t k, bal_dptr index, int n, bal_dptr out);
    /* out i32 [m]: index of the largest of each row of x f32 [m][n], the lowest of equals; -1 if
     * one of them is not finite */
    void (*argmax)(bal_device *d, bal_dptr x, int m, int n, bal_dptr out);

    /* out i32 [m]: what draws [m] (bal_device_draw) find in the rows of x f32 [m][n]; -1 if one of
     * a row's values is not finite */
    void (*draw)(bal_device *d, bal_dptr x, int m, int n, bal_dptr draws, bal_dptr out);

    /* Reads n bytes (a multiple of 16) and nothing else: the limit that decoding is measured by. */
    void (*read)(bal_device *d, bal_dptr x, size_t n);

    /* Queued work between begin and end is not run but recorded, to be run again and again with the
     * same addresses. Nothing but ops and copy may be recorded. */
    void (*record_begin)(bal_device *d);
    bal_status (*record_end)(bal_device *d, bal_device_record **out, bal_error *err);
    void (*replay)(bal_device *d, bal_device_record *r);
    void (*record_destroy)(bal_device *d, bal_device_record *r); /* NULL is fine */

    /* Waits. The kept failure, after which the device is good for close only. */
    bal_status (*sync)(bal_device *d, bal_error *err);
    /* Seconds of device time since the last call, at this point of the order; waits for it. */
    double (*lap)(bal_device *d);
} bal_device_api;

/* What a backend exports, under this name. NULL for an abi it does not speak. */
typedef const bal_device_api *bal_device_entry_fn(uint32_t abi);
#define BAL_DEVICE_ENTRY "bal_device_entry"

#ifdef __cplusplus
}
#endif

#endif
