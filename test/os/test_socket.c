/* SPDX-License-Identifier: MIT */
/*
 * SEQPACKET sockets: whole messages with descriptors, what happens at the edges, and who may listen where.
 */
#include "os_test.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "os/socket.h"
#include "os/thread.h"

static char dir[64], path[128];

static int setup(void **state) {
    snprintf(dir, sizeof(dir), "/tmp/samepage-test-XXXXXX");
    if (!mkdtemp(dir))
        return -1;
    snprintf(path, sizeof(path), "%s/socket", dir);
    return 0;
}

static int teardown(void **state) {
    unlink(path);
    return rmdir(dir);
}

static int server, near_end, far_end;

static void connect_pair(void) {
    assert_int_equal(sp_socket_listen(path, false, &server), 0);
    assert_int_equal(sp_socket_accept(server, &far_end), -EAGAIN);
    assert_int_equal(sp_socket_connect(path, &near_end), 0);
    assert_int_equal(sp_wait_readable(&server, 1, UINT64_MAX), 1);
    assert_int_equal(sp_socket_accept(server, &far_end), 0);
}

static void close_pair(void) {
    close(near_end);
    close(far_end);
    close(server);
}

static int send_text(int fd, const char *text, const int *fds, size_t n_fds) {
    struct iovec parts[2] = {{(void *)(uintptr_t)text, 2}, {(void *)(uintptr_t)(text + 2), strlen(text) - 2}};
    return sp_socket_send(fd, parts, 2, fds, n_fds, false);
}

static void messages_stay_whole(void **state) {
    char got[64];
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 9;
    connect_pair();
    assert_int_equal(send_text(near_end, "hello", NULL, 0), 0);
    assert_int_equal(send_text(near_end, "again!", NULL, 0), 0);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), fds, &n_fds, -1), 5);
    assert_memory_equal(got, "hello", 5);
    assert_int_equal(n_fds, 0);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), NULL, NULL, 0), 6);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), NULL, NULL, 0), -EAGAIN);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), NULL, NULL, 10), -EAGAIN);
    assert_int_equal(sp_socket_receive(near_end, got, sizeof(got), NULL, NULL, 10), -EAGAIN); /* blocking */
    close_pair();
}

static void the_longest_message_passes(void **state) {
    static char out[SP_SOCKET_MESSAGE_MAX + 1], in[SP_SOCKET_MESSAGE_MAX + 1];
    connect_pair();
    for (size_t i = 0; i < sizeof(out); i++)
        out[i] = (char)(i * 31 >> 3);
    struct iovec part = {out, SP_SOCKET_MESSAGE_MAX};
    assert_int_equal(sp_socket_send(near_end, &part, 1, NULL, 0, false), 0);
    assert_int_equal(sp_socket_receive(far_end, in, sizeof(in), NULL, NULL, -1), SP_SOCKET_MESSAGE_MAX);
    assert_memory_equal(in, out, SP_SOCKET_MESSAGE_MAX);
    part.iov_len++;
    assert_int_equal(sp_socket_send(near_end, &part, 1, NULL, 0, false), -EMSGSIZE);
    /* Both ways at once: the accepted end has room for one as well. */
    part.iov_len--;
    assert_int_equal(sp_socket_send(far_end, &part, 1, NULL, 0, false), 0);
    assert_int_equal(sp_socket_send(near_end, &part, 1, NULL, 0, false), 0);
    close_pair();
}

static int open_descriptors(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

/* Sends a message with many copies of a descriptor, more than sp_socket_send would. */
static void send_many(int fd, size_t bytes, int with, size_t n) {
    static union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(253 * sizeof(int))];
    } control;
    char text[8] = "";
    struct iovec part = {text, bytes};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&control, 0, sizeof(control));
    m.msg_control = &control;
    m.msg_controllen = CMSG_SPACE(n * sizeof(int));
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(n * sizeof(int));
    for (size_t i = 0; i < n; i++)
        memcpy(CMSG_DATA(h) + i * sizeof(int), &with, sizeof(int));
    assert_int_equal(sendmsg(fd, &m, 0), bytes);
}

static size_t closed_by_hook;

static void count_and_close(const int *fds, size_t n) {
    for (size_t i = 0; i < n; i++)
        close(fds[i]);
    closed_by_hook += n;
}

