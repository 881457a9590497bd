/* SPDX-License-Identifier: MIT */
/* A window that is looked at every 20 ms, as often as it may be, and whose pages are written as the test
 * says: when what is not written settles, and how many faults the program takes for being watched. */
#include "core_test.h"

#include "core/heat.h"

#define MS     UINT64_C(1000000)
#define SECOND (1000 * MS)
#define LOOK   (20 * MS)
#define PAGES  512

struct window {
    struct sp_heat heat;
    uint64_t now_ns, faults, settled_ns; /* settled_ns: when pages had settled for the first time, 0: never */
    uint64_t written_ns[PAGES];          /* when it is to be written next */
    bool watched[PAGES], written[PAGES]; /* in the present look; watched before, written since */
};

/* How long until page i is written again. */
typedef uint64_t pause_of(const struct window *w, unsigned i);

static void write_until(struct window *w, pause_of *pause, uint64_t end_ns) {
    for (unsigned i = 0; i < PAGES; i++)
        for (; w->written_ns[i] < end_ns; w->written_ns[i] += pause(w, i)) {
            w->faults += !w->heat.rests && w->watched[i] && !w->written[i];
            w->written[i] = true;
        }
}

static unsigned look(struct window *w) {
    unsigned written = 0, left = 0;
    for (unsigned i = 0; i < PAGES; i++)
        written += w->written[i];
    enum sp_heat_verdict verdict = sp_heat_look(&w->heat, PAGES, written, w->now_ns - LOOK, w->now_ns);
    for (unsigned i = 0; i < PAGES; i++)
        left += !w->written[i];
    memset(w->written, 0, sizeof(w->written));
    memset(w->watched, verdict != SP_HEAT_REST, sizeof(w->watched));
    if (verdict != SP_HEAT_SETTLED)
        return 0;
    if (left && !w->settled_ns)
        w->settled_ns = w->now_ns;
    return left;
}

/* Begins with all pages written. Returns how many pages had settled at most at one time. */
static unsigned looks(struct window *w, pause_of *pause, uint64_t ns) {
    unsigned most = 0;
    for (uint64_t end_ns = w->now_ns + ns; w->now_ns < end_ns;) {
        w->now_ns += LOOK;
        write_until(w, pause, w->now_ns);
        if (w->now_ns < w->heat.until_ns)
            continue;
        unsigned left = look(w);
        most = left > most ? left : most;
    }
    return most;
}

static void begin(struct window *w, pause_of *pause) {
    *w = (struct window){.now_ns = SECOND};
    memset(w->watched, true, sizeof(w->watched));
    for (unsigned i = 0; i < PAGES; i++) /* evenly */
        w->written_ns[i] = w->now_ns + pause(w, i) / PAGES * (i * 7 % PAGES);
}

static uint64_t never(const struct window *w, unsigned i) {
    return 3600 * SECOND;
}

static uint64_t each_tenth(const struct window *w, unsigned i) {
    return 80 * MS;
}

static uint64_t all_the_time(const struct window *w, unsigned i) {
    return MS;
}

/* A fifth of it all the time, the others never. */
static uint64_t a_fifth(const struct window *w, unsigned i) {
    return i % 5 ? 3600 * SECOND : 7 * MS;
}

static uint64_t a_few(const struct window *w, unsigned i) {
    return i >= 15 ? 3600 * SECOND : MS;
}

static uint64_t each_minute(const struct window *w, unsigned i) {
    return 60 * SECOND;
}

/* What is not written has settled at once, with a few pages that are written or seldom ones. */
static void calm_settles_at_once(void **state) {
    pause_of *calm[] = {never, a_few, each_minute};
    for (size_t k = 0; k < 3; k++) {
        struct window w;
        begin(&w, calm[k]);
        if (calm[k] != a_few)
            w.written_ns[0] = UINT64_MAX;
        assert_true(looks(&w, calm[k], SECOND) >= PAGES - 15);
        assert_int_equal(w.settled_ns, SECOND + LOOK);
    }
}

/* Of pages that are all written every 80 ms three in four have not been for 20 ms: none of them settles. And
 * watching them costs the program few faults, not one for each page and look. */
