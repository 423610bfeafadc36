// SPDX-License-Identifier: MIT
// Expanded tiles are the weights, rounded once: bit for bit what bal_packed_row says.
#include "weights.h"

#include "cuda/expand.h"

namespace
{

void check(const std::vector<const host_matrix *> &parts, bool paired, bool bf16)
{
    const device_weight w(parts, paired);
    const size_t ld = bal_expand_ld(&w.tiles), k = w.tiles.k;
    device_array<uint16_t> out(w.tiles.n * ld);
    /* in two pieces */
    const size_t half = w.tiles.row_blocks / 2;
    if (half)
        assert_int_equal(bal_expand(&w.weight, 0, half, bf16, out.p, false, nullptr), cudaSuccess);
    assert_int_equal(
        bal_expand(&w.weight, half, w.tiles.row_blocks - half, bf16, out.p, false, nullptr),
        cudaSuccess);
    assert_sound();
    const std::vector<uint16_t> found = out.values();
    std::vector<float> row(k);
    size_t at = 0;
    for (const host_matrix *m : parts)
        for (size_t r = 0; r < m->n; r++, at++) {
            m->row(r, row.data());
            for (size_t c = 0; c < ld; c++) {
                const float v = c < k ? row[c] : 0;
                const uint16_t expected = bf16 ? bal_f32_to_bf16(v) : bal_f32_to_f16(v);
                const uint16_t is = found[at * ld + c];
                /* -0 where a code equals its zero point and the scale is negative */
                if (is != expected && ((is | expected) & 0x7fff) != 0)
                    fail_msg("%d bits: row %zu input %zu is %04x, expected %04x", w.tiles.bits, at,
                             c, is, expected);
            }
        }
}

void test_expand(void **)
{
    dice d(5);
    for (int bits : {2, 3, 4, 6, 8})
        for (size_t group : {(size_t)0, (size_t)32, (size_t)64, (size_t)128, (size_t)256}) {
            const host_matrix a = random_packed(d, bits, 37, 700, group),
                              b = random_packed(d, bits, 37, 700, group);
            check({&a}, false, bits % 2 == 0);
            check({&a, &b}, true, bits % 2 != 0);
        }
    const host_matrix f = random_floats(d, BAL_TYPE_BF16, 33, 129);
    check({&f}, false, true);
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {cmocka_unit_test(test_expand)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
