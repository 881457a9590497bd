/* SPDX-License-Identifier: MIT */
/*
 * On which node pages lie, and where pages of the store are put, on every node that the machine has. Where it
 * has one, that is not much: a guest with more shows the rest (docs/settings.md).
 */
#include "os_test.h"

#include <linux/mempolicy.h>

#include "os/nodes.h"
#include "os/store.h"

static bool is_online(int node) {
    char path[64];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d", node);
    return access(path, F_OK) == 0;
}

/* A node that has memory takes a page, the kernel being asked directly. */
static bool has_memory(int node) {
    char path[64], line[128];
    bool has = false;
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", node);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof line, f)) {
        const char *at = strstr(line, "MemFree:");
        has |= at && strtoull(at + 8, NULL, 10) > 1024;
    }
    if (f)
        fclose(f);
    return has;
}

static void policy_now(struct sp_nodes_policy *ret) {
    *ret = (struct sp_nodes_policy){0};
    must((int)sp_syscall(SYS_get_mempolicy, &ret->mode, ret->nodes, SP_NODES_WORDS * 64 + 1, 0, 0),
         "get_mempolicy");
}

static void pages_lie_on_nodes_or_nowhere(void **state) {
    char *p = pages_new(4);
    const void *pages[] = {p, p + PAGE, p + 2 * PAGE, p + 3 * PAGE, NULL, &is_online};
    int nodes[] = {-7, -7, -7, -7, -7, -7};
    p[0] = p[3 * PAGE] = 1;
    (void)*(volatile char *)(p + 2 * PAGE); /* the kernel's page of zeros */
    assert_int_equal(sp_nodes_of(pages, 6, nodes), 0);
    assert_true(nodes[0] >= 0 && is_online(nodes[0]));
    assert_true(nodes[3] >= 0 && is_online(nodes[3]));
    assert_true(nodes[1] < 0 && nodes[2] < 0 && nodes[4] < 0);
    pages_free(p, 4);
}

static void one_or_many(void **state) {
    int online = 0;
    for (int node = 0; node < SP_NODES_WORDS * 64; node++)
        online += is_online(node);
    assert_true(online <= 1 || sp_nodes_many());
    assert_true(sp_nodes_many() == sp_nodes_many());
}

static void a_policy_is_put_back(void **state) {
    struct sp_nodes_policy first, before, now;
    const uint64_t mask[SP_NODES_WORDS] = {1};
    policy_now(&first);
    assert_int_equal(sp_nodes_prefer(0, &before), 0);
    policy_now(&now);
    assert_int_equal(now.mode, MPOL_PREFERRED);
    assert_memory_equal(now.nodes, mask, sizeof mask);
    sp_nodes_restore(&before);
    policy_now(&now);
    assert_memory_equal(&now, &first, sizeof now);
    /* One that somebody has chosen, too. */
    must((int)sp_syscall(SYS_set_mempolicy, MPOL_BIND, mask, SP_NODES_WORDS * 64 + 1), "set_mempolicy");
    assert_int_equal(sp_nodes_prefer(0, &before), 0);
    sp_nodes_restore(&before);
    policy_now(&now);
    assert_true(now.mode == MPOL_BIND && now.nodes[0] == 1);
    sp_syscall(SYS_set_mempolicy, MPOL_DEFAULT, 0, 0);
}

/* And nothing is changed. */
static void no_such_node(void **state) {
    struct sp_nodes_policy first, before, now;
    policy_now(&first);
    assert_int_equal(sp_nodes_prefer(-1, &before), -EINVAL);
    assert_int_equal(sp_nodes_prefer(SP_NODES_WORDS * 64, &before), -EINVAL);
    if (!is_online(1000))
        assert_true(sp_nodes_prefer(1000, &before) < 0);
    policy_now(&now);
    assert_memory_equal(&now, &first, sizeof now);
}

/* Each lies where it was asked to lie, whatever CPU this runs on; one for a node that is not there is written
 * all the same. */
static void store_pages_lie_on_their_node(void **state) {
    struct sp_segment store;
    char *content = pages_new(1), got[PAGE];
    void *view;
    int seen = 0;
    pages_fill(content, 1, 1);
    must(sp_segment_init(&store), "segment");
    must(sp_map_file(store.fd_shared, 0, 1100 * PAGE, false, &view), "map");
    for (int node = 0; node < 1024; node++) {
        const void *page = (char *)view + (size_t)node * PAGE;
        int found = -1;
        assert_int_equal(sp_segment_write_on(&store, (uint64_t)node, content, 1, node), 0);
        if (!is_online(node) || !has_memory(node))
            continue;
        must(sp_segment_read(&store, (uint64_t)node, got), "read");
        (void)*(const volatile char *)page;
        assert_int_equal(sp_nodes_of(&page, 1, &found), 0);
        assert_int_equal(found, node);
        seen++;
    }
    assert_int_equal(sp_segment_write_on(&store, 1024, content, 1, -1), 0);
    assert_int_equal(sp_segment_read(&store, 1001, got), 0);
    assert_true(page_is(got, 1, 0));
    assert_true(seen >= 1);
    print_message("# nodes seen: %d\n", seen);
    must(sp_unmap(view, 1100 * PAGE), "unmap");
    sp_segment_deinit(&store);
    pages_free(content, 1);
}

static void a_huge_page_lies_where_its_first_page_does(void **state) {
    struct sp_segment store;
    char *content = pages_new(1);
    void *view;
    int huge = 0;
    pages_fill(content, 1, 1);
    must(sp_segment_init(&store), "segment");
    must(sp_map_file(store.fd_shared, 0, 4 * SP_WINDOW_SIZE, false, &view), "map");
    for (int node = 0; node < 4; node++) {
        uint64_t first = (uint64_t)node * SP_WINDOW_PAGES;
        if (!is_online(node) || !has_memory(node))
            continue;
        assert_int_equal(sp_segment_write_on(&store, first, content, 1, node), 0);
        if (sp_segment_huge(&store, first))
            continue; /* huge pages of shared memory are forbidden here, or there is none left */
        huge++;
        for (size_t i = 0; i < SP_WINDOW_PAGES; i += 73) {
            const void *page = (char *)view + (first + i) * PAGE;
            int found = -1;
            (void)*(const volatile char *)page;
            assert_int_equal(sp_nodes_of(&page, 1, &found), 0);
            assert_int_equal(found, node);
        }
    }
    print_message("# huge pages on nodes seen: %d\n", huge);
    must(sp_unmap(view, 4 * SP_WINDOW_SIZE), "unmap");
    sp_segment_deinit(&store);
    pages_free(content, 1);
}

int main(void) {
    if (access("/sys/devices/system/node", F_OK)) {
        printf("1..0 # SKIP a kernel without NUMA\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pages_lie_on_nodes_or_nowhere),
        cmocka_unit_test(one_or_many),
        cmocka_unit_test(a_policy_is_put_back),
        cmocka_unit_test(no_such_node),
        cmocka_unit_test(store_pages_lie_on_their_node),
        cmocka_unit_test(a_huge_page_lies_where_its_first_page_does),
    };
    return cmocka_run_group_tests_name("os/nodes", tests, NULL, NULL);
}
