/* SPDX-License-Identifier: MIT */
/*
 * The table of commands, and what all of them share: help, version, parsing by getopt_long(3), suggestions.
 * One thread, no state that outlives a call except getopt's.
 */
#include "cli/cli.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"
#include "core/counters.h"
#include "core/settings.h"

#define OPTIONS_MAX 16
#define WORD_MAX    64
#define NS_PER_S    1e9

static int help_main(const struct sp_command *command, int argc, char **argv);
static int version_main(const struct sp_command *command, int argc, char **argv);

static const struct sp_option help_options[] = {{"help", 'h', NULL, "print this text"}, {NULL}};

static const struct sp_command command_help = {
    .name = "help",
    .usage = "[COMMAND]",
    .summary = "explain a command",
    .options = help_options,
    .main = help_main,
};

static const struct sp_command command_version = {
    .name = "version",
    .usage = "",
    .summary = "print the version",
    .options = help_options,
    .main = version_main,
};

static const struct sp_command *const commands[] = {
    &sp_command_run,    &sp_command_status, &sp_command_top,     &sp_command_get,
    &sp_command_set,    &sp_command_wait,   &sp_command_unmerge, &sp_command_estimate,
    &sp_command_doctor, &sp_command_bench,  &command_help,       &command_version,
};
#define N_COMMANDS (sizeof commands / sizeof *commands)

void sp_complain(const struct sp_command *command, const char *format, ...) {
    fflush(stdout);
    fprintf(stderr, "samepage: %s%s", command ? command->name : "", command ? ": " : "");
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
}

static void point_to_help(const struct sp_command *command) {
    fprintf(stderr, "Try 'samepage help%s%s'.\n", command ? " " : "", command ? command->name : "");
}

int sp_usage_error(const struct sp_command *command, const char *format, ...) {
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    sp_complain(command, "%s", text);
    point_to_help(command);
    return SP_EXIT_USAGE;
}

/* --- Suggestions ------------------------------------------------------------------------------------ */

static unsigned least(unsigned a, unsigned b, unsigned c) {
    unsigned m = a < b ? a : b;
    return m < c ? m : c;
}

/* How many letters must be put in, taken out or changed to make `b` of `a` (Levenshtein), both shorter than
 * WORD_MAX. */
static unsigned distance(const char *a, const char *b) {
    unsigned row[WORD_MAX];
    size_t n = strlen(b);
    for (size_t j = 0; j <= n; j++)
        row[j] = (unsigned)j;
    for (size_t i = 1; a[i - 1]; i++) {
        unsigned diagonal = row[0];
        row[0] = (unsigned)i;
        for (size_t j = 1; j <= n; j++) {
            unsigned above = row[j];
            row[j] = least(above + 1, row[j - 1] + 1, diagonal + (a[i - 1] != b[j - 1]));
            diagonal = above;
        }
    }
    return row[n];
}

const char *sp_suggest(const char *word, const char *const *words, size_t n) {
    if (strlen(word) >= WORD_MAX || !*word)
        return NULL;
    const char *best = NULL;
    unsigned best_distance = 3;
    for (size_t i = 0; i < n; i++) {
        unsigned d = distance(word, words[i]);
        if (d < best_distance && d < strlen(words[i])) {
            best = words[i];
            best_distance = d;
        }
    }
    return best;
}

/* --- Help ------------------------------------------------------------------------------------------- */

static void print_settings(const char *title) {
    printf("\n%s:\n", title);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++) {
        const struct sp_setting_info *s = &sp_setting_info[i];
        printf("  %s=%s  (%s, %s)\n      %s\n", s->name, sp_setting_text(i, s->value_default).text, s->unit,
               sp_setting_allowed(i).text, s->meaning);
    }
}

static void print_counters(void) {
    printf("\nCounters:\n");
    for (size_t i = 0; i < SP_COUNTER_COUNT; i++)
        printf("  %s  (%s)\n      %s\n", sp_counter_info[i].name, sp_counter_info[i].unit,
               sp_counter_info[i].meaning);
    printf("  general_profit  (bytes)\n      saved bytes less our own memory\n");
}

static bool has_option(const struct sp_command *command, const char *name) {
    for (const struct sp_option *o = command->options; o->name; o++)
        if (!strcmp(o->name, name))
            return true;
    return false;
}

static void print_command_help(const struct sp_command *command) {
    printf("Usage: samepage %s%s%s\n\n%s\n", command->name, *command->usage ? " " : "", command->usage,
           command->summary);
    printf("\nOptions:\n");
    for (const struct sp_option *o = command->options; o->name; o++) {
        char left[WORD_MAX];
        snprintf(left, sizeof left, "--%s%s%s", o->name, o->argument ? " " : "",
                 o->argument ? o->argument : "");
        if (o->letter)
            printf("  -%c, %-18s %s\n", o->letter, left, o->meaning);
        else
            printf("      %-18s %s\n", left, o->meaning);
    }
    if (command == &sp_command_set || command == &sp_command_get)
        print_settings("Settings");
    else if (has_option(command, "set"))
        print_settings("Settings for --set KEY=VALUE");
    if (command == &sp_command_get || command == &sp_command_status)
        print_counters();
    if (command->notes)
        printf("\n%s", command->notes);
}

static void print_help(void) {
    printf("Usage: samepage COMMAND [OPTION...]\n\n"
           "Lets running programs share their identical memory.\n\nCommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++)
        printf("  %-8s %s\n", commands[i]->name, commands[i]->summary);
    printf("\n'samepage help COMMAND' explains a command. Exit status: 0 success, 1 failure, 2 wrong usage;\n"
           "that of 'samepage run' is the command's.\n");
}

/* --- Parsing ---------------------------------------------------------------------------------------- */

static const struct sp_command *command_find(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++)
        if (!strcmp(commands[i]->name, name))
            return commands[i];
    return NULL;
}