/* The kernel closes none of them itself: it would wait for whoever sent them. */
static void every_descriptor_is_closed_by_the_hook(void **state) {
    int fds[SP_SOCKET_FDS];
    size_t n_fds;
    char got[8];
    connect_pair();
    int before = open_descriptors();
    closed_by_hook = 0;
    sp_socket_close_hook = count_and_close;
    send_many(near_end, 1, 0, 253);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), fds, &n_fds, -1), -EMSGSIZE);
    assert_int_equal(closed_by_hook, 253);
    assert_int_equal(open_descriptors(), before);

    /* Those that were never received, also after messages that are empty or too long, and a peer that left.
     */
    send_many(near_end, 1, 0, 1);
    send_many(near_end, 0, 0, 1);
    assert_int_equal(send(near_end, got, 0, 0), 0);
    send_many(near_end, 8, 0, 253);
    assert_int_equal(sp_socket_send(far_end, &(struct iovec){got, 1}, 1, NULL, 0, false), 0);
    close(near_end);
    sp_socket_end(far_end);
    sp_socket_close_hook = NULL;
    assert_int_equal(closed_by_hook, 253 + 1 + 1 + 253);
    assert_int_equal(open_descriptors(), before - 2);
    close(server);
}

static void descriptors_travel(void **state) {
    int p[2], fds[SP_SOCKET_FDS];
    size_t n_fds;
    char got[8], byte;
    connect_pair();
    assert_int_equal(pipe(p), 0);
    int four[SP_SOCKET_FDS + 1] = {p[1], p[0], p[1], p[0], p[0]};
    assert_int_equal(send_text(near_end, "fd", four, 4), 0);
    assert_int_equal(send_text(near_end, "fd", four, 5), -EINVAL);
    close(p[1]);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), fds, &n_fds, -1), 2);
    assert_int_equal(n_fds, 4);
    assert_int_equal(fcntl(fds[0], F_GETFD), FD_CLOEXEC);
    assert_int_equal(write(fds[0], "z", 1), 1);
    assert_int_equal(read(p[0], &byte, 1), 1);
    assert_int_equal(byte, 'z');
    for (int i = 0; i < 4; i++)
        close(fds[i]);
    close(p[0]);
    close_pair();
}

static void unwanted_descriptors_are_closed(void **state) {
    int fds[SP_SOCKET_FDS], zero[1] = {0};
    size_t n_fds = 9;
    char got[8];
    connect_pair();
    int before = open_descriptors();
    assert_int_equal(send_text(near_end, "too long a message", zero, 1), 0);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), fds, &n_fds, -1), -EMSGSIZE);
    assert_int_equal(n_fds, 9);
    assert_int_equal(send_text(near_end, "fd", zero, 1), 0);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), NULL, NULL, -1), 2);
    assert_int_equal(open_descriptors(), before);

    /* More than a peer may send. */
    send_many(near_end, 1, 0, SP_SOCKET_FDS + 1);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), fds, &n_fds, -1), -EMSGSIZE);
    assert_int_equal(open_descriptors(), before);
    close_pair();
}

static void a_peer_that_has_gone(void **state) {
    char got[8];
    int fds[SP_SOCKET_FDS];
    size_t n_fds = 9;
    connect_pair();
    assert_int_equal(send_text(near_end, "last", NULL, 0), 0);
    close(near_end);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), fds, &n_fds, -1), 4);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), fds, &n_fds, -1), 0);
    assert_int_equal(n_fds, 0);
    assert_int_equal(send_text(far_end, "to nobody", NULL, 0), -EPIPE); /* and no SIGPIPE */
    close(far_end);
    close(server);
    unlink(path);
    connect_pair();
    assert_int_equal(send_text(far_end, "never read", NULL, 0), 0);
    close(near_end);
    assert_int_equal(sp_socket_receive(far_end, got, sizeof(got), fds, &n_fds, -1), 0); /* reset */
    close(far_end);
    close(server);
}

static void a_full_socket_refuses_without_waiting(void **state) {
    static char out[65536];
    struct iovec part = {out, sizeof(out)};
    int r = 0, sent = 0;
    connect_pair();
    while ((r = sp_socket_send(near_end, &part, 1, NULL, 0, false)) == 0)
        sent++;
    assert_int_equal(r, -EAGAIN);
    assert_true(sent > 0);
    part = (struct iovec){NULL, 10};
    assert_int_equal(sp_socket_receive(far_end, out, sizeof(out), NULL, NULL, 0), sizeof(out));
    assert_int_equal(sp_socket_send(near_end, &part, 1, NULL, 0, false), -EFAULT);
    close_pair();
}

static void the_peer_is_known(void **state) {
    pid_t pid;
    uid_t uid;
    gid_t gid;
    connect_pair();
    assert_int_equal(sp_socket_peer(far_end, &pid, &uid, &gid), 0);
    assert_int_equal(pid, getpid());
    assert_int_equal(uid, getuid());
    assert_int_equal(gid, getgid());
    close_pair();
}

static unsigned mode_of(const char *file) {
    struct stat st;
    assert_int_equal(stat(file, &st), 0);
    return st.st_mode & 07777;
}

