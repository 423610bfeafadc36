/* SPDX-License-Identifier: MIT
 * Files: mappings, capped reads, and output that is whole or absent, on a full disk too. */
#include "scratch.h"

static void test_mapping(void **state)
{
    (void)state;
    bal_error err;
    bal_mapping m;
    scratch_text(scratch("hello"), "hello");
    ASSERT_OK(bal_map_open(&m, scratch("hello"), &err));
    assert_int_equal(m.n_bytes, 5);
    assert_memory_equal(m.data, "hello", 5);
    bal_map_close(&m);
    bal_map_close(&m);
    scratch_text(scratch("empty"), "");
    ASSERT_OK(bal_map_open(&m, scratch("empty"), &err));
    assert_int_equal(m.n_bytes, 0);
    assert_non_null(m.data);
    bal_map_close(&m);
    ASSERT_FAILS(BAL_E_IO, "absent: cannot open", bal_map_open(&m, scratch("absent"), &err));
    ASSERT_FAILS(BAL_E_IO, "not a regular file", bal_map_open(&m, scratch_dir, &err));
    assert_null(m.data);
}

static void test_read(void **state)
{
    (void)state;
    bal_error err;
    uint8_t *data;
    size_t n;
    scratch_text(scratch("ten"), "0123456789");
    ASSERT_OK(bal_read_file(&data, &n, scratch("ten"), 10, &err));
    assert_int_equal(n, 10);
    assert_string_equal((char *)data, "0123456789");
    free(data);
    ASSERT_FAILS(BAL_E_FORMAT, "ten: 10 bytes, more than the 9",
                 bal_read_file(&data, &n, scratch("ten"), 9, &err));
    assert_null(data);
    ASSERT_FAILS(BAL_E_IO, "not a regular file",
                 bal_read_file(&data, &n, "/dev/zero", 1 << 20, &err));
}

static void test_paths(void **state)
{
    (void)state;
    bal_error err;
    char out[16];
    ASSERT_OK(bal_path_join(out, sizeof out, "a/b", "c", &err));
    assert_string_equal(out, "a/b/c");
    ASSERT_OK(bal_path_join(out, sizeof out, "a/b", "/c", &err));
    assert_string_equal(out, "/c");
    ASSERT_FAILS(BAL_E_ARG, "too long",
                 bal_path_join(out, sizeof out, "0123456789", "01234", &err));
    ASSERT_OK(bal_path_dir(out, sizeof out, "a/b/c", &err));
    assert_string_equal(out, "a/b");
    ASSERT_OK(bal_path_dir(out, sizeof out, "c", &err));
    assert_string_equal(out, ".");
    ASSERT_OK(bal_path_dir(out, sizeof out, "/c", &err));
    assert_string_equal(out, "/");
    ASSERT_FAILS(BAL_E_ARG, "too long", bal_path_dir(out, sizeof out, "0123456789012345/c", &err));
}

static void expect_text(const char *path, const char *want)
{
    bal_error err;
    uint8_t *data;
    size_t n;
    ASSERT_OK(bal_read_file(&data, &n, path, 1 << 20, &err));
    assert_string_equal((char *)data, want);
    free(data);
}

static void test_write_file(void **state)
{
    (void)state;
    bal_error err;
    const char *path = scratch("written");
    ASSERT_OK(bal_write_file(path, "old", 3, &err));
    ASSERT_OK(bal_write_file(path, "newer", 5, &err));
    expect_text(path, "newer");
    ASSERT_FAILS(BAL_E_IO, "cannot create", bal_write_file(scratch("no/such/folder"), "", 0, &err));
    ASSERT_FAILS(BAL_E_IO, "cannot rename", bal_write_file(scratch_dir, "x", 1, &err));
    char tmp[600];
    snprintf(tmp, sizeof tmp, "%s.tmp", scratch_dir);
    assert_false(bal_path_exists(tmp));
}

/* A full disk, by way of the device that plays one: the old file stays, nothing else is left. */
static void test_full_disk(void **state)
{
    (void)state;
    bal_error err;
    if (!bal_path_exists("/dev/full")) skip();
    scratch_text(scratch("precious"), "old");
    assert_int_equal(symlink("/dev/full", scratch("precious.tmp")), 0);
    ASSERT_FAILS(BAL_E_IO, "precious.tmp: cannot write: No space left",
                 bal_write_file(scratch("precious"), "new", 3, &err));
    expect_text(scratch("precious"), "old");
    assert_false(bal_path_exists(scratch("precious.tmp")));
    assert_true(bal_path_exists("/dev/full"));
}

static const char *part(const bal_output *o, const char *name)
{
    static char buf[2048];
    snprintf(buf, sizeof buf, "%s/%s", o->partial, name);
    return buf;
}

static void test_output_commit(void **state)
{
    (void)state;
    bal_error err;
    bal_output o;
    const char *path = scratch("out");
    ASSERT_OK(bal_output_begin(&o, path, false, &err));
    assert_true(bal_path_is_dir(scratch("out.partial")));
    assert_false(bal_path_exists(path));
    scratch_text(part(&o, "model"), "result");
    ASSERT_OK(bal_output_commit(&o, "model", &err));
    expect_text(path, "result");
    assert_false(bal_path_exists(scratch("out.partial")));
    assert_false(bal_path_exists(part(&o, "model")));
}

