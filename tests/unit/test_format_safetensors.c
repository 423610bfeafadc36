/* SPDX-License-Identifier: MIT
 * The safetensors reader: each rule of the format with a file that keeps it and one that breaks it.
 * Verdicts on the good ones and on the marked oddities were compared with the reference library. */
#include "check.h"

#include "format/safetensors.h"
#include "safetensors_bytes.h"

#define T(name, dtype, shape, begin, end)                                                          \
    "'" name "':{'dtype':'" dtype "','shape':" shape ",'data_offsets':[" #begin "," #end "]}"
#define NINES "99999999999999999999"

typedef struct verdict {
    const char *header; /* ' for " */
    size_t n_data;
    const char *sentence; /* part of it */
} verdict;

static const verdict good[] = {
    {"{}", 0, NULL},
    {"{} \n\t\r  ", 0, NULL},
    {"{'__metadata__':{}}", 0, NULL},
    {"{'__metadata__':null}", 0, NULL},
    {"{'__metadata__':{'format':'pt','':''}}", 0, NULL},
    {"{" T("a", "U8", "[2]", 0, 2) "}", 2, NULL},
    {"{" T("scalar", "F32", "[]", 0, 4) "}", 4, NULL},
    {"{" T("empty", "F32", "[0,3]", 0, 0) "}", 0, NULL},
    {"{" T("empty", "F32", "[0,8589934592,8589934592]", 0, 0) "}", 0, NULL},
    {"{" T("b", "U8", "[2]", 2, 4) "," T("a", "U8", "[2]", 0, 2) "}", 4, NULL},
    {"{" T("b", "U8", "[2]", 2, 4) "," T("e", "U8", "[0]", 2, 2) "," T("a", "U8", "[2]", 0, 2) "}",
     4, NULL},
    {"{" T("e", "U8", "[0]", 2, 2) "," T("a", "U8", "[2]", 0, 2) "}", 2, NULL},
    {"{" T("", "U8", "[1,1,1,1,1,1,1,1]", 0, 1) "}", 1, NULL},
    {"{" T("a", "F4", "[3,2]", 0, 3) "}", 3, NULL},
    {"{" T("a", "F6_E2M3", "[4]", 0, 3) "}", 3, NULL},
    {"{" T("a", "F6_E3M2", "[8]", 0, 6) "}", 6, NULL},
    {"{" T("a", "C64", "[1]", 0, 8) "," T("b", "F8_E8M0", "[1]", 8, 9) "}", 9, NULL},
    {"{'a':{'dtype':'U8','shape':[2],'data_offsets':[0,2],'note':{'more':[1]}}}", 2, NULL},
    {"{'caf\xc3\xa9 \\u00e9\\n':{'dtype':'U8','shape':[2],'data_offsets':[0,2]}}", 2, NULL},
};

