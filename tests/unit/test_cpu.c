/* SPDX-License-Identifier: MIT
 * Processor features: names and masks, and detection against what Linux reports. */
#include "check.h"

#include "base/cpu.h"

#include <sched.h>

#ifdef __aarch64__
static const char *const names[] = {"scalar", "neon", "neondot", "i8mm"}, *const other = "avx2";
static const unsigned masks[] = {0, BAL_ISA_NEON, BAL_ISA_NEON | BAL_ISA_NEONDOT,
                                 BAL_ISA_NEON | BAL_ISA_NEONDOT | BAL_ISA_I8MM};
static const char *const shouted = "NEON";
#else
static const char *const names[] = {"scalar", "avx2", "avxvnni", "avx512", "avx512vnni"};
static const unsigned masks[] = {0, BAL_ISA_AVX2, BAL_ISA_AVX2 | BAL_ISA_AVXVNNI,
                                 BAL_ISA_AVX2 | BAL_ISA_AVX512,
                                 BAL_ISA_AVX2 | BAL_ISA_AVX512 | BAL_ISA_VNNI};
static const char *const other = "neon", *const shouted = "AVX2";
#endif

static void test_names(void **state)
{
    (void)state;
    bal_error err;
    unsigned mask;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        ASSERT_OK(bal_isa_from_name(&mask, names[i], &err));
        assert_string_equal(bal_isa_name(mask), names[i]);
        assert_non_null(strstr(BAL_ISA_LEVELS, names[i]));
        assert_int_equal(mask, masks[i]); /* with what it builds on, and nothing else */
    }
    ASSERT_FAILS(BAL_E_ARG, BAL_ISA_LEVELS, bal_isa_from_name(&mask, other, &err));
    assert_int_equal(mask, BAL_ISA_NONE);
    ASSERT_FAILS(BAL_E_ARG, shouted, bal_isa_from_name(&mask, shouted, &err));
}

/* Whether the first line of flags ("Features" on AArch64) of /proc/cpuinfo has all of the words; -1
 * where there is none. */
static int kernel_reports(const char *const words[])
{
    static char line[1 << 16];
    FILE *f = fopen("/proc/cpuinfo", "r");
    int result = -1;
    while (f && result < 0 && fgets(line, sizeof line, f)) {
        if (strncmp(line, "flags", 5) != 0 && strncmp(line, "Features", 8) != 0) continue;
        result = 1;
        line[strcspn(line, "\n")] = ' ';
        for (int i = 0; words[i]; i++) {
            char padded[32];
            snprintf(padded, sizeof padded, " %s ", words[i]);
            if (!strstr(line, padded)) result = 0;
        }
    }
    if (f) fclose(f);
    return result;
}

static void test_detection(void **state)
{
    (void)state;
    const unsigned isa = bal_cpu_isa();
    printf("isa: %s\n", bal_isa_name(isa));
#if BAL_X86
    static const char *const avx2[] = {"avx2", "fma", "f16c", NULL};
    static const char *const avx512[] = {"avx512f", "avx512bw", "avx512vl", "avx512dq", NULL};
    static const char *const vnni[] = {"avx512_vnni", NULL}, *const half[] = {"avx_vnni", NULL};
    assert_false(isa & BAL_ISA_AVX512 && !(isa & BAL_ISA_AVX2));
    const int want2 = kernel_reports(avx2), want512 = kernel_reports(avx512);
    if (want2 < 0) skip();
    unsigned want = want2 ? BAL_ISA_AVX2 : 0;
    if (want2 && kernel_reports(half)) want |= BAL_ISA_AVXVNNI;
    if (want2 && want512) want |= BAL_ISA_AVX512;
    if (want2 && want512 && kernel_reports(vnni)) want |= BAL_ISA_VNNI;
    assert_int_equal(isa, want & BAL_ISA_MOST);
#elif BAL_ARM
    static const char *const neon[] = {"asimd", NULL}, *const dot[] = {"asimddp", NULL};
    static const char *const i8mm[] = {"asimddp", "i8mm", NULL};
    const int want = kernel_reports(neon);
    if (want < 0) skip();
    assert_int_equal((isa & BAL_ISA_NEON) != 0, want);
    assert_int_equal((isa & BAL_ISA_NEONDOT) != 0, want && kernel_reports(dot));
    assert_int_equal((isa & BAL_ISA_I8MM) != 0, want && kernel_reports(i8mm));
#else
    (void)kernel_reports;
    assert_int_equal(isa, BAL_ISA_NONE);
#endif
}

static void test_count(void **state)
{
    (void)state;
    cpu_set_t all, one;
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_int_equal(bal_cpu_count(), CPU_COUNT(&all));
    int first = 0;
    while (!CPU_ISSET(first, &all)) first++;
    CPU_ZERO(&one);
    CPU_SET(first, &one);
    assert_int_equal(sched_setaffinity(0, sizeof one, &one), 0);
    assert_int_equal(bal_cpu_count(), 1);
    assert_int_equal(sched_setaffinity(0, sizeof all, &all), 0);
}

/* The same text each time, printable, and no more than one line of each kind. */
static void test_cpu_name(void **state)
{
    (void)state;
    char name[BAL_CPU_NAME], again[BAL_CPU_NAME];
    memset(name, 0x7f, sizeof name);
    bal_cpu_name(name);
    bal_cpu_name(again);
    assert_string_equal(name, again);
    assert_true(strlen(name) > 0 && strlen(name) < sizeof name);
    for (const char *c = name; *c; c++) assert_true(*c >= ' ' && *c <= '~');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_detection),
        cmocka_unit_test(test_count),
        cmocka_unit_test(test_cpu_name),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
