/* SPDX-License-Identifier: MIT */
/*
 * Who is believed: tokens that could hold the daemon up, daemons of other users, clients that become somebody
 * else, daemons that begin at the same time.
 */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../child.h"
#include "daemon/host.h"
#include "os/socket.h"
#include "os/store.h"

#define NOBODY 65534

static struct daemon d;

static int setup(void **state) {
    daemon_start(&d, NULL);
    return 0;
}

static int teardown(void **state) {
    daemon_stop(&d);
    return 0;
}

/* A memfd of which `bytes` are there, mapped shared. */
static int memfd_mapped(off_t bytes, int flags) {
    int fd = memfd_create("token", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_true(fd >= 0);
    assert_int_equal(fallocate(fd, flags, 0, bytes), 0);
    assert_ptr_not_equal(mmap(NULL, 4096, PROT_NONE, MAP_SHARED, fd, 0), MAP_FAILED);
    return fd;
}

/* A page of it could be pinned, and sealing it would keep the daemon waiting, again and again. */
static void test_token_with_pages(void **state) {
    int bad[] = {memfd_mapped(4096, 0), memfd_mapped(4096, FALLOC_FL_KEEP_SIZE)};
    for (size_t i = 0; i < 2; i++) {
        struct sp_wire_hello m = {.state = 0};
        sp_wire_header_init(&m.header, SP_WIRE_HELLO, sizeof m, 2);
        int fd = raw_connect(&d);
        assert_int_equal(raw_send(fd, &m, sizeof m, bad[i]), 0);
        assert_int_equal(raw_refused(fd), -EINVAL);
        close(bad[i]);
    }
}

/* Nothing can be added to a token once it was accepted. */
static void test_token_stays_empty(void **state) {
    int fd;
    void *mapping;
    assert_int_equal(sp_token_new(&fd, &mapping), 0);
    assert_int_equal(sp_token_check(fd), 0);
    assert_int_equal(ftruncate(fd, 4096), -1);
    assert_int_equal(fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 4096), -1);
    assert_int_equal(write(fd, "x", 1), -1);
    assert_int_equal(sp_token_drop(mapping), 0);
    assert_int_equal(sp_token_check(fd), -ESRCH);
    close(fd);
}

/* A daemon that somebody else listens as; ours to connect to. */
static int body_others_daemon(void *unused) {
    char path[64];
    int fd;
    struct sp_link *l;
    struct sp_welcome w;
    snprintf(path, sizeof path, "/tmp/samepage-test-trust-%d", (int)getpid());
    if (seteuid(NOBODY) || sp_socket_listen(path, true, &fd) || seteuid(0))
        return 1;
    if (sp_remote_link_new(path, &l))
        return 2;
    int r = l->ops->open(l, &w);
    unlink(path);
    return r == -EACCES ? 0 : 3;
}

static void test_others_daemon(void **state) {
    if (geteuid())
        skip();
    assert_int_equal(in_child(body_others_daemon, NULL), 0);
}

static int body_other_user(void *unused) {
    struct sp_welcome w, other;
    struct sp_query q = {.page = {1}, .fp = {1}};
    struct sp_answer a;
    int segment;
    struct sp_link *l = link_open(d.socket, &w);
    if (l->ops->ask(l, &q, 1, &a))
        return 1;
    if (chmod(d.directory, 0755) || setresuid(NOBODY, NOBODY, NOBODY))
        return 2;
    if (l->ops->ask(l, &q, 1, &a) != -ENOTCONN || l->ops->segment(l, 0, &segment) != -ENOTCONN)
        return 3;
    l->ops->close(l);
    /* The daemon serves everybody: it is in its own domain from now on. */
    if (l->ops->open(l, &other))
        return 4;
    return memcmp(&w.key, &other.key, sizeof w.key) ? 0 : 5;
}

/* I4 */
static void test_becoming_another_user(void **state) {
    if (geteuid())
        skip();
    assert_int_equal(in_child(body_other_user, NULL), 0);
}

static int body_join_as_nobody(void *unused) {
    struct sp_welcome w;
    struct sp_link *l;
    if (setresuid(NOBODY, NOBODY, NOBODY) || sp_remote_link_new(d.socket, &l))
        return 1;
    return l->ops->open(l, &w) ? 2 : 0;
}

/* HELLO with a token that stays mapped; 0 or why it was refused. */
static int join_and_leave(void) {
    struct sp_wire_hello m = {.state = 0};
    int token, fd = raw_connect(&d);
    void *mapping;
    uint8_t buffer[SP_WIRE_TO_CLIENT_MAX];
    assert_int_equal(sp_token_new(&token, &mapping), 0);
    sp_wire_header_init(&m.header, SP_WIRE_HELLO, sizeof m, 2);
    assert_int_equal(raw_send(fd, &m, sizeof m, token), 0);
    close(token);
    unsigned type = raw_receive(fd, buffer, sizeof buffer, NULL);
    int error = type == SP_WIRE_REFUSED ? ((struct sp_wire_refused *)(void *)buffer)->error : 0;
    close(fd);
    return error;
}

/* In a process of its own, for the lower limit. */
static int body_too_many_families(void *unused) {
    struct rlimit small = {.rlim_cur = 256, .rlim_max = 256};
    int joined = 0, error = 0;
    if (setrlimit(RLIMIT_NOFILE, &small))
        return 1;
    daemon_start(&d, NULL);
    if (chmod(d.directory, 0755))
        return 2;
    while (joined < 256 && !(error = join_and_leave()))
        joined++;
    int nobody = in_child(body_join_as_nobody, NULL);
    daemon_stop(&d);
    return error != -EUSERS ? 3 : joined != 64 ? 4 : nobody ? 5 : 0;
}

