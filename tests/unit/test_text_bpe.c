/* SPDX-License-Identifier: MIT
 * Merging against the definition (look for the lowest rank, leftmost first, merge, start again) on
 * random tables of merges and random pieces, and the table of pairs by itself. */
#include "check.h"
#include "base/rng.h"
#include "text/bpe.h"

#define LETTERS 4
#define MERGES  60
#define LONGEST 80

/* merge r makes id LETTERS + r */
typedef struct random_merges {
    uint32_t left[MERGES], right[MERGES];
    int n;
    bal_bpe_table table;
} random_merges;

static uint32_t result_of(const void *ctx, uint32_t rank)
{
    (void)ctx;
    return LETTERS + rank;
}

static void make_merges(random_merges *m, bal_rng *rng)
{
    bal_error err;
    m->n = 0;
    ASSERT_OK(bal_bpe_table_init(&m->table, MERGES, &err));
    for (int tries = 0; tries < MERGES; tries++) {
        const uint64_t n_ids = LETTERS + (uint64_t)m->n;
        const uint32_t left = (uint32_t)bal_rng_below(rng, n_ids);
        const uint32_t right = (uint32_t)bal_rng_below(rng, n_ids), rank = (uint32_t)m->n;
        if (bal_bpe_table_add(&m->table, left, right, rank) != rank) continue;
        m->left[m->n] = left;
        m->right[m->n++] = right;
    }
}

/* Where the first pair of rank r stands, or n. */
static size_t find_pair(const random_merges *m, int r, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i + 1 < n; i++)
        if ((uint32_t)ids[i] == m->left[r] && (uint32_t)ids[i + 1] == m->right[r]) return i;
    return n;
}

static size_t merge_by_definition(const random_merges *m, int32_t *ids, size_t n)
{
    for (int r = 0; r < m->n;) {
        const size_t i = find_pair(m, r, ids, n);
        if (i == n) {
            r++;
            continue;
        }
        ids[i] = LETTERS + r;
        memmove(ids + i + 1, ids + i + 2, (n - i - 2) * sizeof *ids);
        n--;
        r = 0;
    }
    return n;
}

static void check_piece(const random_merges *m, bal_rng *rng, bal_bpe_scratch *scratch)
{
    bal_error err;
    int32_t ids[LONGEST], expected[LONGEST];
    size_t n = bal_rng_below(rng, LONGEST + 1);
    for (size_t i = 0; i < n; i++) ids[i] = expected[i] = (int32_t)bal_rng_below(rng, LETTERS);
    const size_t n_expected = merge_by_definition(m, expected, n);
    ASSERT_OK(bal_bpe_merge(&m->table, result_of, NULL, scratch, ids, &n, &err));
    assert_int_equal(n, n_expected);
    if (n) assert_memory_equal(ids, expected, n * sizeof *ids);
}

static void test_merging_is_the_definition(void **state)
{
    (void)state;
    bal_rng rng;
    bal_rng_seed(&rng, 17);
    bal_bpe_scratch scratch = {0};
    for (int round = 0; round < 400; round++) {
        random_merges m;
        make_merges(&m, &rng);
        for (int piece = 0; piece < 25; piece++) check_piece(&m, &rng, &scratch);
        bal_bpe_table_deinit(&m.table);
    }
    bal_bpe_scratch_deinit(&scratch);
}

static void test_table(void **state)
{
    (void)state;
    bal_error err;
    bal_bpe_table t;
    const uint32_t last = BAL_BPE_IDS_MAX - 1, n = 5000;
    ASSERT_OK(bal_bpe_table_init(&t, n, &err));
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(bal_bpe_table_find(&t, i, last - i), BAL_BPE_NO_RANK);
        assert_int_equal(bal_bpe_table_add(&t, i, last - i, i), i);
    }
    for (uint32_t i = 0; i < n; i++) {
        assert_int_equal(bal_bpe_table_find(&t, i, last - i), i);
        assert_int_equal(bal_bpe_table_find(&t, last - i, i), BAL_BPE_NO_RANK);
    }
    assert_int_equal(bal_bpe_table_add(&t, 7, last - 7, n), 7); /* keeps the rank it has */
    bal_bpe_table_deinit(&t);
    ASSERT_OK(bal_bpe_table_init(&t, 1, &err));
    assert_int_equal(bal_bpe_table_add(&t, last, last, BAL_BPE_MERGES_MAX - 1),
                     BAL_BPE_MERGES_MAX - 1);
    assert_int_equal(bal_bpe_table_find(&t, last, last), BAL_BPE_MERGES_MAX - 1);
    bal_bpe_table_deinit(&t);
}

static void test_ids_grow(void **state)
{
    (void)state;
    bal_error err;
    bal_ids ids = {0};
    for (int32_t i = 0; i < 1000; i++) ASSERT_OK(bal_ids_push(&ids, i, &err));
    assert_int_equal(ids.n, 1000);
    for (int32_t i = 0; i < 1000; i++) assert_int_equal(ids.v[i], i);
    ASSERT_FAILS(BAL_E_NOMEM, "token ids", bal_ids_reserve(&ids, SIZE_MAX, &err));
    free(ids.v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_merging_is_the_definition),
        cmocka_unit_test(test_table),
        cmocka_unit_test(test_ids_grow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
