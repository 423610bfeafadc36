/* SPDX-License-Identifier: MIT
 * Weights for the tests of the linear kernel: random codes packed as files hold them, their tiles
 * on the device, and what they stand for. */
#ifndef BAL_TEST_CUDA_WEIGHTS_H
#define BAL_TEST_CUDA_WEIGHTS_H

#include "cuda_check.h"

#include "cuda/linear.h"
#include "cuda/repack.h"
#include "cuda/stage.h"

#include <memory>

/* A generator of the tests' own: xorshift, the same everywhere. */
struct dice {
    uint64_t state;

    explicit dice(uint64_t seed) : state(seed * 0x9e3779b97f4a7c15u | 1)
    {
    }
    uint64_t next()
    {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        return state >> 11;
    }
    int below(int n)
    {
        return (int)(next() % (uint64_t)n);
    }
    /* in (-1, 1) */
    float even()
    {
        return (float)((double)(next() >> 21) * 0x1p-31 - 1);
    }
};

/* n rows of k codes, or floats (type F32, F16, BF16). */
struct host_matrix {
    bal_type type;
    size_t n, k;
    std::vector<uint8_t> codes, zeros, steps, packed; /* steps: as bal_packed_parts has them */
    std::vector<uint16_t> scales, halves;
    std::vector<float> floats;
    bal_packed_view view = {};
    bal_packed_table table = {};

    /* the part that bal_tiles_init wants */
    bal_tiles_part part() const
    {
        bal_tiles_part p = {};
        p.type = type;
        p.n = n;
        p.w = type == BAL_TYPE_F32 ? (const void *)floats.data() : (const void *)halves.data();
        p.packed = view;
        return p;
    }

    /* of a packed row's input, the step with it */
    float scale(size_t r, size_t c) const
    {
        const bal_packed_layout &l = view.layout;
        const size_t group = r * l.groups + c / 32 / l.units_per_group;
        return steps.empty() ? bal_f16_to_f32(scales[group])
                             : bal_f16_to_f32(scales[r]) * (float)step(r, c);
    }

    /* of a table or two levels */
    int step(size_t r, size_t c) const
    {
        const bal_packed_layout &l = view.layout;
        const uint8_t s = steps[r * l.groups + c / 32 / l.units_per_group];
        return l.kind == BAL_PACKED_TABLE ? bal_table_step(s) : s;
    }

    /* row r as numbers, out[k] */
    void row(size_t r, float *out) const
    {
        for (size_t i = 0; i < k && !bal_type_get(type)->packed; i++)
            out[i] = type == BAL_TYPE_F32   ? floats[r * k + i]
                     : type == BAL_TYPE_F16 ? bal_f16_to_f32(halves[r * k + i])
                                            : bal_bf16_to_f32(halves[r * k + i]);
        if (bal_type_get(type)->packed) bal_packed_row(&view, r, out);
    }
};

/* Packs the codes and what belongs to them. */
static inline void pack(host_matrix &m, const bal_packed_layout &l)
{
    bal_error err = {};
    const bal_packed_parts parts = {m.codes.data(), m.scales.data(),
                                    m.steps.empty() ? nullptr : m.steps.data(),
                                    m.zeros.empty() ? nullptr : m.zeros.data(), &m.table};
    m.packed.resize(l.n_bytes + 3);
    const size_t shift = (4 - (uintptr_t)m.packed.data() % 4) % 4;
    uint8_t *bytes = m.packed.data() + shift;
    assert_int_equal(bal_pack_parts(&l, &parts, bytes, &err), BAL_OK);
    assert_int_equal(bal_packed_view_init(&m.view, &l, bytes, l.n_bytes, &err), BAL_OK);
}

/* Weights of two levels: codes of 4 bits, steps of 1 .. 8. */
static inline host_matrix random_two_level(dice &d, size_t n, size_t k, size_t group)
{
    host_matrix m;
    bal_error err = {};
    bal_packed_layout l;
    assert_int_equal(bal_type_from_bits(&m.type, 4, &err), BAL_OK);
    assert_int_equal(bal_packed_layout_of(&l, {BAL_PACKED_TWO_LEVEL, 4, group}, n, k, &err),
                     BAL_OK);
    m.n = n;
    m.k = k;
    for (size_t i = 0; i < n * k; i++) m.codes.push_back((uint8_t)d.below(16));
    for (size_t i = 0; i < n * l.groups; i++) {
        m.zeros.push_back((uint8_t)d.below(16));
        m.steps.push_back((uint8_t)(1 + d.below(8)));
    }
    for (size_t i = 0; i < n; i++) m.scales.push_back(bal_f32_to_f16(d.even() * 0.01f));
    pack(m, l);
    return m;
}

