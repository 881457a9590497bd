/* SPDX-License-Identifier: MIT */
/*
 * A child made while pages are frozen (H3), also by a raw clone that no handler sees: the kernel keeps it
 * waiting until the event is read, refuses to move meanwhile, and hands over the child's userfaultfd, through
 * which the child gets the pages it lacks. And how an unprivileged process comes by all that.
 */
#include "os_test.h"

#include <sys/socket.h>

#include "os/socket.h"

#define N 8

static int uffd;
static char *source, *scratch;

static void open_all(int fd) {
    uffd = fd;
    source = pages_new(N);
    scratch = pages_new(N);
    pages_fill(source, N, 1);
    must(sp_advise(AT(scratch, 0), N * PAGE, MADV_DONTFORK), "dontfork");
    must(sp_uffd_register(uffd, AT(scratch, 0), N * PAGE, SP_UFFD_MODE_MISSING), "register");
    must(sp_uffd_register(uffd, AT(source, 0), N * PAGE, SP_UFFD_MODE_MISSING), "register");
}

static void close_all(void) {
    close(uffd);
    pages_free(source, N);
    pages_free(scratch, N);
}

/* A raw clone, as a program that bypasses the C library makes it. The child looks at every page. */
static void *clone_main(void *arg) {
    pid_t *pid = arg;
    long r = sp_syscall(SYS_clone, SIGCHLD, 0, 0, 0, 0);
    if (r == 0) {
        int bad = 0;
        for (size_t i = 0; i < N; i++)
            bad += !page_is(source + i * PAGE, 1, i);
        sp_syscall(SYS_exit_group, bad);
    }
    __atomic_store_n(pid, (pid_t)r, __ATOMIC_RELEASE);
    return NULL;
}

/* Returns the child's exit status: how many pages it found wrong; or -1 and less when the events do not come
 * as they should. */
static int clone_while_frozen(void) {
    size_t moved;
    pid_t pid = 0;
    pthread_t thread;
    int child_uffd = -1;

    if (sp_uffd_move(uffd, -1, AT(scratch, 0), AT(source, 0), 4 * PAGE, &moved) < 0)
        return -1;
    if (sp_uffd_read(uffd, &child_uffd) != SP_UFFD_NOTHING)
        return -2;
    pthread_create(&thread, NULL, clone_main, &pid);
    if (sp_wait_readable(&uffd, 1, UINT64_C(60000000000)) != 1)
        return -3;
    /* The event waits: nothing moves, in either direction. */
    if (sp_uffd_move(uffd, -1, AT(scratch, 4), AT(source, 4), PAGE, &moved) != -EAGAIN || moved != 0)
        return -4;
    if (__atomic_load_n(&pid, __ATOMIC_ACQUIRE) != 0)
        return -5;
    if (sp_uffd_read(uffd, &child_uffd) != SP_UFFD_FORKED)
        return -6;
    pthread_join(thread, NULL);
    for (size_t i = 0; i < 4; i++) {
        if (sp_uffd_copy(child_uffd, AT(source, i), scratch + i * PAGE, PAGE) < 0)
            return -7;
        if (sp_uffd_wake(child_uffd, AT(source, i), PAGE) < 0)
            return -8;
    }
    int status;
    if (waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -9;
    close(child_uffd);
    if (sp_uffd_move(uffd, -1, AT(source, 0), AT(scratch, 0), 4 * PAGE, &moved) < 0)
        return -10;
    for (size_t i = 0; i < N; i++)
        if (!page_is(source + i * PAGE, 1, i))
            return -11;
    return WEXITSTATUS(status);
}

static void a_child_gets_the_frozen_pages(void **state) {
    open_all(uffd_new(SP_UFFD_EVENT_FORK));
    assert_int_equal(clone_while_frozen(), 0);
    close_all();
}

/* Without the event the child reads zeros: why the defence is needed. */
static void without_the_event_the_child_reads_zeros(void **state) {
    size_t moved;
    pid_t pid = 0;
    int status;
    open_all(uffd_new(0));
    assert_int_equal(sp_uffd_move(uffd, -1, AT(scratch, 0), AT(source, 0), 4 * PAGE, &moved), 0);
    clone_main(&pid);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 4);
    close_all();
}

/* The copy fails for a child that has gone, and nothing hangs. */
static void a_child_that_has_gone_is_told(void **state) {
    size_t moved;
    int child_uffd;
    open_all(uffd_new(SP_UFFD_EVENT_FORK));
    assert_int_equal(sp_uffd_move(uffd, -1, AT(scratch, 0), AT(source, 0), 4 * PAGE, &moved), 0);
    pthread_t thread;
    pid_t pid = 0;
    assert_int_equal(pthread_create(&thread, NULL, clone_main, &pid), 0);
    assert_int_equal(sp_wait_readable(&uffd, 1, UINT64_C(60000000000)), 1);
    assert_int_equal(sp_uffd_read(uffd, &child_uffd), SP_UFFD_FORKED);
    pthread_join(thread, NULL);
    kill(pid, SIGKILL);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
    assert_int_equal(sp_uffd_copy(child_uffd, AT(source, 0), scratch, PAGE), -ESRCH);
    close(child_uffd);
    close_all();
}

