/* SPDX-License-Identifier: MIT */
/*
 * merge_across_nodes=0 in a worker: pages share with those on their own node, whatever else the windows hold
 * that they lie in, and when the kernel moves them or knows nothing of them. The nodes are what the test
 * says: of most machines there is but one. Huge windows: test_huge.c.
 */
#include "merge_test.h"

#include "merge/state.h"

#define N     (4 * MIB)
#define PAGES (N / PAGE)
#define MS    (SECOND_NS / 1000)

static struct engine_rig r;

/* Up to four stretches of N bytes, and the node of each page; for all else node 0. */
static struct {
    const uint8_t *memory;
    int node[PAGES];
} place[4];
static int reading_fails;

static int nodes(const void *const *pages, size_t n, int *ret_nodes) {
    for (size_t i = 0; i < n; i++) {
        ret_nodes[i] = 0;
        for (size_t k = 0; k < 4; k++) {
            size_t page = (size_t)((const uint8_t *)pages[i] - place[k].memory) / PAGE;
            if (place[k].memory && page < PAGES)
                ret_nodes[i] = __atomic_load_n(&place[k].node[page], __ATOMIC_RELAXED);
        }
    }
    return __atomic_load_n(&reading_fails, __ATOMIC_RELAXED);
}

static void begin(uint64_t across, uint64_t use_zero_pages) {
    memset(place, 0, sizeof place);
    reading_fails = 0;
    rig_settings(&r);
    r.settings.v[SP_SETTING_merge_across_nodes] = across;
    r.settings.v[SP_SETTING_use_zero_pages] = use_zero_pages;
    rig_begin(&r, NULL);
    sp_engine_nodes(r.engine, nodes);
}

/* Memory in that place, registered by the caller when its nodes are said. */
static uint8_t *memory(unsigned k, uint64_t seed) {
    uint8_t *p = memory_new(N);
    fill(p, PAGES, seed);
    place[k].memory = p;
    return p;
}

static void move(unsigned k, size_t page, int node) {
    __atomic_store_n(&place[k].node[page], node, __ATOMIC_RELAXED);
}

static void end(void) {
    r.engine = sp_engine_free(r.engine);
    for (size_t k = 0; k < 4; k++)
        if (place[k].memory)
            memory_free((void *)(uintptr_t)place[k].memory, N);
}

/* Nothing is merged beyond that, as far as a while can tell. */
static void stays(enum sp_counter which, uint64_t value) {
    uint64_t scans = rig_counter(&r, SP_COUNTER_full_scans);
    assert_true(rig_until(&r, SP_COUNTER_full_scans, scans + 5, UINT64_MAX));
    assert_int_equal(rig_counter(&r, which), value);
}

static int node_by_turns(unsigned k, size_t page) {
    return (int)(page >> k & 1);
}

static bool on_same_node(size_t page) {
    return node_by_turns(0, page) == node_by_turns(1, page);
}

/* The same pages in two places: in the one they take turns on two nodes singly, in the other by twos. */
static void half_is_shared(uint8_t *a, uint8_t *b) {
    for (unsigned k = 0; k < 2; k++)
        for (size_t i = 0; i < PAGES; i++)
            move(k, i, node_by_turns(k, i));
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES / 2, PAGES / 2));
    stays(SP_COUNTER_pages_sharing, PAGES / 2);
}

static void test_each_page_by_its_node(void **state) {
    begin(0, 1);
    uint8_t *a = memory(0, 1), *b = memory(1, 1);
    half_is_shared(a, b);
    for (size_t i = 0; i < PAGES; i++) {
        bool same = on_same_node(i);
        assert_true(is_of_store(a + i * PAGE) == same && is_of_store(b + i * PAGE) == same);
    }
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1), 0);
    end();
}

static void test_together(void **state) {
    begin(1, 1);
    uint8_t *a = memory(0, 1), *b = memory(1, 1);
    for (size_t i = 0; i < PAGES; i++)
        move(1, i, (int)(i % 7));
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    end();
}

/* Pages of zeros have no node, wherever they lie; unless they are to be treated as all others. */
static void test_zeros(void **state) {
    for (unsigned give_back = 0; give_back < 2; give_back++) {
        begin(0, give_back);
        uint8_t *a = memory(0, 1);
        memset(a, 0, 6 * PAGE);
        for (size_t i = 3; i < 6; i++)
            move(0, i, 1);
        move(0, 5, 2);
        rig_add(&r, a, N);
        if (give_back) {
            assert_true(rig_until(&r, SP_COUNTER_ksm_zero_pages, 6, 6));
            assert_int_equal(of_store(a, PAGES), 0);
        } else {
            /* Three on node 0, two on node 1, one alone. */
            assert_true(rig_until(&r, SP_COUNTER_pages_sharing, 3, 3));
            assert_int_equal(of_store(a, PAGES), 5);
            stays(SP_COUNTER_ksm_zero_pages, 0);
            assert_false(is_of_store(a + 5 * PAGE));
        }
        assert_true(page_is_zero(a + 4 * PAGE) && page_is_zero(a + 5 * PAGE));
        end();
    }
}

