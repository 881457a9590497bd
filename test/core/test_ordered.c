/* SPDX-License-Identifier: MIT */
/* The tree of pages by content against a plain list: what is found, the shape of the tree, pages whose
 * contents change while they are in it, and failing memory. */
#include "pages.h"

#include "core/ordered.h"

/* Of a subtree: no red node has a red child, every way down has as many black nodes, parents are right.
 * Returns the number of black nodes on each way down. */
static unsigned check_shape(const struct sp_ordered_node *node, const struct sp_ordered_node *parent,
                            uint64_t *nodes) {
    if (!node)
        return 1;
    (*nodes)++;
    bool red = RB_COLOR(node, link) == RB_RED;
    assert_ptr_equal(RB_PARENT(node, link), parent);
    assert_false(red && parent && RB_COLOR(parent, link) == RB_RED);
    assert_true(sp_ordered_has(node));
    unsigned left = check_shape(RB_LEFT(node, link), node, nodes);
    assert_int_equal(left, check_shape(RB_RIGHT(node, link), node, nodes));
    return left + !red;
}

static void check_tree(const struct sp_ordered *o) {
    uint64_t nodes = 0;
    check_shape(RB_ROOT(&o->root), NULL, &nodes);
    assert_int_equal(nodes, o->nodes);
}

/* Into the tree, if nothing in it has the page's content. */
static bool add(struct sp_ordered *o, uint64_t number) {
    struct sp_ordered_node *found = NULL, *node = sp_ordered_node_get(o, number);
    uint64_t path;
    assert_non_null(node);
    assert_int_equal(node->number, number);
    if (sp_ordered_search(o, pages[number], &found, &path) != SP_ORDERED_NONE)
        return false;
    sp_ordered_insert(o, node, path);
    return true;
}

static void take(struct sp_ordered *o, uint64_t number) {
    sp_ordered_node_drop(o, sp_ordered_node(o, number));
    assert_null(sp_ordered_node(o, number));
}

static void check_against_list(struct sp_ordered *o, const bool *in) {
    for (uint64_t i = 0; i < PAGES_MAX; i++) {
        struct sp_ordered_node *found = NULL;
        uint64_t path;
        enum sp_ordered_found f = sp_ordered_search(o, pages[i], &found, &path);
        bool wanted = false;
        for (uint64_t k = 0; k < PAGES_MAX; k++)
            wanted |= in[k] && !memcmp(pages[k], pages[i], SP_PAGE_SIZE);
        assert_int_equal(f, wanted ? SP_ORDERED_EQUAL : SP_ORDERED_NONE);
        assert_true(!wanted || (in[found->number] && !memcmp(pages[found->number], pages[i], SP_PAGE_SIZE)));
    }
}

static void test_finds_what_is_there(void **state) {
    struct test_memory memory = {0};
    struct sp_alloc alloc = test_memory_alloc(&memory);
    struct test_random random = {1};
    struct sp_ordered o;
    bool in[PAGES_MAX] = {false};
    sp_ordered_init(&o, &alloc, page_read, NULL);
    for (uint64_t i = 0; i < PAGES_MAX; i++)
        page_write(i, (unsigned)test_random_below(&random, PAGES_MAX / 2));
    for (unsigned step = 0; step < 6000; step++) {
        uint64_t number = test_random_below(&random, PAGES_MAX);
        if (in[number])
            take(&o, number);
        in[number] = !in[number] && add(&o, number);
        if (step % 50 == 0)
            check_tree(&o);
        if (step % 1500 == 0)
            check_against_list(&o, in);
    }
    sp_ordered_clear(&o);
    assert_int_equal(o.nodes, 0);
    for (uint64_t i = 0; i < PAGES_MAX; i++)
        assert_true(!in[i] || !sp_ordered_has(sp_ordered_node(&o, i)));
    for (uint64_t i = 0; i < PAGES_MAX; i++)
        if (sp_ordered_node(&o, i))
            take(&o, i);
    assert_true(memory.bytes < 64 * 1024); /* the blocks have gone, the table of them is left */
    sp_ordered_deinit(&o);
    assert_int_equal(memory.bytes, 0);
}

/* Each content that is compared is read once: also when the page is put where the search ended. */
static void test_reads_once(void **state) {
    struct test_memory memory = {0};
    struct sp_alloc alloc = test_memory_alloc(&memory);
    struct sp_ordered o;
    sp_ordered_init(&o, &alloc, page_read, NULL);
    pages_read = 0;
    for (uint64_t i = 0; i < PAGES_MAX; i++) {
        page_write(i, (unsigned)i);
        assert_true(add(&o, i));
    }
    assert_int_equal(o.compared, pages_read);
    assert_true(pages_read <= PAGES_MAX * 2 * 10); /* 2 log2(n) */
    sp_ordered_deinit(&o);
    assert_int_equal(memory.bytes, 0);
}

/* Contents change while pages are in the tree: it stays a tree, everything can be taken out of it, and what
 * could not be had is named. */
static void test_contents_change(void **state) {
    struct test_memory memory = {0};
    struct sp_alloc alloc = test_memory_alloc(&memory);
    struct test_random random = {2};
    struct sp_ordered o;
    bool in[PAGES_MAX] = {false};
    sp_ordered_init(&o, &alloc, page_read, NULL);
    for (unsigned step = 0; step < 20000; step++) {
        uint64_t number = test_random_below(&random, PAGES_MAX);
        page_write(test_random_below(&random, PAGES_MAX), (unsigned)test_random_next(&random));
        if (in[number])
            take(&o, number);
        in[number] = !in[number] && add(&o, number);
        if (step % 500 == 0)
            check_tree(&o);
    }
    struct sp_ordered_node *found = NULL;
    uint64_t path, root = RB_ROOT(&o.root)->number;
    pages_gone[root] = true;
    assert_int_equal(sp_ordered_search(&o, pages[0], &found, &path), SP_ORDERED_LOST);
    assert_int_equal(found->number, root);
    pages_gone[root] = false;
    for (uint64_t i = 0; i < PAGES_MAX; i++)
        if (in[i])
            take(&o, i);
    assert_int_equal(o.nodes, 0);
    sp_ordered_deinit(&o);
    assert_int_equal(memory.bytes, 0);
}

static void test_no_memory(void **state) {
    for (uint64_t at = 1;; at++) {
        struct test_memory memory = {.fail_at = at, .fail_onwards = true};
        struct sp_alloc alloc = test_memory_alloc(&memory);
        struct sp_ordered o;
        sp_ordered_init(&o, &alloc, page_read, NULL);
        for (uint64_t i = 0; i < PAGES_MAX; i += 64)
            if (!sp_ordered_node_get(&o, i))
                assert_null(sp_ordered_node(&o, i));
        sp_ordered_deinit(&o);
        assert_int_equal(memory.bytes, 0);
        if (!memory.failures)
            return;
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_finds_what_is_there),
        cmocka_unit_test(test_reads_once),
        cmocka_unit_test(test_contents_change),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