static const verdict wrong[] = {
    /* the header as JSON */
    {"", 0, "does not start with '{'"},
    {" {}", 0, "does not start with '{' at offset 8"},
    {"[]", 0, "does not start with '{'"},
    {"{", 0, "header, offset 9:"},
    {"{}}", 0, "header, offset"},
    {"{}x", 0, "header, offset"},
    {"{'a':\xff}", 0, "header, offset"},
    {"{'\xc3':1}", 0, "header, offset"},
    {"{'a\\u0000b':1}", 0, "NUL byte"},
    {"{" T("a", "U8", "[1]", 0, 1) "," T("a", "U8", "[1]", 0, 1) "}", 1, "duplicate"},
    {"{'a':{'dtype':'U8','dtype':'U8','shape':[1],'data_offsets':[0,1]}}", 1, "duplicate"},
    {"{'__metadata__':{'a':'1','a':'2'}}", 0, "duplicate"},
    /* metadata */
    {"{'__metadata__':[]}", 0, "__metadata__: an object was expected"},
    {"{'__metadata__':{'a':1}}", 0, "__metadata__: value of 'a' is not a string"},
    {"{'__metadata__':{'a':null}}", 0, "value of 'a' is not a string"},
    /* the object of a tensor */
    {"{'a':null}", 0, "tensor 'a': an object was expected"},
    {"{'a':[]}", 0, "tensor 'a': an object was expected"},
    {"{'a':{'shape':[1],'data_offsets':[0,1]}}", 1, "tensor 'a': dtype"},
    {"{'a':{'dtype':1,'shape':[1],'data_offsets':[0,1]}}", 1, "tensor 'a': dtype"},
    {"{" T("a", "f32", "[1]", 0, 4) "}", 4, "unknown dtype 'f32'"},
    {"{" T("a", "C128", "[1]", 0, 16) "}", 16, "unknown dtype 'C128'"},
    {"{" T("a", "", "[1]", 0, 1) "}", 1, "unknown dtype ''"},
    {"{'a':{'dtype':'U8','data_offsets':[0,1]}}", 1, "shape: an array"},
    {"{" T("a", "U8", "1", 0, 1) "}", 1, "shape: an array"},
    {"{" T("a", "U8", "[-1]", 0, 1) "}", 1, "shape[0] is not an integer from 0"},
    {"{" T("a", "U8", "[1,1.0]", 0, 1) "}", 1, "shape[1] is not an integer"},
    {"{" T("a", "U8", "['1']", 0, 1) "}", 1, "shape[0] is not an integer"},
    {"{'a':{'dtype':'U8','shape':[1]}}", 1, "data_offsets: two integers"},
    {"{'a':{'dtype':'U8','shape':[1],'data_offsets':[0]}}", 1, "data_offsets: two integers"},
    {"{'a':{'dtype':'U8','shape':[1],'data_offsets':[0,1,2]}}", 1, "data_offsets: two integers"},
    {"{'a':{'dtype':'U8','shape':[1],'data_offsets':{'0':0}}}", 1, "data_offsets: two integers"},
    {"{" T("a", "U8", "[1]", -1, 0) "}", 1, "data_offsets: two integers"},
    {"{" T("a", "U8", "[1]", 0, 1.5) "}", 1, "data_offsets: two integers"},
    /* sizes */
    {"{" T("a", "U8", "[8589934592,8589934592]", 0, 1) "}", 1, "overflows"},
    {"{" T("a", "U8", "[8589934592,8589934592,0]", 0, 0) "}", 0, "overflows"},
    {"{" T("a", "U64", "[4611686018427387904]", 0, 0) "}", 0, "overflows"},
    {"{" T("a", "U8", "[" NINES "]", 0, 1) "}", 1, "too big integer"},
    {"{" T("a", "F4", "[3]", 0, 1) "}", 1, "not whole bytes"},
    {"{" T("a", "F6_E2M3", "[1]", 0, 1) "}", 1, "not whole bytes"},
    {"{" T("a", "F32", "[2]", 0, 4) "}", 4, "need 8 bytes, data_offsets span 4"},
    {"{" T("a", "F32", "[]", 0, 0) "}", 0, "need 4 bytes, data_offsets span 0"},
    {"{" T("a", "U8", "[0]", 0, 1) "}", 1, "need 0 bytes, data_offsets span 1"},
    /* places */
    {"{" T("a", "U8", "[1]", 1, 0) "}", 1, "begin 1 is after end 0"},
    {"{" T("a", "U8", "[2]", 0, 2) "}", 1, "ends at offset 2, but the file has 1 bytes"},
    {"{" T("a", "U8", "[1]", 9223372036854775806, 9223372036854775807) "}", 1, "but the file has"},
    {"{" T("a", "U8", "[1]", 1, 2) "}", 2, "begins at offset 1, but the tensor before ends at 0"},
    {"{" T("a", "U8", "[1]", 0, 1) "," T("b", "U8", "[1]", 2, 3) "}", 3,
     "tensor 'b': begins at offset 2, but the tensor before ends at 1"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 1, 3) "}", 3,
     "tensor 'b': begins at offset 1, but the tensor before ends at 2"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("b", "U8", "[2]", 0, 2) "}", 2, "begins at offset 0"},
    {"{" T("a", "U8", "[2]", 0, 2) "," T("e", "U8", "[0]", 1, 1) "}", 2, "begins at offset 1"},
    {"{" T("a", "U8", "[2]", 0, 2) "}", 3, "tensors end at offset 2, but the file has 3 bytes"},
    {"{}", 1, "tensors end at offset 0, but the file has 1 bytes"},
};

static void test_good(void **state)
{
    (void)state;
    bal_error err;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        const st_bytes b = st_make(good[i].header, good[i].n_data);
        bal_tensor_set set;
        if (bal_tensor_set_open_bytes(&set, b.data, b.n, "good", &err) < 0)
            fail_msg("%s: %s", good[i].header, err.text);
        assert_int_equal(set.n_file_bytes, b.n);
        assert_int_equal(set.n_header_bytes + set.n_data_bytes, b.n);
        uint64_t sum = 0;
        for (size_t t = 0; t < set.n_tensors; t++) sum += set.tensors[t].n_bytes;
        assert_int_equal(sum, set.n_data_bytes);
        bal_tensor_set_close(&set);
        free(b.data);
    }
}

