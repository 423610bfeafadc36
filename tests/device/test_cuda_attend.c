/* SPDX-License-Identifier: MIT
 * Attention of the CUDA backend, run by the shim or as BALLAST_CUDA_LIB says, beside the contract
 * in plain C on the same cache: one row over more pages than there are blocks to split them, more
 * rows than are split at all, and tiles of a prompt. Bound: f32 sums 1e-5, f16 queries and weights
 * 4e-3 of values in [-1, 1]. */
#include "device_case.h"

#include "base/half.h"
#include "device/load.h"

#include <math.h>
#include <unistd.h>

enum { MOST_PAGES = 72, MOST_ROWS = 80 };

typedef struct attend_case {
    int heads, kv, dim, first, rows, tile; /* rows at positions first .. of one sequence */
    int element;                           /* bytes of one in the cache */
    double limit;
} attend_case;

static size_t tile_bytes(const attend_case *c)
{
    const size_t values = (size_t)(BAL_DEVICE_PAGE * c->dim * c->element);
    return values + (c->element == 1 ? BAL_DEVICE_PAGE * sizeof(float) : 0);
}

static float noise(uint64_t *x)
{
    *x ^= *x << 13, *x ^= *x >> 7, *x ^= *x << 17;
    return (float)(int32_t)(*x >> 32) * 0x1p-31f;
}

static char plain[1024], checked[1024]; /* libraries */

/* Both go through the same variable, so what it said is kept. */
static int find_libs(void **state)
{
    (void)state;
    const char *folder = getenv("BALLAST_BINARY_DIR"), *named = getenv("BALLAST_CUDA_LIB");
    snprintf(plain, sizeof plain, "%s/tests/plain_device.so", folder);
    if (named && *named)
        snprintf(checked, sizeof checked, "%s", named);
    else
        snprintf(checked, sizeof checked, "%s/tests/ballast_cuda_shim.so", folder);
    unsetenv("PLAIN_DEVICE");
    return 0;
}

static void open_lib(bal_device_handle *h, const char *library)
{
    bal_error err = {0};
    bal_device_choice c = {0};
    if (library == checked) ASSERT_OK(bal_device_parse(device_under_test(), &c, &err));
    setenv("BALLAST_CUDA_LIB", library, 1);
    if (access(library, R_OK) != 0) skip();
    ASSERT_OK(bal_device_open(h, c.index, &err));
}

typedef struct room {
    bal_dptr q, out, work, words, pages, cache;
} room;

static void allocate(const bal_device_handle *h, const attend_case *c, room *r, size_t page_bytes)
{
    bal_error err = {0};
    const size_t row = (size_t)(c->heads * c->dim) * sizeof(float);
    const struct {
        bal_dptr *at;
        size_t n;
    } all[] = {{&r->q, MOST_ROWS * row},
               {&r->out, MOST_ROWS * row},
               {&r->work, h->api->attend_bytes(h->device, c->rows, c->heads, c->dim)},
               {&r->words, 4 * MOST_ROWS * sizeof(int32_t)},
               {&r->pages, MOST_PAGES * sizeof(bal_dptr)},
               {&r->cache, MOST_PAGES * page_bytes}};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        ASSERT_OK(h->api->alloc(h->device, all[i].at, all[i].n, "a test", &err));
}

/* at, list, tiles; pages in falling order, so that nobody takes them for one array. */
static int load_words(const bal_device_handle *h, const attend_case *c, const room *r,
                      size_t page_bytes)
{
    int32_t words[4 * MOST_ROWS] = {0};
    bal_dptr pages[MOST_PAGES];
    int n = 0;
    for (int i = 0; i < c->rows; i++) words[i] = c->first + i;
    for (int i = 0; i < c->rows; i += c->tile, n++) {
        words[2 * MOST_ROWS + 2 * n] = i;
        words[2 * MOST_ROWS + 2 * n + 1] = c->rows - i < c->tile ? c->rows - i : c->tile;
    }
    for (size_t i = 0; i < MOST_PAGES; i++) pages[i] = r->cache + (MOST_PAGES - 1 - i) * page_bytes;
    h->api->upload(h->device, r->words, words, sizeof words);
    h->api->upload(h->device, r->pages, pages, sizeof pages);
    return n;
}

