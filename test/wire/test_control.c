/* SPDX-License-Identifier: MIT */
/* sp_control_status against a peer that this test plays: what is right, and each way of being wrong. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "os/socket.h"
#include "wire/control.h"
#include "wire/message.h"

static char directory[] = "/tmp/samepage-control-XXXXXX";
static char path[64];

static int setup(void **state) {
    if (!mkdtemp(directory))
        return -1;
    snprintf(path, sizeof path, "%s/socket", directory);
    return 0;
}

static int teardown(void **state) {
    unlink(path);
    return rmdir(directory);
}

/* Messages that go as one packet, while they are collected. */
static struct {
    bool on;
    size_t bytes;
    _Alignas(8) uint8_t packet[SP_WIRE_TO_CLIENT_MAX];
} packed;

static void send_message(int fd, void *message, size_t bytes) {
    if (packed.on) {
        assert_true(bytes <= sizeof packed.packet - packed.bytes);
        memcpy(packed.packet + packed.bytes, message, bytes);
        packed.bytes += bytes;
        return;
    }
    struct iovec part = {.iov_base = message, .iov_len = bytes};
    int r = sp_socket_send(fd, &part, 1, NULL, 0, true);
    /* A caller that has seen enough hangs up. */
    if (r)
        _exit(r == -EPIPE || r == -ECONNRESET ? 0 : 1);
}

static void settings_fill(uint64_t *ret, uint64_t run) {
    struct sp_settings settings;
    sp_settings_init(&settings);
    settings.v[SP_SETTING_run] = run;
    memcpy(ret, settings.v, sizeof settings.v);
}

static void send_daemon(int fd, uint64_t n_domains) {
    struct sp_wire_status_daemon m = {.pid = 42, .cpu_ns = 43, .n_domains = n_domains, .control = 1};
    settings_fill(m.settings, 0);
    sp_wire_header_init(&m.header, SP_WIRE_STATUS_DAEMON, sizeof m, 1);
    send_message(fd, &m, sizeof m);
}

static void send_domain(int fd, uint32_t uid, uint32_t n_clients) {
    struct sp_wire_status_domain m = {
        .uid = uid, .n_clients = n_clients, .saved_peak_bytes = 4096, .settings_number = 5};
    settings_fill(m.settings, 2);
    sp_wire_header_init(&m.header, SP_WIRE_STATUS_DOMAIN, sizeof m, 1);
    m.counters.v[SP_COUNTER_pages_shared] = 17;
    send_message(fd, &m, sizeof m);
}

/* Processes from `pid` on. */
static void send_clients(int fd, uint32_t pid, uint32_t n) {
    _Alignas(8) uint8_t buffer[SP_WIRE_TO_CLIENT_MAX];
    struct sp_wire_status_clients *m = (struct sp_wire_status_clients *)buffer;
    size_t bytes = sizeof *m + n * sizeof m->client[0];
    *m = (struct sp_wire_status_clients){.n = n};
    for (uint32_t i = 0; i < n; i++)
        m->client[i] = (struct sp_wire_client){.pid = pid + i,
                                               .state = 1,
                                               .settled = 1,
                                               .settings_number = 4,
                                               .client = 7,
                                               .reported_ns = 8,
                                               .shared_pages = 9,
                                               .name = "someone",
                                               .freezes = {1, 2, 3, 4}};
    sp_wire_header_init(&m->header, SP_WIRE_STATUS_CLIENTS, bytes, 1);
    send_message(fd, m, bytes);
}

static void send_end(int fd) {
    struct sp_wire_empty m;
    sp_wire_header_init(&m.header, SP_WIRE_STATUS_END, sizeof m, 1);
    send_message(fd, &m, sizeof m);
}

static void send_packed(int fd) {
    packed.on = false;
    send_message(fd, packed.packet, packed.bytes);
    packed.bytes = 0;
}

