/* SPDX-License-Identifier: MIT */
#include "core_test.h"

#include "core/fingerprint.h"

#define PAGES 4096

static _Alignas(4096) uint8_t page[SP_PAGE_SIZE];

static struct sp_key key_of(uint8_t seed) {
    uint8_t random[32];
    struct sp_key key;
    memset(random, seed, sizeof random);
    sp_key_init(&key, random);
    return key;
}

static void same_content_same_fingerprint(void **state) {
    struct sp_key key = key_of(1), again = key_of(1);
    memset(page, 7, sizeof page);
    uint8_t *copy = malloc(SP_PAGE_SIZE + 1);
    assert_non_null(copy);
    memcpy(copy + 1, page, SP_PAGE_SIZE);
    assert_true(sp_fingerprint(&key, page).v == sp_fingerprint(&key, copy + 1).v);
    assert_true(sp_fingerprint(&key, page).v == sp_fingerprint(&again, page).v);
    free(copy);
}

static void every_bit_matters(void **state) {
    struct sp_key key = key_of(1);
    memset(page, 0, sizeof page);
    uint64_t before = sp_fingerprint(&key, page).v;
    for (size_t bit = 0; bit < SP_PAGE_SIZE * 8; bit++) {
        page[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_true(sp_fingerprint(&key, page).v != before);
        page[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    assert_true(sp_fingerprint(&key, page).v == before);
}

static void keys_are_unrelated(void **state) {
    struct sp_key a = key_of(1), b = key_of(2);
    unsigned different_bits = 0;
    for (uint64_t i = 0; i < PAGES; i++) {
        memcpy(page, &i, sizeof i);
        different_bits +=
            (unsigned)__builtin_popcountll(sp_fingerprint(&a, page).v ^ sp_fingerprint(&b, page).v);
    }
    /* Half of the 64 bits, within ten standard deviations. */
    assert_in_range(different_bits, PAGES * 32 - 10 * 256, PAGES * 32 + 10 * 256);
}

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static void no_collisions_and_never_zero(void **state) {
    static uint64_t seen[PAGES * 16];
    struct sp_key key = key_of(3);
    for (uint64_t i = 0; i < PAGES * 16; i++) {
        memcpy(page + 2048, &i, sizeof i);
        seen[i] = sp_fingerprint(&key, page).v;
        assert_true(seen[i] != 0);
    }
    qsort(seen, PAGES * 16, sizeof *seen, compare);
    for (size_t i = 1; i < PAGES * 16; i++)
        assert_true(seen[i] != seen[i - 1]);
}

static void zero_page_is_noticed_at_every_byte(void **state) {
    memset(page, 0, sizeof page);
    assert_true(sp_page_is_zero(page));
    for (size_t i = 0; i < SP_PAGE_SIZE; i++) {
        page[i] = (uint8_t)(1 << i % 8);
        assert_false(sp_page_is_zero(page));
        page[i] = 0;
    }
    assert_true(sp_page_is_zero(page));
}

static void a_difference_is_noticed_at_every_byte(void **state) {
    static _Alignas(4096) uint8_t other[SP_PAGE_SIZE];
    memset(page, 7, sizeof page);
    memset(other, 7, sizeof other);
    assert_true(sp_page_equal(page, other));
    for (size_t i = 0; i < SP_PAGE_SIZE; i++) {
        page[i] ^= (uint8_t)(1 << i % 8);
        assert_false(sp_page_equal(page, other));
        page[i] = 7;
    }
    assert_true(sp_page_equal(page, other));
}

/* A probe reads the first line, the last, and one or two others. */
static void probes_are_made_of_samples(void **state) {
    struct sp_key key = key_of(1);
    unsigned lines = 0;
    memset(page, 7, sizeof page);
    sp_fp before = sp_probe(&key, page);
    for (size_t line = 0; line < 64; line++) {
        page[line * 64 + 20] ^= 1;
        bool read = sp_probe(&key, page).v != before.v;
        assert_true(read || (line != 0 && line != 63));
        lines += read;
        page[line * 64 + 20] ^= 1;
    }
    page[SP_PAGE_SIZE - 1] ^= 1;
    assert_true(sp_probe(&key, page).v != before.v);
    page[SP_PAGE_SIZE - 1] ^= 1;
    page[0] ^= 1;
    assert_true(sp_probe(&key, page).v != before.v);
    page[0] ^= 1;
    assert_in_range(lines, 3, 4);
    assert_true(sp_probe(&key, page).v == before.v);
}

static void kinds_and_traces(void **state) {
    struct sp_key key = key_of(5);
    for (uint64_t i = 0; i < PAGES; i++) {
        memcpy(page, &i, sizeof i);
        sp_fp whole = sp_fingerprint(&key, page), probe = sp_probe(&key, page);
        assert_true(sp_fp_whole(whole) && !sp_fp_whole(probe) && probe.v != 0);
        assert_true(sp_fp_trace(whole) == sp_fp_trace(probe));
        page[1] ^= 1;
        assert_true(sp_fp_trace(sp_fingerprint(&key, page)) != sp_fp_trace(probe));
        page[1] ^= 1;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(same_content_same_fingerprint),
        cmocka_unit_test(every_bit_matters),
        cmocka_unit_test(keys_are_unrelated),
        cmocka_unit_test(no_collisions_and_never_zero),
        cmocka_unit_test(zero_page_is_noticed_at_every_byte),
        cmocka_unit_test(a_difference_is_noticed_at_every_byte),
        cmocka_unit_test(probes_are_made_of_samples),
        cmocka_unit_test(kinds_and_traces),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
