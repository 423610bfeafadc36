/* SPDX-License-Identifier: MIT
 * The shape table as linears read it: whatever it says, the bits are those of the rules; what it
 * cannot say, or is not asked, the rules decide. */
#include "check.h"

#include "base/half.h"
#include "base/rng.h"
#include "op/linear.h"

enum { N = 53, K = 100, M = 301, RANK = 3, ROW_COUNTS = 12 };
static const int row_counts[ROW_COUNTS] = {1, 2, 9, 11, 12, 13, 36, 47, 64, 100, 241, M};

typedef struct format {
    bal_type type;
    bal_packed_kind kind;
    bal_act act;
} format;

#define A8(...)                                                                                    \
    {                                                                                              \
        .kind = BAL_ACT_A8, __VA_ARGS__                                                            \
    }
static const format formats[] = {
    {BAL_TYPE_F32, 0, {0}},
    {BAL_TYPE_F16, 0, {0}},
    {BAL_TYPE_BF16, 0, {0}},
    {BAL_TYPE_W2, BAL_PACKED_GROUPS, {0}},
    {BAL_TYPE_W3, BAL_PACKED_GROUPS, {0}},
    {BAL_TYPE_W4, BAL_PACKED_GROUPS, {0}},
    {BAL_TYPE_W6, BAL_PACKED_GROUPS, {0}},
    {BAL_TYPE_W8, BAL_PACKED_GROUPS, {0}},
    {BAL_TYPE_W2, BAL_PACKED_GROUPS, A8(.group = 0)},
    {BAL_TYPE_W3, BAL_PACKED_GROUPS, A8(.group = 32)},
    {BAL_TYPE_W4, BAL_PACKED_GROUPS, A8(.scale = BAL_ACT_STATIC_MODALITY, .fixed = {0.02f, 0.05f})},
    {BAL_TYPE_W6, BAL_PACKED_GROUPS, A8(.group = 0)},
    {BAL_TYPE_W8, BAL_PACKED_GROUPS, A8(.group = 64)},
    {BAL_TYPE_W2, BAL_PACKED_TABLE, {0}},
    {BAL_TYPE_W3, BAL_PACKED_TABLE, {0}},
    {BAL_TYPE_W4, BAL_PACKED_TABLE, {0}},
    {BAL_TYPE_W4, BAL_PACKED_TWO_LEVEL, {0}},
    {BAL_TYPE_W4, BAL_PACKED_TWO_LEVEL, A8(.group = 0)},
};
enum { FORMATS = sizeof formats / sizeof *formats };

typedef struct setup {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
    bal_linear l;
    uint8_t *weights;
    uint16_t low_a[RANK * K], low_b[N * RANK];
    float x[M * K], bias[N], want[M * N], got[M * N];
    uint8_t modality[M];
} setup;

static uint8_t *random_bytes(bal_rng *r, size_t n)
{
    uint8_t *bytes = aligned_alloc(64, n);
    assert_non_null(bytes);
    for (size_t i = 0; i < n; i++) bytes[i] = (uint8_t)bal_rng_below(r, 256);
    return bytes;
}

/* Any bits decode to something; scales are made sane, zero points and steps kept within a byte. */
static void make_packed(setup *s, bal_rng *r, const format *f)
{
    bal_error err;
    bal_packed_layout l;
    const int bits = bal_type_get(f->type)->bits;
    ASSERT_OK(bal_packed_layout_of(&l, (bal_packed_format){f->kind, bits, 32}, N, K, &err));
    s->weights = random_bytes(r, l.n_bytes);
    const size_t lanes = l.panels * BAL_PANEL;
    uint16_t *scales = (uint16_t *)(void *)(s->weights + l.scales_offset);
    for (size_t i = 0; i < lanes * bal_packed_scale_count(&l); i++)
        scales[i] = bal_f32_to_f16(0.01f + bal_rng_f32(r) * 0.1f);
    for (size_t i = 0; i < lanes * l.groups && f->kind != BAL_PACKED_TABLE; i++) {
        s->weights[l.zeros_offset + i] = (uint8_t)bal_rng_below(r, 1u << bits);
        if (f->kind == BAL_PACKED_TWO_LEVEL)
            s->weights[l.steps_offset + i] = (uint8_t)(1 + bal_rng_below(r, 8));
    }
    ASSERT_OK(bal_packed_view_init(&s->l.packed, &l, s->weights, l.n_bytes, &err));
    s->l.rank = RANK, s->l.low_a = s->low_a, s->l.low_b = s->low_b;
}