/* Each family that holds on costs the daemon a descriptor: nobody gets all of them. */
static void test_too_many_families(void **state) {
    if (geteuid())
        skip();
    assert_int_equal(in_child(body_too_many_families, NULL), 0);
}

static int closed_by_hook;

static void count_and_close(const int *fds, size_t n) {
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
    closed_by_hook += (int)n;
}

/* Closing what came with a message that is not good may take for ever as well: the daemon has a way to. */
static void test_descriptor_of_a_bad_message(void **state) {
    int pair[2], fds[SP_SOCKET_FDS], null = open("/dev/null", O_RDONLY);
    size_t n_fds;
    char small[4];
    assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    sp_socket_close_hook = count_and_close;
    assert_int_equal(raw_send(pair[0], "too long", 8, null), 0);
    assert_int_equal(sp_socket_receive(pair[1], small, sizeof small, fds, &n_fds, 0), -EMSGSIZE);
    sp_socket_close_hook = NULL;
    assert_int_equal(closed_by_hook, 1);
    close(null);
    close(pair[0]);
    close(pair[1]);
}

/* A connection whose last close(2) waits for its peer, *ret_peer, which reads nothing. */
static int lingering_socket(int seconds, int *ret_peer) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger linger = {.l_onoff = 1, .l_linger = seconds};
    socklen_t bytes = sizeof a;
    static char text[65536];
    int listener = socket(AF_INET, SOCK_STREAM, 0), fd = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(bind(listener, (struct sockaddr *)&a, sizeof a), 0);
    assert_int_equal(listen(listener, 1), 0);
    assert_int_equal(getsockname(listener, (struct sockaddr *)&a, &bytes), 0);
    assert_int_equal(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
    *ret_peer = accept(listener, NULL, NULL);
    while (send(fd, text, sizeof text, MSG_DONTWAIT) > 0)
        ;
    assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_LINGER, &linger, sizeof linger), 0);
    close(listener);
    return fd;
}

/* What a session that ends has not read is closed with it, and may be anything. */
static void test_unread_descriptors(void **state) {
    struct sp_welcome w;
    int peer, lingering = lingering_socket(300, &peer), fd = raw_connect(&d);
    assert_int_equal(kill(d.pid, SIGSTOP), 0);
    assert_int_equal(raw_send(fd, "not a message", 13, -1), 0);
    assert_int_equal(raw_send(fd, "another", 7, lingering), 0);
    assert_int_equal(raw_send(fd, "and one more", 12, lingering), 0);
    close(lingering); /* the last descriptor of it is in that message */
    assert_int_equal(kill(d.pid, SIGCONT), 0);
    assert_int_equal(raw_refused(fd), -EBADMSG);
    link_close(link_open(d.socket, &w));
    close(peer);
}

#define STUCK 80 /* more than there are threads for it */

/* However many descriptors cannot be closed now: those that can are, in the end. */
static void test_many_foreign_descriptors(void **state) {
    int peers[STUCK], inner[2], end[2];
    char byte;
    for (int i = 0; i < STUCK; i++) {
        /* In the queue of another socket nobody can take its SO_LINGER away. */
        int lingering = lingering_socket(1, &peers[i]);
        assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, inner), 0);
        assert_int_equal(raw_send(inner[0], "x", 1, lingering), 0);
        close(lingering);
        close(inner[0]);
        host_close_foreign(&inner[1], 1);
    }
    assert_int_equal(pipe(end), 0);
    host_close_foreign(&end[1], 1);
    struct pollfd p = {.fd = end[0]};
    assert_int_equal(poll(&p, 1, 60000), 1);
    assert_int_equal(read(end[0], &byte, 1), 0);
    for (int i = 0; i < STUCK; i++)
        close(peers[i]);
    close(end[0]);
}

static char begun_path[64];

static int body_second_daemon(void) {
    int fd, r = sp_socket_listen(begun_path, false, &fd);
    return r == -EADDRINUSE ? 0 : 1;
}

/* One that has bound its socket, and does not listen yet, is not taken for one that was killed. */
static void test_two_begin(void **state) {
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    char directory[] = "/tmp/samepage-test-trust-XXXXXX";
    assert_non_null(mkdtemp(directory));
    snprintf(begun_path, sizeof begun_path, "%s/s", directory);
    strcpy(a.sun_path, begun_path);
    int lock = open(directory, O_RDONLY | O_DIRECTORY), s = socket(AF_UNIX, SOCK_SEQPACKET, 0);
    assert_int_equal(flock(lock, LOCK_EX), 0);
    assert_int_equal(bind(s, (struct sockaddr *)&a, sizeof a), 0);
    pid_t pid = fork();
    if (!pid)
        _exit(body_second_daemon());
    usleep(50000);
    assert_int_equal(listen(s, 5), 0);
    flock(lock, LOCK_UN);
    close(lock);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    close(s);
    unlink(begun_path);
    rmdir(directory);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_token_with_pages, setup, teardown),
        cmocka_unit_test(test_token_stays_empty),
        cmocka_unit_test(test_others_daemon),
        cmocka_unit_test_setup_teardown(test_becoming_another_user, setup, teardown),
        cmocka_unit_test(test_too_many_families),
        cmocka_unit_test(test_descriptor_of_a_bad_message),
        cmocka_unit_test_setup_teardown(test_unread_descriptors, setup, teardown),
        cmocka_unit_test(test_many_foreign_descriptors),
        cmocka_unit_test(test_two_begin),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
