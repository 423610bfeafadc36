/* SPDX-License-Identifier: MIT
 * The paged cache: what each tile format keeps, attention over pages with the same bits however
 * sequences, shared pages and ranges of pages are put together, and the pool: references, sealing,
 * copies, the index, and no page lost in random histories. */
#include "check.h"

#include "base/rng.h"
#include "op/attention.h"
#include "run/kv_cache.h"

#include <math.h>

enum { HEADS = 6, KV_HEADS = 2, DIM = 20, LAYERS = 2, LAYER = 1, KEYS = 200, PAGES = 4 };

typedef struct setup {
    bal_pool *pool;
    bal_kernels kernels;
    bal_exec e;
    bal_rng rng;
} setup;

static void open_setup(setup *s, int threads, unsigned isa)
{
    bal_error err;
    ASSERT_OK(bal_pool_create(&s->pool, threads, &err));
    bal_kernels_init(&s->kernels, isa);
    ASSERT_OK(bal_exec_create(&s->e, s->pool, &s->kernels, 64, &err));
    bal_rng_seed(&s->rng, 11);
}

static void close_setup(setup *s)
{
    bal_exec_destroy(&s->e);
    bal_pool_destroy(s->pool);
}

static void noise(bal_rng *r, float *x, size_t n, float scale)
{
    for (size_t i = 0; i < n; i++) x[i] = (bal_rng_f32(r) * 2.0f - 1.0f) * scale;
}

/* ---- Tiles ----------------------------------------------------------------------------------- */

static bal_kv_layout layout_of(bal_kv_type type)
{
    bal_error err;
    bal_kv_layout l;
    ASSERT_OK(bal_kv_layout_init(&l, type, LAYERS, KV_HEADS, DIM, &err));
    return l;
}

static double worst_relative(const setup *s, const bal_kv_layout *l, const uint8_t *page,
                             const float *want, bal_kv_part part)
{
    static float room[BAL_PAGE * DIM];
    double worst = 0;
    for (int h = 0; h < KV_HEADS; h++) {
        size_t ld;
        const bal_kv_tile t = bal_kv_tile_at(l, page, LAYER, part, h);
        const float *got = bal_kv_tile_read(&s->kernels, &t, BAL_PAGE, DIM, room, &ld);
        for (int r = 0; r < BAL_PAGE; r++) {
            const float *w = want + (r * KV_HEADS + h) * DIM;
            double top = 0;
            for (int d = 0; d < DIM; d++) top = fmax(top, fabs((double)w[d]));
            for (int d = 0; d < DIM; d++)
                worst =
                    fmax(worst, fabs((double)got[(size_t)r * ld + (size_t)d] - (double)w[d]) / top);
        }
    }
    return worst;
}

static void tiles_keep_what_they_promise(void **state)
{
    (void)state;
    /* f16: half a unit in the last place of the row's largest value; i8: half a step of 127 */
    const double limit[BAL_KV_TYPES] = {
        [BAL_KV_F32] = 0, [BAL_KV_F16] = 0x1p-11, [BAL_KV_I8] = 0.5001 / 127};
    enum { WIDTH = KV_HEADS * DIM };
    static float k[BAL_PAGE * WIDTH], v[BAL_PAGE * WIDTH];
    setup s;
    open_setup(&s, 1, bal_cpu_isa());
    noise(&s.rng, k, BAL_PAGE * WIDTH, 700.0f);
    noise(&s.rng, v, BAL_PAGE * WIDTH, 0.01f);
    for (int t = BAL_KV_F32; t < BAL_KV_TYPES; t++) {
        const bal_kv_layout l = layout_of((bal_kv_type)t);
        uint8_t *page = aligned_alloc(64, l.page_bytes), *copy = aligned_alloc(64, l.page_bytes);
        for (int r = 0; r < BAL_PAGE; r++)
            bal_kv_write(&l, page, LAYER, r, k + r * WIDTH, v + r * WIDTH);
        memset(page, 0, l.layer_bytes); /* layer 0 is not the written one */
        const double ek = worst_relative(&s, &l, page, k, BAL_KEYS);
        const double ev = worst_relative(&s, &l, page, v, BAL_VALUES);
        assert_true(ek <= limit[t] && ev <= limit[t]);
        assert_true(t == BAL_KV_F32 || ek > limit[t] / 4);
        memset(copy, 0xee, l.page_bytes);
        bal_kv_copy_rows(&l, copy, page, BAL_PAGE);
        assert_true(worst_relative(&s, &l, copy, k, BAL_KEYS) == ek);
        free(page);
        free(copy);
    }
    close_setup(&s);
}

