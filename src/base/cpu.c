/* SPDX-License-Identifier: MIT */
#include "base/cpu.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#if BAL_X86
#include <cpuid.h>

/* clang 14 does not know "f16c" in __builtin_cpu_supports; the bit needs no check of its own for
 * the operating system, AVX2 has had it. */
static bool has_f16c(void)
{
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

/* Of registers of 256 bits, which the operating system keeps where it keeps AVX2's. */
static bool has_avxvnni(void)
{
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && a >= 1 &&
           __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4);
}

unsigned bal_cpu_isa(void)
{
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !has_f16c())
        return BAL_ISA_NONE;
    const unsigned isa = has_avxvnni() ? BAL_ISA_AVX2 | BAL_ISA_AVXVNNI : BAL_ISA_AVX2;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq"))
        return isa & BAL_ISA_MOST;
    const unsigned vnni = __builtin_cpu_supports("avx512vnni") ? BAL_ISA_VNNI : 0;
    return (isa | BAL_ISA_AVX512 | vnni) & BAL_ISA_MOST;
}
#elif BAL_ARM
#include <asm/hwcap.h>
#include <sys/auxv.h>

unsigned bal_cpu_isa(void)
{
    const unsigned long caps = getauxval(AT_HWCAP);
    if (!(caps & HWCAP_ASIMD)) return BAL_ISA_NONE;
    if (!(caps & HWCAP_ASIMDDP)) return BAL_ISA_NEON;
    const unsigned i8mm = getauxval(AT_HWCAP2) & HWCAP2_I8MM ? BAL_ISA_I8MM : 0;
    return BAL_ISA_NEON | BAL_ISA_NEONDOT | i8mm;
}
#else
unsigned bal_cpu_isa(void)
{
    return BAL_ISA_NONE;
}
#endif

/* The levels above scalar, from the lowest, each with all that it builds on. */
static const struct {
    const char *name;
    unsigned bit, mask;
} levels[] = {
#ifdef __aarch64__
    {"neon", BAL_ISA_NEON, BAL_ISA_NEON},
    {"neondot", BAL_ISA_NEONDOT, BAL_ISA_NEON | BAL_ISA_NEONDOT},
    {"i8mm", BAL_ISA_I8MM, BAL_ISA_NEON | BAL_ISA_NEONDOT | BAL_ISA_I8MM},
#else
    {"avx2", BAL_ISA_AVX2, BAL_ISA_AVX2},
    {"avxvnni", BAL_ISA_AVXVNNI, BAL_ISA_AVX2 | BAL_ISA_AVXVNNI},
    {"avx512", BAL_ISA_AVX512, BAL_ISA_AVX2 | BAL_ISA_AVX512},
    {"avx512vnni", BAL_ISA_VNNI, BAL_ISA_AVX2 | BAL_ISA_AVX512 | BAL_ISA_VNNI},
#endif
};
enum { LEVELS = sizeof levels / sizeof *levels };

bal_status bal_isa_from_name(unsigned *mask, const char *name, bal_error *err)
{
    *mask = BAL_ISA_NONE;
    if (strcmp(name, "scalar") == 0) return BAL_OK;
    for (int i = 0; i < LEVELS; i++)
        if (strcmp(name, levels[i].name) == 0) {
            *mask = levels[i].mask;
            return BAL_OK;
        }
    return bal_fail(err, BAL_E_ARG, "unknown ISA level '%.60s'; expected %s", name, BAL_ISA_LEVELS);
}

const char *bal_isa_name(unsigned mask)
{
    for (int i = LEVELS - 1; i >= 0; i--)
        if (mask & levels[i].bit) return levels[i].name;
    return "scalar";
}

/* Of a line of /proc/cpuinfo its value, where it is one that tells processors apart; else NULL. */
static char *telling_value(char *line)
{
    static const char *const keys[] = {"model name",      "cpu family",  "model",   "stepping",
                                       "CPU implementer", "CPU variant", "CPU part"};
    char *colon = strchr(line, ':');
    if (!colon) return NULL;
    const size_t n = strcspn(line, "\t:");
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        if (strlen(keys[i]) == n && strncmp(line, keys[i], n) == 0)
            return colon + 1 + strspn(colon + 1, " ");
    return NULL;
}

void bal_cpu_name(char out[BAL_CPU_NAME])
{
    char line[256];
    size_t used = 0;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f) && line[0] != '\n') { /* the first processor's */
        const char *value = telling_value(line);
        if (value && used && used < BAL_CPU_NAME - 1) out[used++] = ' ';
        for (; value && *value && used < BAL_CPU_NAME - 1; value++)
            if (*value >= ' ' && *value <= '~') out[used++] = *value;
    }
    if (f) fclose(f);
    out[used] = 0;
    if (!used) memcpy(out, "unknown", sizeof "unknown");
}

/* Machines with more processors than cpu_set_t has bits need a larger set. */
static int count_in_large_mask(void)
{
    for (int n_cpus = 2 * CPU_SETSIZE; n_cpus <= 1 << 20; n_cpus *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)n_cpus);
        if (!set) return 0;
        const size_t n_bytes = CPU_ALLOC_SIZE((size_t)n_cpus);
        const bool good = sched_getaffinity(0, n_bytes, set) == 0;
        const int count = good ? CPU_COUNT_S(n_bytes, set) : 0;
        CPU_FREE(set);
        if (good) return count;
    }
    return 0;
}

int bal_cpu_count(void)
{
    cpu_set_t set;
    const bool good = sched_getaffinity(0, sizeof set, &set) == 0;
    const int count = good ? CPU_COUNT(&set) : errno == EINVAL ? count_in_large_mask() : 0;
    return count > 0 ? count : 1;
}
