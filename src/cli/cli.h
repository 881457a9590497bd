/* SPDX-License-Identifier: MIT */
/*
 * The frame of the `samepage` command: one table of commands, each with its table of options. The tables feed
 * the parsing, the help and the suggestions for misspelt words, so that they cannot disagree.
 *
 * Exit status: 0 success, 1 failure, 2 wrong usage. `run` has its own: see cli/run.h.
 */
#ifndef SP_CLI_CLI_H
#define SP_CLI_CLI_H

#include "core/types.h"

#define SP_EXIT_OK      0
#define SP_EXIT_FAILURE 1
#define SP_EXIT_USAGE   2

struct sp_option {
    const char *name;     /* without the two dashes; NULL ends a table */
    char letter;          /* short form, 0: none */
    const char *argument; /* what stands for its argument in the help, NULL: takes none */
    const char *meaning;
};

struct sp_command {
    const char *name;
    const char *usage; /* what follows the name in the usage line */
    const char *summary;
    const struct sp_option *options;
    const char *notes; /* further text of the help, NULL: none */
    int (*main)(const struct sp_command *command, int argc, char **argv);
};

extern const struct sp_command sp_command_run, sp_command_status, sp_command_doctor, sp_command_estimate,
    sp_command_get, sp_command_set, sp_command_wait, sp_command_unmerge, sp_command_top, sp_command_bench;

/* The whole command; returns the exit status. */
int sp_cli_main(int argc, char **argv);

/* --- For the commands: parsing ---------------------------------------------------------------------- */

enum { SP_ARGS_END = -1, SP_ARGS_DONE = -2 };

/* Walks over the options of `argv`. argv[0] is the command's name; parsing stops at the first word that is no
 * option, or after "--". */
struct sp_args {
    const struct sp_command *command;
    int argc;
    char **argv;
    int next;   /* after SP_ARGS_END: the first word that is no option */
    int status; /* after SP_ARGS_DONE: the exit status to end with */
};

/*
 * The next option: its index in the command's table, with its argument in *ret_value; SP_ARGS_END when there
 * is none left; SP_ARGS_DONE when all is said (help was printed, or what is wrong). Not for several threads
 * (getopt_long(3)).
 */
SP_WARN_UNUSED int sp_args_next(struct sp_args *a, const char **ret_value);

/* The value of an option that takes a number of seconds, parts of them too, in [min, max]: 0, or an exit
 * status after saying what is wrong. */
SP_WARN_UNUSED int sp_args_seconds(const struct sp_command *command, const char *option, const char *text,
                                   double min, double max, uint64_t *ret_ns);

/* Says what is wrong with the usage and where help is; returns SP_EXIT_USAGE. */
SP_WARN_UNUSED int sp_usage_error(const struct sp_command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Prints "samepage: COMMAND: ..." on standard error. */
void sp_complain(const struct sp_command *command, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The word of `words` that `word` was most likely meant to be, or NULL when none is near. */
const char *sp_suggest(const char *word, const char *const *words, size_t n);

#endif