static void hot_never_settles(void **state) {
    pause_of *hot[] = {each_tenth, all_the_time};
    for (size_t k = 0; k < 2; k++) {
        struct window w;
        begin(&w, hot[k]);
        assert_int_equal(looks(&w, hot[k], SECOND), 0);
        assert_true(w.faults <= PAGES);
        assert_int_equal(looks(&w, hot[k], 100 * SECOND), 0);
        assert_true(w.faults <= 30 * PAGES);
    }
}

/* What is cold among hot pages settles all the same, and the hot ones are left alone. */
static void cold_among_hot_settles(void **state) {
    struct window w;
    begin(&w, a_fifth);
    assert_true(looks(&w, a_fifth, 3 * SECOND) >= PAGES * 4 / 5 - 1);
}

static uint64_t a_tenth(const struct window *w, unsigned i) {
    return i % 10 ? 3600 * SECOND : 7 * MS;
}

/* And it stays so: what is known of it is not forgotten, as in each rest. */
static void cold_among_hot_stays(void **state) {
    pause_of *some[] = {a_fifth, a_tenth};
    for (size_t k = 0; k < 2; k++) {
        struct window w;
        unsigned rests = 0;
        begin(&w, some[k]);
        looks(&w, some[k], 3 * SECOND);
        for (unsigned i = 0; i < 6000; i++) {
            bool rested = w.heat.rests;
            looks(&w, some[k], LOOK);
            rests += !rested && w.heat.rests;
        }
        assert_int_equal(rests, 0);
    }
}

static uint64_t each_half_second(const struct window *w, unsigned i) {
    return i % 2 ? 3600 * SECOND : 495 * MS;
}

/* Where it would have to be watched a little longer each time it is not, for ever. */
static void watched_twice_at_most(void **state) {
    struct window w;
    begin(&w, each_half_second);
    assert_true(looks(&w, each_half_second, 3 * SECOND) >= PAGES / 4);
    struct sp_heat h = {0};
    unsigned watches = 0;
    uint64_t now_ns = SECOND, before_ns = now_ns - 200 * MS;
    while (sp_heat_look(&h, PAGES, (unsigned)(PAGES * (now_ns - before_ns) / (990 * MS)), before_ns,
                        now_ns) == SP_HEAT_WATCH) {
        assert_true(++watches <= 2);
        before_ns = now_ns;
        now_ns = h.until_ns;
    }
}

/* Memory that is no longer written settles after one rest and one watch, 8 s and 1 s at most. */
static void what_cools_settles(void **state) {
    for (unsigned seconds = 1; seconds < 40; seconds++) {
        struct window w;
        begin(&w, all_the_time);
        assert_int_equal(looks(&w, all_the_time, seconds * SECOND), 0);
        uint64_t cold_ns = w.now_ns;
        for (unsigned i = 0; i < PAGES; i++)
            w.written_ns[i] = UINT64_MAX;
        assert_int_equal(looks(&w, never, 12 * SECOND), PAGES);
        assert_true(w.settled_ns - cold_ns <= 9 * SECOND + 2 * LOOK);
        assert_int_equal(w.heat.until_ns, 0);
        assert_int_equal(w.heat.level, 0);
    }
}

/* Who waits until all is settled waits for a window that was hot once, not for one that is again and again.
 */
static void waited_for_once(void **state) {
    struct window w;
    begin(&w, all_the_time);
    assert_false(sp_heat_is_new(&w.heat));
    looks(&w, all_the_time, LOOK);
    assert_true(sp_heat_is_new(&w.heat));
    looks(&w, all_the_time, 3 * SECOND);
    assert_false(sp_heat_is_new(&w.heat));
}

/* A pass that came to a window late counts from the look that found what was written. */
static void late(void **state) {
    struct sp_heat h = {.since_ns = SECOND};
    assert_int_equal(sp_heat_look(&h, PAGES, 50, 9 * SECOND - LOOK, 9 * SECOND), SP_HEAT_SETTLED);
    assert_int_equal(sp_heat_look(&h, PAGES, 50, 9 * SECOND, 9 * SECOND + LOOK), SP_HEAT_REST);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(calm_settles_at_once),   cmocka_unit_test(hot_never_settles),
        cmocka_unit_test(cold_among_hot_settles), cmocka_unit_test(cold_among_hot_stays),
        cmocka_unit_test(watched_twice_at_most),  cmocka_unit_test(what_cools_settles),
        cmocka_unit_test(waited_for_once),        cmocka_unit_test(late),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
