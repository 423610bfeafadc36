/* SPDX-License-Identifier: MIT
 * Load on a server of OpenAI's API: many clients that stream answers of mixed sizes for a while,
 * some of which go away in the middle. Prints one line of JSON.
 *   serve_load URL CLIENTS SECONDS SEED BANNED [PICTURE.png ...]
 * BANNED: ids with commas between that no answer may hold, so that every token is text (the end of
 * an answer, which is ignored here, would show as a longer gap), or none.
 * Exit status 1 where anything but an answer or a 429 came back. */
#include "client.h"

#include <pthread.h>

typedef struct load {
    const char *url;
    double until;
    const char *bias; /* {"ID":-100,...} */
    char **pictures;  /* [n_pictures] data URLs */
    int n_pictures;
} load;

typedef struct client {
    pthread_t thread;
    const load *load;
    uint64_t rng;
    int whole, left, refused, failed; /* answers */
    long pieces, prompt, answer;      /* tokens of whole answers */
    times first, gaps;
    char trouble[300];
} client;

/* xorshift64*: Vigna 2016 */
static uint64_t below(client *c, uint64_t n)
{
    c->rng ^= c->rng >> 12;
    c->rng ^= c->rng << 25;
    c->rng ^= c->rng >> 27;
    return (c->rng * 0x2545f4914f6cdd1du >> 32) % n;
}

/* A prompt of 3 to 150 words, a picture in one of four, an answer of 8 to 71 tokens. */
static char *random_body(client *c)
{
    static const char *const words[] = {"red",   "circle", "what",  "is",   "the",
                                        "count", "small",  "shape", "left", "of"};
    char text[1500], more[600];
    size_t at = 0;
    for (uint64_t n = below(c, 3) ? 3 + below(c, 20) : 3 + below(c, 148); n; n--)
        at += (size_t)sprintf(text + at, "%s ", words[below(c, 10)]);
    snprintf(more, sizeof more,
             ",\"stream\":true,\"stream_options\":{\"include_usage\":true},\"ignore_eos\":true,"
             "\"seed\":%d,\"temperature\":0.8,\"max_tokens\":%d,\"logit_bias\":%s",
             (int)below(c, 1000), 8 + (int)below(c, 64), c->load->bias);
    const bool sees = c->load->n_pictures && below(c, 4) == 0;
    return chat_body(text, sees ? c->load->pictures[below(c, (uint64_t)c->load->n_pictures)] : NULL,
                     more);
}

static void count(client *c, const exchange *x)
{
    if (x->left || (x->status == 200 && x->done)) {
        x->left ? c->left++ : c->whole++;
        c->pieces += x->n_pieces;
        c->prompt += x->n_prompt;
        c->answer += x->n_answer;
        if (x->n_pieces) times_add(&c->first, x->first_s);
        times_merge(&c->gaps, &x->gaps);
    } else if (x->status == 429) {
        c->refused++;
    } else {
        if (!c->failed++)
            snprintf(c->trouble, sizeof c->trouble, "status %ld: %.200s", x->status,
                     x->text ? x->text : "");
    }
}

static void *run(void *ctx)
{
    client *c = ctx;
    CURL *curl = need(curl_easy_init());
    while (now_s() < c->load->until) {
        exchange x = {.leave_after = below(c, 10) ? 0 : 1 + (int)below(c, 6)};
        char *body = random_body(c);
        exchange_run(&x, curl, c->load->url, "/v1/chat/completions", body);
        count(c, &x);
        if (x.status == 429) nanosleep(&(struct timespec){0, 100000000}, NULL);
        exchange_deinit(&x);
        free(body);
    }
    curl_easy_cleanup(curl);
    return NULL;
}

static char *read_picture(const char *path)
{
    enum { MAX = 1 << 24 };
    unsigned char *bytes = need(malloc(MAX));
    FILE *f = fopen(path, "rb");
    const size_t n = f ? fread(bytes, 1, MAX, f) : 0;
    if (f) fclose(f);
    if (n == 0) exit((fprintf(stderr, "serve_load: %s cannot be read\n", path), 1));
    char *url = png_url(bytes, n);
    free(bytes);
    return url;
}