static void test_wrong(void **state)
{
    (void)state;
    bal_error err;
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const verdict *v = &wrong[i];
        const st_bytes b = st_make(v->header, v->n_data);
        bal_tensor_set set;
        err.text[0] = 0;
        const bal_status st = bal_tensor_set_open_bytes(&set, b.data, b.n, "bad.file", &err);
        if (st != BAL_E_FORMAT || !strstr(err.text, v->sentence) || !strstr(err.text, "bad.file"))
            fail_msg("%s: status %d, text '%s', wanted '%s'", v->header, (int)st, err.text,
                     v->sentence);
        assert_null(set.tensors);
        assert_null(set.files);
        free(b.data);
    }
}

static void test_frame(void **state)
{
    (void)state;
    static const uint8_t huge[] = {255, 255, 255, 255, 255, 255, 255, 255, '{', '}'};
    bal_error err;
    bal_tensor_set set;
    for (size_t n = 0; n < 8; n++)
        ASSERT_FAILS(BAL_E_FORMAT, "too short",
                     bal_tensor_set_open_bytes(&set, huge, n, "f", &err));
    ASSERT_FAILS(BAL_E_FORMAT, "18446744073709551615, more than the 100000000 allowed",
                 bal_tensor_set_open_bytes(&set, huge, sizeof huge, "f", &err));
    st_bytes b = st_make_lying("{}", 0, 1);
    ASSERT_FAILS(BAL_E_FORMAT, "header of 3 bytes in a file of 10",
                 bal_tensor_set_open_bytes(&set, b.data, b.n, "f", &err));
    free(b.data);
    b = st_make_lying("{}", 0, 100000000 - 2);
    ASSERT_FAILS(BAL_E_FORMAT, "header of 100000000 bytes in",
                 bal_tensor_set_open_bytes(&set, b.data, b.n, "f", &err));
    free(b.data);
    b = st_make_lying("{}", 0, 100000001 - 2);
    ASSERT_FAILS(BAL_E_FORMAT, "more than the 100000000 allowed",
                 bal_tensor_set_open_bytes(&set, b.data, b.n, "f", &err));
    free(b.data);
}

/* A file cut anywhere is refused. */
static void test_truncated(void **state)
{
    (void)state;
    const st_bytes b =
        st_make("{" T("a", "U8", "[2]", 0, 2) "," T("b", "F32", "[2]", 2, 10) "}", 10);
    bal_error err;
    bal_tensor_set set;
    for (size_t n = 0; n < b.n; n++) {
        uint8_t *cut = malloc(n + !n);
        memcpy(cut, b.data, n);
        assert_int_equal(bal_tensor_set_open_bytes(&set, cut, n, "f", &err), BAL_E_FORMAT);
        free(cut);
    }
    ASSERT_OK(bal_tensor_set_open_bytes(&set, b.data, b.n, "f", &err));
    bal_tensor_set_close(&set);
    free(b.data);
}

static void test_views(void **state)
{
    (void)state;
    const st_bytes b = st_make("{" T("z", "BF16", "[3,1]", 2, 8) "," T(
                                   "a", "U8", "[2]", 0, 2) ",'__metadata__':{'k2':'v2','k1':'v1'}}",
                               8);
    bal_error err;
    bal_tensor_set set;
    ASSERT_OK(bal_tensor_set_open_bytes(&set, b.data, b.n, "two", &err));
    assert_int_equal(set.n_tensors, 2);
    assert_string_equal(set.tensors[0].name, "a");
    const bal_tensor_view *z;
    ASSERT_OK(bal_tensor_get(&set, "z", &z, &err));
    assert_int_equal(z->dtype, BAL_ST_BF16);
    assert_int_equal(z->n_dims, 2);
    assert_int_equal(z->shape[0], 3);
    assert_int_equal(z->shape[1], 1);
    assert_int_equal(z->n_bytes, 6);
    for (int i = 0; i < 6; i++) assert_int_equal(z->data[i], 2 + i);
    assert_string_equal(bal_tensor_file(&set, z), "two");
    assert_null(bal_tensor_find(&set, "y"));
    assert_null(bal_tensor_find(&set, "__metadata__"));
    ASSERT_FAILS(BAL_E_FORMAT, "two: tensor 'y' is missing", bal_tensor_get(&set, "y", &z, &err));
    assert_null(z);
    assert_int_equal(set.n_meta, 2);
    assert_string_equal(set.meta[0].key, "k1");
    assert_string_equal(set.meta[1].value, "v2");
    assert_string_equal(bal_tensor_meta(&set, "k1"), "v1");
    assert_null(bal_tensor_meta(&set, "k3"));
    bal_tensor_set_close(&set);
    bal_tensor_set_close(&set);
    assert_null(bal_tensor_find(&set, "a"));
    free(b.data);
}

