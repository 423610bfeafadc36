/* SPDX-License-Identifier: MIT
 * A tile is made of the panels that its rows lie in, all rows of a panel at once: four codes that
 * are the bytes of a word become halves, in pairs, and are shifted into their places. Most loops
 * here run over plain arrays of constant length without branches, which compilers turn into vector
 * instructions; first values are assigned, since clearing costs as much as the loops do. The first
 * of two halves or four bytes is the lowest of its word: hosts of GPUs are little-endian, as files
 * are.
 */
#include "cuda/repack.h"

#include <string.h>

#include "base/half.h"
#include "base/size.h"

enum {
    TILE_UNITS = BAL_TILE_COLS / BAL_UNIT,
    UNIT_PAIRS = 4,        /* of each t of cuda/tiles.h, whose pairs j count through a tile */
    WORD_STRIDE = 128,     /* from word v to v + 1 of a row in a tile: 32 lanes of 4 slots */
    PAIRS = 4 * BAL_PANEL, /* words of one number for all t and all rows of a panel */
    WITHOUT_END = 255 - 14 /* exponent of the scale of a row with infinity or NaN in it */
};

/* Pairs of one number j of a panel, for all t: [t / 2][row][t % 2], each as in a word of a tile.
 * Those of one t / 2 are a quad of a unit (type/packed.h), its bytes made halves. */
typedef union pairs {
    uint32_t w[PAIRS];
    uint16_t halves[2 * PAIRS];
} pairs;

/* What a tile has for a panel: words v, each in the order of pairs. */
typedef struct panel_words {
    uint32_t w[8][PAIRS];
    unsigned begun; /* bit v: something is in w[v] already */
} panel_words;

/* A quad: bits [first, first + n) of each byte of a panel's words. */
static void take(uint32_t *restrict quad, const uint32_t *restrict w, int first, int n)
{
    const uint32_t mask = ((1u << n) - 1) * 0x01010101u;
    for (int i = 0; i < BAL_PANEL; i++) quad[i] = w[i] >> first & mask;
}

/* More of it: those bits to bit `bit` of its bytes. */
static void take_more(uint32_t *restrict quad, const uint32_t *restrict w, int first, int n,
                      int bit)
{
    const uint32_t mask = ((1u << n) - 1) * 0x01010101u;
    for (int i = 0; i < BAL_PANEL; i++) quad[i] |= (w[i] >> first & mask) << bit;
}

/* Quad j of a unit, as type/packed.h lays it out. */
static void read_quad(int bits, const uint32_t *w, int j, uint32_t *quad)
{
    const int i = j - 6; /* the quads 6 and 7 are what others leave room for */
    switch (bits) {
    case 2: take(quad, w + j / 4 * BAL_PANEL, j % 4 * 2, 2); break;
    case 3:
        if (i < 0) {
            take(quad, w + j / 2 * BAL_PANEL, j % 2 * 3, 3);
        } else {
            take(quad, w + i * BAL_PANEL, 6, 2);
            take_more(quad, w + 2 * BAL_PANEL, j, 1, 2);
        }
        break;
    case 4: take(quad, w + j / 2 * BAL_PANEL, j % 2 * 4, 4); break;
    case 6:
        if (i < 0) {
            take(quad, w + j * BAL_PANEL, 0, 6);
        } else {
            take(quad, w + 3 * i * BAL_PANEL, 6, 2);
            for (int v = 1; v < 3; v++) take_more(quad, w + (3 * i + v) * BAL_PANEL, 6, 2, 2 * v);
        }
        break;
    default: take(quad, w + j * BAL_PANEL, 0, 8);
    }
}

/* Pairs j of the unit at w, j < UNIT_PAIRS, of the quads 2 j and 2 j + 1. */
static void read_pairs(int bits, const uint32_t *w, int j, pairs *out)
{
    uint32_t quads[2 * BAL_PANEL];
    uint8_t bytes[sizeof quads];
    for (int i = 0; i < 2; i++) read_quad(bits, w, 2 * j + i, quads + i * BAL_PANEL);
    memcpy(bytes, quads, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++) out->halves[i] = bytes[i];
}

/* The pairs, shifted to `bit`, into word v. */
static void put(panel_words *words, int v, const pairs *p, int bit)
{
    uint32_t *restrict to = words->w[v];
    if (words->begun >> v & 1)
        for (int i = 0; i < PAIRS; i++) to[i] |= p->w[i] << bit;
    else
        for (int i = 0; i < PAIRS; i++) to[i] = p->w[i] << bit;
    words->begun |= 1u << v;
}

