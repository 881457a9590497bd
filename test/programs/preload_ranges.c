/* SPDX-License-Identifier: MIT */
/* The shim's sets of ranges against a plain table of pages, and read while they are being changed. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "preload/ranges.h"

#define SPACE 200u

struct model {
    bool in[SPACE];
};

static bool model_overlap(const struct model *m, unsigned start, unsigned end) {
    for (unsigned i = start; i < end; i++)
        if (m->in[i])
            return true;
    return false;
}

static void assert_same(const struct ranges *r, const struct model *m) {
    for (uint32_t i = 0; i < r->n; i++) {
        assert_true(r->items[i].start < r->items[i].end);
        if (i)
            assert_true(r->items[i - 1].end < r->items[i].start);
    }
    for (unsigned i = 0; i < SPACE; i++)
        assert_int_equal(ranges_overlap(r, i, i + 1), m->in[i]);
}

static void test_against_model(void **state) {
    struct sp_range items[SPACE];
    struct ranges r = {.items = items, .room = SPACE};
    struct model m = {{false}};
    srand(7);
    for (int round = 0; round < 20000; round++) {
        unsigned start = (unsigned)rand() % (SPACE - 20), end = start + 1 + (unsigned)rand() % 20;
        bool add = rand() % 2;
        if (add)
            assert_true(ranges_add(&r, start, end));
        else
            ranges_cut(&r, start, end);
        memset(&m.in[start], add, end - start);
        assert_same(&r, &m);
        start = (unsigned)rand() % (SPACE - 20), end = start + 1 + (unsigned)rand() % 20;
        assert_int_equal(ranges_overlap(&r, start, end), model_overlap(&m, start, end));
        struct sp_range part = {.end = start};
        unsigned expected = start;
        while (ranges_first(&r, part.end, end, &part)) {
            assert_false(model_overlap(&m, expected, (unsigned)part.start));
            for (uint64_t i = part.start; i < part.end; i++)
                assert_true(m.in[i]);
            expected = (unsigned)part.end;
        }
        assert_false(model_overlap(&m, expected, end));
    }
}

static void test_empty(void **state) {
    struct ranges r = {0};
    struct sp_range part;
    assert_false(ranges_overlap(&r, 0, UINT64_MAX));
    assert_false(ranges_first(&r, 0, UINT64_MAX, &part));
    assert_false(ranges_add(&r, 1, 2));
    ranges_cut(&r, 0, UINT64_MAX);
    assert_false(ranges_cover(&r, 1, 2));
}

/* Full: what is refused changes nothing; a cut that finds no room errs to the side it was told. */
static void test_full(void **state) {
    for (int keep = 0; keep < 2; keep++) {
        struct sp_range items[2];
        struct ranges r = {.items = items, .room = 2, .keep = keep};
        assert_true(ranges_add(&r, 10, 30));
        assert_true(ranges_add(&r, 50, 60));
        assert_false(ranges_add(&r, 70, 80));
        assert_true(ranges_add(&r, 60, 80));
        assert_true(ranges_cover(&r, 50, 80));
        ranges_cut(&r, 15, 20);
        assert_int_equal(ranges_overlap(&r, 15, 20), keep);
        assert_int_equal(ranges_overlap(&r, 10, 15), keep);
        assert_true(ranges_cover(&r, 20, 30));
        ranges_cut(&r, 0, 100);
        assert_int_equal(r.n, 0);
    }
}

static struct sp_range shared_items[64];
static struct ranges shared = {.items = shared_items, .room = 64};
static bool done;

/* One range stays in, one stays out; whatever comes and goes beside them, a reader is told so. */
static void *reader(void *arg) {
    uintptr_t wrong = 0;
    while (!__atomic_load_n(&done, __ATOMIC_RELAXED)) {
        wrong += !ranges_overlap(&shared, 1000, 1001);
        wrong += ranges_overlap(&shared, 2000, 2001);
    }
    return (void *)wrong;
}

static void test_readers(void **state) {
    pthread_t threads[2];
    ranges_add(&shared, 1000, 1001);
    for (int i = 0; i < 2; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, reader, NULL), 0);
    srand(3);
    for (int round = 0; round < 300000; round++) {
        uint64_t start = (uint64_t)(rand() % 30) * 100 + 10;
        if (rand() % 2)
            ranges_add(&shared, start, start + 20);
        else
            ranges_cut(&shared, start - 5, start + 10);
    }
    __atomic_store_n(&done, true, __ATOMIC_RELAXED);
    for (int i = 0; i < 2; i++) {
        void *wrong;
        pthread_join(threads[i], &wrong);
        assert_ptr_equal(wrong, NULL);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_model),
        cmocka_unit_test(test_empty),
        cmocka_unit_test(test_full),
        cmocka_unit_test(test_readers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
