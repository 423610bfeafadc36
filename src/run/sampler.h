/* SPDX-License-Identifier: MIT
 * The next token from logits: greedy, or temperature, then top-k, then top-p (the order of
 * transformers' logits processors). Probabilities are integer weights (base/weight.h), one draw
 * takes 64 bits of the generator, and tokens lie in the order of their ids: the same seed and
 * logits give the same tokens here and on a device (device/device.h: draw). */
#ifndef BAL_RUN_SAMPLER_H
#define BAL_RUN_SAMPLER_H

#include "base/rng.h"
#include "base/status.h"
#include "device/device.h"

typedef struct bal_sampling {
    float temperature; /* 0: greedy */
    int top_k;         /* 0: off */
    float top_p;       /* 1: off */
    uint64_t seed;
} bal_sampling;

typedef struct bal_candidate {
    float logit;
    int32_t id;
} bal_candidate;

typedef struct bal_sampler {
    bal_sampling s;
    bal_rng rng;
    int vocab;
    bal_candidate *work; /* [vocab] */
} bal_sampler;

/* BAL_E_ARG names the option that is out of range. */
bal_status bal_sampling_check(const bal_sampling *s, bal_error *err);
bal_status bal_sampler_create(bal_sampler *s, const bal_sampling *opts, int vocab, bal_error *err);
void bal_sampler_destroy(bal_sampler *s);

/* What a device is asked for the same token, with the generator's next bits. */
bal_device_draw bal_sampling_draw(const bal_sampling *s, bal_rng *rng);

/* logits [vocab], finite or -inf (never chosen), at least one finite. Of equal logits the lowest id
 * wins. */
int32_t bal_sampler_next(bal_sampler *s, const float *logits);
int32_t bal_argmax(const float *x, int n);
/* log of the sum of exp(x[i]) in double; what a logit lacks to its log-probability. */
double bal_log_sum_exp(const float *x, int n);
/* KL(p || q) of softmaxes of logits [n], in nats, log_q being bal_log_sum_exp(q); rounding does not
 * make it negative. */
double bal_kl(const float *p, const float *q, double log_q, int n);

#endif
