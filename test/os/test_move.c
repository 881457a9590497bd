/* SPDX-License-Identifier: MIT */
/*
 * UFFDIO_MOVE: what it moves, what it refuses and with which error, how a partial move is reported, and what
 * becomes of write-protect marks. The whole safety of the freeze rests on these.
 */
#include "os_test.h"

#include <linux/io_uring.h>
#include <sys/uio.h>

#include "os/thread.h"

#define N 16

static int uffd, pagemap;
static char *source, *scratch;
/* Content for copies: the scratch window itself is registered, touching a hole of it sleeps. */
static char plain[2 * SP_PAGE_SIZE] __attribute__((aligned(4096)));

static int setup(void **state) {
    uffd = uffd_new(0);
    must(sp_pagemap_open(&pagemap), "pagemap");
    source = pages_new(N);
    scratch = pages_new(N);
    pages_fill(source, N, 1);
    must(sp_uffd_register(uffd, AT(scratch, 0), N * PAGE, SP_UFFD_MODE_MISSING), "register scratch");
    return 0;
}

static int teardown(void **state) {
    close(uffd);
    close(pagemap);
    pages_free(source, N);
    pages_free(scratch, N);
    return 0;
}

static int move(size_t from, size_t n, size_t *moved) {
    return sp_uffd_move(uffd, pagemap, AT(scratch, from), AT(source, from), n * PAGE, moved);
}

static void moves_content_and_leaves_a_hole(void **state) {
    size_t moved;
    assert_int_equal(move(0, N, &moved), 0);
    assert_int_equal(moved, N * PAGE);
    for (size_t i = 0; i < N; i++) {
        assert_true(page_is(scratch + i * PAGE, 1, i));
        assert_true(page_is_zero(source + i * PAGE));
    }
}

static void moves_back(void **state) {
    size_t moved;
    assert_int_equal(sp_uffd_register(uffd, AT(source, 0), N * PAGE, SP_UFFD_MODE_MISSING), 0);
    assert_int_equal(move(0, N, &moved), 0);
    assert_int_equal(sp_uffd_move(uffd, pagemap, AT(source, 0), AT(scratch, 0), N * PAGE, &moved), 0);
    assert_int_equal(moved, N * PAGE);
    for (size_t i = 0; i < N; i++)
        assert_true(page_is(source + i * PAGE, 1, i));
}

static void reports_a_partial_move(void **state) {
    size_t moved;
    assert_int_equal(sp_advise(AT(source, 2), PAGE, MADV_DONTNEED), 0);
    assert_int_equal(move(0, 4, &moved), -EAGAIN);
    assert_int_equal(moved, 2 * PAGE);
    assert_int_equal(move(2, 2, &moved), -ENOENT);
    assert_int_equal(moved, 0);
    assert_true(page_is(scratch, 1, 0));
    assert_true(page_is(scratch + PAGE, 1, 1));
    assert_true(page_is(source + 3 * PAGE, 1, 3));
}

static void refuses_an_occupied_target(void **state) {
    size_t moved;
    assert_int_equal(move(0, 1, &moved), 0);
    assert_int_equal(sp_uffd_move(uffd, pagemap, AT(scratch, 0), AT(source, 1), PAGE, &moved), -EEXIST);
    assert_int_equal(moved, 0);
    assert_true(page_is(scratch, 1, 0));
    assert_true(page_is(source + PAGE, 1, 1));
}

static void refuses_pinned_pages(void **state) {
    struct io_uring_params params = {0};
    long ring = sp_syscall(SYS_io_uring_setup, 4, &params);
    if (ring < 0) {
        NOT_HERE("io_uring is not available here: %s", strerror((int)-ring));
    }
    struct iovec part = {source, 2 * PAGE};
    assert_int_equal(sp_syscall(SYS_io_uring_register, ring, IORING_REGISTER_BUFFERS, &part, 1), 0);
    size_t moved;
    assert_int_equal(move(0, 1, &moved), -EBUSY);
    assert_int_equal(move(1, 1, &moved), -EBUSY);
    assert_int_equal(move(2, 1, &moved), 0);
    assert_true(page_is(source, 1, 0));
    assert_int_equal(sp_syscall(SYS_io_uring_register, ring, IORING_UNREGISTER_BUFFERS, 0, 0), 0);
    close((int)ring);
    assert_true(page_is(source + PAGE, 1, 1));
}

/* Also after the child has gone, until the page is written again; MADV_POPULATE_WRITE counts as a write. */
static void refuses_pages_shared_with_a_child(void **state) {
    struct idler child;
    sp_page page = {AT(source, 0) / PAGE};
    size_t moved;

    assert_int_equal(sp_pagemap_exclusive(pagemap, page), 1);
    idler_start(&child);
    assert_int_equal(move(0, 1, &moved), -EBUSY);
    assert_int_equal(sp_pagemap_exclusive(pagemap, page), 0);
    idler_end(&child);
    assert_int_equal(move(0, 1, &moved), -EBUSY);
    assert_int_equal(sp_pagemap_exclusive(pagemap, page), 1);
    assert_int_equal(sp_advise(AT(source, 0), PAGE, MADV_POPULATE_WRITE), 0);
    assert_int_equal(move(0, 1, &moved), 0);
    assert_true(page_is(scratch, 1, 0));
    source[PAGE + 9] = 1;
    assert_int_equal(move(1, 1, &moved), 0);
}

