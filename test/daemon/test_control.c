/* SPDX-License-Identifier: MIT */
/*
 * Settings of a daemon that runs: who may change whose, that all of a change is done or nothing, that clients
 * learn of it however little they read, and what the daemon itself does at once.
 */
#include "linked.h"

#include <errno.h>
#include <grp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "os/socket.h"

#define NOBODY 65534

static int setup(void **state) {
    linked_start(NULL);
    return 0;
}

static int teardown(void **state) {
    linked_stop();
    return 0;
}

static int set(const uid_t *uid, const char *text) {
    return daemon_set(&d, uid, text);
}

static struct sp_status *status(void) {
    struct sp_status *s;
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    return s;
}

/* Of the daemon's one domain; UINT64_MAX as `domain`: of domains to come. */
static uint64_t setting(uint64_t domain, enum sp_setting which) {
    struct sp_status *s = status();
    assert_true(domain == UINT64_MAX || domain < s->n_domains);
    uint64_t v = domain == UINT64_MAX ? s->settings.v[which] : s->domains[domain].settings.v[which];
    sp_status_free(s);
    return v;
}

static void test_told(void **state) {
    assert_true(welcome.settings_number && welcome.settings.v[SP_SETTING_run] == 1);
    assert_int_equal(set(NULL, "run=0,freeze_micros=99"), 0);
    told(a, SP_SETTING_run, 0);
    told(b, SP_SETTING_run, 0);
    assert_true(a->settings.v[SP_SETTING_freeze_micros] == 99);
    assert_true(a->settings.v[SP_SETTING_map_percent] == 60);
    uint32_t number = a->settings_number;
    assert_true(number != welcome.settings_number);
    assert_int_equal(set(&(uid_t){0}, "run=1"), 0);
    told(a, SP_SETTING_run, 1);
    assert_true(a->settings_number != number && a->settings.v[SP_SETTING_freeze_micros] == 99);
    /* Who joins finds the settings as they are. */
    struct sp_link *c = link_open(d.socket, &welcome);
    assert_true(welcome.settings.v[SP_SETTING_run] == 1 &&
                welcome.settings.v[SP_SETTING_freeze_micros] == 99);
    assert_true(welcome.settings_number == a->settings_number);
    link_close(c);
    /* And so does who joins again. */
    a->ops->close(a);
    assert_int_equal(set(NULL, "run=2"), 0);
    assert_int_equal(a->ops->open(a, &welcome), 0);
    assert_true(welcome.settings.v[SP_SETTING_run] == 2 && !a->settings_number);
}

/* What was set for one domain, and what for all. */
static void test_whose(void **state) {
    assert_int_equal(set(&(uid_t){0}, "freeze_micros=70"), 0);
    assert_true(setting(0, SP_SETTING_freeze_micros) == 70);
    assert_true(setting(UINT64_MAX, SP_SETTING_freeze_micros) == 150);
    assert_int_equal(set(NULL, "freeze_micros=80,exposure_max_percent=100"), 0);
    assert_true(setting(0, SP_SETTING_freeze_micros) == 80);
    assert_true(setting(UINT64_MAX, SP_SETTING_freeze_micros) == 80);
    assert_int_equal(set(&(uid_t){0}, "store_max_mbytes=3"), 0);
    /* Nothing of it is done where a part is wrong. */
    assert_int_equal(set(&(uid_t){0}, "freeze_micros=90,exposure_max_percent=50"), -EINVAL);
    assert_int_equal(set(&(uid_t){4321}, "freeze_micros=90"), -ESRCH);
    assert_true(setting(0, SP_SETTING_freeze_micros) == 80);
    struct sp_status *s = status();
    assert_int_equal(s->n_domains, 1);
    assert_true(s->control);
    sp_status_free(s);
}

static int as_nobody(int (*body)(void)) {
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (!pid) {
        alarm(60);
        if (setgroups(0, NULL) || setgid(NOBODY) || setuid(NOBODY))
            _exit(99);
        _exit(body());
    }
    int wait_status;
    assert_int_equal(waitpid(pid, &wait_status, 0), pid);
    assert_true(WIFEXITED(wait_status));
    return WEXITSTATUS(wait_status);
}

