// SPDX-License-Identifier: MIT
// A weight that goes to the device in several pieces, each repacked by several threads where there
// are processors for them: its rows, read back from there, are those it was made of.
#include "weights.h"

#include "device/device.h"

extern "C" bal_device_entry_fn bal_device_entry;

namespace
{

struct device {
    const bal_device_api *api = bal_device_entry(BAL_DEVICE_ABI);
    bal_device *d = nullptr;
    bal_error err = {};

    device()
    {
        assert_int_equal(api->open(&d, 0, &err), BAL_OK);
    }
    device(const device &) = delete;
    ~device()
    {
        api->close(d);
    }
    bal_dptr alloc(size_t n)
    {
        bal_dptr p;
        assert_int_equal(api->alloc(d, &p, n, "a test", &err), BAL_OK);
        return p;
    }
    void sync()
    {
        assert_int_equal(api->sync(d, &err), BAL_OK);
    }
};

bal_device_part device_part(const host_matrix &m)
{
    const bal_tiles_part of = m.part();
    bal_device_part p = {};
    p.type = of.type;
    p.n = of.n;
    p.w = of.w;
    p.packed = of.packed;
    return p;
}

/* Rows ids of the weight as the device reads them, [m][k]. */
std::vector<float> read_rows(device &on, const bal_device_weight *w, const std::vector<int> &ids,
                             size_t k)
{
    std::vector<float> rows(ids.size() * k);
    const bal_dptr d_ids = on.alloc(ids.size() * sizeof ids[0]);
    const bal_dptr d_rows = on.alloc(rows.size() * sizeof rows[0]);
    on.api->upload(on.d, d_ids, ids.data(), ids.size() * sizeof ids[0]);
    on.api->embed(on.d, w, d_ids, (int)ids.size(), d_rows);
    on.api->download(on.d, rows.data(), d_rows, rows.size() * sizeof rows[0]);
    on.sync();
    on.api->release(on.d, d_ids);
    on.api->release(on.d, d_rows);
    return rows;
}

/* Two parts one below the other; every `step`-th row is read back. */
void check_rows(const host_matrix &a, const host_matrix &b, int step)
{
    device on;
    bal_device_weight *w;
    const bal_device_part parts[] = {device_part(a), device_part(b)};
    assert_int_equal(on.api->weight_create(on.d, &w, parts, 2, a.k, false, &on.err), BAL_OK);
    std::vector<int> ids;
    for (int r = 0; r < (int)(a.n + b.n); r += step) ids.push_back(r);
    const std::vector<float> rows = read_rows(on, w, ids, a.k);
    std::vector<float> row(a.k);
    for (size_t i = 0; i < ids.size(); i++) {
        const size_t r = (size_t)ids[i];
        if (r < a.n)
            a.row(r, row.data());
        else
            b.row(r - a.n, row.data());
        assert_memory_equal(row.data(), &rows[i * a.k], a.k * sizeof row[0]);
    }
    on.api->weight_destroy(on.d, w);
}

/* Small ones are one piece of one thread's; these are two pieces of four threads'. */
void test_floats(void **)
{
    dice d(1);
    const host_matrix a = random_floats(d, BAL_TYPE_BF16, 1801, 2200),
                      b = random_floats(d, BAL_TYPE_BF16, 300, 2200);
    assert_true((a.n + b.n) * a.k * 2 > 8 << 20);
    check_rows(a, b, 13);
}

void test_packed(void **)
{
    dice d(2);
    const host_matrix a = random_packed(d, 8, 4001, 2200, 128),
                      b = random_packed(d, 8, 16, 2200, 128);
    assert_true((a.n + b.n) * a.k > 8 << 20);
    check_rows(a, b, 31);
}

} // namespace

int main()
{
    const CMUnitTest tests[] = {cmocka_unit_test(test_floats), cmocka_unit_test(test_packed)};
    return cmocka_run_group_tests(tests, nullptr, nullptr);
}
