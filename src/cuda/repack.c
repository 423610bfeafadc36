/* SPDX-License-Identifier: MIT
 * A row of a block is read unit by unit (32 codes), and each pair of codes is OR-ed into its place.
 */
#include "cuda/repack.h"

#include <string.h>

#include "base/half.h"
#include "base/size.h"

/* Where the pair j of a row stands: low bits of the code go to `bit` of word `word`. */
typedef struct pair_place {
    uint8_t word, bit;
} pair_place;

static const pair_place places3[15] = {{0, 7}, {0, 4},  {0, 13}, {0, 10}, {0, 1},
                                       {1, 4}, {1, 7},  {1, 10}, {1, 13}, {2, 4},
                                       {1, 1}, {2, 10}, {2, 7},  {2, 1},  {2, 13}};

/* ORs the codes lo and hi of pair j into the words of their row: words[v * stride]. */
static void put_pair(int bits, uint32_t *words, size_t stride, int j, uint32_t lo, uint32_t hi)
{
    static const uint8_t bits2[8] = {6, 4, 2, 0, 10, 8, 14, 12}, bits4[4] = {8, 4, 12, 0};
    const uint32_t both = hi << 16 | lo;
    switch (bits) {
    case 2: words[(size_t)(j / 8) * stride] |= both << bits2[j % 8]; break;
    case 3:
        if (j < 15) {
            words[places3[j].word * stride] |= both << places3[j].bit;
        } else {
            words[2 * stride] |= both & 0x00010001u;
            words[stride] |= both >> 1 & 0x00010001u;
            words[0] |= both >> 2 & 0x00010001u;
        }
        break;
    case 4: words[(size_t)(j / 4) * stride] |= both << bits4[j % 4]; break;
    case 6:
        if (j < 12) {
            words[(size_t)(j / 2) * stride] |= both << (j % 2 ? 10 : 4);
        } else {
            const int i = j - 12;
            words[(size_t)i * stride] |= both & 0x000f000fu;
            words[(size_t)(4 + i / 2) * stride] |= (both >> 4 & 0x00030003u) << i % 2 * 2;
        }
        break;
    case 8: words[(size_t)(j / 2) * stride] |= both << (j % 2 ? 8 : 0); break;
    default: words[(size_t)j * stride] = both;
    }
}

/* The same for codes of a table: `at` is where the low bits of lo go, those of hi four further. */
static void put_table_pair(int bits, uint32_t *words, size_t stride, int j, uint32_t lo,
                           uint32_t hi)
{
    const int octet = j / 4, at = j % 4 * 8;
    const uint32_t both = (hi << 4 | lo) << at;
    if (bits == 2)
        words[(size_t)(octet / 2) * stride] |= both << octet % 2 * 2;
    else if (bits == 4 || octet < 3)
        words[(size_t)octet * stride] |= both;
    else
        for (int i = 0; i < 3; i++) words[(size_t)i * stride] |= (both >> i & 0x11111111u) << 3;
}

/* 32 codes of row r and unit u, as type/packed.h lays them out. */
static void read_unit(const bal_packed_view *v, size_t r, size_t u, uint8_t q[BAL_UNIT])
{
    const int bits = v->layout.bits;
    const uint32_t *at =
        bal_packed_codes(v, r / BAL_PANEL) + u * (size_t)bits * BAL_PANEL + r % BAL_PANEL;
    uint32_t w[8];
    for (int i = 0; i < bits; i++) w[i] = at[i * BAL_PANEL];
    for (int c = 0; c < 4; c++) {
        for (int j = 0; j < 8; j++) {
            uint32_t x;
            switch (bits) {
            case 2: x = w[j / 4] >> (8 * c + 2 * (j % 4)) & 3; break;
            case 3:
                x = j < 6 ? w[j / 2] >> (8 * c + 3 * (j % 2)) & 7
                          : (w[j - 6] >> (8 * c + 6) & 3) | (w[2] >> (8 * c + j) & 1) << 2;
                break;
            case 4: x = w[j / 2] >> (8 * c + 4 * (j % 2)) & 15; break;
            case 6:
                if (j < 6) {
                    x = w[j] >> 8 * c & 63;
                } else {
                    const uint32_t *p = w + 3 * (j - 6);
                    x = (p[0] >> (8 * c + 6) & 3) | (p[1] >> (8 * c + 6) & 3) << 2 |
                        (p[2] >> (8 * c + 6) & 3) << 4;
                }
                break;
            default: x = w[j] >> 8 * c & 255;
            }
            q[4 * j + c] = (uint8_t)x;
        }
    }
}

