/* SPDX-License-Identifier: MIT
 * The record on disk: the page, and the same data for programs beside it. */
#include "report/report.h"

#include "base/file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bal_status bal_report_json_path(char *out, size_t size, const char *path, bal_error *err)
{
    size_t n = strlen(path);
    if (n > 5 && strcmp(path + n - 5, ".html") == 0) n -= 5;
    if (snprintf(out, size, "%.*s.json", (int)n, path) < (int)size) return BAL_OK;
    return bal_fail(err, BAL_E_ARG, "path too long: %.200s", path);
}

static bal_status write_json(const char *path, const json_t *record, bal_error *err)
{
    char *text = json_dumps(record, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    if (!text) return bal_nomem(err, 0, "report");
    const bal_status st = bal_write_file(path, text, strlen(text), err);
    free(text);
    return st;
}

bal_status bal_report_write(const char *path, const json_t *record, bal_error *err)
{
    char beside[1200], *html;
    BAL_TRY(bal_report_json_path(beside, sizeof beside, path, err));
    BAL_TRY(bal_report_html(&html, record, err));
    bal_status st = bal_write_file(path, html, strlen(html), err);
    free(html);
    return st == BAL_OK ? write_json(beside, record, err) : st;
}
