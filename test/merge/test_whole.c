/* SPDX-License-Identifier: MIT */
/*
 * Windows of small pages that are asked about as a whole: where somebody has the same a question or two do
 * for all of it; where nobody has, none is asked in vain, and its pages are found as ever; and what was noted
 * of a window that was written since is not believed.
 */
#include "merge_test.h"

#define PAGES SP_WINDOW_PAGES
#define SPAN  8 /* windows of one half */
#define BYTES (2 * SPAN * SP_WINDOW_SIZE)

/* The local link of a rig, whose questions are counted. */
static struct {
    struct sp_link_ops ops;
    int (*ask)(struct sp_link *l, const struct sp_query *queries, size_t n, struct sp_answer *ret_answers);
    uint64_t notes, windows, pages;
    uint8_t *written; /* a window that is written after the first note */
} counted;

static int counted_ask(struct sp_link *l, const struct sp_query *queries, size_t n,
                       struct sp_answer *ret_answers) {
    uint64_t probe = queries[0].probe.v;
    uint64_t *count = probe == SP_PROBE_WINDOW_NOTE.v ? &counted.notes
                      : probe == SP_PROBE_WINDOW.v    ? &counted.windows
                                                      : &counted.pages;
    __atomic_fetch_add(count, n, __ATOMIC_RELAXED);
    int error = counted.ask(l, queries, n, ret_answers);
    if (counted.notes && counted.written) {
        fill(counted.written, PAGES, 3);
        counted.written = NULL;
    }
    return error;
}

static struct sp_link *count(struct sp_link *l) {
    uint8_t *written = counted.written;
    memset(&counted, 0, sizeof(counted));
    counted.written = written;
    counted.ops = *l->ops;
    counted.ask = l->ops->ask;
    counted.ops.ask = counted_ask;
    l->ops = &counted.ops;
    return l;
}

static void rig_end(struct engine_rig *r, uint8_t *p) {
    print_message("# %lu notes, %lu questions about windows, %lu about pages\n", (unsigned long)counted.notes,
                  (unsigned long)counted.windows, (unsigned long)counted.pages);
    rig_unmap(r, p, BYTES);
    sp_engine_free(r->engine);
}

static void test_twins(void **state) {
    struct engine_rig r;
    rig_init(&r, count);
    uint8_t *p = rig_twins(&r, BYTES, 1);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * SPAN * PAGES, UINT64_MAX));
    assert_int_equal(counted.notes, 2 * SPAN);
    assert_int_equal(counted.pages, 0);
    assert_in_range(counted.windows, 2 * SPAN, 3 * SPAN);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_differed), 0);
    assert_int_equal(wrong_pages(p, SPAN * PAGES, 1) + wrong_pages(p + BYTES / 2, SPAN * PAGES, 1), 0);
    rig_end(&r, p);
}

/* No window has a twin, but each page of the second half has one, in another order. */
static void test_no_twins(void **state) {
    struct engine_rig r;
    uint8_t *p = memory_new(BYTES);
    for (size_t i = 0; i < SPAN * PAGES; i++) {
        page_fill(p + i * PAGE, 1, i);
        page_fill(p + (2 * SPAN * PAGES - 1 - i) * PAGE, 1, i);
    }
    rig_init(&r, count);
    rig_add(&r, p, BYTES);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * SPAN * PAGES, UINT64_MAX));
    assert_int_equal(counted.notes, 2 * SPAN);
    assert_int_equal(counted.windows, 0);
    for (size_t i = 0; i < SPAN * PAGES; i++)
        assert_true(page_is(p + i * PAGE, 1, i) && page_is(p + (2 * SPAN * PAGES - 1 - i) * PAGE, 1, i));
    rig_end(&r, p);
}

/* A window that comes when its twin is shared already: it is found, and nothing is taken for the note. */
static void test_in_the_store(void **state) {
    struct engine_rig r;
    rig_init(&r, count);
    uint8_t *p = rig_twins(&r, BYTES, 1), *late = memory_new(SP_WINDOW_SIZE);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * SPAN * PAGES, UINT64_MAX));
    memcpy(late, p, SP_WINDOW_SIZE);
    rig_add(&r, late, SP_WINDOW_SIZE);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, (2 * SPAN + 1) * PAGES, UINT64_MAX));
    assert_int_equal(counted.pages, 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_sharing), (SPAN + 1) * PAGES);
    assert_int_equal(wrong_pages(late, PAGES, 1), 0);
    rig_unmap(&r, late, SP_WINDOW_SIZE);
    rig_end(&r, p);
}

static void test_written_since(void **state) {
    struct engine_rig r;
    uint8_t *p = memory_new(BYTES), *written = p + 3 * SP_WINDOW_SIZE;
    fill_twins(p, 2 * SPAN * PAGES, 1);
    counted.written = written;
    rig_init(&r, count);
    rig_add(&r, p, BYTES);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, (2 * SPAN - 2) * PAGES, UINT64_MAX));
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, UINT64_MAX));
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_differed), 0);
    /* What was its twin may have been sent before the index had heard of that. */
    assert_in_range(rig_counter(&r, SP_COUNTER_pages_merged), (2 * SPAN - 2) * PAGES, (2 * SPAN - 1) * PAGES);
    assert_int_equal(of_store(written, PAGES), 0);
    assert_int_equal(wrong_pages(p, SPAN * PAGES, 1), PAGES);
    assert_int_equal(wrong_pages(written, PAGES, 3), 0);
    assert_int_equal(wrong_pages(p + BYTES / 2, SPAN * PAGES, 1), 0);
    rig_end(&r, p);
}

/* Pages of zeros become holes, also in a window that is otherwise like another one. */
static void test_zeros(void **state) {
    struct engine_rig r;
    uint8_t *p = memory_new(BYTES);
    fill_twins(p, 2 * SPAN * PAGES, 1);
    memset(p + 7 * PAGE, 0, PAGE);
    memset(p + BYTES / 2 + 7 * PAGE, 0, PAGE);
    rig_settings(&r);
    r.settings.v[SP_SETTING_use_zero_pages] = 1;
    rig_begin(&r, count);
    rig_add(&r, p, BYTES);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, 2 * SPAN * PAGES - 2, UINT64_MAX));
    assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, 2, 2));
    assert_int_equal(counted.notes, 2 * SPAN - 2);
    assert_true(page_is_zero(p + 7 * PAGE) && page_is_zero(p + BYTES / 2 + 7 * PAGE));
    assert_int_equal(wrong_pages(p, SPAN * PAGES, 1), 1);
    rig_end(&r, p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_twins),        cmocka_unit_test(test_no_twins),
        cmocka_unit_test(test_in_the_store), cmocka_unit_test(test_written_since),
        cmocka_unit_test(test_zeros),
    };
    require_uffd();
    watchdog(120);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