/* Part and row in it of row `slot_row` of a block; NULL where the block is padding. */
static const bal_tiles_part *find_row(const bal_tiles *t, const bal_tiles_part *parts, size_t block,
                                      size_t slot_row, size_t *r)
{
    if (t->paired) {
        *r = block * (BAL_TILE_ROWS / 2) + slot_row % 16;
        return *r < t->n / 2 ? parts + slot_row / 16 : NULL;
    }
    *r = block * BAL_TILE_ROWS + slot_row;
    if (*r >= t->n) return NULL;
    while (*r >= parts->n) *r -= parts++->n;
    return parts;
}

/* The words of tile `tile` that hold row slot_row for t = 0 .. 3, stride in words, start for t = 0;
 * one t is 4 words (the slots of a lane) further on. */
static uint32_t *row_words(const bal_tiles *t, void *codes, size_t tile, size_t slot_row)
{
    return (uint32_t *)codes + tile * (size_t)t->bits * 128 + slot_row % 8 * 16 + slot_row / 8;
}

enum { WORD_STRIDE = 128 }; /* from word v to v + 1 of a row: 32 lanes of 4 slots */

static void write_packed_row(const bal_tiles *t, const bal_packed_view *v, size_t r,
                             size_t slot_row, void *codes)
{
    for (size_t u = 0; u < v->layout.units; u++) {
        uint8_t q[BAL_UNIT];
        read_unit(v, r, u, q);
        uint32_t *words = row_words(t, codes, u / 4, slot_row);
        for (int p = 0; p < BAL_UNIT / 2; p++) {
            const int k = (int)(u % 4) * BAL_UNIT + 2 * p; /* within the tile */
            (t->table ? put_table_pair : put_pair)(t->bits, words + k % 8 / 2 * 4, WORD_STRIDE,
                                                   k / 8, q[2 * p], q[2 * p + 1]);
        }
    }
}

/* What stands for a group in the place of its scale: that, or its step, which f16 holds. */
static uint16_t group_factor(const bal_packed_view *v, size_t panel, size_t group, size_t lane)
{
    const uint8_t *steps = bal_packed_steps(v, panel);
    const size_t at = group * BAL_PANEL + lane;
    if (v->layout.kind == BAL_PACKED_GROUPS) return bal_packed_scales(v, panel)[at];
    if (v->layout.kind == BAL_PACKED_TWO_LEVEL) return bal_f32_to_f16(steps[at]);
    const unsigned nibbles = steps[group * (BAL_PANEL / 2) + lane % 8];
    return bal_f32_to_f16((float)bal_table_step(nibbles >> lane / 8 * 4 & 15u));
}

/* The level that stands for 0: of the table, else of the group. */
static uint8_t group_zero(const bal_packed_view *v, size_t panel, size_t group, size_t lane)
{
    if (v->layout.kind == BAL_PACKED_TABLE)
        return v->table[16] & (uint8_t)(bal_table_levels(v->layout.bits) - 1);
    return bal_packed_zeros(v, panel)[group * BAL_PANEL + lane];
}

