/* SPDX-License-Identifier: MIT
 * What a person looks at after quantizing: the record of a run (quant/record.h, docs/formats.md
 * "The report") as a JSON file and as one self-contained HTML page with inline SVG: no script, no
 * network, light and dark. Both show the same data. */
#ifndef BAL_REPORT_REPORT_H
#define BAL_REPORT_REPORT_H

#include "base/status.h"

#include <jansson.h>

/* The page as text, malloc'ed. Members that are missing or of another type show as a dash: a record
 * can come from an older version. Every string is escaped. */
bal_status bal_report_html(char **out, const json_t *record, bal_error *err);

/* Where the record goes beside the page: the ending ".html" replaced by ".json" (or appended). */
bal_status bal_report_json_path(char *out, size_t size, const char *path, bal_error *err);
/* Writes `path` and the record beside it; what was there is replaced. */
bal_status bal_report_write(const char *path, const json_t *record, bal_error *err);

#endif
