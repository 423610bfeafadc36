/* SPDX-License-Identifier: MIT
 * A model that somebody else trained, from its published file to its quantized ones: stories260k
 * tells the story of its card, token by token, and loses as little by quantization as bits and
 * recipe let expect. `test_stories260k --table RECIPE[:BITS]...` prints the table of
 * docs/stories260k.md with more stories; `--convert DIR` makes the model folder. */
#include "golden/stories.h"
#include "unit/scratch.h"

#include "ballast_quant.h"
#include "run/evaluate.h"
#include "run/sampler.h"
#include "run/session.h"

#include <jansson.h>
#include <math.h>

enum { BOS = 1, MAX_TEXTS = 64, MAX_TOKENS = 400 };

static bal_engine plain;
static char data[1024], model[1024];

/* ---- Texts ---- */

typedef struct texts {
    bal_ids ids[MAX_TEXTS];
    int n, n_tokens; /* BOS not counted */
} texts;

static void texts_free(texts *t)
{
    for (int i = 0; i < t->n; i++) free(t->ids[i].v);
    *t = (texts){0};
}

static void texts_add(texts *t, bal_ids ids)
{
    assert_true(t->n < MAX_TEXTS && ids.n > 1 && ids.n <= MAX_TOKENS);
    t->ids[t->n++] = ids;
    t->n_tokens += (int)ids.n - 1;
}

/* Without BOS and the space in front of the first word; malloc'ed. */
static char *text_of(const bal_ids *ids)
{
    char *text = calloc(ids->n + 1, 64), *end = text;
    assert_non_null(text);
    for (size_t i = 0; i < ids->n; i++) {
        bal_token_view v = bal_tokenizer_decode(plain.tokenizer, ids->v[i], false);
        if (end == text && v.n && v.bytes[0] == ' ') v = (bal_token_view){v.bytes + 1, v.n - 1};
        memcpy(end, v.bytes, v.n);
        end += v.n;
    }
    return text;
}

/* The text behind the command of the card that has `options`; malloc'ed. */
static char *card_text(const char *options)
{
    size_t n;
    char *card = (char *)stories_read(data, "stories260K.md", &n);
    const char *command = strstr(card, options);
    assert_non_null(command);
    const char *from = strchr(command, '\n') + 1, *to = strstr(from, "\n```");
    assert_non_null(to);
    char *text = strndup(from, (size_t)(to - from));
    free(card);
    return text;
}

static bal_ids encode(const bal_tokenizer *t, const char *text)
{
    bal_error err = {0};
    bal_ids ids = {0};
    int32_t *v = NULL;
    size_t n = 0;
    ASSERT_OK(bal_tokenizer_encode(t, text, strlen(text), &v, &n, &err));
    ASSERT_OK(bal_ids_push(&ids, BOS, &err));
    for (size_t i = 0; i < n; i++) ASSERT_OK(bal_ids_push(&ids, v[i], &err));
    free(v);
    return ids;
}

/* BOS and what the float model says then, up to max tokens or the next BOS. */
static bal_ids tell(float temperature, uint64_t seed, int max)
{
    bal_error err = {0};
    bal_session s;
    bal_sampler sampler;
    bal_ids ids = {0};
    const bal_sampling how = {.temperature = temperature, .top_p = 1.0f, .seed = seed};
    ASSERT_OK(bal_session_create(&s, &plain, max + 1, &err));
    ASSERT_OK(bal_sampler_create(&sampler, &how, plain.model.config.text.vocab, &err));
    for (int32_t id = BOS; (int)ids.n <= max; id = bal_sampler_next(&sampler, s.logits)) {
        if (ids.n && id == BOS) break;
        ASSERT_OK(bal_ids_push(&ids, id, &err));
        ASSERT_OK(bal_session_push(&s, id, &err));
    }
    bal_sampler_destroy(&sampler);
    bal_session_destroy(&s);
    return ids;
}

/* ---- Scores ---- */

typedef struct score { /* sums over the tokens of each text, and their numbers */
    double nll[MAX_TEXTS], kl[MAX_TEXTS], n[MAX_TEXTS];
    double same[MAX_TEXTS]; /* tokens that both find likeliest */
} score;

