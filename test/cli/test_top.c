/* SPDX-License-Identifier: MIT */
/* The rows of `samepage top` from what a daemon might say: rates, whose part of what is saved, order. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "cli/top.h"
#include "merge/engine.h"

#define S UINT64_C(1000000000)

/* A daemon with two domains: of root, with clients 1 and 2, which are one process; of 1000, with client 1. */
struct daemon {
    struct sp_status status;
    struct sp_status_domain domain[2];
    struct sp_status_client root[2], other[1];
};

static struct sp_top top;
static struct sp_target all;

static void daemon_make(struct daemon *d, uint64_t uptime_ns) {
    *d = (struct daemon){.status = {.daemon_pid = 42, .uptime_ns = uptime_ns, .n_domains = 2}};
    d->status.domains = d->domain;
    d->domain[0] = (struct sp_status_domain){.clients = d->root, .n_clients = 2};
    d->domain[1] = (struct sp_status_domain){.uid = 1000, .clients = d->other, .n_clients = 1};
    d->root[0] = (struct sp_status_client){.pid = 7, .name = "beta", .client = 1, .state = SP_ENGINE_RUNNING};
    d->root[1] =
        (struct sp_status_client){.pid = 7, .name = "alpha", .client = 2, .state = SP_ENGINE_RUNNING};
    d->other[0] =
        (struct sp_status_client){.pid = 9, .name = "gamma", .client = 1, .state = SP_ENGINE_RUNNING};
}

static void report(struct sp_status_client *c, uint64_t at_ns, uint64_t broken, uint64_t cpu_ns) {
    c->reported_ns = at_ns;
    c->counters.v[SP_COUNTER_pages_broken] = broken;
    c->counters.v[SP_COUNTER_cpu_ns] = cpu_ns;
}

static void update(const struct daemon *d) {
    assert_int_equal(sp_top_update(&top, &all, &d->status), 0);
}

static const struct sp_top_row *row(uid_t uid, uint32_t client) {
    for (size_t i = 0; i < top.clients.n; i++)
        if (top.clients.row[i].uid == uid && top.clients.row[i].client == client)
            return &top.clients.row[i];
    fail_msg("no such row");
    return NULL;
}

static int setup(void **state) {
    return 0;
}

static int teardown(void **state) {
    sp_top_deinit(&top);
    return 0;
}

static void test_rates(void **state) {
    struct daemon d;
    daemon_make(&d, 10 * S);
    report(&d.root[0], 9 * S, 100, S);
    report(&d.root[1], 9 * S, 1000, S);
    update(&d);
    assert_true(isnan(row(0, 1)->broken_per_s) && isnan(row(0, 1)->cpu_percent));
    assert_true(isnan(top.domains.row[0].broken_per_s) && isnan(top.cpu_percent));
    /* Over the two seconds between its reports, not over the one between our questions. */
    daemon_make(&d, 11 * S);
    d.status.daemon_cpu_ns = S / 4;
    report(&d.root[0], 11 * S, 110, S + S / 2);
    report(&d.root[1], 9 * S, 1000, S);
    update(&d);
    assert_true(row(0, 1)->broken_per_s == 5 && row(0, 1)->cpu_percent == 25);
    assert_true(isnan(row(0, 2)->broken_per_s));
    assert_true(top.domains.row[0].broken_per_s == 5);
    assert_true(top.cpu_percent == 25);
    /* Nothing new of one of them, which still says what it said; the other belongs to the same process. */
    daemon_make(&d, 12 * S);
    report(&d.root[0], 11 * S, 110, S + S / 2);
    report(&d.root[1], 11 * S, 1030, S);
    update(&d);
    assert_true(row(0, 1)->broken_per_s == 5 && row(0, 2)->broken_per_s == 15);
    assert_true(top.domains.row[0].broken_per_s == 20 && top.domains.row[0].cpu_percent == 25);
    /* Both are asleep. */
    daemon_make(&d, 20 * S);
    report(&d.root[0], 11 * S, 110, S + S / 2);
    report(&d.root[1], 11 * S, 1030, S);
    update(&d);
    assert_true(row(0, 1)->broken_per_s == 0 && row(0, 1)->cpu_percent == 0);
    assert_true(top.domains.row[0].broken_per_s == 0);
}

static void test_never_reported(void **state) {
    struct daemon d;
    for (uint64_t at = 10; at < 20; at++) {
        daemon_make(&d, at * S);
        update(&d);
        assert_true(isnan(row(0, 1)->broken_per_s) && isnan(row(0, 1)->cpu_percent));
    }
    report(&d.root[0], 20 * S, 100, S);
    d.status.uptime_ns = 20 * S;
    update(&d);
    assert_true(isnan(row(0, 1)->broken_per_s));
}

/* Another process with the number of one that has gone, and another daemon. */
static void test_others(void **state) {
    struct daemon d;
    for (int i = 0; i < 4; i++) {
        daemon_make(&d, (uint64_t)(10 + i) * S);
        report(&d.root[0], (uint64_t)(10 + i) * S, 100 + (uint64_t)i, S);
        d.root[0].pid = i < 2 ? 7 : 8;
        d.status.daemon_pid = i < 3 ? 42 : 43;
        update(&d);
        assert_int_equal(isnan(row(0, 1)->broken_per_s), i != 1);
    }
    /* Of what it was, less than before. */
    daemon_make(&d, 14 * S);
    d.status.daemon_pid = 43;
    d.root[0].pid = 8;
    report(&d.root[0], 14 * S, 1, S);
    update(&d);
    assert_true(isnan(row(0, 1)->broken_per_s));
}

