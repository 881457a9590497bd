/* SPDX-License-Identifier: MIT */
/* Fingerprints that carry a node: what they keep, what can be told from them, and that the index keeps them
 * apart. */
#include "core_test.h"

#include "core/domain.h"
#include "core/node.h"

static const int nodes[] = {SP_NODE_ANY, 0, 1, 2, 63, 511, SP_NODE_MAX};
#define NODES (sizeof nodes / sizeof *nodes)

static struct sp_key key;
static uint8_t page[SP_PAGE_SIZE], other[SP_PAGE_SIZE];

static int begin(void **state) {
    static const uint8_t random[32] = {1, 2, 3};
    sp_key_init(&key, random);
    for (size_t i = 0; i < SP_PAGE_SIZE; i++) {
        page[i] = (uint8_t)(i * 7);
        other[i] = (uint8_t)(i * 7 + (i == 2000));
    }
    return 0;
}

static void a_fingerprint_stays_one_of_its_kind(void **state) {
    sp_fp whole = sp_fingerprint(&key, page), probe = sp_probe(&key, page);
    assert_true(sp_fp_on_node(whole, SP_NODE_ANY).v == whole.v);
    for (size_t i = 0; i < NODES; i++) {
        sp_fp w = sp_fp_on_node(whole, nodes[i]), p = sp_fp_on_node(probe, nodes[i]);
        assert_true(sp_fp_whole(w) && !sp_fp_whole(p));
        assert_int_equal(sp_fp_trace(w), sp_fp_trace(p));
        for (size_t k = 0; k < i; k++)
            assert_true(sp_fp_on_node(whole, nodes[k]).v != w.v && sp_fp_on_node(probe, nodes[k]).v != p.v);
    }
    /* Also where the bits are those of the node. */
    assert_true(sp_fp_on_node((sp_fp){UINT64_C(1) << SP_NODE_SHIFT}, 0).v != 0);
}

static void the_node_can_be_told(void **state) {
    sp_fp whole = sp_fingerprint(&key, page), probe = sp_probe(&key, page);
    for (size_t i = 0; i < NODES; i++) {
        int node = 77;
        assert_true(sp_fp_node(sp_fp_on_node(whole, nodes[i]), whole, &node) && node == nodes[i]);
        assert_true(sp_fp_node(sp_fp_on_node(probe, nodes[i]), probe, &node) && node == nodes[i]);
        node = 77;
        assert_false(sp_fp_node(sp_fp_on_node(whole, nodes[i]), sp_fingerprint(&key, other), &node));
        assert_false(sp_fp_node(sp_fp_on_node(whole, nodes[i]), probe, &node));
        assert_int_equal(node, 77);
    }
    int node;
    assert_false(sp_fp_node(sp_fp_on_node(whole, SP_NODE_MAX + 1), whole, &node));
    assert_false(sp_fp_node((sp_fp){whole.v ^ UINT64_MAX << SP_NODE_SHIFT}, whole, &node));
}

/* ---- in the index ---- */

static struct sp_domain *d;
static struct test_memory memory;

static void on_punch(void *ctx, sp_store_page first, uint64_t n) {
}

static void on_hint(void *ctx, sp_client client, sp_page p) {
}

static struct sp_answer ask(sp_client client, uint64_t number, sp_fp fp, int node) {
    struct sp_query q = {{number}, sp_fp_on_node(fp, node), {0}};
    struct sp_answer a;
    if (sp_fp_whole(fp))
        q.probe = sp_fp_on_node(sp_probe(&key, page), node);
    sp_domain_ask(d, client, &q, 1, &a);
    return a;
}

static sp_store_page publish(sp_client client, uint64_t number, sp_fp fp, int node) {
    struct sp_query q = {{number}, sp_fp_on_node(fp, node), {0}};
    sp_fp whole = sp_fp_on_node(sp_fingerprint(&key, page), node);
    struct sp_answer a;
    sp_domain_publish(d, client, q, whole, &a);
    assert_int_equal(a.kind, SP_ANSWER_SEND);
    assert_int_equal(
        sp_domain_publish_commit(d, client, q, whole, sp_fp_on_node(sp_probe(&key, page), node), a.store), 0);
    return a.store;
}

/* Asked about by probes or as a whole: two pages of each node share, and none with one of the other. */
static void pages_of_two_nodes_never_meet(void **state) {
    for (unsigned whole = 0; whole < 2; whole++) {
        struct sp_alloc alloc = test_memory_alloc(&memory);
        struct sp_domain_events events = {.punch = on_punch, .hint = on_hint};
        sp_fp fp = whole ? sp_fingerprint(&key, page) : sp_probe(&key, page);
        sp_store_page store[3];
        sp_client a, b;
        assert_int_equal(sp_domain_new(&alloc, &events, &d), 0);
        assert_int_equal(sp_domain_client_add(d, &a), 0);
        assert_int_equal(sp_domain_client_add(d, &b), 0);
        for (int node = 0; node < 3; node++)
            assert_int_equal(ask(a, 100 + (uint64_t)node, fp, node).kind, SP_ANSWER_UNKNOWN);
        for (int node = 0; node < 3; node++) {
            assert_int_equal(ask(b, 200 + (uint64_t)node, fp, node).kind, SP_ANSWER_SEND);
            store[node] = publish(b, 200 + (uint64_t)node, fp, node);
        }
        for (int node = 0; node < 3; node++) {
            struct sp_answer answer = ask(a, 100 + (uint64_t)node, fp, node);
            assert_int_equal(answer.kind, SP_ANSWER_SHARE);
            assert_true(answer.store.v == store[node].v);
            assert_true(store[node].v != store[(node + 1) % 3].v);
        }
        assert_int_equal(ask(a, 300, fp, SP_NODE_ANY).kind, SP_ANSWER_UNKNOWN);
        d = sp_domain_free(d);
        assert_int_equal(memory.bytes, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(a_fingerprint_stays_one_of_its_kind, begin),
        cmocka_unit_test_setup(the_node_can_be_told, begin),
        cmocka_unit_test_setup(pages_of_two_nodes_never_meet, begin),
    };
    return cmocka_run_group_tests_name("core/node", tests, NULL, NULL);
}
