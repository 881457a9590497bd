/* SPDX-License-Identifier: MIT */
/* What is to be punched is punched once, whatever order it comes in, and side by side as one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "daemon/punches.h"

#define PAGES 20000 /* more than are sorted at a time */
#define NEVER UINT64_C(1000000000000)

static struct punches p;
static char first_owner, second_owner;

static void add(void *owner, uint64_t first, uint64_t n, uint64_t now_ns) {
    assert_int_equal(punches_add(&p, owner, (sp_store_page){first}, n, now_ns), 0);
}

static void test_neighbours(void **state) {
    struct punch got;
    add(&first_owner, 12, 1, 5);
    add(&first_owner, 10, 1, 6);
    add(&second_owner, 13, 1, 6);
    add(&first_owner, 11, 1, 7);
    add(&first_owner, 20, 2, 8);
    add(&first_owner, 22, 3, 8);
    uint64_t due_ns = punches_next_ns(&p);
    assert_true(due_ns > 8 && due_ns < NEVER);
    assert_false(punches_take(&p, due_ns - 1, &got));
    unsigned seen = 0;
    while (punches_take(&p, due_ns, &got)) {
        assert_int_equal(punches_next_ns(&p) == 0, seen < 2);
        if (got.owner == &second_owner)
            assert_true(got.first == 13 && got.n == 1);
        else
            assert_true((got.first == 10 && got.n == 3) || (got.first == 20 && got.n == 5));
        seen++;
    }
    assert_int_equal(seen, 3);
    assert_true(punches_next_ns(&p) == UINT64_MAX);
}

/* Some come while others are done; all are done once. */
static void test_all_once(void **state) {
    static unsigned char done[PAGES];
    static uint64_t order[PAGES];
    struct punch got;
    size_t n_done = 0;
    srand(1);
    for (size_t i = 0; i < PAGES; i++)
        order[i] = i;
    for (size_t i = PAGES - 1; i > 0; i--) {
        size_t other = (size_t)rand() % (i + 1);
        uint64_t kept = order[i];
        order[i] = order[other];
        order[other] = kept;
    }
    for (size_t i = 0; i < PAGES; i++) {
        add(&first_owner, order[i], 1, i);
        for (int k = 0; i > PAGES / 2 && k < 2 && punches_take(&p, NEVER, &got); k++)
            for (uint64_t page = got.first; page < got.first + got.n; page++, n_done++)
                assert_int_equal(done[page]++, 0);
    }
    while (punches_take(&p, NEVER, &got))
        for (uint64_t page = got.first; page < got.first + got.n; page++, n_done++)
            assert_int_equal(done[page]++, 0);
    assert_int_equal(n_done, PAGES);
    punches_deinit(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_neighbours),
        cmocka_unit_test(test_all_once),
    };
    return cmocka_run_group_tests_name("daemon/punches", tests, NULL, NULL);
}