static void test_many_dims(void **state)
{
    (void)state;
    const st_bytes b = st_make("{" T("a", "U8", "[1,1,1,1,1,1,1,1,1]", 0, 1) "}", 1);
    bal_error err;
    bal_tensor_set set;
    ASSERT_FAILS(BAL_E_UNSUP, "tensor 'a': 9 dimensions, at most 8",
                 bal_tensor_set_open_bytes(&set, b.data, b.n, "f", &err));
    free(b.data);
}

static void test_dtypes(void **state)
{
    (void)state;
    bal_st_dtype d;
    for (int i = 0; i < BAL_ST_DTYPE_COUNT; i++) {
        assert_true(bal_st_dtype_from_name(&d, bal_st_dtype_name((bal_st_dtype)i)));
        assert_int_equal(d, i);
        assert_true(bal_st_dtype_bits(d) >= 4 && bal_st_dtype_bits(d) <= 64);
    }
    assert_int_equal(bal_st_dtype_bits(BAL_ST_F8_E4M3), 8);
    assert_int_equal(bal_st_dtype_bits(BAL_ST_BF16), 16);
    assert_false(bal_st_dtype_from_name(&d, "I4"));
    assert_string_equal(bal_st_dtype_name(BAL_ST_DTYPE_COUNT), "?");
    assert_int_equal(bal_st_dtype_bits(BAL_ST_DTYPE_COUNT), 0);
}

/* Files found in the wild: "__metadata__": null, tensors out of order, header of an odd length. The
 * reference library opens both and finds 188 tensors in each. */
static void test_wild(void **state)
{
    (void)state;
    static const char *const files[] = {"safetensors_wild/weights_s2s.safetensors",
                                        "safetensors_wild/OLD_CelloGPT/weights.safetensors"};
    bal_error err;
    for (int i = 0; i < 2; i++) {
        const char *path = data_path(files[i]);
        SKIP_WITHOUT(path, files[i]);
        bal_tensor_set set;
        ASSERT_OK(bal_tensor_set_open(&set, path, &err));
        assert_int_equal(set.n_tensors, 188);
        assert_int_equal(set.n_meta, 0);
        assert_int_equal(set.n_header_bytes, 8 + 18758);
        const bal_tensor_view *t = bal_tensor_find(&set, "decoder_stack.0.ca.heads.0.key.weight");
        assert_non_null(t);
        assert_int_equal(t->n_bytes, 256);
        bal_tensor_set_close(&set);
    }
}

/* 10,000 tensors: opened and found without a quadratic step (the limit is generous). */
static void test_many_tensors(void **state)
{
    (void)state;
    enum { N = 10000, PER = 120 };
    char *header = malloc((size_t)N * PER + 2), *at = header;
    *at++ = '{';
    for (int i = 0; i < N; i++)
        at += snprintf(at, PER,
                       "%s'model.layers.%d.w':{'dtype':'U8','shape':[1],"
                       "'data_offsets':[%d,%d]}",
                       i ? "," : "", i, i, i + 1);
    strcpy(at, "}");
    const st_bytes b = st_make(header, N);
    bal_error err;
    bal_tensor_set set;
    ASSERT_OK(bal_tensor_set_open_bytes(&set, b.data, b.n, "many", &err));
    assert_int_equal(set.n_tensors, N);
    for (int i = 0; i < N; i++) {
        char name[40];
        snprintf(name, sizeof name, "model.layers.%d.w", i);
        const bal_tensor_view *t = bal_tensor_find(&set, name);
        assert_non_null(t);
        assert_int_equal(*t->data, i & 255);
    }
    bal_tensor_set_close(&set);
    free(b.data);
    free(header);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good),         cmocka_unit_test(test_wrong),
        cmocka_unit_test(test_frame),        cmocka_unit_test(test_truncated),
        cmocka_unit_test(test_views),        cmocka_unit_test(test_many_dims),
        cmocka_unit_test(test_dtypes),       cmocka_unit_test(test_wild),
        cmocka_unit_test(test_many_tensors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
