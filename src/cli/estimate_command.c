/* SPDX-License-Identifier: MIT */
/*
 * `samepage estimate -- COMMAND`: runs it, looks at its whole family, and stays until that has ended.
 *
 * We are a subreaper (prctl(2)): a process whose parents have ended becomes our child, so that the family is
 * all our descendants, daemons too. The terminal's signals are for the command, as under time(1): we go on,
 * to tell what was seen.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cli/estimate.h"
#include "cli/program.h"
#include "os/thread.h"

#define NS_PER_S UINT64_C(1000000000)
#define GRACE_NS (5 * NS_PER_S) /* from SIGTERM to SIGKILL */
#define STEP_NS  (NS_PER_S / 5)

struct before {
    struct sigaction interrupt, quit, child;
    sigset_t mask;
    bool quiet_output;
};

static void prepare_child(void *ctx) {
    const struct before *b = ctx;
    sigaction(SIGINT, &b->interrupt, NULL);
    sigaction(SIGQUIT, &b->quit, NULL);
    sigaction(SIGCHLD, &b->child, NULL);
    sigprocmask(SIG_SETMASK, &b->mask, NULL);
    if (b->quiet_output)
        (void)dup2(STDERR_FILENO, STDOUT_FILENO);
}

/* SIGCHLD is waited for with sigtimedwait; ignored, it would leave nothing to wait for. */
static void take_signals(struct before *b) {
    struct sigaction ignore = {.sa_handler = SIG_IGN}, normal = {.sa_handler = SIG_DFL};
    sigset_t child;
    sigaction(SIGINT, &ignore, &b->interrupt);
    sigaction(SIGQUIT, &ignore, &b->quit);
    sigaction(SIGCHLD, &normal, &b->child);
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, &b->mask);
}

static int start(struct sp_estimate_command *c) {
    char path[PATH_MAX];
    struct before before = {.quiet_output = c->quiet_output};
    int error = sp_program_find(c->argv[0], path);
    if (!error && prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
        error = -errno;
    if (!error) {
        take_signals(&before);
        error = sp_program_start(path, c->argv, prepare_child, &before, &c->child);
    }
    if (!error)
        return 0;
    sp_complain(&sp_command_estimate, "cannot run %s: %s", c->argv[0],
                error == -ENOENT ? "not found" : strerror(-error));
    return SP_EXIT_FAILURE;
}

/* Whether all have ended by then. */
static bool ended_by(uint64_t deadline_ns) {
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    for (;;) {
        pid_t pid;
        while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (pid < 0 && errno == ECHILD)
            return true;
        uint64_t now_ns = sp_now_ns();
        if (now_ns >= deadline_ns)
            return false;
        uint64_t left_ns = deadline_ns - now_ns;
        struct timespec timeout = {(time_t)(left_ns / NS_PER_S), (long)(left_ns % NS_PER_S)};
        (void)sigtimedwait(&child, NULL, &timeout);
    }
}

static int look(const struct sp_estimate_command *c, uint64_t start_ns,
                struct sp_estimate_report *ret_report) {
    struct sp_targets targets;
    int error = sp_targets_descendants(getpid(), &targets);
    if (error)
        return error;
    uint64_t after_ns = sp_now_ns() - start_ns;
    error = sp_estimate_targets(&targets, c->one_in, false, ret_report);
    sp_targets_deinit(&targets);
    if (error)
        return error;
    ret_report->command = c->argv[0];
    ret_report->after_ns = after_ns;
    return 0;
}

static void keep_better(struct sp_estimate_report *best, const struct sp_estimate_report *now) {
    bool better = !best->estimate || now->estimate->all.saved > best->estimate->all.saved;
    struct sp_estimate_report other = better ? *best : *now;
    if (better)
        *best = *now;
    sp_estimate_report_deinit(&other);
}

/* Looks once, or until the end. */
static int look_on(const struct sp_estimate_command *c, uint64_t start_ns, struct sp_estimate_report *best) {
    uint64_t next_ns = start_ns + c->after_ns;
    while (!ended_by(next_ns)) {
        struct sp_estimate_report now = {0};
        int error = look(c, start_ns, &now);
        if (error)
            return error;
        keep_better(best, &now);
        if (!c->until_end)
            return 0;
        next_ns = sp_now_ns() + c->after_ns;
    }
    return 0;
}

int sp_estimate_command_run(struct sp_estimate_command *c, struct sp_estimate_report *ret_report) {
    struct sp_estimate_report best = {0};
    uint64_t start_ns = sp_now_ns();
    int status = start(c);
    if (status)
        return status;
    int error = look_on(c, start_ns, &best);
    if (!error && best.estimate) {
        *ret_report = best;
        return 0;
    }
    sp_complain(&sp_command_estimate, "%s: %s", c->argv[0],
                error ? strerror(-error) : "ended before it was looked at; see --after");
    sp_estimate_report_deinit(&best);
    return SP_EXIT_FAILURE;
}

static void signal_family(int number) {
    struct sp_targets targets;
    if (sp_targets_descendants(getpid(), &targets))
        return;
    for (size_t i = 0; i < targets.n; i++)
        (void)kill(targets.process[i].pid, number);
    sp_targets_deinit(&targets);
}

void sp_estimate_command_end(const struct sp_estimate_command *c, bool terminate) {
    uint64_t start_ns = sp_now_ns();
    if (!c->child)
        return;
    if (!terminate) {
        (void)ended_by(UINT64_MAX);
        return;
    }
    if (!ended_by(start_ns))
        signal_family(SIGTERM);
    /* Again and again: they may start others meanwhile. */
    for (uint64_t until_ns = start_ns + GRACE_NS; !ended_by(until_ns); until_ns = sp_now_ns() + STEP_NS)
        signal_family(SIGKILL);
}
