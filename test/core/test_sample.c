/* SPDX-License-Identifier: MIT */
/* Which pages are in a sample: copies together, as many as asked for, and plain lines decide nothing. */
#include "core_test.h"

#include "core/sample.h"

static const struct sp_key *key_of(uint8_t seed) {
    static struct sp_key key;
    uint8_t random[32];
    memset(random, seed, sizeof random);
    sp_key_init(&key, random);
    return &key;
}

static void lines_are_inside_the_page(void **state) {
    for (unsigned seed = 0; seed < 256; seed++) {
        struct sp_sample s;
        sp_sample_init(&s, key_of((uint8_t)seed), 7);
        assert_true(s.offset_bytes + SP_LINES_BYTES <= SP_PAGE_SIZE);
        assert_int_equal(s.offset_bytes % SP_LINES_BYTES, 0);
    }
}

static void takes_one_in_n(void **state) {
    struct test_random random = {3};
    for (uint32_t one_in = 1; one_in <= 1000; one_in = one_in * 3 + 1) {
        struct sp_sample s;
        size_t taken = 0, whole = 0, n = 200000;
        sp_sample_init(&s, key_of(1), one_in);
        for (size_t i = 0; i < n; i++) {
            uint64_t lines[SP_LINES_BYTES / 8] = {test_random_next(&random), i};
            uint64_t unit = sp_sample_unit(&s, lines);
            assert_true(unit == sp_sample_unit(&s, lines));
            taken += sp_sample_takes(&s, unit);
            whole += sp_sample_takes(&s, sp_sample_unit_whole((sp_fp){test_random_next(&random)}));
        }
        double expected = (double)n / one_in, slack = 6 * __builtin_sqrt(expected);
        assert_true((double)taken > expected - slack && (double)taken < expected + slack);
        assert_true((double)whole > expected - slack && (double)whole < expected + slack);
        if (one_in == 1)
            assert_true(taken == n && whole == n && sp_sample_takes(&s, UINT64_MAX));
    }
}

static void another_key_takes_others(void **state) {
    struct sp_sample a, b;
    struct sp_key first = *key_of(1);
    size_t both = 0;
    sp_sample_init(&a, &first, 4);
    sp_sample_init(&b, key_of(2), 4);
    for (uint64_t i = 0; i < 100000; i++) {
        uint64_t lines[SP_LINES_BYTES / 8] = {i};
        both +=
            sp_sample_takes(&a, sp_sample_unit(&a, lines)) && sp_sample_takes(&b, sp_sample_unit(&b, lines));
    }
    assert_true(both > 5500 && both < 7000); /* a sixteenth */
}

static void plain_lines(void **state) {
    uint64_t lines[SP_LINES_BYTES / 8] = {0};
    assert_true(sp_lines_plain(lines));
    memset(lines, 0x5a, sizeof lines);
    assert_true(sp_lines_plain(lines));
    for (size_t byte = 0; byte < sizeof lines; byte++) {
        ((unsigned char *)lines)[byte] ^= 1;
        assert_false(sp_lines_plain(lines));
        ((unsigned char *)lines)[byte] ^= 1;
    }
    for (size_t i = 0; i < sizeof lines / 8; i++)
        lines[i] = UINT64_C(0x123456789abcdef0);
    assert_true(sp_lines_plain(lines));
}

static void contents_of_a_unit_are_neighbours(void **state) {
    struct sp_sample s;
    sp_sample_init(&s, key_of(1), 8);
    uint64_t unit = UINT64_C(0x1122334455667788);
    uint64_t a = sp_sample_content(&s, unit, (sp_fp){UINT64_C(0xaaaaaaaa00000001)});
    uint64_t b = sp_sample_content(&s, unit, (sp_fp){UINT64_C(0xbbbbbbbb00000001)});
    assert_true(a != b && a >> 32 == b >> 32 && a >> 32 == 0x55667788);
    assert_true(sp_sample_content(&s, 0, (sp_fp){1}) != 0);
    sp_sample_init(&s, key_of(1), 1);
    assert_true(sp_sample_content(&s, unit, (sp_fp){77}) == 77);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_are_inside_the_page),         cmocka_unit_test(takes_one_in_n),
        cmocka_unit_test(another_key_takes_others),          cmocka_unit_test(plain_lines),
        cmocka_unit_test(contents_of_a_unit_are_neighbours),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