static void refuses_other_protections(void **state) {
    size_t moved;
    assert_int_equal(sp_protect(AT(source, 0), PAGE, PROT_READ), 0);
    assert_int_equal(move(0, 1, &moved), -EINVAL);
    assert_int_equal(sp_protect(AT(source, 0), PAGE, PROT_NONE), 0);
    assert_int_equal(move(0, 1, &moved), -EINVAL);
    assert_int_equal(sp_protect(AT(source, 0), PAGE, PROT_READ | PROT_WRITE), 0);
    assert_true(page_is(source, 1, 0));
}

static void refuses_locked_pages(void **state) {
    size_t moved;
    assert_int_equal(lock_pages(source, 1), 0);
    assert_int_equal(move(0, 1, &moved), -EINVAL);
    assert_true(page_is(source, 1, 0));
}

static void refuses_guard_pages(void **state) {
    size_t moved;
    int r = sp_advise(AT(source, 1), PAGE, MADV_GUARD_INSTALL);
    if (r == -EINVAL) {
        NOT_HERE("this kernel has no guard pages");
    }
    assert_int_equal(r, 0);
    assert_int_equal(move(1, 1, &moved), -EFAULT);
    assert_int_equal(sp_advise(AT(source, 1), PAGE, MADV_GUARD_REMOVE), 0);
}

static bool written(size_t i) {
    struct sp_range range;
    size_t n;
    uint64_t next;
    assert_int_equal(
        sp_pagemap_scan(pagemap, SP_PAGEMAP_PEEK, AT(source, i), AT(source, i + 1), &range, 1, &n, &next), 0);
    return n == 1;
}

static void arm(void) {
    struct sp_range ranges[N];
    size_t n;
    uint64_t next;
    assert_int_equal(sp_uffd_register(uffd, AT(source, 0), N * PAGE, SP_UFFD_MODE_WP), 0);
    assert_int_equal(
        sp_pagemap_scan(pagemap, SP_PAGEMAP_WRITTEN, AT(source, 0), AT(source, N), ranges, N, &n, &next), 0);
    for (size_t i = 0; i < N; i++)
        assert_false(written(i));
}

static void move_loses_the_mark(void **state) {
    size_t moved;
    arm();
    assert_int_equal(sp_uffd_register(uffd, AT(source, 4), PAGE, SP_UFFD_MODE_WP | SP_UFFD_MODE_MISSING), 0);
    assert_false(written(4)); /* registering for more keeps it */
    assert_int_equal(move(4, 1, &moved), 0);
    assert_int_equal(sp_uffd_move(uffd, pagemap, AT(source, 4), AT(scratch, 4), PAGE, &moved), 0);
    assert_true(written(4));
    assert_false(written(3));
    assert_false(written(5));
    assert_true(page_is(source + 4 * PAGE, 1, 4));
}

static void unregister_drops_the_marks_of_its_range(void **state) {
    arm();
    assert_int_equal(sp_uffd_unregister(uffd, AT(source, 4), 2 * PAGE), 0);
    assert_int_equal(sp_uffd_register(uffd, AT(source, 4), 2 * PAGE, SP_UFFD_MODE_WP), 0);
    assert_true(written(4));
    assert_true(written(5));
    assert_false(written(3));
    assert_false(written(6));
}

/* Registering for less than before changes nothing: MISSING ends by UNREGISTER only. */
static void registering_for_less_does_not_end_missing(void **state) {
    arm();
    assert_int_equal(sp_uffd_register(uffd, AT(source, 4), PAGE, SP_UFFD_MODE_WP | SP_UFFD_MODE_MISSING), 0);
    assert_int_equal(sp_uffd_register(uffd, AT(source, 4), PAGE, SP_UFFD_MODE_WP), 0);
    assert_int_equal(sp_advise(AT(source, 4), PAGE, MADV_DONTNEED), 0);
    char byte = 7;
    assert_int_equal(sp_uffd_copy(uffd, AT(source, 4), plain, PAGE), 0); /* still of this userfaultfd */
    memcpy(&byte, source + 4 * PAGE, 1);
    assert_int_equal(byte, 0);
}

