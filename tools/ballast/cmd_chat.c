/* SPDX-License-Identifier: MIT
 * ballast chat: a conversation at the terminal with line editing, or line by line through a pipe.
 * Answers go to stdout, everything else to stderr. Ctrl-C stops an answer, not the program. */
#include <histedit.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "asking.h"
#include "base/file.h"
#include "commands.h"
#include "shapes_flag.h"

static const char HELP[] = "/image PATH   show a picture with the next question\n"
                           "/clear        forget the conversation\n"
                           "/save FILE    write the conversation as JSON, in the form that\n"
                           "              ballast quantize takes for calibration\n"
                           "/help         this\n"
                           "/quit         or Ctrl-D; Ctrl-C stops an answer\n";

typedef struct chat_state {
    bal_asker a;
    bal_common common;
    bal_ask_flags ask;
    json_t *pictures, *turns; /* what /save writes */
    int n_pending;            /* pictures for the next question */
    bool failed;              /* something was refused */
    bool quit;
    EditLine *edit; /* NULL in a pipe */
    History *history;
    char *line; /* of getline, in a pipe */
    size_t cap_line;
} chat_state;

/* ---- Lines in -------------------------------------------------------------------------------- */

static char *prompt(EditLine *edit)
{
    static char text[] = "> ";
    (void)edit;
    return text;
}

/* At the prompt Ctrl-C is a key that clears the line; while an answer runs it is a signal. */
static void open_terminal(chat_state *s)
{
    HistEvent event;
    if (!isatty(STDIN_FILENO)) return;
    setlocale(LC_CTYPE, "");
    s->edit = el_init("ballast", stdin, stdout, stderr);
    s->history = history_init();
    if (!s->edit || !s->history) return;
    history(s->history, &event, H_SETSIZE, 200);
    el_set(s->edit, EL_PROMPT, prompt);
    el_set(s->edit, EL_EDITOR, "emacs");
    el_set(s->edit, EL_HIST, history, s->history);
    el_set(s->edit, EL_SETTY, "-d", "-isig", NULL);
    el_set(s->edit, EL_BIND, "^C", "em-kill-line", NULL);
}

static void close_terminal(chat_state *s)
{
    if (s->edit) el_end(s->edit);
    if (s->history) history_end(s->history);
    free(s->line);
}

static const char *next_line(chat_state *s)
{
    HistEvent event;
    int n = 0;
    if (!s->edit) return getline(&s->line, &s->cap_line, stdin) < 0 ? NULL : s->line;
    const char *line = el_gets(s->edit, &n);
    if (line && n > 1) history(s->history, &event, H_ENTER, line);
    return line;
}

/* ---- Commands -------------------------------------------------------------------------------- */

static void note(const chat_state *s, const char *text)
{
    if (!s->common.quiet) fprintf(stderr, "%s\n", text);
}

static void refuse(chat_state *s, const char *text)
{
    s->failed = true;
    fprintf(stderr, "ballast chat: %s\n", text);
}

static void describe(const chat_state *s, const char *path, const bal_picture_info *p)
{
    char text[1400];
    bal_describe_picture(text, sizeof text, path, p);
    note(s, text);
    bal_picture_info first = {.size = sizeof first};
    if (bal_chat_n_pictures(s->a.chat) == 2 &&
        bal_chat_picture(s->a.chat, 0, &first, NULL) == BAL_OK && !first.resized_width)
        note(s, "[with several pictures each is one square, the first one now too]");
}

static void add_picture(chat_state *s, const char *path)
{
    bal_picture_info info = {.size = sizeof info};
    bal_error err;
    if (!path[0]) {
        refuse(s, "/image needs the path of a picture");
    } else if (bal_chat_add_image_file(s->a.chat, path, &info, &err) < 0) {
        refuse(s, err.text);
    } else {
        char *full = realpath(path, NULL); /* the saved file may lie elsewhere */
        json_array_append_new(s->pictures, json_string(full ? full : path));
        free(full);
        s->n_pending++;
        describe(s, path, &info);
    }
}

static void clear(chat_state *s)
{
    bal_chat_clear(s->a.chat);
    json_array_clear(s->pictures);
    json_array_clear(s->turns);
    s->n_pending = 0;
    note(s, "[cleared]");
}

/* Pictures that no question has shown yet are left out. */
static char *saved_text(const chat_state *s)
{
    json_t *shown = json_array();
    const size_t n = json_array_size(s->pictures) - (size_t)s->n_pending;
    for (size_t i = 0; i < n; i++) json_array_append(shown, json_array_get(s->pictures, i));
    json_t *record = json_pack("[{sosO}]", "image", shown, "conversations", s->turns);
    char *text = json_dumps(record, JSON_INDENT(1));
    json_decref(record);
    return text;
}

