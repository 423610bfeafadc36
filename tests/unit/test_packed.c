/* SPDX-License-Identifier: MIT
 * Packed weights: the byte map written out by hand, the round trip, sizes, and what is refused. */
#include "check.h"

#include <math.h>

#include "base/half.h"
#include "base/rng.h"
#include "kernel/table.h"
#include "type/packed.h"
#include "type/type.h"

/* A matrix of random codes with its packed form. */
typedef struct matrix {
    bal_packed_layout l;
    uint8_t *codes, *zeros, *bytes;
    uint16_t *scales;
    bal_packed_view view;
} matrix;

static void *get(size_t n_bytes)
{
    void *p = calloc(1, n_bytes);
    assert_non_null(p);
    return p;
}

static void matrix_make(matrix *m, int bits, size_t n, size_t k, size_t group, uint64_t seed)
{
    bal_error err = {0};
    bal_rng rng;
    bal_rng_seed(&rng, seed);
    ASSERT_OK(bal_packed_layout_init(&m->l, bits, n, k, group, &err));
    m->codes = get(n * k);
    m->scales = get(n * m->l.groups * 2);
    m->zeros = get(n * m->l.groups);
    m->bytes = get(m->l.n_bytes);
    for (size_t i = 0; i < n * k; i++) m->codes[i] = (uint8_t)bal_rng_below(&rng, 1u << bits);
    for (size_t i = 0; i < n * m->l.groups; i++) {
        m->scales[i] = bal_f32_to_f16(bal_rng_f32(&rng));
        m->zeros[i] = (uint8_t)bal_rng_below(&rng, 1u << bits);
    }
    ASSERT_OK(bal_pack(&m->l, m->codes, m->scales, m->zeros, m->bytes, &err));
    ASSERT_OK(bal_packed_view_init(&m->view, &m->l, m->bytes, m->l.n_bytes, &err));
}

static void matrix_free(matrix *m)
{
    free(m->codes);
    free(m->scales);
    free(m->zeros);
    free(m->bytes);
}

static const struct {
    int bits;
    size_t n, k, group;
} shapes[] = {{2, 1, 1, 32},     {3, 16, 32, 32},   {4, 17, 33, 32},  {8, 5, 100, 64},
              {3, 40, 300, 128}, {2, 33, 257, 128}, {4, 16, 96, 128}, {8, 3, 1000, 4096},
              {3, 31, 129, 0},   {6, 21, 161, 64}};
enum { N_SHAPES = sizeof shapes / sizeof *shapes };

/* Each code at its place by the map of packed.h, from one-hot inputs. */
static void test_byte_map(void **state)
{
    (void)state;
    static const struct {
        int bits, k, word, bit, code; /* the code 2^bits - 1 of input k: bits at 8c + bit of word */
    } at[] = {{2, 0, 0, 0, 3},        {2, 5, 0, 2 + 8, 3},   {2, 18, 1, 0 + 16, 3},
              {2, 31, 1, 6 + 24, 3},  {4, 0, 0, 0, 15},      {4, 6, 0, 4 + 16, 15},
              {4, 31, 3, 4 + 24, 15}, {8, 30, 7, 16, 255},   {3, 0, 0, 0, 7},
              {3, 7, 0, 3 + 24, 7},   {3, 23, 2, 3 + 24, 7}, {6, 0, 0, 0, 63},
              {6, 22, 5, 16, 63}};
    for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
        bal_error err = {0};
        bal_packed_layout l;
        uint8_t codes[32] = {0}, zeros[1] = {0}, bytes[8 * 64 + 128];
        uint16_t scales[1] = {0x3c00};
        ASSERT_OK(bal_packed_layout_init(&l, at[i].bits, 1, 32, 32, &err));
        codes[at[i].k] = (uint8_t)at[i].code;
        assert_true(l.n_bytes <= sizeof bytes);
        uint32_t *words = get(l.n_bytes);
        ASSERT_OK(bal_pack(&l, codes, scales, zeros, (uint8_t *)words, &err));
        for (int w = 0; w < at[i].bits * 16; w++)
            assert_int_equal(words[w],
                             w == at[i].word * 16 ? (uint32_t)at[i].code << at[i].bit : 0);
        free(words);
    }
}