/* A page that the kernel finds on no node, or nobody can tell of, is left alone, and tried again. */
static void test_nowhere(void **state) {
    begin(0, 1);
    uint8_t *a = memory(0, 1), *b = memory(1, 1);
    for (size_t i = 0; i < PAGES; i += 4)
        move(1, i, -ENOENT);
    rig_add(&r, a, N);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES / 4 * 3, PAGES / 4 * 3));
    stays(SP_COUNTER_pages_sharing, PAGES / 4 * 3);
    assert_false(is_of_store(b) || is_of_store(b + 4 * PAGE));
    uint64_t errors = rig_counter(&r, SP_COUNTER_errors);
    __atomic_store_n(&reading_fails, -EPERM, __ATOMIC_RELAXED);
    for (size_t i = 0; i < PAGES; i += 4)
        move(1, i, 0);
    assert_true(rig_until(&r, SP_COUNTER_errors, errors + 1, UINT64_MAX));
    stays(SP_COUNTER_pages_sharing, PAGES / 4 * 3);
    __atomic_store_n(&reading_fails, 0, __ATOMIC_RELAXED);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1), 0);
    end();
}

/* A page that is known goes to another node, and a twin comes to where it was: not to be shared. What is then
 * beside it is found. */
static void test_moved(void **state) {
    begin(0, 1);
    uint8_t *a = memory(0, 1), *b = memory(1, 2), *c = memory(2, 3);
    rig_add(&r, a, N);
    assert_int_equal(rig_settle(&r), 0);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    move(0, 7, 1);
    memcpy(b + 9 * PAGE, a + 7 * PAGE, PAGE);
    memcpy(b + 11 * PAGE, a + 8 * PAGE, PAGE); /* which has not moved */
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, 1, 1));
    stays(SP_COUNTER_pages_sharing, 1);
    assert_true(is_of_store(a + 8 * PAGE) && is_of_store(b + 11 * PAGE));
    assert_false(is_of_store(a + 7 * PAGE));
    memcpy(c + 3 * PAGE, a + 7 * PAGE, PAGE);
    move(2, 3, 1);
    rig_add(&r, c, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, 2, 2));
    assert_true(is_of_store(a + 7 * PAGE) && is_of_store(c + 3 * PAGE));
    assert_true(page_is(b + 9 * PAGE, 1, 7) && page_is(a + 7 * PAGE, 1, 7));
    end();
}

/* It is changed while pages are known: they are asked about anew, by the new rule. */
static void test_changed(void **state) {
    if (test_index() == SP_INDEX_TREE)
        return; /* its settings are those that it began with */
    begin(1, 1);
    uint8_t *a = memory(0, 1), *b = memory(1, 2);
    rig_add(&r, a, N);
    assert_int_equal(rig_settle(&r), 0);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    r.settings.v[SP_SETTING_merge_across_nodes] = 0;
    r.link->settings = r.settings;
    uint64_t scanned = rig_counter(&r, SP_COUNTER_pages_scanned);
    __atomic_store_n(&r.link->settings_number, 1, __ATOMIC_RELEASE);
    assert_true(rig_until(&r, SP_COUNTER_pages_scanned, scanned + PAGES, UINT64_MAX));
    assert_int_equal(rig_settle(&r), 0);
    memcpy(b, a, 4 * PAGE);
    move(1, 0, 1);
    move(1, 1, 1);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, 2, 2));
    stays(SP_COUNTER_pages_sharing, 2);
    assert_true(is_of_store(b + 2 * PAGE) && is_of_store(b + 3 * PAGE));
    assert_false(is_of_store(b) || is_of_store(b + PAGE));
    end();
}

/* Pages that only resemble each other are asked about as a whole: by their node, too. */
static void test_as_a_whole(void **state) {
    begin(0, 1);
    uint8_t *a = memory(0, 1), *b = memory(1, 1);
    for (size_t i = 0; i < PAGES; i++) {
        /* The same but for one line, which is part of hardly any probe. */
        for (uint8_t *p = a + i * PAGE; p; p = p == a + i * PAGE ? b + i * PAGE : NULL) {
            memset(p, 5, PAGE);
            memcpy(p + 1024, &i, sizeof i);
        }
    }
    half_is_shared(a, b);
    for (size_t i = 0; i < PAGES; i++) {
        /* Others may have been published, by a wrong guess, and be alone there. */
        if (on_same_node(i))
            assert_true(is_of_store(a + i * PAGE) && is_of_store(b + i * PAGE));
        assert_memory_equal(a + i * PAGE + 1024, &i, sizeof i);
    }
    end();
}

int main(void) {
    watchdog(240);
    require_uffd();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_page_by_its_node),
        cmocka_unit_test(test_together),
        cmocka_unit_test(test_zeros),
        cmocka_unit_test(test_nowhere),
        cmocka_unit_test(test_moved),
        cmocka_unit_test(test_changed),
        cmocka_unit_test(test_as_a_whole),
    };
    return cmocka_run_group_tests_name("merge/nodes", tests, NULL, NULL);
}
