/* SPDX-License-Identifier: MIT
 * Evaluation data, one JSON object per line:
 *   {"image": "a.png" or "images": ["a.png", "b.png"], "question": "...", "answers": ["yes"],
 *    "id": "...", "type": "..."}
 * A question without a picture is fine; id and type may be absent, other keys are ignored.
 * Untrusted bytes: every line is checked before the first picture is opened. */
#ifndef BAL_RUN_EVALDATA_H
#define BAL_RUN_EVALDATA_H

#include "base/status.h"

typedef struct bal_eval_question {
    size_t line;    /* in the file, from 1 */
    char *id;       /* NULL if the line has none */
    char *type;     /* NULL if the line has none */
    char *question; /* not empty */
    int n_images, n_answers;
    char **images;  /* as in the file; relative ones start from the file's folder */
    char **answers; /* at least one; none empty */
    size_t group;   /* questions about the same pictures have the same; without pictures each has
                       its own. Numbered in the order of the file */
} bal_eval_question;

typedef struct bal_evaldata {
    char *path;
    size_t n, n_groups;
    bal_eval_question *questions; /* [n] in the order of the file */
    size_t *order;                /* [n] numbers of questions, group by group */
} bal_evaldata;

/* Errors name file, line and key; on failure *d is empty. parse() takes the bytes of a file, and
 * its name for errors and for the folder of the pictures. */
bal_status bal_evaldata_open(bal_evaldata *d, const char *path, bal_error *err);
bal_status bal_evaldata_parse(bal_evaldata *d, const char *bytes, size_t n_bytes, const char *path,
                              bal_error *err);
void bal_evaldata_close(bal_evaldata *d); /* idempotent; zeroed struct is fine */

/* Path of picture i of a question, resolved from the data file's folder. */
bal_status bal_evaldata_image_path(const bal_evaldata *d, const bal_eval_question *q, int i,
                                   char *out, size_t size, bal_error *err);

#endif
