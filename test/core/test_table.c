/* SPDX-License-Identifier: MIT */
/* The multi-map against a plain array, with keys that crowd, tables of several shapes, and failing memory. */
#include "core_test.h"

#include "core/table.h"

#include <errno.h>

#define PAIRS_MAX 3000

struct pair {
    uint64_t key, value;
    bool seen;
};

struct model {
    struct sp_table table;
    struct pair pair[PAIRS_MAX];
    size_t n;
    struct test_random random;
    uint64_t key_mask;
};

/* Crowded on purpose: only a few bits of a key vary, so many share a home or a shard. */
static uint64_t key_make(struct model *m) {
    uint64_t key = test_random_next(&m->random) & m->key_mask;
    return key ? key : 1;
}

static void check_key(struct model *m, uint64_t key) {
    uint64_t values[PAIRS_MAX], first;
    size_t n = sp_table_collect(&m->table, (sp_fp){key}, values, PAIRS_MAX), wanted = 0;
    for (size_t i = 0; i < m->n; i++) {
        if (m->pair[i].key != key)
            continue;
        assert_true(wanted < n);
        assert_true(values[wanted] == m->pair[i].value); /* oldest first */
        wanted++;
    }
    assert_int_equal(n, wanted);
    assert_int_equal(sp_table_find(&m->table, (sp_fp){key}, &first), wanted > 0);
    assert_true(wanted == 0 || first == values[0]);
}

static void check_all(struct model *m) {
    assert_true(m->table.count == m->n);
    for (size_t i = 0; i < m->n; i++)
        check_key(m, m->pair[i].key);
}

static void insert_random(struct model *m) {
    if (m->n == PAIRS_MAX)
        return;
    struct pair p = {key_make(m), m->n ? m->pair[m->n - 1].value + 1 : 0, false};
    assert_int_equal(sp_table_insert(&m->table, (sp_fp){p.key}, p.value), 0);
    m->pair[m->n++] = p;
}

static void remove_random(struct model *m) {
    if (m->n == 0)
        return;
    size_t i = (size_t)test_random_below(&m->random, m->n);
    assert_true(sp_table_remove(&m->table, (sp_fp){m->pair[i].key}, m->pair[i].value));
    assert_false(sp_table_remove(&m->table, (sp_fp){m->pair[i].key}, m->pair[i].value));
    m->n--;
    memmove(&m->pair[i], &m->pair[i + 1], (m->n - i) * sizeof *m->pair);
}

static void replace_random(struct model *m) {
    if (m->n == 0)
        return;
    struct pair *p = &m->pair[test_random_below(&m->random, m->n)];
    uint64_t to = p->value | UINT64_C(1) << 63;
    assert_true(sp_table_replace(&m->table, (sp_fp){p->key}, p->value, to));
    assert_true(sp_table_replace(&m->table, (sp_fp){p->key}, to, p->value));
    assert_false(sp_table_replace(&m->table, (sp_fp){p->key}, to, p->value));
}

static void live(unsigned shard_bits, uint64_t key_mask, uint64_t seed) {
    static struct model m;
    struct test_memory memory = {0};
    struct sp_alloc alloc = test_memory_alloc(&memory);
    m = (struct model){.random = {seed}, .key_mask = key_mask};
    sp_table_init(&m.table, &alloc, shard_bits);
    for (int phase = 0; phase < 6; phase++) {
        uint64_t insert_percent = phase % 2 ? 30 : 70;
        for (int i = 0; i < 4000; i++) {
            if (test_random_below(&m.random, 100) < insert_percent)
                insert_random(&m);
            else
                remove_random(&m);
            replace_random(&m);
            check_key(&m, key_make(&m));
        }
        check_all(&m);
    }
    while (m.n > 0)
        remove_random(&m);
    sp_table_deinit(&m.table);
    assert_true(memory.bytes == 0);
}

static void random_lives(void **state) {
    for (uint64_t seed = 1; seed <= 3; seed++) {
        live(0, UINT64_MAX, seed);
        live(3, UINT64_MAX, seed + 10);
        live(10, UINT64_MAX, seed + 20);
        live(2, UINT64_C(0xff) << 56, seed + 30);         /* 255 keys with a dozen values each */
        live(0, UINT64_C(0xfff), seed + 40);              /* all homes at the start */
        live(4, UINT64_C(0xf000000000000fff), seed + 50); /* of each shard */
    }
}

/* Homes at the end of the array: the entries go round to its start. */
static void entries_wrap_around(void **state) {
    struct test_memory memory = {0};
    struct sp_alloc alloc = test_memory_alloc(&memory);
    struct sp_table t;
    sp_table_init(&t, &alloc, 0);
    for (uint64_t i = 0; i < 500; i++)
        assert_int_equal(sp_table_insert(&t, (sp_fp){UINT64_MAX - i}, i), 0);
    for (uint64_t i = 0, v; i < 500; i++)
        assert_true(sp_table_find(&t, (sp_fp){UINT64_MAX - i}, &v) && v == i);
    for (uint64_t i = 0; i < 500; i += 2)
        assert_true(sp_table_remove(&t, (sp_fp){UINT64_MAX - i}, i));
    for (uint64_t i = 0, v; i < 500; i++)
        assert_int_equal(sp_table_find(&t, (sp_fp){UINT64_MAX - i}, &v), i % 2 == 1);
    sp_table_deinit(&t);
    assert_true(memory.bytes == 0);
}

