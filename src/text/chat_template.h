/* SPDX-License-Identifier: MIT
 * A chat template as data. Scaffold strings are plain text with tokens in braces: "{<|im_end|>}\n"
 * is that added token and a newline, "{@<image>}" a picture's placeholder, '#' inside an image the
 * number of the picture in its message. Texts without braces are ordinary text to the tokenizer. */
#ifndef BAL_TEXT_CHAT_TEMPLATE_H
#define BAL_TEXT_CHAT_TEMPLATE_H

#include "text/chat.h"

enum {
    BAL_CHAT_BOS = 1,          /* the tokenizer's BOS comes first, as its post-processor puts it */
    BAL_CHAT_STRIP = 2,        /* contents lose white space at both ends, as Python's strip */
    BAL_CHAT_SYSTEM_FIRST = 4, /* a system turn stands first or not at all */
    BAL_CHAT_ALTERNATE = 8,    /* then user and assistant by turns */
    BAL_CHAT_INSIDE = 16,      /* the system turn stands inside the first user turn */
    BAL_CHAT_THINKS = 32,      /* Qwen3's rule for thoughts in answers */
};

/* A turn: turn[role], spacer if no picture follows, pictures, before_text, text, after_text (these
 * three only if there is text), end[role]. */
typedef struct bal_chat_template {
    const char *name;
    unsigned rules;
    const char *open;   /* before the first turn; NULL: nothing */
    const char *system; /* text of the system turn where none is given; NULL: no turn */
    const char *turn[BAL_CHAT_N_ROLES];
    const char *spacer;
    const char *image;  /* NULL: takes no pictures */
    const char *images; /* each one of several in a message; NULL: as one */
    const char *before_text, *after_text;
    const char *end[BAL_CHAT_N_ROLES];
    const char *generation; /* NULL: turn[BAL_CHAT_ASSISTANT] */
    const char *stop;       /* NULL: the first of the usual ones that the tokenizer has */
} bal_chat_template;

/* family must be below BAL_CHAT_N_FAMILIES. */
const bal_chat_template *bal_chat_template_of(bal_chat_family family);

#endif
