/* SPDX-License-Identifier: MIT */
/*
 * Transparent huge pages: what keeps them whole and what splits them, when they are moved, watched, mapped
 * from the store, written to and given back. Merging 2 MiB as one rests on these.
 */
#include "os_test.h"

#include <linux/io_uring.h>
#include <sys/stat.h>

#include "os/store.h"
#include "os/thread.h"

#define H     SP_WINDOW_SIZE
#define PAGES SP_WINDOW_PAGES

static int uffd, pagemap;
static char *source, *scratch; /* two windows each */
static struct sp_segment segment;

static char *window_new(size_t n) {
    void *p;
    must(sp_map_new(n * H, H, &p), "map");
    return p;
}

/* How many pages of a window are mapped by a huge entry. */
static unsigned huge_pages(const void *window) {
    sp_bits bits;
    must(sp_pagemap_window(pagemap, SP_PAGEMAP_HUGE, (uintptr_t)window / H, 0, PAGES, &bits), "scan");
    return sp_bits_count(&bits);
}

static unsigned present_pages(const void *window) {
    sp_bits bits;
    must(sp_pagemap_window(pagemap, SP_PAGEMAP_PRESENT, (uintptr_t)window / H, 0, PAGES, &bits), "scan");
    return sp_bits_count(&bits);
}

/* Fills a window anew: a mapping of its own, not registered. */
static void make_huge(char *window) {
    must(sp_map_fresh((uintptr_t)window, H, PROT_READ | PROT_WRITE), "map");
    must(sp_advise((uintptr_t)window, H, MADV_HUGEPAGE), "hugepage");
    pages_fill(window, PAGES, 1);
    if (huge_pages(window) != PAGES) /* no free block was at hand */
        must(sp_advise((uintptr_t)window, H, MADV_COLLAPSE), "collapse");
    assert_int_equal(huge_pages(window), PAGES);
}

static int setup(void **state) {
    uffd = uffd_new(0);
    must(sp_pagemap_open(&pagemap), "pagemap");
    source = window_new(2);
    scratch = window_new(2);
    must(sp_segment_init(&segment), "segment");
    must(sp_uffd_register(uffd, (uintptr_t)scratch, 2 * H, SP_UFFD_MODE_MISSING), "register scratch");
    return 0;
}

static int teardown(void **state) {
    close(uffd);
    close(pagemap);
    must(sp_unmap(source, 2 * H), "unmap");
    must(sp_unmap(scratch, 2 * H), "unmap");
    sp_segment_deinit(&segment);
    return 0;
}

static int move(const void *to, const void *from, size_t bytes, size_t *moved) {
    return sp_uffd_move(uffd, pagemap, (uintptr_t)to, (uintptr_t)from, bytes, moved);
}

static void watch(unsigned mode) {
    assert_int_equal(sp_uffd_register(uffd, (uintptr_t)source, H, mode), 0);
}

static void window_is(const char *window, unsigned seed) {
    for (size_t i = 0; i < PAGES; i++)
        assert_true(page_is(window + i * PAGE, seed, i));
}

/* ---- moving ---- */