/* Keys chosen to collide cost bounded time, then are refused; honest ones go on. */
static void hostile_keys_are_refused(void **state) {
    struct test_memory memory = {0};
    struct sp_alloc alloc = test_memory_alloc(&memory);
    struct sp_table t;
    sp_table_init(&t, &alloc, 1);
    uint64_t n = 0, v;
    while (n < 4 * SP_TABLE_PROBES_MAX && sp_table_insert(&t, (sp_fp){n + 1}, n) == 0)
        n++;
    assert_in_range(n, SP_TABLE_PROBES_MAX / 2, SP_TABLE_PROBES_MAX + 2);
    for (uint64_t i = 0; i < n; i++)
        assert_true(sp_table_find(&t, (sp_fp){i + 1}, &v) && v == i);
    assert_false(sp_table_find(&t, (sp_fp){n + 1}, &v));
    assert_int_equal(sp_table_insert(&t, (sp_fp){UINT64_C(1) << 63}, 7), 0);
    assert_true(t.count == n + 1);
    sp_table_deinit(&t);
    assert_true(memory.bytes == 0);
}

/* At most 24 bytes for each entry at every moment, the one with two copies of a shard included. */
static void memory_stays_within_bounds(void **state) {
    struct test_memory memory = {0};
    struct sp_alloc alloc = test_memory_alloc(&memory);
    struct sp_table t;
    struct test_random r = {6};
    sp_table_init(&t, &alloc, 8);
    for (uint64_t i = 1; i <= 200000; i++) {
        assert_int_equal(sp_table_insert(&t, (sp_fp){test_random_next(&r) | 1}, i), 0);
        if (i >= 20000)
            assert_true(memory.bytes <= 24 * i);
    }
    sp_table_deinit(&t);
    assert_true(memory.bytes == 0);
}

static void failed_memory_changes_nothing(void **state) {
    for (uint64_t fail_at = 1; fail_at < 60; fail_at++) {
        static struct model m;
        struct test_memory memory = {.fail_at = fail_at};
        struct sp_alloc alloc = test_memory_alloc(&memory);
        m = (struct model){.random = {fail_at}, .key_mask = UINT64_MAX};
        sp_table_init(&m.table, &alloc, 2);
        for (size_t i = 0; i < 400; i++) {
            struct pair p = {key_make(&m), i, false};
            uint64_t failures = memory.failures;
            int r = sp_table_insert(&m.table, (sp_fp){p.key}, p.value);
            assert_int_equal(r, memory.failures > failures ? -ENOMEM : 0);
            if (r == 0)
                m.pair[m.n++] = p;
        }
        check_all(&m);
        while (m.n > 0)
            remove_random(&m);
        assert_true(memory.failures == 1 || memory.gets < fail_at);
        sp_table_deinit(&m.table);
        assert_true(memory.bytes == 0);
    }
}

/* A walk in small steps, with changes between them: what stays is met. */
static void walk_meets_all_that_stays(void **state) {
    for (uint64_t seed = 1; seed <= 40; seed++) {
        static struct model m;
        struct test_memory memory = {0};
        struct sp_alloc alloc = test_memory_alloc(&memory);
        m = (struct model){.random = {seed},
                           .key_mask = seed % 2 ? UINT64_MAX : UINT64_C(0xc0000000000003ff)};
        sp_table_init(&m.table, &alloc, 2);
        for (int i = 0; i < 1000; i++)
            insert_random(&m);
        struct sp_table_place place = {0};
        bool grow = seed % 3 > 0;
        while (!sp_table_walked(&m.table, &place)) {
            size_t buckets = 1 + (size_t)test_random_below(&m.random, 40);
            sp_fp key;
            uint64_t value;
            while (sp_table_walk(&m.table, &place, &buckets, &key, &value)) {
                for (size_t i = 0; i < m.n; i++)
                    if (m.pair[i].key == key.v && m.pair[i].value == value)
                        m.pair[i].seen = true;
            }
            for (uint64_t i = test_random_below(&m.random, 20); i > 0; i--) {
                if (test_random_below(&m.random, 8) < (grow ? 6 : 2)) {
                    insert_random(&m);
                    if (m.n < PAIRS_MAX)
                        m.pair[m.n - 1].seen = true; /* came later: may be missed */
                } else {
                    remove_random(&m);
                }
            }
            sp_table_walk_changed(&place);
        }
        for (size_t i = 0; i < m.n; i++)
            assert_true(m.pair[i].seen);
        sp_table_deinit(&m.table);
        assert_true(memory.bytes == 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_lives),
        cmocka_unit_test(entries_wrap_around),
        cmocka_unit_test(hostile_keys_are_refused),
        cmocka_unit_test(memory_stays_within_bounds),
        cmocka_unit_test(failed_memory_changes_nothing),
        cmocka_unit_test(walk_meets_all_that_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
