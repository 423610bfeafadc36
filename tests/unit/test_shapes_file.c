/* SPDX-License-Identifier: MIT
 * Files of shape tables: what is written is read again; what is damaged, of another machine or out
 * of range is refused with a sentence that names the file; a file changes as a whole or not at all;
 * and a model that computes by one gives the bits it gives without. */
#include "scratch.h"

#include "run/scheduler.h"
#include "run/scheduler_impl.h"
#include "run/session.h"
#include "run/shapes_file.h"
#include "serve/server.h"

#include <signal.h>
#include <sys/resource.h>

static const bal_shapes_host host = {"Test 9000", "avx2", 2};

#define HEAD_OF(format, version, processor, isa, threads)                                          \
    "{\"ballast_shapes\": " format ", \"version\": \"" version "\", \"processor\": \"" processor   \
    "\", \"isa\": \"" isa "\", \"threads\": " threads
#define HEAD          HEAD_OF("1", BALLAST_VERSION, "Test 9000", "avx2", "2")
#define WITH(entries) HEAD ", \"entries\": [" entries "]}"
#define PACKED(act, n, k, rows, kernel, chunk, grain)                                              \
    "{\"format\": \"w3g128.p16u32.v1\", \"act\": \"" act "\", \"n\": " n ", \"k\": " k             \
    ", \"rows\": " rows ", \"kernel\": \"" kernel "\", \"chunk\": " chunk ", \"grain\": " grain    \
    "}"
#define FLOAT(format, kernel, chunk)                                                               \
    "{\"format\": \"" format "\", \"n\": 16, \"k\": 32, \"rows\": 64, \"kernel\": \"" kernel       \
    "\", \"chunk\": " chunk ", \"grain\": 1}"
#define GOOD PACKED("a8g0", "3584", "18944", "240", "tiles", "120", "4")

static bal_status parse(bal_shapes *t, const char *text, bal_error *err)
{
    return bal_shapes_parse(t, text, strlen(text), "shapes.json", &host, err);
}

static void a_file_says_what_it_says(void **state)
{
    (void)state;
    bal_error err;
    bal_shapes t;
    ASSERT_OK(parse(
        &t, WITH(GOOD ", " FLOAT("bf16", "wide", "64") ", " FLOAT("f32", "tiles", "240")), &err));
    assert_int_equal(t.n, 3);
    const bal_shapes_key key = {.n = 3584,
                                .k = 18944,
                                .group = 128,
                                .type = BAL_TYPE_W3,
                                .act = BAL_ACT_A8,
                                .bucket = (uint8_t)bal_shapes_bucket(240)};
    const bal_shapes_choice *c = bal_shapes_find(&t, &key);
    assert_non_null(c);
    assert_int_equal(c->kernel, BAL_SHAPES_TILES);
    assert_int_equal(c->chunk, 120);
    assert_int_equal(c->grain, 4);
    bal_shapes_free(&t);
    ASSERT_OK(parse(&t, WITH(""), &err));
    assert_int_equal(t.n, 0);
    bal_shapes_free(&t);
}

static void entries_come_in_any_order(void **state)
{
    (void)state;
    bal_error err;
    bal_shapes t;
    ASSERT_OK(parse(&t,
                    WITH(PACKED("a16", "9", "1", "1", "rows", "9", "1") ", " PACKED(
                        "a16", "3", "1", "1", "rows", "3", "1") ", " PACKED("a16", "7", "1", "1",
                                                                            "rows", "7", "1")),
                    &err));
    bal_shapes_key key = {.k = 1, .group = 128, .type = BAL_TYPE_W3};
    for (key.n = 3; key.n <= 9; key.n += key.n == 3 ? 4 : 2) {
        const bal_shapes_choice *c = bal_shapes_find(&t, &key);
        assert_non_null(c);
        assert_int_equal(c->chunk, key.n);
    }
    bal_shapes_free(&t);
}

