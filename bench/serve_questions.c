/* SPDX-License-Identifier: MIT
 * Many questions about one large picture: all at once with caches, and one by one without. Prints
 * one line of JSON; exit status 1 where an answer differs, the picture was encoded more than once,
 * or keys and values took more than planned. For a server that has just started.
 *   serve_questions URL [QUESTIONS] [TOKENS] */
#include "client.h"

#include <png.h>
#include <pthread.h>
#include <stdatomic.h>

enum { WIDTH = 2400, HEIGHT = 1800, MAX_QUESTIONS = 256 };

typedef struct asked {
    pthread_t thread;
    const char *url;
    char *body, *answer;
    int n_prompt, n_cached, n_generated;
} asked;

/* A picture of rings and stripes, so that no view of it is like another. */
static char *large_picture(void)
{
    unsigned char *rgb = need(malloc((size_t)3 * WIDTH * HEIGHT)), *png;
    for (int y = 0; y < HEIGHT; y++)
        for (int x = 0; x < WIDTH; x++) {
            const int dx = x - WIDTH / 3, dy = y - HEIGHT / 2;
            unsigned char *p = rgb + (size_t)3 * ((size_t)y * WIDTH + (size_t)x);
            p[0] = (unsigned char)((dx * dx + dy * dy) >> 9);
            p[1] = (unsigned char)(x * 255 / WIDTH);
            p[2] = (unsigned char)((x / 40 + y / 25) % 2 * 200);
        }
    png_image image = {
        .version = PNG_IMAGE_VERSION, .width = WIDTH, .height = HEIGHT, .format = PNG_FORMAT_RGB};
    png_alloc_size_t n = PNG_IMAGE_PNG_SIZE_MAX(image);
    png = need(malloc(n));
    if (!png_image_write_to_memory(&image, png, &n, 0, rgb, 0, NULL)) exit(1);
    char *url = png_url(png, n);
    free(rgb);
    free(png);
    return url;
}

static void *ask(void *ctx)
{
    asked *a = ctx;
    CURL *c = need(curl_easy_init());
    exchange x = {0};
    exchange_run(&x, c, a->url, "/v1/chat/completions", a->body);
    json_t *v = x.text ? json_loads(x.text, 0, NULL) : NULL;
    const json_t *choice = json_array_get(json_object_get(v, "choices"), 0);
    const json_t *usage = json_object_get(v, "usage");
    const char *text =
        json_string_value(json_object_get(json_object_get(choice, "message"), "content"));
    if (!text)
        exit((fprintf(stderr, "serve_questions: status %ld: %.300s\n", x.status, x.text), 1));
    a->answer = need(strdup(text));
    a->n_prompt = (int)json_integer_value(json_object_get(usage, "prompt_tokens"));
    a->n_generated = (int)json_integer_value(json_object_get(usage, "completion_tokens"));
    a->n_cached = (int)json_integer_value(
        json_object_get(json_object_get(usage, "prompt_tokens_details"), "cached_tokens"));
    json_decref(v);
    exchange_deinit(&x);
    curl_easy_cleanup(c);
    return NULL;
}

/* Bytes of keys and values in use, the most that was seen. */
typedef struct watcher {
    pthread_t thread;
    const char *url;
    atomic_bool end;
    double most;
} watcher;

static void *watch(void *ctx)
{
    watcher *w = ctx;
    CURL *c = need(curl_easy_init());
    while (!atomic_load(&w->end)) {
        const double now = metric(c, w->url, "kv_cache_bytes");
        if (now > w->most) w->most = now;
        nanosleep(&(struct timespec){0, 5000000}, NULL);
    }
    curl_easy_cleanup(c);
    return NULL;
}

static double ask_all(asked *asks, int n, bool together)
{
    const double began = now_s();
    for (int i = 0; i < n; i++) {
        if (!together)
            ask(&asks[i]);
        else if (pthread_create(&asks[i].thread, NULL, ask, &asks[i]) != 0)
            exit(1);
    }
    for (int i = 0; together && i < n; i++) pthread_join(asks[i].thread, NULL);
    return now_s() - began;
}

