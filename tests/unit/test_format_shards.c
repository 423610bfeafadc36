/* SPDX-License-Identifier: MIT
 * Model directories: one file, or an index and its shards; and every way in which the two can
 * disagree or point outside. */
#include "scratch.h"

#include "format/safetensors.h"
#include "safetensors_bytes.h"

#define ONE(name) "{'" name "':{'dtype':'U8','shape':[2],'data_offsets':[0,2]}}"
#define TWO(a, b)                                                                                  \
    "{'" a "':{'dtype':'U8','shape':[2],'data_offsets':[0,2]},"                                    \
    "'" b "':{'dtype':'U8','shape':[0],'data_offsets':[2,2]}}"

static void put_shard(const char *name, const char *header, size_t n_data)
{
    const st_bytes b = st_make(header, n_data);
    scratch_write(scratch(name), b.data, b.n);
    free(b.data);
}

/* ' for " */
static void put_index(const char *text)
{
    char *copy = strdup(text);
    for (char *p = copy; *p; p++)
        if (*p == '\'') *p = '"';
    scratch_text(scratch("model.safetensors.index.json"), copy);
    free(copy);
}

static int fresh(void **state)
{
    (void)state;
    scratch_empty(scratch_dir);
    put_shard("s1.safetensors", TWO("a", "b"), 2);
    put_shard("s2.safetensors", ONE("c"), 2);
    return 0;
}

static void refused(const char *sentence)
{
    bal_error err;
    bal_tensor_set set;
    ASSERT_FAILS(BAL_E_FORMAT, sentence, bal_tensor_set_open(&set, scratch_dir, &err));
    assert_null(set.files);
    assert_null(set.tensors);
}

static void test_two_shards(void **state)
{
    (void)state;
    bal_error err;
    bal_tensor_set set;
    put_index("{'metadata':{'total_size':4},'weight_map':{'a':'s1.safetensors',"
              "'b':'s1.safetensors','c':'s2.safetensors'}}");
    ASSERT_OK(bal_tensor_set_open(&set, scratch_dir, &err));
    assert_int_equal(set.n_tensors, 3);
    assert_int_equal(set.n_files, 2);
    assert_int_equal(set.n_data_bytes, 4);
    assert_int_equal(set.n_file_bytes, set.n_header_bytes + 4);
    assert_non_null(strstr(bal_tensor_file(&set, bal_tensor_find(&set, "b")), "/s1.safe"));
    assert_non_null(strstr(bal_tensor_file(&set, bal_tensor_find(&set, "c")), "/s2.safe"));
    bal_tensor_set_close(&set);
}

/* The single file wins over an index beside it, as in the reference loader. */
static void test_single_file(void **state)
{
    (void)state;
    bal_error err;
    bal_tensor_set set;
    put_index("{'weight_map':{'a':'s1.safetensors'}}");
    put_shard("model.safetensors", ONE("only"), 2);
    ASSERT_OK(bal_tensor_set_open(&set, scratch_dir, &err));
    assert_int_equal(set.n_tensors, 1);
    assert_non_null(bal_tensor_find(&set, "only"));
    bal_tensor_set_close(&set);
    ASSERT_OK(bal_tensor_set_open(&set, scratch("s2.safetensors"), &err));
    assert_non_null(bal_tensor_find(&set, "c"));
    bal_tensor_set_close(&set);
}

static void test_metadata_union(void **state)
{
    (void)state;
    bal_error err;
    bal_tensor_set set;
    put_shard("s2.safetensors",
              "{'__metadata__':{'format':'np','two':'2'},'c':{'dtype':'U8',"
              "'shape':[2],'data_offsets':[0,2]}}",
              2);
    put_shard("s1.safetensors",
              "{'__metadata__':{'format':'pt','one':'1'},'a':{'dtype':'U8','shape':[0],"
              "'data_offsets':[0,0]}}",
              0);
    put_index("{'weight_map':{'c':'s2.safetensors','a':'s1.safetensors'}}");
    ASSERT_OK(bal_tensor_set_open(&set, scratch_dir, &err));
    assert_int_equal(set.n_meta, 3);
    assert_string_equal(bal_tensor_meta(&set, "format"), "pt");
    assert_string_equal(bal_tensor_meta(&set, "two"), "2");
    bal_tensor_set_close(&set);
}

/* A name that leaves the directory is refused before any file is opened. */
static void test_escapes(void **state)
{
    (void)state;
    static const char *const names[] = {"../s1.safetensors",
                                        "/etc/passwd",
                                        "sub/s1.safetensors",
                                        "./s1.safetensors",
                                        "..",
                                        ".",
                                        "",
                                        "a..b",
                                        "s1.safetensors/"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char index[200];
        snprintf(index, sizeof index, "{'weight_map':{'c':'s2.safetensors','a':'%s'}}", names[i]);
        put_index(index);
        refused("weight_map.a: expected a file name without '/' or '..'");
    }
    put_index("{'weight_map':{'a':1}}");
    refused("weight_map.a: expected a file name");
    put_index("{'weight_map':{'a':'s1\\u0000.safetensors'}}");
    refused("index.json");
}

