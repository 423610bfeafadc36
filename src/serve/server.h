/* SPDX-License-Identifier: MIT
 * The server: one process that answers OpenAI's API and shows a page, for one or several models.
 * The library neither prints nor handles signals; the command does both
 * (tools/ballast/cmd_serve.c).
 *
 *     open (listens, /health says 503) -> load (models, warm-up, ready) -> stop -> close
 *
 * Threads: one per connection, which may block, and one per model for its engine; one that ends
 * connections whose time is up. */
#ifndef BAL_SERVE_SERVER_H
#define BAL_SERVE_SERVER_H

#include "base/status.h"

enum { BAL_SERVER_MAX_MODELS = 4 };

typedef struct bal_server bal_server;

/* One line about a request or a failure, without newline; called from any thread. */
typedef void bal_log_fn(void *ctx, const char *line);

/* Zero means the default in parentheses. Strings are borrowed until close. */
typedef struct bal_server_opts {
    const char *host;          /* (127.0.0.1) */
    int port;                  /* 0: any free one, see bal_server_port */
    const char *const *models; /* [n_models] paths */
    const char *const *names;  /* [n_models] what requests call them, or NULL: after the paths */
    int n_models;
    int threads;               /* of each model's engine (all) */
    const char *isa;           /* NULL: all that the CPU has */
    const char *device;        /* bal_engine_use_device */
    const char *shapes;        /* bal_engine_use_shapes */
    int image_max_tokens;      /* of one picture; 0: what each model is made for */
    const char *chat_template; /* name of one for all models; NULL: each model's own */

    /* of each model's scheduler; zero means its own default (run/scheduler.h) */
    int ctx, max_running, max_waiting, step_tokens;
    size_t kv_bytes, picture_bytes;
    const char *kv; /* keys and values: "f32", "f16", "i8" */
    bool no_prefix_cache;

    const char *const *api_keys; /* [n_api_keys]; none: everybody may ask */
    int n_api_keys;
    /* [n_origins] of pages elsewhere that may use the API; also the names that the server goes by
     * behind a proxy (serve/access.h) */
    const char *const *origins;
    int n_origins;
    const char *media_dir;         /* pictures as file URLs below this folder (none) */
    const char *const *allow_urls; /* [n_allow_urls] as serve/address.h reads them (none) */
    int n_allow_urls;
    bool allow_private_urls; /* also addresses that are not public */

    size_t max_body;     /* bytes of one request (32 MiB) */
    size_t max_pixels;   /* of one picture (64 million) */
    size_t max_memory;   /* bytes of bodies, and of decoded pictures, of all requests (1 GiB) */
    int max_images;      /* of one request (16) */
    int max_choices;     /* n (16) */
    int max_connections; /* (256); further ones wait to be accepted */
    double receive_s;    /* a request must have arrived whole in (60) */
    double send_s;       /* a client may stop reading for (60) */
    double answer_s;     /* an answer may take (600) */
    double url_s;        /* fetching one picture (5) */

    bal_log_fn *log; /* NULL: nobody listens */
    void *log_ctx;
} bal_server_opts;

/* Binds and listens; from now on requests are answered, until `load` has succeeded with 503.
 * BAL_E_IO and BAL_E_ARG before that for a media_dir that cannot be opened and for allow_urls that
 * could hold no URL. */
bal_status bal_server_open(bal_server **out, const bal_server_opts *opts, bal_error *err);
int bal_server_port(const bal_server *s);

/* Opens the models, warms them up and makes the server ready. */
bal_status bal_server_load(bal_server *s, bal_error *err);

/* Takes no more requests, waits up to grace_s for the answers under way, then cuts off the rest:
 * their streams end with an error and [DONE]. hurry (may be NULL) is asked meanwhile; true ends the
 * waiting. */
void bal_server_stop(bal_server *s, double grace_s, bool (*hurry)(void *ctx), void *ctx);
/* After stop, or instead of it with no grace. NULL is fine. */
void bal_server_close(bal_server *s);

#endif