static void other_hosts_are_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {HEAD_OF("1", "0.0.9", "Test 9000", "avx2", "2") "}",
         "shapes.json: measured with version '0.0.9', here it is '" BALLAST_VERSION "'"},
        {HEAD_OF("1", BALLAST_VERSION, "Test 1", "avx2", "2") ", \"entries\": []}",
         "processor 'Test 1', here it is 'Test 9000'"},
        {HEAD_OF("1", BALLAST_VERSION, "Test 9000", "scalar", "2") ", \"entries\": []}",
         "ISA level 'scalar', here it is 'avx2'"},
        {HEAD_OF("1", BALLAST_VERSION, "Test 9000", "avx2", "3") ", \"entries\": []}",
         "3 threads, here it is 2"},
        {"{\"ballast_shapes\": 2, \"more\": true}", "version 2 of shape tables, here it is 1"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bal_error err;
        bal_shapes t;
        ASSERT_FAILS(BAL_E_UNSUP, cases[i].says, parse(&t, cases[i].text, &err));
        assert_null(t.entries);
    }
}

static void damage_is_refused(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"", "shapes.json"},
        {"[]", "expected an object"},
        {"{}", "ballast_shapes"},
        {"{\"ballast_shapes\": 0}", "ballast_shapes"},
        {"{\"ballast_shapes\": \"1\"}", "ballast_shapes"},
        {"{\"ballast_shapes\": 1}", "version"},
        {HEAD ", \"entries\": [" GOOD "]", "shapes.json"}, /* cut */
        {HEAD "}", "entries"},
        {HEAD ", \"entries\": {}}", "entries"},
        {HEAD ", \"entries\": [], \"more\": 1}", "more"},
        {HEAD ", \"threads\": 2, \"entries\": []}", "threads"}, /* a key twice */
        {HEAD_OF("1", BALLAST_VERSION, "Test 9000", "avx2", "0") ", \"entries\": []}", "threads"},
        {HEAD_OF("1", BALLAST_VERSION, "Test 9000", "avx2",
                 "99999999999999999999") ", \"entries\": []}",
         "threads"},
        {WITH("1"), "entries[0]"},
        {WITH("{}"), "format"},
        {WITH(GOOD ", " GOOD), "two for 3584 x 18944 at 240 rows"},
        {WITH(GOOD ", " PACKED("a8g0", "3584", "18944", "240", "rows", "1", "1")), "two for"},
        {WITH(PACKED("a8g0", "0", "32", "1", "rows", "1", "1")), "entries[0].n"},
        {WITH(PACKED("a8g0", "1e30", "32", "1", "rows", "1", "1")), "entries[0].n"},
        {WITH(PACKED("a8g0", "16", "4294967297", "1", "rows", "1", "1")), "entries[0].k"},
        {WITH(PACKED("a8g0", "16", "-32", "1", "rows", "1", "1")), "entries[0].k"},
        {WITH(PACKED("a8g0", "16", "32", "0", "rows", "1", "1")), "entries[0].rows"},
        {WITH(PACKED("a8g0", "16", "32", "3", "rows", "1", "1")), "a multiple of 4"},
        {WITH(PACKED("a8g0", "16", "32", "481", "rows", "1", "1")), "entries[0].rows"},
        {WITH(PACKED("a8g0", "16", "32", "1", "fast", "1", "1")), "entries[0].kernel"},
        {WITH(PACKED("a8g0", "16", "32", "4", "wide", "1", "1")), "a kernel of this format"},
        {WITH(PACKED("a8g0", "16", "32", "1", "rows", "0", "1")), "entries[0].chunk"},
        {WITH(PACKED("a8g0", "16", "32", "1", "rows", "65", "1")), "entries[0].chunk"},
        {WITH(PACKED("a8g0", "16", "32", "240", "tiles", "241", "1")), "entries[0].chunk"},
        {WITH(PACKED("a8g0", "16", "32", "1", "rows", "1.5", "1")), "entries[0].chunk"},
        {WITH(PACKED("a8g0", "16", "32", "1", "rows", "1", "0")), "entries[0].grain"},
        {WITH(PACKED("a8g0", "16", "32", "1", "rows", "1", "65536")), "entries[0].grain"},
        {WITH(PACKED("a9", "16", "32", "1", "rows", "1", "1")), "entries[0].act"},
        {WITH(PACKED("a8s3c000000", "16", "32", "1", "rows", "1", "1")), "entries[0].act"},
        {WITH(PACKED("a8g4294967296", "16", "32", "1", "rows", "1", "1")), "entries[0].act"},
        {WITH(FLOAT("f32", "wide", "1")), "a kernel of this format"},
        {WITH(FLOAT("f16", "tiles", "241")), "entries[0].chunk"},
        {WITH(FLOAT("w3", "rows", "1")), "entries[0].format"},
        {WITH(FLOAT("w3g128.p16u32.v1", "rows", "1")), "entries[0].act"},
        {WITH(FLOAT("w5g128.p16u32.v1", "rows", "1")), "entries[0].format"},
        {WITH(FLOAT("w3g4294967296.p16u32.v1", "rows", "1")), "entries[0].format"},
        {WITH(
             "{\"format\": \"f16\", \"act\": \"a16\", \"n\": 1, \"k\": 1, \"rows\": 1, \"kernel\": "
             "\"rows\", \"chunk\": 1, \"grain\": 1}"),
         "no such key beside floats"},
        {WITH("{\"format\": \"f16\", \"n\": 1, \"k\": 1, \"rows\": 1, \"kernel\": \"rows\", "
              "\"chunk\": 1, \"grain\": 1, \"more\": 1}"),
         "more"},
        {WITH("{\"format\": \"d4g128.p16u32.v1\", \"act\": \"a8g0\", \"n\": 1, \"k\": 1, \"rows\": "
              "24, \"kernel\": \"tiles\", \"chunk\": 24, \"grain\": 1}"),
         "a kernel of this format"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        bal_error err;
        bal_shapes t;
        ASSERT_FAILS(BAL_E_FORMAT, cases[i].says, parse(&t, cases[i].text, &err));
        assert_non_null(strstr(err.text, "shapes.json"));
        assert_null(t.entries);
    }
}

