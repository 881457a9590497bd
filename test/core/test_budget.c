/* SPDX-License-Identifier: MIT */
/*
 * The CPU budget, with workers that are simulated: steps of 10 ms, in which each uses what it would and may.
 * A worker finds out that its allowance is used up only after what it has begun, which is what it may use too
 * much. The oracle is what was used in any minute, kept by the steps of a minute.
 */
#include "core_test.h"

#include "core/budget.h"

#define MS        UINT64_C(1000000)
#define STEP      (10 * MS)
#define STEPS     6000 /* of a minute */
#define REPORT    (500 * MS)
#define WORKERS   20
#define SECOND_NS (1000 * MS)

static struct sp_budget b;
static uint64_t now_ns;

static struct worker {
    struct sp_allowance allowance;
    uint64_t used_ns, until_ns, next_ns;
    uint64_t wants_ns;    /* in a step, while it may */
    uint64_t too_much_ns; /* what is begun is ended */
    bool stopped;
} workers[WORKERS];

static uint64_t steps[STEPS], in_minute, worst;

static void begin(uint64_t percent) {
    memset(&b, 0, sizeof b);
    memset(workers, 0, sizeof workers);
    memset(steps, 0, sizeof steps);
    in_minute = worst = 0;
    now_ns = 1000 * SECOND_NS;
    sp_budget_set(&b, percent, now_ns);
    for (size_t i = 0; i < WORKERS; i++)
        workers[i] = (struct worker){.next_ns = now_ns + i * 7 * MS, .too_much_ns = MS / 2};
}

static uint64_t work(struct worker *w) {
    if (w->stopped)
        return 0;
    if (now_ns >= w->next_ns) {
        w->until_ns = sp_budget_report(&b, &w->allowance, w->used_ns, now_ns);
        w->next_ns = now_ns + REPORT;
    }
    if (!w->wants_ns || w->used_ns >= w->until_ns)
        return 0;
    uint64_t left = w->until_ns - w->used_ns, may = left < SECOND_NS ? left + w->too_much_ns : left;
    uint64_t use = w->wants_ns < may ? w->wants_ns : may;
    w->used_ns += use;
    return use;
}

static void run(uint64_t seconds) {
    for (uint64_t i = 0; i < seconds * SECOND_NS / STEP; i++) {
        uint64_t used = 0, *step = &steps[now_ns / STEP % STEPS];
        for (size_t k = 0; k < WORKERS; k++)
            used += work(&workers[k]);
        in_minute += used - *step;
        *step = used;
        worst = in_minute > worst ? in_minute : worst;
        now_ns += STEP;
    }
}

static uint64_t used_by_all(void) {
    uint64_t sum = 0;
    for (size_t i = 0; i < WORKERS; i++)
        sum += workers[i].used_ns;
    return sum;
}

static void any_minute_stays_below(void **state) {
    static const uint64_t rates[] = {1, 5, 10, 70, 150};
    for (size_t r = 0; r < sizeof rates / sizeof *rates; r++) {
        begin(rates[r]);
        for (size_t i = 0; i < WORKERS; i++)
            workers[i].wants_ns = STEP;
        run(300);
        uint64_t most = 60 * SECOND_NS / 100 * rates[r];
        assert_true(worst <= most);
        assert_true(worst >= most * 85 / 100);
    }
}

/* However small: each has its turn. */
static void equal_shares(void **state) {
    begin(2);
    for (size_t i = 0; i < WORKERS; i++)
        workers[i].wants_ns = STEP;
    run(300);
    for (size_t i = 0; i < WORKERS; i++) {
        assert_true(workers[i].used_ns * WORKERS >= used_by_all() / 2);
        assert_true(workers[i].used_ns * WORKERS <= used_by_all() * 2);
    }
}

/* 19 that have hardly anything to do, and one that has a lot. */
static void what_some_leave_is_the_others(void **state) {
    begin(20);
    for (size_t i = 0; i < WORKERS; i++)
        workers[i].wants_ns = MS / 1000;
    workers[3].wants_ns = STEP;
    run(300);
    assert_true(workers[3].used_ns >= 300 * SECOND_NS / 100 * 20 * 80 / 100);
    assert_true(worst <= 60 * SECOND_NS / 100 * 20);
}