static void copy_fills_a_hole_and_nothing_else(void **state) {
    pages_fill(plain, 2, 9);
    assert_int_equal(sp_uffd_register(uffd, AT(source, 0), N * PAGE, SP_UFFD_MODE_MISSING), 0);
    assert_int_equal(sp_advise(AT(source, 0), 2 * PAGE, MADV_DONTNEED), 0);
    assert_int_equal(sp_uffd_copy(uffd, AT(source, 0), plain, 2 * PAGE), 0);
    assert_true(page_is(source, 9, 0));
    assert_true(page_is(source + PAGE, 9, 1));
    assert_int_equal(sp_uffd_copy(uffd, AT(source, 2), plain, PAGE), -EEXIST);
    assert_true(page_is(source + 2 * PAGE, 1, 2));
    /* Stopped in the middle: the reason for the rest is told. */
    assert_int_equal(sp_advise(AT(source, 1), PAGE, MADV_DONTNEED), 0);
    assert_int_equal(sp_uffd_copy(uffd, AT(source, 1), plain, 2 * PAGE), -EEXIST);
    assert_true(page_is(source + PAGE, 9, 0));
}

/* The fallback of step 4: the way back of a page whose mapping was locked meanwhile. */
static void copy_works_where_move_back_is_refused(void **state) {
    size_t moved;
    assert_int_equal(sp_uffd_register(uffd, AT(source, 0), N * PAGE, SP_UFFD_MODE_MISSING), 0);
    assert_int_equal(move(0, 1, &moved), 0);
    assert_int_equal((int)sp_syscall(SYS_mlock2, source, PAGE, MLOCK_ONFAULT), 0);
    assert_int_equal(sp_uffd_move(uffd, pagemap, AT(source, 0), AT(scratch, 0), PAGE, &moved), -EINVAL);
    assert_int_equal(sp_uffd_copy(uffd, AT(source, 0), scratch, PAGE), 0);
    assert_true(page_is(source, 1, 0));
}

/* ---- while the page-table entries change ---- */

static bool ended;

/* Writes to pages that are moved away and back all the time; sleeps where one is away. */
static void *writer(void *arg) {
    unsigned x = 1;
    while (!__atomic_load_n(&ended, __ATOMIC_ACQUIRE)) {
        x = x * 1103515245 + 12345;
        ((volatile char *)source)[(x >> 16) % N * PAGE + 4095] = 0;
    }
    return NULL;
}

/* All of `bytes`, in as many calls as it takes; an error that is not "ask again for the rest" fails. */
static void move_all(uintptr_t to, uintptr_t from, size_t bytes) {
    for (size_t done = 0; done < bytes;) {
        size_t moved;
        int r = sp_uffd_move(uffd, pagemap, to + done, from + done, bytes - done, &moved);
        done += moved;
        assert_true(r == 0 || moved || r == -EAGAIN);
        if (r == 0)
            assert_int_equal(done, bytes);
    }
}

/* See sp_uffd_move: Linux 6.18 moves pages without counting them. Away and back, while a thread writes: each
 * page is where the count says. */
static void counts_what_it_moves_while_pages_are_written(void **state) {
    pthread_t thread;
    struct sp_range ranges[N];
    size_t n;
    uint64_t next, end = sp_now_ns() + UINT64_C(1500000000);
    for (size_t i = 0; i < N; i++)
        source[i * PAGE + 4095] = 0; /* what the writer writes, so that it changes nothing */
    memcpy(plain, source, 2 * PAGE);
    __atomic_store_n(&ended, false, __ATOMIC_RELEASE);
    int r = sp_uffd_register(uffd, AT(source, 0), N * PAGE, SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP);
    assert_int_equal(r, 0);
    assert_int_equal(pthread_create(&thread, NULL, writer, NULL), 0);
    while (sp_now_ns() < end) {
        r = sp_pagemap_scan(pagemap, SP_PAGEMAP_WRITTEN, AT(source, 0), AT(source, N), ranges, N, &n, &next);
        assert_int_equal(r, 0);
        move_all(AT(scratch, 0), AT(source, 0), N * PAGE);
        assert_memory_equal(scratch, plain, 2 * PAGE);
        move_all(AT(source, 0), AT(scratch, 0), N * PAGE);
        assert_int_equal(sp_uffd_wake(uffd, AT(source, 0), N * PAGE), 0);
    }
    __atomic_store_n(&ended, true, __ATOMIC_RELEASE);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(moves_content_and_leaves_a_hole),
        TEST(moves_back),
        TEST(reports_a_partial_move),
        TEST(refuses_an_occupied_target),
        TEST(refuses_pinned_pages),
        TEST(refuses_pages_shared_with_a_child),
        TEST(refuses_other_protections),
        TEST(refuses_locked_pages),
        TEST(refuses_guard_pages),
        TEST(move_loses_the_mark),
        TEST(unregister_drops_the_marks_of_its_range),
        TEST(registering_for_less_does_not_end_missing),
        TEST(copy_fills_a_hole_and_nothing_else),
        TEST(copy_works_where_move_back_is_refused),
        TEST(counts_what_it_moves_while_pages_are_written),
    };
    require_uffd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