static bal_shapes many(bal_shapes_entry *entries, size_t n)
{
    memset(entries, 0, n * sizeof *entries);
    for (size_t i = 0; i < n; i++)
        entries[i] = (bal_shapes_entry){{.n = (uint32_t)(1 + i % 97),
                                         .k = (uint32_t)(1 + i),
                                         .group = i % 2 ? 128 : 0,
                                         .type = (uint8_t)(i % 2 ? BAL_TYPE_W4 : BAL_TYPE_F16),
                                         .bucket = (uint8_t)(i % BAL_SHAPES_BUCKETS)},
                                        {BAL_SHAPES_TILES, 24, (uint16_t)(1 + i)}};
    qsort(entries, n, sizeof *entries, bal_shapes_order);
    return (bal_shapes){entries, n};
}

static void what_is_written_is_read(void **state)
{
    (void)state;
    enum { MOST = BAL_SHAPES_MOST };
    static bal_shapes_entry entries[MOST + 1];
    bal_error err;
    bal_shapes t = many(entries, MOST), back;
    const char *path = scratch("full.json");
    ASSERT_OK(bal_shapes_save(&t, path, &host, &err));
    ASSERT_OK(bal_shapes_read(&back, path, &host, &err));
    assert_int_equal(back.n, t.n);
    assert_memory_equal(back.entries, entries, sizeof *entries * MOST);
    bal_shapes_free(&back);
    bal_shapes_free(&back);
    t = many(entries, MOST + 1);
    ASSERT_FAILS(BAL_E_CAPACITY, "4097 entries", bal_shapes_save(&t, path, &host, &err));
}

