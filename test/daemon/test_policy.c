/* SPDX-License-Identifier: MIT */
/*
 * How much clients are told that they may work: by the CPU budget, the advisor and memory pressure. They are
 * links that say whatever the case wants; what workers make of it is test/programs/test_policy.py's matter.
 */
#include "linked.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "os/thread.h"

#define MS UINT64_C(1000000)

static char pressure_file[64];

static void say_pressure(const char *share) {
    char new[72];
    snprintf(new, sizeof new, "%s.new", pressure_file);
    FILE *f = fopen(new, "we");
    assert_non_null(f);
    assert_true(fprintf(f, "some avg10=%s avg60=0.00 avg300=0.00 total=1\n", share) > 0);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(rename(new, pressure_file), 0);
}

static int setup(void **state) {
    snprintf(pressure_file, sizeof pressure_file, "/tmp/sp-test-pressure-%d", (int)getpid());
    say_pressure("0.99");
    linked_start((const char *const[]){"--pressure-file", pressure_file, NULL});
    return 0;
}

static int teardown(void **state) {
    linked_stop();
    (void)unlink(pressure_file);
    return 0;
}

static int set(const char *text) {
    return daemon_set(&d, NULL, text);
}

static void report(struct sp_link *l, uint64_t cpu_ns, uint64_t scans) {
    struct sp_report r = {.state = 1};
    bool pause;
    r.counters.v[SP_COUNTER_cpu_ns] = cpu_ns;
    r.counters.v[SP_COUNTER_full_scans] = scans;
    assert_int_equal(l->ops->report(l, &r, &pause), 0);
}

static uint64_t daemon_cpu_ns(void) {
    struct sp_status *s;
    assert_int_equal(sp_control_status(d.socket, 30000, &s), 0);
    uint64_t ns = s->daemon_cpu_ns;
    sp_status_free(s);
    return ns;
}

/* How much it may use now, having used nothing. */
static uint64_t allowed(struct sp_link *l, uint64_t at_least) {
    for (uint64_t since = 0;; wait_step(&since)) {
        report(l, 0, 0);
        assert_true(l->cpu_bounded);
        if (l->cpu_until_ns >= at_least)
            return l->cpu_until_ns;
    }
}

static void test_bounds(void **state) {
    report(a, 0, 0);
    assert_false(a->cpu_bounded);
    assert_int_equal(set("advisor_max_cpu=69"), 0);
    assert_true(allowed(a, 1 * MS) <= 1000 * MS);
    assert_int_equal(set("advisor_max_cpu=70"), 0);
    report(a, 0, 0);
    assert_false(a->cpu_bounded);
    assert_int_equal(set("advisor_mode=scan-time"), 0);
    report(a, 0, 0);
    assert_true(a->cpu_bounded);
    assert_int_equal(set("advisor_max_cpu=0"), 0);
    report(b, 0, 0);
    assert_true(b->cpu_bounded && b->cpu_until_ns == 0);
}

/* What a client has used is missing for all. */
static void test_clients_pay(void **state) {
    assert_int_equal(set("advisor_max_cpu=50"), 0);
    report(a, 0, 0);
    uint64_t until_ns = allowed(b, 1 * MS);
    report(b, until_ns + 5000 * MS, 0);
    assert_true(b->cpu_until_ns <= until_ns + 5000 * MS);
    uint64_t before_ns = a->cpu_until_ns;
    report(a, before_ns, 0);
    assert_true(a->cpu_until_ns == before_ns);
}

/* And so is what the daemon used for them: 1 % are 9 ms in a second. */
static void test_the_daemons_time(void **state) {
    struct sp_query queries[SP_WINDOW_PAGES];
    struct sp_answer answers[SP_WINDOW_PAGES];
    uint8_t *pages = pages_new(1, 700);
    assert_int_equal(set("advisor_max_cpu=1"), 0);
    report(a, 0, 0);
    uint64_t before_ns = daemon_cpu_ns(), since_ns = sp_now_ns();
    while (daemon_cpu_ns() < before_ns + 300 * MS)
        for (unsigned i = 0; i < 100; i++) {
            for (size_t k = 0; k < SP_WINDOW_PAGES; k++)
                queries_of(&welcome, pages, 1, k, &queries[k]);
            assert_int_equal(b->ops->ask(b, queries, SP_WINDOW_PAGES, answers), 0);
        }
    report(a, 0, 0);
    /* On a machine so busy that this took half a minute it would be allowed to have something. */
    assert_true(a->cpu_until_ns <= 1 * MS || sp_now_ns() - since_ns > 20000 * MS);
    pages_free(pages, 1);
}

/* The first scan takes more than two seconds instead of one. */
static void test_advice_is_told(void **state) {
    assert_int_equal(set("pages_to_scan=77,advisor_target_scan_time=1,advisor_min_pages_to_scan=100,"
                         "advisor_max_pages_to_scan=150"),
                     0);
    report(a, 0, 1);
    report(b, 0, 1);
    assert_int_equal(set("advisor_mode=scan-time"), 0);
    told(a, SP_SETTING_pages_to_scan, 50);
    assert_int_equal(set("pages_to_scan=5"), -EBUSY);
    assert_int_equal(set("pages_to_scan=5,freeze_micros=77,advisor_mode=scan-time"), -EBUSY);
    assert_true(a->settings.v[SP_SETTING_freeze_micros] == 150);
    sp_sleep_ns(2100 * MS);
    report(a, 0, 2);
    told(a, SP_SETTING_pages_to_scan, 50);
    report(b, 0, 2);
    told(a, SP_SETTING_pages_to_scan, 75);
    told(b, SP_SETTING_pages_to_scan, 75);
    assert_int_equal(set("pages_to_scan=90,advisor_mode=none"), 0);
    told(b, SP_SETTING_pages_to_scan, 45);
}

static void bounded_by_and_by(bool bounded) {
    for (uint64_t since = 0; a->cpu_bounded != bounded; wait_step(&since))
        report(a, 0, 0);
}

static void test_pressure(void **state) {
    assert_int_equal(set("lazy_max_cpu=2"), 0);
    bounded_by_and_by(true);
    say_pressure("4.99");
    sp_sleep_ns(1500 * MS);
    report(a, 0, 0);
    assert_true(a->cpu_bounded);
    say_pressure("5.00");
    bounded_by_and_by(false);
    say_pressure("0.00");
    bounded_by_and_by(true);
    say_pressure("77.00");
    bounded_by_and_by(false);
    /* What cannot be read is no pressure, and what is not the kernel's was not written to. */
    char text[64] = "";
    FILE *f = fopen(pressure_file, "re");
    assert_true(f && fgets(text, sizeof text, f) && !fclose(f));
    assert_string_equal(text, "some avg10=77.00 avg60=0.00 avg300=0.00 total=1\n");
    assert_int_equal(set("lazy_max_cpu=0"), 0);
    assert_int_equal(unlink(pressure_file), 0);
    assert_int_equal(set("lazy_max_cpu=2"), 0);
    bounded_by_and_by(true);
    assert_int_equal(set("lazy_max_cpu=0"), 0);
    bounded_by_and_by(false);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_bounds, setup, teardown),
        cmocka_unit_test_setup_teardown(test_clients_pay, setup, teardown),
        cmocka_unit_test_setup_teardown(test_the_daemons_time, setup, teardown),
        cmocka_unit_test_setup_teardown(test_advice_is_told, setup, teardown),
        cmocka_unit_test_setup_teardown(test_pressure, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