static void test_output_force(void **state)
{
    (void)state;
    bal_error err;
    bal_output o;
    const char *path = scratch("taken");
    scratch_text(path, "old");
    ASSERT_FAILS(BAL_E_EXISTS, "taken: exists already; --force",
                 bal_output_begin(&o, path, false, &err));
    assert_false(bal_path_exists(scratch("taken.partial")));
    ASSERT_OK(bal_output_begin(&o, path, true, &err));
    expect_text(path, "old"); /* until commit */
    scratch_text(part(&o, "model"), "new");
    ASSERT_OK(bal_output_commit(&o, "model", &err));
    expect_text(path, "new");
    assert_int_equal(mkdir(scratch("folder"), 0777), 0);
    ASSERT_FAILS(BAL_E_EXISTS, "is a folder", bal_output_begin(&o, scratch("folder"), true, &err));
}

/* What appeared while the work was going on is not replaced either, and the work is kept. */
static void test_output_race(void **state)
{
    (void)state;
    bal_error err;
    bal_output o;
    const char *path = scratch("raced");
    ASSERT_OK(bal_output_begin(&o, path, false, &err));
    scratch_text(part(&o, "model"), "ours");
    scratch_text(path, "theirs");
    ASSERT_FAILS(BAL_E_EXISTS, "raced: exists already", bal_output_commit(&o, "model", &err));
    expect_text(path, "theirs");
    expect_text(part(&o, "model"), "ours");
    o.force = true;
    ASSERT_OK(bal_output_commit(&o, "model", &err));
    expect_text(path, "ours");
}

static void test_output_abort(void **state)
{
    (void)state;
    bal_error err;
    bal_output o;
    ASSERT_OK(bal_output_begin(&o, scratch("given_up"), false, &err));
    scratch_text(part(&o, "somebody's"), "a");
    bal_output_abort(&o); /* files are never removed with the folder */
    expect_text(part(&o, "somebody's"), "a");
    assert_int_equal(unlink(part(&o, "somebody's")), 0);
    bal_output_abort(&o);
    assert_false(bal_path_exists(scratch("given_up.partial")));
    assert_false(bal_path_exists(scratch("given_up")));
    bal_output_abort(&o); /* again is harmless */
}

/* What an interrupted run left is there for the next one; a commit of nothing fails and keeps it.
 */
static void test_output_resume(void **state)
{
    (void)state;
    bal_error err;
    bal_output o;
    const char *path = scratch("resumed");
    ASSERT_OK(bal_output_begin(&o, path, false, &err));
    scratch_text(part(&o, "block0"), "done before");
    ASSERT_OK(bal_output_begin(&o, path, false, &err));
    expect_text(part(&o, "block0"), "done before");
    ASSERT_FAILS(BAL_E_IO, "model: cannot open", bal_output_commit(&o, "model", &err));
    expect_text(part(&o, "block0"), "done before");
    assert_false(bal_path_exists(path));
    scratch_text(part(&o, "model"), "whole");
    ASSERT_OK(bal_output_commit(&o, "model", &err));
    expect_text(path, "whole");
    expect_text(part(&o, "block0"), "done before"); /* the caller's to remove */
    assert_int_equal(unlink(part(&o, "block0")), 0);
    bal_output_abort(&o);
    assert_false(bal_path_exists(scratch("resumed.partial")));
}

static void test_output_symlink(void **state)
{
    (void)state;
    bal_error err;
    bal_output o;
    assert_int_equal(mkdir(scratch("elsewhere"), 0777), 0);
    assert_int_equal(symlink(scratch("elsewhere"), scratch("linked.partial")), 0);
    ASSERT_FAILS(BAL_E_EXISTS, "linked.partial: exists and is not a folder",
                 bal_output_begin(&o, scratch("linked"), false, &err));
}

static void test_output_in_the_way(void **state)
{
    (void)state;
    bal_error err;
    bal_output o;
    ASSERT_FAILS(BAL_E_IO, "no does not exist",
                 bal_output_begin(&o, scratch("no/folder"), false, &err));
    /* a device would be replaced for everybody; a pipe stands for it here */
    assert_int_equal(mkfifo(scratch("pipe"), 0600), 0);
    ASSERT_FAILS(BAL_E_EXISTS, "not a regular file",
                 bal_output_begin(&o, scratch("pipe"), true, &err));
    char name[1200];
    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = 0;
    ASSERT_FAILS(BAL_E_ARG, "too long", bal_output_begin(&o, name, false, &err));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_mapping),        cmocka_unit_test(test_read),
        cmocka_unit_test(test_paths),          cmocka_unit_test(test_write_file),
        cmocka_unit_test(test_full_disk),      cmocka_unit_test(test_output_commit),
        cmocka_unit_test(test_output_force),   cmocka_unit_test(test_output_race),
        cmocka_unit_test(test_output_symlink), cmocka_unit_test(test_output_abort),
        cmocka_unit_test(test_output_resume),  cmocka_unit_test(test_output_in_the_way),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
