/* SPDX-License-Identifier: MIT */
/*
 * The rules of the two trees: the stable one is searched first; the unstable one is fed only with pages whose
 * checksum did not change since they were asked about last, and is built anew after a scan in which some of
 * it changed; what is found is right as long as nothing changes unseen, and everything is found in the end.
 */
#include "pages.h"

#include "core/trees.h"

#include <errno.h>

/* Store pages have the numbers of `pages` too: from STORE on. */
#define STORE 500

static struct test_memory memory;
static struct sp_alloc alloc;
static struct sp_key key;
static uint64_t read_store, read_pages;

static const void *reader_store(void *ctx, sp_store_page store) {
    read_store++;
    return page_read(ctx, store.v);
}

static const void *reader_page(void *ctx, sp_page page) {
    read_pages++;
    return page_read(ctx, page.v);
}

static struct sp_trees *trees_new(void) {
    static const uint8_t random[32] = {1, 2, 3};
    struct sp_trees_reader reader = {reader_store, reader_page, NULL};
    struct sp_trees *t;
    memory = (struct test_memory){0};
    alloc = test_memory_alloc(&memory);
    sp_key_init(&key, random);
    memset(pages_gone, 0, sizeof pages_gone);
    assert_int_equal(sp_trees_new(&alloc, &key, &reader, &t), 0);
    return t;
}

static void trees_end(struct sp_trees *t) {
    assert_null(sp_trees_free(t));
    assert_int_equal(memory.bytes, 0);
}

struct found {
    enum sp_trees_found kind;
    uint64_t where;
};

static struct found ask(struct sp_trees *t, uint64_t page) {
    sp_store_page store = {UINT64_MAX};
    sp_page twin = {UINT64_MAX};
    enum sp_trees_found kind = sp_trees_ask(t, (sp_page){page}, pages[page], &store, &twin);
    return (struct found){kind, kind == SP_TREES_TWIN ? twin.v : store.v};
}

static void check_ask(struct sp_trees *t, uint64_t page, enum sp_trees_found kind, uint64_t where) {
    struct found f = ask(t, page);
    assert_int_equal(f.kind, kind);
    if (kind == SP_TREES_TWIN || kind == SP_TREES_STORE)
        assert_int_equal(f.where, where);
}

/* Asked about in two scans. */
static void check_fed(struct sp_trees *t, uint64_t page) {
    check_ask(t, page, SP_TREES_NOTED, 0);
    check_ask(t, page, SP_TREES_ALONE, 0);
}

static enum sp_trees_found publish(struct sp_trees *t, uint64_t page, sp_store_page *ret) {
    return sp_trees_publish(t, (sp_page){page}, pages[page], ret);
}

/* The page's content becomes that of a store page. */
static int enter(struct sp_trees *t, uint64_t page, uint64_t store) {
    memcpy(pages[store], pages[page], SP_PAGE_SIZE);
    return sp_trees_enter(t, (sp_page){page}, (sp_store_page){store}, pages[page]);
}

static struct sp_trees_counts count(const struct sp_trees *t) {
    struct sp_trees_counts c;
    sp_trees_count(t, &c);
    return c;
}

static void test_only_unchanged_is_fed(void **state) {
    struct sp_trees *t = trees_new();
    page_write(1, 5);
    page_write(2, 5);
    check_ask(t, 1, SP_TREES_NOTED, 0);
    check_ask(t, 2, SP_TREES_NOTED, 0); /* the other is not in the tree yet */
    assert_int_equal(count(t).unstable, 0);
    page_write(1, 6);
    check_ask(t, 1, SP_TREES_NOTED, 0); /* changed in between */
    check_ask(t, 2, SP_TREES_ALONE, 0);
    check_ask(t, 1, SP_TREES_ALONE, 0);
    assert_int_equal(count(t).unstable, 2);
    page_write(1, 5); /* while it is in the tree */
    check_ask(t, 1, SP_TREES_NOTED, 0);
    assert_int_equal(count(t).unstable, 1);
    check_ask(t, 1, SP_TREES_TWIN, 2);
    assert_int_equal(count(t).unstable, 1);
    trees_end(t);
}

static void test_last_byte_decides(void **state) {
    struct sp_trees *t = trees_new();
    for (uint64_t i = 0; i < 3; i++) {
        memset(pages[i], 1, SP_PAGE_SIZE);
        pages[i][SP_PAGE_SIZE - 1] = (uint8_t)(i / 2);
        check_ask(t, i, SP_TREES_NOTED, 0);
    }
    check_ask(t, 0, SP_TREES_ALONE, 0);
    check_ask(t, 2, SP_TREES_ALONE, 0);
    check_ask(t, 1, SP_TREES_TWIN, 0);
    trees_end(t);
}

