/* SPDX-License-Identifier: MIT
 * The safetensors writer: what it writes is read back the same, stands where it promised, and is
 * byte for byte what was once checked with the reference library; and what it refuses. */
#include "scratch.h"

#include "base/hash.h"
#include "base/rng.h"
#include "format/safetensors_write.h"

#include <sys/resource.h>
#include <signal.h>

static uint8_t payload[1 << 16];

static bal_tensor_view tensor(const char *name, bal_st_dtype dtype, uint64_t count, size_t offset)
{
    bal_tensor_view t = {.name = name, .dtype = dtype, .n_dims = 1, .shape = {count}};
    t.data = payload + offset;
    assert_true(bal_st_bytes(dtype, count, &t.n_bytes));
    return t;
}

static int fill_payload(void **state)
{
    bal_rng rng;
    bal_rng_seed(&rng, 7);
    for (size_t i = 0; i < sizeof payload; i++) payload[i] = (uint8_t)bal_rng_u64(&rng);
    return scratch_setup(state);
}

static const bal_st_meta some_meta[] = {
    {"ballast_format", "1.0"}, {"quote\"back\\slash", "line\nbreak \x01 \xc3\xa9"}, {"", ""}};

/* Places and order, computed here from the promise in the header file, not from the writer. */
static void check_places(const bal_tensor_set *set, const bal_tensor_view *in, size_t n)
{
    assert_int_equal(set->n_tensors, n);
    assert_int_equal(set->n_header_bytes % 64, 0);
    assert_int_equal(set->n_header_bytes + set->n_data_bytes, set->n_file_bytes);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += in[i].n_bytes;
    assert_int_equal(sum, set->n_data_bytes); /* no hole, no rest */
    for (size_t i = 0; i < n; i++) {
        const bal_tensor_view *t = bal_tensor_find(set, in[i].name);
        assert_non_null(t);
        const uintptr_t at = (uintptr_t)t->data;
        if (t->n_bytes % 64 == 0)
            assert_int_equal(at % 64, 0);
        else if (bal_st_dtype_bits(t->dtype) >= 8)
            assert_int_equal(at % ((unsigned)bal_st_dtype_bits(t->dtype) / 8), 0);
        for (size_t j = 0; j < i; j++) {
            const bal_tensor_view *u = bal_tensor_find(set, in[j].name);
            const bool both = t->n_bytes % 64 == 0 && u->n_bytes % 64 == 0;
            if (both) assert_true(u->data <= t->data); /* as given */
            assert_true(u->data + u->n_bytes <= t->data || t->data + t->n_bytes <= u->data);
        }
    }
}

static void check_same(const bal_tensor_set *set, const bal_tensor_view *in, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        const bal_tensor_view *t = bal_tensor_find(set, in[i].name);
        assert_int_equal(t->dtype, in[i].dtype);
        assert_int_equal(t->n_dims, in[i].n_dims);
        for (int d = 0; d < t->n_dims; d++) assert_int_equal(t->shape[d], in[i].shape[d]);
        assert_int_equal(t->n_bytes, in[i].n_bytes);
        if (t->n_bytes) assert_memory_equal(t->data, in[i].data, t->n_bytes);
    }
}

static void round_trip(const bal_tensor_view *in, size_t n, const bal_st_meta *meta, size_t n_meta)
{
    bal_error err;
    bal_tensor_set set;
    uint64_t size;
    const char *path = scratch("round.safetensors");
    ASSERT_OK(bal_safetensors_size(&size, in, n, meta, n_meta, &err));
    ASSERT_OK(bal_safetensors_write(path, in, n, meta, n_meta, &err));
    ASSERT_OK(bal_tensor_set_open(&set, path, &err));
    assert_int_equal(set.n_file_bytes, size);
    check_places(&set, in, n);
    check_same(&set, in, n);
    assert_int_equal(set.n_meta, n_meta);
    for (size_t i = 0; i < n_meta; i++)
        assert_string_equal(bal_tensor_meta(&set, meta[i].key), meta[i].value);
    bal_tensor_set_close(&set);
}