static void make_float(setup *s, bal_rng *r, bal_type type)
{
    s->weights = aligned_alloc(64, N * K * sizeof(float) + 48);
    assert_non_null(s->weights);
    for (size_t i = 0; i < N * K; i++) {
        const float v = bal_rng_f32(r) - 0.5f;
        const uint16_t half = type == BAL_TYPE_BF16 ? bal_f32_to_bf16(v) : bal_f32_to_f16(v);
        if (type == BAL_TYPE_F32)
            memcpy(s->weights + i * sizeof v, &v, sizeof v);
        else
            memcpy(s->weights + i * sizeof half, &half, sizeof half);
    }
    s->l.w = s->weights;
}

static setup *open_setup(const format *f, int threads, unsigned isa)
{
    bal_error err;
    bal_rng r;
    setup *s = calloc(1, sizeof *s);
    assert_non_null(s);
    bal_rng_seed(&r, 31);
    ASSERT_OK(bal_pool_create(&s->pool, threads, &err));
    bal_kernels_init(&s->kernels, isa);
    ASSERT_OK(bal_exec_create(&s->e, s->pool, &s->kernels, K, &err));
    assert_null(s->e.shapes);
    for (int i = 0; i < M * K; i++) s->x[i] = 3.0f * bal_rng_f32(&r) - 1.5f;
    for (int i = 0; i < N; i++) s->bias[i] = bal_rng_f32(&r);
    for (int i = 0; i < M; i++) s->modality[i] = i % 5 ? BAL_VISION : BAL_PROMPT;
    for (int i = 0; i < RANK * K; i++) s->low_a[i] = bal_f32_to_f16(bal_rng_f32(&r) - 0.5f);
    for (int i = 0; i < RANK * N; i++) s->low_b[i] = bal_f32_to_f16(bal_rng_f32(&r) - 0.5f);
    s->l = (bal_linear){.type = f->type, .n = N, .k = K, .bias = s->bias, .act = f->act};
    if (bal_type_get(f->type)->packed)
        make_packed(s, &r, f);
    else
        make_float(s, &r, f->type);
    return s;
}

static void close_setup(setup *s)
{
    bal_exec_destroy(&s->e);
    bal_pool_destroy(s->pool);
    free(s->weights);
    free(s);
}

static void forward(setup *s, const bal_shapes *table, int m, float *y)
{
    s->e.shapes = table;
    bal_linear_forward_rows(&s->e, &s->l, s->x, K, s->modality, m, y, N);
    s->e.shapes = NULL;
}

static void check_choice(setup *s, int m, bal_shapes_choice c)
{
    bal_shapes_entry entry = {bal_linear_key(&s->l, (size_t)m), c};
    const bal_shapes table = {&entry, 1};
    bal_exec forced = s->e;
    forced.shapes = &table;
    const bal_shapes_choice taken = bal_linear_choice(&forced, &s->l, (size_t)m);
    assert_memory_equal(&taken, &c, sizeof c);
    memset(s->got, 0xff, sizeof s->got);
    forward(s, &table, m, s->got);
    if (memcmp(s->got, s->want, (size_t)(m * N) * sizeof *s->got) != 0)
        fail_msg("type %d kind %d act %d, %d rows: kernel %d, chunk %d, grain %d: other bits",
                 (int)s->l.type, (int)s->l.packed.layout.kind, (int)s->l.act.kind, m, c.kernel,
                 c.chunk, c.grain);
}