static void test_parts(void **state) {
    struct daemon d;
    daemon_make(&d, 10 * S);
    d.domain[0].counters.v[SP_COUNTER_pages_shared] = 100;
    d.domain[0].counters.v[SP_COUNTER_pages_sharing] = 300;
    d.domain[0].counters.v[SP_COUNTER_ksm_zero_pages] = 10;
    d.domain[0].saved_bytes = sp_counters_saved_bytes(&d.domain[0].counters);
    d.domain[0].families_waiting = 1;
    d.root[0].shared_pages = 300;
    d.root[1].shared_pages = 100;
    d.root[1].counters.v[SP_COUNTER_ksm_zero_pages] = 10;
    update(&d);
    assert_int_equal(row(0, 1)->saved_bytes, 225 * SP_PAGE_SIZE);
    assert_int_equal(row(0, 2)->saved_bytes, 85 * SP_PAGE_SIZE);
    assert_int_equal(row(1000, 1)->saved_bytes, 0);
    assert_int_equal(top.domains.row[0].saved_bytes, 310 * SP_PAGE_SIZE);
    assert_int_equal(top.domains.row[0].shared_bytes, 400 * SP_PAGE_SIZE);
    assert_int_equal(top.domains.row[0].pid, 1);
    assert_int_equal(top.saved_bytes, 310 * SP_PAGE_SIZE);
    assert_string_equal(top.domains.row[0].name, "root");
    assert_string_equal(row(0, 2)->user, "root");
}

static void assert_order(enum sp_top_column by, bool reversed, const char *first, const char *last) {
    sp_top_sort(&top, by, reversed);
    assert_string_equal(top.clients.row[0].name, first);
    assert_string_equal(top.clients.row[2].name, last);
}

static void test_order(void **state) {
    struct daemon d;
    daemon_make(&d, 10 * S);
    update(&d);
    assert_order(SP_TOP_NAME, false, "alpha", "gamma");
    assert_order(SP_TOP_NAME, true, "gamma", "alpha");
    assert_order(SP_TOP_PID, true, "gamma", "alpha");
    for (int i = 0; i < 3; i++) {
        top.clients.row[i].resident_bytes = (uint64_t)(10 + i);
        top.clients.row[i].shared_bytes = (uint64_t)(10 + i);
        top.clients.row[i].saved_bytes = (uint64_t)(10 + i);
        top.clients.row[i].p99_ns = top.clients.row[i].max_ns = (uint64_t)(10 + i);
        top.clients.row[i].broken_per_s = top.clients.row[i].cpu_percent = i ? i : NAN;
    }
    for (enum sp_top_column by = SP_TOP_RESIDENT; by < SP_TOP_N_COLUMNS; by++) {
        sp_top_sort(&top, by, false);
        const struct sp_top_row *first = &top.clients.row[0], *last = &top.clients.row[2];
        assert_true(first->resident_bytes == 12 && last->resident_bytes == 10);
        sp_top_sort(&top, by, true);
        assert_true(first->resident_bytes == 10 && last->resident_bytes == 12);
    }
}

static void test_one_user(void **state) {
    struct daemon d;
    struct sp_target one = {.user = "1000", .uid = 1000};
    daemon_make(&d, 10 * S);
    assert_int_equal(sp_top_update(&top, &one, &d.status), 0);
    assert_int_equal(top.domains.n, 1);
    assert_int_equal(top.clients.n, 1);
    assert_string_equal(top.clients.row[0].name, "gamma");
}

/* Whatever is in a row, the columns of a line stay where they are, within 79 places. */
static void test_lines(void **state) {
    char title[SP_TOP_LINE_BYTES], line[SP_TOP_LINE_BYTES];
    struct sp_top_row r = {.pid = 4194304,
                           .state = "running",
                           .user = "somebody",
                           .resident_bytes = UINT64_C(1023) << 40,
                           .shared_bytes = UINT64_C(1023) << 30,
                           .saved_bytes = UINT64_C(1023) << 20,
                           .p99_ns = 999499999,
                           .max_ns = 9 * S,
                           .broken_per_s = 1234567,
                           .cpu_percent = 100};
    memcpy(r.name, "0123456789abcdefghij\t\x1b[m", 23);
    sp_top_title(false, title);
    sp_top_line(&r, line);
    assert_int_equal(sp_top_column_start(SP_TOP_N_COLUMNS), 79);
    for (int i = SP_TOP_RESIDENT; i <= SP_TOP_N_COLUMNS; i++)
        assert_int_equal(line[sp_top_column_start(i)], ' ');
    assert_int_equal(strstr(line, "running") - line, strstr(title, "STATE") - title);
    assert_non_null(strstr(line, " 1023.0T "));
    memcpy(r.name, "a\t\x1b[m\xff", 7);
    sp_top_line(&r, line);
    assert_non_null(strstr(line, " a??[m? "));
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_rates), TEST(test_never_reported), TEST(test_others), TEST(test_parts),
        TEST(test_order), TEST(test_one_user),       TEST(test_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
