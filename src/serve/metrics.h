/* SPDX-License-Identifier: MIT
 * What /metrics says: counters and histograms of one served model in the text format of Prometheus.
 * Names are "ballast:" with the suffixes that vLLM uses, so that dashboards made for it need a new
 * prefix only. */
#ifndef BAL_SERVE_METRICS_H
#define BAL_SERVE_METRICS_H

#include "run/scheduler.h"

#include <pthread.h>
#include <stdio.h>

typedef enum bal_timing {
    BAL_TIMING_FIRST_TOKEN,
    BAL_TIMING_BETWEEN_TOKENS,
    BAL_TIMING_WHOLE,
    BAL_TIMING_QUEUE,
    BAL_TIMING_PREFILL,
    BAL_TIMING_DECODE,
    BAL_TIMING_ENCODE,
    BAL_N_TIMINGS,
} bal_timing;

typedef enum bal_outcome {
    BAL_OUTCOME_STOP,
    BAL_OUTCOME_LENGTH,
    BAL_OUTCOME_ABORT,
    BAL_OUTCOME_ERROR,
    BAL_N_OUTCOMES,
} bal_outcome;

enum { BAL_HISTOGRAM_MAX = 20 };

typedef struct bal_histogram {
    uint64_t counts[BAL_HISTOGRAM_MAX + 1]; /* the last one: above every bound */
    double sum;
} bal_histogram;

typedef struct bal_metrics {
    pthread_mutex_t lock;
    bal_histogram timings[BAL_N_TIMINGS];
    uint64_t outcomes[BAL_N_OUTCOMES];
    uint64_t image_tokens;
} bal_metrics;

bal_status bal_metrics_init(bal_metrics *m, bal_error *err);
void bal_metrics_deinit(bal_metrics *m);

/* Thread-safe. */
void bal_metrics_time(bal_metrics *m, bal_timing timing, double seconds);
void bal_metrics_finish(bal_metrics *m, bal_outcome outcome, const bal_usage *usage);

/* One served model as /metrics lists it; name goes into a label and is escaped. */
typedef struct bal_metrics_source {
    const char *name;
    bal_metrics *metrics;
    bal_scheduler_stats stats;
} bal_metrics_source;

/* All metrics of all models. Whether it could be written is for the caller to ask `out`. */
void bal_metrics_write(FILE *out, bal_metrics_source *sources, int n);

#endif