/* Every kernel that takes the format, the smallest, an odd and the largest chunk and grain. */
static int check_extremes(setup *s, int m)
{
    const uint16_t grains[] = {1, 3, UINT16_MAX};
    const bal_shapes_key key = bal_linear_key(&s->l, (size_t)m);
    int kernels = 0;
    forward(s, NULL, m, s->want);
    for (int k = 0; k < BAL_SHAPES_KERNELS; k++) {
        if (!bal_linear_takes(&s->e, &s->l, (bal_shapes_kernel)k)) continue;
        const int most = bal_shapes_most_rows(&key, (bal_shapes_kernel)k);
        const int chunks[] = {1, 13, most};
        kernels++;
        for (int c = 0; c < 3; c++)
            for (int g = 0; g < 3; g++)
                check_choice(s, m,
                             (bal_shapes_choice){(uint16_t)k, (uint16_t)chunks[c], grains[g]});
    }
    return kernels;
}

static void no_choice_changes_a_bit(void **state)
{
    (void)state;
    const unsigned isas[] = {bal_cpu_isa(), BAL_ISA_NONE};
    for (int i = 0; i < 2; i++)
        for (int f = 0; f < FORMATS; f++) {
            setup *s = open_setup(&formats[f], 1 + f % 3, isas[i]);
            const bool packed = bal_type_get(formats[f].type)->packed;
            const bool no_tiles = formats[f].kind == BAL_PACKED_TWO_LEVEL && formats[f].act.kind;
            const int wanted = packed ? 1 + (bal_kernels_have_tiles(&s->kernels) && !no_tiles)
                               : formats[f].type == BAL_TYPE_F32 ? 2
                                                                 : 3;
            for (int r = 0; r < ROW_COUNTS; r++)
                assert_int_equal(check_extremes(s, row_counts[r]), wanted);
            close_setup(s);
        }
}

/* An entry counts for its own key alone: another shape, format, way to read inputs or bucket of
 * rows leaves the rule in place, and so does a kernel that is not there. */
static void other_keys_leave_the_rule(void **state)
{
    (void)state;
    const format f = {BAL_TYPE_W3, BAL_PACKED_GROUPS, A8(.group = 32)};
    setup *s = open_setup(&f, 2, bal_cpu_isa());
    const bal_shapes_choice rule = bal_linear_choice(&s->e, &s->l, 30);
    const bal_shapes_choice next = bal_linear_choice(&s->e, &s->l, 33);
    const bal_shapes_key key = bal_linear_key(&s->l, 30);
    bal_shapes_entry entry = {key, {BAL_SHAPES_ROWS, 7, 11}};
    const bal_shapes table = {&entry, 1};
    s->e.shapes = &table;
    assert_int_equal(bal_linear_choice(&s->e, &s->l, 29).chunk, 7); /* of the same bucket */
    assert_int_equal(bal_linear_choice(&s->e, &s->l, 33).chunk, next.chunk);
    for (size_t i = 0; i < sizeof key; i++) {
        entry.key = key;
        ((uint8_t *)&entry.key)[i] ^= 1;
        const bal_shapes_choice c = bal_linear_choice(&s->e, &s->l, 30);
        assert_memory_equal(&c, &rule, sizeof c);
    }
    entry = (bal_shapes_entry){key, {BAL_SHAPES_WIDE, 8, 1}};
    assert_int_equal(bal_linear_choice(&s->e, &s->l, 30).kernel, rule.kernel);
    close_setup(s);
}

