/* SPDX-License-Identifier: MIT */
#include "serve/metrics.h"

#include <inttypes.h>

/* Bounds after vLLM's, so that panels with fixed buckets fit. */
static const struct {
    const char *name, *help;
    int n;
    double bounds[BAL_HISTOGRAM_MAX];
} timings[BAL_N_TIMINGS] = {
    {"time_to_first_token_seconds",
     "From a request's arrival to its first token.",
     20,
     {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25, 0.5,
      0.75,  1.0,   2.5,  5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0}},
    {"inter_token_latency_seconds",
     "Between two tokens of an answer.",
     16,
     {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0,
      2.5}},
    {"e2e_request_latency_seconds",
     "From a request's arrival to its end.",
     17,
     {0.01, 0.05, 0.1, 0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 60.0,
      120.0}},
    {"request_queue_time_seconds",
     "From a request's arrival until it was worked on.",
     14,
     {0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0}},
    {"request_prefill_time_seconds",
     "In the prompt, pictures excepted.",
     14,
     {0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0}},
    {"request_decode_time_seconds",
     "From the first to the last token.",
     14,
     {0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0}},
    {"image_encode_seconds",
     "In the vision tower, of requests with a picture that was not in the cache.",
     14,
     {0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 30.0, 60.0, 120.0}},
};

static const char *const outcomes[BAL_N_OUTCOMES] = {"stop", "length", "abort", "error"};

bal_status bal_metrics_init(bal_metrics *m, bal_error *err)
{
    *m = (bal_metrics){0};
    if (pthread_mutex_init(&m->lock, NULL) != 0)
        return bal_fail(err, BAL_E_NOMEM, "metrics: no mutex");
    return BAL_OK;
}

void bal_metrics_deinit(bal_metrics *m)
{
    pthread_mutex_destroy(&m->lock);
}

static void count(bal_histogram *h, bal_timing timing, double seconds)
{
    int at = 0;
    while (at < timings[timing].n && seconds > timings[timing].bounds[at]) at++;
    h->counts[at]++;
    h->sum += seconds;
}

void bal_metrics_time(bal_metrics *m, bal_timing timing, double seconds)
{
    pthread_mutex_lock(&m->lock);
    count(&m->timings[timing], timing, seconds);
    pthread_mutex_unlock(&m->lock);
}

void bal_metrics_finish(bal_metrics *m, bal_outcome outcome, const bal_usage *usage)
{
    pthread_mutex_lock(&m->lock);
    m->outcomes[outcome]++;
    m->image_tokens += (uint64_t)usage->n_image;
    count(&m->timings[BAL_TIMING_QUEUE], BAL_TIMING_QUEUE, usage->queue_s);
    count(&m->timings[BAL_TIMING_PREFILL], BAL_TIMING_PREFILL, usage->prefill_s);
    count(&m->timings[BAL_TIMING_DECODE], BAL_TIMING_DECODE, usage->decode_s);
    if (usage->n_pictures_encoded)
        count(&m->timings[BAL_TIMING_ENCODE], BAL_TIMING_ENCODE, usage->vision_s);
    pthread_mutex_unlock(&m->lock);
}

/* ---- Text ------------------------------------------------------------------------------------ */

static void write_label(FILE *out, const char *name)
{
    fputs("{model_name=\"", out);
    for (; *name; name++) {
        if (*name == '\\' || *name == '"') fputc('\\', out);
        if (*name == '\n')
            fputs("\\n", out);
        else
            fputc(*name, out);
    }
    fputc('"', out);
}

static void write_head(FILE *out, const char *name, const char *type, const char *help)
{
    fprintf(out, "# HELP ballast:%s %s\n# TYPE ballast:%s %s\n", name, help, name, type);
}

static void write_histogram(FILE *out, const char *model, int timing, const bal_histogram *h)
{
    const char *name = timings[timing].name;
    uint64_t sum = 0;
    for (int i = 0; i <= timings[timing].n; i++) {
        sum += h->counts[i];
        fprintf(out, "ballast:%s_bucket", name);
        write_label(out, model);
        if (i < timings[timing].n)
            fprintf(out, ",le=\"%g\"} %" PRIu64 "\n", timings[timing].bounds[i], sum);
        else
            fprintf(out, ",le=\"+Inf\"} %" PRIu64 "\n", sum);
    }
    fprintf(out, "ballast:%s_sum", name);
    write_label(out, model);
    fprintf(out, "} %.9g\nballast:%s_count", h->sum, name);
    write_label(out, model);
    fprintf(out, "} %" PRIu64 "\n", sum);
}

