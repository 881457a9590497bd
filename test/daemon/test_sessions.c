/* SPDX-License-Identifier: MIT */
/*
 * Sessions that misbehave: each ends for itself, with a reason, and everybody else is served as before. Also
 * who may see what: users have domains of their own (I4).
 */
#include "helper.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/socket.h"
#include "os/store.h"
#include "os/thread.h"
#include "os/uffd.h"

#define NOBODY 65534
#define PAGES  64

static struct daemon d;

static int setup(void **state) {
    daemon_start(&d, NULL);
    return 0;
}

static int teardown(void **state) {
    daemon_stop(&d);
    return 0;
}

/* Another client is served. */
/* Requests that were damaged may have set anything. */
static void set_defaults(void) {
    struct sp_settings_change c;
    memset(c.given, true, sizeof c.given);
    sp_settings_init(&c.values);
    assert_int_equal(sp_control_set(d.socket, 30000, NULL, &c), 0);
}

static void assert_serving(void) {
    static uint64_t first = 1000000;
    struct sp_welcome w;
    sp_store_page store[4];
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    uint8_t *pages = pages_new(4, first);
    first += 4;
    share_pages(a, b, &w, pages, 4, store);
    link_close(a);
    link_close(b);
    pages_free(pages, 4);
}

static uint64_t random_state;

static uint64_t random_next(void) {
    random_state += UINT64_C(0x9e3779b97f4a7c15);
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

static union {
    struct sp_wire_header header;
    struct sp_wire_hello hello;
    struct sp_wire_queries queries;
    struct sp_wire_publish publish;
    struct sp_wire_release release;
    struct sp_wire_segment segment;
    struct sp_wire_report report;
    struct sp_wire_set set;
    uint8_t bytes[SP_SOCKET_MESSAGE_MAX];
} m;

static size_t ask_message(uint32_t n, uint64_t fp) {
    size_t bytes = sizeof m.queries + n * sizeof m.queries.query[0];
    sp_wire_header_init(&m.header, SP_WIRE_ASK, bytes, 9);
    m.queries.n = n;
    m.queries.guessed_wrong = 0;
    for (uint32_t i = 0; i < n; i++)
        m.queries.query[i] = (struct sp_wire_query){.page = i, .fp = fp + i};
    return bytes;
}

static void test_before_hello(void **state) {
    int fd = raw_connect(&d);
    size_t bytes = ask_message(1, 1);
    assert_int_equal(raw_send(fd, &m, bytes, -1), 0);
    assert_int_equal(raw_refused(fd), -EPROTO);
    assert_serving();
}

static void test_hello_twice(void **state) {
    int fd = raw_join(&d), token;
    void *mapping;
    assert_int_equal(sp_token_new(&token, &mapping), 0);
    m.hello = (struct sp_wire_hello){.state = 0};
    sp_wire_header_init(&m.header, SP_WIRE_HELLO, sizeof m.hello, 2);
    assert_int_equal(raw_send(fd, &m, sizeof m.hello, token), 0);
    assert_int_equal(raw_refused(fd), -EPROTO);
    close(token);
    assert_serving();
}

/* What comes as a token but is none. */
static void test_hello_bad_token(void **state) {
    int pipes[2], token;
    void *mapping;
    assert_int_equal(pipe(pipes), 0);
    int bad[] = {open("/dev/null", O_RDWR), open("/etc/passwd", O_RDONLY), pipes[0], raw_connect(&d)};
    m.hello = (struct sp_wire_hello){.state = 0};
    sp_wire_header_init(&m.header, SP_WIRE_HELLO, sizeof m.hello, 2);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        int fd = raw_connect(&d);
        assert_int_equal(raw_send(fd, &m, sizeof m.hello, bad[i]), 0);
        assert_int_equal(raw_refused(fd), -EINVAL);
        close(bad[i]);
    }
    close(pipes[1]);
    /* One that nobody maps. */
    assert_int_equal(sp_token_new(&token, &mapping), 0);
    assert_int_equal(sp_token_drop(mapping), 0);
    int fd = raw_connect(&d);
    assert_int_equal(raw_send(fd, &m, sizeof m.hello, token), 0);
    assert_int_equal(raw_refused(fd), -ESRCH);
    close(token);
    assert_serving();
}

