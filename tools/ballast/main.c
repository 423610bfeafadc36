/* SPDX-License-Identifier: MIT
 * The ballast command: finds the subcommand and hands over. Exit status 0 success, 1 failure,
 * 2 usage. SIGPIPE is ignored so that a closed pipe is reported like any other failed write. */
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "args.h"
#include "ballast.h"
#include "commands.h"

typedef struct command {
    const char *name, *help;
    int (*fn)(int argc, char **argv);
} command;

static const command commands[] = {
    {"bench", "what this machine can do and how much of it the kernels reach", bal_cmd_bench},
    {"chat", "a conversation about pictures", bal_cmd_chat},
    {"demo", "the tour on the embedded model", bal_cmd_demo},
    {"eval", "accuracy, likelihood and distance from a reference model", bal_cmd_eval},
    {"inspect", "what a model holds, byte for byte, and where it came from", bal_cmd_inspect},
    {"quantize", "make one packed file of a checkpoint", bal_cmd_quantize},
    {"run", "ask a question about pictures, once", bal_cmd_run},
    {"serve", "answer over HTTP: OpenAI's API and a page", bal_cmd_serve},
};
enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static int print_help(void)
{
    printf("Ballast %s: vision-language models from packed low-bit weights\n\n"
           "usage: ballast COMMAND [...]\n\n",
           bal_version());
    for (int i = 0; i < N_COMMANDS; i++) printf("  %-10s %s\n", commands[i].name, commands[i].help);
    printf(
        "\nballast COMMAND --help lists a command's flags; ballast --version prints the version\n");
    return bal_finish(NULL, 0);
}

static const command *find(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0) return &commands[i];
    return NULL;
}

static int unknown_command(const char *given)
{
    const char *names[N_COMMANDS];
    char near[200];
    for (int i = 0; i < N_COMMANDS; i++) names[i] = commands[i].name;
    bal_nearest(near, sizeof near, given, names, N_COMMANDS);
    return bal_usage(NULL, "unknown %s '%s'%s (ballast --help lists all)",
                     given[0] == '-' ? "flag" : "command", given, near);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    if (argc < 2) return bal_usage(NULL, "a command is missing (ballast --help lists them)");
    if (argc == 3 && strcmp(argv[1], "help") == 0 && find(argv[2]))
        return find(argv[2])->fn(2, (char *[]){argv[2], "--help", NULL});
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        strcmp(argv[1], "help") == 0)
        return print_help();
    if (strcmp(argv[1], "--version") == 0) {
        printf("ballast %s\n", bal_version());
        return bal_finish(NULL, 0);
    }
    const command *c = find(argv[1]);
    return c ? c->fn(argc - 1, argv + 1) : unknown_command(argv[1]);
}