static void make_bodies(asked *asks, int n, const char *url, const char *picture, int tokens,
                        const char *more)
{
    for (int i = 0; i < n; i++) {
        char text[100], all[200];
        snprintf(text, sizeof text, "Question %d: what is in part %d of the picture?", i, i * 7);
        snprintf(all, sizeof all, ",\"temperature\":0,\"max_tokens\":%d,\"ignore_eos\":true%s",
                 tokens, more);
        asks[i] = (asked){.url = url, .body = chat_body(text, picture, all)};
    }
}

/* A field of the first model's meta. */
static double meta(CURL *c, const char *url, const char *name)
{
    exchange x = {0};
    exchange_run(&x, c, url, "/v1/models", NULL);
    json_t *v = x.text ? json_loads(x.text, 0, NULL) : NULL;
    const json_t *m = json_object_get(json_array_get(json_object_get(v, "data"), 0), "meta");
    const double value = json_number_value(json_object_get(m, name));
    json_decref(v);
    exchange_deinit(&x);
    return value;
}

/* Pages of what all share once, and of the rest of each. */
static double planned_bytes(const asked *asks, int n, int page, double token_bytes)
{
    long pages = 0, shared = 0;
    for (int i = 0; i < n; i++)
        if (asks[i].n_cached / page > shared) shared = asks[i].n_cached / page;
    for (int i = 0; i < n; i++)
        pages += (asks[i].n_prompt + asks[i].n_generated + page - 1) / page - shared;
    return (double)(pages + shared) * page * token_bytes;
}

int main(int argc, char **argv)
{
    static asked cached[MAX_QUESTIONS], alone[MAX_QUESTIONS];
    if (argc < 2) return fprintf(stderr, "usage: serve_questions URL [QUESTIONS] [TOKENS]\n"), 2;
    const char *url = argv[1];
    const int n = argc > 2 ? atoi(argv[2]) : 32, tokens = argc > 3 ? atoi(argv[3]) : 16;
    if (n < 1 || n > MAX_QUESTIONS) return 2;
    curl_global_init(CURL_GLOBAL_DEFAULT);
    CURL *c = need(curl_easy_init());
    char *picture = large_picture();
    make_bodies(cached, n, url, picture, tokens, "");
    make_bodies(alone, n, url, picture, tokens, ",\"no_cache\":true");
    const double before = metric(c, url, "images_encoded_total");
    watcher w = {.url = url};
    if (pthread_create(&w.thread, NULL, watch, &w) != 0) return 1;
    const double together_s = ask_all(cached, n, true);
    atomic_store(&w.end, true);
    pthread_join(w.thread, NULL);
    const double encoded = metric(c, url, "images_encoded_total") - before;
    const double alone_s = ask_all(alone, n, false);
    int different = 0, hits = 0;
    for (int i = 0; i < n; i++) {
        different += strcmp(cached[i].answer, alone[i].answer) != 0;
        hits += cached[i].n_cached > 0;
    }
    const int page = (int)meta(c, url, "page_tokens");
    const double planned = planned_bytes(cached, n, page, meta(c, url, "kv_bytes_per_token"));
    printf("{\"questions\": %d, \"prompt_tokens\": %d, \"answer_tokens\": %d, \"encoded\": %.0f, "
           "\"prefix_hits\": %d, \"together_s\": %.3f, \"one_by_one_s\": %.3f, \"ratio\": %.2f, "
           "\"kv_bytes\": %.0f, \"kv_bytes_planned\": %.0f, \"different\": %d}\n",
           n, cached[0].n_prompt, tokens, encoded, hits, together_s, alone_s, alone_s / together_s,
           w.most, planned, different);
    for (int i = 0; i < n; i++) {
        free(cached[i].body);
        free(cached[i].answer);
        free(alone[i].body);
        free(alone[i].answer);
    }
    free(picture);
    curl_easy_cleanup(c);
    return different || encoded != 1.0 || w.most > planned;
}
