/* SPDX-License-Identifier: MIT
 * Layout arithmetic and the scalar encoder and decoder of packed weights. Written to be read: the
 * packed.h byte map is the specification, fast paths live in kernel/. */
#include "type/packed.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/half.h"
#include "base/size.h"

static_assert(BAL_UNIT % 4 == 0, "a unit is whole quads");
static_assert(BAL_PANEL * sizeof(uint32_t) == BAL_PACKED_ALIGN, "a word row is one section line");
#if defined(__BYTE_ORDER__)
static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words are read as they lie in the file");
#endif

/* The letter of each kind in layout ids. */
static const char KIND_LETTERS[] = "wtd";

enum { SECTIONS = 5 };

/* Sizes of the sections, each rounded up to 64 bytes; those that the kind lacks are empty. */
static bool section_sizes(const bal_packed_layout *l, size_t size[SECTIONS])
{
    size_t pairs;
    bool ok = bal_size_mul(l->panels, (size_t)l->bits * BAL_PANEL * sizeof(uint32_t), &size[0]);
    ok = ok && bal_size_mul(size[0], l->units, &size[0]);
    ok = ok && bal_size_mul(l->panels, l->groups, &pairs);
    if (!ok || pairs > (SIZE_MAX - BAL_PACKED_ALIGN) / (BAL_PANEL * sizeof(uint16_t))) return false;
    const bool table = l->kind == BAL_PACKED_TABLE, rows = l->kind != BAL_PACKED_GROUPS;
    size[1] = (rows ? l->panels : pairs) * BAL_PANEL * sizeof(uint16_t);
    size[2] = rows ? pairs * bal_packed_step_bytes(l) : 0;
    size[3] = table ? 0 : pairs * BAL_PANEL;
    size[4] = table ? BAL_PACKED_ALIGN : 0;
    for (int i = 1; i < SECTIONS; i++) size[i] = bal_round_up(size[i], BAL_PACKED_ALIGN);
    return true;
}

static bool known_bits(bal_packed_kind kind, int bits)
{
    if (kind == BAL_PACKED_TWO_LEVEL) return bits == 4;
    if (kind == BAL_PACKED_TABLE) return bits >= 2 && bits <= 4;
    return bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8;
}

static bal_status check_bits(bal_packed_format f, bal_error *err)
{
    if (known_bits(f.kind, f.bits)) return BAL_OK;
    if (f.kind == BAL_PACKED_GROUPS)
        return bal_fail(err, BAL_E_ARG, "packed weights of %d bits; expected 2, 3, 4, 6 or 8",
                        f.bits);
    const bool table = f.kind == BAL_PACKED_TABLE;
    return bal_fail(err, BAL_E_ARG, "%s of %d bits; expected %s", table ? "a table" : "two levels",
                    f.bits, table ? "2, 3 or 4" : "4");
}

static bool place_sections(bal_packed_layout *l)
{
    size_t size[SECTIONS];
    size_t *const end[SECTIONS] = {&l->scales_offset, &l->steps_offset, &l->zeros_offset,
                                   &l->table_offset, &l->n_bytes};
    bool ok = section_sizes(l, size);
    size_t at = 0;
    for (int i = 0; ok && i < SECTIONS; i++) {
        ok = bal_size_add(at, size[i], end[i]);
        at = *end[i];
    }
    return ok;
}

bal_status bal_packed_layout_of(bal_packed_layout *l, bal_packed_format f, size_t n, size_t k,
                                bal_error *err)
{
    memset(l, 0, sizeof *l);
    BAL_TRY(check_bits(f, err));
    if (n == 0 || k == 0 || n > SIZE_MAX / 2 || k > SIZE_MAX / 2)
        return bal_fail(err, BAL_E_ARG, "packed weights of %zu x %zu are out of range", n, k);
    if (f.group % BAL_UNIT)
        return bal_fail(err, BAL_E_ARG, "group of %zu inputs; expected a multiple of %d, or 0",
                        f.group, BAL_UNIT);
    bal_packed_layout t = {.kind = f.kind, .bits = f.bits, .n = n, .k = k, .group = f.group};
    t.panels = bal_ceil_div(n, BAL_PANEL);
    t.units = bal_ceil_div(k, BAL_UNIT);
    t.units_per_group = f.group == 0 || f.group >= k ? t.units : f.group / BAL_UNIT;
    t.groups = bal_ceil_div(t.units, t.units_per_group);
    if (!place_sections(&t))
        return bal_fail(err, BAL_E_ARG, "packed weights of %zu x %zu at %d bits do not fit memory",
                        n, k, f.bits);
    *l = t;
    return BAL_OK;
}