static double divergence(const float *p, const float *q, int n)
{
    const double zp = bal_log_sum_exp(p, n), zq = bal_log_sum_exp(q, n);
    double sum = 0;
    for (int i = 0; i < n; i++)
        sum += exp((double)p[i] - zp) * ((double)p[i] - zp - ((double)q[i] - zq));
    return sum;
}

/* Text `at` with its right tokens so far. logits [tokens][vocab]: written by the float model, read
 * for others. */
static void score_text(score *out, const bal_engine *e, const bal_ids *ids, float *logits, int at)
{
    bal_error err = {0};
    bal_session s;
    const int vocab = e->model.config.text.vocab;
    out->nll[at] = out->kl[at] = out->same[at] = 0;
    out->n[at] = (double)(ids->n - 1);
    ASSERT_OK(bal_session_create(&s, e, (int)ids->n, &err));
    for (size_t i = 0; i + 1 < ids->n; i++, logits += vocab) {
        ASSERT_OK(bal_session_push(&s, ids->v[i], &err));
        out->nll[at] += bal_log_sum_exp(s.logits, vocab) - (double)s.logits[ids->v[i + 1]];
        if (e == &plain) memcpy(logits, s.logits, (size_t)vocab * sizeof *logits);
        out->kl[at] += divergence(logits, s.logits, vocab);
        out->same[at] += bal_argmax(logits, vocab) == bal_argmax(s.logits, vocab);
    }
    bal_session_destroy(&s);
}

static void score_texts(score *out, const bal_engine *e, const texts *t, float *logits)
{
    const size_t vocab = (size_t)e->model.config.text.vocab;
    for (int i = 0; i < t->n; i++) {
        score_text(out, e, &t->ids[i], logits, i);
        logits += (t->ids[i].n - 1) * vocab;
    }
}

/* Per token, over texts from .. to - 1; the interval is over draws of whole texts. */
static bal_interval mean(const double *sums, const score *s, int from, int to)
{
    bal_error err = {0};
    bal_interval out;
    const bal_quotient q = {.top = sums + from, .bottom = s->n + from};
    ASSERT_OK(bal_bootstrap(&out, &q, (size_t)(to - from), BAL_EVAL_DRAWS, 1, &err));
    return out;
}

/* ---- The comparison ---- */

enum { CARD = 2 }; /* the first texts: greedy and sampled, as the card has them */

typedef struct contest {
    texts texts; /* the card's, then stories of the float model */
    float *logits;
    score reference;
    char calib[1024];
} contest;

/* Calibration conversations: a story is an answer to nothing. */
static void write_calibration(const char *path, int n, int max)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    for (int i = 0; i < n; i++) {
        bal_ids ids = tell(1.0f, (uint64_t)i, max);
        char *text = text_of(&ids);
        json_t *o = json_pack("{s[{ssss}]}", "conversations", "from", "gpt", "value", text);
        assert_non_null(o);
        assert_int_equal(json_dumpf(o, f, 0), 0);
        fputc('\n', f);
        json_decref(o);
        free(text);
        free(ids.v);
    }
    assert_int_equal(fclose(f), 0);
}

/* n_own stories of up to `max` tokens to score, n_calib others to calibrate on. */
static void contest_open(contest *c, int n_own, int n_calib, int max)
{
    const size_t vocab = (size_t)plain.model.config.text.vocab;
    *c = (contest){0};
    char *greedy = card_text("-t 0.0"), *sampled = card_text("-t 1.0");
    texts_add(&c->texts, encode(plain.tokenizer, greedy));
    texts_add(&c->texts, encode(plain.tokenizer, sampled));
    for (int i = 0; i < n_own; i++) texts_add(&c->texts, tell(1.0f, 1000 + (uint64_t)i, max));
    snprintf(c->calib, sizeof c->calib, "%s", scratch("calib.jsonl"));
    write_calibration(c->calib, n_calib, max);
    c->logits = malloc((size_t)c->texts.n_tokens * vocab * sizeof *c->logits);
    assert_non_null(c->logits);
    score_texts(&c->reference, &plain, &c->texts, c->logits);
    free(greedy);
    free(sampled);
}

static void contest_close(contest *c)
{
    texts_free(&c->texts);
    free(c->logits);
}

