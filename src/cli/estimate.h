/* SPDX-License-Identifier: MIT */
/*
 * The parts of `samepage estimate`: which processes, what to show of the result, and in what form. Exit
 * status: 0 when a report was made of everything that was asked for, 1 when anything is missing, 2 for wrong
 * usage.
 */
#ifndef SP_CLI_ESTIMATE_H
#define SP_CLI_ESTIMATE_H

#include <jansson.h>
#include <sys/types.h>

#include "cli/cli.h"
#include "estimate/estimate.h"
#include "estimate/targets.h"

/* What a report says besides the figures. */
struct sp_estimate_report {
    struct sp_estimate *estimate;
    size_t denied, ended,
        same;            /* processes that are not in it: not allowed, gone, with the memory of one that is */
    const char *command; /* that was run; NULL: none */
    uint64_t after_ns;   /* its start */
    uint64_t mappings_max; /* of a process (vm.max_map_count); 0: not known */
};

/* Reads the processes. Says on standard error what could not be read where `named`, and counts the others. 0
 * or a negative errno; the report is empty then. */
SP_WARN_UNUSED int sp_estimate_targets(const struct sp_targets *targets, uint32_t one_in, bool named,
                                       struct sp_estimate_report *ret_report);
void sp_estimate_report_deinit(struct sp_estimate_report *r);

/* Says why a process could not be read. */
void sp_estimate_complain(int pid, int error);

/* Prints it for people. */
void sp_estimate_print(const struct sp_estimate_report *r);

/* All of it; of mappings those with 1 MiB or more of private memory, the largest first, at most
 * `mappings_max`. NULL: no memory. */
json_t *sp_estimate_json(const struct sp_estimate_report *r, size_t mappings_max);

/* Whether a page can be written to `path`; then writes it: 0 or a negative errno. What is there stays until
 * all of the new one is on the disk. */
SP_WARN_UNUSED int sp_estimate_html_check(const char *path);
SP_WARN_UNUSED int sp_estimate_html(const struct sp_estimate_report *r, const char *path);

/* A command that is run to be estimated. */
struct sp_estimate_command {
    char **argv;
    uint32_t one_in;
    uint64_t after_ns; /* its start */
    bool until_end;    /* look every `after_ns`, until the end; report the look that shows the most */
    bool quiet_output; /* its standard output is our standard error */
    pid_t child;
};

/* Runs it and looks: 0 or an exit status, with a message; the command goes on. */
SP_WARN_UNUSED int sp_estimate_command_run(struct sp_estimate_command *c,
                                           struct sp_estimate_report *ret_report);
/* Waits for the end of its whole family, which is told to end (SIGTERM, some seconds later SIGKILL) with
 * `terminate`. */
void sp_estimate_command_end(const struct sp_estimate_command *c, bool terminate);

/* A line on standard error that shows how far it is, where that is a terminal. */
struct sp_progress {
    bool shown;
    uint64_t start_ns, next_ns, done_pages, total_pages;
    size_t process, processes;
    char name[16];
};
void sp_progress_init(struct sp_progress *p, uint64_t total_pages, size_t processes);
void sp_progress_process(struct sp_progress *p, int pid, uint64_t done_pages);
void sp_progress_tell(void *ctx, uint64_t pages); /* of this process */
void sp_progress_end(struct sp_progress *p);

#endif