static int body_other_user(void) {
    struct sp_status *s = status();
    bool controls = s->control;
    sp_status_free(s);
    if (controls)
        return 1;
    if (set(&(uid_t){0}, "run=0") != -EPERM)
        return 2;
    if (set(NULL, "store_max_mbytes=0") != -EPERM || set(NULL, "run=0,exposure_max_percent=0") != -EPERM)
        return 3;
    if (set(&(uid_t){NOBODY}, "run=0,store_max_mbytes=1") != -EPERM)
        return 4;
    s = status();
    if (s->n_domains)
        return 5; /* not even made */
    sp_status_free(s);
    struct sp_settings_change none = {0};
    if (sp_control_set(d.socket, 30000, NULL, &none))
        return 8;
    s = status();
    if (s->n_domains)
        return 9;
    sp_status_free(s);
    /* All that they control is their own domain. */
    if (set(NULL, "run=0,freeze_micros=55") || set(&(uid_t){NOBODY}, "sleep_millisecs=7"))
        return 6;
    s = status();
    if (s->n_domains != 1 || s->domains[0].settings.v[SP_SETTING_run] != 0 ||
        s->domains[0].settings.v[SP_SETTING_freeze_micros] != 55 ||
        s->domains[0].settings.v[SP_SETTING_sleep_millisecs] != 7 || s->settings.v[SP_SETTING_run] != 1)
        return 7;
    sp_status_free(s);
    return 0;
}

static void test_other_user(void **state) {
    assert_int_equal(as_nobody(body_other_user), 0);
    struct sp_status *s = status();
    assert_int_equal(s->n_domains, 2);
    for (size_t i = 0; i < 2; i++)
        assert_true(s->domains[i].settings.v[SP_SETTING_run] == (s->domains[i].uid == NOBODY ? 0 : 1));
    sp_status_free(s);
    /* Root's word is for all of them. */
    assert_int_equal(set(NULL, "run=2"), 0);
    assert_true(setting(0, SP_SETTING_run) == 2 && setting(1, SP_SETTING_run) == 2);
    assert_int_equal(set(&(uid_t){NOBODY}, "run=1,store_max_mbytes=9"), 0);
    s = status();
    for (size_t i = 0; i < 2; i++) {
        bool theirs = s->domains[i].uid == NOBODY;
        assert_true(s->domains[i].settings.v[SP_SETTING_run] == (theirs ? 1 : 2));
        assert_true(s->domains[i].settings.v[SP_SETTING_store_max_mbytes] == (theirs ? 9 : 0));
    }
    sp_status_free(s);
}

/* Not valid as a message: the session ends, and nothing else. */
static void test_bad_message(void **state) {
    struct sp_wire_set m = {.given = (uint64_t)1 << SP_SETTING_run, .settings = {[SP_SETTING_run] = 3}};
    sp_wire_header_init(&m.header, SP_WIRE_SET, sizeof m, 1);
    int fd = raw_join(&d);
    assert_int_equal(raw_send(fd, &m, sizeof m, -1), 0);
    assert_int_equal(raw_refused(fd), -EBADMSG);
    assert_true(setting(0, SP_SETTING_run) == 1);
    /* A client cannot tell the daemon what the daemon tells clients. */
    struct sp_wire_settings s = {.number = 1};
    sp_wire_header_init(&s.header, SP_WIRE_SETTINGS, sizeof s, 1);
    fd = raw_join(&d);
    assert_int_equal(raw_send(fd, &s, sizeof s, -1), 0);
    assert_int_equal(raw_refused(fd), -EBADMSG);
}