static void tiles_show_what_is_not_finite(void **state)
{
    (void)state;
    enum { WIDTH = KV_HEADS * DIM };
    static float x[WIDTH], room[BAL_PAGE * DIM];
    setup s;
    size_t ld;
    open_setup(&s, 1, BAL_ISA_NONE);
    for (int t = BAL_KV_F32; t < BAL_KV_TYPES; t++) {
        const bal_kv_layout l = layout_of((bal_kv_type)t);
        uint8_t *page = aligned_alloc(64, l.page_bytes);
        noise(&s.rng, x, WIDTH, 1.0f);
        x[3] = NAN;
        x[DIM + 1] = 1e30f;
        bal_kv_write(&l, page, 0, 5, x, x);
        bal_kv_tile tile = bal_kv_tile_at(&l, page, 0, BAL_KEYS, 0);
        assert_true(isnan(bal_kv_tile_read(&s.kernels, &tile, 6, DIM, room, &ld)[5 * ld + 3]));
        tile = bal_kv_tile_at(&l, page, 0, BAL_VALUES, 1);
        assert_true(bal_kv_tile_read(&s.kernels, &tile, 6, DIM, room, &ld)[5 * ld + 1] >= 65504.0f);
        free(page);
    }
    close_setup(&s);
}

static void names(void **state)
{
    (void)state;
    bal_error err;
    bal_kv_type t;
    ASSERT_OK(bal_kv_type_find(&t, "i8", &err));
    assert_int_equal(t, BAL_KV_I8);
    assert_string_equal(bal_kv_type_name(BAL_KV_DEFAULT), "f16");
    ASSERT_FAILS(BAL_E_ARG, "f32, f16 or i8", bal_kv_type_find(&t, "", &err));
}

/* ---- Attention over pages -------------------------------------------------------------------- */

typedef struct cached {
    bal_kv_layout l;
    uint8_t *memory, *pages[PAGES];
    float q[KEYS * HEADS * DIM]; /* one query row for each position */
    float k[KEYS * KV_HEADS * DIM], v[KEYS * KV_HEADS * DIM];
} cached;

static void make_cached(cached *c, setup *s, bal_kv_type type)
{
    c->l = layout_of(type);
    c->memory = aligned_alloc(64, PAGES * c->l.page_bytes);
    for (int i = 0; i < PAGES; i++) c->pages[i] = c->memory + (size_t)i * c->l.page_bytes;
    noise(&s->rng, c->q, KEYS * HEADS * DIM, 4.0f);
    noise(&s->rng, c->k, KEYS * KV_HEADS * DIM, 1.0f);
    noise(&s->rng, c->v, KEYS * KV_HEADS * DIM, 1.0f);
    for (int i = 0; i < KEYS; i++)
        bal_kv_write(&c->l, c->pages[i / BAL_PAGE], LAYER, i % BAL_PAGE, c->k + i * KV_HEADS * DIM,
                     c->v + i * KV_HEADS * DIM);
}

static void attend(const setup *s, const cached *c, const float *q, const bal_kv_span *spans, int n,
                   float *out)
{
    bal_attention_cached(&s->e, HEADS, &c->l, LAYER, q, spans, n, NULL, out, NULL);
}

/* Plain f32 attention of another layout is the reference. */
static void f32_pages_are_plain_attention(void **state)
{
    (void)state;
    static cached c;
    static float got[KEYS * HEADS * DIM], want[KEYS * HEADS * DIM];
    setup s;
    bal_kv_page plain[PAGES];
    open_setup(&s, 2, bal_cpu_isa());
    make_cached(&c, &s, BAL_KV_F32);
    for (int i = 0; i < PAGES; i++)
        plain[i] =
            (bal_kv_page){c.k + i * BAL_PAGE * KV_HEADS * DIM, c.v + i * BAL_PAGE * KV_HEADS * DIM};
    const bal_attention_shape shape = {HEADS, KV_HEADS, DIM, true};
    bal_attention(&s.e, &shape, c.q, KEYS, 0, plain, KEYS, want, NULL);
    attend(&s, &c, c.q, &(bal_kv_span){0, KEYS, 0, 0, c.pages}, 1, got);
    assert_memory_equal(got, want, sizeof want);
    free(c.memory);
    close_setup(&s);
}

