/* SPDX-License-Identifier: MIT */
/*
 * `samepage run --summary`: a parent that is as little noticed as a parent can be.
 *
 * Parent and child stay in one process group, so the terminal's signals (^C, ^\, ^Z, a new window size) reach
 * both without us; what other processes send to our pid is passed on. The two are told apart by si_code: the
 * kernel's own signals are not forwarded, or the child would get them twice. When the child stops, we stop
 * too, so that a shell sees its job stopped; when we are continued, so is the child.
 *
 * What is saved is gone when the child has ended, so the daemon is asked now and then while it runs. The last
 * answer may fall into the child's own end, when half of it is gone: the better one of the last two is the
 * figure of "now", so at most 2 * SAMPLE_NS old. CPU is a total that the daemon keeps, of which the part
 * before the start is taken off. Its peak is that of its whole life: where it has not risen since the start,
 * the peak of the command's time is the highest sample.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/output.h"
#include "cli/program.h"
#include "cli/run.h"
#include "os/thread.h"
#include "wire/control.h"

#define SAMPLE_NS      UINT64_C(200000000)
#define SAMPLE_MS      100 /* a daemon that is slower is asked again later: signals must not wait for it */
#define LAST_SAMPLE_MS 2000
#define NS_PER_S       UINT64_C(1000000000)

/* What the daemon says about the domain of this user. */
struct sample {
    bool valid;
    uint64_t saved_bytes, peak_bytes, cpu_ns, pages_shared;
    size_t clients;
};

struct supervisor {
    const struct sp_job *job;
    pid_t child;
    sigset_t watched, mask; /* `mask`: ours at the start, which the child gets */
    struct sigaction chld_before;
    struct sample first, before_last, last;
    uint64_t highest_bytes; /* saved, of all samples */
    uint64_t next_sample_ns;
};

/* All others are the child's. These are about us: what we did wrong, and our place at the terminal. */
static const int own[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGTTIN, SIGTTOU};

/* --- The summary ------------------------------------------------------------------------------------- */

static struct sample take_sample(const char *socket, int timeout_ms) {
    struct sample s = {.valid = false};
    struct sp_status *status;
    if (!socket || sp_control_status(socket, timeout_ms, &status))
        return s;
    s = (struct sample){.valid = true, .cpu_ns = status->daemon_cpu_ns};
    for (size_t i = 0; i < status->n_domains; i++) {
        const struct sp_status_domain *d = &status->domains[i];
        if (d->uid != geteuid())
            continue;
        s.saved_bytes = d->saved_bytes;
        s.peak_bytes = d->saved_peak_bytes;
        s.cpu_ns += d->counters.v[SP_COUNTER_cpu_ns];
        s.pages_shared = d->counters.v[SP_COUNTER_pages_shared];
        s.clients = d->n_clients;
    }
    sp_status_free(status);
    return s;
}

static void sample_now(struct supervisor *v) {
    struct sample s = take_sample(v->job->socket, SAMPLE_MS);
    if (s.valid) {
        v->before_last = v->last;
        v->last = s;
        if (s.saved_bytes > v->highest_bytes)
            v->highest_bytes = s.saved_bytes;
    }
    v->next_sample_ns = sp_now_ns() + SAMPLE_NS;
}

/* The totals of the daemon after the end; the state of before. */
static void print_summary(struct supervisor *v) {
    if (!v->job->socket) {
        sp_complain(NULL, "saved nothing: the command ran without samepage");
        return;
    }
    struct sample end = take_sample(v->job->socket, LAST_SAMPLE_MS);
    if (!end.valid && !v->last.valid) {
        sp_complain(NULL, "saved: unknown, the daemon did not answer");
        return;
    }
    const struct sample *totals = end.valid ? &end : &v->last;
    const struct sample *state = v->last.valid ? &v->last : &end;
    if (v->before_last.valid && v->before_last.saved_bytes > state->saved_bytes)
        state = &v->before_last;
    uint64_t peak = totals->peak_bytes > v->first.peak_bytes ? totals->peak_bytes : v->highest_bytes;
    if (peak < state->saved_bytes)
        peak = state->saved_bytes;
    uint64_t cpu = totals->cpu_ns > v->first.cpu_ns ? totals->cpu_ns - v->first.cpu_ns : 0;
    fprintf(stderr, "samepage: saved %s now, %s at peak, %s CPU, %s pages shared\n",
            sp_text_bytes(state->saved_bytes), sp_text_bytes(peak), sp_text_seconds(cpu),
            sp_text_number(state->pages_shared));
}