static void test_stable_first(void **state) {
    struct sp_trees *t = trees_new();
    for (uint64_t i = 0; i < 64; i++) {
        page_write(i, (unsigned)i);
        check_fed(t, i);
    }
    page_write(100, 3);
    assert_int_equal(enter(t, 100, STORE), 0);
    /* A page never seen before, and one that is in the unstable tree: found without a look at that, or at
     * what the page was before. */
    page_write(101, 3);
    read_store = read_pages = 0;
    check_ask(t, 101, SP_TREES_STORE, STORE);
    check_ask(t, 3, SP_TREES_STORE, STORE);
    assert_int_equal(read_store, 2);
    assert_int_equal(read_pages, 0);
    assert_int_equal(count(t).unstable, 63);
    /* What is not in it is looked for there before anything else. */
    page_write(102, 200);
    check_ask(t, 102, SP_TREES_NOTED, 0);
    assert_int_equal(read_store, 3);
    assert_int_equal(read_pages, 0);
    check_ask(t, 102, SP_TREES_ALONE, 0);
    assert_int_equal(read_store, 4);
    assert_true(read_pages > 0);
    trees_end(t);
}

static void test_publishes(void **state) {
    struct sp_trees *t = trees_new();
    sp_store_page store;
    for (uint64_t i = 0; i < 4; i++)
        page_write(i, 9);
    for (uint64_t i = 0; i < 4; i++)
        check_ask(t, i, SP_TREES_NOTED, 0);
    check_ask(t, 0, SP_TREES_ALONE, 0);
    for (uint64_t i = 1; i < 4; i++)
        check_ask(t, i, SP_TREES_TWIN, 0);
    assert_int_equal(publish(t, 1, &store), SP_TREES_ALONE);
    assert_int_equal(enter(t, 1, STORE), 0);
    assert_int_equal(publish(t, 2, &store), SP_TREES_STORE); /* meanwhile */
    assert_int_equal(store.v, STORE);
    page_write(3, 10);
    assert_int_equal(publish(t, 3, &store), SP_TREES_NOTED); /* changed since it was asked about */
    assert_int_equal(publish(t, 50, &store), SP_TREES_NOTED);
    assert_int_equal(enter(t, 0, STORE + 1), -EEXIST);
    check_ask(t, 0, SP_TREES_STORE, STORE);
    assert_int_equal(count(t).stable, 1);
    assert_int_equal(count(t).unstable, 0);
    /* The store page is in use no more. */
    sp_trees_drop(t, (sp_store_page){STORE});
    sp_trees_drop(t, (sp_store_page){STORE + 7});
    assert_int_equal(count(t).stable, 0);
    check_ask(t, 0, SP_TREES_NOTED, 0);
    trees_end(t);
}

/* The order becomes wrong unseen, so that a twin is not found; after the scan in which that was noticed
 * everything is asked about again, in a new tree, and it is. */
static void test_rebuilt_after_scan(void **state) {
    struct sp_trees *t = trees_new();
    assert_false(sp_trees_scanned(t));
    for (uint64_t i = 0; i < 15; i++) {
        memset(pages[i], 10 + (int)i * 10, SP_PAGE_SIZE);
        check_fed(t, i);
    }
    assert_false(sp_trees_scanned(t)); /* nothing has changed: it stays */
    assert_int_equal(count(t).unstable, 15);
    uint8_t before[SP_PAGE_SIZE];
    memcpy(before, pages[7], SP_PAGE_SIZE); /* the middle one: at the root or near it */
    for (uint64_t i = 5; i < 10; i++)
        memset(pages[i], 255, SP_PAGE_SIZE);
    memcpy(pages[100], pages[12], SP_PAGE_SIZE);
    check_ask(t, 100, SP_TREES_NOTED, 0);
    check_ask(t, 100, SP_TREES_ALONE, 0); /* not found, though 12 is there */
    for (uint64_t i = 5; i < 10; i++)
        sp_trees_forget(t, (sp_page){i}); /* as it is noticed */
    assert_true(sp_trees_scanned(t));
    assert_int_equal(count(t).unstable, 0);
    assert_int_equal(count(t).rebuilt, 1);
    assert_false(sp_trees_scanned(t));
    check_ask(t, 12, SP_TREES_ALONE, 0); /* its checksum is still known */
    check_ask(t, 100, SP_TREES_TWIN, 12);
    /* The same when it is the asking that notices. */
    memset(pages[12], 3, SP_PAGE_SIZE);
    check_ask(t, 12, SP_TREES_NOTED, 0);
    assert_true(sp_trees_scanned(t));
    /* Or finding it in the store. */
    check_ask(t, 12, SP_TREES_ALONE, 0);
    memset(pages[101], 4, SP_PAGE_SIZE);
    assert_int_equal(enter(t, 101, STORE), 0);
    memset(pages[12], 4, SP_PAGE_SIZE);
    check_ask(t, 12, SP_TREES_STORE, STORE);
    assert_true(sp_trees_scanned(t));
    trees_end(t);
}

