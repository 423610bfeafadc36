/* SPDX-License-Identifier: MIT
 * What run and chat share: the flags of an answer, a model with a chat on it, streaming to stdout
 * with progress and Ctrl-C, and the line of statistics. */
#ifndef BAL_TOOL_ASKING_H
#define BAL_TOOL_ASKING_H

#include "console.h"

typedef struct bal_ask_flags {
    int max_tokens, top_k;
    double temperature, top_p;
    const char *alpha;
    int image_max_tokens;
    const char *chat_template;
} bal_ask_flags;

#define BAL_ASK_DEFAULTS                                                                           \
    {                                                                                              \
        .max_tokens = 512, .top_p = 1.0, .alpha = "white"                                          \
    }

/* Rows of a command's bal_arg table; f is a bal_ask_flags. */
#define BAL_ASK_ARGS(f)                                                                            \
    {"--max-tokens", 'n', BAL_ARG_INT, &(f).max_tokens, "N", "length of an answer (512)", 1,       \
     1 << 24},                                                                                     \
        {"--temp", 't', BAL_ARG_REAL, &(f).temperature, "T", "0: likeliest token always (0)",      \
         0,        100},                                                                           \
        {"--top-k", 0,      BAL_ARG_INT, &(f).top_k, "K", "of the K likeliest, 0: of all (0)",     \
         0,         1 << 24},                                                                      \
        {"--top-p", 0, BAL_ARG_REAL, &(f).top_p, "P", "of the likeliest that make up P (1)",       \
         1e-6,      1},                                                                            \
        {"--chat-template",                                                                        \
         0,                                                                                        \
         BAL_ARG_STRING,                                                                           \
         &(f).chat_template,                                                                       \
         "NAME",                                                                                   \
         "a known chat template in place of the model's; a wrong name lists them",                 \
         0,                                                                                        \
         0},                                                                                       \
        {"--image-max-tokens",                                                                     \
         0,                                                                                        \
         BAL_ARG_INT,                                                                              \
         &(f).image_max_tokens,                                                                    \
         "N",                                                                                      \
         "make pictures smaller, to N tokens at most (the model's limit)",                         \
         1,                                                                                        \
         1 << 24},                                                                                 \
    {                                                                                              \
        "--alpha", 0, BAL_ARG_CHOICE, &(f).alpha, "white|drop",                                    \
            "transparency: on white, or dropped (white)", 0, 0                                     \
    }

/* Zero-initialise; question is borrowed. */
typedef struct bal_asker {
    bal_context *model;
    bal_chat *chat;
    bal_bar bar;
    const char *question;
    bool stream;      /* the answer goes to stdout as it comes */
    bool collect;     /* and into `answer` */
    bool to_terminal; /* stdout is one */
    bool broken;      /* stdout could not be written */
    char *answer;     /* owned; of the last question */
    size_t n_answer, cap_answer;
    bal_ask_result result;
} bal_asker;

bal_status bal_asker_open(bal_asker *a, const char *path, const bal_common *common,
                          const bal_ask_flags *flags, bal_error *err);
void bal_asker_close(bal_asker *a);

/* How the model sees a picture, in brackets, as a line without its end. */
void bal_describe_picture(char *out, size_t size, const char *path, const bal_picture_info *p);

/* Asks a->question. Ctrl-C and a failed write cancel it; the sentence says which. */
bal_status bal_asker_ask(bal_asker *a, int max_tokens, bal_error *err);
void bal_asker_print_stats(const bal_asker *a);

const char *bal_stop_name(bal_stop_reason stop);

#endif