/* The split codes of 6 bits: quads 6 and 7. */
static void test_byte_map_w6_spare_bits(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_packed_layout l;
    uint8_t codes[32] = {0}, zeros[1] = {0};
    uint16_t scales[1] = {0};
    uint32_t words[6 * 16 + 32] = {0};
    codes[24] = 0x39, codes[31] = 0x1e; /* quad 6 byte 0: 11 10 01, quad 7 byte 3: 01 11 10 */
    ASSERT_OK(bal_packed_layout_init(&l, 6, 1, 32, 32, &err));
    assert_int_equal(l.n_bytes, sizeof words);
    ASSERT_OK(bal_pack(&l, codes, scales, zeros, (uint8_t *)words, &err));
    static const uint32_t want[6] = {1u << 6,        2u << 6,        3u << 6,
                                     2u << (24 + 6), 3u << (24 + 6), 1u << (24 + 6)};
    for (size_t v = 0; v < 6; v++) assert_int_equal(words[16 * v], want[v]);
}

/* The split codes of 3 bits: quad 6 and 7. */
static void test_byte_map_w3_spare_bits(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_packed_layout l;
    uint8_t codes[32] = {0}, zeros[1] = {0};
    uint16_t scales[1] = {0};
    uint32_t words[64 + 16] = {0};
    codes[24] = 6, codes[31] = 5; /* quad 6 byte 0: 110, quad 7 byte 3: 101 */
    ASSERT_OK(bal_packed_layout_init(&l, 3, 1, 32, 32, &err));
    assert_int_equal(l.n_bytes, sizeof words);
    ASSERT_OK(bal_pack(&l, codes, scales, zeros, (uint8_t *)words, &err));
    assert_int_equal(words[0], 2u << 6);
    assert_int_equal(words[16], 1u << (24 + 6));
    assert_int_equal(words[32], 1u << 6 | 1u << (24 + 7));
}

static void test_round_trip(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        matrix m;
        matrix_make(&m, shapes[i].bits, shapes[i].n, shapes[i].k, shapes[i].group, 7);
        const size_t n_side = m.l.n * m.l.groups;
        uint8_t *codes = get(m.l.n * m.l.k), *zeros = get(n_side);
        uint16_t *scales = get(n_side * 2);
        bal_unpack(&m.view, codes, scales, zeros);
        assert_memory_equal(codes, m.codes, m.l.n * m.l.k);
        assert_memory_equal(scales, m.scales, n_side * 2);
        assert_memory_equal(zeros, m.zeros, n_side);
        free(codes);
        free(scales);
        free(zeros);
        matrix_free(&m);
    }
}

static void test_row_is_code_minus_zero_times_scale(void **state)
{
    (void)state;
    for (int i = 0; i < N_SHAPES; i++) {
        matrix m;
        matrix_make(&m, shapes[i].bits, shapes[i].n, shapes[i].k, shapes[i].group, 11);
        const size_t g_size = m.l.units_per_group * BAL_UNIT;
        float *row = get(m.l.k * sizeof *row);
        for (size_t r = 0; r < m.l.n; r++) {
            bal_packed_row(&m.view, r, row);
            for (size_t k = 0; k < m.l.k; k++) {
                const size_t g = r * m.l.groups + k / g_size;
                const float want =
                    (float)(m.codes[r * m.l.k + k] - m.zeros[g]) * bal_f16_to_f32(m.scales[g]);
                assert_true(bal_f32_bits(row[k]) == bal_f32_bits(want));
            }
        }
        free(row);
        matrix_free(&m);
    }
}

/* The kernels read the same map: a product with a row of activations is within the rounding of
 * 16-bit activations of the product with the decoded row. */