/* Rows alone, in pieces of a batch, and beside others that share pages: the same bits, at every ISA
 * level and with any number of threads. */
static void spans_do_not_change_bits(void **state)
{
    (void)state;
    static cached c;
    static float all[KEYS * HEADS * DIM], got[KEYS * HEADS * DIM], q[KEYS * HEADS * DIM];
    const size_t row = HEADS * DIM;
    for (int type = BAL_KV_F32; type < BAL_KV_TYPES; type++)
        for (int way = 0; way < 3; way++) {
            setup s;
            open_setup(&s, 1 + 2 * way, way == 1 ? (unsigned)BAL_ISA_NONE : bal_cpu_isa());
            make_cached(&c, &s, (bal_kv_type)type);
            attend(&s, &c, c.q, &(bal_kv_span){0, KEYS, 0, 0, c.pages}, 1, all);
            /* a chunk, then single positions whose first pages are shared with their neighbour */
            const bal_kv_span spans[] = {
                {0, 33, 10, 0, c.pages},  {33, 1, 199, 0, c.pages}, {34, 1, 150, 2, c.pages},
                {35, 2, 130, 1, c.pages}, {37, 1, 64, 1, c.pages},  {38, 1, 190, 1, c.pages},
                {39, 1, 191, 2, c.pages}, {40, 1, 5, 0, c.pages},
            };
            const int n = sizeof spans / sizeof *spans;
            for (int i = 0; i < n; i++)
                memcpy(q + (size_t)spans[i].row * row, c.q + (size_t)spans[i].first * row,
                       (size_t)spans[i].m * row * sizeof *q);
            attend(&s, &c, q, spans, n, got);
            for (int i = 0; i < n; i++)
                assert_memory_equal(got + (size_t)spans[i].row * row,
                                    all + (size_t)spans[i].first * row,
                                    (size_t)spans[i].m * row * sizeof *got);
            free(c.memory);
            close_setup(&s);
        }
}

static void clear_state(float *o, float *ml, size_t rows)
{
    memset(o, 0, rows * DIM * sizeof *o);
    for (size_t i = 0; i < rows; i++) {
        ml[2 * i] = -INFINITY;
        ml[2 * i + 1] = 0.0f;
    }
}

/* (O, m, l) continued over any cut into ranges, and single pages merged in order, give the whole.
 */
static void parts_merge_exactly(void **state)
{
    (void)state;
    enum { ROWS = KEYS * HEADS };
    static cached c;
    static float want[ROWS * DIM], o[ROWS * DIM], ml[ROWS * 2], part[ROWS * DIM], part_ml[ROWS * 2];
    for (int type = BAL_KV_F32; type < BAL_KV_TYPES; type++) {
        setup s;
        open_setup(&s, 2, bal_cpu_isa());
        make_cached(&c, &s, (bal_kv_type)type);
        const bal_kv_span span = {0, KEYS, 0, 0, c.pages};
        attend(&s, &c, c.q, &span, 1, want);
        for (int cut = 0; cut <= PAGES; cut++) {
            clear_state(o, ml, ROWS);
            bal_attention_cached(&s.e, HEADS, &c.l, LAYER, c.q, &span, 1, &(bal_page_range){0, cut},
                                 o, ml);
            bal_attention_cached(&s.e, HEADS, &c.l, LAYER, c.q, &span, 1,
                                 &(bal_page_range){cut, PAGES}, o, ml);
            bal_attention_finish(o, ml, ROWS, DIM);
            assert_memory_equal(o, want, sizeof want);
        }
        clear_state(o, ml, ROWS);
        for (int page = 0; page < PAGES; page++) {
            clear_state(part, part_ml, ROWS);
            bal_attention_cached(&s.e, HEADS, &c.l, LAYER, c.q, &span, 1,
                                 &(bal_page_range){page, page + 1}, part, part_ml);
            bal_attention_merge(o, ml, part, part_ml, ROWS, DIM);
        }
        bal_attention_finish(o, ml, ROWS, DIM);
        assert_memory_equal(o, want, sizeof want);
        free(c.memory);
        close_setup(&s);
    }
}

/* ---- Pool ------------------------------------------------------------------------------------ */

enum { MAX_LEN = 300, POOL_PAGES = 12 };

typedef struct text {
    bal_token_info info[MAX_LEN];
    bal_key keys[MAX_LEN];
    float value[MAX_LEN]; /* what a position's keys and values are made of: its whole past */
    int n;
} text;

