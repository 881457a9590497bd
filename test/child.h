/* SPDX-License-Identifier: MIT */
/*
 * Tests in a child process: what must not happen to the test itself (another user, a limit, a filter), or is
 * about children. A failed cmocka assertion must not run on in a copy of the test, so that a child tells what
 * failed by its exit status.
 */
#ifndef SP_TEST_CHILD_H
#define SP_TEST_CHILD_H

#include <errno.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

/* After which a child that hangs is killed. */
#define CHILD_SECONDS 150

/* Runs `body` in a child; its value is the child's exit status, which is returned (-1: ended otherwise). */
static inline int in_child(int (*body)(void *arg), void *arg) {
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        _exit(body(arg));
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) != pid)
        return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Line number of the failed condition as the child's exit status (mod 251, never 0). */
#define CHILD_CHECK(condition)                                                                               \
    do {                                                                                                     \
        if (!(condition)) {                                                                                  \
            fprintf(stderr, "%s:%d: not so in the child: %s (errno %d)\n", __FILE__, __LINE__, #condition,   \
                    errno);                                                                                  \
            return __LINE__ % 251 + 1;                                                                       \
        }                                                                                                    \
    } while (0)

#endif
