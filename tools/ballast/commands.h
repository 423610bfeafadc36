/* SPDX-License-Identifier: MIT
 * The subcommands. argv[0] is the command's name; the result is the exit status: 0 success,
 * 1 failure, 2 usage. Each stands in cmd_NAME.c; main.c has one row per command. */
#ifndef BAL_TOOL_COMMANDS_H
#define BAL_TOOL_COMMANDS_H

int bal_cmd_bench(int argc, char **argv);
int bal_cmd_chat(int argc, char **argv);
int bal_cmd_demo(int argc, char **argv);
int bal_cmd_eval(int argc, char **argv);
int bal_cmd_inspect(int argc, char **argv);
int bal_cmd_quantize(int argc, char **argv);
int bal_cmd_run(int argc, char **argv);
int bal_cmd_serve(int argc, char **argv);

#endif
