/* SPDX-License-Identifier: MIT */
/*
 * The mapping calls one by one.
 */
#include "os_test.h"

#include "os/pagemap.h"
#include "os/store.h"

static void new_memory_is_aligned(void **state) {
    static const size_t aligns[] = {1, SP_PAGE_SIZE, SP_WINDOW_SIZE, (size_t)1 << 30};
    for (size_t i = 0; i < sizeof(aligns) / sizeof(*aligns); i++) {
        void *p;
        assert_int_equal(sp_map_new(3 * PAGE, aligns[i], &p), 0);
        assert_int_equal((uintptr_t)p % aligns[i], 0);
        memset(p, 1, 3 * PAGE);
        assert_int_equal(sp_unmap(p, 3 * PAGE), 0);
    }
    void *untouched = &untouched;
    assert_int_equal(sp_map_new(0, PAGE, &untouched), -ENOMEM);
    assert_int_equal(sp_map_new(SIZE_MAX & ~(PAGE - 1), SP_WINDOW_SIZE, &untouched), -ENOMEM);
    assert_ptr_equal(untouched, &untouched);
}

static void fresh_memory_replaces(void **state) {
    char *p = pages_new(4);
    pages_fill(p, 4, 1);
    assert_int_equal(sp_map_fresh(AT(p, 1), 2 * PAGE, PROT_READ), 0);
    assert_true(page_is(p, 1, 0));
    assert_true(page_is_zero(p + PAGE) && page_is_zero(p + 2 * PAGE));
    assert_true(page_is(p + 3 * PAGE, 1, 3));
    assert_int_equal(sp_protect(AT(p, 1), 2 * PAGE, PROT_READ | PROT_WRITE), 0);
    p[PAGE] = 1;
    assert_int_equal(sp_map_fresh(AT(p, 1) + 1, PAGE, PROT_READ), -EINVAL);
    pages_free(p, 4);
}

static void the_store_is_mapped_privately(void **state) {
    struct sp_segment s;
    char *p = pages_new(4), got[PAGE];
    pages_fill(p, 4, 1);
    assert_int_equal(sp_segment_init(&s), 0);
    assert_int_equal(sp_segment_write_many(&s, 10, p, 4), 0);
    assert_int_equal(sp_map_store(AT(p, 1), 2 * PAGE, s.fd_shared, 12 * PAGE), 0);
    assert_true(page_is(p, 1, 0) && page_is(p + PAGE, 1, 2) && page_is(p + 2 * PAGE, 1, 3));
    p[PAGE] ^= 1;
    assert_int_equal(sp_segment_read(&s, 12, got), 0);
    assert_true(page_is(got, 1, 2));
    assert_int_equal(sp_map_store(AT(p, 0), PAGE, -1, 0), -EBADF);
    assert_true(page_is(p, 1, 0));
    sp_segment_deinit(&s);
    pages_free(p, 4);
}

/* What is there, and not in a child. */
static void a_view_shows_the_store(void **state) {
    struct sp_segment s;
    char *p = pages_new(4);
    pages_fill(p, 4, 1);
    assert_int_equal(sp_segment_init(&s), 0);
    assert_int_equal(sp_segment_write_many(&s, 10, p, 4), 0);
    assert_int_equal(sp_map_view(AT(p, 1), 2 * PAGE, s.fd_shared, 12 * PAGE), -EEXIST);
    assert_int_equal(sp_unmap(p + PAGE, 2 * PAGE), 0);
    assert_int_equal(sp_map_view(AT(p, 1), 2 * PAGE, s.fd_shared, 12 * PAGE), 0);
    assert_true(page_is(p, 1, 0) && page_is(p + PAGE, 1, 2) && page_is(p + 2 * PAGE, 1, 3));
    pid_t child = fork();
    if (!child)
        _exit(msync(p + PAGE, PAGE, MS_ASYNC) == -1 && errno == ENOMEM ? 0 : 1);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(sp_map_view(AT(p, 0), PAGE, -1, 0), -EBADF);
    sp_segment_deinit(&s);
    pages_free(p, 4);
}