static void test_round_trip(void **state)
{
    (void)state;
    bal_tensor_view in[] = {
        tensor("odd.u8", BAL_ST_U8, 13, 0),
        tensor("packed.1", BAL_ST_U8, 256, 100),
        tensor("odd.f64", BAL_ST_F64, 3, 200),
        tensor("odd.f16", BAL_ST_F16, 5, 300),
        tensor("packed.0", BAL_ST_F32, 32, 400),
        tensor("odd.f4", BAL_ST_F4, 6, 500),
        tensor("odd.f32", BAL_ST_F32, 1, 600),
        tensor("empty", BAL_ST_F32, 0, 0),
        tensor("caf\xc3\xa9 \"q\"", BAL_ST_U8, 1, 700),
        tensor("odd.f6", BAL_ST_F6_E3M2, 4, 800),
    };
    in[4].n_dims = 3;
    in[4].shape[0] = 4, in[4].shape[1] = 1, in[4].shape[2] = 8;
    in[6].n_dims = 0; /* a scalar */
    round_trip(in, sizeof in / sizeof *in, some_meta, 3);
    round_trip(in, sizeof in / sizeof *in, NULL, 0);
    round_trip(in, 1, some_meta, 1);
    round_trip(NULL, 0, some_meta, 1);
    round_trip(NULL, 0, NULL, 0);
}

/* Random lists: dtype, count and number; names of every length so that each padding occurs. */
static void test_random_lists(void **state)
{
    (void)state;
    enum { MOST = 40 };
    static char names[MOST][80];
    bal_tensor_view in[MOST];
    bal_rng rng;
    bal_rng_seed(&rng, 3);
    for (int round = 0; round < 150; round++) {
        const size_t n = bal_rng_below(&rng, MOST + 1);
        for (size_t i = 0; i < n; i++) {
            const bal_st_dtype dtype = (bal_st_dtype)bal_rng_below(&rng, BAL_ST_DTYPE_COUNT);
            const size_t length = 2 + (size_t)bal_rng_below(&rng, 70);
            memset(names[i], '0', length);
            names[i][length] = 0;
            names[i][0] = (char)('A' + i % 26), names[i][1] = (char)('a' + i / 26);
            in[i] = tensor(names[i], dtype, 4 * bal_rng_below(&rng, 60),
                           (size_t)bal_rng_below(&rng, 60000));
        }
        round_trip(in, n, some_meta, (size_t)bal_rng_below(&rng, 4));
    }
}

/* The bytes of this file were opened with the reference library once; the hash keeps them. */
static void test_known_bytes(void **state)
{
    (void)state;
    const bal_tensor_view in[] = {tensor("b", BAL_ST_U8, 3, 0), tensor("a", BAL_ST_F32, 16, 4),
                                  tensor("c", BAL_ST_BF16, 1, 80)};
    bal_error err;
    uint8_t digest[BAL_SHA256_BYTES];
    char hex[BAL_SHA256_HEX];
    ASSERT_OK(bal_safetensors_write(scratch("known"), in, 3, some_meta, 3, &err));
    uint8_t *bytes;
    size_t n;
    ASSERT_OK(bal_read_file(&bytes, &n, scratch("known"), 4096, &err));
    static const char header[] =
        "{\"__metadata__\":{\"ballast_format\":\"1.0\",\"quote\\\"back\\\\slash\":"
        "\"line\\nbreak \\u0001 \xc3\xa9\",\"\":\"\"},"
        "\"a\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]},"
        "\"c\":{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[64,66]},"
        "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[66,69]}}";
    const size_t len = sizeof header - 1;
    assert_int_equal(n, 320 + 69);
    assert_int_equal(bytes[0] | bytes[1] << 8, 320 - 8);
    assert_memory_equal(bytes + 8, header, len);
    for (size_t i = 8 + len; i < 320; i++) assert_int_equal(bytes[i], ' ');
    free(bytes);
    ASSERT_OK(bal_sha256_file(digest, scratch("known"), &err));
    bal_hex(hex, digest, sizeof digest);
    assert_string_equal(hex, "4e3419726da77db3944269c13976bcbff42b138f5abbcce79a12f6e752699971");
}

