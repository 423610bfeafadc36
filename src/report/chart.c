/* SPDX-License-Identifier: MIT
 * Axes, curves and sparks as SVG text. Points that are not finite leave a gap; every label is
 * escaped. */
#include "report/chart.h"

#include <math.h>

/* the drawing in user units */
enum { WIDTH = 360, HEIGHT = 200, LEFT = 52, RIGHT = 8, TOP = 26, BOTTOM = 30 };
enum { SPARK_W = 96, SPARK_H = 28 };

typedef struct axis {
    double low, high; /* of the plotted quantity: the value or its logarithm; multiples of step */
    double step;
    bool log;
} axis;

void bal_chart_text(FILE *f, const char *text)
{
    for (const unsigned char *p = (const unsigned char *)text; *p; p++) {
        switch (*p) {
        case '&': fputs("&amp;", f); break;
        case '<': fputs("&lt;", f); break;
        case '>': fputs("&gt;", f); break;
        case '"': fputs("&quot;", f); break;
        case '\'': fputs("&#39;", f); break;
        default:
            if (*p < 0x20 && *p != '\n' && *p != '\t')
                fputs("\xef\xbf\xbd", f);
            else
                fputc(*p, f);
        }
    }
}

/* NAN for what cannot be drawn */
static double plotted(double y, bool log)
{
    if (!isfinite(y) || (log && y <= 0)) return NAN;
    return log ? log10(y) : y;
}

/* 1, 2 or 5 times a power of ten, at most five of them in `span`; whole decades on a log axis. */
static double nice_step(double span, bool log)
{
    if (log) return ceil(span / 5);
    const double ten = pow(10, floor(log10(span / 5))), part = span / 5 / ten;
    return ten * (part <= 1 ? 1 : part <= 2 ? 2 : part <= 5 ? 5 : 10);
}

static bool find_range(axis *a, const bal_chart *c)
{
    bool any = false;
    *a = (axis){.log = c->log};
    for (int s = 0; s < c->n_series; s++)
        for (int i = 0; i < c->n; i++) {
            const double v = plotted(c->series[s].y[i], c->log);
            if (isnan(v)) continue;
            a->low = !any || v < a->low ? v : a->low;
            a->high = !any || v > a->high ? v : a->high;
            any = true;
        }
    if (!any) return false;
    if (!c->log && a->low > 0) a->low = 0;
    if (c->log) {
        a->low = floor(a->low);
        a->high = ceil(a->high);
    }
    if (a->high <= a->low) a->high = a->low + 1;
    a->step = nice_step(a->high - a->low, c->log);
    a->low = floor(a->low / a->step + 1e-9) * a->step;
    a->high = ceil(a->high / a->step - 1e-9) * a->step;
    return true;
}

static double x_at(const bal_chart *c, int i)
{
    return LEFT + (i + 0.5) / c->n * (WIDTH - LEFT - RIGHT);
}

static double y_at(const axis *a, double v)
{
    return TOP + (a->high - v) / (a->high - a->low) * (HEIGHT - TOP - BOTTOM);
}

static void write_tick(FILE *f, const axis *a, double v)
{
    const double y = y_at(a, v);
    fprintf(f, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>", LEFT,
            WIDTH - RIGHT, y, y);
    fprintf(f, "<text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">%.3g</text>\n",
            LEFT - 5, y + 3, a->log ? pow(10, v) : v);
}

static void write_y_axis(FILE *f, const axis *a)
{
    const int n = (int)lround((a->high - a->low) / a->step);
    for (int i = 0; i <= n; i++) write_tick(f, a, a->low + i * a->step);
}

static void write_x_axis(FILE *f, const bal_chart *c)
{
    const int every = (c->n + 9) / 10;
    for (int i = 0; i < c->n; i += every)
        fprintf(f, "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">%d</text>",
                x_at(c, i), HEIGHT - BOTTOM + 13, i);
    fprintf(f, "<text class=\"tick\" text-anchor=\"middle\" x=\"%d\" y=\"%d\">",
            (LEFT + WIDTH - RIGHT) / 2, HEIGHT - 4);
    bal_chart_text(f, c->x_label);
    fputs("</text>\n", f);
}