static double share(int part, int all)
{
    return all ? (double)part / (double)all : 0.0;
}

enum { N_FIGURES = 17 };

static void write_figures(FILE *out, const bal_metrics_source *s, int n)
{
    for (int f = 0; f < N_FIGURES; f++)
        for (int i = 0; i < n; i++) {
            const bal_scheduler_stats *t = &s[i].stats;
            const struct {
                const char *name, *type, *help;
                double value;
            } rows[N_FIGURES] = {
                {"num_requests_running", "gauge", "Requests that hold pages.", t->running},
                {"num_requests_waiting", "gauge", "Requests in the queue.", t->waiting},
                {"kv_cache_usage_perc", "gauge", "Share of the pages in use, 0 to 1.",
                 share(t->pages_used, t->pages_total)},
                {"kv_cache_bytes", "gauge", "Bytes of the pages in use.", (double)t->kv_bytes_used},
                {"image_cache_bytes", "gauge", "Bytes of picture embeddings kept.",
                 (double)t->picture_bytes_used},
                {"prompt_tokens_total", "counter", "Positions of prompts, cached ones included.",
                 (double)(t->prompt_tokens + t->cached_tokens)},
                {"prompt_tokens_cached_total", "counter", "Of them, read from the prefix cache.",
                 (double)t->cached_tokens},
                {"generation_tokens_total", "counter", "Tokens of answers.",
                 (double)t->generated_tokens},
                {"image_tokens_total", "counter", "Positions of pictures in prompts.",
                 (double)s[i].metrics->image_tokens},
                {"prefix_cache_queries_total", "counter",
                 "Positions looked up in the prefix cache.", (double)t->prefix_queries},
                {"prefix_cache_hits_total", "counter", "Positions found there.",
                 (double)t->prefix_hits},
                {"image_cache_queries_total", "counter", "Pictures looked up.",
                 (double)t->picture_queries},
                {"image_cache_hits_total", "counter", "Pictures found encoded.",
                 (double)t->picture_hits},
                {"images_encoded_total", "counter", "Runs of the vision tower.",
                 (double)t->encodes},
                {"num_preemptions_total", "counter", "Requests put aside for want of pages.",
                 (double)t->preempted},
                {"requests_refused_total", "counter", "Requests that found the queue full.",
                 (double)t->refused},
                {"iterations_total", "counter", "Steps of the scheduler.", (double)t->steps},
            };
            if (i == 0) write_head(out, rows[f].name, rows[f].type, rows[f].help);
            fprintf(out, "ballast:%s", rows[f].name);
            write_label(out, s[i].name);
            fprintf(out, "} %.17g\n", rows[f].value);
        }
}

static void write_outcomes(FILE *out, const bal_metrics_source *s, int n)
{
    write_head(out, "request_success_total", "counter", "Requests that ended, by reason.");
    for (int i = 0; i < n; i++)
        for (int o = 0; o < BAL_N_OUTCOMES; o++) {
            fputs("ballast:request_success_total", out);
            write_label(out, s[i].name);
            fprintf(out, ",finished_reason=\"%s\"} %" PRIu64 "\n", outcomes[o],
                    s[i].metrics->outcomes[o]);
        }
}

void bal_metrics_write(FILE *out, bal_metrics_source *s, int n)
{
    for (int i = 0; i < n; i++) pthread_mutex_lock(&s[i].metrics->lock);
    write_figures(out, s, n);
    write_outcomes(out, s, n);
    for (int t = 0; t < BAL_N_TIMINGS; t++) {
        write_head(out, timings[t].name, "histogram", timings[t].help);
        for (int i = 0; i < n; i++) write_histogram(out, s[i].name, t, &s[i].metrics->timings[t]);
    }
    for (int i = 0; i < n; i++) pthread_mutex_unlock(&s[i].metrics->lock);
}