static void test_bad_messages(void **state) {
    static const struct {
        uint16_t version, type;
        uint32_t bytes; /* said in the header */
        int error;
    } cases[] = {
        {SP_WIRE_VERSION + 1, SP_WIRE_STATUS, 16, -EPROTONOSUPPORT},
        {SP_WIRE_VERSION, 31, 16, -EBADMSG},
        {SP_WIRE_VERSION, SP_WIRE_STATUS, 17, -EBADMSG},
        {SP_WIRE_VERSION, SP_WIRE_WELCOME, 16, -EBADMSG},
        {SP_WIRE_VERSION, SP_WIRE_ASK, 16, -EBADMSG},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int fd = raw_join(&d);
        sp_wire_header_init(&m.header, SP_WIRE_STATUS, cases[i].bytes, 1);
        m.header.version = cases[i].version;
        m.header.type = cases[i].type;
        assert_int_equal(raw_send(fd, &m, 16, -1), 0);
        assert_int_equal(raw_refused(fd), cases[i].error);
    }
    int fd = raw_join(&d);
    assert_int_equal(raw_send(fd, "x", 1, -1), 0);
    assert_int_equal(raw_refused(fd), -EBADMSG);
    /* A descriptor that does not belong there. */
    fd = raw_join(&d);
    size_t bytes = ask_message(1, 1);
    assert_int_equal(raw_send(fd, &m, bytes, 0), 0);
    assert_int_equal(raw_refused(fd), -EBADMSG);
    assert_serving();
}

static void test_uffd_enable_other_files(void **state) {
    int files[] = {open("/dev/null", O_RDWR), open("/proc/self/maps", O_RDONLY)};
    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++) {
        int fd = raw_join(&d);
        sp_wire_header_init(&m.header, SP_WIRE_UFFD_ENABLE, sizeof m.header, 5);
        assert_int_equal(raw_send(fd, &m, sizeof m.header, files[i]), 0);
        assert_int_equal(raw_refused(fd), -EPROTO);
        close(files[i]);
    }
    assert_serving();
}

static void test_release_wrong(void **state) {
    _Alignas(16) uint8_t reply[8192];
    int fd = raw_join(&d);
    size_t bytes = sizeof m.release + sizeof m.release.run[0];
    sp_wire_header_init(&m.header, SP_WIRE_RELEASE, bytes, 5);
    for (uint64_t epoch = 1; epoch < 4; epoch++) {
        m.release.epoch = epoch;
        m.release.n = 1;
        m.release.reserved = 0;
        m.release.run[0] = (struct sp_wire_run){.first = 0, .pages = (uint64_t)1 << 43};
        assert_int_equal(raw_send(fd, &m, bytes, -1), 0);
        assert_int_equal(raw_receive(fd, reply, sizeof reply, NULL), SP_WIRE_RELEASED);
        const struct sp_wire_released *r = (const struct sp_wire_released *)reply;
        assert_int_equal(r->result, epoch == 1 ? -EINVAL : -ESTALE);
        assert_int_equal(r->epoch_end, 0);
    }
    close(fd);
    assert_serving();
}

/* Sends the request in m without reading until nothing more is taken from us; returns how often that was. */
static size_t flood(int fd, size_t bytes) {
    struct iovec part = {.iov_base = &m, .iov_len = bytes};
    size_t sent = 0;
    for (int idle = 0; idle < 200;) {
        int r = sp_socket_send(fd, &part, 1, NULL, 0, false);
        if (r == 0) {
            sent++;
            idle = 0;
        } else if (r != -EAGAIN) {
            break;
        } else {
            idle++;
            sp_sleep_ns(1000000);
        }
        assert_true(sent < 100000);
    }
    return sent;
}