/* The same of bits [first, first + n) of them. */
static void put_part(panel_words *words, int v, const pairs *p, int bit, int first, int n)
{
    const uint32_t mask = ((1u << n) - 1) * 0x00010001u;
    pairs part;
    for (int i = 0; i < PAIRS; i++) part.w[i] = p->w[i] >> first & mask;
    put(words, v, &part, bit);
}

/* Pairs j into the words where cuda/tiles.h has them. */
static void put_pairs(int bits, panel_words *words, int j, const pairs *p)
{
    static const uint8_t bits2[8] = {6, 4, 2, 0, 10, 8, 14, 12}, bits4[4] = {8, 4, 12, 0};
    static const uint8_t words3[15] = {0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 1, 2, 2, 2, 2};
    static const uint8_t bits3[15] = {7, 4, 13, 10, 1, 4, 7, 10, 13, 4, 1, 10, 7, 1, 13};
    const int i = j - 12; /* with 6 bits the pairs from 12 on are what others leave room for */
    switch (bits) {
    case 2: put(words, j / 8, p, bits2[j % 8]); break;
    case 3:
        if (j < 15) put(words, words3[j], p, bits3[j]);
        for (int v = 0; j == 15 && v < 3; v++) put_part(words, v, p, 0, 2 - v, 1);
        break;
    case 4: put(words, j / 4, p, bits4[j % 4]); break;
    case 6:
        if (i < 0) {
            put(words, j / 2, p, j % 2 ? 10 : 4);
        } else {
            put_part(words, i, p, 0, 0, 4);
            put_part(words, 4 + i / 2, p, i % 2 * 2, 4, 2);
        }
        break;
    default: put(words, j / 2, p, j % 2 * 8);
    }
}

/* The same of a table's codes: a pair is two nibbles of a byte, each bit by itself where nibbles
 * have only their highest left. */
static void put_table_pairs(int bits, panel_words *words, int j, const pairs *p)
{
    const int octet = j / 4, at = j % 4 * 8;
    pairs bytes, part;
    for (int i = 0; i < PAIRS; i++) bytes.w[i] = (p->w[i] | p->w[i] >> 12) & 0xff;
    if (bits == 2) {
        put(words, octet / 2, &bytes, at + octet % 2 * 2);
    } else if (bits == 4 || octet < 3) {
        put(words, octet, &bytes, at);
    } else {
        for (int v = 0; v < 3; v++) {
            for (int i = 0; i < PAIRS; i++) part.w[i] = bytes.w[i] >> v & 0x11;
            put(words, v, &part, at + 3);
        }
    }
}