/* Whole page tables go along, and so do parts of one. */
static void a_view_becomes_a_mapping(void **state) {
    enum { N = 512 };
    struct sp_segment s;
    char *p = pages_new(3 * N), *content = pages_new(N), *view, *target;
    int pagemap;
    pages_fill(content, N, 1);
    assert_int_equal(sp_pagemap_open(&pagemap), 0);
    assert_int_equal(sp_segment_init(&s), 0);
    assert_int_equal(sp_segment_write_many(&s, 0, content, N), 0);
    view = (char *)(((uintptr_t)p + N * PAGE - 1) & ~(N * PAGE - 1));
    target = view + N * PAGE;
    for (size_t from = 0, to = N; from < N / 2; from += 100, to -= 100) {
        pages_fill(target, N, 2);
        assert_int_equal(sp_unmap(view, N * PAGE), 0);
        assert_int_equal(sp_map_view(AT(view, 0), N * PAGE, s.fd_shared, 0), 0);
        assert_int_equal(sp_map_view(AT(view, 0), PAGE, s.fd_shared, 0), -EEXIST);
        assert_int_equal(sp_advise(AT(view, 0), N * PAGE, MADV_POPULATE_READ), 0);
        assert_int_equal(sp_advise(AT(view, 0), N * PAGE, MADV_DOFORK), 0);
        assert_int_equal(sp_map_from_view(AT(view, from), (to - from) * PAGE, AT(target, from)), 0);
        for (size_t i = 0; i < N; i++) {
            bool moved = i >= from && i < to;
            assert_true(sp_pagemap_there(pagemap, AT(target, i)));
            assert_int_equal(sp_advise(AT(view, i), PAGE, MADV_NORMAL), moved ? -ENOMEM : 0);
            assert_true(page_is(target + i * PAGE, moved ? 1 : 2, (unsigned)i));
        }
        pages_fill(target, N, 3); /* an ordinary copy on write */
        char page[PAGE];
        assert_int_equal(sp_store_read(s.fd_shared, N / 2, page, 1), 0);
        assert_true(page_is(page, 1, N / 2));
    }
    assert_int_equal(sp_map_from_view(AT(target, 0), PAGE, AT(target, 0)), -EINVAL);
    close(pagemap);
    sp_segment_deinit(&s);
    pages_free(content, N);
    pages_free(p, 3 * N);
}

static void remap_carries_the_pages(void **state) {
    char *p = pages_new(4), *q = pages_new(4);
    pages_fill(p, 4, 1);
    pages_fill(q, 4, 2);
    assert_int_equal(sp_remap(AT(p, 1), PAGE, AT(q, 2)), 0);
    assert_true(page_is(q + PAGE, 2, 1) && page_is(q + 2 * PAGE, 1, 1) && page_is(q + 3 * PAGE, 2, 3));
    assert_int_equal(sp_advise(AT(p, 1), PAGE, MADV_NORMAL), -ENOMEM); /* nothing there now */
    assert_int_equal(sp_remap(AT(p, 1), PAGE, AT(q, 0)), -EFAULT);
    assert_true(page_is(q, 2, 0));
    assert_int_equal(sp_unmap(p, 4 * PAGE), 0);
    pages_free(q, 4);
}

static void files_are_mapped_shared(void **state) {
    int fd = memfd_create("x", MFD_CLOEXEC);
    void *w, *r;
    assert_int_equal(ftruncate(fd, 2 * PAGE), 0);
    assert_int_equal(sp_map_file(fd, PAGE, PAGE, true, &w), 0);
    assert_int_equal(sp_map_file(fd, 0, 2 * PAGE, false, &r), 0);
    page_fill(w, 3, 3);
    assert_true(page_is((char *)r + PAGE, 3, 3));
    assert_int_equal(sp_unmap(w, PAGE), 0);
    assert_int_equal(sp_unmap(r, 2 * PAGE), 0);
    close(fd);
}

/* What the engine asks where it believes a mapping of the store to be. */
static void a_mapping_of_a_file_is_known(void **state) {
    struct sp_segment s;
    struct sp_file_mapping m;
    char *p = pages_new(8);
    int maps;
    assert_int_equal(sp_segment_init(&s), 0);
    assert_int_equal(sp_maps_open(&maps), 0);
    assert_int_equal(sp_map_store(AT(p, 2), 4 * PAGE, s.fd_shared, 12 * PAGE), 0);
    int r = sp_maps_file(maps, AT(p, 4), &m);
    if (r == -ENOTTY) {
        NOT_HERE("this kernel cannot be asked about single mappings");
    }
    assert_int_equal(r, 0);
    assert_int_equal(m.start, AT(p, 2));
    assert_int_equal(m.end, AT(p, 6));
    assert_int_equal(m.offset_bytes, 12 * PAGE);
    assert_false(m.shared);
    p[4 * PAGE] = 1; /* a page that was written is in it as before */
    assert_int_equal(sp_maps_file(maps, AT(p, 4), &m), 0);
    assert_int_equal(m.offset_bytes, 12 * PAGE);
    assert_int_equal(sp_maps_file(maps, AT(p, 1), &m), -ENOENT);
    assert_int_equal(sp_maps_file(maps, AT(p, 6), &m), -ENOENT);
    assert_int_equal(sp_map_fresh(AT(p, 3), PAGE, PROT_READ | PROT_WRITE), 0);
    assert_int_equal(sp_maps_file(maps, AT(p, 3), &m), -ENOENT);
    assert_int_equal(sp_maps_file(maps, AT(p, 4), &m), 0);
    assert_int_equal(m.start, AT(p, 4));
    assert_int_equal(m.offset_bytes, 14 * PAGE);
    close(maps);
    sp_segment_deinit(&s);
    pages_free(p, 8);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_memory_is_aligned),         cmocka_unit_test(fresh_memory_replaces),
        cmocka_unit_test(the_store_is_mapped_privately), cmocka_unit_test(a_view_shows_the_store),
        cmocka_unit_test(a_view_becomes_a_mapping),      cmocka_unit_test(remap_carries_the_pages),
        cmocka_unit_test(files_are_mapped_shared),       cmocka_unit_test(a_mapping_of_a_file_is_known),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