static void save(chat_state *s, const char *path)
{
    bal_error err = {.text = "out of memory"};
    char message[1200];
    if (!path[0] || bal_path_exists(path)) {
        snprintf(message, sizeof message, "/save %s: %s", path,
                 path[0] ? "exists already" : "needs the name of a file");
        refuse(s, message);
        return;
    }
    char *text = saved_text(s);
    if (!text || bal_write_file(path, text, strlen(text), &err) < 0) {
        refuse(s, err.text);
    } else {
        snprintf(message, sizeof message, "[saved to %s]", path);
        note(s, message);
    }
    free(text);
}

/* ---- Questions ------------------------------------------------------------------------------- */

static void remember(chat_state *s, const char *from, const char *text, int n_pictures)
{
    char *value = malloc(strlen(text) + 8 * (size_t)n_pictures + 1);
    if (!value) return;
    value[0] = 0;
    for (int i = 0; i < n_pictures; i++) strcat(value, "<image>\n");
    strcat(value, text);
    json_array_append_new(s->turns, json_pack("{ssss}", "from", from, "value", value));
    free(value);
}

static void ask(chat_state *s, const char *question)
{
    bal_error err;
    s->a.question = question;
    bal_interrupt_reset();
    const bal_status st = bal_asker_ask(&s->a, s->ask.max_tokens, &err);
    if (st == BAL_OK || s->a.result.n_generated > 0) {
        putchar('\n');
        fflush(stdout);
    }
    if (st == BAL_OK || st == BAL_E_CANCELLED) bal_interrupt_reset();
    if (st < 0) {
        refuse(s, err.text);
        if (s->a.result.stop != BAL_STOP_CANCELLED || s->a.result.n_generated == 0) return;
    }
    remember(s, "human", question, s->n_pending);
    remember(s, "gpt", s->a.answer ? s->a.answer : "", 0);
    s->n_pending = 0;
    if (s->common.verbose) bal_asker_print_stats(&s->a);
}

/* The text behind `name` and blanks, or NULL if the line is another command. */
static const char *operand(const char *line, const char *name)
{
    const size_t n = strlen(name);
    if (strncmp(line, name, n) != 0 || (line[n] && line[n] != ' ' && line[n] != '\t')) return NULL;
    return line + n + strspn(line + n, " \t");
}

static void obey(chat_state *s, const char *line)
{
    const char *rest;
    if ((rest = operand(line, "/image"))) {
        add_picture(s, rest);
    } else if ((rest = operand(line, "/save"))) {
        save(s, rest);
    } else if (operand(line, "/clear")) {
        clear(s);
    } else if (operand(line, "/quit")) {
        s->quit = true;
    } else if (operand(line, "/help")) {
        fputs(HELP, stderr);
    } else {
        char text[200];
        snprintf(text, sizeof text, "unknown command '%.80s'; /help lists them", line);
        refuse(s, text);
    }
}

static void talk(chat_state *s)
{
    const char *line;
    while (!s->quit && !s->a.broken && (line = next_line(s))) {
        char *text = strdup(line + strspn(line, " \t"));
        if (!text) return;
        size_t n = strlen(text);
        while (n && strchr(" \t\r\n", text[n - 1])) text[--n] = 0;
        if (text[0] == '/')
            obey(s, text);
        else if (text[0])
            ask(s, text);
        free(text);
    }
}

/* ---- Command --------------------------------------------------------------------------------- */

static int run(chat_state *s, const char *path)
{
    bal_error err;
    s->pictures = json_array();
    s->turns = json_array();
    s->a.stream = s->a.collect = true;
    bal_bar_init(&s->a.bar, s->common.quiet);
    int status = 1;
    if (bal_asker_open(&s->a, path, &s->common, &s->ask, &err) < 0) {
        bal_failure("chat", "%s", err.text);
    } else {
        open_terminal(s);
        if (s->edit) note(s, "/image PATH shows a picture, /help lists all commands");
        talk(s);
        status = !s->edit && s->failed; /* at a terminal the person has seen it */
        close_terminal(s);
    }
    bal_asker_close(&s->a);
    json_decref(s->pictures);
    json_decref(s->turns);
    return s->a.broken ? 1 : bal_finish("chat", status);
}

int bal_cmd_chat(int argc, char **argv)
{
    chat_state s = {.ask = BAL_ASK_DEFAULTS};
    const bal_arg args[] = {BAL_ASK_ARGS(s.ask)};
    const bal_command cmd = {"chat",
                             "MODEL",
                             "A conversation about pictures. Through a pipe every line of standard "
                             "input is a\nquestion or a command; answers go to standard output.",
                             args,
                             sizeof args / sizeof args[0],
                             1,
                             1,
                             "--json"};
    const char *model;
    int n;
    const int st = bal_args_read(&cmd, &s.common, argc, argv, &model, &n);
    if (st >= 0) return st;
    int known = bal_device_check("chat", &s.common, false);
    if (known < 0) known = bal_shapes_check("chat", &s.common);
    if (known >= 0) return known;
    bal_interrupt_catch();
    return run(&s, model);
}