static int unknown_command(const char *name) {
    const char *names[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++)
        names[i] = commands[i]->name;
    const char *meant = sp_suggest(name, names, N_COMMANDS);
    if (meant)
        return sp_usage_error(NULL, "unknown command '%s'; did you mean '%s'?", name, meant);
    return sp_usage_error(NULL, "unknown command '%s'", name);
}

static int unknown_option(const struct sp_command *command, const char *word) {
    char name[WORD_MAX];
    const char *names[OPTIONS_MAX];
    size_t n = 0;
    for (const struct sp_option *o = command->options; o->name && n < OPTIONS_MAX; o++)
        names[n++] = o->name;
    snprintf(name, sizeof name, "%.*s", (int)strcspn(word, "="), word);
    const char *meant = !strncmp(name, "--", 2) ? sp_suggest(name + 2, names, n) : NULL;
    if (meant)
        return sp_usage_error(command, "unknown option '%s'; did you mean '--%s'?", name, meant);
    return sp_usage_error(command, "unknown option '%s'", name);
}

/* getopt's view of a table: values are indexes above every letter, so that both forms lead to the same. */
static void build_getopt(const struct sp_option *options, struct option *longs, char *shorts) {
    *shorts++ = '+';
    *shorts++ = ':';
    size_t n = 0;
    for (; options[n].name; n++) {
        longs[n] = (struct option){options[n].name, options[n].argument ? required_argument : no_argument,
                                   NULL, 256 + (int)n};
        if (options[n].letter)
            *shorts++ = options[n].letter;
        if (options[n].letter && options[n].argument)
            *shorts++ = ':';
    }
    longs[n] = (struct option){0};
    *shorts = 0;
}

static int option_index(const struct sp_option *options, int value) {
    if (value >= 256)
        return value - 256;
    int i = 0;
    while (options[i].letter != value)
        i++;
    return i;
}

static int args_done(struct sp_args *a, int status) {
    a->status = status;
    return SP_ARGS_DONE;
}

static int args_help(struct sp_args *a) {
    print_command_help(a->command);
    return args_done(a, sp_output_finish(SP_EXIT_OK));
}

/* The word getopt stumbled over: for a letter inside a cluster it has not advanced yet. */
static int args_wrong(struct sp_args *a, int value, int before) {
    const char *word = a->argv[before];
    if (value == ':')
        return args_done(a, sp_usage_error(a->command, "option '%s' needs an argument", word));
    if (optopt >= 256)
        return args_done(a, sp_usage_error(a->command, "option '--%s' takes no argument",
                                           a->command->options[optopt - 256].name));
    if (!strncmp(word, "--", 2))
        return args_done(a, unknown_option(a->command, word));
    char letter[3] = {'-', (char)optopt, 0};
    return args_done(a, unknown_option(a->command, letter));
}

int sp_args_next(struct sp_args *a, const char **ret_value) {
    struct option longs[OPTIONS_MAX + 1];
    char shorts[2 * OPTIONS_MAX + 3];
    build_getopt(a->command->options, longs, shorts);
    opterr = 0;
    int before = optind ? optind : 1;
    int value = getopt_long(a->argc, a->argv, shorts, longs, NULL);
    a->next = optind;
    if (value == -1)
        return SP_ARGS_END;
    if (value == '?' || value == ':')
        return args_wrong(a, value, before);
    int index = option_index(a->command->options, value);
    if (!strcmp(a->command->options[index].name, "help"))
        return args_help(a);
    *ret_value = optarg;
    return index;
}

int sp_args_seconds(const struct sp_command *command, const char *option, const char *text, double min,
                    double max, uint64_t *ret_ns) {
    char *end;
    double seconds = *text >= '0' && *text <= '9' ? strtod(text, &end) : -1;
    if (!(seconds >= min && seconds <= max) || *end)
        return sp_usage_error(command, "option '--%s': '%s' is no number of seconds (%.10g to %.10g)", option,
                              text, min, max);
    *ret_ns = (uint64_t)(seconds * NS_PER_S);
    return 0;
}

/* --- help, version, main ---------------------------------------------------------------------------- */

static int help_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    const char *value;
    if (sp_args_next(&args, &value) == SP_ARGS_DONE)
        return args.status;
    if (args.next + 1 < argc)
        return sp_usage_error(command, "one command at a time");
    if (args.next == argc) {
        print_help();
        return sp_output_finish(SP_EXIT_OK);
    }
    const struct sp_command *about = command_find(argv[args.next]);
    if (!about)
        return unknown_command(argv[args.next]);
    print_command_help(about);
    return sp_output_finish(SP_EXIT_OK);
}

static int version_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    const char *value;
    if (sp_args_next(&args, &value) == SP_ARGS_DONE)
        return args.status;
    if (args.next < argc)
        return sp_usage_error(command, "takes no argument");
    printf("samepage %s\n", SP_VERSION);
    return sp_output_finish(SP_EXIT_OK);
}

int sp_cli_main(int argc, char **argv) {
    if (argc < 2) {
        sp_complain(NULL, "no command given");
        point_to_help(NULL);
        return SP_EXIT_USAGE;
    }
    const char *name = argv[1];
    if (!strcmp(name, "--help") || !strcmp(name, "-h"))
        name = command_help.name;
    if (!strcmp(name, "--version") || !strcmp(name, "-V"))
        name = command_version.name;
    if (name[0] == '-')
        return sp_usage_error(NULL, "unknown option '%s'", name);
    const struct sp_command *command = command_find(name);
    if (!command)
        return unknown_command(name);
    return command->main(command, argc - 1, argv + 1);
}
