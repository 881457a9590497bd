/* SPDX-License-Identifier: MIT */
/*
 * The arena: blocks are zeroed, aligned, apart from each other, used again; all goes back at the end.
 */
#include "os_test.h"

#include "os/memory.h"
#include "os/proc.h"

static struct sp_memory *arena;
static struct sp_alloc heap;

static int setup(void **state) {
    must(sp_memory_new(false, &arena), "arena");
    heap = sp_memory_alloc(arena);
    return 0;
}

static int teardown(void **state) {
    arena = sp_memory_free(arena);
    assert_null(arena);
    return 0;
}

static bool all_zero(const unsigned char *p, size_t n) {
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

#define BLOCKS 600

/* Random sizes and order against a record of what each block holds. */
static void blocks_are_zeroed_and_apart(void **state) {
    static struct {
        unsigned char *at, mark;
        size_t bytes;
    } b[BLOCKS];
    uint32_t seed = 12345;
    for (int round = 0; round < 30000; round++) {
        seed = seed * 1664525u + 1013904223u;
        size_t i = (seed >> 8) % BLOCKS;
        if (b[i].at) {
            for (size_t k = 0; k < b[i].bytes; k++)
                assert_int_equal(b[i].at[k], b[i].mark);
            sp_alloc_put(&heap, b[i].at, b[i].bytes);
            b[i].at = NULL;
            continue;
        }
        unsigned shift = seed >> 20 & 15;
        size_t bytes = ((size_t)1 << shift) + (seed >> 4) % ((size_t)1 << shift);
        if (round % 500 == 0)
            bytes += 100000;
        b[i].bytes = bytes;
        b[i].mark = (unsigned char)(round % 255 + 1);
        b[i].at = sp_alloc_get(&heap, bytes);
        assert_non_null(b[i].at);
        assert_int_equal((uintptr_t)b[i].at % 16, 0);
        assert_true(all_zero(b[i].at, bytes));
        memset(b[i].at, b[i].mark, bytes);
    }
    for (size_t i = 0; i < BLOCKS; i++)
        sp_alloc_put(&heap, b[i].at, b[i].bytes);
    memset(b, 0, sizeof(b));
}

static void small_blocks_are_used_again(void **state) {
    size_t start = sp_memory_bytes(arena);
    for (int i = 0; i < 100000; i++) {
        void *p = sp_alloc_get(&heap, 1000);
        assert_non_null(p);
        sp_alloc_put(&heap, p, 1000);
    }
    assert_int_equal(sp_memory_bytes(arena), start);
}

static void large_blocks_go_back(void **state) {
    size_t start = sp_memory_bytes(arena);
    char *p = sp_alloc_get(&heap, 8 << 20);
    assert_non_null(p);
    assert_true(sp_memory_bytes(arena) >= start + (8 << 20));
    p[(8 << 20) - 1] = 1;
    sp_alloc_put(&heap, p, 8 << 20);
    assert_int_equal(sp_memory_bytes(arena), start);
    assert_int_equal(sp_advise((uintptr_t)p & ~(PAGE - 1), PAGE, MADV_NORMAL), -ENOMEM);
}

static void sizes_at_the_edges(void **state) {
    static const size_t sizes[] = {0, 1, 15, 16, 17, 32767, 32768, 32769, 65535, 65536, 65537};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++) {
        char *p = sp_alloc_get(&heap, sizes[i]);
        assert_non_null(p);
        memset(p, 1, sizes[i]);
        sp_alloc_put(&heap, p, sizes[i]);
    }
    assert_null(sp_alloc_get(&heap, SIZE_MAX));
    assert_null(sp_alloc_get(&heap, SIZE_MAX / 2));
    sp_alloc_put(&heap, NULL, 5);
    assert_null(sp_memory_free(NULL));
}

static void chunks_are_used_up(void **state) {
    size_t total = 0;
    for (int i = 0; i < 3000; i++, total += 1024)
        assert_non_null(sp_alloc_get(&heap, 1024));
    assert_true(sp_memory_bytes(arena) <= total + 2 * (1 << 20));
}

static bool add_up(void *ctx, const struct sp_mapping *m) {
    uint64_t *bytes = ctx;
    if (m->attributes & SP_ATTR_DONTFORK)
        *bytes += m->end - m->start;
    return true;
}

static uint64_t dontfork_bytes(void) {
    uint64_t bytes = 0;
    assert_int_equal(sp_proc_mappings(0, UINT64_MAX, add_up, &bytes), 0);
    return bytes;
}

static void fork_may_leave_it_out(void **state) {
    struct sp_memory *m;
    uint64_t before = dontfork_bytes();
    assert_int_equal(sp_memory_new(true, &m), 0);
    struct sp_alloc a = sp_memory_alloc(m);
    assert_non_null(sp_alloc_get(&a, 1 << 20));
    assert_non_null(sp_alloc_get(&a, 100));
    assert_int_equal(dontfork_bytes(), before + sp_memory_bytes(m));
    sp_memory_free(m);
    assert_int_equal(dontfork_bytes(), before);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(blocks_are_zeroed_and_apart), TEST(small_blocks_are_used_again), TEST(large_blocks_go_back),
        TEST(sizes_at_the_edges),          TEST(chunks_are_used_up),          TEST(fork_may_leave_it_out),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
