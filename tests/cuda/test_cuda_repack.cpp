// SPDX-License-Identifier: MIT
// Tiles hold what the packed weights hold: every code, scale and zero point is found where
// cuda/tiles.h says, by a second reading of that description.
#include "weights.h"

namespace
{

uint32_t word_of(const bal_tiles &t, const std::vector<uint32_t> &codes, size_t block, size_t tile,
                 size_t word, size_t lane, size_t slot)
{
    return codes[((block * t.k_tiles + tile) * (size_t)t.bits + word) * 128 + lane * 4 + slot];
}

/* Code of input k of row `row` of a block. */
uint32_t code_at(const bal_tiles &t, const std::vector<uint32_t> &codes, size_t block, size_t row,
                 size_t k)
{
    const size_t tile = k / 128, in = k % 128, lane = row % 8 * 4 + in % 8 / 2, slot = row / 8;
    const size_t j = in / 16 * 2 + in / 8 % 2;
    const auto bits_of = [&](size_t word, int first, int n) {
        const uint32_t w = word_of(t, codes, block, tile, word, lane, slot) >> (in % 2 ? 16 : 0);
        return (w & 0xffff) >> first & ((1u << n) - 1);
    };
    static const int words3[] = {0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 1, 2, 2, 2, 2};
    static const int first3[] = {7, 4, 13, 10, 1, 4, 7, 10, 13, 4, 1, 10, 7, 1, 13};
    static const int first2[] = {6, 4, 2, 0, 10, 8, 14, 12}, first4[] = {8, 4, 12, 0};
    if (t.table) {
        const size_t octet = j / 4;
        const int at = (int)(j % 4) * 8 + (int)(in % 2) * 4; /* of the nibble */
        const auto bits_at = [&](size_t word, int first, int n) {
            return word_of(t, codes, block, tile, word, lane, slot) >> (at + first) &
                   ((1u << n) - 1);
        };
        if (t.bits == 2) return bits_at(octet / 2, (int)(octet % 2) * 2, 2);
        if (t.bits == 4 || octet < 3) return bits_at(octet, 0, t.bits);
        return bits_at(0, 3, 1) | bits_at(1, 3, 1) << 1 | bits_at(2, 3, 1) << 2;
    }
    switch (t.bits) {
    case 2: return bits_of(j / 8, first2[j % 8], 2);
    case 3:
        if (j < 15) return bits_of((size_t)words3[j], first3[j], 3);
        return bits_of(2, 0, 1) | bits_of(1, 0, 1) << 1 | bits_of(0, 0, 1) << 2;
    case 4: return bits_of(j / 4, first4[j % 4], 4);
    case 6:
        if (j < 12) return bits_of(j / 2, j % 2 ? 10 : 4, 6);
        return bits_of(j - 12, 0, 4) | bits_of(4 + (j - 12) / 2, (int)(j % 2) * 2, 2) << 4;
    case 8: return bits_of(j / 2, j % 2 ? 8 : 0, 8);
    default: return bits_of(j, 0, 16);
    }
}

/* Row of the parts, one below the other, that is row `row` of a block; n where it pads. */
size_t source_row(const bal_tiles &t, size_t block, size_t row)
{
    if (!t.paired) return block * 32 + row < t.n ? block * 32 + row : t.n;
    const size_t r = block * 16 + row % 16;
    return r >= t.n / 2 ? t.n : row < 16 ? r : t.n / 2 + r;
}

void check_packed(const std::vector<const host_matrix *> &matrices, size_t file_group, bool paired)
{
    const device_weight w(matrices, paired);
    const bal_tiles &t = w.tiles;
    const size_t k = matrices[0]->k, groups = matrices[0]->view.layout.groups;
    for (size_t block = 0; block < t.row_blocks; block++)
        for (size_t row = 0; row < 32; row++) {
            size_t r = source_row(t, block, row);
            const bool real = r < t.n;
            const host_matrix *m = matrices[0];
            for (size_t i = 0; real && r >= m->n; m = matrices[++i]) r -= m->n;
            for (size_t c = 0; c < t.k_tiles * 128; c++) {
                const uint32_t expected = real && c < k ? m->codes[r * k + c] : 0;
                if (code_at(t, w.codes, block, row, c) != expected)
                    fail_msg("%d bits, %zu x %zu: code of block %zu row %zu input %zu is %u, "
                             "expected %u",
                             t.bits, t.n, k, block, row, c, code_at(t, w.codes, block, row, c),
                             expected);
                const uint8_t *of_block = (const uint8_t *)w.meta.data() + block * t.block_meta;
                const uint8_t *meta = of_block + c / t.group * 96;
                const size_t at = row % 8 * 4 + row / 8;
                if (!real || c >= k) continue;
                const size_t from = r * groups + (file_group ? c / file_group : 0);
                uint16_t scale;
                memcpy(&scale, meta + 2 * at, 2);
                assert_int_equal(meta[64 + at], t.table ? m->table.zero : m->zeros[from]);
                if (!t.stepped) {
                    assert_int_equal(scale, m->scales[from]);
                    continue;
                }
                float of_row;
                memcpy(&of_row, of_block + t.groups * 96 + 4 * row, 4);
                assert_true(bal_f16_to_f32(scale) == (float)m->step(r, c));
                assert_true(of_row == bal_f16_to_f32(m->scales[r]));
            }
        }
}

void test_packed(void **)
{
    dice d(1);
    for (int bits : {2, 3, 4, 6, 8})
        for (size_t group :
             {(size_t)0, (size_t)32, (size_t)64, (size_t)96, (size_t)128, (size_t)256}) {
            const host_matrix a = random_packed(d, bits, 37, 420, group);
            check_packed({&a}, group, false);
        }
    const host_matrix tiny = random_packed(d, 3, 1, 1, 0);
    check_packed({&tiny}, 0, false);
}

void test_two_levels(void **)
{
    dice d(4);
    for (size_t group : {(size_t)0, (size_t)32, (size_t)96, (size_t)128}) {
        const host_matrix a = random_two_level(d, 37, 420, group);
        check_packed({&a}, group, false);
    }
}

void test_tables(void **)
{
    dice d(5);
    for (int bits : {2, 3, 4})
        for (size_t group : {(size_t)0, (size_t)32, (size_t)96, (size_t)128}) {
            const host_matrix a = random_table(d, bits, 37, 420, group);
            check_packed({&a}, group, false);
            const device_weight w({&a});
            for (int i = 0; i < 1 << bits; i++)
                assert_int_equal(w.tiles.level[i], a.table.level[i] << (6 - bits));
        }
    host_matrix gate = random_table(d, 3, 41, 130, 32), up = gate;
    up.codes[0] ^= 1;
    pack(up, gate.view.layout);
    check_packed({&gate, &up}, 32, true);
}

void test_parts(void **)
{
    dice d(2);
    const host_matrix q = random_packed(d, 3, 40, 160, 32), k = random_packed(d, 3, 9, 160, 32),
                      v = random_packed(d, 3, 1, 160, 32);
    check_packed({&q, &k, &v}, 32, false);
    check_packed({&k, &q, &v}, 32, false); /* blocks begin within panels */
    const host_matrix gate = random_packed(d, 4, 41, 130, 128),
                      up = random_packed(d, 4, 41, 130, 128);
    check_packed({&gate, &up}, 128, true);
}

void test_floats(void **)
{
    dice d(3);
    host_matrix m = random_floats(d, BAL_TYPE_BF16, 35, 133);
    m.halves[5] =
        bal_f32_to_bf16(3e30f); /* a row of its own range, small numbers beside a large one */
    m.halves[133 + 7] = bal_f32_to_bf16(1e-30f);
    for (size_t i = 0; i < 133; i++)
        m.halves[2 * 133 + i] = bal_f32_to_bf16(1e-35f * (float)(i % 5));
    for (size_t i = 0; i < 133; i++) m.halves[3 * 133 + i] = 0;
    const device_weight w({&m});
    std::vector<float> row(133);
    const float *scales = (const float *)w.meta.data();
    for (size_t r = 0; r < 35; r++) {
        m.row(r, row.data());
        float most = 0;
        for (float v : row) most = fmaxf(most, fabsf(v));
        for (size_t c = 0; c < 133; c++) {
            const uint32_t h = code_at(w.tiles, w.codes, r / 32, r % 32, c);
            const float v = bal_f16_to_f32((uint16_t)h) * scales[r];
            /* bf16 has 8 bits of the 11 that f16 has, so what is not tiny is exact */
            assert_true(v == row[c] || fabsf(v - row[c]) <= most * 0x1p-38f);
        }
    }
}

/* Random bits of a float kind, row r with exponents of its own range: 0 any, so with infinities and
 * NaN, 1 none but 0, from 2 on near each other. */
uint32_t any_float(dice &d, bal_type type, size_t r)
{
    const int mantissa = type == BAL_TYPE_F32 ? 23 : type == BAL_TYPE_F16 ? 10 : 7;
    const int exponent_bits = type == BAL_TYPE_F16 ? 5 : 8;
    const uint32_t top = (1u << exponent_bits) - 1;
    uint32_t e = (uint32_t)d.below((int)top + 1);
    if (r % 8 == 1) e = 0;
    if (r % 8 > 1) e = (uint32_t)(r % 8 * top / 8) - e % 4;
    const uint32_t sign = (uint32_t)d.below(2) << (exponent_bits + mantissa);
    return d.below(6) ? sign | e << mantissa | ((uint32_t)d.next() & ((1u << mantissa) - 1)) : sign;
}

/* Every f16 is the definition's, in rows of any bits, at any address. */
void check_float_bits(dice &d, bal_type type, size_t shift)
{
    const size_t n = 35, k = 300, size = type == BAL_TYPE_F32 ? 4 : 2;
    std::vector<float> values;
    std::vector<char> bytes(n * k * size + shift);
    for (size_t i = 0; i < n * k; i++) {
        const uint32_t bits = any_float(d, type, i / k);
        memcpy(bytes.data() + shift + i * size, &bits, size);
        values.push_back(type == BAL_TYPE_F32   ? bal_f32_from_bits(bits)
                         : type == BAL_TYPE_F16 ? bal_f16_to_f32((uint16_t)bits)
                                                : bal_bf16_to_f32((uint16_t)bits));
    }
    bal_tiles t;
    bal_error err = {};
    const bal_tiles_part part = {type, n, bytes.data() + shift, {}};
    assert_int_equal(bal_tiles_init(&t, &part, 1, k, false, &err), BAL_OK);
    std::vector<uint32_t> codes(bal_tiles_codes_bytes(&t) / 4, ~0u), meta(t.block_meta / 4);
    for (size_t b = 0; b < t.row_blocks; b++) {
        bal_tiles_write(&t, &part, b, codes.data() + b * t.block_codes / 4, meta.data());
        for (size_t r = b * 32; r < (b + 1) * 32; r++)
            for (size_t c = 0; c < t.k_tiles * 128; c++) {
                const float inverse = 1 / ((const float *)meta.data())[r % 32];
                const bool real = r < n && c < k;
                assert_int_equal(code_at(t, codes, b, r % 32, c),
                                 real ? bal_f32_to_f16(values[r * k + c] * inverse) : 0);
            }
    }
}

void test_float_bits(void **)
{
    dice d(5);
    for (bal_type type : {BAL_TYPE_F32, BAL_TYPE_F16, BAL_TYPE_BF16})
        for (size_t shift = 0; shift < 4; shift++) check_float_bits(d, type, shift);
}

void test_refusals(void **)
{
    dice d(4);
    bal_tiles t;
    bal_error err = {};
    const host_matrix a = random_packed(d, 3, 8, 64, 32), b = random_packed(d, 4, 8, 64, 32),
                      c = random_packed(d, 3, 8, 64, 64), f = random_floats(d, BAL_TYPE_F16, 8, 64);
    const bal_tiles_part bits[] = {a.part(), b.part()}, groups[] = {a.part(), c.part()},
                         kinds[] = {a.part(), f.part()}, one[] = {a.part()};
    assert_int_equal(bal_tiles_init(&t, bits, 2, 64, false, &err), BAL_E_UNSUP);
    assert_non_null(strstr(err.text, "3 bits"));
    assert_int_equal(bal_tiles_init(&t, groups, 2, 64, false, &err), BAL_E_UNSUP);
    assert_int_equal(bal_tiles_init(&t, kinds, 2, 64, false, &err), BAL_E_UNSUP);
    assert_int_equal(bal_tiles_init(&t, one, 1, 65, false, &err), BAL_E_ARG);
    assert_int_equal(bal_tiles_init(&t, one, 1, 64, true, &err), BAL_E_ARG);
    assert_int_equal(bal_tiles_init(&t, one, 0, 64, false, &err), BAL_E_ARG);
    const host_matrix t1 = random_table(d, 3, 8, 64, 32), t2 = random_table(d, 3, 8, 64, 32);
    const bal_tiles_part tables[] = {t1.part(), t2.part()}, grids[] = {a.part(), t1.part()};
    assert_int_equal(bal_tiles_init(&t, tables, 2, 64, false, &err), BAL_E_UNSUP);
    assert_int_equal(bal_tiles_init(&t, grids, 2, 64, false, &err), BAL_E_UNSUP);
    bal_tiles_part huge = f.part();
    huge.n = SIZE_MAX / 2;
    assert_int_equal(bal_tiles_init(&t, &huge, 1, 64, false, &err), BAL_E_ARG);
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_packed),   cmocka_unit_test(test_two_levels),
        cmocka_unit_test(test_tables),   cmocka_unit_test(test_parts),
        cmocka_unit_test(test_floats),   cmocka_unit_test(test_float_bits),
        cmocka_unit_test(test_refusals),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