/* A client that asks and never reads: it is no longer read from, and the others do not notice. */
static void test_slow_client(void **state) {
    _Alignas(16) uint8_t reply[16384];
    int fd = raw_join(&d);
    size_t sent = flood(fd, ask_message(SP_WIRE_QUERIES_MAX, 1));
    assert_serving();
    /* It gets every answer once it does read, and is served again. */
    for (size_t i = 0; i < sent; i++)
        assert_int_equal(raw_receive(fd, reply, sizeof reply, NULL), SP_WIRE_ANSWERS);
    assert_int_equal(raw_send(fd, &m, m.header.bytes, -1), 0);
    assert_int_equal(raw_receive(fd, reply, sizeof reply, NULL), SP_WIRE_ANSWERS);
    close(fd);
    assert_serving();
}

#define STATUS_MEMBERS  1200
#define STATUS_SESSIONS 600
#define SEGMENT_READERS 8

/* Whether the daemon has ended the session; what it sent before may still be there to read. */
static bool hung_up(int fd) {
    struct pollfd p = {.fd = fd};
    return poll(&p, 1, 0) == 1 && p.revents & POLLHUP;
}

static void wait_one_hung_up(const int *fds, size_t n) {
    uint64_t since = 0;
    for (size_t i = 0; !hung_up(fds[i]); i = (i + 1) % n)
        if (i == n - 1)
            wait_step(&since);
}

static void raise_descriptors(void) {
    struct rlimit limit;
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    limit.rlim_cur = limit.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
}

/* Many who ask for long answers and read none: together they cost the daemon a bounded amount of memory. */
static void test_unread_status(void **state) {
    static int members[STATUS_MEMBERS], asking[STATUS_SESSIONS];
    struct sp_wire_empty request;
    raise_descriptors();
    for (size_t i = 0; i < STATUS_MEMBERS; i++)
        members[i] = raw_join(&d);
    sp_wire_header_init(&request.header, SP_WIRE_STATUS, sizeof request, 1);
    for (size_t i = 0; i < STATUS_SESSIONS; i++) {
        asking[i] = raw_connect(&d);
        assert_int_equal(raw_send(asking[i], &request, sizeof request, -1), 0);
    }
    wait_one_hung_up(asking, STATUS_SESSIONS);
    for (size_t i = 0; i < STATUS_SESSIONS; i++)
        close(asking[i]);
    /* What they took is there again. */
    clients_wait(&d, STATUS_MEMBERS, 0);
    for (size_t i = 0; i < STATUS_MEMBERS; i++)
        assert_false(hung_up(members[i]));
    assert_serving();
    for (size_t i = 0; i < STATUS_MEMBERS; i++)
        close(members[i]);
}

/* The same with descriptors. */
static void test_unread_segments(void **state) {
    int fds[SEGMENT_READERS];
    struct sp_welcome w;
    sp_store_page store[4];
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    uint8_t *pages = pages_new(4, 1);
    share_pages(a, b, &w, pages, 4, store);
    for (size_t i = 0; i < SEGMENT_READERS; i++) {
        fds[i] = raw_join(&d);
        m.segment = (struct sp_wire_segment){.segment = store[0].v / SP_SEGMENT_PAGES};
        sp_wire_header_init(&m.header, SP_WIRE_SEGMENT, sizeof m.segment, 1);
        flood(fds[i], sizeof m.segment);
    }
    wait_one_hung_up(fds, SEGMENT_READERS);
    for (size_t i = 0; i < SEGMENT_READERS; i++)
        close(fds[i]);
    link_close(a);
    link_close(b);
    pages_free(pages, 4);
    assert_serving();
}

#define WINDOWS 16

/* Pages that the raw client asked about get a twin from b. */
static void publish_twins(struct sp_link *b, const struct sp_query *queries, const uint8_t *pages) {
    struct sp_answer answers[PAGES];
    const void *contents[PAGES];
    for (size_t i = 0; i < PAGES; i++)
        contents[i] = pages + i * SP_PAGE_SIZE;
    assert_int_equal(b->ops->ask(b, queries, PAGES, answers), 0);
    for (size_t i = 0; i < PAGES; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_SEND);
    assert_int_equal(b->ops->publish(b, queries, contents, PAGES, answers), 0);
}