bal_status bal_packed_layout_init(bal_packed_layout *l, int bits, size_t n, size_t k, size_t group,
                                  bal_error *err)
{
    return bal_packed_layout_of(l, (bal_packed_format){BAL_PACKED_GROUPS, bits, group}, n, k, err);
}

void bal_packed_layout_id(const bal_packed_layout *l, char out[BAL_PACKED_ID_SIZE])
{
    snprintf(out, BAL_PACKED_ID_SIZE, "%c%dg%zu.p%du%d.v1", KIND_LETTERS[l->kind], l->bits,
             l->group, BAL_PANEL, BAL_UNIT);
}

bal_status bal_packed_id_parse(const char *id, bal_packed_format *out, bal_error *err)
{
    *out = (bal_packed_format){0};
    bal_packed_layout l = {0};
    uint32_t g = 0;
    char again[BAL_PACKED_ID_SIZE] = "";
    const char *letter = id[0] ? strchr(KIND_LETTERS, id[0]) : NULL;
    if (letter && sscanf(id + 1, "%1dg%9" SCNu32 ".", &l.bits, &g) == 2) {
        l.kind = (bal_packed_kind)(letter - KIND_LETTERS);
        l.group = g;
        if (known_bits(l.kind, l.bits) && g % BAL_UNIT == 0) bal_packed_layout_id(&l, again);
    }
    if (!again[0] || strcmp(id, again))
        return bal_fail(
            err, BAL_E_UNSUP,
            "layout id '%s' is not known to this build; expected w{2,3,4,6,8}gG.p%du%d.v1,"
            " t{2,3,4}gG. or d4gG. likewise, with G a multiple of %d",
            id, BAL_PANEL, BAL_UNIT, BAL_UNIT);
    *out = (bal_packed_format){l.kind, l.bits, g};
    return BAL_OK;
}

bal_status bal_packed_view_init(bal_packed_view *v, const bal_packed_layout *layout,
                                const void *data, size_t n_bytes, bal_error *err)
{
    memset(v, 0, sizeof *v);
    if (n_bytes != layout->n_bytes)
        return bal_fail(err, BAL_E_FORMAT,
                        "packed weights of %zu x %zu at %d bits, group %zu: found %zu bytes,"
                        " expected %zu",
                        layout->n, layout->k, layout->bits, layout->group, n_bytes,
                        layout->n_bytes);
    if ((uintptr_t)data % sizeof(uint32_t))
        return bal_fail(err, BAL_E_FORMAT, "packed weights stand at address %p, not 4-byte aligned",
                        data);
    const uint8_t *bytes = data;
    v->layout = *layout;
    v->codes = (const void *)(bytes + layout->codes_offset);
    v->scales = (const void *)(bytes + layout->scales_offset);
    if (layout->kind != BAL_PACKED_GROUPS) v->steps = bytes + layout->steps_offset;
    if (layout->kind != BAL_PACKED_TABLE) v->zeros = bytes + layout->zeros_offset;
    if (layout->kind == BAL_PACKED_TABLE) v->table = bytes + layout->table_offset;
    return BAL_OK;
}

/* ---- Bits of one lane and unit ------------------------------------------------------------- */

/* Puts bits [from, from + count) of `code` at bit `at` of byte `byte` of word *w. */
static void put(uint32_t *w, int byte, int at, uint32_t code, int from, int count)
{
    *w |= (code >> from & ((1u << count) - 1)) << (8 * byte + at);
}

static uint32_t take(uint32_t w, int byte, int at, int count)
{
    return w >> (8 * byte + at) & ((1u << count) - 1);
}

/* word[0..bits) of a lane from its 32 codes */
static void encode_unit(int bits, const uint8_t code[BAL_UNIT], uint32_t *word)
{
    memset(word, 0, (size_t)bits * sizeof *word);
    for (int k = 0; k < BAL_UNIT; k++) {
        const int j = k / 4, c = k % 4, per_byte = 8 / bits;
        if (bits == 3 && j >= 6) {
            put(&word[j - 6], c, 6, code[k], 0, 2);
            put(&word[2], c, j, code[k], 2, 1);
        } else if (bits == 6 && j >= 6) {
            for (int i = 0; i < 3; i++) put(&word[3 * (j - 6) + i], c, 6, code[k] >> 2 * i, 0, 2);
        } else {
            put(&word[j / per_byte], c, bits * (j % per_byte), code[k], 0, bits);
        }
    }
}