static void test_unreadable(void **state) {
    struct sp_trees *t = trees_new();
    for (uint64_t i = 0; i < 30; i++) {
        page_write(i, (unsigned)i);
        check_fed(t, i);
    }
    for (uint64_t i = 0; i < 30; i += 2)
        pages_gone[i] = true;
    page_write(100, 17);
    check_ask(t, 100, SP_TREES_NOTED, 0);
    check_ask(t, 100, SP_TREES_TWIN, 17);
    assert_true(count(t).unstable < 30);
    assert_true(sp_trees_scanned(t));
    assert_int_equal(enter(t, 100, STORE), 0);
    pages_gone[STORE] = true;
    check_ask(t, 1, SP_TREES_FAILED, 0);
    page_write(101, 40);
    assert_int_equal(enter(t, 101, STORE + 1), -EIO);
    trees_end(t);
}

/* Whatever is asked in whatever order: while nothing changes unseen, each answer is right. */
static void test_against_list(void **state) {
    struct sp_trees *t = trees_new();
    struct test_random random = {5};
    enum { NEW, NOTED, FED } known[STORE] = {NEW};
    bool stored[PAGES_MAX] = {false};
    uint64_t next = STORE, twins = 0, shares = 0;
    for (unsigned step = 0; step < 20000; step++) {
        uint64_t p = test_random_below(&random, 300);
        if (test_random_below(&random, 8) == 0 || step < 300) {
            sp_trees_forget(t, (sp_page){p});
            known[p] = NEW;
            page_write(p, (unsigned)test_random_below(&random, 200));
        }
        uint64_t there = 0;
        bool twin = false;
        for (uint64_t k = 0; k < PAGES_MAX; k++) {
            bool same = !memcmp(pages[k], pages[p], SP_PAGE_SIZE);
            there = stored[k] && same ? k : there;
            twin |= k < STORE && known[k] == FED && k != p && same;
        }
        enum sp_trees_found wanted = twin ? SP_TREES_TWIN : SP_TREES_ALONE;
        if (there)
            wanted = SP_TREES_STORE;
        else if (known[p] == NEW)
            wanted = SP_TREES_NOTED;
        struct found f = ask(t, p);
        assert_int_equal(f.kind, wanted);
        known[p] = f.kind == SP_TREES_STORE ? NEW : f.kind == SP_TREES_ALONE ? FED : NOTED;
        twins += f.kind == SP_TREES_TWIN;
        shares += f.kind == SP_TREES_STORE;
        if (f.kind == SP_TREES_STORE)
            assert_int_equal(f.where, there);
        if (f.kind == SP_TREES_TWIN && next < PAGES_MAX) {
            assert_int_equal(enter(t, p, next), 0);
            stored[next++] = true;
            known[p] = NEW;
        } else if (f.kind == SP_TREES_STORE && test_random_below(&random, 4) == 0) {
            sp_trees_drop(t, (sp_store_page){there});
            stored[there] = false;
        }
        if (test_random_below(&random, 500) == 0 && sp_trees_scanned(t))
            for (uint64_t k = 0; k < STORE; k++)
                known[k] = known[k] == FED ? NOTED : known[k];
    }
    assert_true(twins > 50 && shares > 50);
    trees_end(t);
}

static void test_no_memory(void **state) {
    for (uint64_t at = 1;; at++) {
        struct sp_trees *t = trees_new();
        memory.gets = 0;
        memory.fail_at = at;
        memory.fail_onwards = true;
        unsigned failed = 0;
        for (uint64_t i = 0; i < 400; i += 40) {
            page_write(i, (unsigned)i);
            failed += ask(t, i).kind == SP_TREES_FAILED;
            failed += enter(t, i, STORE + i / 8) < 0;
        }
        assert_int_equal(failed > 0, memory.failures > 0);
        bool done = !memory.failures;
        trees_end(t);
        if (done)
            return;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_only_unchanged_is_fed), cmocka_unit_test(test_last_byte_decides),
        cmocka_unit_test(test_stable_first),          cmocka_unit_test(test_publishes),
        cmocka_unit_test(test_rebuilt_after_scan),    cmocka_unit_test(test_unreadable),
        cmocka_unit_test(test_against_list),          cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