static void refused(const char *sentence, const bal_tensor_view *in, size_t n,
                    const bal_st_meta *meta, size_t n_meta)
{
    bal_error err;
    uint64_t size;
    ASSERT_FAILS(BAL_E_ARG, sentence, bal_safetensors_size(&size, in, n, meta, n_meta, &err));
    assert_int_equal(size, 0);
    ASSERT_FAILS(BAL_E_ARG, sentence,
                 bal_safetensors_write(scratch("refused"), in, n, meta, n_meta, &err));
    assert_false(bal_path_exists(scratch("refused")));
}

/* Every byte of tensor "b" is its place in the tensor. */
static bal_status count_up(void *ctx, const bal_tensor_view *t, uint64_t offset, void *out,
                           size_t n_bytes, bal_error *err)
{
    uint64_t *next = ctx;
    assert_string_equal(t->name, "b");
    assert_int_equal(offset, *next);
    for (size_t i = 0; i < n_bytes; i++) ((uint8_t *)out)[i] = (uint8_t)((offset + i) % 251);
    *next += n_bytes;
    return offset > (9 << 20) ? bal_fail(err, BAL_E_CANCELLED, "enough") : BAL_OK;
}

/* A streamed file has the bytes of one written at once; stopped in the middle, none. */
static void test_stream(void **state)
{
    (void)state;
    bal_error err;
    enum { BIG = (9 << 20) + 13 };
    uint8_t *big = malloc(BIG), *one, *two;
    size_t n_one, n_two;
    uint64_t next = 0;
    assert_non_null(big);
    for (size_t i = 0; i < BIG; i++) big[i] = (uint8_t)(i % 251);
    bal_tensor_view in[2] = {tensor("a", BAL_ST_F32, 50, 0), tensor("b", BAL_ST_U8, BIG, 0)};
    in[1].data = big;
    ASSERT_OK(bal_safetensors_write(scratch("one"), in, 2, some_meta, 3, &err));
    in[1].data = NULL;
    ASSERT_OK(bal_safetensors_stream(scratch("two"), in, 2, some_meta, 3, count_up, &next, &err));
    assert_int_equal(next, BIG);
    ASSERT_OK(bal_read_file(&one, &n_one, scratch("one"), 1 << 24, &err));
    ASSERT_OK(bal_read_file(&two, &n_two, scratch("two"), 1 << 24, &err));
    assert_int_equal(n_one, n_two);
    assert_memory_equal(one, two, n_one);
    next = 0;
    in[1].shape[0] = in[1].n_bytes = 16 << 20;
    assert_int_equal(
        bal_safetensors_stream(scratch("three"), in, 2, NULL, 0, count_up, &next, &err),
        BAL_E_CANCELLED);
    assert_false(bal_path_exists(scratch("three")));
    free(one);
    free(two);
    free(big);
}

