/* SPDX-License-Identifier: MIT */
/* `samepage estimate`: options, reading, and which report. */
#include "cli/estimate.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/output.h"

enum {
    OPTION_ALL,
    OPTION_SAMPLE,
    OPTION_JSON,
    OPTION_HTML,
    OPTION_AFTER,
    OPTION_UNTIL_END,
    OPTION_TERMINATE
};

#define ONE_IN_MAX    65536
#define AFTER_S       5
#define AFTER_S_MAX   86400
#define NS_PER_S      UINT64_C(1000000000)
#define HTML_MAPPINGS 300

static const struct sp_option options[] = {
    [OPTION_ALL] = {"all", 'A', NULL, "all processes; without root: all of this user"},
    [OPTION_SAMPLE] = {"sample", 's', "1/N",
                       "read only one in N pages whole, chosen by content; the\n"
                       "                         figures are estimates then, with their error"},
    [OPTION_JSON] = {"json", 'j', NULL, "print everything as JSON"},
    [OPTION_HTML] = {"html", 'H', "FILE", "write a page with pictures, for a browser"},
    [OPTION_AFTER] = {"after", 'a', "SECONDS", "of COMMAND: look that long after its start (default: 5)"},
    [OPTION_UNTIL_END] = {"until-end", 'u', NULL,
                          "of COMMAND: look every so many seconds until its end, and\n"
                          "                         report the look that shows the most to save"},
    [OPTION_TERMINATE] = {"terminate", 't', NULL,
                          "of COMMAND: end it and its children after the look; without\n"
                          "                         that their end is waited for"},
    {"help", 'h', NULL, "print this text"},
    {NULL},
};

static int estimate_main(const struct sp_command *command, int argc, char **argv);

const struct sp_command sp_command_estimate = {
    .name = "estimate",
    .usage = "[OPTION...] PID... | --all | -- COMMAND [ARGUMENT...]",
    .summary = "tell what merging would save, before anything is changed",
    .options = options,
    .notes =
        "Reads running processes from outside: root any, others their own (where the kernel's Yama module "
        "is\n"
        "on, only those that they start: -- COMMAND). No process is changed or stopped. Only memory that is\n"
        "present and that one process alone uses is read: what is shared by fork, KSM or files already is\n"
        "counted as shared.\n\n"
        "SAVED is what merging frees: pages of zeros, and of equal pages all but one. LEFT is what it could\n"
        "free in memory that samepage does not merge (stacks, files, locked memory ...). It is one look:\n"
        "pages that go on changing are not merged, and samepage's own memory is not taken off.\n\n"
        "--sample: equal pages are all in the sample or none of them is, so that copies are found; the "
        "error\n"
        "that is stated is two standard deviations (95 of 100 cases).\n\n"
        "ELSEWHERE are the different contents of a process that others have, too; IN COMMON those that two\n"
        "have, which is what they save by being merged with each other. MAPPINGS is about how many more a\n"
        "process gets.\n\n"
        "The estimate itself needs 24 bytes for each page that it keeps: 0.6 % of the memory read, with a\n"
        "sample 1/N of that.\n\n"
        "COMMAND: all of its descendants are looked at. With --json its standard output goes to standard\n"
        "error. Exit status 1 when a process that was named could not be read.\n",
    .main = estimate_main,
};

struct choice {
    bool all, json, until_end, terminate, command;
    uint32_t one_in;
    uint64_t after_ns; /* 0: not given */
    bool after_given;
    const char *html;
};

/* --- Options ----------------------------------------------------------------------------------------- */

/* A whole number, nothing before or after it. */
static bool parse_number(const char *text, uint64_t max, uint64_t *ret) {
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    if (errno || end == text || *end || text[0] < '0' || text[0] > '9' || v > max)
        return false;
    *ret = v;
    return true;
}

static int take_sample(struct choice *c, const char *value) {
    uint64_t n;
    if (strncmp(value, "1/", 2) != 0 || !parse_number(value + 2, ONE_IN_MAX, &n) || !n)
        return sp_usage_error(&sp_command_estimate, "option '--sample': '%s' is not 1/N with N from 1 to %d",
                              value, ONE_IN_MAX);
    c->one_in = (uint32_t)n;
    return 0;
}

/* Seconds, parts of them too. */
static int take_after(struct choice *c, const char *value) {
    char *end;
    errno = 0;
    double seconds = strtod(value, &end);
    bool good = !errno && end != value && !*end && seconds >= 0 && seconds <= AFTER_S_MAX;
    if (!good)
        return sp_usage_error(&sp_command_estimate,
                              "option '--after': '%s' is not a number of seconds up to %d", value,
                              AFTER_S_MAX);
    c->after_ns = (uint64_t)(seconds * (double)NS_PER_S);
    c->after_given = true;
    return 0;
}

static int take_option(struct choice *c, int option, const char *value) {
    switch (option) {
    case OPTION_ALL:
        c->all = true;
        return 0;
    case OPTION_SAMPLE:
        return take_sample(c, value);
    case OPTION_JSON:
        c->json = true;
        return 0;
    case OPTION_HTML:
        c->html = value;
        return *value ? 0 : sp_usage_error(&sp_command_estimate, "option '--html' needs a file");
    case OPTION_AFTER:
        return take_after(c, value);
    case OPTION_UNTIL_END:
        c->until_end = true;
        return 0;
    default:
        c->terminate = true;
        return 0;
    }
}

