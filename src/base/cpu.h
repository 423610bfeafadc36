/* SPDX-License-Identifier: MIT
 * What this processor can run and how many of them we may use. Detection only: choosing a kernel
 * is the business of op/. */
#ifndef BAL_BASE_CPU_H
#define BAL_BASE_CPU_H

#include "base/status.h"

/* Bits of an ISA mask. A kernel compiled with the flags of a level runs where all of its bits are
 * set. A level is never set without those that it builds on, here named last. */
enum {
    BAL_ISA_NONE = 0,
    BAL_ISA_AVX2 = 1 << 0,    /* x86: avx2, fma, f16c */
    BAL_ISA_AVX512 = 1 << 1,  /* avx512 f, bw, vl, dq; avx2 */
    BAL_ISA_VNNI = 1 << 2,    /* avx512 vnni; avx512 */
    BAL_ISA_NEON = 1 << 3,    /* AArch64: asimd */
    BAL_ISA_NEONDOT = 1 << 4, /* asimddp: sdot; asimd */
    BAL_ISA_AVXVNNI = 1 << 5, /* avx_vnni, of processors without AVX-512; avx2 */
    BAL_ISA_I8MM = 1 << 6     /* i8mm: smmla; asimddp */
};

/* What this build may use of them: a build that tests lesser processors sets less. */
#ifndef BAL_ISA_MOST
#define BAL_ISA_MOST ~0u
#endif

/* Names of the levels of this architecture, from none up. */
#ifdef __aarch64__
#define BAL_ISA_LEVELS "scalar|neon|neondot|i8mm"
#else
#define BAL_ISA_LEVELS "scalar|avx2|avxvnni|avx512|avx512vnni"
#endif

/* Mask of what processor and operating system support and this build has and may use; BAL_ISA_NONE
 * in a portable build. Keeps no state and on x86 executes CPUID, which takes microseconds in a
 * virtual machine: ask once when opening something and keep the answer there. */
unsigned bal_cpu_isa(void);

/* A name of BAL_ISA_LEVELS to the mask of that level and all that it builds on. Any other name
 * fails with BAL_E_ARG and a sentence listing them; *mask is then BAL_ISA_NONE. */
bal_status bal_isa_from_name(unsigned *mask, const char *name, bal_error *err);
/* Name of the highest level in `mask`. */
const char *bal_isa_name(unsigned mask);

/* What the operating system calls this processor: its name, family, model and stepping, or what
 * AArch64 has in their place; printable ASCII, "unknown" where nothing is said. */
enum { BAL_CPU_NAME = 160 };
void bal_cpu_name(char out[BAL_CPU_NAME]);

/* Number of processors this thread may be scheduled on (affinity mask), at least 1. */
int bal_cpu_count(void);

#endif