/* The code of input k (0..31) from words that lie `stride` apart. */
static uint8_t decode_one(int bits, const uint32_t *word, size_t stride, int k)
{
    const int j = k / 4, c = k % 4, per_byte = 8 / bits;
    if (bits == 3 && j >= 6)
        return (uint8_t)(take(word[(size_t)(j - 6) * stride], c, 6, 2) |
                         take(word[2 * stride], c, j, 1) << 2);
    if (bits == 6 && j >= 6) {
        const uint32_t *spare = word + (size_t)(3 * (j - 6)) * stride;
        return (uint8_t)(take(spare[0], c, 6, 2) | take(spare[stride], c, 6, 2) << 2 |
                         take(spare[2 * stride], c, 6, 2) << 4);
    }
    return (uint8_t)take(word[(size_t)(j / per_byte) * stride], c, bits * (j % per_byte), bits);
}

/* ---- Whole matrices ------------------------------------------------------------------------ */

static bal_status check_range(const char *what, const uint8_t *v, size_t rows, size_t cols,
                              int bits, bal_error *err)
{
    const unsigned top = (1u << bits) - 1;
    for (size_t i = 0; i < rows * cols; i++)
        if (v[i] > top)
            return bal_fail(err, BAL_E_ARG, "%s at row %zu, column %zu is %u; expected at most %u",
                            what, i / cols, i % cols, v[i], top);
    return BAL_OK;
}

static void pack_row(const bal_packed_layout *l, size_t r, const uint8_t *codes, uint32_t *panel)
{
    for (size_t u = 0; u < l->units; u++) {
        uint8_t unit[BAL_UNIT] = {0};
        uint32_t word[8];
        memcpy(unit, codes + u * BAL_UNIT, bal_min(BAL_UNIT, l->k - u * BAL_UNIT));
        encode_unit(l->bits, unit, word);
        for (int i = 0; i < l->bits; i++)
            panel[(u * (size_t)l->bits + (size_t)i) * BAL_PANEL + r % BAL_PANEL] = word[i];
    }
}

static bal_status check_table(const bal_packed_layout *l, const bal_packed_parts *p, bal_error *err)
{
    const int top = bal_table_levels(l->bits) - 1;
    for (int i = 0; i < 16; i++)
        if (p->table->level[i] > (i < 1 << l->bits ? top : 0))
            return bal_fail(err, BAL_E_ARG, "level %d of a table is %d; expected at most %d", i,
                            p->table->level[i], i < 1 << l->bits ? top : 0);
    if (p->table->zero > top)
        return bal_fail(err, BAL_E_ARG, "the zero of a table is %d; expected at most %d",
                        p->table->zero, top);
    return check_range("step", p->steps, l->n, l->groups, 4, err);
}

/* Steps of two levels: what kernels may expand to int8 has to fit. */
static bal_status check_expanded(const bal_packed_layout *l, const bal_packed_parts *p,
                                 bal_error *err)
{
    for (size_t r = 0; r < l->n; r++)
        for (size_t k = 0; k < l->k; k++) {
            const size_t g = r * l->groups + k / BAL_UNIT / l->units_per_group;
            const int v = (p->codes[r * l->k + k] - p->zeros[g]) * p->steps[g];
            if (v < INT8_MIN || v > INT8_MAX)
                return bal_fail(err, BAL_E_ARG,
                                "code at row %zu, column %zu: (%d - %d) * %d is no int8", r, k,
                                p->codes[r * l->k + k], p->zeros[g], p->steps[g]);
        }
    return BAL_OK;
}

static bal_status check_parts(const bal_packed_layout *l, const bal_packed_parts *p, bal_error *err)
{
    BAL_TRY(check_range("code", p->codes, l->n, l->k, l->bits, err));
    if (l->kind == BAL_PACKED_TABLE) return check_table(l, p, err);
    BAL_TRY(check_range("zero point", p->zeros, l->n, l->groups, l->bits, err));
    return l->kind == BAL_PACKED_TWO_LEVEL ? check_expanded(l, p, err) : BAL_OK;
}

/* What stands beside the codes of row r. */
static void pack_sides(const bal_packed_layout *l, size_t r, const bal_packed_parts *p,
                       uint8_t *out)
{
    const size_t panel = r / BAL_PANEL, lane = r % BAL_PANEL, n_scales = bal_packed_scale_count(l);
    uint16_t *scales = (void *)(out + l->scales_offset);
    for (size_t i = 0; i < n_scales; i++)
        scales[(panel * n_scales + i) * BAL_PANEL + lane] = p->scales[r * n_scales + i];
    for (size_t g = 0; g < l->groups; g++) {
        const size_t at = panel * l->groups + g, from = r * l->groups + g;
        uint8_t *steps = out + l->steps_offset + at * bal_packed_step_bytes(l);
        if (l->kind == BAL_PACKED_TABLE)
            steps[lane % 8] |= (uint8_t)(p->steps[from] << 4 * (lane / 8));
        if (l->kind == BAL_PACKED_TWO_LEVEL) steps[lane] = p->steps[from];
        if (l->kind != BAL_PACKED_TABLE)
            out[l->zeros_offset + at * BAL_PANEL + lane] = p->zeros[from];
    }
}

