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

/* Sizes of the three sections, each rounded up to 64 bytes. */
static bool section_sizes(const bal_packed_layout *l, size_t size[3])
{
    size_t lanes, side;
    bool ok = bal_size_mul(l->panels, (size_t)l->bits * BAL_PANEL * sizeof(uint32_t), &size[0]);
    ok = ok && bal_size_mul(size[0], l->units, &size[0]);
    ok = ok && bal_size_mul(l->panels, BAL_PANEL, &lanes) && bal_size_mul(lanes, l->groups, &side);
    ok = ok && bal_size_mul(side, sizeof(uint16_t), &size[1]);
    if (!ok || size[1] > SIZE_MAX - BAL_PACKED_ALIGN) return false;
    size[1] = bal_round_up(size[1], BAL_PACKED_ALIGN);
    size[2] = bal_round_up(side, BAL_PACKED_ALIGN);
    return true;
}

static bool known_bits(int bits)
{
    return bits == 2 || bits == 3 || bits == 4 || bits == 6 || bits == 8;
}

bal_status bal_packed_layout_init(bal_packed_layout *l, int bits, size_t n, size_t k, size_t group,
                                  bal_error *err)
{
    memset(l, 0, sizeof *l);
    if (!known_bits(bits))
        return bal_fail(err, BAL_E_ARG, "packed weights of %d bits; expected 2, 3, 4, 6 or 8",
                        bits);
    if (n == 0 || k == 0 || n > SIZE_MAX / 2 || k > SIZE_MAX / 2)
        return bal_fail(err, BAL_E_ARG, "packed weights of %zu x %zu are out of range", n, k);
    if (group % BAL_UNIT)
        return bal_fail(err, BAL_E_ARG, "group of %zu inputs; expected a multiple of %d, or 0",
                        group, BAL_UNIT);
    bal_packed_layout t = {.bits = bits, .n = n, .k = k, .group = group};
    t.panels = bal_ceil_div(n, BAL_PANEL);
    t.units = bal_ceil_div(k, BAL_UNIT);
    t.units_per_group = group == 0 || group >= k ? t.units : group / BAL_UNIT;
    t.groups = bal_ceil_div(t.units, t.units_per_group);
    size_t size[3];
    bool ok = section_sizes(&t, size);
    t.scales_offset = ok ? size[0] : 0;
    ok = ok && bal_size_add(size[0], size[1], &t.zeros_offset);
    ok = ok && bal_size_add(t.zeros_offset, size[2], &t.n_bytes);
    if (!ok)
        return bal_fail(err, BAL_E_ARG, "packed weights of %zu x %zu at %d bits do not fit memory",
                        n, k, bits);
    *l = t;
    return BAL_OK;
}

void bal_packed_layout_id(const bal_packed_layout *l, char out[BAL_PACKED_ID_SIZE])
{
    snprintf(out, BAL_PACKED_ID_SIZE, "w%dg%zu.p%du%d.v1", l->bits, l->group, BAL_PANEL, BAL_UNIT);
}

bal_status bal_packed_id_parse(const char *id, int *bits, size_t *group, bal_error *err)
{
    *bits = 0, *group = 0;
    bal_packed_layout l = {0};
    uint32_t g = 0;
    char again[BAL_PACKED_ID_SIZE] = "";
    if (sscanf(id, "w%1dg%9" SCNu32 ".", &l.bits, &g) == 2 && known_bits(l.bits) &&
        g % BAL_UNIT == 0) {
        l.group = g;
        bal_packed_layout_id(&l, again);
    }
    if (!again[0] || strcmp(id, again))
        return bal_fail(
            err, BAL_E_UNSUP,
            "layout id '%s' is not known to this build; expected w{2,3,4,6,8}gG.p%du%d.v1"
            " with G a multiple of %d",
            id, BAL_PANEL, BAL_UNIT, BAL_UNIT);
    *bits = l.bits, *group = g;
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
    v->zeros = bytes + layout->zeros_offset;
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

bal_status bal_pack(const bal_packed_layout *l, const uint8_t *codes, const uint16_t *scales,
                    const uint8_t *zeros, uint8_t *out, bal_error *err)
{
    assert((uintptr_t)out % sizeof(uint32_t) == 0);
    BAL_TRY(check_range("code", codes, l->n, l->k, l->bits, err));
    BAL_TRY(check_range("zero point", zeros, l->n, l->groups, l->bits, err));
    memset(out, 0, l->n_bytes);
    uint32_t *out_codes = (void *)(out + l->codes_offset);
    uint16_t *out_scales = (void *)(out + l->scales_offset);
    uint8_t *out_zeros = out + l->zeros_offset;
    for (size_t r = 0; r < l->n; r++) {
        const size_t p = r / BAL_PANEL;
        pack_row(l, r, codes + r * l->k, out_codes + p * l->units * (size_t)l->bits * BAL_PANEL);
        for (size_t g = 0; g < l->groups; g++) {
            const size_t at = (p * l->groups + g) * BAL_PANEL + r % BAL_PANEL;
            out_scales[at] = scales[r * l->groups + g];
            out_zeros[at] = zeros[r * l->groups + g];
        }
    }
    return BAL_OK;
}

void bal_unpack(const bal_packed_view *v, uint8_t *codes, uint16_t *scales, uint8_t *zeros)
{
    const bal_packed_layout *l = &v->layout;
    for (size_t r = 0; r < l->n; r++) {
        const size_t lane = r % BAL_PANEL;
        const uint32_t *panel = bal_packed_codes(v, r / BAL_PANEL);
        for (size_t k = 0; codes && k < l->k; k++)
            codes[r * l->k + k] =
                decode_one(l->bits, panel + k / BAL_UNIT * (size_t)l->bits * BAL_PANEL + lane,
                           BAL_PANEL, (int)(k % BAL_UNIT));
        for (size_t g = 0; g < l->groups; g++) {
            const size_t at = g * BAL_PANEL + lane;
            if (scales) scales[r * l->groups + g] = bal_packed_scales(v, r / BAL_PANEL)[at];
            if (zeros) zeros[r * l->groups + g] = bal_packed_zeros(v, r / BAL_PANEL)[at];
        }
    }
}

void bal_packed_row(const bal_packed_view *v, size_t r, float *out)
{
    const bal_packed_layout *l = &v->layout;
    assert(r < l->n);
    const size_t lane = r % BAL_PANEL;
    const uint32_t *panel = bal_packed_codes(v, r / BAL_PANEL);
    for (size_t k = 0; k < l->k; k++) {
        const size_t u = k / BAL_UNIT, at = u / l->units_per_group * BAL_PANEL + lane;
        const int q = decode_one(l->bits, panel + u * (size_t)l->bits * BAL_PANEL + lane, BAL_PANEL,
                                 (int)(k % BAL_UNIT));
        const int z = bal_packed_zeros(v, r / BAL_PANEL)[at];
        out[k] = (float)(q - z) * bal_f16_to_f32(bal_packed_scales(v, r / BAL_PANEL)[at]);
    }
}