static void write_packed_meta(const bal_tiles *t, const bal_packed_view *v, size_t r,
                              size_t slot_row, uint8_t *meta)
{
    const size_t at = slot_row % 8 * 4 + slot_row / 8, lane = r % BAL_PANEL, panel = r / BAL_PANEL;
    for (size_t i = 0; i < t->groups && i * t->group < t->k; i++) {
        const size_t from = i * t->group / BAL_UNIT / v->layout.units_per_group;
        uint8_t *group = meta + i * BAL_TILE_GROUP_BYTES;
        const uint16_t factor = group_factor(v, panel, from, lane);
        memcpy(group + 2 * at, &factor, 2);
        group[64 + at] = group_zero(v, panel, from, lane);
    }
    if (!t->stepped) return;
    const float scale = bal_f16_to_f32(bal_packed_scales(v, panel)[lane]);
    memcpy(meta + t->groups * BAL_TILE_GROUP_BYTES + 4 * slot_row, &scale, 4);
}

static float read_float(const bal_tiles_part *p, size_t i)
{
    uint16_t h;
    float f;
    if (p->type == BAL_TYPE_F32) {
        memcpy(&f, (const char *)p->w + 4 * i, 4);
        return f;
    }
    memcpy(&h, (const char *)p->w + 2 * i, 2);
    return p->type == BAL_TYPE_F16 ? bal_f16_to_f32(h) : bal_bf16_to_f32(h);
}

/* The power of two that brings `most` to [2^14, 2^15), or as near as f32 has its inverse; that of
 * cuda/stage.cuh. */
static float power_for(float most)
{
    const uint32_t e = bal_f32_bits(most) >> 23 & 255;
    return bal_f32_from_bits((e > 14 ? e - 14 : 1) << 23);
}

static void write_float_row(const bal_tiles *t, const bal_tiles_part *p, size_t r, size_t slot_row,
                            void *codes, float *scales)
{
    float most = 0;
    for (size_t k = 0; k < t->k; k++) {
        const float w = bal_f32_from_bits(bal_f32_bits(read_float(p, r * t->k + k)) & 0x7fffffffu);
        if (w > most || w != w) most = w;
    }
    const float scale = power_for(most), inverse = 1 / scale;
    scales[slot_row] = scale;
    for (size_t k = 0; k < t->k; k += 2) {
        const uint32_t lo = bal_f32_to_f16(read_float(p, r * t->k + k) * inverse);
        const uint32_t hi =
            k + 1 < t->k ? bal_f32_to_f16(read_float(p, r * t->k + k + 1) * inverse) : 0;
        put_pair(16, row_words(t, codes, k / 128, slot_row) + k % 8 / 2 * 4, WORD_STRIDE,
                 (int)(k % 128 / 8), lo, hi);
    }
}

void bal_tiles_write(const bal_tiles *t, const bal_tiles_part *parts, size_t block, void *codes,
                     void *meta)
{
    memset(codes, 0, t->block_codes);
    memset(meta, 0, t->block_meta);
    for (size_t slot_row = 0; slot_row < BAL_TILE_ROWS; slot_row++) {
        size_t r;
        const bal_tiles_part *p = find_row(t, parts, block, slot_row, &r);
        if (!p) continue;
        if (t->bits == 16) {
            write_float_row(t, p, r, slot_row, codes, meta);
        } else {
            write_packed_row(t, &p->packed, r, slot_row, codes);
            write_packed_meta(t, &p->packed, r, slot_row, meta);
        }
    }
}

/* Inputs per scale as stored, for groups of `group` inputs in a file. */
static size_t stored_group(size_t group, size_t k, size_t k_tiles)
{
    if (group == 0 || group >= k) return k_tiles * BAL_TILE_COLS;
    return group % 128 == 0 ? group : group % 64 == 0 ? 64 : 32;
}

/* Levels and zero are the first 17 bytes. */
static bool same_table(const bal_packed_view *a, const bal_packed_view *b)
{
    return memcmp(a->table, b->table, 17) == 0;
}

static void keep_table(bal_tiles *t, const bal_packed_view *v)
{
    const int mask = bal_table_levels(t->bits) - 1;
    for (int i = 0; i < 1 << t->bits; i++)
        t->level[i] = (uint8_t)((v->table[i] & mask) << (6 - t->bits));
}