/* However much was set while it did not read, a client has the last word when it has reported. */
static void test_slow_reader(void **state) {
    _Alignas(16) uint8_t reply[16384];
    struct sp_wire_report report = {.state = 1};
    int fd = raw_join(&d);
    for (unsigned i = 0; i < 3000; i++)
        assert_int_equal(set(NULL, i % 2 ? "freeze_micros=60" : "freeze_micros=50"), 0);
    assert_int_equal(set(NULL, "freeze_micros=61"), 0);
    uint32_t number = 0, messages = 0;
    uint64_t last = 0;
    /* So many were not kept for it. */
    sp_wire_header_init(&report.header, SP_WIRE_REPORT, sizeof report, 7);
    assert_int_equal(raw_send(fd, &report, sizeof report, -1), 0);
    for (unsigned type; (type = raw_receive(fd, reply, sizeof reply, NULL)) != SP_WIRE_REPORTED;) {
        const struct sp_wire_settings *m = (const struct sp_wire_settings *)reply;
        assert_int_equal(type, SP_WIRE_SETTINGS);
        assert_true(m->number > number);
        number = m->number;
        last = m->settings[SP_SETTING_freeze_micros];
        messages++;
    }
    assert_true(last == 61 && messages < 2000);
    close(fd);
}

static enum sp_answer_kind ask_one(struct sp_link *l, const uint8_t *page, uint64_t at) {
    struct sp_query q;
    struct sp_answer answer;
    queries_of(&welcome, page, 1, at, &q);
    assert_int_equal(l->ops->ask(l, &q, 1, &answer), 0);
    return answer.kind;
}

/* The index shares nothing more at once, whether clients have heard of it or not. */
static void test_run(void **state) {
    uint8_t *pages = pages_new(2, 100);
    sp_store_page store;
    share_pages(a, b, &welcome, pages, 1, &store);
    for (unsigned run = 0; run <= 2; run += 2) {
        assert_int_equal(set(NULL, run ? "run=2" : "run=0"), 0);
        assert_int_equal(ask_one(a, pages, 9000 + run), SP_ANSWER_DECLINED);
        assert_int_equal(set(NULL, "run=1"), 0);
        assert_int_equal(ask_one(a, pages, 9000 + run), SP_ANSWER_SHARE);
    }
    pages_free(pages, 2);
}

static void test_max_page_sharing(void **state) {
    uint8_t *page = pages_new(1, 200);
    sp_store_page store;
    share_pages(a, b, &welcome, page, 1, &store);
    assert_int_equal(set(NULL, "max_page_sharing=3"), 0);
    assert_int_equal(ask_one(a, page, 9001), SP_ANSWER_SHARE);
    assert_int_equal(ask_one(a, page, 9002), SP_ANSWER_UNKNOWN);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_full), 1);
    assert_int_equal(ask_one(b, page, 9003), SP_ANSWER_SEND);
    pages_free(page, 1);
}

static void test_store_limit(void **state) {
    uint8_t *pages = pages_new(512, 300);
    sp_store_page stores[256];
    assert_int_equal(set(NULL, "store_max_mbytes=1"), 0);
    share_pages(a, b, &welcome, pages, 256, stores);
    assert_int_equal(ask_one(a, pages + 300 * SP_PAGE_SIZE, 9000), SP_ANSWER_UNKNOWN);
    assert_int_equal(ask_one(b, pages + 300 * SP_PAGE_SIZE, 9000), SP_ANSWER_DECLINED);
    assert_int_equal(set(NULL, "store_max_mbytes=2"), 0);
    assert_int_equal(ask_one(b, pages + 300 * SP_PAGE_SIZE, 9000), SP_ANSWER_SEND);
    pages_free(pages, 512);
}

/* The guard can be switched on and off. */
static void test_guard(void **state) {
    static struct sp_report report;
    bool pause = true;
    uint8_t *page = pages_new(1, 400);
    sp_store_page store;
    struct sp_query queries[SP_WINDOW_PAGES];
    struct sp_answer answers[SP_WINDOW_PAGES];
    share_pages(a, b, &welcome, page, 1, &store);
    for (size_t i = 0; i < SP_WINDOW_PAGES; i++)
        queries_of(&welcome, page, 1, 8192 + i, &queries[i]);
    uint64_t machine = (uint64_t)sysconf(_SC_PHYS_PAGES);
    for (uint64_t taken = 0; taken < machine / 50; taken += SP_WINDOW_PAGES)
        assert_int_equal(b->ops->ask(b, queries, SP_WINDOW_PAGES, answers), 0);
    assert_int_equal(a->ops->report(a, &report, &pause), 0);
    assert_false(pause);
    assert_int_equal(set(NULL, "exposure_max_percent=1"), 0);
    for (uint64_t since = 0; !pause; wait_step(&since))
        assert_int_equal(a->ops->report(a, &report, &pause), 0);
    assert_int_equal(set(NULL, "exposure_max_percent=0"), 0);
    assert_int_equal(a->ops->report(a, &report, &pause), 0);
    assert_false(pause);
    assert_int_equal(ask_one(b, page, 9001), SP_ANSWER_SHARE);
    pages_free(page, 1);
}

