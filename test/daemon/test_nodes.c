/* SPDX-License-Identifier: MIT */
/*
 * merge_across_nodes: clients that say on which nodes their pages lie, as workers do, and a daemon that keeps
 * them apart, or does not. When it can be changed, and that nobody who has not heard of it spoils it.
 */
#include "linked.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

#include "core/node.h"
#include "os/mapping.h"
#include "os/nodes.h"
#include "os/store.h"

static int setup(void **state) {
    static const char *const apart[] = {"--set", "merge_across_nodes=0", NULL};
    linked_start(*state ? apart : NULL);
    return 0;
}

static int teardown(void **state) {
    linked_stop();
    return 0;
}

static struct sp_query question(const uint8_t *page, uint64_t at, int node) {
    struct sp_query q;
    queries_of(&welcome, page, 1, at, &q);
    q.fp = sp_fp_on_node(q.fp, node);
    return q;
}

static struct sp_answer ask(struct sp_link *l, const uint8_t *page, uint64_t at, int node) {
    struct sp_query q = question(page, at, node);
    struct sp_answer answer;
    assert_int_equal(l->ops->ask(l, &q, 1, &answer), 0);
    return answer;
}

static struct sp_answer publish(struct sp_link *l, const uint8_t *page, uint64_t at, int node) {
    struct sp_query q = question(page, at, node);
    struct sp_answer answer;
    const void *content = page;
    assert_int_equal(l->ops->publish(l, &q, &content, 1, &answer), 0);
    return answer;
}

/* By two clients: all that a page of that node has to go through. */
static sp_store_page share(const uint8_t *page, uint64_t at, int node) {
    assert_int_equal(ask(a, page, at, node).kind, SP_ANSWER_UNKNOWN);
    assert_int_equal(ask(b, page, at, node).kind, SP_ANSWER_SEND);
    struct sp_answer answer = publish(b, page, at, node);
    assert_int_equal(answer.kind, SP_ANSWER_SHARE);
    assert_true(ask(a, page, at, node).store.v == answer.store.v);
    return answer.store;
}

static void give_back(struct sp_link *l, sp_store_page store) {
    struct sp_store_run run = {store, 1};
    assert_int_equal(l->ops->release(l, &run, 1), 0);
}

static void test_apart(void **state) {
    uint8_t *page = pages_new(1, 1);
    sp_store_page first = share(page, 5000, 0), second = share(page, 6000, 1);
    assert_true(first.v != second.v);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), 2);
    assert_true(ask(a, page, 7000, 0).store.v == first.v);
    assert_true(ask(b, page, 7000, 1).store.v == second.v);
    assert_int_equal(ask(b, page, 7001, 2).kind, SP_ANSWER_UNKNOWN);
    pages_free(page, 1);
}

/* Who has not heard of it: with one rule nothing is published by the other. */
static void test_late_clients(void **state) {
    uint8_t *page = pages_new(2, 1);
    int late = *state ? SP_NODE_ANY : 0, right = *state ? 0 : SP_NODE_ANY;
    assert_int_equal(ask(a, page, 5000, late).kind, SP_ANSWER_UNKNOWN);
    assert_int_equal(ask(b, page, 5000, late).kind, SP_ANSWER_SEND);
    assert_int_equal(publish(b, page, 5000, late).kind, SP_ANSWER_DECLINED);
    assert_int_equal(counter(&d, 0, SP_COUNTER_pages_shared), 0);
    share(page, 6000, right);
    /* What is not what was asked about is no page of any node. */
    const uint8_t *other = page + SP_PAGE_SIZE;
    assert_int_equal(ask(a, other, 7000, right).kind, SP_ANSWER_UNKNOWN);
    assert_int_equal(ask(b, other, 7000, right).kind, SP_ANSWER_SEND);
    struct sp_query q = question(other, 7000, right);
    struct sp_answer answer;
    const void *content = page;
    assert_int_equal(b->ops->publish(b, &q, &content, 1, &answer), 0);
    assert_int_equal(answer.kind, SP_ANSWER_DECLINED);
    pages_free(page, 2);
}

/* Changed only while nothing is shared, by whomever; the same value is no change. */
static void test_busy(void **state) {
    uint8_t *page = pages_new(1, 1);
    sp_store_page store;
    share_pages(a, b, &welcome, page, 1, &store);
    assert_int_equal(daemon_set(&d, NULL, "merge_across_nodes=0"), -EBUSY);
    assert_int_equal(daemon_set(&d, &(uid_t){0}, "merge_across_nodes=0,freeze_micros=99"), -EBUSY);
    assert_int_equal(daemon_set(&d, NULL, "merge_across_nodes=1,freeze_micros=98"), 0);
    told(a, SP_SETTING_freeze_micros, 98);
    /* Of another domain it may be. */
    assert_int_equal(daemon_set(&d, &(uid_t){0}, "run=2"), 0);
    assert_int_equal(daemon_set(&d, NULL, "merge_across_nodes=0"), -EBUSY);
    give_back(a, store);
    assert_int_equal(daemon_set(&d, NULL, "merge_across_nodes=0"), -EBUSY);
    give_back(b, store);
    counter_wait(&d, SP_COUNTER_pages_shared, 0);
    assert_int_equal(daemon_set(&d, NULL, "merge_across_nodes=0,run=1"), 0);
    told(a, SP_SETTING_merge_across_nodes, 0);
    told(b, SP_SETTING_merge_across_nodes, 0);
    sp_store_page first = share(page, 5000, 0), second = share(page, 6000, 1);
    assert_true(first.v != second.v);
    assert_int_equal(daemon_set(&d, NULL, "merge_across_nodes=1"), -EBUSY);
    pages_free(page, 1);
}

