/* SPDX-License-Identifier: MIT
 * SHA-256 against the vectors of FIPS 180-4, streamed in pieces and from a file. */
#include "scratch.h"

#include "base/hash.h"

static const struct {
    const char *text;
    const char *hex;
} vectors[] = {
    {"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"},
    {"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"},
    {"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
     "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1"},
};

static void check_hex(const uint8_t digest[BAL_SHA256_BYTES], const char *want)
{
    char hex[BAL_SHA256_HEX];
    bal_hex(hex, digest, BAL_SHA256_BYTES);
    assert_string_equal(hex, want);
}

static void test_vectors(void **state)
{
    (void)state;
    bal_error err;
    uint8_t digest[BAL_SHA256_BYTES];
    for (size_t i = 0; i < sizeof vectors / sizeof *vectors; i++) {
        const char *text = vectors[i].text;
        ASSERT_OK(bal_sha256_bytes(digest, text, strlen(text), &err));
        check_hex(digest, vectors[i].hex);
        scratch_text(scratch("hashed"), text);
        ASSERT_OK(bal_sha256_file(digest, scratch("hashed"), &err));
        check_hex(digest, vectors[i].hex);
    }
    ASSERT_FAILS(BAL_E_IO, "nowhere", bal_sha256_file(digest, scratch("nowhere"), &err));
}

/* A million times 'a', in pieces of every length from 1 to 997. */
static void test_stream(void **state)
{
    (void)state;
    bal_error err;
    bal_sha256 h;
    uint8_t digest[BAL_SHA256_BYTES];
    char piece[997];
    memset(piece, 'a', sizeof piece);
    ASSERT_OK(bal_sha256_init(&h, &err));
    for (size_t left = 1000000, n = 1; left > 0; n = n % sizeof piece + 1) {
        const size_t now = n < left ? n : left;
        ASSERT_OK(bal_sha256_update(&h, piece, now, &err));
        left -= now;
    }
    ASSERT_OK(bal_sha256_final(&h, digest, &err));
    check_hex(digest, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
    bal_sha256_deinit(&h);
    bal_sha256_deinit(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_vectors),
        cmocka_unit_test(test_stream),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
