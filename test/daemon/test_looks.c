/* SPDX-License-Identifier: MIT */
/*
 * Families come up when they are due, earliest first, however many there are and however often they change
 * their minds; compared with going through all of them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "daemon/service.h"

#define MEMBERS 1000
#define STEPS   20000
#define STEP_NS UINT64_C(1000000)
#define LATE_NS UINT64_C(10000000) /* those that are due at about the same time come up together */

static struct member members[MEMBERS];
static struct looks looks;

static uint64_t random_below(uint64_t n) {
    static uint64_t x = 88172645463325252;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return x % n;
}

/* Sometimes never, sometimes at once. */
static uint64_t random_time(uint64_t now_ns) {
    uint64_t kind = random_below(8);
    return kind == 0 ? UINT64_MAX : kind == 1 ? now_ns : now_ns + random_below(2000 * STEP_NS);
}

static void change(struct member *m, uint64_t look_ns) {
    m->family.look_ns = look_ns;
    looks_set(&looks, m);
}

/* Takes out who is due. Each must be, and be no earlier than those before. */
static void take_due(uint64_t now_ns) {
    uint64_t last_ns = 0;
    struct member *m;
    while ((m = looks_due(&looks, now_ns))) {
        assert_true(m->family.look_ns <= now_ns);
        assert_true(m->looks_ns >= last_ns);
        last_ns = m->looks_ns;
        change(m, now_ns + 1 + random_below(2000 * STEP_NS));
    }
}

static void assert_nobody_late(uint64_t now_ns) {
    uint64_t next_ns = UINT64_MAX;
    for (size_t i = 0; i < MEMBERS; i++) {
        uint64_t look_ns = members[i].family.look_ns;
        assert_true(look_ns >= now_ns || now_ns - look_ns < LATE_NS);
        if (look_ns < next_ns)
            next_ns = look_ns;
    }
    uint64_t told_ns = looks_next_ns(&looks);
    assert_true(next_ns == UINT64_MAX ? told_ns == UINT64_MAX
                                      : told_ns >= next_ns && told_ns < next_ns + LATE_NS);
}

static void test_in_time(void **state) {
    uint64_t now_ns = 1;
    for (size_t i = 0; i < MEMBERS; i++)
        change(&members[i], random_time(now_ns));
    for (int step = 0; step < STEPS; step++) {
        now_ns += STEP_NS;
        change(&members[random_below(MEMBERS)], random_time(now_ns));
        take_due(now_ns);
        if (step % 16 == 0)
            assert_nobody_late(now_ns);
    }
}

static void test_gone(void **state) {
    for (size_t i = 0; i < MEMBERS; i++)
        looks_remove(&looks, &members[i]);
    looks_remove(&looks, &members[0]);
    assert_null(looks_due(&looks, UINT64_MAX));
    assert_true(looks_next_ns(&looks) == UINT64_MAX);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_time),
        cmocka_unit_test(test_gone),
    };
    return cmocka_run_group_tests_name("daemon/looks", tests, NULL, NULL);
}