/* The unprivileged path: /dev/userfaultfd handed over, EVENT_FORK enabled by somebody privileged. */
struct handed {
    int device, link;
};

static void *read_from_pipe(void *arg) {
    int *pipe_fd = arg;
    *pipe_fd = (int)read(*pipe_fd, source + 5 * PAGE, 4);
    return NULL;
}

/* A read(2) into a frozen page sleeps; with a user-mode-only userfaultfd it would fail with EFAULT. */
static int frozen_for_the_kernel_too(void) {
    size_t moved;
    int p[2];
    pthread_t thread;
    source[5 * PAGE] = source[5 * PAGE] ^ 1; /* the program's own again after the child */
    CHILD_CHECK(sp_uffd_move(uffd, -1, AT(scratch, 5), AT(source, 5), PAGE, &moved) == 0);
    CHILD_CHECK(pipe(p) == 0 && write(p[1], "read", 4) == 4);
    CHILD_CHECK(pthread_create(&thread, NULL, read_from_pipe, &p[0]) == 0);
    CHILD_CHECK(sp_wait_readable(&uffd, 1, UINT64_C(60000000000)) == 1);
    CHILD_CHECK(sp_uffd_move(uffd, -1, AT(source, 5), AT(scratch, 5), PAGE, &moved) == 0);
    CHILD_CHECK(sp_uffd_wake(uffd, AT(source, 5), PAGE) == 0);
    pthread_join(thread, NULL);
    CHILD_CHECK(p[0] == 4);
    CHILD_CHECK(memcmp(source + 5 * PAGE, "read", 4) == 0);
    return 0;
}

static int unprivileged_client(void *arg) {
    const struct handed *h = arg;
    int fd;
    CHILD_CHECK(become_nobody() == 0);
    CHILD_CHECK(sp_uffd_new(-1, &fd) == -EPERM);
    CHILD_CHECK(sp_uffd_new(h->device, &fd) == 0);
    CHILD_CHECK(sp_uffd_enable(fd, SP_UFFD_NEEDED | SP_UFFD_EVENT_FORK) == -EPERM);
    close(fd);
    CHILD_CHECK(sp_uffd_new(h->device, &fd) == 0);

    char word = 'u';
    struct iovec part = {&word, 1};
    CHILD_CHECK(sp_socket_send(h->link, &part, 1, &fd, 1, true) == 0);
    CHILD_CHECK(sp_socket_receive(h->link, &word, 1, NULL, NULL, -1) == 1);
    CHILD_CHECK(word == 'e');
    open_all(fd);
    int wrong = clone_while_frozen();
    if (wrong)
        fprintf(stderr, "clone_while_frozen: %d\n", wrong);
    CHILD_CHECK(wrong == 0);
    return frozen_for_the_kernel_too();
}

static void an_unprivileged_client_is_served(void **state) {
    struct handed h;
    int pair[2];
    h.device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (h.device < 0) {
        NOT_HERE("/dev/userfaultfd: %s", strerror(errno));
    }
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    h.link = pair[1];
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0)
        _exit(unprivileged_client(&h));
    close(pair[1]);

    int fds[SP_SOCKET_FDS], status;
    size_t n_fds;
    char word;
    assert_int_equal(sp_socket_receive(pair[0], &word, 1, fds, &n_fds, -1), 1);
    assert_int_equal(n_fds, 1);
    assert_int_equal(sp_uffd_enable(fds[0], SP_UFFD_NEEDED | SP_UFFD_EVENT_FORK), 0);
    close(fds[0]);
    word = 'e';
    struct iovec part = {&word, 1};
    assert_int_equal(sp_socket_send(pair[0], &part, 1, NULL, 0, true), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    close(pair[0]);
    close(h.device);
}

static void enabling_is_once_and_exact(void **state) {
    int fd;
    assert_int_equal(sp_uffd_new(-1, &fd), 0);
    assert_int_equal(sp_uffd_enable(fd, SP_UFFD_NEEDED), 0);
    assert_int_equal(sp_uffd_enable(fd, SP_UFFD_NEEDED), -EINVAL);
    assert_int_equal(fcntl(fd, F_GETFD), FD_CLOEXEC);
    close(fd);
    assert_int_equal(sp_uffd_new(-1, &fd), 0);
    assert_int_equal(sp_uffd_enable(fd, UINT64_C(1) << 60), -EINVAL);
    close(fd);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_child_gets_the_frozen_pages),
        cmocka_unit_test(without_the_event_the_child_reads_zeros),
        cmocka_unit_test(a_child_that_has_gone_is_told),
        cmocka_unit_test(an_unprivileged_client_is_served),
        cmocka_unit_test(enabling_is_once_and_exact),
    };
    require_uffd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
