/* SPDX-License-Identifier: MIT
 * Packed weights: a matrix W [n outputs][k inputs] of b-bit codes q in groups of inputs. This file
 * owns what the bits mean, and their scalar encoding and decoding. It does not choose codes
 * (quant/) and does not multiply (kernel/). Three kinds differ in what a code stands for:
 *   groups     w = (q - z) * s         f16 scale s and zero point z per output and group;
 *                                      b in {2, 3, 4, 6, 8}
 *   table      w = (T[q] - T0) * (s * m)   f16 scale s per output, signed step m per output and
 *                                      group, one table T of 2^b levels per matrix; b in {2, 3, 4}
 *   two-level  w = (q - z) * (s * m)   f16 scale s per output, zero point z and step m per output
 *                                      and group, (q - z) * m within an int8; b = 4
 *
 * Byte map. Sections follow each other, each padded with zeros to 64 bytes:
 *   codes   u32 little-endian [panels][units][b words][16 lanes]
 *   scales  f16               [panels][groups][16 lanes], or [panels][16 lanes] where per output
 *   steps   table:            u8 [panels][groups][8]: byte i has lane i in its low and lane i + 8
 *                             in its high four bits; 0..7 mean m = 1..8, 8..15 mean m = -1..-8
 *           two-level:        u8 [panels][groups][16 lanes], m itself
 *   zeros   u8                [panels][groups][16 lanes]; none with a table
 *   table   u8 [64]: T[0..15], those beyond 2^b zero, then T0, then zeros. What counts of an entry
 *                             are its low b + 2 bits
 * A panel is 16 consecutive outputs, lane = output within the panel. A unit is 32 consecutive
 * inputs and costs one lane exactly b words of 32 bits. k is padded to whole units with code 0 and
 * n to whole panels with q = 0, s = 0, z = 0. A group is a multiple of 32 inputs; the last one may
 * be shorter; a group of 0 or of k or more inputs means the whole row.
 *
 * Within a unit, quad j (0..7) is the inputs 4j .. 4j+3, and byte c of a word always serves input
 * 4j + c, so one mask pulls four codes into four bytes, which is what byte-wise dot product
 * instructions eat. Bits of each of the four bytes of word v:
 *   b=2   bits 2i..2i+1: quad 4v + i                                               (v = 0..1)
 *   b=3   bits 0..2: quad 2v     bits 3..5: quad 2v + 1     bits 6..7: see below   (v = 0..2)
 *           word 0: low two bits of quad 6     word 1: low two bits of quad 7
 *           word 2: bit 6 is the top bit of quad 6, bit 7 the top bit of quad 7
 *   b=4   bits 0..3: quad 2v     bits 4..7: quad 2v + 1                            (v = 0..3)
 *   b=6   bits 0..5: quad v     bits 6..7: bits 2i..2i+1 of quad 6 + v / 3, i = v % 3 (v = 0..5)
 *   b=8   the byte: quad v                                                         (v = 0..7)
 * Three bits with spare pairs instead of a separate bit plane: 19 shifts and masks for 32 codes of
 * a lane, where planes of 2 and 1 bits need 38. */
#ifndef BAL_TYPE_PACKED_H
#define BAL_TYPE_PACKED_H

#include "base/status.h"