static void files_that_cannot_be_read(void **state)
{
    (void)state;
    bal_error err;
    bal_shapes t;
    ASSERT_FAILS(BAL_E_IO, "nowhere.json",
                 bal_shapes_read(&t, scratch("nowhere.json"), &host, &err));
    ASSERT_FAILS(BAL_E_IO, "not a regular file", bal_shapes_read(&t, scratch_dir, &host, &err));
    const char *large = scratch("large.json");
    scratch_text(large, "");
    assert_int_equal(truncate(large, (2 << 20) + 1), 0);
    ASSERT_FAILS(BAL_E_FORMAT, "large.json", bal_shapes_read(&t, large, &host, &err));
}

/* A disk that is full half way leaves the table that was there, and nothing beside it. */
static void a_file_is_never_half(void **state)
{
    (void)state;
    static bal_shapes_entry entries[200];
    bal_error err;
    bal_shapes back;
    const char *path = scratch("whole/shapes.json");
    assert_int_equal(mkdir(scratch("whole"), 0777), 0);
    bal_shapes t = many(entries, 3);
    ASSERT_OK(bal_shapes_save(&t, path, &host, &err));
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){4096, old.rlim_max};
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    t = many(entries, 200);
    const bal_status st = bal_shapes_save(&t, path, &host, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(st, BAL_E_IO);
    ASSERT_OK(bal_shapes_read(&back, path, &host, &err));
    assert_int_equal(back.n, 3);
    bal_shapes_free(&back);
    assert_int_equal(scratch_count(scratch("whole")), 1);
    assert_int_equal(mkdir(scratch("folder"), 0777), 0);
    ASSERT_FAILS(BAL_E_IO, "folder", bal_shapes_save(&t, scratch("folder"), &host, &err));
}

/* ---- A model --------------------------------------------------------------------------------- */

enum { TOKENS = 70 };

/* Of every linear and every number of rows the choice that is furthest from the rule: the last
 * kernel that takes it, a row at a time, a work item at a time. */
static bal_shapes furthest(const bal_engine *e)
{
    bal_error err;
    bal_exec exec;
    const bal_text_config *c = &e->model.config.text;
    ASSERT_OK(bal_exec_create(&exec, e->pool, &e->kernels, bal_model_max_k(&e->model), &err));
    const size_t most = (size_t)(BAL_DECODER_LINEARS * c->layers + 1) * BAL_SHAPES_BUCKETS;
    bal_shapes t = {calloc(most, sizeof *t.entries), 0};
    assert_non_null(t.entries);
    for (int i = 0; i <= BAL_DECODER_LINEARS * c->layers; i++) {
        const bal_linear *w = i == BAL_DECODER_LINEARS * c->layers
                                  ? &e->model.head
                                  : bal_decoder_linear(&e->model.layers[i / BAL_DECODER_LINEARS],
                                                       i % BAL_DECODER_LINEARS);
        int kernel = BAL_SHAPES_KERNELS - 1;
        while (!bal_linear_takes(&exec, w, (bal_shapes_kernel)kernel)) kernel--;
        for (int b = 0; b < BAL_SHAPES_BUCKETS; b++) {
            const bal_shapes_key key = bal_linear_key(w, (size_t)bal_shapes_edge(b));
            size_t at = 0;
            while (at < t.n && memcmp(&t.entries[at].key, &key, sizeof key) != 0) at++;
            t.entries[at] = (bal_shapes_entry){key, {(uint16_t)kernel, 1, 1}};
            t.n += at == t.n;
        }
    }
    bal_exec_destroy(&exec);
    qsort(t.entries, t.n, sizeof *t.entries, bal_shapes_order);
    return t;
}

