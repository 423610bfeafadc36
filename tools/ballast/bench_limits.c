/* SPDX-License-Identifier: MIT */
#include "bench_limits.h"

#include <string.h>
#include <time.h>

#if BAL_X86
#include <immintrin.h>
#endif

/* STEPS: loop steps of a piece on lanes of one element; PIECES for each thread even out a busy core
 */
enum {
    READ_CHUNK = 1 << 20,
    STEPS = 1 << 22,
    CHAINS = 12,
    INT8_CHAINS = 8,
    PIECES = 4,
    CACHE_BYTES = 512 << 10,
    CACHE_ROUNDS = 64,
    CLOCK_STEPS = 1 << 20,
    CLOCK_CYCLES = 3, /* of one multiplication */
    BARRIERS = 2000
};

double bal_bench_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static const struct {
    const char *name;
    int bits;
    bool reads;
} limits[BAL_LIMITS] = {{"read", 0, true},    {"fma", 32, false}, {"int8", 8, false},
                        {"bf16", 16, false},  {"cache", 0, true}, {"clock", 0, false},
                        {"barrier", 0, false}};

const char *bal_limit_name(bal_limit limit)
{
    return limits[limit].name;
}

int bal_limit_bits(bal_limit limit)
{
    return limits[limit].bits;
}

bool bal_limit_reads(bal_limit limit)
{
    return limits[limit].reads;
}

typedef struct job {
    bal_limit limit;
    const char *isa;
    const uint8_t *data;
    size_t chunks;
} job;

/* ---- Reading --------------------------------------------------------------------------------- */

#if BAL_X86
/* Four places at once: one stream alone does not fill the prefetchers (measured 1.3 times slower
 * on Zen 3). */
__attribute__((target("avx2"))) static uint64_t read_avx2(const uint8_t *p, size_t n_bytes)
{
    __m256i s[4] = {_mm256_setzero_si256(), _mm256_setzero_si256(), _mm256_setzero_si256(),
                    _mm256_setzero_si256()};
    const size_t quarter = n_bytes / 4;
    for (size_t i = 0; i < quarter; i += 32)
        for (size_t l = 0; l < 4; l++)
            s[l] = _mm256_xor_si256(s[l], _mm256_loadu_si256((const void *)(p + l * quarter + i)));
    s[0] = _mm256_xor_si256(_mm256_xor_si256(s[0], s[1]), _mm256_xor_si256(s[2], s[3]));
    return (uint64_t)_mm256_extract_epi64(s[0], 0) ^ (uint64_t)_mm256_extract_epi64(s[0], 3);
}
#endif

static uint64_t read_scalar(const uint8_t *p, size_t n_bytes)
{
    uint64_t s = 0, v[8];
    for (size_t i = 0; i < n_bytes; i += sizeof v) {
        memcpy(v, p + i, sizeof v);
        for (int l = 0; l < 8; l++) s ^= v[l];
    }
    return s;
}

typedef uint64_t read_fn(const uint8_t *p, size_t n_bytes);

/* 32-byte loads saturate memory on AVX-512 processors too. */
static read_fn *read_loop(const char *isa)
{
#if BAL_X86
    if (strcmp(isa, "scalar")) return read_avx2;
#endif
    (void)isa;
    return read_scalar;
}

/* ---- Floats ---------------------------------------------------------------------------------- */

#if BAL_X86
/* Twelve independent chains: enough for two units of four cycles. */
#define FMA_LOOP(type, set1, fmadd, store, lanes)                                                  \
    type s[CHAINS];                                                                                \
    const type x = set1(0.5f), y = set1(0.25f);                                                    \
    for (int i = 0; i < CHAINS; i++) s[i] = set1((float)i);                                        \
    for (size_t t = 0; t < steps; t++)                                                             \
        for (int i = 0; i < CHAINS; i++) s[i] = fmadd(s[i], x, y);                                 \
    float out[lanes];                                                                              \
    for (int i = 1; i < CHAINS; i++) s[0] = fmadd(s[i], x, s[0]);                                  \
    store(out, s[0]);                                                                              \
    return out[0];

__attribute__((target("avx2,fma"))) static float fma_avx2(size_t steps)
{
    FMA_LOOP(__m256, _mm256_set1_ps, _mm256_fmadd_ps, _mm256_storeu_ps, 8)
}

__attribute__((target("avx512f"))) static float fma_avx512(size_t steps)
{
    FMA_LOOP(__m512, _mm512_set1_ps, _mm512_fmadd_ps, _mm512_storeu_ps, 16)
}
#endif

/* Plain multiply and add where no vector level is known. */
static float fma_scalar(size_t steps)
{
    float s[CHAINS];
    for (int i = 0; i < CHAINS; i++) s[i] = (float)i;
    for (size_t t = 0; t < steps; t++)
        for (int i = 0; i < CHAINS; i++) s[i] = s[i] * 0.5f + 0.25f;
    for (int i = 1; i < CHAINS; i++) s[0] += s[i];
    return s[0];
}

