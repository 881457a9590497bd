/* SPDX-License-Identifier: MIT */
/*
 * What is particular to the index of two trees in a living process: it looks at the pages of the application
 * at any time, also at those that are being written, unmapped or protected; its order goes wrong and is
 * mended; and when nothing changes it rests. All that both kinds of index have in common is tested by the
 * other programs, which run with each.
 */
#include "merge_test.h"

#define N     (4 * MIB)
#define PAGES (N / PAGE)

/* The local link's own functions, but for questions, which are counted. */
static struct sp_link_ops counting;
static const struct sp_link_ops *counted;
static uint64_t asked;

static int count_ask(struct sp_link *l, const struct sp_query *q, size_t n, struct sp_answer *a) {
    __atomic_fetch_add(&asked, n, __ATOMIC_RELAXED);
    return counted->ask(l, q, n, a);
}

static struct sp_link *count(struct sp_link *l) {
    counted = l->ops;
    counting = *l->ops;
    counting.ask = count_ask;
    l->ops = &counting;
    asked = 0;
    return l;
}

static uint64_t asked_so_far(void) {
    return __atomic_load_n(&asked, __ATOMIC_RELAXED);
}

static void passes(struct engine_rig *r, uint64_t n) {
    uint64_t scans = rig_counter(r, SP_COUNTER_full_scans);
    assert_true(rig_until(r, SP_COUNTER_full_scans, scans + n, UINT64_MAX));
}

/* A page without a twin is asked about in two scans, and then no more until something changes; then all are.
 */
static void test_rests(void **state) {
    struct engine_rig r;
    rig_init(&r, count);
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    rig_add(&r, p, N);
    assert_int_equal(rig_settle(&r), 0);
    passes(&r, 20);
    assert_int_equal(asked_so_far(), 2 * PAGES);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_unshared), PAGES);
    page_fill(p + 100 * PAGE, 2, 0);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, 0, PAGES - 1));
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    assert_int_equal(rig_settle(&r), 0);
    passes(&r, 20);
    uint64_t now = asked_so_far();
    assert_true(now >= 3 * PAGES + 1 && now <= 4 * PAGES + 2);
    passes(&r, 20);
    assert_int_equal(asked_so_far(), now);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* What the index knows of is unmapped and protected by calls that nobody announces, while it has to look
 * there: it does not find anything, and the program lives. */
static void test_gone_unseen(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES, 1);
    rig_add(&r, a, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    assert_int_equal(rig_settle(&r), 0);
    must(sp_unmap(a, N / 2), "unmap");
    must(sp_protect((uintptr_t)a + N / 2, N / 2, PROT_NONE), "protect");
    fill(b, PAGES / 2, 2);
    memcpy(b + N / 2, b, N / 2);
    struct sp_merge_result result;
    sp_engine_lock(r.engine);
    must(sp_engine_add_locked(r.engine, (uintptr_t)b, (uintptr_t)b + N, true, NULL), "add");
    sp_engine_unlock(r.engine);
    int unused = sp_engine_merge(r.engine, (uintptr_t)b, (uintptr_t)b + N, true, &result);
    (void)unused; /* merging may have ended by then, because of those calls (H1) */
    assert_int_equal(wrong_pages(b, PAGES / 2, 2) + wrong_pages(b + N / 2, PAGES / 2, 2), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(a + N / 2, N / 2);
    memory_free(b, N);
}

/* ---- pages that change in the tree ---- */

static uint8_t *scribbled;
static bool scribbling; /* atomic */

/* Leaves each page alone for long enough that it gets into the tree, and then moves it elsewhere in its
 * order. */
static void *scribble(void *arg) {
    uint64_t random = 88172645463325252u;
    while (__atomic_load_n(&scribbling, __ATOMIC_RELAXED)) {
        for (unsigned i = 0; i < 40; i++)
            *(uint64_t *)(void *)(scribbled + random_next(&random) % PAGES * PAGE) = random_next(&random);
        sp_sleep_ns(SECOND_NS / 50);
    }
    return NULL;
}

/* Twins come and are looked for in a tree whose order is wrong in many places; in the end each has found the
 * other, and nobody's page is another's. */
static void test_order_goes_wrong(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    scribbled = memory_new(N);
    fill(a, PAGES, 1);
    fill(b, PAGES, 1);
    fill(scribbled, PAGES, 2);
    rig_add(&r, scribbled, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES / 2, PAGES));
    __atomic_store_n(&scribbling, true, __ATOMIC_RELAXED);
    pthread_t thread;
    pthread_create(&thread, NULL, scribble, NULL);
    rig_add(&r, a, N);
    passes(&r, 10);
    rig_add(&r, b, N);
    passes(&r, 30);
    __atomic_store_n(&scribbling, false, __ATOMIC_RELAXED);
    pthread_join(thread, NULL);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, PAGES, PAGES));
    assert_int_equal(rig_range(&r, a, N, SP_COUNTER_pages_shared), PAGES);
    assert_int_equal(rig_range(&r, b, N, SP_COUNTER_pages_shared), PAGES);
    assert_int_equal(rig_settle(&r), 0);
    assert_int_equal(wrong_pages(a, PAGES, 1) + wrong_pages(b, PAGES, 1), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
    memory_free(scribbled, N);
}

/* What leaves the store leaves the stable tree: the rest of it is found as before. */
static void test_stable_tree_follows_store(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *a = memory_new(N), *b = memory_new(N);
    fill(a, PAGES / 2, 1);
    memcpy(a + N / 2, a, N / 2);
    rig_add(&r, a, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_shared, PAGES / 2, PAGES / 2));
    assert_true(rig_until(&r, SP_COUNTER_pages_merged, PAGES, PAGES));
    for (size_t i = 0; i < PAGES; i++)
        if (i % 3)
            page_fill(a + i * PAGE, 4, i);
    size_t left = 0;
    for (size_t i = 0; i < PAGES / 2; i++)
        left += i % 3 == 0 || (i + PAGES / 2) % 3 == 0;
    assert_true(rig_until(&r, SP_COUNTER_pages_shared, left, left));
    for (size_t i = 0; i < PAGES / 2; i++)
        if (i % 3 == 0 || (i + PAGES / 2) % 3 == 0)
            page_fill(b + i * PAGE, 1, i);
    uint64_t sharing = rig_counter(&r, SP_COUNTER_pages_sharing);
    rig_add(&r, b, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_sharing, sharing + left, sharing + left));
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_shared), left);
    r.engine = sp_engine_free(r.engine);
    memory_free(a, N);
    memory_free(b, N);
}

int main(void) {
    setenv("SAMEPAGE_TEST_INDEX", "tree", 1);
    require_uffd();
    watchdog(250);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rests),
        cmocka_unit_test(test_gone_unseen),
        cmocka_unit_test(test_order_goes_wrong),
        cmocka_unit_test(test_stable_tree_follows_store),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
