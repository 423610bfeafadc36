/* SPDX-License-Identifier: MIT
 * Ballast, public API: open a model, look at pictures, generate.
 * ballast_quant.h is the other half: measure, balance, quantize, write.
 *
 * Every function that can fail returns bal_status: 0 is success, negative is failure, positive
 * values mean "succeeded, and also ...". A sentence that names the culprit goes into the caller's
 * bal_error (which may be NULL). The library never prints, never exits.
 *
 *     bal_context *model = NULL;
 *     bal_chat *chat = NULL;
 *     bal_error err;
 *     if (bal_open(&model, "model.safetensors", NULL, &err) < 0 ||
 *         bal_chat_open(&chat, model, NULL, &err) < 0 ||
 *         bal_chat_add_image_file(chat, "cat.jpg", NULL, &err) < 0 ||
 *         bal_chat_ask(chat, "What is this?", &(bal_ask_opts){.size = sizeof(bal_ask_opts),
 *                      .text = print_piece}, NULL, &err) < 0)
 *         fprintf(stderr, "%s\n", err.text);
 *     bal_chat_close(chat);
 *     bal_close(model);
 *
 * Structs with a `size` field may grow: the caller sets it to sizeof the struct it was compiled
 * with. Zero everywhere else means the default, so a zeroed struct with its size is fine. */
#ifndef BALLAST_H
#define BALLAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* ---- Status -------------------------------------------------------------------------------- */

#define BAL_STATUS_LIST(X)                                                                         \
    X(OK, 0, "success")                                                                            \
    X(E_ARG, -1, "argument out of range")                                                          \
    X(E_NOMEM, -2, "out of memory")                                                                \
    X(E_IO, -3, "file could not be read or written")                                               \
    X(E_FORMAT, -4, "input is damaged or not of this format")                                      \
    X(E_UNSUP, -5, "valid, but not supported by this build")                                       \
    X(E_CAPACITY, -6, "context window is full")                                                    \
    X(E_CANCELLED, -7, "cancelled by the caller")                                                  \
    X(E_EXISTS, -8, "output exists already")                                                       \
    X(E_NUMERIC, -9, "NaN, Inf or underflow where a number was needed")

typedef enum bal_status {
#define X(id, v, text) BAL_##id = (v),
    BAL_STATUS_LIST(X)
#undef X
} bal_status;

/* Optional detail, filled only on failure. Lives in the caller's frame. */
typedef struct bal_error {
    bal_status status;
    char text[1000]; /* names the file, tensor, key or argument at fault */
} bal_error;

const char *bal_status_text(bal_status status);

/* Version of the library, "0.1.0". Static memory. */
const char *bal_version(void);

/* ---- Progress ------------------------------------------------------------------------------ */

/* Where a long call stands: `done` of `total` units of `stage` ("vision", "prefill", ...). Valid
 * during the call only. */
typedef struct bal_progress {
    const char *stage;
    uint64_t done, total;
} bal_progress;

/* Returning false cancels the call, which then fails with BAL_E_CANCELLED. Called on the thread
 * that made the call. */
typedef bool bal_progress_fn(void *ctx, const bal_progress *progress);

/* ---- Model ---------------------------------------------------------------------------------
 * Weights, tokenizer and threads. Immutable once open: chats of several threads may share one.
 * A Hugging Face folder (LLaVA-OneVision) or a file that `ballast quantize` wrote; the weights stay
 * mapped, so the file must not change while it is open. */
typedef struct bal_context bal_context;

typedef struct bal_open_opts {
    uint32_t size;
    uint32_t threads;   /* 0: one per CPU this process may use; results do not depend on it */
    const char *isa;    /* NULL: all this CPU has; or at most "scalar", "avx2", "avxvnni",
                           "avx512", "avx512vnni"; on AArch64 "scalar", "neon", "neondot",
                           "i8mm" */
    const char *device; /* NULL or "cpu"; "cuda:N", an NVIDIA GPU, BAL_E_UNSUP says why there is
                           none; "auto": a GPU if one works, else the CPU */
    int32_t image_max_tokens; /* a picture is made smaller until it takes at most so many positions,
                                 in families that see pictures at their own size (Qwen2-VL,
                                 Qwen2.5-VL); 0: what the model is made for */
    const char *chat_template; /* NULL: the one that comes with the model; or the name of a known
                                  one, "plain" for text and nothing around it */
    const char *shapes;        /* NULL: built-in rules; or a file of `ballast bench --shapes-make`,
                                  which says what is fastest here and changes no result. BAL_E_UNSUP:
                                  it was measured on another machine, version, isa or number of
                                  threads; BAL_E_FORMAT: it is damaged */
} bal_open_opts;

/* On success *out owns the model, on failure it is NULL. opts and err may be NULL. */
bal_status bal_open(bal_context **out, const char *path, const bal_open_opts *opts, bal_error *err);
/* After all of its chats are closed. NULL is fine. */
void bal_close(bal_context *model);

typedef struct bal_model_info {
    uint32_t size;
    int32_t max_context; /* positions */
    int32_t has_vision;
    int32_t vocabulary;
    const char *family; /* "llava_onevision"; static memory */
    const char *isa;    /* the level in use; static memory */
    int32_t threads;
    const char *chat_template; /* "qwen2_vl"; NULL: none of the known ones; static memory */
    int32_t n_shapes;          /* entries of the shape table that is computed by; 0: rules alone */
} bal_model_info;