typedef float fma_fn(size_t steps);

/* The loop of a level and how many multiply-adds one of its chains does a step. */
static fma_fn *fma_loop(const char *isa, int *lanes)
{
#if BAL_X86
    if (!strncmp(isa, "avx512", 6)) return *lanes = 16, fma_avx512;
    if (!strncmp(isa, "avx", 3)) return *lanes = 8, fma_avx2;
#endif
    (void)isa;
    return *lanes = 1, fma_scalar;
}

/* ---- Bytes ----------------------------------------------------------------------------------- */

#if BAL_X86
/* Eight chains, each in a variable of its own: gcc 12 keeps an array of them in memory, at a third
 * of the rate. The empty asm makes every product a new one, or the compiler would make it once. */
#define INT8_STEP(s, dot)                                                                          \
    __asm__ volatile("" : "+v"(q));                                                                \
    s = dot(s, q, x);
#define INT8_LOOP(type, set1, dot, add, store, bytes)                                              \
    type q = set1(3), s0 = q, s1 = q, s2 = q, s3 = q, s4 = q, s5 = q, s6 = q, s7 = q;              \
    const type x = set1(5);                                                                        \
    for (size_t t = 0; t < steps; t++) {                                                           \
        INT8_STEP(s0, dot)                                                                         \
        INT8_STEP(s1, dot)                                                                         \
        INT8_STEP(s2, dot)                                                                         \
        INT8_STEP(s3, dot)                                                                         \
        INT8_STEP(s4, dot)                                                                         \
        INT8_STEP(s5, dot)                                                                         \
        INT8_STEP(s6, dot)                                                                         \
        INT8_STEP(s7, dot)                                                                         \
    }                                                                                              \
    uint8_t out[bytes];                                                                            \
    s0 = add(add(add(s0, s1), add(s2, s3)), add(add(s4, s5), add(s6, s7)));                        \
    store((void *)out, s0);                                                                        \
    return (float)out[0];

__attribute__((target("avx2"))) static float int8_avx2(size_t steps)
{
#define DOT(s, q, x) _mm256_add_epi16(s, _mm256_maddubs_epi16(q, x))
    INT8_LOOP(__m256i, _mm256_set1_epi8, DOT, _mm256_add_epi16, _mm256_storeu_si256, 32)
#undef DOT
}

/* Product and sum are one instruction. */
__attribute__((target("avx2,avxvnni"))) static float int8_avxvnni(size_t steps)
{
    INT8_LOOP(__m256i, _mm256_set1_epi8, _mm256_dpbusd_avx_epi32, _mm256_add_epi32,
              _mm256_storeu_si256, 32)
}

__attribute__((target("avx512bw"))) static float int8_avx512(size_t steps)
{
#define DOT(s, q, x) _mm512_add_epi16(s, _mm512_maddubs_epi16(q, x))
    INT8_LOOP(__m512i, _mm512_set1_epi8, DOT, _mm512_add_epi16, _mm512_storeu_si512, 64)
#undef DOT
}

__attribute__((target("avx512bw,avx512vnni"))) static float int8_avx512vnni(size_t steps)
{
    INT8_LOOP(__m512i, _mm512_set1_epi8, _mm512_dpbusd_epi32, _mm512_add_epi32, _mm512_storeu_si512,
              64)
}
#endif

static float int8_scalar(size_t steps)
{
    int32_t s[INT8_CHAINS] = {0};
    int8_t q[INT8_CHAINS] = {3}, x[INT8_CHAINS] = {5};
    for (size_t t = 0; t < steps; t++) {
        __asm__ volatile("" : : "r"(q), "r"(x) : "memory"); /* read them again */
        for (int i = 0; i < INT8_CHAINS; i++) s[i] += q[i] * x[i];
    }
    return (float)s[0];
}

/* As fma_loop, for bytes. */
static fma_fn *int8_loop(const char *isa, int *lanes)
{
#if BAL_X86
    if (!strcmp(isa, "avx512vnni")) return *lanes = 64, int8_avx512vnni;
    if (!strcmp(isa, "avx512")) return *lanes = 64, int8_avx512;
    if (!strcmp(isa, "avxvnni")) return *lanes = 32, int8_avxvnni;
    if (!strcmp(isa, "avx2")) return *lanes = 32, int8_avx2;
#endif
    (void)isa;
    return *lanes = 1, int8_scalar;
}

/* ---- bf16 ------------------------------------------------------------------------------------ */