bal_status bal_pack_parts(const bal_packed_layout *l, const bal_packed_parts *p, uint8_t *out,
                          bal_error *err)
{
    assert((uintptr_t)out % sizeof(uint32_t) == 0);
    BAL_TRY(check_parts(l, p, err));
    memset(out, 0, l->n_bytes);
    uint32_t *codes = (void *)(out + l->codes_offset);
    for (size_t r = 0; r < l->n; r++) {
        const size_t panel = r / BAL_PANEL * l->units * (size_t)l->bits * BAL_PANEL;
        pack_row(l, r, p->codes + r * l->k, codes + panel);
        pack_sides(l, r, p, out);
    }
    if (l->kind == BAL_PACKED_TABLE) {
        memcpy(out + l->table_offset, p->table->level, sizeof p->table->level);
        out[l->table_offset + sizeof p->table->level] = p->table->zero;
    }
    return BAL_OK;
}

bal_status bal_pack(const bal_packed_layout *l, const uint8_t *codes, const uint16_t *scales,
                    const uint8_t *zeros, uint8_t *out, bal_error *err)
{
    assert(l->kind == BAL_PACKED_GROUPS);
    return bal_pack_parts(l, &(bal_packed_parts){.codes = codes, .scales = scales, .zeros = zeros},
                          out, err);
}

void bal_unpack(const bal_packed_view *v, uint8_t *codes, uint16_t *scales, uint8_t *zeros)
{
    const bal_packed_layout *l = &v->layout;
    const size_t n_scales = bal_packed_scale_count(l);
    for (size_t r = 0; r < l->n; r++) {
        const size_t lane = r % BAL_PANEL, p = r / BAL_PANEL;
        const uint32_t *panel = bal_packed_codes(v, p);
        for (size_t k = 0; codes && k < l->k; k++)
            codes[r * l->k + k] =
                decode_one(l->bits, panel + k / BAL_UNIT * (size_t)l->bits * BAL_PANEL + lane,
                           BAL_PANEL, (int)(k % BAL_UNIT));
        for (size_t i = 0; scales && i < n_scales; i++)
            scales[r * n_scales + i] = bal_packed_scales(v, p)[i * BAL_PANEL + lane];
        for (size_t g = 0; zeros && v->zeros && g < l->groups; g++)
            zeros[r * l->groups + g] = bal_packed_zeros(v, p)[g * BAL_PANEL + lane];
    }
}

/* What the codes of a lane and group mean: (level - zero) * scale, level the code or T[code]. */
typedef struct meaning {
    float scale;
    int zero, mask;
    const uint8_t *table;
} meaning;

static meaning meaning_of(const bal_packed_view *v, size_t panel, size_t g, size_t lane)
{
    const bal_packed_layout *l = &v->layout;
    const uint16_t *scales = bal_packed_scales(v, panel);
    const uint8_t *steps = bal_packed_steps(v, panel), *zeros = bal_packed_zeros(v, panel);
    const float first = bal_f16_to_f32(scales[lane]);
    if (l->kind == BAL_PACKED_GROUPS)
        return (meaning){.scale = bal_f16_to_f32(scales[g * BAL_PANEL + lane]),
                         .zero = zeros[g * BAL_PANEL + lane]};
    if (l->kind == BAL_PACKED_TWO_LEVEL)
        return (meaning){.scale = first * (float)steps[g * BAL_PANEL + lane],
                         .zero = zeros[g * BAL_PANEL + lane]};
    const unsigned step = steps[g * 8 + lane % 8] >> 4 * (lane / 8) & 15u;
    const int mask = bal_table_levels(l->bits) - 1;
    return (meaning){first * (float)bal_table_step(step), v->table[16] & mask, mask, v->table};
}

void bal_packed_row(const bal_packed_view *v, size_t r, float *out)
{
    const bal_packed_layout *l = &v->layout;
    assert(r < l->n);
    const size_t lane = r % BAL_PANEL, p = r / BAL_PANEL;
    const uint32_t *panel = bal_packed_codes(v, p);
    for (size_t k = 0; k < l->k; k++) {
        const size_t u = k / BAL_UNIT;
        const meaning m = meaning_of(v, p, u / l->units_per_group, lane);
        const int q = decode_one(l->bits, panel + u * (size_t)l->bits * BAL_PANEL + lane, BAL_PANEL,
                                 (int)(k % BAL_UNIT));
        const int level = m.table ? m.table[q] & m.mask : q;
        out[k] = (float)(level - m.zero) * m.scale;
    }
}
