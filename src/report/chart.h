/* SPDX-License-Identifier: MIT
 * Small charts as inline SVG, and text made safe for HTML. Colours come from the page's CSS
 * classes, so that light and dark need no second drawing; every point carries its value as a
 * tooltip. */
#ifndef BAL_REPORT_CHART_H
#define BAL_REPORT_CHART_H

#include <stdbool.h>
#include <stdio.h>

typedef struct bal_chart_series {
    const char *label;
    const char *style; /* CSS class of line and points */
    const double *y;   /* [n], NAN where there is no value */
} bal_chart_series;

typedef struct bal_chart {
    const char *title;
    const char *x_label;
    const bal_chart_series *series;
    int n_series, n; /* points of each series, x = 0 .. n - 1 */
    bool log;        /* logarithmic; values that are not positive are left out */
} bal_chart;

void bal_chart_write(FILE *f, const bal_chart *c);
/* A curve of n values without axes; point `best` is marked. */
void bal_chart_spark(FILE *f, const double *y, int n, int best);
/* `text` with & < > " ' as entities and control characters as U+FFFD. */
void bal_chart_text(FILE *f, const char *text);

#endif
