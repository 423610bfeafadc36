/* SPDX-License-Identifier: MIT
 * Packed weights: a matrix W [n outputs][k inputs] of b-bit codes, b in {2, 3, 4, 6, 8}, with one
 * f16 scale s and one integer zero point z per output and group of inputs:  w = (q - z) * s. This
 * file owns what the bits mean, and their scalar encoding and decoding. It does not choose codes
 * (quant/) and does not multiply (kernel/).
 *
 * Byte map. Three sections follow each other, each padded with zeros to 64 bytes:
 *   codes   u32 little-endian [panels][units][b words][16 lanes]
 *   scales  f16               [panels][groups][16 lanes]
 *   zeros   u8                [panels][groups][16 lanes]
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

/* Where things lie in the packed bytes of one matrix. Filled by bal_packed_layout_init only. */
typedef struct bal_packed_layout {
    int bits;
    size_t n, k;                                      /* real outputs and inputs */
    size_t group;                                     /* as asked for; 0: the whole row */
    size_t panels, units;                             /* padded n / 16, padded k / 32 */
    size_t groups;                                    /* per row */
    size_t units_per_group;                           /* the last group may have fewer */
    size_t codes_offset, scales_offset, zeros_offset; /* bytes */
    size_t n_bytes;                                   /* of all sections, a multiple of 64 */
} bal_packed_layout;

/* group: a multiple of 32, or 0. Sizes that do not fit fail with BAL_E_ARG. */
bal_status bal_packed_layout_init(bal_packed_layout *l, int bits, size_t n, size_t k, size_t group,
                                  bal_error *err);

/* Layout id as files carry it: "w3g128.p16u32.v1", "w3g0.p16u32.v1" for whole rows. */
enum { BAL_PACKED_ID_SIZE = 40 };
void bal_packed_layout_id(const bal_packed_layout *l, char out[BAL_PACKED_ID_SIZE]);
/* The inverse: bits and group of an id. Refuses ids of other layouts and newer versions. */
bal_status bal_packed_id_parse(const char *id, int *bits, size_t *group, bal_error *err);

/* Borrowed packed bytes, ready for kernels. Strides follow from the layout:
 * panel p starts at codes + p * units * bits * 16, scales/zeros + p * groups * 16. */
typedef struct bal_packed_view {
    bal_packed_layout layout;
    const uint32_t *codes;
    const uint16_t *scales;
    const uint8_t *zeros;
} bal_packed_view;

/* data must be 4-byte aligned (files keep 64) and n_bytes exactly layout->n_bytes; the contents
 * need no check, since any bits decode to something. data must outlive the view. */
bal_status bal_packed_view_init(bal_packed_view *v, const bal_packed_layout *layout,
                                const void *data, size_t n_bytes, bal_error *err);

/* First code word, scale and zero point of panel p. */
static inline const uint32_t *bal_packed_codes(const bal_packed_view *v, size_t p)
{
    return v->codes + p * v->layout.units * (size_t)v->layout.bits * BAL_PANEL;
}

static inline const uint16_t *bal_packed_scales(const bal_packed_view *v, size_t p)
{
    return v->scales + p * v->layout.groups * BAL_PANEL;
}

static inline const uint8_t *bal_packed_zeros(const bal_packed_view *v, size_t p)
{
    return v->zeros + p * v->layout.groups * BAL_PANEL;
}

/* codes [n][k], scales f16 [n][groups], zeros [n][groups] into out[layout->n_bytes] (4-byte
 * aligned, overwritten whole). A code or zero point above 2^bits - 1 fails with BAL_E_ARG, naming
 * the row and column. */
bal_status bal_pack(const bal_packed_layout *l, const uint8_t *codes, const uint16_t *scales,
                    const uint8_t *zeros, uint8_t *out, bal_error *err);

/* The inverse of bal_pack, real rows and columns only. Outputs that are NULL are skipped. */
void bal_unpack(const bal_packed_view *v, uint8_t *codes, uint16_t *scales, uint8_t *zeros);

/* Row r < n as floats, out[k]: ((float)(q - z)) * s in f32. */
void bal_packed_row(const bal_packed_view *v, size_t r, float *out);

#ifdef __cplusplus
}
#endif

#endif
