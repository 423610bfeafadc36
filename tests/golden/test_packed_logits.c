/* SPDX-License-Identifier: MIT
 * Packed equals simulated: logits of a file that quantize wrote against the same model with its
 * packed weights unpacked to floats. What remains is the rounding of activations to int16: below
 * 1e-3 of the logits' deviation on the embedded model. The tiny random checkpoints amplify any
 * rounding about a hundredfold (reordering f32 sums alone moves their logits by 1e-5), so they get
 * a wider limit; they are here for every width and group. */
#include "check.h"
#include "unit/scratch.h"

#include "ballast_quant.h"
#include "run/session.h"

#include <math.h>

enum { N = 150 };

typedef struct all_logits {
    float *data;
    int vocab, n;
} all_logits;

static void see(void *ctx, int row, const float *logits)
{
    all_logits *a = ctx;
    (void)row;
    memcpy(a->data + a->n++ * a->vocab, logits, (size_t)a->vocab * sizeof *logits);
}

static all_logits run(const bal_engine *e)
{
    bal_error err;
    const bal_text_config *c = &e->model.config.text;
    all_logits out = {malloc((size_t)(N * c->vocab) * sizeof(float)), c->vocab, 0};
    float *embeds = malloc((size_t)(N * c->hidden) * sizeof *embeds);
    bal_token_info info[N];
    bal_session s;
    for (int i = 0; i < N; i++) {
        info[i] =
            (bal_token_info){.id = (i * 131 + 7) % (c->vocab - 10), .pos = {i, i, i}, .image = -1};
        bal_linear_row(&e->model.embed, info[i].id, embeds + i * c->hidden);
    }
    ASSERT_OK(bal_session_create(&s, e, 192, &err));
    ASSERT_OK(bal_session_append(&s, info, embeds, N, 0, see, &out, (bal_taps){0}, &err));
    bal_session_destroy(&s);
    free(embeds);
    return out;
}

/* Replaces every packed linear by its float weights, which the caller frees. */
static int unpack_all(bal_engine *e, void *owned[], int max)
{
    int n = 0;
    for (int l = 0; l < e->model.config.text.layers; l++)
        for (int i = 0; i < BAL_DECODER_LINEARS; i++) {
            bal_linear *w = bal_decoder_linear(&e->model.layers[l], i);
            assert_true(bal_type_get(w->type)->packed && n < max);
            float *f = malloc((size_t)w->n * (size_t)w->k * sizeof *f);
            for (int r = 0; r < w->n; r++) bal_linear_row(w, r, f + (size_t)r * (size_t)w->k);
            w->type = BAL_TYPE_F32;
            w->w = owned[n++] = f;
        }
    return n;
}

static void compare(const char *model, int bits, const char *group, const char *grid, double limit)
{
    bal_error err = {0};
    char set_bits[16], set_group[24], set_grid[24], out[1100];
    snprintf(set_bits, sizeof set_bits, "bits=%d", bits);
    snprintf(set_group, sizeof set_group, "group=%s", group);
    snprintf(out, sizeof out, "%s", scratch("q.safetensors"));
    snprintf(set_grid, sizeof set_grid, "grid=%s", grid);
    const char *set[] = {set_bits, set_group, set_grid};
    const bal_quant_opts opts = {
        .size = sizeof opts, .recipe = "rtn", .set = set, .n_set = 3, .force = true};
    ASSERT_OK(bal_quantize(source_path(model), out, &opts, &err));
    bal_engine e;
    static void *owned[7 * 64];
    ASSERT_OK(bal_engine_open(&e, out, 2, NULL, &err));
    all_logits packed = run(&e);
    const int n = unpack_all(&e, owned, 7 * 64);
    all_logits plain = run(&e);
    double sum = 0, square = 0, worst = 0;
    const size_t count = (size_t)(N * packed.vocab);
    for (size_t i = 0; i < count; i++) {
        sum += (double)plain.data[i];
        square += (double)plain.data[i] * (double)plain.data[i];
        worst = fmax(worst, fabs((double)plain.data[i] - (double)packed.data[i]));
    }
    const double mean = sum / (double)count, deviation = sqrt(square / (double)count - mean * mean);
    printf("%s W%d g%s %s: largest difference %.2g of the deviation\n", model, bits, group, grid,
           worst / deviation);
    assert_true(worst > 0 && worst < limit * deviation);
    for (int i = 0; i < n; i++) free(owned[i]);
    free(packed.data);
    free(plain.data);
    bal_engine_close(&e);
}

static void tiny_all_types(void **state)
{
    (void)state;
    const int bits[] = {2, 3, 4, 6, 8};
    const char *const groups[] = {"32", "64", "128", "row"};
    for (int b = 0; b < 5; b++)
        for (int g = 0; g < 4; g++)
            compare("tests/golden/tiled/model", bits[b], groups[g], "asym", 4e-3);
    for (int b = 0; b < 3; b++)
        compare("tests/golden/tiled/model", bits[b], groups[b], "table", 4e-3);
    compare("tests/golden/tiled/model", 4, "128", "two-level", 4e-3);
}

static void embedded(void **state)
{
    (void)state;
    compare("demo/model", 3, "128", "asym", 1e-3);
    compare("demo/model", 2, "32", "asym", 1e-3);
    compare("demo/model", 2, "32", "table", 1e-3);
    compare("demo/model", 3, "32", "table", 1e-3);
    compare("demo/model", 4, "128", "two-level", 1e-3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_all_types),
        cmocka_unit_test(embedded),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