/* Whether this machine has such a node: then store pages must lie there (tools/two-nodes has two). */
static bool is_here(int node) {
    char path[64];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d", node);
    return access(path, F_OK) == 0;
}

static void lies_on(int segment, sp_store_page store, int node) {
    void *view;
    int found = -1;
    if (!is_here(node))
        return;
    assert_int_equal(sp_map_file(segment, store.v * SP_PAGE_SIZE, SP_PAGE_SIZE, false, &view), 0);
    (void)*(const volatile char *)view;
    const void *page = view;
    assert_int_equal(sp_nodes_of(&page, 1, &found), 0);
    assert_int_equal(found, node);
    assert_int_equal(sp_unmap(view, SP_PAGE_SIZE), 0);
}

/* Pages of several nodes in one message: each is written, on its node, and found again under that alone. */
static void test_mixed(void **state) {
    enum { N = 96 };
    uint8_t *pages = pages_new(N, 1);
    struct sp_query queries[N];
    struct sp_answer answers[N];
    const void *contents[N];
    int fd;
    for (size_t i = 0; i < N; i++) {
        queries[i] = question(pages + i * SP_PAGE_SIZE, 4096 + i, i % 5 ? 0 : (int)(i % 3));
        contents[i] = pages + i * SP_PAGE_SIZE;
    }
    assert_int_equal(a->ops->ask(a, queries, N, answers), 0);
    assert_int_equal(b->ops->ask(b, queries, N, answers), 0);
    for (size_t i = 0; i < N; i++)
        assert_int_equal(answers[i].kind, SP_ANSWER_SEND);
    assert_int_equal(b->ops->publish(b, queries, contents, N, answers), 0);
    assert_int_equal(b->ops->segment(b, 0, &fd), 0);
    for (size_t i = 0; i < N; i++) {
        uint8_t got[SP_PAGE_SIZE];
        assert_int_equal(answers[i].kind, SP_ANSWER_SHARE);
        assert_int_equal(sp_store_read(fd, answers[i].store.v, got, 1), 0);
        assert_memory_equal(got, contents[i], SP_PAGE_SIZE);
        int node = i % 5 ? 0 : (int)(i % 3);
        lies_on(fd, answers[i].store, node);
        assert_true(ask(a, contents[i], 9000 + i, node).store.v == answers[i].store.v);
        assert_int_equal(ask(a, contents[i], 9500 + i, node + 1).kind, SP_ANSWER_UNKNOWN);
    }
    pages_free(pages, N);
}

/* A whole window that is huge: all of the store's huge page lies where its first page was put. */
static void test_whole(void **state) {
    uint8_t *pages = pages_new(SP_WINDOW_PAGES, 1);
    static struct sp_query queries[SP_WINDOW_PAGES];
    static struct sp_answer answers[SP_WINDOW_PAGES];
    static const void *contents[SP_WINDOW_PAGES];
    int fd;
    for (int node = 0; node < 2; node++) {
        for (size_t i = 0; i < SP_WINDOW_PAGES; i++) {
            queries[i] = question(pages + i * SP_PAGE_SIZE, 4096 + i, node);
            contents[i] = pages + i * SP_PAGE_SIZE;
        }
        assert_int_equal(a->ops->ask(a, queries, SP_WINDOW_PAGES, answers), 0);
        assert_int_equal(b->ops->ask(b, queries, SP_WINDOW_PAGES, answers), 0);
        b->whole = true;
        assert_int_equal(b->ops->publish(b, queries, contents, SP_WINDOW_PAGES, answers), 0);
        assert_int_equal(b->ops->segment(b, 0, &fd), 0);
        for (size_t i = 0; i < SP_WINDOW_PAGES; i += 73) {
            assert_int_equal(answers[i].kind, SP_ANSWER_SHARE);
            lies_on(fd, answers[i].store, node);
        }
    }
    pages_free(pages, SP_WINDOW_PAGES);
}

int main(void) {
    static int yes = 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate_setup_teardown(test_apart, setup, teardown, &yes),
        cmocka_unit_test_prestate_setup_teardown(test_late_clients, setup, teardown, &yes),
        cmocka_unit_test_prestate_setup_teardown(test_late_clients, setup, teardown, NULL),
        cmocka_unit_test_prestate_setup_teardown(test_busy, setup, teardown, NULL),
        cmocka_unit_test_prestate_setup_teardown(test_mixed, setup, teardown, &yes),
        cmocka_unit_test_prestate_setup_teardown(test_whole, setup, teardown, &yes),
    };
    return cmocka_run_group_tests_name("daemon/nodes", tests, NULL, NULL);
}
