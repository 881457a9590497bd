/* SPDX-License-Identifier: MIT */
/*
 * Many clients: each has its turn, their counters add up as they come and go, and where there is no room for
 * more those that are there are served as before.
 */
#include "helper.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../child.h"

#include "os/socket.h"
#include "os/store.h"

#define AHEAD        40
#define CONTESTED    2 /* the request of the flood that is for the same page */
#define DESCRIPTORS  128
#define CLIENTS_ROOM 48 /* for one user, with so many */
#define REPORTERS    3

static struct daemon d;

static int setup(void **state) {
    daemon_start(&d, NULL);
    return 0;
}

static int teardown(void **state) {
    daemon_stop(&d);
    return 0;
}

/* ---- turns ---- */

/* A question about one page. */
static void ask_one(int fd, uint32_t sequence, uint64_t page, uint64_t fp) {
    union {
        struct sp_wire_queries head;
        _Alignas(8) uint8_t room[sizeof(struct sp_wire_queries) + sizeof(struct sp_wire_query)];
    } m = {.head = {.n = 1}};
    m.head.query[0] = (struct sp_wire_query){.page = page, .fp = fp};
    sp_wire_header_init(&m.head.header, SP_WIRE_ASK, sizeof m, sequence);
    assert_int_equal(raw_send(fd, &m, sizeof m, -1), 0);
}

/* The answer to it. */
static uint32_t answer_one(int fd) {
    _Alignas(16) uint8_t reply[SP_WIRE_TO_CLIENT_MAX];
    unsigned type;
    do
        type = raw_receive(fd, reply, sizeof reply, NULL);
    while (type == SP_WIRE_HINT);
    assert_int_equal(type, SP_WIRE_ANSWERS);
    return ((const struct sp_wire_answers *)reply)->answer[0].kind;
}

/* Who asks first about a page with a twin is told nothing, who asks second is to send it. The daemon,
 * stopped, finds all requests of one client and one of another. */
static void test_turns(void **state) {
    int flood = raw_join(&d), other = raw_join(&d), status;
    assert_int_equal(kill(d.pid, SIGSTOP), 0);
    assert_int_equal(waitpid(d.pid, &status, WUNTRACED), d.pid);
    for (uint32_t i = 0; i < AHEAD; i++)
        ask_one(flood, i + 1, 5000 + i, i == CONTESTED ? 4242 : 10000 + 2 * i);
    ask_one(other, 1, 9000, 4242);
    assert_int_equal(kill(d.pid, SIGCONT), 0);
    assert_int_equal(answer_one(other), SP_ANSWER_UNKNOWN);
    for (uint32_t i = 0; i < AHEAD; i++)
        assert_int_equal(answer_one(flood), i == CONTESTED ? SP_ANSWER_SEND : SP_ANSWER_UNKNOWN);
    close(flood);
    close(other);
}

/* ---- sums ---- */

static void report(struct sp_link *l, uint64_t resident, uint64_t merged, uint64_t zeros) {
    struct sp_report r = {.state = 1};
    bool pause;
    r.counters.v[SP_COUNTER_resident_pages] = resident;
    r.counters.v[SP_COUNTER_pages_merged] = merged;
    r.counters.v[SP_COUNTER_ksm_zero_pages] = zeros;
    assert_int_equal(l->ops->report(l, &r, &pause), 0);
}

static void assert_sums(uint64_t resident, uint64_t merged, uint64_t zeros) {
    assert_int_equal(counter(&d, geteuid(), SP_COUNTER_resident_pages), resident);
    assert_int_equal(counter(&d, geteuid(), SP_COUNTER_pages_merged), merged);
    assert_int_equal(counter(&d, geteuid(), SP_COUNTER_ksm_zero_pages), zeros);
}

static void test_sums(void **state) {
    struct sp_link *l[REPORTERS];
    struct sp_welcome w;
    for (size_t i = 0; i < REPORTERS; i++)
        l[i] = link_open(d.socket, &w);
    uint64_t merged_before = counter(&d, geteuid(), SP_COUNTER_pages_merged);
    for (size_t i = 0; i < REPORTERS; i++)
        report(l[i], 100, 10, 1);
    assert_sums(300, merged_before + 30, 3);
    report(l[1], 7, 11, 0); /* in place of what it said before */
    assert_sums(207, merged_before + 31, 2);
    link_close(l[1]);
    clients_wait(&d, REPORTERS - 1, 0);
    assert_sums(200, merged_before + 31, 2); /* what only grows stays */
    link_close(l[0]);
    link_close(l[2]);
    clients_wait(&d, 0, 0);
    assert_sums(0, merged_before + 31, 0);
}

/* ---- no room ---- */

/* A link that gives back the one page that it shares with `b`: with a new token, for which there must be
 * room. */
static void give_back(struct sp_link *l, sp_store_page store) {
    struct sp_store_run run = {store, 1};
    assert_int_equal(l->ops->release(l, &run, 1), 0);
}

/* In a process of its own, for the lower limit, which the daemon inherits. */
static int body_full(void *unused) {
    static struct sp_link *links[DESCRIPTORS];
    struct rlimit few = {.rlim_cur = DESCRIPTORS, .rlim_max = DESCRIPTORS};
    struct sp_welcome w;
    sp_store_page store;
    uint8_t *page = pages_new(1, 800);
    size_t n = 0;
    const char *const only_us[] = {"--only-uid", "0", NULL};
    CHILD_CHECK(setrlimit(RLIMIT_NOFILE, &few) == 0);
    daemon_start(&d, only_us);
    links[n++] = link_open(d.socket, &w);
    links[n++] = link_open(d.socket, &w);
    share_pages(links[0], links[1], &w, page, 1, &store);
    int error = 0;
    while (!error && n < DESCRIPTORS) {
        CHILD_CHECK(sp_remote_link_new(d.socket, &links[n]) == 0);
        error = links[n]->ops->open(links[n], &w);
        n += error == 0;
    }
    CHILD_CHECK(error == -EUSERS && n == CLIENTS_ROOM);
    /* Who is there is served, with everything that takes a descriptor; and the daemon can be looked at. */
    give_back(links[0], store);
    give_back(links[1], store);
    share_pages(links[2], links[3], &w, pages_new(1, 801), 1, &store);
    CHILD_CHECK(counter(&d, 0, SP_COUNTER_pages_shared) >= 1);
    /* And when one goes, another comes. */
    link_close(links[4]);
    clients_wait(&d, n - 1, 0);
    CHILD_CHECK(links[n]->ops->open(links[n], &w) == 0);
    daemon_stop(&d);
    return 0;
}

static void test_full(void **state) {
    if (geteuid())
        skip();
    assert_int_equal(in_child(body_full, NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_turns, setup, teardown),
        cmocka_unit_test_setup_teardown(test_sums, setup, teardown),
        cmocka_unit_test(test_full),
    };
    return cmocka_run_group_tests_name("daemon/many", tests, NULL, NULL);
}