/* Hints for a client that does not read wait, merged by window, and come when it does. */
static void test_hints_for_a_slow_client(void **state) {
    struct sp_welcome w;
    struct sp_query queries[WINDOWS][PAGES];
    struct sp_link *b = link_open(d.socket, &w);
    int fd = raw_join(&d);
    _Alignas(16) static uint8_t reply[16384];
    uint8_t *pages = pages_new(WINDOWS * PAGES, 0);
    for (size_t i = 0; i < WINDOWS; i++) {
        queries_of(&w, pages + i * PAGES * SP_PAGE_SIZE, PAGES, i * SP_WINDOW_PAGES, queries[i]);
        size_t bytes = ask_message(PAGES, 1);
        for (size_t k = 0; k < PAGES; k++)
            m.queries.query[k] = (struct sp_wire_query){queries[i][k].page.v, queries[i][k].fp.v};
        assert_int_equal(raw_send(fd, &m, bytes, -1), 0);
        assert_int_equal(raw_receive(fd, reply, sizeof reply, NULL), SP_WIRE_ANSWERS);
    }
    size_t sent = flood(fd, ask_message(SP_WIRE_QUERIES_MAX, 1));
    for (size_t i = 0; i < WINDOWS; i++)
        publish_twins(b, queries[i], pages + i * PAGES * SP_PAGE_SIZE);

    static sp_bits seen[WINDOWS];
    size_t answers = 0, hinted = 0, hints = 0;
    memset(seen, 0, sizeof seen);
    while (answers < sent || hinted < WINDOWS * PAGES) {
        unsigned type = raw_receive(fd, reply, sizeof reply, NULL);
        assert_true(type == SP_WIRE_HINT || type == SP_WIRE_ANSWERS);
        answers += type == SP_WIRE_ANSWERS;
        const struct sp_wire_hints *h = (const struct sp_wire_hints *)reply;
        for (size_t i = 0; type == SP_WIRE_HINT && i < h->n; i++) {
            hints++;
            hinted += sp_bits_count(&h->hint[i].pages);
            for (size_t k = 0; k < SP_WINDOW_PAGES / 64; k++)
                seen[h->hint[i].window].w[k] |= h->hint[i].pages.w[k];
        }
    }
    assert_int_equal(hints, WINDOWS);
    for (size_t i = 0; i < WINDOWS; i++)
        assert_int_equal(sp_bits_count(&seen[i]), PAGES);
    close(fd);
    link_close(b);
    pages_free(pages, WINDOWS * PAGES);
}