static void listening(void **state) {
    int first, second, fd;
    char long_path[200];
    memset(long_path, 'a', sizeof(long_path) - 1);
    long_path[sizeof(long_path) - 1] = '\0';
    assert_int_equal(sp_socket_listen(long_path, false, &first), -ENAMETOOLONG);
    assert_int_equal(sp_socket_connect(long_path, &fd), -ENAMETOOLONG);
    assert_int_equal(sp_socket_connect("", &fd), -ENOENT);
    assert_int_equal(sp_socket_connect(path, &fd), -ENOENT);
    assert_int_equal(sp_socket_listen("/nowhere/at/all", false, &first), -ENOENT);

    mode_t umask_before = umask(0);
    assert_int_equal(sp_socket_listen(path, false, &first), 0);
    assert_int_equal(mode_of(path), 0600);
    assert_int_equal(sp_socket_listen(path, false, &second), -EADDRINUSE);
    assert_int_equal(sp_socket_connect(path, &fd), 0);
    close(fd);
    close(first);
    assert_int_equal(sp_socket_connect(path, &fd), -ECONNREFUSED);
    umask(077);
    assert_int_equal(sp_socket_listen(path, true, &first), 0); /* a stale one is replaced */
    umask(umask_before);
    assert_int_equal(mode_of(path), 0666);
    close(first);
}

static void other_files_are_left_alone(void **state) {
    int fd, other;
    int file = open(path, O_CREAT | O_WRONLY, 0600);
    assert_true(file >= 0);
    close(file);
    assert_int_equal(sp_socket_listen(path, false, &fd), -EADDRINUSE);
    assert_int_equal(mode_of(path), 0600); /* still there */
    unlink(path);

    struct sockaddr_un a = {.sun_family = AF_UNIX};
    memcpy(a.sun_path, path, strlen(path));
    other = socket(AF_UNIX, SOCK_STREAM, 0);
    assert_int_equal(bind(other, (struct sockaddr *)&a, sizeof(a)), 0);
    assert_int_equal(listen(other, 1), 0);
    assert_int_equal(sp_socket_connect(path, &fd), -EPROTOTYPE);
    assert_int_equal(sp_socket_listen(path, false, &fd), -EADDRINUSE);
    close(other);
}

static int connect_as_nobody(void *arg) {
    int fd;
    CHILD_CHECK(become_nobody() == 0);
    CHILD_CHECK(sp_socket_connect(path, &fd) == *(int *)arg);
    return 0;
}

/* Nobody accepts: the queue fills, and whoever comes then is told so and does not wait. */
static void a_full_queue_refuses_without_waiting(void **state) {
    enum { MANY = 8192 };
    static int fds[MANY];
    int n = 0, r = 0;
    assert_int_equal(sp_socket_listen(path, false, &server), 0);
    alarm(60);
    while (n < MANY && (r = sp_socket_connect(path, &fds[n])) == 0)
        n++;
    alarm(0);
    assert_true(n > 0);
    assert_int_equal(r, -EAGAIN);
    while (n)
        close(fds[--n]);
    close(server);
}

static void who_may_connect(void **state) {
    int want = -EACCES;
    if (getuid() != 0)
        NOT_HERE("only root can become another user");
    assert_int_equal(chmod(dir, 0755), 0);
    assert_int_equal(sp_socket_listen(path, false, &server), 0);
    assert_int_equal(in_child(connect_as_nobody, &want), 0);
    close(server);
    assert_int_equal(sp_socket_listen(path, true, &server), 0);
    want = 0;
    assert_int_equal(in_child(connect_as_nobody, &want), 0);
    close(server);
}

static void waiting_tells_which(void **state) {
    int a[2], b[2];
    assert_int_equal(pipe(a), 0);
    assert_int_equal(pipe(b), 0);
    int fds[3] = {a[0], -1, b[0]};
    assert_int_equal(sp_wait_readable(fds, 3, 0), 0);
    assert_int_equal(sp_wait_readable(fds, 3, 1000000), 0);
    assert_int_equal(write(b[1], "x", 1), 1);
    assert_int_equal(sp_wait_readable(fds, 3, UINT64_MAX), 4);
    close(a[1]);
    assert_int_equal(sp_wait_readable(fds, 3, UINT64_MAX), 5); /* hung up counts */
    assert_int_equal(sp_wait_readable(fds, 32, 0), -EINVAL);
    close(a[0]);
    close(b[0]);
    close(b[1]);
    assert_int_equal(sp_close(b[1]), -EBADF);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(messages_stay_whole),
        TEST(the_longest_message_passes),
        TEST(descriptors_travel),
        TEST(unwanted_descriptors_are_closed),
        TEST(every_descriptor_is_closed_by_the_hook),
        TEST(a_peer_that_has_gone),
        TEST(a_full_socket_refuses_without_waiting),
        TEST(the_peer_is_known),
        TEST(listening),
        TEST(other_files_are_left_alone),
        TEST(who_may_connect),
        TEST(a_full_queue_refuses_without_waiting),
        TEST(waiting_tells_which),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