static void fill_tile(const attend_case *c, uint64_t *seed, uint8_t *tile)
{
    const size_t n = (size_t)(BAL_DEVICE_PAGE * c->dim);
    for (size_t i = 0; i < n; i++) {
        const float v = noise(seed);
        const uint16_t half = bal_f32_to_f16(v);
        const int8_t code = (int8_t)(127 * v);
        const void *from = c->element == 4   ? (const void *)&v
                           : c->element == 2 ? (const void *)&half
                                             : &code;
        memcpy(tile + i * (size_t)c->element, from, (size_t)c->element);
    }
    for (size_t i = 0; c->element == 1 && i < BAL_DEVICE_PAGE; i++) {
        const float scale = (1.0f + fabsf(noise(seed))) / 254.0f;
        memcpy(tile + n + i * sizeof scale, &scale, sizeof scale);
    }
}

static void fill(const bal_device_handle *h, const attend_case *c, const room *r, size_t page_bytes)
{
    uint64_t seed = 77;
    const size_t n = MOST_PAGES * page_bytes, m = MOST_ROWS * (size_t)(c->heads * c->dim);
    uint8_t *cache = malloc(n);
    float *q = malloc(m * sizeof *q);
    assert_true(cache && q);
    for (size_t at = 0; at < n; at += tile_bytes(c)) fill_tile(c, &seed, cache + at);
    for (size_t i = 0; i < m; i++) q[i] = 3.0f * noise(&seed);
    h->api->upload(h->device, r->cache, cache, n);
    h->api->upload(h->device, r->q, q, m * sizeof *q);
    free(cache);
    free(q);
}

static float *run(const char *library, const attend_case *c)
{
    bal_error err = {0};
    bal_device_handle h;
    room r;
    open_lib(&h, library);
    const size_t tile = tile_bytes(c), page = 2 * (size_t)c->kv * tile;
    allocate(&h, c, &r, page);
    fill(&h, c, &r, page);
    const size_t word = sizeof(int32_t);
    const bal_attend_args a = {
        .q = r.q,
        .out = r.out,
        .ld = (size_t)(c->heads * c->dim),
        .tiles = r.words + 2 * MOST_ROWS * word,
        .n_tiles = load_words(&h, c, &r, page),
        .tile_rows = c->tile,
        .m = c->rows,
        .heads = c->heads,
        .keys = c->first + c->rows,
        .cache = {c->element, c->kv, c->dim, tile, page},
        .rows = {.at = r.words, .list = r.words + MOST_ROWS * word, .pages = r.pages},
        .work = r.work};
    h.api->attend(h.device, &a);
    const size_t n = (size_t)(c->rows * c->heads * c->dim);
    float *out = calloc(n, sizeof *out);
    h.api->download(h.device, out, r.out, n * sizeof *out);
    ASSERT_OK(h.api->sync(h.device, &err));
    const bal_dptr all[] = {r.q, r.out, r.work, r.words, r.pages, r.cache};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) h.api->release(h.device, all[i]);
    bal_device_close(&h);
    return out;
}

static void attention(void **state)
{
    (void)state;
    const attend_case cases[] = {
        {2, 1, 8, 4200, 1, 1, 2, 1e-5},   /* two pages a block */
        {3, 1, 8, 200, 1, 1, 2, 1e-5},    /* one page a block */
        {2, 2, 8, 70, 66, 1, 2, 1e-5},    /* not split */
        {4, 2, 24, 100, 40, 32, 2, 4e-3}, /* tiles of a prompt */
        {14, 2, 128, 300, 1, 1, 2, 1e-5}, /* seven heads share keys, of every type */
        {14, 2, 128, 300, 1, 1, 4, 1e-5},  {14, 2, 128, 300, 1, 1, 1, 1e-5},
        {4, 4, 72, 130, 3, 1, 2, 1e-5},   /* rows of 9 pieces */
        {4, 4, 72, 130, 3, 1, 1, 1e-5},   /* and of no whole number of them */
        {32, 2, 160, 100, 2, 1, 2, 1e-5}, /* sixteen heads, tiles of more pieces than go together */
        {6, 2, 6, 90, 2, 1, 2, 1e-5},     /* no whole quads */
        {1, 1, 200, 150, 70, 35, 4, 1e-5}, /* a prompt with heads too wide for tensor cores */
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const attend_case *c = &cases[i];
        float *want = run(plain, c), *got = run(checked, c);
        double worst = 0;
        for (int k = 0; k < c->rows * c->heads * c->dim; k++) {
            assert_true(isfinite(got[k]));
            worst = fmax(worst, fabs((double)want[k] - (double)got[k]));
        }
        printf("case %zu: %.2g\n", i, worst);
        assert_true(worst > 0 && worst < c->limit);
        free(want);
        free(got);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(attention)};
    return cmocka_run_group_tests(tests, find_libs, NULL);
}