static void moves_whole_and_back(void **state) {
    size_t moved;
    make_huge(source);
    watch(SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    assert_int_equal(huge_pages(source), PAGES); /* registering it whole does not split it */
    assert_int_equal(move(scratch, source, H, &moved), 0);
    assert_int_equal(moved, H);
    assert_int_equal(huge_pages(scratch), PAGES);
    assert_int_equal(present_pages(source), 0);
    window_is(scratch, 1);
    assert_int_equal(move(source, scratch, H, &moved), 0);
    assert_int_equal(huge_pages(source), PAGES);
    assert_int_equal(present_pages(scratch), 0);
    window_is(source, 1);
}

/* A page table in the target's place, empty or not, splits what is moved there. It goes with the mapping, and
 * where the kernel frees page tables that a MADV_DONTNEED of all they cover has emptied (CONFIG_PT_RECLAIM,
 * Linux 6.14), with that. */
static void page_table_in_the_target_splits(void **state) {
    size_t moved;
    char *small = pages_new(1);
    page_fill(small, 9, 0);
    make_huge(source);
    watch(SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    assert_int_equal(move(scratch + 5 * PAGE, small, PAGE, &moved), 0);
    assert_int_equal(sp_advise((uintptr_t)scratch + 5 * PAGE, PAGE, MADV_DONTNEED), 0);
    assert_int_equal(move(scratch, source, H, &moved), 0);
    assert_int_equal(moved, H);
    assert_int_equal(huge_pages(scratch), 0);
    window_is(scratch, 1);
    pages_free(small, 1);
    /* The mapping made anew: no page table, and it must be registered anew. */
    make_huge(source);
    assert_int_equal(sp_map_fresh((uintptr_t)scratch, H, PROT_READ | PROT_WRITE), 0);
    assert_int_equal(sp_uffd_register(uffd, (uintptr_t)scratch, H, SP_UFFD_MODE_MISSING), 0);
    assert_int_equal(move(scratch, source, H, &moved), 0);
    assert_int_equal(huge_pages(scratch), PAGES);
    window_is(scratch, 1);
    /* Emptied as a whole it takes the next one whole. */
    assert_int_equal(sp_advise((uintptr_t)scratch, H, MADV_DONTNEED), 0);
    make_huge(source);
    assert_int_equal(move(scratch, source, H, &moved), 0);
    assert_int_equal(huge_pages(scratch), PAGES);
}

/* One page goes alone, and the mapping of the others is split. */
static void single_page_splits(void **state) {
    size_t moved;
    make_huge(source);
    watch(SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    assert_int_equal(move(scratch + 5 * PAGE, source + 5 * PAGE, PAGE, &moved), 0);
    assert_int_equal(huge_pages(source), 0);
    assert_int_equal(present_pages(source), PAGES - 1);
    assert_true(page_is(scratch + 5 * PAGE, 1, 5));
    assert_int_equal(move(source + 5 * PAGE, scratch + 5 * PAGE, PAGE, &moved), 0);
    window_is(source, 1);
}

static void refuses_occupied_targets_and_holes(void **state) {
    size_t moved;
    make_huge(source);
    watch(SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    assert_int_equal(move(scratch, source, H, &moved), 0);
    assert_int_equal(move(scratch + H, source, H, &moved), -ENOENT);
    assert_int_equal(moved, 0);
    make_huge(source);
    watch(SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    assert_int_equal(move(scratch, source, H, &moved), -EEXIST);
    assert_int_equal(moved, 0);
    assert_int_equal(huge_pages(source), PAGES);
    assert_int_equal(huge_pages(scratch), PAGES);
}

static void refuses_a_pin_anywhere_in_it(void **state) {
    struct io_uring_params params = {0};
    long ring = sp_syscall(SYS_io_uring_setup, 4, &params);
    if (ring < 0) {
        NOT_HERE("io_uring is not available here: %s", strerror((int)-ring));
    }
    make_huge(source);
    struct iovec part = {source + 300 * PAGE, PAGE};
    size_t moved;
    assert_int_equal(sp_syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &part, 1), 0);
    watch(SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    assert_int_equal(move(scratch, source, H, &moved), -EBUSY);
    assert_int_equal(moved, 0);
    assert_int_equal(huge_pages(source), PAGES);
    assert_int_equal(sp_syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, 0, 0), 0);
    close((int)ring);
    window_is(source, 1);
}

static void refuses_one_shared_with_a_child(void **state) {
    struct idler child;
    size_t moved;
    make_huge(source);
    watch(SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    idler_start(&child);
    assert_int_equal(move(scratch, source, H, &moved), -EBUSY);
    assert_int_equal(moved, 0);
    assert_int_equal(present_pages(source), PAGES);
    idler_end(&child);
    window_is(source, 1);
}

/* ---- watching ---- */

static unsigned written_pages(const void *window) {
    sp_bits bits;
    must(sp_pagemap_window(pagemap, SP_PAGEMAP_PEEK, (uintptr_t)window / H, 0, PAGES, &bits), "peek");
    return sp_bits_count(&bits);
}

static void arm(void) {
    sp_bits bits;
    watch(SP_UFFD_MODE_WP);
    must(sp_pagemap_window(pagemap, SP_PAGEMAP_WRITTEN, (uintptr_t)source / H, 0, PAGES, &bits), "arm");
    assert_int_equal(sp_bits_count(&bits), PAGES);
    assert_int_equal(written_pages(source), 0);
}

static void arming_keeps_it_and_the_first_write_splits_it(void **state) {
    make_huge(source);
    arm();
    assert_int_equal(huge_pages(source), PAGES);
    source[7 * PAGE] ^= 1;
    assert_int_equal(huge_pages(source), 0);
    assert_int_equal(written_pages(source), 1);
    source[7 * PAGE] ^= 1;
    window_is(source, 1);
}

static void asking_without_arming_keeps_it_through_writes(void **state) {
    make_huge(source);
    watch(SP_UFFD_MODE_WP);
    assert_int_equal(written_pages(source), PAGES);
    source[7 * PAGE] ^= 1;
    assert_int_equal(huge_pages(source), PAGES);
}

static void move_loses_the_mark_of_all(void **state) {
    size_t moved;
    make_huge(source);
    arm();
    assert_int_equal(move(scratch, source, H, &moved), 0);
    assert_int_equal(move(source, scratch, H, &moved), 0);
    assert_int_equal(huge_pages(source), PAGES);
    assert_int_equal(written_pages(source), PAGES);
}

/* ---- splitting on purpose ---- */

/* A piece of a huge page that is advised to be cold splits it, page and mapping, without anything being
 * frozen. */
static void cold_piece_splits(void **state) {
    make_huge(source);
    arm();
    assert_int_equal(sp_advise((uintptr_t)source, PAGE, MADV_COLD), 0);
    assert_int_equal(huge_pages(source), 0);
    assert_int_equal(present_pages(source), PAGES);
    assert_int_equal(written_pages(source), 0);
    window_is(source, 1);
}

/* ---- the store ---- */

/* A chunk of the store with its first page, then made huge, then written: what a publisher of a whole window
 * does. Also where huge pages for shared memory are switched off (shmem_enabled: never). */
static void store_window(unsigned chunk) {
    size_t first = (size_t)chunk * PAGES;
    char page[SP_PAGE_SIZE] __attribute__((aligned(8)));
    for (size_t i = 0; i < PAGES; i++) {
        page_fill(page, 1, i);
        assert_int_equal(sp_segment_write(&segment, first + i, page), 0);
        if (i == 0)
            must(sp_segment_huge(&segment, first), "collapse");
    }
}

static uint64_t store_bytes(void) {
    uint64_t bytes;
    must(sp_segment_memory(&segment, &bytes), "memory");
    return bytes;
}

static void map_store(char *window, unsigned chunk) {
    must(sp_map_store((uintptr_t)window, H, segment.fd_shared, chunk * H), "map");
    must(sp_advise((uintptr_t)window, H, MADV_POPULATE_READ), "populate");
}

static unsigned broken_pages(const void *window) {
    sp_bits bits;
    must(sp_pagemap_window(pagemap, SP_PAGEMAP_BROKEN, (uintptr_t)window / H, 0, PAGES, &bits), "broken");
    return sp_bits_count(&bits);
}

static bool store_can_be_huge(void) {
    char page[SP_PAGE_SIZE] = {1};
    must(sp_segment_write(&segment, 0, page), "write");
    return sp_segment_huge(&segment, 0) == 0;
}

#define NEEDS_HUGE_STORE                                                                                     \
    do {                                                                                                     \
        if (!store_can_be_huge()) {                                                                          \
            NOT_HERE("memfds cannot be made huge here");                                                     \
        }                                                                                                    \
    } while (0)

static void huge_chunk_is_mapped_huge(void **state) {
    NEEDS_HUGE_STORE;
    store_window(1);
    assert_int_equal(store_bytes(), 2 * H); /* chunk 0 is of the question before */
    map_store(source, 1);
    assert_int_equal(huge_pages(source), PAGES);
    assert_int_equal(broken_pages(source), 0);
    window_is(source, 1);
}

static void empty_chunk_cannot_be_made_huge(void **state) {
    assert_int_equal(sp_segment_huge(&segment, 0), -EINVAL);
    assert_int_equal(store_bytes(), 0);
}

static void write_splits_the_mapping_and_copies_one_page(void **state) {
    NEEDS_HUGE_STORE;
    store_window(1);
    store_window(2);
    must(sp_map_store((uintptr_t)source, 2 * H, segment.fd_shared, H), "map");
    must(sp_advise((uintptr_t)source, 2 * H, MADV_POPULATE_READ), "populate");
    source[9 * PAGE + 5] ^= 1;
    assert_int_equal(huge_pages(source), 0);
    assert_int_equal(huge_pages(source + H), PAGES); /* its neighbour stays */
    assert_int_equal(broken_pages(source), 1);
    source[9 * PAGE + 5] ^= 1;
    window_is(source, 1);
    assert_int_equal(broken_pages(source), 1); /* of the first 512 pages, read since */
    window_is(source + H, 1);
    map_store(scratch, 1); /* the store is as it was */
    assert_int_equal(huge_pages(scratch), PAGES);
}

/* Also while it is mapped: the page is split, one piece of it goes. Who has copied the piece keeps the copy;
 * who has not reads zeros, as ever. */
static void punching_a_piece_frees_it_and_keeps_the_rest(void **state) {
    NEEDS_HUGE_STORE;
    store_window(1);
    map_store(source, 1);
    map_store(source + H, 1);
    source[9 * PAGE + 5] ^= 1;
    uint64_t before = store_bytes();
    assert_int_equal(sp_segment_punch(&segment, PAGES + 9, 1), 0);
    assert_int_equal(store_bytes(), before - PAGE);
    source[9 * PAGE + 5] ^= 1;
    window_is(source, 1);
    assert_int_equal(broken_pages(source + H), 0);
    assert_true(page_is_zero(source + H + 9 * PAGE));
    for (size_t i = 0; i < PAGES; i++)
        assert_true(i == 9 || page_is(source + H + i * PAGE, 1, i));
    assert_int_equal(sp_segment_punch(&segment, PAGES, PAGES), 0);
    assert_int_equal(store_bytes(), before - H);
}

static int be_nobody(void *arg) {
    CHILD_CHECK(become_nobody() == 0);
    struct sp_segment s;
    char page[SP_PAGE_SIZE] = {1};
    CHILD_CHECK(sp_segment_init(&s) == 0);
    CHILD_CHECK(sp_segment_write(&s, 0, page) == 0);
    CHILD_CHECK(sp_segment_huge(&s, 0) == 0);
    return 0;
}

static void needs_no_privilege(void **state) {
    NEEDS_HUGE_STORE;
    assert_int_equal(in_child(be_nobody, NULL), 0);
}

/* ---- while it is split and made again ---- */

static bool ended;

/* Splits what is in the two places, and has it made again, at any moment. */
static void *interfere(void *arg) {
    char *places[] = {source, scratch};
    for (unsigned i = 0; !__atomic_load_n(&ended, __ATOMIC_ACQUIRE); i++) {
        int unused = sp_advise((uintptr_t)places[i % 2] + i % PAGES * PAGE, PAGE, MADV_COLD);
        if (i % 8 >= 6)
            unused = sp_advise((uintptr_t)places[i % 2], H, MADV_COLLAPSE);
        (void)unused;
    }
    return NULL;
}

/* Writes what is there already; sleeps where a page is away. */
static void *writer(void *arg) {
    const char *first_bytes = arg;
    for (unsigned x = 1; !__atomic_load_n(&ended, __ATOMIC_ACQUIRE);) {
        x = x * 1103515245 + 12345;
        unsigned slot = (x >> 16) % PAGES;
        *(volatile char *)(source + slot * PAGE) = first_bytes[slot];
    }
    return NULL;
}

/* Each page is where the counts say. EAGAIN, EBUSY: ask again. */
static void move_all(char *to, char *from) {
    for (size_t done = 0; done < H;) {
        size_t moved;
        int r = move(to + done, from + done, H - done, &moved);
        done += moved;
        if (r != 0 && !moved)
            assert_true(r == -EAGAIN || r == -EBUSY);
    }
    for (size_t i = 0; i < PAGES; i++) { /* present, or just being split */
        assert_false(sp_pagemap_there(pagemap, AT(from, i)));
        assert_true(sp_pagemap_there(pagemap, AT(to, i)));
    }
}

static void counts_what_it_moves_while_it_is_split_and_made_again(void **state) {
    pthread_t threads[2];
    char first_bytes[PAGES];
    make_huge(source);
    for (size_t i = 0; i < PAGES; i++)
        first_bytes[i] = source[i * PAGE];
    must(sp_advise((uintptr_t)scratch, H, MADV_HUGEPAGE), "hugepage");
    watch(SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    __atomic_store_n(&ended, false, __ATOMIC_RELEASE);
    assert_int_equal(pthread_create(&threads[0], NULL, interfere, NULL), 0);
    assert_int_equal(pthread_create(&threads[1], NULL, writer, first_bytes), 0);
    unsigned whole = 0;
    for (uint64_t end = sp_now_ns() + UINT64_C(1500000000), i = 0; sp_now_ns() < end; i++) {
        sp_bits bits;
        if (i % 2)
            must(sp_pagemap_window(pagemap, SP_PAGEMAP_WRITTEN, (uintptr_t)source / H, 0, PAGES, &bits),
                 "arm");
        move_all(scratch, source);
        whole += huge_pages(scratch) == PAGES;
        window_is(scratch, 1);
        move_all(source, scratch);
        must(sp_uffd_wake(uffd, (uintptr_t)source, H), "wake");
        if (i % 16 == 0) { /* a page table in the target keeps it from ever being whole again */
            must(sp_advise((uintptr_t)scratch, H, MADV_DONTNEED), "empty");
        }
    }
    __atomic_store_n(&ended, true, __ATOMIC_RELEASE);
    for (size_t i = 0; i < 2; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    window_is(source, 1);
    print_message("# moved whole %u times\n", whole);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

static bool huge_pages_here(void) {
    char *window = window_new(1);
    int r = sp_advise((uintptr_t)window, H, MADV_HUGEPAGE);
    if (r == 0) {
        memset(window, 1, H);
        r = sp_advise((uintptr_t)window, H, MADV_COLLAPSE);
    }
    must(sp_unmap(window, H), "unmap");
    return r == 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(moves_whole_and_back),
        TEST(page_table_in_the_target_splits),
        TEST(single_page_splits),
        TEST(refuses_occupied_targets_and_holes),
        TEST(refuses_a_pin_anywhere_in_it),
        TEST(refuses_one_shared_with_a_child),
        TEST(arming_keeps_it_and_the_first_write_splits_it),
        TEST(asking_without_arming_keeps_it_through_writes),
        TEST(move_loses_the_mark_of_all),
        TEST(cold_piece_splits),
        TEST(huge_chunk_is_mapped_huge),
        TEST(empty_chunk_cannot_be_made_huge),
        TEST(write_splits_the_mapping_and_copies_one_page),
        TEST(punching_a_piece_frees_it_and_keeps_the_rest),
        TEST(needs_no_privilege),
        TEST(counts_what_it_moves_while_it_is_split_and_made_again),
    };
    require_uffd();
    if (!huge_pages_here()) {
        printf("1..0 # SKIP no huge pages here\n");
        return 77;
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