/* Quantizes, and scores the file. bits 0: the recipe's own. */
static void enter(const contest *c, const char *recipe, int bits, score *out, bal_quant_plan *plan)
{
    bal_error err = {0};
    bal_engine e;
    char file[1024], set[32];
    const char *sets[] = {set};
    snprintf(file, sizeof file, "%s", scratch("q.safetensors"));
    snprintf(set, sizeof set, "bits=%d", bits);
    const bal_quant_opts opts = {.size = sizeof opts,
                                 .threads = 1,
                                 .recipe = recipe,
                                 .set = sets,
                                 .n_set = bits ? 1 : 0,
                                 .calib = strcmp(recipe, "rtn") == 0 ? NULL : c->calib,
                                 .samples = -1,
                                 .force = true};
    ASSERT_OK(bal_quantize_plan(plan, model, file, &opts, &err));
    ASSERT_OK(bal_quantize(model, file, &opts, &err));
    ASSERT_OK(bal_engine_open(&e, file, 1, NULL, &err));
    score_texts(out, &e, &c->texts, c->logits);
    bal_engine_close(&e);
}

/* ---- Tests ---- */

static void test_tells_the_story_of_its_card(void **state)
{
    (void)state;
    SKIP_WITHOUT(data_path("stories260k"), "stories260k");
    char *want = card_text("-t 0.0");
    bal_ids ids = tell(0, 0, 256);
    char *said = text_of(&ids);
    printf("%zu tokens, %zu bytes\n", ids.n - 1, strlen(said));
    if (strncmp(said, want, strlen(want)) != 0) fail_msg("said '%s'\nwanted '%s'", said, want);
    assert_true(strlen(said) - strlen(want) < 8);
    bal_ids again = encode(plain.tokenizer, said);
    assert_int_equal(again.n, ids.n);
    assert_memory_equal(again.v, ids.v, ids.n * sizeof *ids.v);
    free(want);
    free(said);
    free(ids.v);
    free(again.v);
}

/* The same conversion of Llama 2's vocabulary gives the tokenizer that SentencePiece published. */
static void test_tokenizer_bin_is_the_published_model(void **state)
{
    (void)state;
    const char *dir = data_path("tokenizers/llama2");
    SKIP_WITHOUT(dir && *data, "tokenizers/llama2");
    bal_error err = {0};
    bal_tokenizer *published = NULL, *made = NULL;
    char own[1024];
    size_t n_published, n_made;
    snprintf(own, sizeof own, "%s", scratch("llama2"));
    assert_int_equal(mkdir(own, 0777), 0);
    stories_tokenizer(dir, 32000, own);
    ASSERT_OK(bal_tokenizer_open_dir(&published, dir, &err));
    ASSERT_OK(bal_tokenizer_open_dir(&made, own, &err));
    const uint8_t *want = bal_tokenizer_blob(published, &n_published);
    const uint8_t *got = bal_tokenizer_blob(made, &n_made);
    assert_int_equal(n_made, n_published);
    assert_memory_equal(got, want, n_made);
    bal_tokenizer_close(published);
    bal_tokenizer_close(made);
}

/* A row of the table: perplexity of the card's texts and of the float model's own stories, and how
 * far the answers to the latter are from float. */
typedef struct figures {
    double card, own, bpw;
    bal_interval kl, top1;
} figures;

static figures figures_of(const contest *c, const score *s, double bpw)
{
    figures f = {.bpw = bpw};
    f.kl = mean(s->kl, s, CARD, c->texts.n);
    f.top1 = mean(s->same, s, CARD, c->texts.n);
    f.card = exp(mean(s->nll, s, 0, CARD).value);
    f.own = exp(mean(s->nll, s, CARD, c->texts.n).value);
    return f;
}

static figures run(const contest *c, const char *recipe, int bits)
{
    score s;
    bal_quant_plan plan;
    enter(c, recipe, bits, &s, &plan);
    const figures f = figures_of(c, &s, plan.linear_bits_per_weight);
    printf("| %s | %d | %.2f | %.3f | %.3f | %.4f [%.4f, %.4f] | %.1f [%.1f, %.1f] |\n", recipe,
           plan.bits, f.bpw, f.card, f.own, f.kl.value, f.kl.lo, f.kl.hi, 100 * f.top1.value,
           100 * f.top1.lo, 100 * f.top1.hi);
    return f;
}

