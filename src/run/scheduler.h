/* SPDX-License-Identifier: MIT
 * Many requests on one model: continuous batching over the paged cache, pictures encoded once,
 * prompts that begin alike computed once. Knows tokens and pictures; text, templates and HTTP are
 * the caller's.
 *
 * Threads: one thread, the engine thread, owns the loop (bal_scheduler_run, or _step in tests) and
 * makes all callbacks. submit, cancel, stats, wake and stop may be called from any thread, also
 * from inside a callback. Callbacks must not block.
 *
 * The tokens of a request depend on the request alone: not on what runs beside it, on cache hits,
 * chunk sizes, threads, or on being put aside and taken up again when pages run short. */
#ifndef BAL_RUN_SCHEDULER_H
#define BAL_RUN_SCHEDULER_H

#include "run/engine.h"
#include "run/picture.h"
#include "run/rules.h"
#include "run/sampler.h"
#include "text/chat.h"

typedef struct bal_scheduler bal_scheduler;

/* ---- A request ------------------------------------------------------------------------------- */

enum { BAL_MAX_TOP_LOGPROBS = 20, BAL_MAX_STOP_IDS = 16, BAL_MAX_REQUEST_IMAGES = 1024 };

typedef struct bal_request_event bal_request_event;
typedef void bal_event_fn(void *ctx, const bal_request_event *event);

/* All memory is borrowed for the call of submit only, except what callbacks point to. */
typedef struct bal_request {
    bal_chat_tokens tokens;       /* rendered; one BAL_TAG_IMAGE_SLOT per picture */
    bal_picture *const *pictures; /* [n_pictures] in the order of the slots; references are taken */
    int n_pictures;

    bal_sampling sampling;    /* temperature 0: greedy; top_k 0, top_p 1: off; seed */
    float repetition_penalty; /* 0 or 1: off; over prompt and answer, as Keskar et al. 2019 */
    float presence_penalty, frequency_penalty; /* 0: off; over the answer, as OpenAI defines them */
    const bal_logit_bias *bias;                /* [n_bias] */
    int n_bias;
    bal_mask_fn *mask; /* NULL: everything is allowed */
    void *mask_ctx;

    const int32_t *stop_ids; /* [n_stop_ids] besides the model's own ends */
    int n_stop_ids;
    bool ignore_eos; /* the model's own ends (config, chat template) do not end it; stop_ids do */
    int max_tokens;  /* 0: as many as fit into the context */

    bool logprobs;        /* of the chosen token, with every token event */
    int n_top_logprobs;   /* and of so many likeliest ones, 0 to BAL_MAX_TOP_LOGPROBS */
    bool prompt_logprobs; /* PROMPT_TOKEN events first; such a request does not use cached pages */
    bool no_cache;        /* neither reads nor feeds the prefix cache and the picture cache */

    bal_event_fn *on_event; /* must be set */
    void *event_ctx;
} bal_request;

/* ---- Events ---------------------------------------------------------------------------------- */

typedef enum bal_event_kind {
    BAL_EVENT_PROMPT_TOKEN, /* position by position, only with prompt_logprobs */
    BAL_EVENT_TOKEN,        /* a generated token that belongs to the answer */
    BAL_EVENT_DONE,         /* the last event of every request that submit accepted */
} bal_event_kind;

typedef enum bal_finish {
    BAL_FINISH_END,       /* a stop id; it is not given as a TOKEN */
    BAL_FINISH_LENGTH,    /* max_tokens */
    BAL_FINISH_CONTEXT,   /* the context is full */
    BAL_FINISH_CANCELLED, /* bal_scheduler_cancel or _stop */
    BAL_FINISH_ERROR,     /* event->error says why */
} bal_finish;

/* Tokens are counted in positions; a cached position was not computed for this request. */
typedef struct bal_usage {
    int n_prompt;    /* positions, pictures included */
    int n_image;     /* of them, of pictures */
    int n_cached;    /* of them, read from the prefix cache */
    int n_generated; /* tokens, a closing stop id included */
    int n_pictures;
    int n_pictures_encoded; /* for this request; the others came from a cache */
    double queue_s;         /* from submit until its first picture or token was worked on */
    double vision_s;        /* in the vision tower, for its pictures */
    double prefill_s;       /* from then to its first token */
    double decode_s;        /* from its first to its last token */
} bal_usage;

struct bal_request_event {
    bal_event_kind kind;
    uint64_t request; /* what submit gave */