/* A random valid request into m; returns its size. */
static size_t random_request(int *with_fd) {
    uint32_t n = (uint32_t)(random_next() % 40 + 1);
    size_t bytes = ask_message(n, random_next() % 8 + 1);
    *with_fd = -1;
    switch (random_next() % 10) {
    case 0:
        m.hello = (struct sp_wire_hello){.state = 1};
        bytes = sizeof m.hello;
        m.header.type = SP_WIRE_HELLO;
        *with_fd = 0;
        break;
    case 1:
        m.header.type = SP_WIRE_FORGET;
        break;
    case 2: {
        uint32_t contents = n > SP_WIRE_PUBLISH_MAX ? 0 : (uint32_t)random_next() % (n + 1);
        n = n > SP_WIRE_PUBLISH_MAX ? SP_WIRE_PUBLISH_MAX : n;
        bytes = sizeof m.publish + n * sizeof m.publish.item[0] + contents * SP_PAGE_SIZE;
        m.header.type = SP_WIRE_PUBLISH;
        m.publish.n = n;
        m.publish.contents = contents;
        for (uint32_t i = 0; i < n; i++)
            m.publish.item[i] = (struct sp_wire_item){i, 1 + random_next() % 8, i < contents, 0};
        break;
    }
    case 3:
        bytes = sizeof m.release + n * sizeof m.release.run[0];
        m.header.type = SP_WIRE_RELEASE;
        m.release.epoch = 1;
        m.release.n = n;
        m.release.reserved = 0;
        for (uint32_t i = 0; i < n; i++)
            m.release.run[i] = (struct sp_wire_run){random_next() % 1000, 1 + random_next() % 4};
        if (random_next() % 2)
            *with_fd = 0;
        break;
    case 4:
        bytes = sizeof m.segment;
        m.header.type = SP_WIRE_SEGMENT;
        m.segment.segment = random_next() % 3;
        break;
    case 5:
        bytes = sizeof m.report;
        m.header.type = SP_WIRE_REPORT;
        m.report.state = 0;
        m.report.settled = (uint32_t)random_next() % 2;
        break;
    case 6:
        bytes = sizeof m.header;
        m.header.type = SP_WIRE_STATUS;
        break;
    case 7:
        bytes = sizeof m.header;
        m.header.type = SP_WIRE_UFFD_ENABLE;
        *with_fd = 0;
        break;
    case 8:
        bytes = sizeof m.set;
        memset(&m.bytes[sizeof m.header], 0, bytes - sizeof m.header);
        m.header.type = SP_WIRE_SET;
        m.set.all = (uint32_t)random_next() % 2;
        m.set.given = (uint64_t)1 << SP_SETTING_freeze_micros;
        m.set.settings[SP_SETTING_freeze_micros] = 50 + random_next() % 50;
        break;
    }
    m.header.bytes = (uint32_t)bytes;
    return bytes;
}

/* Requests in random order, most of them damaged, to a live daemon. */
static void test_fuzz(void **state) {
    size_t sessions = 0;
    random_state = 2;
    int fd = raw_join(&d);
    for (unsigned round = 0; round < 20000; round++) {
        int with_fd;
        size_t bytes = random_request(&with_fd);
        if (random_next() % 3 == 0)
            m.bytes[random_next() % (random_next() % 2 ? bytes : 32)] = (uint8_t)random_next();
        if (random_next() % 20 == 0)
            bytes = random_next() % (bytes + 1);
        if (random_next() % 20 == 0)
            with_fd = with_fd < 0 ? 0 : -1;
        struct iovec part = {.iov_base = &m, .iov_len = bytes ? bytes : 1};
        int r = sp_socket_send(fd, &part, 1, &with_fd, with_fd >= 0, false);
        /* Read now and then, so that it goes on; what comes is always valid. */
        _Alignas(16) static uint8_t reply[16384];
        ssize_t n = 1;
        while (n > 0 && (r || random_next() % 4)) {
            int fds[SP_SOCKET_FDS];
            size_t n_fds = 0;
            const char *reason = "";
            n = sp_socket_receive(fd, reply, sizeof reply, fds, &n_fds, r == -EAGAIN ? 1 : 0);
            for (size_t at = 0, length; n > 0 && at < (size_t)n; at += length) {
                length = sp_wire_first_bytes(reply + at, (size_t)n - at);
                if (sp_wire_check(reply + at, length, at ? 0 : n_fds, SP_WIRE_TO_CLIENT, &reason))
                    fail_msg("the daemon sent a bad message: %s", reason);
            }
            for (size_t i = 0; n > 0 && i < n_fds; i++)
                close(fds[i]);
        }
        if (n == 0 || r == -EPIPE || r == -ECONNRESET) {
            close(fd);
            fd = raw_join(&d);
            sessions++;
        }
        if (round % 1000 == 0) {
            set_defaults();
            assert_serving();
        }
    }
    close(fd);
    set_defaults();
    assert_true(sessions > 100);
    assert_int_equal(kill(d.pid, 0), 0);
    assert_serving();
}

/* In a child, as another user. What it must not do fails the child. */
static int as_nobody(void (*body)(void)) {
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        alarm(120);
        if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))
            _exit(9);
        body();
        _exit(0);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return status;
}

static sp_store_page root_store[PAGES];

