/* SPDX-License-Identifier: MIT */
/* The scan-time advisor, against what one can work out by hand. */
#include "core_test.h"

#include "core/advisor.h"

#define S UINT64_C(1000000000)

static struct sp_settings s;
static struct sp_advisor a;
static uint64_t now_ns, cpu_ns;

static int setup(void **state) {
    sp_settings_init(&s);
    a = (struct sp_advisor){0};
    now_ns = 77 * S;
    cpu_ns = 5 * S;
    s.v[SP_SETTING_advisor_mode] = SP_ADVISOR_SCAN_TIME;
    sp_advisor_set(&a, &s, now_ns, cpu_ns);
    return 0;
}

/* A scan that took so long, and used so much. */
static uint64_t scan(double seconds, double cpu_seconds) {
    now_ns += (uint64_t)(seconds * (double)S);
    cpu_ns += (uint64_t)(cpu_seconds * (double)S);
    sp_advisor_scanned(&a, &s, now_ns, cpu_ns);
    return a.pages;
}

static void begins_with_the_least(void **state) {
    assert_true(a.on && a.pages == 500);
    sp_advisor_apply(&a, &s);
    assert_true(s.v[SP_SETTING_pages_to_scan] == 500);
}

static void is_off_unless_wanted(void **state) {
    s.v[SP_SETTING_advisor_mode] = SP_ADVISOR_NONE;
    s.v[SP_SETTING_pages_to_scan] = 123;
    sp_advisor_set(&a, &s, now_ns, cpu_ns);
    sp_advisor_scanned(&a, &s, now_ns + S, cpu_ns);
    sp_advisor_apply(&a, &s);
    assert_true(s.v[SP_SETTING_pages_to_scan] == 123);
    s.v[SP_SETTING_advisor_mode] = SP_ADVISOR_SCAN_TIME;
    sp_advisor_set(&a, &s, now_ns, cpu_ns);
    assert_true(a.pages == 500); /* it begins anew */
}

/* 400 s instead of 200: twice the pages, and no change of the time of scans. */
static void slow_scans_get_more_pages(void **state) {
    assert_int_equal(scan(400, 4), 1000);
    /* 200 s now: as it should be; but scans take half as long as before: 0.7 * 100 + 0.3 * 50 = 85 %. */
    assert_int_equal(scan(200, 4), 850);
    /* 200 s again: 0.7 * 85 + 0.3 * 100 = 89 (89.5), of 850. */
    assert_int_equal(scan(200, 4), 756);
}

static void fast_scans_get_fewer_pages(void **state) {
    scan(2000, 4);
    assert_true(a.pages == 5000);
    /* 100 s: half of it, and a twentieth of the time before: 0.7 * 100 + 0.3 * 5 = 71 %. */
    assert_int_equal(scan(100, 1), 1775);
}

static void stays_within_its_bounds(void **state) {
    assert_int_equal(scan(0.1, 0), 500);
    assert_int_equal(scan(1000000, 0), 30000);
    s.v[SP_SETTING_advisor_max_pages_to_scan] = 10000;
    sp_advisor_set(&a, &s, now_ns, cpu_ns);
    assert_int_equal(a.pages, 10000);
    s.v[SP_SETTING_advisor_min_pages_to_scan] = 20000; /* the most counts more */
    assert_int_equal(scan(200, 0), 10000);
}

/* 500 pages cost 50 % of a CPU: 70 % read 700, however long it takes. */
static void costs_no_more_than_it_may(void **state) {
    assert_int_equal(scan(4000, 2000), 700);
    s.v[SP_SETTING_advisor_max_cpu] = 0;
    assert_int_equal(scan(4000, 2000), 500); /* the least counts more than that */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(begins_with_the_least, setup),
        cmocka_unit_test_setup(is_off_unless_wanted, setup),
        cmocka_unit_test_setup(slow_scans_get_more_pages, setup),
        cmocka_unit_test_setup(fast_scans_get_fewer_pages, setup),
        cmocka_unit_test_setup(stays_within_its_bounds, setup),
        cmocka_unit_test_setup(costs_no_more_than_it_may, setup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
