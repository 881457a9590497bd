/* SPDX-License-Identifier: MIT */
#include "core_test.h"

#include "core/histogram.h"

#define VALUES 20000

/* The bound of a bucket that holds `ns`: what a histogram says that holds nothing else below it. */
static uint64_t upper_of(uint64_t ns) {
    static struct sp_histogram h;
    memset(&h, 0, sizeof h);
    sp_histogram_add(&h, ns);
    sp_histogram_add(&h, UINT64_MAX);
    return sp_histogram_percentile(&h, 50);
}

static void every_value_is_bounded_within_an_eighth(void **state) {
    for (uint64_t ns = 1; ns < 70000; ns++) {
        assert_true(upper_of(ns) >= ns);
        assert_true(upper_of(ns) - ns <= ns / 8);
    }
    struct test_random r = {4};
    for (int i = 0; i < 100000; i++) {
        uint64_t ns = test_random_next(&r) >> (24 + test_random_below(&r, 39));
        if (ns == 0 || ns >= UINT64_C(15) << 36)
            continue; /* the last bucket also holds what is longer: its bound is the maximum */
        assert_true(upper_of(ns) >= ns);
        assert_true(upper_of(ns) - ns <= ns / 8);
    }
}

static void edges(void **state) {
    static struct sp_histogram h;
    assert_true(sp_histogram_percentile(&h, 50) == 0);
    assert_true(sp_histogram_total(&h) == 0);
    sp_histogram_add(&h, 0);
    assert_true(sp_histogram_total(&h) == 1);
    assert_true(sp_histogram_percentile(&h, 100) == 0);
    sp_histogram_add(&h, UINT64_MAX);
    assert_true(sp_histogram_percentile(&h, 100) == UINT64_MAX);
    assert_true(h.max_ns == UINT64_MAX);
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Against the sorted values themselves, the histogram put together from two. */
static void percentiles_are_accurate(void **state) {
    static uint64_t value[VALUES];
    static struct sp_histogram a, b;
    struct test_random r = {5};
    for (size_t i = 0; i < VALUES; i++) {
        value[i] = 1 + (test_random_next(&r) >> (34 + test_random_below(&r, 28)));
        sp_histogram_add(i % 3 ? &a : &b, value[i]);
    }
    sp_histogram_merge(&a, &b);
    assert_true(sp_histogram_total(&a) == VALUES);
    qsort(value, VALUES, sizeof *value, compare);
    assert_true(a.max_ns == value[VALUES - 1]);
    for (unsigned percent = 1; percent <= 100; percent++) {
        uint64_t exact = value[VALUES * percent / 100 - 1];
        uint64_t said = sp_histogram_percentile(&a, percent);
        assert_true(said >= exact);
        assert_true(said <= a.max_ns);
        assert_true(said - exact <= exact / 8);
    }
    assert_true(sp_histogram_percentile(&a, 100) == a.max_ns);
    struct sp_durations d = sp_histogram_durations(&a);
    assert_true(d.count == VALUES && d.max_ns == a.max_ns);
    assert_true(d.p50_ns == sp_histogram_percentile(&a, 50) && d.p99_ns == sp_histogram_percentile(&a, 99));
    d = sp_histogram_durations(&(struct sp_histogram){0});
    assert_true(!d.count && !d.p50_ns && !d.p99_ns && !d.max_ns);
}

static void counts_do_not_wrap(void **state) {
    static struct sp_histogram a, b;
    sp_histogram_add(&a, 1000);
    for (size_t i = 0; i < SP_HISTOGRAM_BUCKETS; i++)
        a.count[i] = a.count[i] ? UINT32_MAX : 0;
    b = a;
    sp_histogram_merge(&a, &b);
    sp_histogram_add(&a, 1000);
    assert_true(sp_histogram_total(&a) == UINT32_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_value_is_bounded_within_an_eighth),
        cmocka_unit_test(edges),
        cmocka_unit_test(percentiles_are_accurate),
        cmocka_unit_test(counts_do_not_wrap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