/* The bound is the domain's: its clients share it, and what one leaves is the others'. */
static void test_shares(void **state) {
    struct sp_welcome third;
    assert_int_equal(set(NULL, "pages_to_scan=101"), 0);
    told(a, SP_SETTING_pages_to_scan, 50);
    told(b, SP_SETTING_pages_to_scan, 50);
    assert_true(setting(0, SP_SETTING_pages_to_scan) == 101);
    struct sp_link *c = link_open(d.socket, &third);
    assert_true(third.settings.v[SP_SETTING_pages_to_scan] == 33);
    told(a, SP_SETTING_pages_to_scan, 33);
    link_close(c);
    told(b, SP_SETTING_pages_to_scan, 50);
    assert_int_equal(set(NULL, "pages_to_scan=1"), 0);
    told(a, SP_SETTING_pages_to_scan, 1);
    assert_int_equal(set(NULL, "pages_to_scan=0"), 0);
    told(a, SP_SETTING_pages_to_scan, 0);
    assert_int_equal(set(NULL, "pages_to_scan=4294967295"), 0);
    told(a, SP_SETTING_pages_to_scan, SP_UNBOUNDED_PAGES);
    assert_int_equal(set(NULL, "max_pages_to_merge=9"), 0);
    told(b, SP_SETTING_max_pages_to_merge, 4);
}