/* All words that tile `tile` has for panel `panel`. */
static void read_panel(const bal_packed_view *v, size_t panel, size_t tile, panel_words *words)
{
    const uint32_t *codes = bal_packed_codes(v, panel);
    const int bits = v->layout.bits;
    words->begun = 0;
    for (int j = 0; j < TILE_UNITS * UNIT_PAIRS; j++) {
        const size_t u = tile * TILE_UNITS + (size_t)j / UNIT_PAIRS;
        pairs p;
        if (u < v->layout.units)
            read_pairs(bits, codes + u * (size_t)bits * BAL_PANEL, j % UNIT_PAIRS, &p);
        else
            memset(&p, 0, sizeof p); /* inputs that pad */
        (v->layout.kind == BAL_PACKED_TABLE ? put_table_pairs : put_pairs)(bits, words, j, &p);
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

/* Rows of a block that follow each other in one panel of a part. */
typedef struct run {
    const bal_packed_view *v;
    size_t panel, lane, slot_row, n;
} run;

static int find_runs(const bal_tiles *t, const bal_tiles_part *parts, size_t block,
                     run runs[BAL_TILE_ROWS])
{
    int n = 0;
    for (size_t slot_row = 0, r; slot_row < BAL_TILE_ROWS; slot_row++) {
        const bal_tiles_part *p = find_row(t, parts, block, slot_row, &r);
        if (!p) continue;
        if (n == 0 || r % BAL_PANEL == 0) { /* as at the first row of a part */
            const run begun = {&p->packed, r / BAL_PANEL, r % BAL_PANEL, slot_row, 0};
            runs[n++] = begun;
        }
        runs[n - 1].n++;
    }
    return n;
}

/* The words of a run's rows to their places in a tile. */
static void scatter(const run *r, int bits, const panel_words *words, uint32_t *tile)
{
    for (size_t i = 0; i < r->n; i++) {
        const size_t slot_row = r->slot_row + i;
        uint32_t *to = tile + slot_row % 8 * 16 + slot_row / 8;
        for (int v = 0; v < bits; v++, to += WORD_STRIDE) {
            const uint32_t *from = words->w[v] + (r->lane + i) * 2;
            for (int t = 0; t < 4; t++) to[4 * t] = from[t / 2 * (PAIRS / 2) + t % 2];
        }
    }
}

/* Tile by tile, so that what several panels write to a cache line is written at once. */
static void write_packed_codes(const bal_tiles *t, const bal_tiles_part *parts, size_t block,
                               uint32_t *codes)
{
    run runs[BAL_TILE_ROWS];
    panel_words words;
    const int n = find_runs(t, parts, block, runs);
    for (size_t tile = 0; tile < t->k_tiles; tile++) {
        for (int i = 0; i < n; i++) {
            read_panel(runs[i].v, runs[i].panel, tile, &words);
            scatter(&runs[i], t->bits, &words, codes + tile * (size_t)t->bits * WORD_STRIDE);
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

/* The bits of the largest magnitude among n numbers of 16 bits, of either kind: the order of bits
 * is that of the numbers, and infinity and NaN are above all. */
static uint16_t most_of_16(const char *w, size_t n)
{
    int16_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint16_t h;
        memcpy(&h, w + 2 * i, 2);
        const int16_t mag = h & 0x7fff;
        most = mag > most ? mag : most;
    }
    return (uint16_t)most;
}

static uint32_t most_of_32(const char *w, size_t n)
{
    int32_t most = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t u;
        memcpy(&u, w + 4 * i, 4);
        const int32_t mag = u & 0x7fffffff;
        most = mag > most ? mag : most;
    }
    return (uint32_t)most;
}

/* The exponent, as f32 keeps it, of the power of two that brings the largest of a row of k to
 * [2^14, 2^15), or as near as f32 has its inverse; that of cuda/stage.cuh. */
static uint32_t row_exponent(bal_type type, const char *w, size_t k)
{
    float most;
    if (type == BAL_TYPE_F32)
        most = bal_f32_from_bits(most_of_32(w, k));
    else if (type == BAL_TYPE_F16)
        most = bal_f16_to_f32(most_of_16(w, k));
    else
        most = bal_bf16_to_f32(most_of_16(w, k));
    const uint32_t e = bal_f32_bits(most) >> 23;
    return e > 14 ? e - 14 : 1;
}

/* A row of floats and the exponent of its scale; w NULL where the block pads. */
typedef struct float_row {
    bal_type type;
    const char *w;
    uint32_t exponent;
} float_row;

static float_row float_row_of(const bal_tiles *t, const bal_tiles_part *p, size_t r)
{
    float_row row = {0};
    if (!p) return row;
    row.type = p->type;
    row.w = (const char *)p->w + r * t->k * (p->type == BAL_TYPE_F32 ? 4 : 2);
    row.exponent = row_exponent(row.type, row.w, t->k);
    return row;
}

/* What a tile has for one of its rows: f16, as pairs. */
typedef union row_tile {
    uint16_t halves[BAL_TILE_COLS];
    uint32_t w[BAL_TILE_COLS / 2];
} row_tile;

/* Inputs `from` on of a row of 16-bit floats, where to scale them is to shift their exponents: each
 * is zero, or neither is subnormal nor becomes so. False, and nothing of use in out, where that is
 * not so. */
static bool shift_halves(const float_row *row, size_t from, row_tile *out)
{
    const bool f16 = row->type == BAL_TYPE_F16;
    const int one = f16 ? 1 << 10 : 1 << 7; /* of an exponent */
    const int by = ((int)row->exponent - (f16 ? 127 : 15)) * one;
    const int16_t least = (int16_t)(by > 0 ? by + one : one), widen = f16 ? 1 : 1 << 3;
    const uint16_t less = (uint16_t)by; /* all here is modulo 2^16: eight to a vector */
    int16_t small = 0;
    for (int i = 0; i < BAL_TILE_COLS; i++) {
        uint16_t h;
        memcpy(&h, row->w + 2 * (from + (size_t)i), 2);
        const int16_t mag = h & 0x7fff, any = -(mag != 0);
        small |= any & -(mag < least);
        out->halves[i] = (uint16_t)((h & 0x8000) | ((mag - less) * widen & any));
    }
    return !small;
}

static float read_float(bal_type type, const char *w, size_t i)
{
    uint16_t h;
    float f;
    if (type == BAL_TYPE_F32) {
        memcpy(&f, w + 4 * i, 4);
        return f;
    }
    memcpy(&h, w + 2 * i, 2);
    return type == BAL_TYPE_F16 ? bal_f16_to_f32(h) : bal_bf16_to_f32(h);
}

/* bal_f32_to_f16 of |x| < 2^15 without branches. Next to 2^13 times the power of two at or below
 * |x|, or at least 2^-14, f32 has the steps that f16 has at x: the sum's low bits are the
 * significand, rounded. */
static inline uint32_t half_of(float x)
{
    const uint32_t u = bal_f32_bits(x), exponent = u & 0x7f800000;
    const uint32_t e = (int32_t)exponent > 0x38800000 ? exponent : 0x38800000;
    const uint32_t base = e + (13 << 23);
    const float sum = bal_f32_from_bits(u & 0x7fffffff) + bal_f32_from_bits(base);
    return (u >> 16 & 0x8000) + ((e - 0x38800000) >> 13) + (bal_f32_bits(sum) - base);
}

/* n <= BAL_TILE_COLS inputs `from` on of any row, scaled; those that pad are 0. */
static void scale_floats(const float_row *row, size_t from, size_t n, row_tile *out)
{
    const float inverse = 1 / bal_f32_from_bits(row->exponent << 23);
    float x[BAL_TILE_COLS];
    for (size_t i = 0; i < n; i++) x[i] = read_float(row->type, row->w, from + i) * inverse;
    for (size_t i = n; i < BAL_TILE_COLS; i++) x[i] = 0;
    if (row->exponent == WITHOUT_END)
        for (int i = 0; i < BAL_TILE_COLS; i++) out->halves[i] = bal_f32_to_f16(x[i]);
    else
        for (int i = 0; i < BAL_TILE_COLS / 2; i++)
            out->w[i] = half_of(x[2 * i]) | half_of(x[2 * i + 1]) << 16;
}

/* Inputs `from` on of a row of k into a tile; `to` is the row's first word there. */
static void write_float_tile(const float_row *row, size_t from, size_t k, uint32_t *to)
{
    const size_t n = k - from < BAL_TILE_COLS ? k - from : BAL_TILE_COLS;
    const bool halves = row->type != BAL_TYPE_F32 && row->exponent != WITHOUT_END;
    row_tile out;
    if (!halves || n < BAL_TILE_COLS || !shift_halves(row, from, &out))
        scale_floats(row, from, n, &out);
    for (int j = 0; j < BAL_TILE_COLS / 8; j++)
        for (int i = 0; i < 4; i++) to[j * WORD_STRIDE + 4 * i] = out.w[4 * j + i];
}

/* Scales first, then tile by tile as with codes. */
static void write_float_block(const bal_tiles *t, const bal_tiles_part *parts, size_t block,
                              uint32_t *codes, float *scales)
{
    float_row rows[BAL_TILE_ROWS];
    for (size_t i = 0; i < BAL_TILE_ROWS; i++) {
        size_t r;
        const bal_tiles_part *p = find_row(t, parts, block, i, &r);
        rows[i] = float_row_of(t, p, r);
        scales[i] = bal_f32_from_bits(rows[i].exponent << 23); /* 0 where the block pads */
    }
    for (size_t from = 0; from < t->k; from += BAL_TILE_COLS, codes += 16 * WORD_STRIDE)
        for (size_t i = 0; i < BAL_TILE_ROWS; i++)
            if (rows[i].w) write_float_tile(&rows[i], from, t->k, codes + i % 8 * 16 + i / 8);
}

void bal_tiles_write(const bal_tiles *t, const bal_tiles_part *parts, size_t block, void *codes,
                     void *meta)
{
    size_t r;
    const bool pads = !find_row(t, parts, block, BAL_TILE_ROWS - 1, &r);
    if (pads) memset(codes, 0, t->block_codes); /* otherwise every word is written */
    memset(meta, 0, t->block_meta);
    if (t->bits == 16) {
        write_float_block(t, parts, block, codes, meta);
        return;
    }
    write_packed_codes(t, parts, block, codes);
    for (size_t slot_row = 0; slot_row < BAL_TILE_ROWS; slot_row++) {
        const bal_tiles_part *p = find_row(t, parts, block, slot_row, &r);
        if (p) write_packed_meta(t, &p->packed, r, slot_row, meta);
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
