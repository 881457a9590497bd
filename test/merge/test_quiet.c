/* SPDX-License-Identifier: MIT */
/*
 * What merging costs while nothing happens: what lies in the store is not looked through for written pages,
 * the search for broken ones takes a part of a processor, mappings are counted only when that matters.
 */
#include "merge_test.h"
#include "os/fault.h"
#include "os/proc.h"

#define WINDOWS 64
#define N       (WINDOWS * SP_WINDOW_SIZE)
#define PAGES   (N / PAGE)

static uint64_t scans, window_looks, counts;

static int count_calls(const char *call) {
    __atomic_fetch_add(!strcmp(call, "pagemap_scan")        ? &scans
                       : !strcmp(call, "pagemap_unwatched") ? &window_looks
                       : !strcmp(call, "proc_map_count")    ? &counts
                                                            : &(uint64_t){0},
                       1, __ATOMIC_RELAXED);
    return 0;
}

static uint64_t read_count(const uint64_t *count) {
    return __atomic_load_n(count, __ATOMIC_RELAXED);
}

static void count_from_here(void) {
    __atomic_store_n(&scans, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&window_looks, 0, __ATOMIC_RELAXED);
    __atomic_store_n(&counts, 0, __ATOMIC_RELAXED);
    sp_fault_hook = count_calls;
}

/* Every pass is one after a pause of a millisecond. */
static void busy_settings(struct engine_rig *r) {
    sp_settings_init(&r->settings);
    r->settings.v[SP_SETTING_sleep_millisecs] = 1;
    r->settings.v[SP_SETTING_sleep_max_millisecs] = 1;
}

static uint8_t *merged_twins(struct engine_rig *r) {
    uint8_t *p = rig_twins(r, N, 1);
    assert_true(rig_until(r, SP_COUNTER_pages_merged, PAGES, PAGES));
    assert_int_equal(rig_settle(r), 0);
    return p;
}

static void passes(struct engine_rig *r, uint64_t n) {
    uint64_t before = rig_counter(r, SP_COUNTER_full_scans);
    assert_true(rig_until(r, SP_COUNTER_full_scans, before + n, UINT64_MAX));
}

/* Windows that lie in the store altogether hold nothing that could have been written unseen; passing over
 * them costs the kernel a step for each mapping. */
static void test_the_store_is_not_looked_through(void **state) {
    struct engine_rig r;
    busy_settings(&r);
    rig_begin(&r, NULL);
    uint8_t *p = merged_twins(&r);
    count_from_here();
    passes(&r, 50);
    sp_sleep_ns(4 * SECOND_NS); /* huge pages are looked for every three seconds */
    assert_int_equal(read_count(&scans), 0);
    /* One page that is armed brings the look back to its window. */
    rig_unmap(&r, p + N / 2, PAGE);
    must(sp_map_fresh((uintptr_t)p + N / 2, PAGE, PROT_READ | PROT_WRITE), "map");
    rig_add(&r, p + N / 2, PAGE);
    page_fill(p + N / 2, 1, 0);
    uint64_t merged = rig_counter(&r, SP_COUNTER_pages_merged);
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, merged + 1, merged + 1));
    sp_fault_hook = NULL;
    assert_true(read_count(&scans) > 0);
    assert_int_equal(wrong_pages(p, PAGES / 2, 1) + wrong_pages(p + N / 2, PAGES / 2, 1), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* A thousand passes look at some thousand windows, not at 64 each: 5 ms were saved up, and 0.2 ms are earned.
 * What is found pays for the rest. */
static void test_the_search_is_bounded(void **state) {
    struct engine_rig r;
    busy_settings(&r);
    rig_begin(&r, NULL);
    uint8_t *p = merged_twins(&r);
    count_from_here();
    passes(&r, 1000);
    uint64_t looks = read_count(&window_looks);
    assert_true(looks > 0);
    assert_true(looks < 1000 * WINDOWS / 4);
    sp_fault_hook = NULL;
    for (size_t i = 0; i < PAGES; i += 2)
        memset(p + i * PAGE, 7, 1);
    uint64_t begin = sp_now_ns();
    assert_true(rig_until(&r, SP_COUNTER_pages_broken, PAGES / 2, PAGES / 2));
    assert_true(sp_now_ns() - begin < 5 * SECOND_NS);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* 2 * n mappings more. */
static uint8_t *many_mappings(size_t n) {
    uint8_t *p = memory_new(2 * n * PAGE);
    for (size_t i = 0; i < n; i++)
        must(sp_map_fresh((uintptr_t)p + 2 * i * PAGE, PAGE, PROT_READ), "map");
    return p;
}

/* Mappings are counted before something is merged, so that those that the program has made meanwhile count
 * (H4), and not while nothing is. */
static int counted_before_merging(void *arg) {
    enum { SOME = 200, MORE = 80, SCATTERED = 256 };
    uint64_t most;
    must(sp_proc_max_map_count(&most), "max_map_count");
    uint64_t allowed = most / 100;
    many_mappings(SOME);
    struct engine_rig r;
    rig_settings(&r);
    r.settings.v[SP_SETTING_map_percent] = 1;
    rig_begin(&r, NULL);
    uint8_t *p = rig_twins(&r, 2 * SP_WINDOW_SIZE, 1);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_merged, 2 * SP_WINDOW_PAGES, 2 * SP_WINDOW_PAGES));
    CHILD_CHECK(rig_settle(&r) == 0);
    count_from_here();
    many_mappings(MORE);
    CHILD_CHECK(mappings_all() < allowed);
    sp_sleep_ns(5 * SECOND_NS / 2);
    CHILD_CHECK(read_count(&counts) == 0);
    uint8_t *a = memory_new(SP_WINDOW_SIZE), *b = memory_new(SP_WINDOW_SIZE);
    for (size_t i = 0; i < SCATTERED; i++) {
        page_fill(a + i * 2 * PAGE, 2, i);
        page_fill(b + i * 2 * PAGE, 2, SCATTERED - 1 - i);
    }
    rig_add(&r, a, SP_WINDOW_SIZE);
    rig_add(&r, b, SP_WINDOW_SIZE);
    CHILD_CHECK(rig_until(&r, SP_COUNTER_pages_over_budget, 1, UINT64_MAX));
    CHILD_CHECK(rig_settle(&r) == 0);
    CHILD_CHECK(read_count(&counts) > 0);
    CHILD_CHECK(mappings_all() <= allowed + 8);
    for (size_t i = 0; i < SCATTERED; i++)
        CHILD_CHECK(page_is(a + i * 2 * PAGE, 2, i) && page_is(b + i * 2 * PAGE, 2, SCATTERED - 1 - i));
    CHILD_CHECK(wrong_pages(p, SP_WINDOW_PAGES, 1) == 0);
    return 0;
}

static void test_mappings_are_counted_before_merging(void **state) {
    uint64_t most;
    must(sp_proc_max_map_count(&most), "max_map_count");
    if (most != 65530) {
        print_message("# SKIP vm.max_map_count is not the kernel's default\n");
        skip();
    }
    assert_int_equal(in_child(counted_before_merging, NULL), 0);
}

int main(void) {
    require_uffd();
    watchdog(120);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_store_is_not_looked_through),
        cmocka_unit_test(test_the_search_is_bounded),
        cmocka_unit_test(test_mappings_are_counted_before_merging),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