/* What goes together. `words`: how many are left. 0 or an exit status. */
static int check(const struct choice *c, int words) {
    const struct sp_command *command = &sp_command_estimate;
    if (c->all && words)
        return sp_usage_error(command, "either --all or %s", c->command ? "a command" : "processes");
    if (!c->all && !words)
        return sp_usage_error(command,
                              c->command ? "no command to run" : "no process named; --all: all of them");
    if (!c->command && (c->after_given || c->until_end || c->terminate))
        return sp_usage_error(command, "option '--%s' is for a command (-- COMMAND)",
                              c->after_given ? "after"
                              : c->until_end ? "until-end"
                                             : "terminate");
    if (c->until_end && c->terminate)
        return sp_usage_error(command, "either --until-end or --terminate");
    if (c->until_end && c->after_given && !c->after_ns)
        return sp_usage_error(command, "option '--until-end' needs '--after' of more than 0 seconds");
    return 0;
}

/* --- Which ------------------------------------------------------------------------------------------- */

static int fail(int error) {
    sp_complain(&sp_command_estimate, "%s", strerror(-error));
    return SP_EXIT_FAILURE;
}

/* 0 or an exit status; *missing: processes that there are not. */
static int name_targets(char **words, struct sp_targets *t, size_t *missing) {
    for (; *words; words++) {
        uint64_t pid;
        if (!parse_number(*words, INT32_MAX, &pid) || !pid)
            return sp_usage_error(&sp_command_estimate,
                                  "'%s' is no process number; a command stands after '--'", *words);
        int error = sp_targets_add(t, (int)pid);
        if (error == -ENOMEM)
            return fail(error);
        if (error)
            sp_estimate_complain((int)pid, error);
        *missing += error != 0;
    }
    return 0;
}

static int read_named(const struct choice *c, char **words, struct sp_estimate_report *r) {
    struct sp_targets targets = {0};
    size_t missing = 0;
    int status = name_targets(words, &targets, &missing);
    int error = status ? 0 : sp_estimate_targets(&targets, c->one_in, true, r);
    sp_targets_deinit(&targets);
    if (error)
        return fail(error);
    if (!status)
        r->ended += missing;
    return status;
}

static int read_all(const struct choice *c, struct sp_estimate_report *r) {
    struct sp_targets targets;
    int error = sp_targets_all(&targets);
    if (error)
        return fail(error);
    error = sp_estimate_targets(&targets, c->one_in, false, r);
    sp_targets_deinit(&targets);
    return error ? fail(error) : 0;
}

/* --- Reports ----------------------------------------------------------------------------------------- */

static int print_json(const struct sp_estimate_report *r) {
    json_t *root = sp_estimate_json(r, SIZE_MAX);
    int error = !root || json_dumpf(root, stdout, JSON_INDENT(2)) ? -ENOMEM : 0;
    json_decref(root);
    printf("\n");
    return error;
}

static int report(const struct choice *c, const struct sp_estimate_report *r) {
    int status = SP_EXIT_OK;
    if (!r->estimate->n_processes) {
        if (c->all || c->command)
            sp_complain(&sp_command_estimate, "no process could be read%s",
                        r->denied ? ": permission denied" : "");
        return SP_EXIT_FAILURE;
    }
    if (c->json && print_json(r) && !ferror(stdout))
        status = fail(-ENOMEM);
    if (!c->json)
        sp_estimate_print(r);
    fflush(stdout); /* the page may go there, too */
    int error = c->html ? sp_estimate_html(r, c->html) : 0;
    if (error) {
        sp_complain(&sp_command_estimate, "cannot write %s: %s", c->html, strerror(-error));
        status = SP_EXIT_FAILURE;
    }
    /* Of a whole machine something always ends meanwhile, or is others'. */
    if (!c->all && !c->command && (r->denied || r->ended))
        status = SP_EXIT_FAILURE;
    return sp_output_finish(status);
}

static int estimate_command(const struct choice *c, char **argv, struct sp_estimate_report *r) {
    struct sp_estimate_command command = {
        .argv = argv,
        .one_in = c->one_in,
        .after_ns = c->after_given ? c->after_ns : AFTER_S * NS_PER_S,
        .until_end = c->until_end,
        .quiet_output = c->json,
    };
    int status = sp_estimate_command_run(&command, r);
    if (!status)
        status = report(c, r);
    sp_estimate_command_end(&command, c->terminate);
    return status;
}

static int estimate(const struct choice *c, char **words) {
    struct sp_estimate_report r = {0};
    int error = c->html ? sp_estimate_html_check(c->html) : 0;
    if (error) {
        sp_complain(&sp_command_estimate, "cannot write %s: %s", c->html, strerror(-error));
        return SP_EXIT_FAILURE;
    }
    int status;
    if (c->command) {
        status = estimate_command(c, words, &r);
    } else {
        status = c->all ? read_all(c, &r) : read_named(c, words, &r);
        if (!status)
            status = report(c, &r);
    }
    sp_estimate_report_deinit(&r);
    return status;
}

static int estimate_main(const struct sp_command *command, int argc, char **argv) {
    struct sp_args args = {.command = command, .argc = argc, .argv = argv};
    struct choice c = {.one_in = 1};
    const char *value;
    for (int option; (option = sp_args_next(&args, &value)) != SP_ARGS_END;) {
        int status = option == SP_ARGS_DONE ? args.status : take_option(&c, option, value);
        if (option == SP_ARGS_DONE || status)
            return status;
    }
    c.command = args.next > 1 && !strcmp(argv[args.next - 1], "--");
    int status = check(&c, argc - args.next);
    return status ? status : estimate(&c, argv + args.next);
}