static void test_disagreement(void **state)
{
    (void)state;
    put_index("{'weight_map':{'a':'s1.safetensors','c':'s2.safetensors'}}");
    refused("s1.safetensors: tensor 'b' is not in the weight_map");
    put_index("{'weight_map':{'a':'s1.safetensors','b':'s1.safetensors','c':'s2.safetensors',"
              "'d':'s2.safetensors'}}");
    refused("tensor 'd' is not in its shard s2.safetensors");
    put_index("{'weight_map':{'a':'s1.safetensors','b':'s2.safetensors','c':'s2.safetensors'}}");
    refused("tensor 'b' is not in its shard s2.safetensors");
    put_shard("s2.safetensors", ONE("a"), 2);
    put_index("{'weight_map':{'a':'s1.safetensors','b':'s1.safetensors','c':'s2.safetensors'}}");
    refused("tensor 'a' stands in two shards: ");
}

static void test_damaged(void **state)
{
    (void)state;
    bal_error err;
    bal_tensor_set set;
    put_index("{'weight_map':{'a':'s1.safetensors','b':'s1.safetensors','c':'s3.safetensors'}}");
    ASSERT_FAILS(BAL_E_IO, "s3.safetensors: cannot open",
                 bal_tensor_set_open(&set, scratch_dir, &err));
    put_shard("s3.safetensors", ONE("c"), 3);
    refused("s3.safetensors: tensors end at offset 2");
    put_index("{'weight_map':[]}");
    refused("weight_map: expected an object, found an array");
    put_index("{}");
    refused("weight_map: expected an object, it is missing");
    put_index("[]");
    refused("weight_map: expected an object");
    put_index("{'weight_map':{'a':'s1.safetensors','a':'s1.safetensors'}}");
    refused("duplicate");
    put_index("{'weight_map':");
    refused("index.json: column 14");
}

static void test_nothing_there(void **state)
{
    (void)state;
    bal_error err;
    bal_tensor_set set;
    const char *empty = scratch("empty");
    assert_int_equal(mkdir(empty, 0700), 0);
    ASSERT_FAILS(BAL_E_IO, "neither model.safetensors nor model.safetensors.index.json",
                 bal_tensor_set_open(&set, empty, &err));
    ASSERT_FAILS(BAL_E_UNSUP, "no model.safetensors in here, but s1.safetensors",
                 bal_tensor_set_open(&set, scratch_dir, &err));
    ASSERT_FAILS(BAL_E_IO, "absent: cannot open",
                 bal_tensor_set_open(&set, scratch("absent"), &err));
    put_index("{'weight_map':{}}");
    ASSERT_OK(bal_tensor_set_open(&set, scratch_dir, &err));
    assert_int_equal(set.n_tensors, 0);
    bal_tensor_set_close(&set);
}

/* Download caches are folders of symbolic links into another folder. */
static void test_links(void **state)
{
    (void)state;
    bal_error err;
    bal_tensor_set set;
    assert_int_equal(mkdir(scratch("snapshot"), 0777), 0);
    assert_int_equal(symlink("../s2.safetensors", scratch("snapshot/model.safetensors")), 0);
    ASSERT_OK(bal_tensor_set_open(&set, scratch("snapshot"), &err));
    assert_non_null(bal_tensor_find(&set, "c"));
    bal_tensor_set_close(&set);
}

/* A published kind of checkpoint in two shards, made by the reference library. */
static void test_reference_shards(void **state)
{
    (void)state;
    bal_error err;
    bal_tensor_set set;
    ASSERT_OK(bal_tensor_set_open(&set, source_path("tests/golden/two_images_f16/model"), &err));
    assert_int_equal(set.n_files, 2);
    assert_true(set.n_tensors > 10);
    for (size_t i = 0; i < set.n_tensors; i++) assert_int_equal(set.tensors[i].dtype, BAL_ST_F16);
    bal_tensor_set_close(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(test_two_shards, fresh),
        cmocka_unit_test_setup(test_single_file, fresh),
        cmocka_unit_test_setup(test_metadata_union, fresh),
        cmocka_unit_test_setup(test_escapes, fresh),
        cmocka_unit_test_setup(test_disagreement, fresh),
        cmocka_unit_test_setup(test_damaged, fresh),
        cmocka_unit_test_setup(test_nothing_there, fresh),
        cmocka_unit_test_setup(test_links, fresh),
        cmocka_unit_test(test_reference_shards),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