static void body_other_user(void) {
    struct sp_welcome w;
    struct sp_query queries[PAGES];
    struct sp_answer answers[PAGES];
    sp_store_page store[PAGES];
    struct sp_status *s;
    int fd;
    uint8_t *pages = pages_new(PAGES, 0); /* the same content as root's */
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    /* Root's pages are not known, and root's segment is not to be had, by any number. */
    queries_of(&w, pages, PAGES, 512, queries);
    assert_int_equal(a->ops->ask(a, queries, PAGES, answers), 0);
    for (size_t i = 0; i < PAGES; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_UNKNOWN);
    assert_int_equal(a->ops->forget(a, queries, PAGES), 0);
    for (uint64_t i = 0; i < 4; i++)
        assert_int_equal(a->ops->segment(a, i, &fd), -ENOENT);
    struct sp_store_run run = {root_store[0], 1};
    assert_int_equal(a->ops->release(a, &run, 1), -EINVAL);
    /* Its own domain works, on its own store. */
    share_pages(a, b, &w, pages, PAGES, store);
    assert_int_equal(a->ops->segment(a, 0, &fd), 0);
    uint8_t page[SP_PAGE_SIZE];
    assert_int_equal(pread(fd, page, sizeof page, (off_t)(store[0].v * SP_PAGE_SIZE)), sizeof page);
    assert_memory_equal(page, pages, sizeof page);
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    assert_true(st.st_blocks * 512 <= (blkcnt_t)(PAGES * SP_PAGE_SIZE));
    /* And it cannot be opened for writing. */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    assert_int_equal(open(path, O_RDWR), -1);
    /* Only its own domain is in the status. */
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    assert_int_equal(s->n_domains, 1);
    assert_int_equal(s->domains[0].uid, NOBODY);
    sp_status_free(s);
    /* It gets a userfaultfd all the same, with fork events by the daemon's privilege. */
    bool forks = false;
    assert_int_equal(a->ops->userfaultfd(a, &fd, &forks), 0);
    assert_true(forks);
}

static void test_other_user(void **state) {
    struct sp_welcome w;
    struct sp_status *s;
    struct sp_link *a = link_open(d.socket, &w), *b = link_open(d.socket, &w);
    uint8_t *pages = pages_new(PAGES, 0);
    share_pages(a, b, &w, pages, PAGES, root_store);
    assert_int_equal(as_nobody(body_other_user), 0);
    /* Root sees both. */
    clients_wait(&d, 2, 0);
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    assert_int_equal(s->n_domains, 2);
    sp_status_free(s);
    link_close(a);
    link_close(b);
    pages_free(pages, PAGES);
}

static int setup_only_root(void **state) {
    static const char *const options[] = {"--only-uid", "0", NULL};
    daemon_start(&d, options);
    /* The mode of the socket is one defence, the check of who connects another: this test is about that. */
    return chmod(d.socket, 0666);
}

static void body_refused(void) {
    struct sp_link *l;
    struct sp_welcome w;
    struct sp_status *s;
    assert_int_equal(sp_remote_link_new(d.socket, &l), 0);
    int r = l->ops->open(l, &w);
    assert_true(r == -EACCES || r == -ENOTCONN);
    assert_int_equal(sp_control_status(d.socket, 30000, &s), -EACCES);
}

static void test_only_uid(void **state) {
    assert_int_equal(as_nobody(body_refused), 0);
    assert_serving();
}

int main(void) {
#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_before_hello),
        TEST(test_hello_twice),
        TEST(test_hello_bad_token),
        TEST(test_bad_messages),
        TEST(test_uffd_enable_other_files),
        TEST(test_release_wrong),
        TEST(test_slow_client),
        TEST(test_hints_for_a_slow_client),
        TEST(test_unread_status),
        TEST(test_unread_segments),
        TEST(test_fuzz),
        TEST(test_other_user),
        cmocka_unit_test_setup_teardown(test_only_uid, setup_only_root, teardown),
    };
    return cmocka_run_group_tests_name("daemon/sessions", tests, NULL, NULL);
}