static const char *const recipes[] = {"rtn", "awq", "mbq+"};
static const int widths[] = {8, 4, 3};
enum { RTN, AWQ, MBQ, RECIPES, W8 = 0, W4, W3, WIDTHS };

static void run_all(const contest *c, figures f[WIDTHS][RECIPES])
{
    for (int b = 0; b < WIDTHS; b++)
        for (int r = 0; r < RECIPES; r++) f[b][r] = run(c, recipes[r], widths[b]);
}

static void check_recipe(const figures *whole, figures f[WIDTHS][RECIPES], int r)
{
    const figures *w8 = &f[W8][r], *w4 = &f[W4][r], *w3 = &f[W3][r];
    for (int b = 0; b < WIDTHS; b++)
        assert_true(f[b][r].bpw > widths[b] && f[b][r].bpw < widths[b] + 1);
    assert_true(fabs(w8->card / whole->card - 1) < 0.01 && w8->kl.value < 1e-3);
    assert_true(w4->card / whole->card < 1.2 && w4->kl.value > 0.01 && w4->kl.value < 0.2);
    assert_true(w3->card / whole->card < 3 && w3->kl.value > 0.1 && w3->kl.value < 1.5);
    assert_true(w3->card > w4->card && w4->card > w8->card);
}

static void test_fewer_bits_lose_more(void **state)
{
    (void)state;
    SKIP_WITHOUT(data_path("stories260k"), "stories260k");
    static contest c;
    figures f[WIDTHS][RECIPES];
    contest_open(&c, 2, 2, 32);
    const figures whole = figures_of(&c, &c.reference, 32);
    printf("float: %.3f, %.3f\n", whole.card, whole.own);
    run_all(&c, f);
    for (int r = 0; r < RECIPES; r++) check_recipe(&whole, f, r);
    assert_true(f[W3][AWQ].kl.value < f[W3][RTN].kl.value);
    assert_true(f[W3][MBQ].kl.value < 0.8 * f[W3][RTN].kl.value);
    assert_true(f[W3][MBQ].card < 0.9 * f[W3][RTN].card);
    contest_close(&c);
}

/* names: "RECIPE" or "RECIPE:BITS" */
static void print_table(char *const names[], int n)
{
    static contest c;
    contest_open(&c, MAX_TEXTS - CARD, 32, 128);
    const figures whole = figures_of(&c, &c.reference, 32);
    const int card = (int)(c.texts.ids[0].n + c.texts.ids[1].n) - CARD;
    printf("The card's texts have %d tokens, the others %d.\n\n", card, c.texts.n_tokens - card);
    printf("| recipe | bits | bpw | card | own stories | KL | top-1 %% |\n"
           "| --- | ---: | ---: | ---: | ---: | ---: | ---: |\n"
           "| float | 32 | 32.00 | %.3f | %.3f | | |\n",
           whole.card, whole.own);
    for (int i = 0; i < n; i++) {
        char *colon = strchr(names[i], ':');
        if (colon) *colon = 0;
        run(&c, names[i], colon ? atoi(colon + 1) : 0);
        fflush(stdout);
    }
    contest_close(&c);
}

static int setup(void **state)
{
    bal_error err = {0};
    const char *dir = data_path("stories260k");
    if (!dir) return 0;
    snprintf(data, sizeof data, "%s", dir);
    if (scratch_setup(state) < 0) return -1;
    snprintf(model, sizeof model, "%s", scratch("model"));
    stories_convert(data, model);
    return bal_engine_open(&plain, model, 1, NULL, &err) < 0 ? fprintf(stderr, "%s\n", err.text)
                                                             : 0;
}

static int teardown(void **state)
{
    bal_engine_close(&plain);
    return *data ? scratch_teardown(state) : 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_tells_the_story_of_its_card),
        cmocka_unit_test(test_tokenizer_bin_is_the_published_model),
        cmocka_unit_test(test_fewer_bits_lose_more),
    };
    if (argc == 3 && strcmp(argv[1], "--convert") == 0 && data_path("stories260k"))
        return stories_convert(data_path("stories260k"), argv[2]), 0;
    if (argc < 3 || strcmp(argv[1], "--table") != 0)
        return cmocka_run_group_tests(tests, setup, teardown);
    if (setup(NULL) != 0 || !*data) return 1;
    print_table(argv + 2, argc - 2);
    return teardown(NULL);
}
