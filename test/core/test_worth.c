/* SPDX-License-Identifier: MIT */
/* A worker whose passes cost and gain what the test says: what part of a processor it takes. */
#include "core_test.h"

#include "core/worth.h"

#define MS      UINT64_C(1000000)
#define PAUSE   (20 * MS)
#define LONGEST (1000 * MS)

struct worker {
    struct sp_worth worth;
    uint64_t now_ns, used_ns, longest_ns;
};

/* Until then. */
static void passes(struct worker *w, uint64_t seconds, uint64_t cost_ns, int64_t gain, bool much_to_do) {
    uint64_t end = w->now_ns + seconds * 1000 * MS;
    while (w->now_ns < end) {
        uint64_t wanted = sp_worth_pause_ns(&w->worth);
        assert_true(wanted <= LONGEST);
        uint64_t pause = wanted > PAUSE ? wanted : PAUSE;
        w->longest_ns = pause > w->longest_ns ? pause : w->longest_ns;
        w->now_ns += pause + cost_ns;
        w->used_ns += cost_ns;
        sp_worth_pass(&w->worth, pause + cost_ns, cost_ns, gain, much_to_do, LONGEST);
    }
}

/* In thousandths of a processor. */
static uint64_t part_of(struct worker *w, uint64_t seconds, uint64_t cost_ns, int64_t gain, bool much_to_do) {
    uint64_t before = w->used_ns, begin = w->now_ns;
    passes(w, seconds, cost_ns, gain, much_to_do);
    return (w->used_ns - before) * 1000 / (w->now_ns - begin);
}

/* What is worth its cost is not slowed down. */
static void gains_are_free(void **state) {
    struct worker w = {0};
    assert_in_range(part_of(&w, 60, 4 * MS, 270, true), 165, 168);
    assert_int_equal(w.longest_ns, PAUSE);
}

/* Nothing gained, but not much to do either. */
static void a_twentieth(void **state) {
    struct worker w = {0};
    passes(&w, 1, 4 * MS, 0, false);
    assert_in_range(part_of(&w, 100, 4 * MS, 0, false), 40, 52);
    assert_in_range(part_of(&w, 100, MS / 10, 0, false), 4, 5); /* little is not made less */
}

/* Much to do, and hardly anything gained by it: a two-hundredth, until that changes. */
static void less_where_it_bears_no_fruit(void **state) {
    for (int64_t gain = -50; gain < 16; gain += 5) {
        struct worker w = {0};
        uint64_t first = part_of(&w, 2, 4 * MS, gain, true);
        assert_true(first > 30);
        passes(&w, 30, 4 * MS, gain, true);
        assert_in_range(part_of(&w, 200, 4 * MS, gain, true), 3, 26 - (gain < 8 ? 20 : 0));
        assert_true(w.longest_ns <= LONGEST);
        sp_worth_pass(&w.worth, PAUSE, 4 * MS, 16, true, LONGEST);
        assert_in_range(part_of(&w, 100, 4 * MS, 0, false), 40, 52);
    }
}

/* The first fifty milliseconds of work cost what they may, and a pause is never longer than the longest. */
static void bounded(void **state) {
    struct sp_worth x = {0};
    sp_worth_pass(&x, PAUSE, 50 * MS, 0, true, LONGEST);
    assert_int_equal(sp_worth_pause_ns(&x), 0);
    for (int i = 0; i < 100; i++)
        sp_worth_pass(&x, PAUSE, 500 * MS, -100000, true, LONGEST);
    assert_int_equal(sp_worth_pause_ns(&x), LONGEST);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gains_are_free),
        cmocka_unit_test(a_twentieth),
        cmocka_unit_test(less_where_it_bears_no_fruit),
        cmocka_unit_test(bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