/* "1,2" becomes {"1":-100,"2":-100}. */
static void read_banned(char *bias, size_t size, const char *ids)
{
    size_t at = (size_t)snprintf(bias, size, "{");
    for (char *end; *ids >= '0' && *ids <= '9'; ids = *end == ',' ? end + 1 : end) {
        const long id = strtol(ids, &end, 10);
        if (at + 40 > size) exit((fprintf(stderr, "serve_load: too many banned ids\n"), 2));
        at += (size_t)snprintf(bias + at, size - at, "%s\"%ld\":-100", at > 1 ? "," : "", id);
    }
    snprintf(bias + at, size - at, "}");
}

static int report(const client *clients, int n, double seconds)
{
    client sum = {0};
    for (int i = 0; i < n; i++) {
        const client *c = &clients[i];
        sum.whole += c->whole;
        sum.left += c->left;
        sum.refused += c->refused;
        sum.failed += c->failed;
        sum.pieces += c->pieces;
        sum.prompt += c->prompt;
        sum.answer += c->answer;
        times_merge(&sum.first, &c->first);
        times_merge(&sum.gaps, &c->gaps);
        if (c->failed) fprintf(stderr, "serve_load: client %d: %s\n", i, c->trouble);
    }
    printf("{\"clients\": %d, \"seconds\": %.1f, \"answers\": %d, \"left\": %d, \"refused\": %d, "
           "\"failed\": %d, \"pieces_per_s\": %.1f, \"answer_tokens_per_s\": %.1f, "
           "\"prompt_tokens_per_s\": %.1f, \"first_p50_ms\": %.1f, \"first_p99_ms\": %.1f, "
           "\"gap_p50_ms\": %.2f, \"gap_p99_ms\": %.2f}\n",
           n, seconds, sum.whole, sum.left, sum.refused, sum.failed, (double)sum.pieces / seconds,
           (double)sum.answer / seconds, (double)sum.prompt / seconds,
           percentile_ms(&sum.first, 0.5), percentile_ms(&sum.first, 0.99),
           percentile_ms(&sum.gaps, 0.5), percentile_ms(&sum.gaps, 0.99));
    free(sum.first.s);
    free(sum.gaps.s);
    return sum.failed || !sum.whole;
}

int main(int argc, char **argv)
{
    if (argc < 6)
        return fprintf(stderr,
                       "usage: serve_load URL CLIENTS SECONDS SEED BANNED [PICTURE.png ...]\n"),
               2;
    const int n = atoi(argv[2]);
    const double began = now_s();
    char bias[500];
    read_banned(bias, sizeof bias, argv[5]);
    load l = {.url = argv[1], .bias = bias, .until = began + atof(argv[3]), .n_pictures = argc - 6};
    if (n < 1 || n > 10000) return fprintf(stderr, "serve_load: 1 to 10000 clients\n"), 2;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    l.pictures = need(calloc((size_t)argc, sizeof *l.pictures));
    for (int i = 0; i < l.n_pictures; i++) l.pictures[i] = read_picture(argv[6 + i]);
    client *clients = need(calloc((size_t)n, sizeof *clients));
    for (int i = 0; i < n; i++) {
        clients[i].load = &l;
        clients[i].rng =
            (strtoull(argv[4], NULL, 10) * 10007 + (uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
        if (pthread_create(&clients[i].thread, NULL, run, &clients[i]) != 0) return 1;
    }
    for (int i = 0; i < n; i++) pthread_join(clients[i].thread, NULL);
    const int status = report(clients, n, now_s() - began);
    for (int i = 0; i < n; i++) {
        free(clients[i].first.s);
        free(clients[i].gaps.s);
    }
    for (int i = 0; i < l.n_pictures; i++) free(l.pictures[i]);
    free(l.pictures);
    free(clients);
    return status;
}