static bal_status check_parts(const bal_tiles_part *parts, int n_parts, size_t k, bool paired,
                              bal_error *err)
{
    if (n_parts < 1 || k == 0) return bal_fail(err, BAL_E_ARG, "tiles of nothing");
    const bool packed = bal_type_get(parts[0].type)->packed;
    const bal_packed_layout *first = &parts[0].packed.layout;
    for (int i = 0; i < n_parts; i++) {
        const bal_packed_layout *l = &parts[i].packed.layout;
        if (parts[i].n == 0) return bal_fail(err, BAL_E_ARG, "part %d of the tiles has no rows", i);
        if (bal_type_get(parts[i].type)->packed != packed)
            return bal_fail(err, BAL_E_UNSUP, "packed and float rows in one matrix of tiles");
        if (!packed) continue;
        if (l->kind != first->kind)
            return bal_fail(err, BAL_E_UNSUP, "rows of unlike kinds in one matrix of tiles");
        if (l->kind == BAL_PACKED_TABLE && !same_table(&parts[i].packed, &parts[0].packed))
            return bal_fail(err, BAL_E_UNSUP, "rows of unlike tables in one matrix of tiles");
        if (l->k != k || l->n != parts[i].n)
            return bal_fail(err, BAL_E_ARG, "part %d of the tiles is %zu x %zu, expected %zu x %zu",
                            i, l->n, l->k, parts[i].n, k);
        if (l->bits != first->bits || l->units_per_group != first->units_per_group)
            return bal_fail(
                err, BAL_E_UNSUP,
                "rows of %d bits, groups of %zu beside rows of %d bits, groups of %zu in one "
                "matrix of tiles",
                l->bits, l->group, first->bits, first->group);
    }
    if (paired && (n_parts != 2 || parts[0].n != parts[1].n))
        return bal_fail(err, BAL_E_ARG, "paired tiles are two parts of equal rows");
    return BAL_OK;
}

bal_status bal_tiles_init(bal_tiles *t, const bal_tiles_part *parts, int n_parts, size_t k,
                          bool paired, bal_error *err)
{
    memset(t, 0, sizeof *t);
    BAL_TRY(check_parts(parts, n_parts, k, paired, err));
    size_t n = 0, total;
    for (int i = 0; i < n_parts; i++)
        if (!bal_size_add(n, parts[i].n, &n)) return bal_fail(err, BAL_E_ARG, "too many rows");
    /* the largest product below: 16 bits for every element, with room for padding */
    if (n > SIZE_MAX / 2 || k > SIZE_MAX / 2 || !bal_size_mul(n + 31, k + 127, &total) ||
        !bal_size_mul(total, 4, &total))
        return bal_fail(err, BAL_E_ARG, "a matrix of %zu x %zu does not fit the address space", n,
                        k);
    const bool packed = bal_type_get(parts[0].type)->packed;
    t->bits = packed ? parts[0].packed.layout.bits : 16;
    t->paired = paired;
    t->n = n;
    t->k = k;
    t->k_tiles = (k + BAL_TILE_COLS - 1) / BAL_TILE_COLS;
    t->row_blocks = paired ? (n / 2 + 15) / 16 : (n + 31) / 32;
    t->block_codes = t->k_tiles * (size_t)t->bits * 512;
    t->block_meta = BAL_TILE_SCALE_BYTES;
    if (packed) {
        t->group = stored_group(parts[0].packed.layout.group, k, t->k_tiles);
        t->groups = (t->k_tiles * BAL_TILE_COLS + t->group - 1) / t->group;
        t->stepped = parts[0].packed.layout.kind != BAL_PACKED_GROUPS;
        t->table = parts[0].packed.layout.kind == BAL_PACKED_TABLE;
        if (t->table) keep_table(t, &parts[0].packed);
        t->block_meta = t->groups * BAL_TILE_GROUP_BYTES + (t->stepped ? BAL_TILE_SCALE_BYTES : 0);
    }
    return BAL_OK;
}