static void play_right(int fd) {
    send_daemon(fd, 2);
    send_domain(fd, 0, 3);
    send_clients(fd, 100, 1);
    send_clients(fd, 101, 2);
    send_domain(fd, 1000, 0);
    send_end(fd);
}

/* The same in two packets, which end in the middle of a domain. */
static void play_packed(int fd) {
    packed.on = true;
    send_daemon(fd, 2);
    send_domain(fd, 0, 3);
    send_clients(fd, 100, 1);
    send_packed(fd);
    packed.on = true;
    send_clients(fd, 101, 2);
    send_domain(fd, 1000, 0);
    send_end(fd);
    send_packed(fd);
}

static void play_packed_after_end(int fd) {
    packed.on = true;
    send_daemon(fd, 0);
    send_end(fd);
    send_end(fd);
    send_packed(fd);
}

/* The second message is cut off: within its header, after it. */
static void send_cut(int fd, size_t left) {
    packed.on = true;
    send_daemon(fd, 0);
    size_t bytes = packed.bytes;
    send_domain(fd, 0, 0);
    packed.bytes = bytes + left;
    send_packed(fd);
}

static void play_packed_cut_header(int fd) {
    send_cut(fd, sizeof(struct sp_wire_header) - 8);
}

static void play_packed_cut(int fd) {
    send_cut(fd, sizeof(struct sp_wire_header) + 8);
}

/* With a size that would never end. */
static void play_packed_nothing(int fd) {
    packed.on = true;
    send_daemon(fd, 0);
    ((struct sp_wire_header *)packed.packet)->bytes = 0;
    send_end(fd);
    send_packed(fd);
}

static void play_no_daemon(int fd) {
    send_domain(fd, 0, 0);
    send_end(fd);
}

static void play_too_many_clients(int fd) {
    send_daemon(fd, 1);
    send_domain(fd, 0, 3);
    send_clients(fd, 1, 2);
    send_clients(fd, 3, 2);
    send_end(fd);
}

static void play_too_few_clients(int fd) {
    send_daemon(fd, 1);
    send_domain(fd, 0, 3);
    send_clients(fd, 1, 2);
    send_end(fd);
}

static void play_two_daemons(int fd) {
    send_daemon(fd, 0);
    send_daemon(fd, 0);
    send_end(fd);
}

static void play_other_type(int fd) {
    struct sp_wire_result m = {.result = 0};
    sp_wire_header_init(&m.header, SP_WIRE_RESULT, sizeof m, 1);
    send_message(fd, &m, sizeof m);
}

static void play_garbage(int fd) {
    char text[] = "HTTP/1.1 400 Bad Request\r\n\r\n";
    send_message(fd, text, sizeof text);
}

static void play_other_version(int fd) {
    struct sp_wire_refused m = {.error = -EPROTONOSUPPORT};
    sp_wire_header_init(&m.header, SP_WIRE_REFUSED, sizeof m, 0);
    m.header.version = SP_WIRE_VERSION + 1;
    send_message(fd, &m, sizeof m);
}

static void play_refusal(int fd) {
    struct sp_wire_refused m = {.error = -EACCES};
    sp_wire_header_init(&m.header, SP_WIRE_REFUSED, sizeof m, 0);
    send_message(fd, &m, sizeof m);
}

static void play_end(int fd) {
    send_daemon(fd, 1);
}

static void play_silence(int fd) {
    char c;
    /* Until the caller gives up. */
    while (sp_socket_receive(fd, &c, 1, NULL, NULL, -1) != 0)
        ;
}

/* What is to be set, instead of asking for the status. */
static const struct sp_settings_change *change;
static const uid_t *set_uid;

/* What is to be got, likewise. */
static struct sp_settings *get;

