/* SPDX-License-Identifier: MIT
 * Half floats: every 16-bit pattern there and back, and rounding against a definition in double
 * (and the processor's own conversion where it has one). */
#include "check.h"

#include "base/cpu.h"
#include "base/half.h"
#include "base/rng.h"

#include <math.h>
#if BAL_X86
#include <immintrin.h>
#endif

/* x rounded half to even to `bits` bits of significand, exponent at least min_exp: what any binary
 * format does below its overflow. */
static double round_to(double x, int bits, int min_exp, double overflow)
{
    if (!isfinite(x) || x == 0) return x;
    int e = ilogb(x);
    if (e < min_exp) e = min_exp;
    const double unit = ldexp(1.0, e - bits + 1), y = nearbyint(x / unit) * unit;
    return fabs(y) >= overflow ? copysign(INFINITY, x) : y;
}

static bool same(float a, double b)
{
    return isnan(b) ? isnan(a) : a == b && !signbit(a) == !signbit(b);
}

#if BAL_X86
__attribute__((target("f16c"))) static uint16_t processor_f16(float x)
{
    return _cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT);
}

__attribute__((target("f16c"))) static float processor_f32(uint16_t h)
{
    return _cvtsh_ss(h);
}
#else
static uint16_t processor_f16(float x)
{
    return bal_f32_to_f16(x);
}

static float processor_f32(uint16_t h)
{
    return bal_f16_to_f32(h);
}
#endif

static void check_f32(uint32_t bits, bool has_f16c)
{
    const float x = bal_f32_from_bits(bits);
    if (!same(bal_round_f16(x), round_to(x, 11, -14, 65536.0)))
        fail_msg("f16 of %a (%08x): %a", x, bits, bal_round_f16(x));
    if (!same(bal_round_bf16(x), round_to(x, 8, -126, 0x1p128)))
        fail_msg("bf16 of %a (%08x): %a", x, bits, bal_round_bf16(x));
    if (isnan(x)) {
        assert_int_equal(bal_f32_to_f16(x) >> 15, bits >> 31); /* the sign survives */
        assert_int_equal(bal_f32_to_bf16(x) >> 15, bits >> 31);
    } else if (has_f16c && bal_f32_to_f16(x) != processor_f16(x))
        fail_msg("f16 of %a (%08x): %04x", x, bits, bal_f32_to_f16(x));
}

static void test_there_and_back(void **state)
{
    (void)state;
    const bool has_f16c = bal_cpu_isa() & BAL_ISA_AVX2;
    for (uint32_t h = 0; h < 65536; h++) {
        const float f = bal_f16_to_f32((uint16_t)h), b = bal_bf16_to_f32((uint16_t)h);
        if (isnan(f))
            assert_true((h & 0x7fffu) > 0x7c00u && isnan(bal_round_f16(f)));
        else
            assert_int_equal(bal_f32_to_f16(f), h);
        if (has_f16c && !same(f, processor_f32((uint16_t)h))) fail_msg("f32 of f16 %04x: %a", h, f);
        if (isnan(b))
            assert_true((h & 0x7fffu) > 0x7f80u && isnan(bal_round_bf16(b)));
        else
            assert_int_equal(bal_f32_to_bf16(b), h);
    }
}

/* The value of a pattern by the definition of the format. */
static void test_values(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x7c00u; h++) {
        const int e = (int)(h >> 10);
        const double m = h & 0x3ffu, v = e ? ldexp(1024 + m, e - 25) : ldexp(m, -24);
        assert_true(same(bal_f16_to_f32((uint16_t)h), v));
        assert_true(same(bal_f16_to_f32((uint16_t)(h | 0x8000u)), -v));
    }
    assert_true(bal_f16_to_f32(0x7c00) == INFINITY && bal_f16_to_f32(0xfc00) == -INFINITY);
    assert_true(bal_bf16_to_f32(0x3f80) == 1.0f && bal_bf16_to_f32(0xc049) == -3.140625f);
}

/* Every upper half of an f32 with the lower halves where rounding turns, then random ones. */
static void test_rounding(void **state)
{
    (void)state;
    const bool has_f16c = bal_cpu_isa() & BAL_ISA_AVX2;
    static const uint32_t low[] = {0,      1,      0x0fff, 0x1000, 0x1001, 0x2fff,
                                   0x3000, 0x7fff, 0x8000, 0x8001, 0xefff, 0xffff};
    for (uint32_t h = 0; h < 65536; h++)
        for (int i = 0; i < 12; i++) check_f32(h << 16 | low[i], has_f16c);
    bal_rng rng;
    bal_rng_seed(&rng, 1);
    for (int i = 0; i < 1000000; i++) check_f32((uint32_t)bal_rng_u64(&rng), has_f16c);
    for (int i = 0; i < 1000000; i++) /* the range of f16, its subnormals included */
        check_f32(0x32800000u + (uint32_t)bal_rng_below(&rng, 0x15800000u), has_f16c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_values),
        cmocka_unit_test(test_rounding),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