/* They hold allowances, and do not use them. */
static void who_is_stopped_keeps_nobody_from_work(void **state) {
    begin(4);
    for (size_t i = 0; i < WORKERS; i++)
        workers[i].wants_ns = STEP;
    run(60);
    for (size_t i = 1; i < WORKERS; i++)
        workers[i].stopped = true;
    uint64_t before = workers[0].used_ns;
    run(120);
    assert_true(workers[0].used_ns - before >= 120 * SECOND_NS / 100 * 4 / 2);
}

static void who_leaves_gives_back(void **state) {
    begin(10);
    for (size_t i = 0; i < WORKERS; i++)
        workers[i].wants_ns = STEP;
    run(30);
    for (size_t i = 0; i < WORKERS; i++)
        sp_budget_leave(&b, &workers[i].allowance, now_ns);
    assert_true(b.aside_ns == 0);
}

/* The daemon's own, paid by its clients. */
static void what_others_use_is_missing(void **state) {
    begin(10);
    for (size_t i = 0; i < WORKERS; i++)
        workers[i].wants_ns = STEP;
    for (unsigned i = 0; i < 120; i++) {
        sp_budget_spend(&b, 50 * MS);
        run(1);
    }
    assert_true(used_by_all() <= 120 * SECOND_NS / 100 * 5);
    assert_true(used_by_all() >= 120 * SECOND_NS / 100 * 3);
}

static void bounds_come_and_go(void **state) {
    begin(SP_BUDGET_NONE);
    workers[0].wants_ns = STEP;
    run(10);
    assert_true(workers[0].used_ns >= 9 * SECOND_NS && workers[0].until_ns == SP_BUDGET_NONE);
    sp_budget_set(&b, 10, now_ns);
    uint64_t before = workers[0].used_ns;
    run(60);
    assert_true(workers[0].used_ns - before <= 6 * SECOND_NS + REPORT);
    sp_budget_set(&b, 0, now_ns);
    run(1);
    before = workers[0].used_ns;
    run(60);
    assert_true(workers[0].used_ns == before);
    sp_budget_set(&b, SP_BUDGET_NONE, now_ns);
    run(10);
    assert_true(workers[0].used_ns - before >= 9 * SECOND_NS);
    assert_true(b.aside_ns == 0);
    sp_budget_set(&b, UINT32_MAX, now_ns);
    run(10);
    assert_true(workers[0].used_ns - before >= 18 * SECOND_NS);
}

/* A worker that has used an hour elsewhere joins. */
static void what_was_used_elsewhere_does_not_count(void **state) {
    begin(10);
    struct sp_allowance a = {0};
    now_ns += 5 * SECOND_NS;
    assert_true(sp_budget_report(&b, &a, 3600 * SECOND_NS, now_ns) > 3600 * SECOND_NS);
    assert_true(b.left_ns >= 5 * 90 * (int64_t)MS - 100 * (int64_t)MS);
}

static uint64_t wanted(uint64_t mode, uint64_t max, uint64_t lazy, bool plenty) {
    struct sp_settings s;
    sp_settings_init(&s);
    s.v[SP_SETTING_advisor_mode] = mode;
    s.v[SP_SETTING_advisor_max_cpu] = max;
    s.v[SP_SETTING_lazy_max_cpu] = lazy;
    return sp_budget_wanted(&s, plenty);
}

static void what_settings_want(void **state) {
    assert_true(wanted(SP_ADVISOR_NONE, 70, 0, true) == SP_BUDGET_NONE);
    assert_true(wanted(SP_ADVISOR_SCAN_TIME, 70, 0, true) == 70);
    assert_true(wanted(SP_ADVISOR_NONE, 71, 0, true) == 71);
    assert_true(wanted(SP_ADVISOR_NONE, 0, 0, true) == 0);
    assert_true(wanted(SP_ADVISOR_NONE, 70, 2, true) == 2);
    assert_true(wanted(SP_ADVISOR_NONE, 70, 2, false) == SP_BUDGET_NONE);
    assert_true(wanted(SP_ADVISOR_NONE, 1, 2, true) == 1);
    assert_true(wanted(SP_ADVISOR_SCAN_TIME, 70, 2, false) == 70);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_minute_stays_below),
        cmocka_unit_test(equal_shares),
        cmocka_unit_test(what_some_leave_is_the_others),
        cmocka_unit_test(who_is_stopped_keeps_nobody_from_work),
        cmocka_unit_test(who_leaves_gives_back),
        cmocka_unit_test(what_others_use_is_missing),
        cmocka_unit_test(bounds_come_and_go),
        cmocka_unit_test(what_was_used_elsewhere_does_not_count),
        cmocka_unit_test(what_settings_want),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