/* Codes of a table of random levels, all steps. */
static inline host_matrix random_table(dice &d, int bits, size_t n, size_t k, size_t group)
{
    host_matrix m;
    bal_error err = {};
    bal_packed_layout l;
    assert_int_equal(bal_type_from_bits(&m.type, bits, &err), BAL_OK);
    assert_int_equal(bal_packed_layout_of(&l, {BAL_PACKED_TABLE, bits, group}, n, k, &err), BAL_OK);
    m.n = n;
    m.k = k;
    for (int i = 0; i < 1 << bits; i++) m.table.level[i] = (uint8_t)d.below(bal_table_levels(bits));
    m.table.level[1] = (uint8_t)(bal_table_levels(bits) - 1);
    m.table.zero = (uint8_t)d.below(bal_table_levels(bits));
    for (size_t i = 0; i < n * k; i++) m.codes.push_back((uint8_t)d.below(1 << bits));
    for (size_t i = 0; i < n * l.groups; i++) m.steps.push_back((uint8_t)d.below(16));
    for (size_t i = 0; i < n; i++) m.scales.push_back(bal_f32_to_f16(d.even() * 0.01f));
    pack(m, l);
    return m;
}

/* Packed weights of random codes, zero points and scales up to `most`. */
static inline host_matrix random_packed(dice &d, int bits, size_t n, size_t k, size_t group,
                                        float most = 0.05f)
{
    host_matrix m;
    bal_error err = {};
    bal_packed_layout l;
    assert_int_equal(bal_type_from_bits(&m.type, bits, &err), BAL_OK);
    assert_int_equal(bal_packed_layout_init(&l, bits, n, k, group, &err), BAL_OK);
    m.n = n;
    m.k = k;
    for (size_t i = 0; i < n * k; i++) m.codes.push_back((uint8_t)d.below(1 << bits));
    for (size_t i = 0; i < n * l.groups; i++) {
        m.zeros.push_back((uint8_t)d.below(1 << bits));
        m.scales.push_back(bal_f32_to_f16(d.even() * most));
    }
    pack(m, l);
    return m;
}

static inline host_matrix random_floats(dice &d, bal_type type, size_t n, size_t k)
{
    host_matrix m;
    m.type = type;
    m.n = n;
    m.k = k;
    for (size_t i = 0; i < n * k; i++) {
        const float v = d.even() * 0.05f;
        m.floats.push_back(v);
        m.halves.push_back(type == BAL_TYPE_F16 ? bal_f32_to_f16(v) : bal_f32_to_bf16(v));
    }
    return m;
}

/* Tiles of one or more matrices, on the host and on the device. */
struct device_weight {
    bal_tiles tiles = {};
    std::vector<uint32_t> codes, meta;
    std::unique_ptr<device_array<uint32_t>> d_codes, d_meta;
    bal_linear_weight weight = {};

    device_weight(const std::vector<const host_matrix *> &matrices, bool paired = false)
    {
        bal_error err = {};
        std::vector<bal_tiles_part> parts;
        for (const host_matrix *m : matrices) parts.push_back(m->part());
        assert_int_equal(
            bal_tiles_init(&tiles, parts.data(), (int)parts.size(), matrices[0]->k, paired, &err),
            BAL_OK);
        codes.resize(bal_tiles_codes_bytes(&tiles) / 4, ~0u); /* all of it is overwritten */
        meta.resize(bal_tiles_meta_bytes(&tiles) / 4, ~0u);
        for (size_t b = 0; b < tiles.row_blocks; b++)
            bal_tiles_write(&tiles, parts.data(), b, codes.data() + b * tiles.block_codes / 4,
                            meta.data() + b * tiles.block_meta / 4);
        d_codes = std::make_unique<device_array<uint32_t>>(codes);
        d_meta = std::make_unique<device_array<uint32_t>>(meta);
        weight.tiles = tiles;
        weight.codes = d_codes->p;
        weight.meta = d_meta->p;
    }
};

#endif
