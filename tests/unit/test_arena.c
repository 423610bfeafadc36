/* SPDX-License-Identifier: MIT
 * The bump arena: alignment, exhaustion, marks, high-water mark, and under AddressSanitizer that
 * what is not handed out is poisoned. */
#include "check.h"

#include "base/arena.h"

#if defined(__SANITIZE_ADDRESS__)
#define HAVE_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define HAVE_ASAN 1
#endif
#endif
#ifdef HAVE_ASAN
#include <sanitizer/asan_interface.h>
#endif

static void test_need(void **state)
{
    (void)state;
    assert_int_equal(bal_arena_need(0), 64);
    assert_int_equal(bal_arena_need(1), 64);
    assert_int_equal(bal_arena_need(64), 64);
    assert_int_equal(bal_arena_need(65), 128);
    assert_true(bal_arena_need(SIZE_MAX) == SIZE_MAX);
    assert_true(bal_arena_need(SIZE_MAX - 63) == SIZE_MAX);
}

/* A plan that adds up needs fits exactly, to the last byte. */
static void test_exact_fit(void **state)
{
    (void)state;
    static const size_t sizes[] = {1, 64, 65, 0, 1000, 4096};
    bal_error err;
    bal_arena a;
    size_t total = 0;
    for (size_t i = 0; i < 6; i++) total += bal_arena_need(sizes[i]);
    ASSERT_OK(bal_arena_init(&a, total, "test", &err));
    uint8_t *p[6];
    for (size_t i = 0; i < 6; i++) {
        ASSERT_OK(bal_arena_alloc(&p[i], &a, sizes[i], &err));
        assert_int_equal((uintptr_t)p[i] % 64, 0);
        memset(p[i], (int)i, sizes[i]);
        for (size_t j = 0; j < i; j++) assert_true(p[i] >= p[j] + sizes[j] && p[i] != p[j]);
    }
    for (size_t i = 0; i < 6; i++)
        for (size_t j = 0; j < sizes[i]; j++) assert_int_equal(p[i][j], i);
    assert_int_equal(a.used, total);
    void *more = &a;
    ASSERT_FAILS(BAL_E_NOMEM, "test: 1 bytes asked for, 0 of", bal_arena_alloc(&more, &a, 1, &err));
    assert_null(more);
    bal_arena_deinit(&a);
    bal_arena_deinit(&a);
}

static void test_marks(void **state)
{
    (void)state;
    bal_error err;
    bal_arena a;
    ASSERT_OK(bal_arena_init(&a, 1024, "test", &err));
    int *kept, *first, *second;
    ASSERT_OK(BAL_ARENA_NEW(kept, &a, 16, &err));
    for (int i = 0; i < 16; i++) kept[i] = i;
    const bal_arena_mark mark = bal_arena_get_mark(&a);
    ASSERT_OK(BAL_ARENA_NEW(first, &a, 200, &err));
    assert_int_equal(a.high, 64 + 832);
    bal_arena_reset(&a, mark);
    assert_int_equal(a.used, 64);
    ASSERT_OK(BAL_ARENA_NEW(second, &a, 10, &err));
    assert_ptr_equal(first, second);
    assert_int_equal(a.high, 64 + 832);
    for (int i = 0; i < 16; i++) assert_int_equal(kept[i], i);
    bal_arena_deinit(&a);
}

static void test_overflow(void **state)
{
    (void)state;
    bal_error err;
    bal_arena a;
    ASSERT_FAILS(BAL_E_NOMEM, "too much", bal_arena_init(&a, SIZE_MAX - 10, "too much", &err));
    bal_arena_deinit(&a);
    ASSERT_OK(bal_arena_init(&a, 256, "test", &err));
    uint64_t *p;
    ASSERT_FAILS(BAL_E_NOMEM, "asked for", BAL_ARENA_NEW(p, &a, SIZE_MAX / 8 + 2, &err));
    assert_null(p);
    ASSERT_FAILS(BAL_E_NOMEM, "asked for", bal_arena_alloc(&p, &a, SIZE_MAX, &err));
    assert_int_equal(a.used, 0);
    ASSERT_OK(BAL_ARENA_NEW(p, &a, 32, &err));
    bal_arena_deinit(&a);
}

static void test_poison(void **state)
{
    (void)state;
#ifdef HAVE_ASAN
    bal_error err;
    bal_arena a;
    ASSERT_OK(bal_arena_init(&a, 512, "test", &err));
    assert_true(__asan_address_is_poisoned(a.base));
    const bal_arena_mark mark = bal_arena_get_mark(&a);
    uint8_t *p, *full;
    ASSERT_OK(bal_arena_alloc(&full, &a, 64, &err));
    ASSERT_OK(bal_arena_alloc(&p, &a, 13, &err));
    assert_false(__asan_address_is_poisoned(full + 63));
    assert_true(__asan_address_is_poisoned(full + 64)); /* the redzone */
    assert_false(__asan_address_is_poisoned(p + 12));
    assert_true(__asan_address_is_poisoned(p + 13));
    bal_arena_reset(&a, mark);
    assert_true(__asan_address_is_poisoned(p));
    bal_arena_deinit(&a);
#else
    printf("skipped: built without AddressSanitizer\n");
    skip();
#endif
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_need),   cmocka_unit_test(test_exact_fit),
        cmocka_unit_test(test_marks),  cmocka_unit_test(test_overflow),
        cmocka_unit_test(test_poison),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
