/* SPDX-License-Identifier: MIT */
#include "core_test.h"

#include "core/volatility.h"

static unsigned looks_skipped(sp_volatility *v) {
    unsigned n = 0;
    while (!sp_volatility_ready(v)) {
        n++;
        assert_true(n <= 128);
    }
    return n;
}

static void each_failure_costs_twice_as_much(void **state) {
    sp_volatility v = {0};
    assert_true(sp_volatility_ready(&v));
    for (unsigned wanted = 1; wanted <= 128; wanted *= 2) {
        sp_volatility_failed(&v);
        assert_true(sp_volatility_skipping(v));
        assert_int_equal(looks_skipped(&v), wanted);
        assert_false(sp_volatility_skipping(v));
        assert_true(sp_volatility_ready(&v));
    }
    sp_volatility_failed(&v);
    assert_int_equal(looks_skipped(&v), 128);
}

static void calming_halves_the_next_cost(void **state) {
    for (unsigned calmed = 0; calmed <= 8; calmed++) {
        sp_volatility v = {0};
        for (int i = 0; i < 20; i++)
            sp_volatility_failed(&v);
        (void)looks_skipped(&v);
        for (unsigned i = 0; i < calmed; i++)
            sp_volatility_calmed(&v);
        assert_true(sp_volatility_ready(&v));
        sp_volatility_failed(&v);
        assert_int_equal(looks_skipped(&v), calmed < 7 ? 128U >> calmed : 1);
    }
}

static void calm_pages_are_as_good_as_new(void **state) {
    sp_volatility v = {0};
    sp_volatility_calmed(&v);
    assert_int_equal(v.v, 0);
    sp_volatility_failed(&v);
    (void)looks_skipped(&v);
    sp_volatility_calmed(&v);
    assert_int_equal(v.v, 0);
}

/* Against a model with two plain numbers, from every byte that can be reached and the others too. */
static void random_lives(void **state) {
    struct test_random r = {3};
    sp_volatility v = {0};
    unsigned cost = 1, left = 0;
    for (int i = 0; i < 200000; i++) {
        switch (test_random_below(&r, 24)) {
        case 0:
            sp_volatility_failed(&v);
            left = cost;
            cost = cost < 128 ? cost * 2 : 128;
            break;
        case 1:
            if (test_random_below(&r, 4) == 0) {
                sp_volatility_calmed(&v);
                cost = cost > 1 ? cost / 2 : 1;
                left = left > cost / 2 ? cost / 2 : left;
            }
            break;
        default:
            assert_int_equal(sp_volatility_ready(&v), left == 0);
            left -= left > 0;
        }
        assert_int_equal(sp_volatility_skipping(v), left > 0);
    }
}

static void any_byte_is_safe(void **state) {
    for (unsigned byte = 0; byte < 256; byte++) {
        sp_volatility v = {(uint8_t)byte};
        (void)looks_skipped(&v);
        v.v = (uint8_t)byte;
        sp_volatility_failed(&v);
        assert_true(looks_skipped(&v) > 0);
        v.v = (uint8_t)byte;
        sp_volatility_calmed(&v);
        (void)looks_skipped(&v);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_failure_costs_twice_as_much),
        cmocka_unit_test(calming_halves_the_next_cost),
        cmocka_unit_test(calm_pages_are_as_good_as_new),
        cmocka_unit_test(random_lives),
        cmocka_unit_test(any_byte_is_safe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