static float *logits_of(const bal_engine *e)
{
    bal_error err;
    bal_session s;
    const int hidden = e->model.config.text.hidden, vocab = e->model.config.text.vocab;
    bal_token_info info[TOKENS] = {0};
    float *embeds = malloc((size_t)(TOKENS * hidden) * sizeof *embeds);
    float *logits = malloc((size_t)vocab * sizeof *logits);
    assert_true(embeds && logits);
    for (int i = 0; i < TOKENS; i++) {
        info[i] = (bal_token_info){.id = i * 37 % 300, .pos = {i, i, i}, .image = -1};
        bal_linear_row(&e->model.embed, info[i].id, embeds + i * hidden);
    }
    ASSERT_OK(bal_session_create(&s, e, 256, &err));
    assert_ptr_equal(s.exec.shapes, &e->shapes);
    ASSERT_OK(bal_session_append(&s, info, embeds, TOKENS, 0, NULL, NULL, (bal_taps){0}, &err));
    ASSERT_OK(bal_session_push(&s, 7, &err));
    memcpy(logits, s.logits, (size_t)vocab * sizeof *logits);
    bal_session_destroy(&s);
    free(embeds);
    return logits;
}

static void a_model_gives_the_same_bits(void **state)
{
    (void)state;
    bal_error err;
    bal_engine e;
    const char *path = scratch("model.json");
    ASSERT_OK(bal_engine_open(&e, source_path("tests/golden/tiled/model"), 2, NULL, &err));
    float *want = logits_of(&e);
    const bal_shapes_host here = bal_shapes_here(e.isa, 2);
    bal_shapes t = furthest(&e);
    ASSERT_OK(bal_shapes_save(&t, path, &here, &err));
    ASSERT_OK(bal_engine_use_shapes(&e, path, &err));
    assert_int_equal(e.shapes.n, t.n);
    float *got = logits_of(&e);
    assert_memory_equal(got, want, (size_t)e.model.config.text.vocab * sizeof *want);
    bal_scheduler *scheduler;
    ASSERT_OK(bal_scheduler_create(&scheduler, &e, &(bal_scheduler_opts){.ctx = 256}, &err));
    assert_ptr_equal(scheduler->exec.shapes, &e.shapes);
    assert_ptr_equal(scheduler->vision_exec.shapes, &e.shapes);
    bal_scheduler_destroy(scheduler);
    ASSERT_OK(bal_engine_use_shapes(&e, NULL, &err));
    assert_int_equal(e.shapes.n, 0);
    free(got);
    free(want);
    bal_shapes_free(&t);
    bal_engine_close(&e);
}

static void opening_refuses_a_table_of_elsewhere(void **state)
{
    (void)state;
    bal_error err;
    bal_context *model;
    const char *model_path = source_path("tests/golden/tiled/model"), *path = scratch("else.json");
    const bal_shapes none = {0};
    bal_open_opts opts = {.size = sizeof opts, .threads = 2, .shapes = path};
    ASSERT_FAILS(BAL_E_IO, "else.json", bal_open(&model, model_path, &opts, &err));
    ASSERT_OK(bal_shapes_save(&none, path, &host, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "processor 'Test 9000'", bal_open(&model, model_path, &opts, &err));
    const bal_shapes_host here = bal_shapes_here(bal_cpu_isa(), 2);
    ASSERT_OK(bal_shapes_save(&none, path, &here, &err));
    ASSERT_OK(bal_open(&model, model_path, &opts, &err));
    bal_close(model);
}

static void a_server_takes_one(void **state)
{
    (void)state;
    bal_error err;
    bal_server *server;
    const char *model = source_path("tests/golden/tiled/model");
    const bal_server_opts opts = {.models = &model, .n_models = 1, .shapes = scratch("none.json")};
    ASSERT_OK(bal_server_open(&server, &opts, &err));
    ASSERT_FAILS(BAL_E_IO, "none.json", bal_server_load(server, &err));
    bal_server_close(server);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_file_says_what_it_says),
        cmocka_unit_test(entries_come_in_any_order),
        cmocka_unit_test(other_hosts_are_refused),
        cmocka_unit_test(damage_is_refused),
        cmocka_unit_test(what_is_written_is_read),
        cmocka_unit_test(files_that_cannot_be_read),
        cmocka_unit_test(a_file_is_never_half),
        cmocka_unit_test(a_model_gives_the_same_bits),
        cmocka_unit_test(opening_refuses_a_table_of_elsewhere),
        cmocka_unit_test(a_server_takes_one),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