    /* TOKEN and PROMPT_TOKEN */
    int32_t id;
    int index;        /* of the token in answer or prompt, from 0 */
    bool has_logprob; /* false for the first position of a prompt and for picture positions */
    float logprob;    /* of id, under the model's own distribution (temperature 1, before
                         penalties, bias and mask) */
    const bal_token_prob *top; /* [n_top] likeliest, descending; valid during the call */
    int n_top;

    /* DONE */
    bal_finish finish;
    int32_t stop_id; /* END: which */
    bal_usage usage;
    const bal_error *error; /* ERROR: status and sentence, else NULL */
};

/* ---- The scheduler --------------------------------------------------------------------------- */

/* Zero means the default of each. */
typedef struct bal_scheduler_opts {
    int ctx;              /* positions of one request; default: the model's, at most 16384 */
    size_t kv_bytes;      /* budget of the page pool; default: four full contexts or 512 positions
                             for each of max_running, whichever is more, and at most a quarter of
                             the machine's memory. At least one context */
    bal_kv_type kv_type;  /* zero is the default: BAL_KV_DEFAULT */
    int max_running;      /* requests that hold pages at the same time; default 64 */
    int max_waiting;      /* queue behind them; default 256 */
    int step_tokens;      /* rows of one step, prompts and answers together; default 256 */
    size_t picture_bytes; /* of picture embeddings kept; default 256 MiB */
    bool no_prefix_cache; /* pages are shared by nobody */
} bal_scheduler_opts;

/* The engine must outlive it. opts may be NULL. */
bal_status bal_scheduler_create(bal_scheduler **out, const bal_engine *engine,
                                const bal_scheduler_opts *opts, bal_error *err);
/* After the loop has ended; requests still there get their DONE (CANCELLED). NULL is fine. */
void bal_scheduler_destroy(bal_scheduler *s);

/* Queues a request; *id > 0 names it. BAL_E_CAPACITY: the queue is full, or stop was called (HTTP
 * 429 or 503). BAL_E_ARG: a request that could never run, with the reason (slots and pictures
 * differ, a parameter out of range, more positions than the context with both numbers). No event is
 * made on failure. Events of a request may arrive before submit returns. */
bal_status bal_scheduler_submit(bal_scheduler *s, const bal_request *request, uint64_t *id,
                                bal_error *err);
/* What a request would take, without queueing it: usage gets n_prompt, n_image, n_pictures. */
bal_status bal_scheduler_measure(bal_scheduler *s, const bal_request *request, bal_usage *usage,
                                 bal_error *err);
/* Ends a request soon, with DONE (CANCELLED) from the engine thread; an unknown or finished id is
 * fine. What the callbacks point to must live until DONE. */
void bal_scheduler_cancel(bal_scheduler *s, uint64_t id);

/* Works until stop; sleeps while there is nothing to do. */
void bal_scheduler_run(bal_scheduler *s);
/* One step; false when there was nothing to do. For tests and for loops of one's own. */
bool bal_scheduler_step(bal_scheduler *s);
/* Refuses new requests. now: cancel those that are there; else run() returns when they are done. */
void bal_scheduler_stop(bal_scheduler *s, bool now);

/* ---- Figures for /metrics and the page --------------------------------------------------------
 */

typedef struct bal_scheduler_stats {
    int running, waiting; /* requests with and without pages; waiting for an encoder counts here */
    int ctx;
    bal_kv_type kv_type;
    int page_tokens, pages_total, pages_used,
        pages_cached; /* cached: held by the prefix cache only */
    size_t page_bytes, kv_bytes_total, kv_bytes_used, kv_bytes_per_token;
    size_t picture_bytes_total, picture_bytes_used;
    int pictures_cached;
    /* since creation */
    uint64_t requests, finished, cancelled, failed, preempted, refused;
    uint64_t steps, prompt_tokens, generated_tokens; /* prompt: computed ones, cached ones beside */
    uint64_t cached_tokens, prefix_hits,
        prefix_queries; /* hits, queries in positions of full pages */
    uint64_t picture_hits, picture_queries, encodes;
    double vision_s, step_s; /* seconds in the vision tower, and in decoder steps */
} bal_scheduler_stats;

void bal_scheduler_get_stats(bal_scheduler *s, bal_scheduler_stats *out);
/* Counts "since creation" from here on: for a warm-up, which nobody asked for. Any thread, while no
 * request is there. */
void bal_scheduler_reset_counters(bal_scheduler *s);

#endif
