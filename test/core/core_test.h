/* SPDX-License-Identifier: MIT */
/*
 * For the tests of core/: cmocka, a random generator that one seed replays, and an allocator that notices
 * what is lost or given back wrongly and can be told to fail.
 */
#ifndef SP_TEST_CORE_TEST_H
#define SP_TEST_CORE_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs those above. */
#include <cmocka.h>

#include "core/alloc.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct test_random {
    uint64_t state;
};

static inline uint64_t test_random_next(struct test_random *r) {
    uint64_t x = r->state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
    return x ^ x >> 31;
}

/* 0 ... n - 1 */
static inline uint64_t test_random_below(struct test_random *r, uint64_t n) {
    return test_random_next(r) % n;
}

struct test_memory {
    uint64_t bytes;    /* outstanding */
    uint64_t gets;     /* so far */
    uint64_t failures; /* so far */
    uint64_t fail_at;  /* this get() fails, counted from 1; 0: none */
    bool fail_onwards; /* and all that follow */
};

/* In front of each allocation. */
union test_memory_head {
    size_t bytes;
    max_align_t align;
};

static inline void *test_memory_get(void *ctx, size_t bytes) {
    struct test_memory *m = ctx;
    m->gets++;
    if (m->fail_at > 0 && (m->gets == m->fail_at || (m->fail_onwards && m->gets > m->fail_at))) {
        m->failures++;
        return NULL;
    }
    union test_memory_head *head = calloc(1, sizeof *head + bytes);
    assert_non_null(head);
    head->bytes = bytes;
    m->bytes += bytes;
    return head + 1;
}

static inline void test_memory_put(void *ctx, void *memory, size_t bytes) {
    struct test_memory *m = ctx;
    if (!memory)
        return;
    union test_memory_head *head = (union test_memory_head *)memory - 1;
    assert_int_equal(head->bytes, bytes);
    m->bytes -= bytes;
    memset(memory, 0xa5, bytes); /* whoever still reads it shall notice */
    free(head);
}

static inline struct sp_alloc test_memory_alloc(struct test_memory *m) {
    return (struct sp_alloc){test_memory_get, test_memory_put, m};
}

#endif