/* Tokens 0 .. n - 1: `shared` of them from family `a`, the rest from `b`. */
static void make_text(text *t, int n, int shared, uint64_t a, uint64_t b)
{
    bal_error err;
    bal_rng r;
    float value = 0;
    bal_key past = {{0}};
    t->n = n;
    bal_rng_seed(&r, a);
    for (int i = 0; i < n; i++) {
        if (i == shared) bal_rng_seed(&r, b);
        const int32_t id = (int32_t)bal_rng_below(&r, 1000);
        struct {
            bal_key past;
            int32_t id;
        } message = {past, id};
        t->info[i] = (bal_token_info){.id = id, .pos = {i, i, i}, .image = -1};
        ASSERT_OK(bal_sha256_bytes(t->keys[i].b, &message, sizeof message, &err));
        past = t->keys[i];
        value = fmodf(value * 7.0f + (float)id, 1009.0f);
        t->value[i] = value;
    }
}

static void write_rows(const bal_kv_seq *s, const text *t, int m)
{
    float x[1];
    for (int i = s->n; i < s->n + m; i++) {
        x[0] = t->value[i];
        bal_kv_write(&s->pool->layout, s->data[i / BAL_PAGE], 0, i % BAL_PAGE, x, x);
    }
}

static bool grow(bal_kv_seq *s, const text *t, int m)
{
    if (!bal_kv_seq_reserve(s, s->n + m)) return false;
    write_rows(s, t, m);
    bal_kv_seq_commit(s, t->info + s->n, t->keys, m);
    return true;
}

/* Every cached position is the one the text has there. */
static void check_contents(const bal_kv_seq *s, const text *t)
{
    for (int i = 0; i < s->n; i++) {
        const bal_kv_tile tile =
            bal_kv_tile_at(&s->pool->layout, s->data[i / BAL_PAGE], 0, BAL_VALUES, 0);
        assert_true(((const float *)tile.codes)[i % BAL_PAGE] == t->value[i]);
        assert_int_equal(bal_kv_seq_info(s, i)->id, t->info[i].id);
    }
}

static void open_pool(bal_kv_pool *p, int n_pages, bool indexed)
{
    bal_error err;
    bal_kv_layout l;
    ASSERT_OK(bal_kv_layout_init(&l, BAL_KV_F32, 1, 1, 1, &err));
    ASSERT_OK(bal_kv_pool_create(p, &l, n_pages, indexed, &err));
}

static void pages_are_shared_and_copied(void **state)
{
    (void)state;
    static text t, u;
    bal_error err;
    bal_kv_pool p;
    bal_kv_seq a, b;
    open_pool(&p, POOL_PAGES, true);
    make_text(&t, 200, 200, 1, 1);
    make_text(&u, 200, 150, 1, 2); /* the same up to 150 */
    ASSERT_OK(bal_kv_seq_create(&a, &p, MAX_LEN, &err));
    ASSERT_OK(bal_kv_seq_create(&b, &p, MAX_LEN, &err));
    assert_true(grow(&a, &t, 170));
    assert_int_equal(bal_kv_pool_match(&p, u.keys, 200), 128); /* the open page is private */
    assert_int_equal(bal_kv_seq_attach(&b, u.keys, 100), 100); /* inside a sealed page */
    assert_int_equal(b.ids[1], a.ids[1]);
    assert_true(grow(&b, &u, 1));
    assert_true(b.ids[0] == a.ids[0] && b.ids[1] != a.ids[1]); /* copied before it was written */
    assert_true(grow(&b, &u, 99));
    assert_int_equal(b.ids[1], a.ids[1]); /* the copy became the same again and was given back */
    check_contents(&a, &t);
    check_contents(&b, &u);
    bal_kv_seq_publish(&a);
    assert_int_equal(bal_kv_pool_match(&p, t.keys, 200), 170);
    assert_true(grow(&a, &t, 5)); /* a published page is copied, too */
    assert_int_equal(bal_kv_pool_match(&p, t.keys, 200), 170);
    check_contents(&a, &t);
    bal_kv_seq_destroy(&a);
    bal_kv_seq_destroy(&b);
    assert_int_equal(bal_kv_pool_available(&p), POOL_PAGES);
    bal_kv_pool_destroy(&p);
}