/* --- The child --------------------------------------------------------------------------------------- */

/* SIGCHLD must not be ignored, or there is no status to wait for; the child gets what we were given. */
static void take_signals(struct supervisor *v) {
    struct sigaction normal = {.sa_handler = SIG_DFL};
    sigaction(SIGCHLD, &normal, &v->chld_before);
    sigfillset(&v->watched);
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        sigdelset(&v->watched, own[i]);
    sigprocmask(SIG_BLOCK, &v->watched, &v->mask);
}

static void prepare_child(void *ctx) {
    const struct supervisor *v = ctx;
    sigaction(SIGCHLD, &v->chld_before, NULL);
    sigprocmask(SIG_SETMASK, &v->mask, NULL);
}

/* True when the child has ended. */
static bool reap(struct supervisor *v, int *ret_status) {
    int status;
    pid_t pid;
    while ((pid = waitpid(v->child, &status, WNOHANG | WUNTRACED)) == v->child) {
        if (!WIFSTOPPED(status)) {
            *ret_status = status;
            return true;
        }
        kill(getpid(), SIGSTOP); /* a shell sees its job stopped */
    }
    return false;
}

/* Signals that come from a process are for the child; the kernel's went to the whole group. */
static void forward(const struct supervisor *v, const siginfo_t *info) {
    if (info->si_code <= 0)
        kill(v->child, info->si_signo);
}

static int wait_child(struct supervisor *v) {
    int status;
    while (!reap(v, &status)) {
        siginfo_t info;
        uint64_t now_ns = sp_now_ns(), left_ns = v->next_sample_ns > now_ns ? v->next_sample_ns - now_ns : 0;
        struct timespec timeout = {(time_t)(left_ns / NS_PER_S), (long)(left_ns % NS_PER_S)};
        int s = sigtimedwait(&v->watched, &info, &timeout);
        if (s > 0 && s != SIGCHLD)
            forward(v, &info);
        if (s < 0 && errno == EAGAIN)
            sample_now(v);
    }
    return status;
}

/* Ends as the child did. A core dump is the child's to make, not ours. */
static int end_like(const struct supervisor *v, int status) {
    if (!WIFSIGNALED(status))
        return WEXITSTATUS(status);
    int s = WTERMSIG(status);
    struct rlimit none = {0, 0};
    (void)setrlimit(RLIMIT_CORE, &none);
    (void)prctl(PR_SET_DUMPABLE, 0);
    (void)signal(s, SIG_DFL);
    sigset_t only;
    sigemptyset(&only);
    sigaddset(&only, s);
    sigprocmask(SIG_UNBLOCK, &only, NULL);
    kill(getpid(), s);
    return 128 + s;
}

int sp_supervise(const struct sp_job *job) {
    struct supervisor v = {.job = job};
    /* Before the child runs: a daemon that serves others has used CPU already. */
    v.first = take_sample(job->socket, LAST_SAMPLE_MS);
    v.next_sample_ns = sp_now_ns() + SAMPLE_NS;
    take_signals(&v);
    int r = sp_program_start(job->path, job->argv, prepare_child, &v, &v.child);
    if (r)
        return sp_job_failed(job, r);
    int status = wait_child(&v);
    print_summary(&v);
    return end_like(&v, status);
}
