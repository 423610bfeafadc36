/* SPDX-License-Identifier: MIT
 * A request from its body to its answer: what the routes of /v1 do between HTTP and the scheduler.
 * Belongs to one thread, that of its connection. */
#ifndef BAL_SERVE_JOB_H
#define BAL_SERVE_JOB_H

#include "serve/answer.h"
#include "serve/picture_source.h"
#include "serve/served.h"

#include <semaphore.h>
#include <stdatomic.h>

/* What all jobs share. */
typedef struct bal_service {
    bal_served *models; /* [n_models], open and running */
    int n_models;
    bal_request_limits limits;
    bal_picture_rules pictures;
    size_t max_pixel_bytes;    /* of decoded pictures of all jobs together */
    atomic_size_t pixel_bytes; /* of them in use */
    sem_t preparing;           /* jobs that decode pictures or compile schemas at a time */
    sem_t fetching;            /* and that wait for other servers */
    double max_seconds;        /* of one job */
    atomic_bool stopping;      /* answers are being cut off */
} bal_service;

typedef struct bal_job bal_job;

/* Reads, checks and submits. On failure *out is NULL and *f is the answer. */
bal_status bal_job_open(bal_job **out, bal_service *service, bal_request_kind kind,
                        const char *body, size_t n, bal_refusal *f);
/* Cancels what still runs and waits for it. NULL is fine. */
void bal_job_close(bal_job *j);

bool bal_job_streams(const bal_job *j);

/* Works on events for about `seconds`; true when the answer is complete. */
bool bal_job_pump(bal_job *j, double seconds);
/* What to say at the end, as compact JSON (malloc'ed); NULL: *f is the answer. */
char *bal_job_result(bal_job *j, bal_refusal *f);
/* For streams: copies at most max bytes of what is ready to be sent; *over when there will never
 * be more. */
size_t bal_job_read(bal_job *j, char *buf, size_t max, bool *over);

/* /tokenize and /detokenize at once: compact JSON (malloc'ed), or NULL and *f. */
char *bal_tokenize(bal_service *service, bal_request_kind kind, const char *body, size_t n,
                   bal_refusal *f);

#endif