static void oldest_ends_go_first(void **state)
{
    (void)state;
    static text t, u;
    bal_error err;
    bal_kv_pool p;
    bal_kv_seq a;
    open_pool(&p, 5, true);
    make_text(&t, 192, 192, 1, 1);
    make_text(&u, 192, 192, 2, 2);
    ASSERT_OK(bal_kv_seq_create(&a, &p, MAX_LEN, &err));
    assert_true(grow(&a, &t, 192));
    bal_kv_seq_clear(&a);
    assert_int_equal(p.n_idle, 3);
    assert_true(grow(&a, &u, 192)); /* needs one of the three */
    assert_int_equal(bal_kv_pool_match(&p, t.keys, 192), 128);
    assert_false(bal_kv_seq_reserve(&a, 192 + 129)); /* 3 more, 2 there are */
    assert_int_equal(a.n_pages, 3);
    assert_true(bal_kv_seq_reserve(&a, 256));
    bal_kv_seq_truncate(&a, 100);
    assert_int_equal(a.n_pages, 2);
    assert_int_equal(bal_kv_pool_match(&p, u.keys, 192), 192);
    bal_kv_seq_destroy(&a);
    assert_int_equal(bal_kv_pool_available(&p), 5);
    bal_kv_pool_destroy(&p);
}

/* Each page is free, idle or held by exactly as many sequences as count it. */
static void check_books(const bal_kv_pool *p, const bal_kv_seq *seqs, int n)
{
    int held[POOL_PAGES] = {0}, n_held = 0;
    for (int i = 0; i < n; i++)
        for (int j = 0; j < seqs[i].n_pages; j++) n_held += held[seqs[i].ids[j]]++ == 0;
    assert_int_equal(bal_kv_pool_available(p) + n_held, POOL_PAGES);
}

/* Random growth, sharing, publishing, cutting and ends, in a pool that is too small for all. */
static void random_histories(void **state)
{
    (void)state;
    enum { SEQS = 6, STEPS = 4000 };
    static text texts[SEQS];
    bal_error err;
    bal_kv_pool p;
    bal_kv_seq seqs[SEQS];
    bal_rng r;
    int refused = 0, matched = 0;
    bal_rng_seed(&r, 77);
    open_pool(&p, POOL_PAGES, true);
    for (int i = 0; i < SEQS; i++) ASSERT_OK(bal_kv_seq_create(&seqs[i], &p, MAX_LEN, &err));
    for (int step = 0; step < STEPS; step++) {
        const int i = (int)bal_rng_below(&r, SEQS);
        bal_kv_seq *s = &seqs[i];
        const int what = (int)bal_rng_below(&r, 10), left = texts[i].n - s->n;
        if (texts[i].n == 0) {
            const int n = 1 + (int)bal_rng_below(&r, MAX_LEN);
            make_text(&texts[i], n, (int)bal_rng_below(&r, 250), 1 + bal_rng_below(&r, 2),
                      bal_rng_below(&r, 50));
            matched += bal_kv_seq_attach(s, texts[i].keys, n);
        } else if (what < 6 && left > 0) {
            const int most = what ? 40 : 200;
            refused += !grow(s, &texts[i],
                             1 + (int)bal_rng_below(&r, (uint64_t)(left < most ? left : most)));
        } else if (what == 6) {
            bal_kv_seq_publish(s);
        } else if (what == 7) {
            bal_kv_seq_truncate(s, (int)bal_rng_below(&r, (uint64_t)s->n + 1));
        } else {
            bal_kv_seq_clear(s);
            texts[i].n = 0;
        }
        check_contents(s, &texts[i]);
        check_books(&p, seqs, SEQS);
    }
    print_message("%d refused, %d matched\n", refused, matched);
    assert_true(refused > 10 && matched > 1000); /* both were put to the test */
    for (int i = 0; i < SEQS; i++) bal_kv_seq_destroy(&seqs[i]);
    assert_int_equal(bal_kv_pool_available(&p), POOL_PAGES);
    bal_kv_pool_destroy(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiles_keep_what_they_promise),
        cmocka_unit_test(tiles_show_what_is_not_finite),
        cmocka_unit_test(names),
        cmocka_unit_test(f32_pages_are_plain_attention),
        cmocka_unit_test(spans_do_not_change_bits),
        cmocka_unit_test(parts_merge_exactly),
        cmocka_unit_test(pages_are_shared_and_copied),
        cmocka_unit_test(oldest_ends_go_first),
        cmocka_unit_test(random_histories),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