/* What an entry is for tells linears apart, and leaves out what does not matter for speed. */
static void keys_tell_linears_apart(void **state)
{
    (void)state;
    const bal_linear base = {.type = BAL_TYPE_W4,
                             .n = 64,
                             .k = 96,
                             .packed.layout = {.kind = BAL_PACKED_GROUPS, .group = 32},
                             .act = A8(.group = 32)};
    bal_linear other[7];
    for (int i = 0; i < 7; i++) other[i] = base;
    other[0].n = 65;
    other[1].k = 97;
    other[2].type = BAL_TYPE_W3;
    other[3].packed.layout.kind = BAL_PACKED_TWO_LEVEL;
    other[4].packed.layout.group = 64;
    other[5].act = (bal_act){.kind = BAL_ACT_A16};
    other[6].act.group = 64;
    const bal_shapes_key key = bal_linear_key(&base, 5), rows = bal_linear_key(&base, 9);
    assert_memory_not_equal(&key, &rows, sizeof key);
    for (int i = 0; i < 7; i++) {
        const bal_shapes_key k = bal_linear_key(&other[i], 5);
        assert_memory_not_equal(&key, &k, sizeof key);
    }
    bal_linear same = base;
    same.bias = (const float[64]){0}, same.rank = 3;
    const bal_shapes_key k = bal_linear_key(&same, 8);
    assert_memory_equal(&key, &k, sizeof key);
    bal_linear wide = base, narrow = base; /* a16 has no groups, whatever stands there */
    wide.act = (bal_act){.kind = BAL_ACT_A16, .group = 64};
    narrow.act = (bal_act){.kind = BAL_ACT_A16};
    const bal_shapes_key a = bal_linear_key(&wide, 1), b = bal_linear_key(&narrow, 1);
    assert_memory_equal(&a, &b, sizeof a);
}

static void tiles_need_their_kernels(void **state)
{
    (void)state;
    const format f = {BAL_TYPE_W4, BAL_PACKED_GROUPS, {0}};
    setup *s = open_setup(&f, 1, BAL_ISA_NONE);
    bal_shapes_entry entry = {bal_linear_key(&s->l, 24), {BAL_SHAPES_TILES, 24, 1}};
    const bal_shapes table = {&entry, 1};
    s->e.shapes = &table;
    assert_int_equal(bal_linear_choice(&s->e, &s->l, 24).kernel, BAL_SHAPES_ROWS);
    close_setup(s);
}

static void buckets_cover_all_rows(void **state)
{
    (void)state;
    int last = -1;
    for (size_t m = 1; m <= 5000; m++) {
        const int b = bal_shapes_bucket(m);
        assert_true(b == last || b == last + 1);
        assert_true(b < BAL_SHAPES_BUCKETS);
        if (b < BAL_SHAPES_BUCKETS - 1) assert_true((int)m <= bal_shapes_edge(b));
        if (b > last) assert_true(b == 0 || (int)m == bal_shapes_edge(b - 1) + 1);
        last = b;
    }
    assert_int_equal(last, BAL_SHAPES_BUCKETS - 1);
    for (int b = 0; b < BAL_SHAPES_BUCKETS; b++)
        assert_int_equal(bal_shapes_bucket((size_t)bal_shapes_edge(b)), b);
}

static void many_entries_are_found(void **state)
{
    (void)state;
    enum { ENTRIES = 300 };
    static bal_shapes_entry entries[ENTRIES];
    const bal_shapes t = {entries, ENTRIES}, none = {0};
    for (int i = 0; i < ENTRIES; i++)
        entries[i] = (bal_shapes_entry){
            {.n = (uint32_t)(i * 7919 % 1009), .k = (uint32_t)(i / 3), .bucket = (uint8_t)(i % 3)},
            {0, (uint16_t)(1 + i), 1}};
    qsort(entries, ENTRIES, sizeof *entries, bal_shapes_order);
    for (int i = 0; i < ENTRIES; i++)
        assert_ptr_equal(bal_shapes_find(&t, &entries[i].key), &entries[i].choice);
    const bal_shapes_key absent = {.n = 1u << 30};
    assert_null(bal_shapes_find(&t, &absent));
    assert_null(bal_shapes_find(&none, &absent));
    assert_null(bal_shapes_find(NULL, &absent));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_choice_changes_a_bit), cmocka_unit_test(other_keys_leave_the_rule),
        cmocka_unit_test(keys_tell_linears_apart), cmocka_unit_test(tiles_need_their_kernels),
        cmocka_unit_test(buckets_cover_all_rows),  cmocka_unit_test(many_entries_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
