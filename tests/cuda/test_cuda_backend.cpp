// SPDX-License-Identifier: MIT
// Through the contract: rows read back from tiles are those of the file, to the bit for packed
// weights of every kind and width; what a device cannot do is known beforehand.
#include "weights.h"

#include "device/device.h"

extern "C" const bal_device_api *bal_device_entry(uint32_t abi);

namespace
{

struct backend {
    const bal_device_api *api = bal_device_entry(BAL_DEVICE_ABI);
    bal_device *d = nullptr;
    bal_error err = {};

    backend()
    {
        assert_int_equal(api->open(&d, 0, &err), BAL_OK);
    }
    ~backend()
    {
        api->close(d);
    }
};

/* Rows ids of m as the device gives them back. */
std::vector<float> embed(backend &b, const host_matrix &m, const std::vector<int32_t> &ids)
{
    const bal_tiles_part p = m.part();
    const bal_device_part part = {p.type, p.n, p.w, p.packed, nullptr, {}};
    bal_device_weight *w;
    bal_dptr at, h;
    std::vector<float> out(ids.size() * m.k);
    assert_int_equal(b.api->weight_create(b.d, &w, &part, 1, m.k, false, &b.err), BAL_OK);
    assert_int_equal(b.api->alloc(b.d, &at, ids.size() * 4, "ids", &b.err), BAL_OK);
    assert_int_equal(b.api->alloc(b.d, &h, out.size() * 4, "rows", &b.err), BAL_OK);
    b.api->upload(b.d, at, ids.data(), ids.size() * 4);
    b.api->embed(b.d, w, at, (int)ids.size(), h);
    b.api->download(b.d, out.data(), h, out.size() * 4);
    assert_int_equal(b.api->sync(b.d, &b.err), BAL_OK);
    b.api->weight_destroy(b.d, w);
    b.api->release(b.d, at);
    b.api->release(b.d, h);
    return out;
}

void check(backend &b, const host_matrix &m, float relative)
{
    const std::vector<int32_t> ids = {0, (int32_t)m.n - 1, 5, 33, 5};
    const std::vector<float> found = embed(b, m, ids);
    std::vector<float> row(m.k);
    for (size_t i = 0; i < ids.size(); i++) {
        m.row((size_t)ids[i], row.data());
        for (size_t c = 0; c < m.k; c++) {
            const float v = found[i * m.k + c];
            if (!(fabsf(v - row[c]) <= relative * fabsf(row[c])))
                fail_msg("input %zu of row %d is %g, expected %g", c, ids[i], v, row[c]);
        }
    }
}

void test_groups(void **)
{
    backend b;
    dice d(1);
    for (int bits : {2, 3, 4, 6, 8})
        for (size_t group : {(size_t)0, (size_t)32, (size_t)128})
            check(b, random_packed(d, bits, 70, 300, group), 0);
}

void test_steps(void **)
{
    backend b;
    dice d(2);
    for (size_t group : {(size_t)0, (size_t)32, (size_t)128}) {
        check(b, random_two_level(d, 70, 300, group), 0);
        for (int bits : {2, 3, 4}) check(b, random_table(d, bits, 70, 300, group), 0);
    }
}

void test_floats(void **)
{
    backend b;
    dice d(3);
    check(b, random_floats(d, BAL_TYPE_BF16, 70, 133), 0);
    check(b, random_floats(d, BAL_TYPE_F32, 70, 133), 0x1p-11f);
}

/* Index of the largest of each row of n. */
std::vector<int32_t> largest(backend &b, const std::vector<float> &x, int n)
{
    const int m = (int)x.size() / n;
    bal_dptr from, to;
    std::vector<int32_t> out((size_t)m);
    assert_int_equal(b.api->alloc(b.d, &from, x.size() * 4, "rows", &b.err), BAL_OK);
    assert_int_equal(b.api->alloc(b.d, &to, out.size() * 4, "ids", &b.err), BAL_OK);
    b.api->upload(b.d, from, x.data(), x.size() * 4);
    b.api->argmax(b.d, from, m, n, to);
    b.api->download(b.d, out.data(), to, out.size() * 4);
    assert_int_equal(b.api->sync(b.d, &b.err), BAL_OK);
    b.api->release(b.d, from);
    b.api->release(b.d, to);
    return out;
}

/* The lowest of equals, zeros of either sign among them; -1 where something is not finite. */
void test_largest(void **)
{
    backend b;
    dice d(4);
    for (int n : {1, 31, 1000, 1025, 20011}) {
        std::vector<float> x;
        std::vector<int32_t> expected;
        for (int row = 0; row < 4; row++) {
            std::vector<float> v((size_t)n);
            for (float &f : v) f = row == 1 ? -0.0f : -1 - (float)d.below(1 << 20);
            const int at = d.below(n), again = at + d.below(n - at);
            if (row == 1) v[(size_t)at] = 0;
            if (row == 2) v[(size_t)at] = v[(size_t)again] = 3e38f;
            if (row == 3) v[(size_t)at] = at % 3 ? NAN : at % 2 ? INFINITY : -INFINITY;
            int best = 0;
            for (int i = 0; i < n; i++)
                if (v[(size_t)i] > v[(size_t)best]) best = i;
            expected.push_back(row == 3 ? -1 : best);
            x.insert(x.end(), v.begin(), v.end());
        }
        assert_true(largest(b, x, n) == expected);
    }
}

/* A device's shared memory limits heads. */
void test_wide_heads(void **)
{
    backend b;
    assert_true(b.api->attend_bytes(b.d, 4, 8, 128) > 0);
    assert_true(b.api->attend_bytes(b.d, 4, 8, 1024) == 0);
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {
        cmocka_unit_test(test_groups),     cmocka_unit_test(test_steps),
        cmocka_unit_test(test_floats),     cmocka_unit_test(test_largest),
        cmocka_unit_test(test_wide_heads),
    };
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