static void test_refusals(void **state)
{
    (void)state;
    bal_tensor_view t[2] = {tensor("a", BAL_ST_F32, 4, 0), tensor("a", BAL_ST_F32, 4, 0)};
    refused("'a': given twice", t, 2, NULL, 0);
    t[1].name = "__metadata__";
    refused("reserved", t, 2, NULL, 0);
    t[1].name = NULL;
    refused("no name", t, 2, NULL, 0);
    t[1].name = "\xff";
    refused("not UTF-8", t, 2, NULL, 0);
    t[0].n_bytes = 15;
    refused("tensor 'a': shape and dtype F32 need 16 bytes, given 15", t, 1, NULL, 0);
    t[0].n_dims = 9;
    refused("9 dimensions", t, 1, NULL, 0);
    t[0].n_dims = 2;
    t[0].shape[0] = t[0].shape[1] = (uint64_t)1 << 33;
    refused("overflows", t, 1, NULL, 0);
    t[0].shape[0] = 0, t[0].shape[1] = UINT64_MAX, t[0].n_bytes = 0;
    refused("overflows", t, 1, NULL, 0);
    t[0].dtype = BAL_ST_DTYPE_COUNT;
    refused("of dtype", t, 1, NULL, 0);
    static const bal_st_meta twice[] = {{"k", "1"}, {"k", "2"}}, no_text[] = {{"k", "\xc3"}};
    refused("'k': given twice", NULL, 0, twice, 2);
    refused("'k': value is not UTF-8", NULL, 0, no_text, 1);
}

static void test_full_device(void **state)
{
    (void)state;
    if (!bal_path_exists("/dev/full")) skip();
    const bal_tensor_view t = tensor("a", BAL_ST_U8, 640, 0);
    bal_error err;
    ASSERT_FAILS(BAL_E_IO, "/dev/full: cannot write: No space left",
                 bal_safetensors_write("/dev/full", &t, 1, NULL, 0, &err));
    assert_true(bal_path_exists("/dev/full")); /* a device is not ours to remove */
    ASSERT_FAILS(BAL_E_IO, "cannot create",
                 bal_safetensors_write(scratch("no/such/folder"), &t, 1, NULL, 0, &err));
}

/* The same for a file that cannot grow: nothing of it is left. */
static void test_no_file_left(void **state)
{
    (void)state;
    const bal_tensor_view t = tensor("a", BAL_ST_U8, 60000, 0);
    bal_error err;
    struct rlimit old, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = old;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    const char *path = scratch("limited");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    const bal_status st = bal_safetensors_write(path, &t, 1, NULL, 0, &err);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(st, BAL_E_IO);
    assert_non_null(strstr(err.text, "limited: cannot write: File too large"));
    assert_false(bal_path_exists(path));
    ASSERT_OK(bal_safetensors_write(path, &t, 1, NULL, 0, &err));
}

/* As the pipeline uses it: inside the folder of an output, which a failure leaves to abort. */
static void test_inside_output(void **state)
{
    (void)state;
    const bal_tensor_view t = tensor("a", BAL_ST_U8, 640, 0);
    bal_error err;
    bal_output o;
    char part[2048];
    ASSERT_OK(bal_output_begin(&o, scratch("model"), false, &err));
    ASSERT_OK(bal_path_join(part, sizeof part, o.partial, "part", &err));
    ASSERT_OK(bal_safetensors_write(part, &t, 1, NULL, 0, &err));
    ASSERT_OK(bal_output_commit(&o, "part", &err));
    assert_true(bal_path_exists(scratch("model")));
    if (!bal_path_exists("/dev/full")) return;
    ASSERT_OK(bal_output_begin(&o, scratch("second"), false, &err));
    ASSERT_OK(bal_path_join(part, sizeof part, o.partial, "part", &err));
    assert_int_equal(symlink("/dev/full", part), 0);
    ASSERT_FAILS(BAL_E_IO, "second.partial/part: cannot write: No space left",
                 bal_safetensors_write(part, &t, 1, NULL, 0, &err));
    unlink(part); /* a device is not removed by the writer */
    bal_output_abort(&o);
    assert_false(bal_path_exists(scratch("second.partial")));
    assert_false(bal_path_exists(scratch("second")));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_random_lists),
        cmocka_unit_test(test_known_bytes),  cmocka_unit_test(test_stream),
        cmocka_unit_test(test_refusals),     cmocka_unit_test(test_full_device),
        cmocka_unit_test(test_no_file_left), cmocka_unit_test(test_inside_output),
    };
    return cmocka_run_group_tests(tests, fill_payload, scratch_teardown);
}
