/* SPDX-License-Identifier: MIT */
/* Through a daemon: sharing with other processes, its statistics, and life without it (I7). */
#include "client_daemon.h"

#include <time.h>

#define N ((size_t)800)

#define BUSY "sleep_millisecs=5,sleep_max_millisecs=5"

static void pair_connect(struct pair *p, const struct daemon *d) {
    p->n = N;
    assert_int_equal(connect_to(d, &p->domain), 0);
    assert_int_equal(samepage_domain_state(p->domain, NULL), SAMEPAGE_STATE_RUNNING);
    p->a = pages_new(N);
    p->b = pages_new(N);
    pages_fill(p->a, N, 1);
    pages_fill(p->b, N, 1);
    pair_register(p);
}

static int share_with_parent(void *arg) {
    const struct daemon *daemon = arg;
    samepage_domain *d;
    samepage_region *r;
    struct samepage_region_counters c = {.size = sizeof(c)};
    char *x = pages_new(N);
    pages_fill(x, N, 1);
    CHILD_CHECK(!connect_to(daemon, &d));
    CHILD_CHECK(!samepage_register(d, x, N * PAGE, 0, &r));
    do {
        CHILD_CHECK(!samepage_wait_settled(d, LONG_MS));
        CHILD_CHECK(!samepage_region_stats(r, &c));
    } while (c.ksm_merging_pages < N);
    CHILD_CHECK(pages_are(x, N, 1));
    struct samepage_domain_counters all = {.size = sizeof(all)};
    CHILD_CHECK(!samepage_domain_stats(d, &all) && all.domain_known);
    CHILD_CHECK(all.pages_shared == N && all.pages_sharing == 2 * N && all.saved_bytes == 2 * N * PAGE);
    CHILD_CHECK(!samepage_domain_close(d, 0));
    CHILD_CHECK(pages_are(x, N, 1));
    return 0;
}

static void processes_share(void **state) {
    struct daemon d;
    struct pair p;
    daemon_start(&d, BUSY);
    pair_connect(&p, &d);
    pair_settle(&p);
    struct samepage_domain_counters c = domain_counters(p.domain);
    assert_int_equal(c.domain_known, 1);
    assert_int_equal(c.pages_shared, N);
    assert_int_equal(c.saved_bytes, N * PAGE);
    assert_int_equal(in_child(share_with_parent, &d), 0);
    WAIT_FOR(domain_counters(p.domain).pages_sharing == N); /* the child has gone */
    pair_free(&p);
    daemon_stop(&d);
}

/* The inherited handle in a child: another client of the daemon. */
static int share_as_heir(void *arg) {
    struct pair *p = arg;
    samepage_region *r;
    struct samepage_region_counters c = {.size = sizeof(c)};
    char *x = pages_new(N);
    pages_fill(x, N, 1);
    CHILD_CHECK(!samepage_register(p->domain, x, N * PAGE, 0, &r));
    do {
        CHILD_CHECK(!samepage_wait_settled(p->domain, LONG_MS));
        CHILD_CHECK(!samepage_region_stats(r, &c));
    } while (c.ksm_merging_pages < N);
    CHILD_CHECK(pages_are(x, N, 1) && pages_are(p->a, N, 1) && pages_are(p->b, N, 1));
    CHILD_CHECK(!samepage_domain_close(p->domain, 0));
    CHILD_CHECK(pages_are(x, N, 1) && pages_are(p->a, N, 1) && pages_are(p->b, N, 1));
    return 0;
}

static void a_child_shares_with_its_parent(void **state) {
    struct daemon d;
    struct pair p;
    daemon_start(&d, BUSY);
    pair_connect(&p, &d);
    pair_settle(&p);
    assert_int_equal(in_child(share_as_heir, &p), 0);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    pair_free(&p);
    daemon_stop(&d);
}

static void life_goes_on_without_the_daemon(void **state) {
    struct daemon d;
    struct pair p;
    daemon_start(&d, BUSY);
    pair_connect(&p, &d);
    pair_settle(&p);
    daemon_end(&d, SIGKILL);
    WAIT_FOR(samepage_domain_state(p.domain, NULL) == SAMEPAGE_STATE_CONNECTING);
    assert_int_equal(domain_counters(p.domain).domain_known, 0);
    assert_int_equal(samepage_merge(p.domain, p.a, N * PAGE, 0, NULL), -ENOTCONN);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    for (size_t i = 0; i < N; i += 2)
        page_fill(p.a + i * PAGE, 2, i);
    assert_int_equal(samepage_unmerge(p.domain, p.a, N * PAGE, SAMEPAGE_QUIESCENT), 0);
    assert_int_equal(samepage_discard(p.domain, p.b, PAGE), 0);
    for (size_t i = 0; i < N; i++) {
        assert_true(page_is(p.a + i * PAGE, i % 2 ? 1 : 2, i));
        assert_true(i ? page_is(p.b + i * PAGE, 1, i) : pages_are_zero(p.b, 1));
    }
    /* A new daemon, a new beginning. */
    daemon_launch(&d, BUSY);
    WAIT_FOR(samepage_domain_state(p.domain, NULL) == SAMEPAGE_STATE_RUNNING);
    assert_int_equal(samepage_unmerge(p.domain, p.b, N * PAGE, SAMEPAGE_QUIESCENT), 0);
    pages_fill(p.a, N, 1);
    pages_fill(p.b, N, 1);
    do {
        assert_int_equal(samepage_wait_settled(p.domain, LONG_MS), 0);
        usleep(1000);
    } while (region_counters(p.ra).ksm_merging_pages < N || region_counters(p.rb).ksm_merging_pages < N);
    assert_true(pages_are(p.a, N, 1) && pages_are(p.b, N, 1));
    pair_free(&p);
    daemon_stop(&d);
}

static void connecting_to_nobody_takes_the_time_given(void **state) {
    struct daemon d;
    daemon_start(&d, BUSY);
    daemon_end(&d, SIGKILL);
    struct samepage_options o = {.size = sizeof(o),
                                 .flags = SAMEPAGE_OPEN_CONNECT,
                                 .connect_timeout_ms = 100,
                                 .socket_path = d.socket};
    samepage_domain *domain;
    struct timespec begin, end;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    assert_int_equal(samepage_domain_open(&o, &domain), -ETIMEDOUT);
    clock_gettime(CLOCK_MONOTONIC, &end);
    assert_true((end.tv_sec - begin.tv_sec) * 1000 + (end.tv_nsec - begin.tv_nsec) / 1000000 >= 99);
    unlink(d.socket);
    assert_int_equal(rmdir(d.directory), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(processes_share),
        cmocka_unit_test(a_child_shares_with_its_parent),
        cmocka_unit_test(life_goes_on_without_the_daemon),
        cmocka_unit_test(connecting_to_nobody_takes_the_time_given),
    };
    require_userfaultfd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