/* In the child: the request is the one that was wanted. */
static void check_set(const void *request) {
    const struct sp_wire_set *m = request;
    const char *reason;
    if (sp_wire_check(m, sizeof *m, 0, SP_WIRE_TO_DAEMON, &reason) || m->header.type != SP_WIRE_SET)
        _exit(3);
    if (m->all != !set_uid || m->uid != (set_uid ? *set_uid : 0))
        _exit(4);
    for (size_t i = 0; i < SP_SETTING_COUNT; i++)
        if ((m->given >> i & 1) != change->given[i] || m->settings[i] != change->values.v[i])
            _exit(5);
}

/* A child plays the daemon for one connection. `read_request`: it reads the request before it answers. */
static int ask(void (*play)(int fd), bool read_request, int timeout_ms, struct sp_status **ret_status) {
    int listener;
    unlink(path);
    assert_int_equal(sp_socket_listen(path, false, &listener), 0);
    pid_t child = fork();
    assert_true(child >= 0);
    if (!child) {
        int fd;
        _Alignas(16) uint8_t request[512];
        alarm(60);
        while (sp_socket_accept(listener, &fd))
            (void)!sp_wait_readable(&listener, 1, UINT64_MAX);
        if (read_request && sp_socket_receive(fd, request, sizeof request, NULL, NULL, -1) <= 0)
            _exit(2);
        if (change && read_request)
            check_set(request);
        play(fd);
        _exit(0);
    }
    int r = change ? sp_control_set(path, timeout_ms, set_uid, change)
            : get  ? sp_control_get(path, timeout_ms, get)
                   : sp_control_status(path, timeout_ms, ret_status);
    int status;
    close(listener);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    return r;
}

static void check_right(void (*play)(int fd)) {
    struct sp_status *s;
    assert_int_equal(ask(play, true, 30000, &s), 0);
    assert_int_equal(s->daemon_pid, 42);
    assert_int_equal(s->daemon_cpu_ns, 43);
    assert_int_equal(s->n_domains, 2);
    assert_int_equal(s->domains[0].n_clients, 3);
    for (size_t i = 0; i < 3; i++)
        assert_int_equal(s->domains[0].clients[i].pid, 100 + i);
    assert_string_equal(s->domains[0].clients[1].name, "someone");
    assert_true(s->control && s->settings.v[SP_SETTING_run] == 0);
    assert_true(s->domains[1].settings.v[SP_SETTING_run] == 2 && s->domains[1].settings_number == 5);
    const struct sp_status_client *c = &s->domains[0].clients[1];
    assert_true(c->settled && c->settings_number == 4);
    assert_true(c->freezes.count == 1 && c->freezes.p50_ns == 2 && c->freezes.p99_ns == 3 &&
                c->freezes.max_ns == 4);
    assert_true(c->client == 7 && c->reported_ns == 8 && c->shared_pages == 9);
    assert_true(sp_status_obeys(c, 3) && sp_status_obeys(c, 4) && !sp_status_obeys(c, 5));
    assert_int_equal(s->domains[1].uid, 1000);
    assert_int_equal(s->domains[1].n_clients, 0);
    assert_int_equal(s->domains[1].saved_peak_bytes, 4096);
    assert_int_equal(s->domains[1].counters.v[SP_COUNTER_pages_shared], 17);
    assert_null(sp_status_free(s));
}

static void test_right(void **state) {
    check_right(play_right);
    check_right(play_packed);
}

static void test_wrong(void **state) {
    static void (*const plays[])(int fd) = {play_no_daemon,     play_too_many_clients, play_too_few_clients,
                                            play_two_daemons,   play_other_type,       play_garbage,
                                            play_other_version, play_packed_after_end, play_packed_cut_header,
                                            play_packed_cut,    play_packed_nothing};
    struct sp_status *s = NULL;
    for (size_t i = 0; i < sizeof plays / sizeof plays[0]; i++) {
        assert_int_equal(ask(plays[i], true, 30000, &s), -EPROTO);
        assert_null(s);
    }
}