/* Anybody may ask for the settings of their own domain: the domain's, not a client's share of them. */
static void test_get(void **state) {
    struct sp_settings s;
    assert_int_equal(set(NULL, "pages_to_scan=101"), 0);
    assert_int_equal(sp_control_get(d.socket, 30000, &s), 0);
    assert_int_equal(s.v[SP_SETTING_pages_to_scan], 101);
    if (geteuid())
        return;
    const uid_t root = 0;
    assert_int_equal(set(&root, "max_pages_to_merge=7"), 0);
    assert_int_equal(sp_control_get(d.socket, 30000, &s), 0);
    assert_int_equal(s.v[SP_SETTING_max_pages_to_merge], 7);
    pid_t pid = fork();
    if (!pid) /* has no domain yet */
        _exit(setuid(65534) || sp_control_get(d.socket, 30000, &s) ||
              s.v[SP_SETTING_max_pages_to_merge] != SP_UNBOUNDED_PAGES ||
              s.v[SP_SETTING_pages_to_scan] != 101);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

static const struct sp_status_client *client_that(struct sp_status *s, uint32_t number) {
    for (size_t i = 0; i < s->domains[0].n_clients; i++)
        if (s->domains[0].clients[i].settings_number == number)
            return &s->domains[0].clients[i];
    return NULL;
}

/* What clients say of themselves; and that a hint on its way to one means that it is not settled, whatever it
 * says. */
static void test_reports(void **state) {
    struct sp_report report = {.state = 1, .settled = true, .settings_number = 77};
    struct sp_status *s = status();
    bool pause;
    assert_null(client_that(s, 77));
    sp_status_free(s);
    assert_int_equal(a->ops->report(a, &report, &pause), 0);
    s = status();
    assert_true(client_that(s, 77) && client_that(s, 77)->settled);
    assert_true(client_that(s, 0) && !client_that(s, 0)->settled);
    assert_true(s->domains[0].settings_number == welcome.settings_number);
    sp_status_free(s);
    uint8_t *pages = pages_new(1, 500);
    struct sp_query query;
    struct sp_answer answer;
    const void *content = pages;
    queries_of(&welcome, pages, 1, 4096, &query);
    assert_int_equal(a->ops->ask(a, &query, 1, &answer), 0);
    assert_int_equal(b->ops->ask(b, &query, 1, &answer), 0);
    assert_int_equal(b->ops->publish(b, &query, &content, 1, &answer), 0); /* a is hinted */
    s = status();
    assert_false(client_that(s, 77)->settled);
    sp_status_free(s);
    struct sp_hint hint;
    size_t n = 0;
    for (uint64_t since = 0; !n; wait_step(&since)) {
        assert_int_equal(a->ops->report(a, &report, &pause), 0);
        s = status();
        assert_false(client_that(s, 77)->settled); /* it has come, perhaps, but nobody has looked at it */
        sp_status_free(s);
        assert_int_equal(a->ops->hints(a, &hint, 1, &n), 0);
    }
    assert_int_equal(a->ops->report(a, &report, &pause), 0);
    s = status();
    assert_true(client_that(s, 77)->settled);
    sp_status_free(s);
    /* Whoever is asked anew is not known to have settled before it has answered. */
    struct sp_settings_change none = {0};
    assert_int_equal(sp_control_set(d.socket, 30000, NULL, &none), 0);
    s = status();
    assert_false(client_that(s, 77)->settled);
    assert_true(s->domains[0].settings_number != welcome.settings_number);
    sp_status_free(s);
    pages_free(pages, 1);
}

static void report_scans(struct sp_link *l, unsigned state, uint64_t scans) {
    struct sp_report report = {.state = state};
    bool pause;
    report.counters.v[SP_COUNTER_full_scans] = scans;
    assert_int_equal(l->ops->report(l, &report, &pause), 0);
}

static uint64_t full_scans(void) {
    return counter(&d, 0, SP_COUNTER_full_scans);
}

/* All memory was looked through when each client has been through its own. */
static void test_full_scans(void **state) {
    report_scans(a, 1, 5);
    assert_int_equal(full_scans(), 0);
    report_scans(a, 1, 9);
    assert_int_equal(full_scans(), 0);
    report_scans(b, 1, 0);
    assert_int_equal(full_scans(), 0);
    report_scans(b, 1, 1);
    assert_int_equal(full_scans(), 1);
    report_scans(b, 1, 7);
    assert_int_equal(full_scans(), 1);
    report_scans(a, 1, 10);
    assert_int_equal(full_scans(), 2);
    /* Who joins is waited for, who cannot work and who has gone are not. */
    struct sp_link *c = link_open(d.socket, &welcome), *e = link_open(d.socket, &welcome);
    report_scans(a, 1, 11);
    report_scans(b, 1, 8);
    assert_int_equal(full_scans(), 2);
    report_scans(c, 4, 0);
    assert_int_equal(full_scans(), 2);
    link_close(e);
    for (uint64_t since = 0; full_scans() != 3; wait_step(&since))
        ;
    for (unsigned i = 0; i < 3; i++) {
        report_scans(c, 4, 0);
        assert_int_equal(full_scans(), 3);
    }
    link_close(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_whose, setup, teardown),
        cmocka_unit_test_setup_teardown(test_other_user, setup, teardown),
        cmocka_unit_test_setup_teardown(test_bad_message, setup, teardown),
        cmocka_unit_test_setup_teardown(test_slow_reader, setup, teardown),
        cmocka_unit_test_setup_teardown(test_run, setup, teardown),
        cmocka_unit_test_setup_teardown(test_max_page_sharing, setup, teardown),
        cmocka_unit_test_setup_teardown(test_store_limit, setup, teardown),
        cmocka_unit_test_setup_teardown(test_guard, setup, teardown),
        cmocka_unit_test_setup_teardown(test_shares, setup, teardown),
        cmocka_unit_test_setup_teardown(test_get, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reports, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_scans, setup, teardown),
    };
    return cmocka_run_group_tests_name("daemon/control", tests, NULL, NULL);
}
