/* SPDX-License-Identifier: MIT */
/* A daemon of the test's own, by SAMEPAGED. A test that fails leaves none behind. */
#ifndef SP_TEST_CLIENT_DAEMON_H
#define SP_TEST_CLIENT_DAEMON_H

#include "client_test.h"

#include <sys/prctl.h>

struct daemon {
    pid_t pid;
    char directory[64], socket[80];
};

static inline void daemon_launch(struct daemon *d, const char *settings) {
    int ready[2];
    char byte, number[12];
    assert_int_equal(pipe(ready), 0);
    fflush(NULL);
    d->pid = fork();
    if (d->pid == 0) {
        close(ready[0]);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        snprintf(number, sizeof(number), "%d", ready[1]);
        const char *program = getenv("SAMEPAGED");
        execl(program, program, "--socket", d->socket, "--set", settings, "--ready-fd", number, (char *)NULL);
        _exit(127);
    }
    close(ready[1]);
    assert_int_equal(read(ready[0], &byte, 1), 1);
    close(ready[0]);
}

static inline void daemon_start(struct daemon *d, const char *settings) {
    strcpy(d->directory, "/tmp/samepage-test-XXXXXX");
    assert_non_null(mkdtemp(d->directory));
    snprintf(d->socket, sizeof(d->socket), "%s/socket", d->directory);
    daemon_launch(d, settings);
}

static inline void daemon_end(struct daemon *d, int signal) {
    assert_int_equal(kill(d->pid, signal), 0);
    assert_int_equal(waitpid(d->pid, NULL, 0), d->pid);
}

static inline void daemon_stop(struct daemon *d) {
    daemon_end(d, SIGTERM);
    unlink(d->socket);
    assert_int_equal(rmdir(d->directory), 0);
}

static inline int connect_to(const struct daemon *d, samepage_domain **ret) {
    struct samepage_options o = {.size = sizeof(o),
                                 .flags = SAMEPAGE_OPEN_CONNECT,
                                 .connect_timeout_ms = LONG_MS,
                                 .socket_path = d->socket};
    return samepage_domain_open(&o, ret);
}

#endif
