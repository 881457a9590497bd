/* SPDX-License-Identifier: MIT */
/*
 * `samepage run`. Exit status: the command's own, or, when it could not be run, what a shell gives (127 not
 * found, 126 not executable), 125 for a failure of ours, also a wrong setting, and 2 for wrong usage.
 */
#ifndef SP_CLI_RUN_H
#define SP_CLI_RUN_H

#include "cli/cli.h"

#define SP_EXIT_RUN_FAILED     125
#define SP_EXIT_NOT_EXECUTABLE 126
#define SP_EXIT_NOT_FOUND      127

/* What to run, all checked. */
struct sp_job {
    const char *name;   /* as the user wrote it */
    const char *path;   /* its file */
    char **argv;        /* from name on */
    const char *socket; /* of the daemon; NULL: runs without, nothing will be merged */
};

/* Says why a file could not be found or executed; returns the exit status for it. */
SP_WARN_UNUSED int sp_job_failed(const struct sp_job *job, int error);

/* Runs the job as a child, forwards signals to it, prints the summary on standard error, and ends as the
 * child ended: returns its exit status, or does not return because the same signal ended us. */
SP_WARN_UNUSED int sp_supervise(const struct sp_job *job);

#endif