#ifdef __cplusplus
extern "C" {
#endif

enum {
    BAL_PANEL = 16,       /* outputs of a panel: the lanes of a 512-bit register */
    BAL_UNIT = 32,        /* inputs of a unit */
    BAL_PACKED_ALIGN = 64 /* sections start on this within the packed bytes */
};

typedef enum bal_packed_kind {
    BAL_PACKED_GROUPS,
    BAL_PACKED_TABLE,
    BAL_PACKED_TWO_LEVEL
} bal_packed_kind;

/* What a layout id says. group: a multiple of 32, or 0 for the whole row. */
typedef struct bal_packed_format {
    bal_packed_kind kind;
    int bits;
    size_t group;
} bal_packed_format;

/* Levels of a table and the level that means 0; all of them below bal_table_levels(bits). */
typedef struct bal_packed_table {
    uint8_t level[16];
    uint8_t zero;
} bal_packed_table;

/* Small enough for products of bytes to be summed in 16 bits for a while (kernel/gemm_t.h). */
static inline int bal_table_levels(int bits)
{
    return 4 << bits;
}

/* The step that four bits stand for, and the four bits of m = -8 .. 8 without 0. */
static inline int bal_table_step(unsigned code)
{
    return code < 8 ? (int)code + 1 : 7 - (int)code;
}

static inline unsigned bal_table_step_code(int m)
{
    return (unsigned)(m > 0 ? m - 1 : 7 - m);
}

/* Where things lie in the packed bytes of one matrix. Filled by bal_packed_layout_init and _of
 * only. */
typedef struct bal_packed_layout {
    bal_packed_kind kind;
    int bits;
    size_t n, k;                                     /* real outputs and inputs */
    size_t group;                                    /* as asked for; 0: the whole row */
    size_t panels, units;                            /* padded n / 16, padded k / 32 */
    size_t groups;                                   /* per row */
    size_t units_per_group;                          /* the last group may have fewer */
    size_t codes_offset, scales_offset;              /* bytes */
    size_t steps_offset, zeros_offset, table_offset; /* the kind's own; others are n_bytes */
    size_t n_bytes;                                  /* of all sections, a multiple of 64 */
} bal_packed_layout;

/* group: a multiple of 32, or 0. Sizes that do not fit, and bits that the kind does not have, fail
 * with BAL_E_ARG. */
bal_status bal_packed_layout_of(bal_packed_layout *l, bal_packed_format f, size_t n, size_t k,
                                bal_error *err);
/* The same of kind groups. */
bal_status bal_packed_layout_init(bal_packed_layout *l, int bits, size_t n, size_t k, size_t group,
                                  bal_error *err);

/* Layout id as files carry it: "w3g128.p16u32.v1", "w3g0.p16u32.v1" for whole rows; t for tables,
 * d for two levels: "t3g32.p16u32.v1", "d4g128.p16u32.v1". */
enum { BAL_PACKED_ID_SIZE = 40 };
void bal_packed_layout_id(const bal_packed_layout *l, char out[BAL_PACKED_ID_SIZE]);
/* The inverse. Refuses ids of other layouts and newer versions. */
bal_status bal_packed_id_parse(const char *id, bal_packed_format *out, bal_error *err);

/* Scales of one output: one, or one per group. */
static inline size_t bal_packed_scale_count(const bal_packed_layout *l)
{
    return l->kind == BAL_PACKED_GROUPS ? l->groups : 1;
}

/* Bytes of steps of one panel and group. */
static inline size_t bal_packed_step_bytes(const bal_packed_layout *l)
{
    return l->kind == BAL_PACKED_TABLE ? BAL_PANEL / 2 : BAL_PANEL;
}

/* Borrowed packed bytes, ready for kernels. Sections that the kind does not have are NULL. */
typedef struct bal_packed_view {
    bal_packed_layout layout;
    const uint32_t *codes;
    const uint16_t *scales;
    const uint8_t *steps, *zeros, *table;
} bal_packed_view;

/* data must be 4-byte aligned (files keep 64) and n_bytes exactly layout->n_bytes; the contents
 * need no check, since any bits decode to something. data must outlive the view. */
bal_status bal_packed_view_init(bal_packed_view *v, const bal_packed_layout *layout,
                                const void *data, size_t n_bytes, bal_error *err);

/* First code word, scale, step and zero point of panel p; NULL where the kind has none. */
static inline const uint32_t *bal_packed_codes(const bal_packed_view *v, size_t p)
{
    return v->codes + p * v->layout.units * (size_t)v->layout.bits * BAL_PANEL;
}

static inline const uint16_t *bal_packed_scales(const bal_packed_view *v, size_t p)
{
    return v->scales + p * bal_packed_scale_count(&v->layout) * BAL_PANEL;
}

static inline const uint8_t *bal_packed_steps(const bal_packed_view *v, size_t p)
{
    return v->steps ? v->steps + p * v->layout.groups * bal_packed_step_bytes(&v->layout) : NULL;
}

static inline const uint8_t *bal_packed_zeros(const bal_packed_view *v, size_t p)
{
    return v->zeros ? v->zeros + p * v->layout.groups * BAL_PANEL : NULL;
}

/* What goes into packed bytes: codes [n][k], scales f16 [n][scale count], steps [n][groups] (with a
 * table the four bits, else m), zeros [n][groups]; NULL where the kind has none. */
typedef struct bal_packed_parts {
    const uint8_t *codes;
    const uint16_t *scales;
    const uint8_t *steps, *zeros;
    const bal_packed_table *table;
} bal_packed_parts;

/* Into out[layout->n_bytes] (4-byte aligned, overwritten whole). A code or zero point above
 * 2^bits - 1, a step or level out of range, and (q - z) * m outside of an int8 fail with
 * BAL_E_ARG, naming the row and column. */
bal_status bal_pack_parts(const bal_packed_layout *l, const bal_packed_parts *parts, uint8_t *out,
                          bal_error *err);
/* The same of kind groups. */
bal_status bal_pack(const bal_packed_layout *l, const uint8_t *codes, const uint16_t *scales,
                    const uint8_t *zeros, uint8_t *out, bal_error *err);

/* The inverse of bal_pack, real rows and columns only. Outputs that are NULL, or that the kind does
 * not have, are skipped. */
void bal_unpack(const bal_packed_view *v, uint8_t *codes, uint16_t *scales, uint8_t *zeros);

/* Row r < n as floats, out[k]: (float)(q - z) * s, with steps (float)(level - zero) * (s * m), in
 * f32. s * m is exact. */
void bal_packed_row(const bal_packed_view *v, size_t r, float *out);

#ifdef __cplusplus
}
#endif

#endif