static void write_line(FILE *f, const bal_chart *c, const bal_chart_series *s, const axis *a)
{
    bool pen = false;
    fprintf(f, "<path class=\"line %s\" d=\"", s->style);
    for (int i = 0; i < c->n; i++) {
        const double v = plotted(s->y[i], c->log);
        if (!isnan(v)) fprintf(f, "%c%.1f %.1f", pen ? 'L' : 'M', x_at(c, i), y_at(a, v));
        pen = !isnan(v);
    }
    fputs("\"/>\n", f);
}

static void write_points(FILE *f, const bal_chart *c, const bal_chart_series *s, const axis *a)
{
    for (int i = 0; i < c->n; i++) {
        const double v = plotted(s->y[i], c->log);
        if (isnan(v)) continue;
        fprintf(f, "<circle class=\"dot %s\" r=\"2.5\" cx=\"%.1f\" cy=\"%.1f\"><title>", s->style,
                x_at(c, i), y_at(a, v));
        bal_chart_text(f, s->label);
        fprintf(f, ", %d: %.4g</title></circle>\n", i, s->y[i]);
    }
}

static void write_legend(FILE *f, const bal_chart *c)
{
    fputs("<p class=\"legend\">", f);
    for (int s = 0; s < c->n_series; s++) {
        fprintf(f, "<span class=\"key %s\"></span>", c->series[s].style);
        bal_chart_text(f, c->series[s].label);
        fputs(" ", f);
    }
    fputs("</p>\n", f);
}

void bal_chart_write(FILE *f, const bal_chart *c)
{
    axis a;
    fprintf(f, "<figure><svg viewBox=\"0 0 %d %d\" role=\"img\"><title>", WIDTH, HEIGHT);
    bal_chart_text(f, c->title);
    fprintf(f, "</title><text class=\"head\" x=\"%d\" y=\"14\">", LEFT);
    bal_chart_text(f, c->title);
    fputs("</text>\n", f);
    if (find_range(&a, c)) {
        write_y_axis(f, &a);
        write_x_axis(f, c);
        for (int s = 0; s < c->n_series; s++) write_line(f, c, &c->series[s], &a);
        for (int s = 0; s < c->n_series; s++) write_points(f, c, &c->series[s], &a);
    } else {
        fprintf(f, "<text class=\"tick\" x=\"%d\" y=\"%d\">no values</text>\n", LEFT, HEIGHT / 2);
    }
    fputs("</svg>\n", f);
    write_legend(f, c);
    fputs("</figure>\n", f);
}

void bal_chart_spark(FILE *f, const double *y, int n, int best)
{
    double low = INFINITY, high = -INFINITY;
    for (int i = 0; i < n; i++) {
        low = fmin(low, y[i]);
        high = fmax(high, y[i]);
    }
    if (!isfinite(low) || !isfinite(high) || n < 2) return;
    const double span = high > low ? high - low : 1;
    fprintf(f,
            "<svg class=\"spark\" viewBox=\"0 0 %d %d\" role=\"img\"><title>loss %.4g to %.4g"
            "</title><path class=\"line answer\" d=\"",
            SPARK_W, SPARK_H, low, high);
    bool pen = false;
    double bx = -1, by = -1;
    for (int i = 0; i < n; i++) {
        const double x = 4 + i * (SPARK_W - 8.0) / (n - 1);
        const double v = 4 + (high - y[i]) / span * (SPARK_H - 8);
        if (isfinite(v)) fprintf(f, "%c%.1f %.1f", pen ? 'L' : 'M', x, v);
        pen = isfinite(v);
        if (i == best && pen) bx = x, by = v;
    }
    fputs("\"/>", f);
    if (bx >= 0)
        fprintf(f, "<circle class=\"dot vision\" r=\"3\" cx=\"%.1f\" cy=\"%.1f\"/>", bx, by);
    fputs("</svg>", f);
}