static void test_refused(void **state) {
    struct sp_status *s = NULL;
    assert_int_equal(ask(play_refusal, true, 30000, &s), -EACCES);
    /* A daemon may refuse without having read what was asked. */
    assert_int_equal(ask(play_refusal, false, 30000, &s), -EACCES);
    assert_null(s);
}

static void test_ends(void **state) {
    struct sp_status *s = NULL;
    assert_int_equal(ask(play_end, true, 30000, &s), -ECONNREFUSED);
    assert_int_equal(ask(play_silence, true, 50, &s), -ETIMEDOUT);
    assert_null(s);
}

static int result_to_play;

static void play_result(int fd) {
    struct sp_wire_result m = {.result = result_to_play};
    sp_wire_header_init(&m.header, SP_WIRE_RESULT, sizeof m, 1);
    send_message(fd, &m, sizeof m);
}

static void test_set(void **state) {
    struct sp_settings_change c = {0};
    const uid_t somebody = 1234;
    static const int results[][2] = {{0, 0}, {-EACCES, -EPERM}, {-ESRCH, -ESRCH}, {-ENOMEM, -ENOMEM}};
    assert_int_equal(sp_settings_change_add(&c, "run=0", NULL, 0), 0);
    assert_int_equal(sp_settings_change_add(&c, "freeze_micros=77", NULL, 0), 0);
    change = &c;
    for (size_t i = 0; i < sizeof results / sizeof *results; i++) {
        result_to_play = results[i][0];
        set_uid = i % 2 ? &somebody : NULL;
        assert_int_equal(ask(play_result, true, 30000, NULL), results[i][1]);
    }
    assert_int_equal(ask(play_refusal, true, 30000, NULL), -EACCES);
    assert_int_equal(ask(play_other_version, true, 30000, NULL), -EPROTO);
    assert_int_equal(ask(play_right, true, 30000, NULL), -EPROTO);
    assert_int_equal(ask(play_garbage, true, 30000, NULL), -EPROTO);
    assert_int_equal(ask(play_silence, true, 50, NULL), -ETIMEDOUT);
    change = NULL;
}

static bool settings_of_another; /* they come unasked */

static void play_settings(int fd) {
    struct sp_wire_settings m = {.number = 3};
    settings_fill(m.settings, 2);
    sp_wire_header_init(&m.header, SP_WIRE_SETTINGS, sizeof m, settings_of_another ? 0 : 1);
    send_message(fd, &m, sizeof m);
}

static void test_get(void **state) {
    struct sp_settings s = {.v = {0}};
    get = &s;
    assert_int_equal(ask(play_refusal, true, 30000, NULL), -EACCES);
    assert_int_equal(ask(play_right, true, 30000, NULL), -EPROTO);
    assert_int_equal(ask(play_silence, true, 50, NULL), -ETIMEDOUT);
    settings_of_another = true;
    assert_int_equal(ask(play_settings, true, 30000, NULL), -EPROTO);
    settings_of_another = false;
    assert_int_equal(s.v[SP_SETTING_run], 0);
    assert_int_equal(ask(play_settings, true, 30000, NULL), 0);
    assert_int_equal(s.v[SP_SETTING_run], 2);
    get = NULL;
}

static void test_nobody(void **state) {
    struct sp_status *s = NULL;
    int fd;
    unlink(path);
    assert_int_equal(sp_control_status(path, 1000, &s), -ENOENT);
    assert_int_equal(sp_socket_listen(path, false, &fd), 0);
    close(fd);
    assert_int_equal(sp_control_status(path, 1000, &s), -ECONNREFUSED);
    assert_null(s);
    assert_null(sp_status_free(NULL));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right),  cmocka_unit_test(test_wrong), cmocka_unit_test(test_refused),
        cmocka_unit_test(test_ends),   cmocka_unit_test(test_set),   cmocka_unit_test(test_get),
        cmocka_unit_test(test_nobody),
    };
    return cmocka_run_group_tests_name("wire/control", tests, setup, teardown);
}