#if BAL_X86
__attribute__((target("avx512f,avx512bf16"))) static float bf16_avx512(size_t steps)
{
    __m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
    __m512i q = _mm512_set1_epi16(0x3f00);
    for (size_t t = 0; t < steps; t++) {
#define DOT(s, q, x) _mm512_dpbf16_ps(s, (__m512bh)(q), (__m512bh)(x))
        const __m512i x = q;
        INT8_STEP(s0, DOT)
        INT8_STEP(s1, DOT)
        INT8_STEP(s2, DOT)
        INT8_STEP(s3, DOT)
        INT8_STEP(s4, DOT)
        INT8_STEP(s5, DOT)
        INT8_STEP(s6, DOT)
        INT8_STEP(s7, DOT)
#undef DOT
    }
    float out[16];
    s0 = _mm512_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)),
                       _mm512_add_ps(_mm512_add_ps(s4, s5), _mm512_add_ps(s6, s7)));
    _mm512_storeu_ps(out, s0);
    return out[0];
}
#endif

/* NULL where the processor has no such products. */
static fma_fn *bf16_loop(const char *isa, int *lanes)
{
    *lanes = 1;
#if BAL_X86
    if (!strncmp(isa, "avx512", 6) && __builtin_cpu_supports("avx512bf16"))
        return *lanes = 32, bf16_avx512;
#endif
    (void)isa;
    return NULL;
}

/* ---- Runs ------------------------------------------------------------------------------------ */

static void read_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    volatile uint64_t keep = 0; /* or the loop is dropped */
    keep ^= read_loop(j->isa)(j->data + begin * READ_CHUNK, (end - begin) * READ_CHUNK);
    (void)keep;
    (void)lane;
}

static void cache_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    volatile uint64_t keep = 0;
    for (size_t i = begin; i < end; i++)
        for (int r = 0; r < CACHE_ROUNDS; r++)
            keep ^= read_loop(j->isa)(j->data + (size_t)lane % j->chunks * READ_CHUNK, CACHE_BYTES);
    (void)keep;
}

static void clock_lane(void *ctx, size_t begin, size_t end, int lane)
{
    volatile uint64_t factor = 3;
    const uint64_t by = factor;
    uint64_t v = begin + end;
    for (int i = 0; i < CLOCK_STEPS; i++) {
        v *= by;
        __asm__ volatile("" : "+r"(v)); /* no two of them become one */
    }
    factor = v;
    (void)ctx;
    (void)lane;
}

static void nothing(void *ctx, size_t begin, size_t end, int lane)
{
    (void)ctx;
    (void)begin;
    (void)end;
    (void)lane;
}

static fma_fn *loop_of(const job *j, int *lanes)
{
    if (j->limit == BAL_LIMIT_BF16) return bf16_loop(j->isa, lanes);
    return j->limit == BAL_LIMIT_FMA ? fma_loop(j->isa, lanes) : int8_loop(j->isa, lanes);
}

static void multiply_lane(void *ctx, size_t begin, size_t end, int lane)
{
    const job *j = ctx;
    int lanes;
    fma_fn *fn = loop_of(j, &lanes);
    volatile float keep = 0;
    for (size_t i = begin; i < end; i++) keep += fn(STEPS / (size_t)lanes);
    (void)keep;
    (void)lane;
}

static double run_multiply(job *j, bal_pool *pool)
{
    const size_t pieces = (size_t)bal_pool_size(pool) * PIECES;
    int lanes;
    if (!loop_of(j, &lanes)) return 0;
    bal_pool_run(pool, multiply_lane, j, pieces, 1);
    /* STEPS is a multiple of every number of lanes */
    return (double)pieces * (j->limit == BAL_LIMIT_FMA ? CHAINS : INT8_CHAINS) * STEPS;
}

/* Cycles of one core, counted on each at once. */
static double run_clock(job *j, bal_pool *pool)
{
#ifdef __x86_64__
    bal_pool_run(pool, clock_lane, j, (size_t)bal_pool_size(pool), 1);
    return (double)CLOCK_CYCLES * CLOCK_STEPS;
#else
    (void)j;
    (void)pool;
    return 0;
#endif
}

bool bal_limit_exists(bal_limit limit, const char *isa)
{
    int lanes;
#ifndef __x86_64__
    if (limit == BAL_LIMIT_CLOCK) return false;
#endif
    return limit != BAL_LIMIT_BF16 || bf16_loop(isa, &lanes);
}

double bal_limit_run(bal_limit limit, const char *isa, bal_pool *pool, bal_limit_buffer buffer)
{
    const size_t chunks = buffer.n_bytes / READ_CHUNK, lanes = (size_t)bal_pool_size(pool);
    job j = {limit, isa, buffer.data, chunks};
    switch (limit) {
    case BAL_LIMIT_READ:
        bal_pool_run(pool, read_lane, &j, chunks, 1);
        return (double)(chunks * READ_CHUNK);
    case BAL_LIMIT_CACHE:
        bal_pool_run(pool, cache_lane, &j, lanes * PIECES, 1);
        return (double)(lanes * PIECES) * CACHE_ROUNDS * CACHE_BYTES;
    case BAL_LIMIT_CLOCK: return run_clock(&j, pool);
    case BAL_LIMIT_BARRIER:
        for (int i = 0; i < BARRIERS; i++) bal_pool_run(pool, nothing, NULL, lanes, 1);
        return BARRIERS;
    default: return run_multiply(&j, pool);
    }
}
