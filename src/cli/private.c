/* SPDX-License-Identifier: MIT */
/*
 * Starting a private daemon: a directory, a fork, and a fork in the child, so that the daemon is nobody's
 * child here and the command that this process becomes never finds one it does not know.
 *
 * Readiness comes through a pipe: one byte when it listens, the end of the file when it has failed. What it
 * says on standard error until then would be lost in the normal case; it is collected through the same
 * waiting loop and becomes part of the message.
 */
#include "cli/private.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/thread.h"

#define READY_TIMEOUT_NS (UINT64_C(10) * 1000000000)
#define READY_FD         3

/* What the daemon is started with, all made before the fork. */
struct launch {
    char **argv;
    char path[PATH_MAX];
    char owner[16];
    int ready[2];   /* pipe */
    int answers[2]; /* pipe for its standard error while it starts; -1 when `verbose` */
    bool verbose;
};

static int wrong(struct sp_private *p, int error, const char *what) {
    snprintf(p->error, sizeof p->error, "%s: %s", what, strerror(-error));
    return error;
}

static void remove_files(const struct sp_private *p) {
    (void)unlink(p->socket);
    (void)unlink(p->alive);
    (void)rmdir(p->directory);
}

static int make_files(struct sp_private *p) {
    int r = sp_private_directory(p->directory);
    if (r)
        return wrong(p, r, "cannot make a directory in $XDG_RUNTIME_DIR or /tmp");
    /* sp_private_directory leaves room for "/socket"; "/alive" is shorter. */
    snprintf(p->socket, sizeof p->socket, "%.*s/socket", (int)sizeof p->socket - 8, p->directory);
    snprintf(p->alive, sizeof p->alive, "%.*s/alive", (int)sizeof p->alive - 8, p->directory);
    int fd = open(p->alive, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    r = fd < 0 ? -errno : 0;
    if (fd >= 0)
        close(fd);
    if (!r)
        return 0;
    wrong(p, r, p->alive);
    remove_files(p);
    return r;
}

/* --- In the daemon-to-be ----------------------------------------------------------------------------- */

static void default_signals(void) {
    for (int s = 1; s < NSIG; s++)
        (void)signal(s, SIG_DFL); /* those that cannot be set stay as they are: they are the default */
    /* Its standard error is a pipe that nobody reads once it is ready. */
    (void)signal(SIGPIPE, SIG_IGN);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

/* 0, 1, 2, READY_FD and nothing else: a descriptor of the command's that lives on in the daemon would keep a
 * pipe open whose reader waits for its end. */
static bool arrange_descriptors(const struct launch *l) {
    /* Above all targets first, so that no dup2 below closes what another one needs. */
    int ready = fcntl(l->ready[1], F_DUPFD, READY_FD + 1);
    int errors = fcntl(l->verbose ? STDERR_FILENO : l->answers[1], F_DUPFD, READY_FD + 1);
    int null = open("/dev/null", O_RDWR);
    if (ready < 0 || null < 0)
        return false;
    if (errors < 0)
        errors = null; /* standard error is closed: nowhere to write to */
    return dup2(null, STDIN_FILENO) >= 0 && dup2(null, STDOUT_FILENO) >= 0 &&
           dup2(errors, STDERR_FILENO) >= 0 && dup2(ready, READY_FD) >= 0 &&
           !close_range(READY_FD + 1, ~0U, 0);
}

static void become_daemon(const struct launch *l) {
    default_signals();
    umask(077);
    /* Its own memory is not to be merged, and it is no client. */
    unsetenv("LD_PRELOAD");
    if (!arrange_descriptors(l) || chdir("/"))
        _exit(1);
    execv(l->path, l->argv);
    fprintf(stderr, "%s: %s\n", l->path, strerror(errno));
    _exit(1);
}

/* --- In samepage ------------------------------------------------------------------------------------- */

static int fork_twice(const struct launch *l) {
    pid_t child = fork();
    if (child < 0)
        return -errno;
    if (!child) {
        if (setsid() < 0)
            _exit(1);
        pid_t grandchild = fork();
        if (!grandchild)
            become_daemon(l);
        _exit(grandchild < 0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0)
        if (errno != EINTR)
            return 0; /* ECHILD: SIGCHLD is ignored, the child has been reaped; the pipe will tell */
    return status ? -EAGAIN : 0;
}

/* A subreaper (prctl(2)) would get the daemon as its child after all. */
static int spawn(const struct launch *l) {
    int subreaper = 0;
    (void)prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    if (subreaper)
        (void)prctl(PR_SET_CHILD_SUBREAPER, 0);
    int r = fork_twice(l);
    if (subreaper)
        (void)prctl(PR_SET_CHILD_SUBREAPER, 1);
    return r;
}

/* Reads what there is of the daemon's complaints, the last line counts. */
static void take_answers(int fd, char *text, size_t bytes) {
    ssize_t n = fd >= 0 ? read(fd, text, bytes - 1) : 0;
    if (n <= 0)
        return;
    while (n && text[n - 1] == '\n')
        n--;
    text[n] = 0;
}

/* 1: it listens; 0: it has ended; -ETIMEDOUT. */
static int wait_ready(int fd) {
    uint64_t end_ns = sp_now_ns() + READY_TIMEOUT_NS, now_ns;
    while ((now_ns = sp_now_ns()) < end_ns) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (poll(&p, 1, (int)((end_ns - now_ns) / 1000000) + 1) <= 0)
            continue;
        char byte;
        ssize_t n = read(fd, &byte, 1);
        if (n >= 0 || errno != EINTR)
            return n == 1;
    }
    return -ETIMEDOUT;
}

static void close_pair(int pair[2]) {
    for (int i = 0; i < 2; i++)
        if (pair[i] >= 0)
            close(pair[i]);
    pair[0] = pair[1] = -1;
}

static int launch(struct sp_private *p, struct launch *l) {
    if (pipe2(l->ready, O_CLOEXEC) || (!l->verbose && pipe2(l->answers, O_CLOEXEC | O_NONBLOCK)))
        return wrong(p, -errno, "cannot make a pipe");
    int r = spawn(l);
    if (r)
        return wrong(p, r, "cannot start a process");
    close(l->ready[1]);
    l->ready[1] = -1;
    r = wait_ready(l->ready[0]);
    if (r == 1)
        return 0;
    if (r == -ETIMEDOUT)
        return wrong(p, r, "samepaged did not get ready within 10 s");
    snprintf(p->error, sizeof p->error, "samepaged ended at once");
    take_answers(l->answers[0], p->error, sizeof p->error);
    return -ECONNREFUSED;
}

int sp_private_start(struct sp_private *p, const char *settings, bool verbose) {
    struct launch l = {.ready = {-1, -1}, .answers = {-1, -1}, .verbose = verbose};
    if (sp_place_daemon(l.path)) {
        snprintf(p->error, sizeof p->error, "samepaged is not beside this program: reinstall samepage");
        return -ENOENT;
    }
    int r = make_files(p);
    if (r)
        return r;
    char ready[] = "3", name[] = "samepaged", o_socket[] = "--socket", o_owner[] = "--owner-pid",
         o_alive[] = "--alive", o_ready[] = "--ready-fd", o_set[] = "--set";
    char *set = settings ? strdup(settings) : NULL;
    snprintf(l.owner, sizeof l.owner, "%d", (int)getpid());
    l.argv = (char *[]){name,    o_socket, p->socket,          o_owner, l.owner, o_alive, p->alive,
                        o_ready, ready,    set ? o_set : NULL, set,     NULL};
    r = launch(p, &l);
    close_pair(l.ready);
    close_pair(l.answers);
    free(set);
    if (r)
        remove_files(p);
    return r;
}