static void test_gemm_reads_the_same_weights(void **state)
{
    (void)state;
    bal_kernels kernels;
    bal_kernels_init(&kernels, bal_cpu_isa());
    for (int i = 0; i < N_SHAPES; i++) {
        matrix m;
        matrix_make(&m, shapes[i].bits, shapes[i].n, shapes[i].k, shapes[i].group, 13);
        bal_rng rng;
        bal_rng_seed(&rng, 17);
        float *x = get(m.l.k * sizeof *x), *row = get(m.l.k * sizeof *row), y[16];
        for (size_t k = 0; k < m.l.k; k++) x[k] = bal_rng_f32(&rng) - 0.5f;
        bal_a16 *a = get(m.l.units * sizeof *a);
        kernels.quant_a16(x, m.l.k, a);
        for (size_t r = 0; r < m.l.n; r++) {
            bal_kernels_gemm_w(&kernels, m.l.bits)(
                1, m.l.units, m.l.units_per_group, a, m.l.units, bal_packed_codes(&m.view, r / 16),
                bal_packed_scales(&m.view, r / 16), bal_packed_zeros(&m.view, r / 16), y, 16);
            bal_packed_row(&m.view, r, row);
            double want = 0, size = 0;
            for (size_t k = 0; k < m.l.k; k++) {
                want += (double)x[k] * (double)row[k];
                size += fabs((double)x[k] * (double)row[k]) + 0.5 / 32639 * fabs((double)row[k]);
            }
            assert_true(fabs((double)y[r % 16] - want) <= 1e-4 * size + 1e-12);
        }
        for (size_t r = m.l.n; r % 16; r++) assert_true(y[r % 16] == 0.0f);
        free(x);
        free(row);
        free(a);
        matrix_free(&m);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_packed_layout l;
    ASSERT_OK(bal_packed_layout_init(&l, 3, 18944, 3584, 128, &err));
    assert_int_equal(l.groups, 28);
    assert_int_equal(l.scales_offset, 18944u * 3584 * 3 / 8);
    assert_int_equal(l.zeros_offset - l.scales_offset, 18944u * 28 * 2);
    assert_int_equal(l.n_bytes - l.zeros_offset, 18944u * 28);
    assert_true(8.0 * (double)l.n_bytes / (18944.0 * 3584.0) == 3 + 24.0 / 128);
    ASSERT_OK(bal_packed_layout_init(&l, 4, 1, 1, 4096, &err));
    assert_int_equal(l.n_bytes, 4 * 64 + 64 + 64);
    assert_int_equal(l.groups, 1);
    ASSERT_OK(bal_packed_layout_init(&l, 2, 16, 160, 64, &err));
    assert_int_equal(l.groups, 3);
}

static void test_refusals(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_packed_layout l;
    ASSERT_FAILS(BAL_E_ARG, "5 bits", bal_packed_layout_init(&l, 5, 16, 32, 32, &err));
    ASSERT_FAILS(BAL_E_ARG, "group of 33", bal_packed_layout_init(&l, 4, 16, 64, 33, &err));
    ASSERT_FAILS(BAL_E_ARG, "out of range", bal_packed_layout_init(&l, 4, 0, 64, 32, &err));
    ASSERT_FAILS(BAL_E_ARG, "out of range", bal_packed_layout_init(&l, 4, 1, SIZE_MAX, 32, &err));
    ASSERT_FAILS(BAL_E_ARG, "do not fit",
                 bal_packed_layout_init(&l, 8, SIZE_MAX / 4, SIZE_MAX / 4, 32, &err));
    ASSERT_FAILS(BAL_E_ARG, "do not fit",
                 bal_packed_layout_init(&l, 2, SIZE_MAX / 40, 128, 32, &err));
    assert_int_equal(l.n_bytes, 0);

    matrix m;
    matrix_make(&m, 3, 4, 64, 32, 3);
    bal_packed_view v;
    ASSERT_FAILS(BAL_E_FORMAT, "expected 512",
                 bal_packed_view_init(&v, &m.l, m.bytes, m.l.n_bytes - 64, &err));
    assert_null(v.codes);
    ASSERT_FAILS(BAL_E_FORMAT, "aligned",
                 bal_packed_view_init(&v, &m.l, m.bytes + 2, m.l.n_bytes, &err));
    m.codes[64 + 5] = 8;
    ASSERT_FAILS(BAL_E_ARG, "code at row 1, column 5 is 8",
                 bal_pack(&m.l, m.codes, m.scales, m.zeros, m.bytes, &err));
    m.codes[64 + 5] = 0, m.zeros[7] = 9;
    ASSERT_FAILS(BAL_E_ARG, "zero point at row 3, column 1 is 9",
                 bal_pack(&m.l, m.codes, m.scales, m.zeros, m.bytes, &err));
    matrix_free(&m);
}

static void test_ids(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_packed_layout l;
    char id[BAL_PACKED_ID_SIZE];
    bal_packed_format f;
    ASSERT_OK(bal_packed_layout_init(&l, 3, 16, 96, 128, &err));
    bal_packed_layout_id(&l, id);
    assert_string_equal(id, "w3g128.p16u32.v1"); /* as asked for, although the row is shorter */
    ASSERT_OK(bal_packed_id_parse(id, &f, &err));
    assert_int_equal(f.kind, BAL_PACKED_GROUPS);
    assert_int_equal(f.bits, 3);
    assert_int_equal(f.group, 128);
    ASSERT_OK(bal_packed_id_parse("t2g32.p16u32.v1", &f, &err));
    assert_int_equal(f.kind, BAL_PACKED_TABLE);
    assert_int_equal(f.bits, 2);
    ASSERT_OK(bal_packed_id_parse("d4g0.p16u32.v1", &f, &err));
    assert_int_equal(f.kind, BAL_PACKED_TWO_LEVEL);
    assert_int_equal(f.group, 0);
    static const char *const bad[] = {"w3g128.p16u32.v2",  "w5g128.p16u32.v1", "w3g100.p16u32.v1",
                                      "w3g128.p16u32.v1x", "w3g-32.p16u32.v1", "",
                                      "w3g0128.p16u32.v1", "t6g32.p16u32.v1",  "d3g32.p16u32.v1",
                                      "x3g32.p16u32.v1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        ASSERT_FAILS(BAL_E_UNSUP, "is not known", bal_packed_id_parse(bad[i], &f, &err));
}

/* One step above the other in a byte, levels and their zero behind. */
static void test_byte_map_of_tables(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_packed_layout l;
    static uint8_t codes[20 * 40], steps[20 * 2], bytes[2048] __attribute__((aligned(64)));
    uint16_t scales[20];
    const bal_packed_table table = {.level = {0, 5, 9, 13, 16, 20, 24, 31}, .zero = 13};
    const bal_packed_parts p = {codes, scales, steps, NULL, &table};
    const bal_packed_format f = {BAL_PACKED_TABLE, 3, 32};
    ASSERT_OK(bal_packed_layout_of(&l, f, 20, 40, &err));
    assert_int_equal(l.scales_offset, 2 * 2 * 3 * 64); /* panels, units, words */
    assert_int_equal(l.steps_offset - l.scales_offset, 2 * 16 * 2);
    assert_int_equal(l.table_offset - l.steps_offset, 64);
    assert_int_equal(l.n_bytes - l.table_offset, 64);
    for (size_t i = 0; i < 20; i++) scales[i] = bal_f32_to_f16(0.5f);
    steps[3 * 2 + 1] = 2, steps[11 * 2 + 1] = 15; /* lanes 3 and 11 of panel 0, group 1 */
    codes[3 * 40 + 35] = 7, codes[11 * 40 + 35] = 1;
    ASSERT_OK(bal_pack_parts(&l, &p, bytes, &err));
    assert_int_equal(bytes[l.steps_offset + 8 + 3], 15 << 4 | 2);
    assert_memory_equal(bytes + l.table_offset, table.level, 16);
    assert_int_equal(bytes[l.table_offset + 16], 13);
    bal_packed_view v;
    float row[40];
    ASSERT_OK(bal_packed_view_init(&v, &l, bytes, l.n_bytes, &err));
    assert_null(bal_packed_zeros(&v, 0));
    bal_packed_row(&v, 3, row);
    assert_true(row[35] == (31 - 13) * 0.5f * 3);
    assert_true(row[34] == (0 - 13) * 0.5f * 3);
    bal_packed_row(&v, 11, row);
    assert_true(row[35] == (5 - 13) * 0.5f * -8);
    steps[5] = 16;
    ASSERT_FAILS(BAL_E_ARG, "step at row 2, column 1 is 16", bal_pack_parts(&l, &p, bytes, &err));
    steps[5] = 0;
    bal_packed_table high = table;
    high.level[7] = 32;
    const bal_packed_parts bad = {codes, scales, steps, NULL, &high};
    ASSERT_FAILS(BAL_E_ARG, "level 7 of a table is 32; expected at most 31",
                 bal_pack_parts(&l, &bad, bytes, &err));
    high = table, high.zero = 32;
    ASSERT_FAILS(BAL_E_ARG, "zero of a table is 32", bal_pack_parts(&l, &bad, bytes, &err));
}

static void test_byte_map_of_two_levels(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_packed_layout l;
    static uint8_t codes[20 * 40], bytes[2048] __attribute__((aligned(64)));
    uint8_t steps[20 * 2], zeros[20 * 2];
    uint16_t scales[20];
    const bal_packed_parts p = {codes, scales, steps, zeros, NULL};
    const bal_packed_format f = {BAL_PACKED_TWO_LEVEL, 4, 32};
    ASSERT_OK(bal_packed_layout_of(&l, f, 20, 40, &err));
    assert_int_equal(l.steps_offset - l.scales_offset, 2 * 16 * 2);
    assert_int_equal(l.zeros_offset - l.steps_offset, 2 * 2 * 16);
    assert_int_equal(l.n_bytes - l.zeros_offset, 2 * 2 * 16);
    for (size_t i = 0; i < 20; i++) scales[i] = bal_f32_to_f16(0.25f);
    for (size_t i = 0; i < 40; i++) steps[i] = 3, zeros[i] = 2;
    steps[17 * 2 + 1] = 9, zeros[17 * 2 + 1] = 1; /* lane 1 of panel 1, group 1 */
    codes[17 * 40 + 39] = 15;
    ASSERT_OK(bal_pack_parts(&l, &p, bytes, &err));
    assert_int_equal(bytes[l.steps_offset + (2 + 1) * 16 + 1], 9);
    assert_int_equal(bytes[l.zeros_offset + (2 + 1) * 16 + 1], 1);
    bal_packed_view v;
    float row[40];
    ASSERT_OK(bal_packed_view_init(&v, &l, bytes, l.n_bytes, &err));
    bal_packed_row(&v, 17, row);
    assert_true(row[39] == (15 - 1) * 0.25f * 9);
    steps[17 * 2 + 1] = 10; /* 14 * 10 */
    ASSERT_FAILS(BAL_E_ARG, "row 17, column 39: (15 - 1) * 10 is no int8",
                 bal_pack_parts(&l, &p, bytes, &err));
    ASSERT_FAILS(
        BAL_E_ARG, "two levels of 3 bits; expected 4",
        bal_packed_layout_of(&l, (bal_packed_format){BAL_PACKED_TWO_LEVEL, 3, 32}, 1, 1, &err));
    ASSERT_FAILS(
        BAL_E_ARG, "a table of 6 bits; expected 2, 3 or 4",
        bal_packed_layout_of(&l, (bal_packed_format){BAL_PACKED_TABLE, 6, 32}, 1, 1, &err));
}

static void test_types(void **state)
{
    (void)state;
    bal_error err = {0};
    bal_type type;
    ASSERT_OK(bal_type_from_name(&type, "bf16", &err));
    assert_int_equal(type, BAL_TYPE_BF16);
    ASSERT_OK(bal_type_from_bits(&type, 3, &err));
    assert_string_equal(bal_type_get(type)->name, "w3");
    assert_true(bal_type_get(type)->packed);
    ASSERT_FAILS(BAL_E_ARG, "f32 f16 bf16 w2 w3 w4 w6 w8", bal_type_from_name(&type, "int3", &err));
    ASSERT_FAILS(BAL_E_ARG, "16 bits", bal_type_from_bits(&type, 16, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_byte_map),
        cmocka_unit_test(test_byte_map_w3_spare_bits),
        cmocka_unit_test(test_byte_map_w6_spare_bits),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_row_is_code_minus_zero_times_scale),
        cmocka_unit_test(test_gemm_reads_the_same_weights),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_byte_map_of_tables),
        cmocka_unit_test(test_byte_map_of_two_levels),
        cmocka_unit_test(test_ids),
        cmocka_unit_test(test_types),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