/* info->size is set by the caller. */
bal_status bal_get_info(const bal_context *model, bal_model_info *info, bal_error *err);

/* ---- Chat ----------------------------------------------------------------------------------
 * One conversation: its key-value cache, pictures and sampler. Owned by one thread at a time. The
 * template of the model's family is applied here; the text of a question is plain text, special
 * tokens typed into it stay text. */
typedef struct bal_chat bal_chat;

/* What shows through transparent pictures: white, or whatever colour lies under the transparency
 * (as Pillow's convert("RGB") gives). */
typedef enum bal_alpha_mode { BAL_ALPHA_ON_WHITE = 0, BAL_ALPHA_DROPPED = 1 } bal_alpha_mode;

typedef struct bal_chat_opts {
    uint32_t size;
    int32_t context; /* positions; 0: what the model takes, at most 16384 */
    bal_alpha_mode alpha;
    float temperature; /* 0: always the likeliest token */
    int32_t top_k;     /* 0: off */
    float top_p;       /* 0 or 1: off */
    uint64_t seed;
} bal_chat_opts;

/* On success *out is a chat on `model`, which must outlive it; on failure NULL. opts may be NULL.
 */
bal_status bal_chat_open(bal_chat **out, bal_context *model, const bal_chat_opts *opts,
                         bal_error *err);
void bal_chat_close(bal_chat *chat); /* NULL is fine */

/* How the model sees a picture: one base view, and rows x cols tiles if there are any. */
typedef struct bal_picture_info {
    uint32_t size;
    int32_t width, height;                 /* pixels, upright */
    int32_t rows, cols;                    /* tiles; 0 without */
    int32_t views;                         /* squares that pass through the vision tower */
    int32_t tokens;                        /* positions it takes in the context */
    int32_t resized_width, resized_height; /* of the picture as the model sees it, all tiles
                                              together; 0 where it is padded to a square */
    uint64_t memory; /* bytes that looking at it takes for a while, its own pixels not counted */
} bal_picture_info;

/* Adds a picture to the next question. A file is JPEG, PNG or WebP, told by its bytes; rgb is
 * `height` rows of `width` pixels of 3 bytes, `stride_bytes` from row to row. All of it is borrowed
 * for the call only. info (may be NULL, size set by the caller) is what bal_chat_picture says.
 * On failure the chat is as before. */
bal_status bal_chat_add_image_file(bal_chat *chat, const char *path, bal_picture_info *info,
                                   bal_error *err);
bal_status bal_chat_add_image_bytes(bal_chat *chat, const void *data, size_t n_bytes,
                                    bal_picture_info *info, bal_error *err);
bal_status bal_chat_add_image_rgb(bal_chat *chat, const uint8_t *rgb, int32_t width, int32_t height,
                                  size_t stride_bytes, bal_picture_info *info, bal_error *err);

/* Pictures of the conversation so far, those waiting for the next question included. */
int32_t bal_chat_n_pictures(const bal_chat *chat);
/* Picture `index`, from 0, as the next question will show it: a single picture is cut into tiles,
 * of several each is one square (the family's rule), so the answer changes when a second comes. */
bal_status bal_chat_picture(const bal_chat *chat, int32_t index, bal_picture_info *info,
                            bal_error *err);

/* A piece of the answer: n bytes of UTF-8, whole characters, not NUL-terminated, valid during the
 * call. Returning false stops the answer, which then counts as BAL_E_CANCELLED. */
typedef bool bal_text_fn(void *ctx, const char *text, size_t n);

typedef enum bal_stop_reason {
    BAL_STOP_END = 0,      /* the model ended its turn */
    BAL_STOP_LENGTH = 1,   /* max_tokens */
    BAL_STOP_CONTEXT = 2,  /* the context is full */
    BAL_STOP_CANCELLED = 3 /* a callback returned false */
} bal_stop_reason;

typedef struct bal_ask_opts {
    uint32_t size;
    int32_t max_tokens;        /* 0: 512 */
    bal_text_fn *text;         /* NULL: nobody listens */
    bal_progress_fn *progress; /* NULL: nobody watches; stages "vision" (pictures), "prefill" and
                                  "answer" (tokens) */
    void *ctx;                 /* for both */
} bal_ask_opts;

typedef struct bal_ask_result {
    uint32_t size;
    int32_t n_prompt;    /* positions run before the answer, pictures included */
    int32_t n_vision;    /* those of pictures */
    int32_t n_generated; /* tokens of the answer, its end token included */
    int32_t n_context;   /* positions in use afterwards */
    bal_stop_reason stop;
    double vision_s;  /* seconds: views and vision tower */
    double prefill_s; /* prompt through the decoder */
    double decode_s;  /* answer */
} bal_ask_result;

/* Asks with all pictures added since the last question and streams the answer; the conversation
 * grows by both, and only what is new is computed. opts and result (size set by the caller) may be
 * NULL. On failure the chat is as before the call, pictures included, and can go on:
 * BAL_E_CAPACITY when the question does not fit. Exception: an answer that is stopped by a
 * callback fails with BAL_E_CANCELLED, fills result, and the part that was given stays in the
 * conversation. */
bal_status bal_chat_ask(bal_chat *chat, const char *text, const bal_ask_opts *opts,
                        bal_ask_result *result, bal_error *err);

/* Forgets questions, answers and pictures; the sampler starts at its seed again. */
void bal_chat_clear(bal_chat *chat);

#ifdef __cplusplus
}
#endif
#endif
