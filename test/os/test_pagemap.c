/* SPDX-License-Identifier: MIT */
/*
 * PAGEMAP_SCAN: which pages are reported and armed, that neither holes nor mappings of no concern are
 * touched; and which mappings are watched, as a sign that somebody has replaced them (H1).
 */
#include "os_test.h"

#include "os/store.h"

#define N 512

static int uffd, pagemap;
static char *region;

static int setup(void **state) {
    uffd = uffd_new(0);
    must(sp_pagemap_open(&pagemap), "pagemap");
    region = pages_new(N);
    return 0;
}

static int teardown(void **state) {
    close(uffd);
    close(pagemap);
    pages_free(region, N);
    return 0;
}

static struct sp_range found[N];
static size_t n_found;

/* The whole region in one call. */
static size_t scan(enum sp_pagemap_query query) {
    uint64_t next;
    assert_int_equal(sp_pagemap_scan(pagemap, query, AT(region, 0), AT(region, N), found, N, &n_found, &next),
                     0);
    assert_int_equal(next, AT(region, N));
    size_t pages = 0;
    for (size_t i = 0; i < n_found; i++)
        pages += (found[i].end - found[i].start) / PAGE;
    return pages;
}

static bool in_found(size_t page) {
    for (size_t i = 0; i < n_found; i++)
        if (AT(region, page) >= found[i].start && AT(region, page) < found[i].end)
            return true;
    return false;
}

static void watch(void) {
    assert_int_equal(sp_uffd_register(uffd, AT(region, 0), N * PAGE, SP_UFFD_MODE_WP), 0);
}

static void reports_written_pages_once(void **state) {
    watch();
    pages_fill(region, N, 1);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), N);
    assert_int_equal(n_found, 1);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 0);
    region[7 * PAGE] = 1;
    region[9 * PAGE] = 1;
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 2);
    assert_true(in_found(7) && in_found(9));
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 0);
    volatile char c = region[7 * PAGE];
    (void)c;
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 0);
}

static void peeking_does_not_arm(void **state) {
    watch();
    pages_fill(region, N, 1);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), N);
    region[3 * PAGE] = 1;
    assert_int_equal(scan(SP_PAGEMAP_PEEK), 1);
    assert_int_equal(scan(SP_PAGEMAP_PEEK), 1);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 1);
    assert_int_equal(scan(SP_PAGEMAP_PEEK), 0);
}

/* Writes of the kernel on behalf of the program count. */
static void system_calls_count_as_writes(void **state) {
    int p[2];
    watch();
    pages_fill(region, N, 1);
    scan(SP_PAGEMAP_WRITTEN);
    assert_int_equal(pipe(p), 0);
    assert_int_equal(write(p[1], "x", 1), 1);
    assert_int_equal(read(p[0], region + 11 * PAGE, 1), 1);
    close(p[0]);
    close(p[1]);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 1);
    assert_true(in_found(11));
}

static void holes_are_not_reported_and_written_when_filled(void **state) {
    watch();
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 0);
    region[100 * PAGE] = 1;
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 1);
    assert_true(in_found(100));
    assert_int_equal(scan(SP_PAGEMAP_PRESENT), 1);
}

/* What was only read is the kernel's page of zeros: nothing to gain, and armed it would fault for nothing. */
static void pages_that_were_only_read_are_not_reported(void **state) {
    watch();
    for (size_t i = 0; i < N; i++)
        assert_int_equal(*(volatile char *)(region + i * PAGE), 0);
    assert_int_equal(scan(SP_PAGEMAP_PRESENT), N);
    assert_int_equal(scan(SP_PAGEMAP_PEEK), 0);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 0);
    region[9 * PAGE] = 1;
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 1);
    assert_true(in_found(9));
}

/* Every second page: more ranges than fit in the caller's vector, or in the buffer on the stack. */
static void goes_on_where_the_vector_was_full(void **state) {
    watch();
    for (size_t i = 0; i < N; i += 2)
        region[i * PAGE] = 1;
    assert_int_equal(scan(SP_PAGEMAP_PEEK), N / 2);
    assert_int_equal(n_found, N / 2);

    uint64_t at = AT(region, 0);
    size_t total = 0, calls = 0;
    while (at < AT(region, N)) {
        struct sp_range three[3];
        size_t n;
        assert_int_equal(sp_pagemap_scan(pagemap, SP_PAGEMAP_WRITTEN, at, AT(region, N), three, 3, &n, &at),
                         0);
        for (size_t i = 0; i < n; i++) {
            assert_int_equal(three[i].start, AT(region, 2 * total));
            assert_int_equal(three[i].end, AT(region, 2 * total + 1));
            total++;
        }
        calls++;
    }
    assert_int_equal(total, N / 2);
    assert_true(calls >= N / 2 / 3);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 0);
}

static uint64_t entry(size_t page) {
    uint64_t e;
    assert_int_equal(pread(pagemap, &e, 8, (off_t)(AT(region, page) / PAGE * 8)), 8);
    return e;
}

#define ENTRY_WP (UINT64_C(1) << 57)

/* In the range: a mapping that is not registered, and a private mapping of a store with a broken page. */
static void other_mappings_are_passed_over(void **state) {
    struct sp_segment store;
    assert_int_equal(sp_segment_init(&store), 0);
    assert_int_equal(sp_map_store(AT(region, 64), 64 * PAGE, store.fd_shared, 0), 0);
    pages_fill(region, N, 1);
    assert_int_equal(sp_uffd_register(uffd, AT(region, 0), 64 * PAGE, SP_UFFD_MODE_WP), 0);
    assert_int_equal(sp_uffd_register(uffd, AT(region, 256), 256 * PAGE, SP_UFFD_MODE_WP), 0);

    assert_int_equal(scan(SP_PAGEMAP_PEEK), 64 + 256);
    assert_false(in_found(64) || in_found(127) || in_found(128) || in_found(255));
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 64 + 256);
    assert_false(in_found(64) || in_found(127) || in_found(128) || in_found(255));
    for (size_t i = 0; i < N; i++)
        assert_int_equal((entry(i) & ENTRY_WP) != 0, i < 64 || i >= 256);
    pages_fill(region, N, 2);
    for (size_t i = 0; i < N; i++)
        assert_true(page_is(region + i * PAGE, 2, i));
    sp_segment_deinit(&store);
}

static void unmapped_ranges_are_passed_over(void **state) {
    watch();
    pages_fill(region, N, 1);
    must(sp_unmap(region + 10 * PAGE, 20 * PAGE), "unmap");
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), N - 20);
    assert_int_equal(n_found, 2);
    must(sp_map_fresh(AT(region, 10), 20 * PAGE, PROT_READ | PROT_WRITE), "map");
}

static uint64_t page_table_kib(void) {
    char line[128];
    uint64_t kib = UINT64_MAX;
    FILE *f = fopen("/proc/self/status", "re");
    while (f && fgets(line, sizeof(line), f))
        if (sscanf(line, "VmPTE: %lu", &kib) == 1)
            break;
    if (f)
        fclose(f);
    return kib;
}

/* H16: one page in 32 TiB. The work done is seen by the page tables, which must not grow. */
static void a_huge_sparse_mapping_costs_nothing(void **state) {
    size_t bytes = (size_t)(SANITIZED ? 1 : 32) << 40; /* a sanitizer leaves no room for more */
    char *sparse =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    assert_ptr_not_equal(sparse, MAP_FAILED);
    assert_int_equal(madvise(sparse, bytes, MADV_NOHUGEPAGE), 0);
    char *page = sparse + bytes / 2 + 5 * PAGE;
    *page = 1;
    assert_int_equal(sp_uffd_register(uffd, (uintptr_t)sparse, bytes, SP_UFFD_MODE_WP), 0);

    uint64_t before_kib = page_table_kib();
    for (int round = 0; round < 3; round++) {
        struct sp_range r[4];
        size_t n;
        uint64_t next;
        *page = (char)round;
        assert_int_equal(sp_pagemap_scan(pagemap, SP_PAGEMAP_WRITTEN, (uintptr_t)sparse,
                                         (uintptr_t)sparse + bytes, r, 4, &n, &next),
                         0);
        assert_int_equal(n, 1);
        assert_int_equal(r[0].start, (uintptr_t)page);
        assert_int_equal(r[0].end, (uintptr_t)page + PAGE);
        assert_int_equal(next, (uintptr_t)sparse + bytes);
    }
    assert_true(page_table_kib() <= before_kib + 8);
    munmap(sparse, bytes);
}

static void broken_pages_are_found(void **state) {
    struct sp_segment store;
    assert_int_equal(sp_segment_init(&store), 0);
    pages_fill(region, N, 3);
    assert_int_equal(sp_segment_write_many(&store, 0, region, N), 0);
    assert_int_equal(sp_map_store(AT(region, 0), N * PAGE, store.fd_shared, 0), 0);
    assert_int_equal(scan(SP_PAGEMAP_BROKEN), 0); /* nothing present yet */
    for (size_t i = 0; i < N; i++)
        assert_true(page_is(region + i * PAGE, 3, i));
    assert_int_equal(scan(SP_PAGEMAP_PRESENT), N);
    assert_int_equal(scan(SP_PAGEMAP_BROKEN), 0); /* read, not written */
    region[5 * PAGE] = 1;
    region[6 * PAGE] = 1;
    region[100 * PAGE] = 1;
    assert_int_equal(scan(SP_PAGEMAP_BROKEN), 3);
    assert_int_equal(n_found, 2);
    assert_true(in_found(5) && in_found(6) && in_found(100));
    sp_segment_deinit(&store);
}

/* Both answers in one walk: armed memory, mappings of the store in which pages were never read, read,
 * written, and nothing at all. */
static void unwatched_and_broken_at_once(void **state) {
    struct sp_segment store;
    sp_bits unwatched, broken, want;
    void *window;
    assert_int_equal(sp_segment_init(&store), 0);
    pages_fill(region, N, 3);
    assert_int_equal(sp_segment_write_many(&store, 0, region, N), 0);
    assert_int_equal(sp_map_new(SP_WINDOW_SIZE, SP_WINDOW_SIZE, &window), 0);
    char *p = window;
    uint64_t number = AT(p, 0) / SP_WINDOW_SIZE;
    assert_int_equal(sp_uffd_register(uffd, AT(p, 0), SP_WINDOW_SIZE, SP_UFFD_MODE_WP), 0);
    memset(p, 1, 32 * PAGE);
    assert_int_equal(sp_map_store(AT(p, 16), 96 * PAGE, store.fd_shared, 0), 0);
    for (size_t i = 300; i < 500; i += 2) /* more ranges than there is room for in one call */
        assert_int_equal(sp_map_store(AT(p, i), PAGE, store.fd_shared, 0), 0);
    must(sp_unmap(p + 508 * PAGE, 4 * PAGE), "unmap");
    for (size_t i = 20; i < 60; i++)
        assert_true(page_is(p + i * PAGE, 3, i - 16));
    for (size_t i = 50; i < 90; i += 3)
        p[i * PAGE] = 1;
    p[302 * PAGE] = 1;
    assert_int_equal(sp_pagemap_unwatched_window(pagemap, number, &unwatched, &broken), 0);
    must(sp_pagemap_window(pagemap, SP_PAGEMAP_UNWATCHED, number, 0, SP_WINDOW_PAGES, &want), "unwatched");
    assert_memory_equal(&unwatched, &want, sizeof(want));
    assert_int_equal(sp_bits_count(&unwatched), 96 + 100);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        assert_int_equal(sp_bits_get(&broken, i), (i >= 50 && i < 90 && (i - 50) % 3 == 0) || i == 302);
    must(sp_unmap(window, 508 * PAGE), "unmap");
    sp_segment_deinit(&store);
}

/* A store mapping that is registered for tracking: an armed entry that is zapped leaves a marker, which
 * reports SWAPPED, so it looks broken though it is not. */
static void armed_and_zapped_looks_broken(void **state) {
    struct sp_segment store;
    assert_int_equal(sp_segment_init(&store), 0);
    pages_fill(region, N, 3);
    assert_int_equal(sp_segment_write_many(&store, 0, region, N), 0);
    assert_int_equal(sp_map_store(AT(region, 0), N * PAGE, store.fd_shared, 0), 0);
    watch();
    assert_int_equal(sp_advise(AT(region, 0), N * PAGE, MADV_POPULATE_READ), 0);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), N);
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 0);
    assert_int_equal(scan(SP_PAGEMAP_BROKEN), 0);
    region[5 * PAGE] = 1;
    assert_int_equal(scan(SP_PAGEMAP_WRITTEN), 1);
    assert_true(in_found(5));
    assert_int_equal(scan(SP_PAGEMAP_BROKEN), 1);
    assert_int_equal(sp_segment_punch(&store, 8, 1), 0);
    scan(SP_PAGEMAP_BROKEN);
    assert_true(in_found(5));
    assert_true(in_found(8));
    sp_segment_deinit(&store);
}

/* ---- watched and unwatched: what the tripwire of H1 rests on ---- */

/* 'w' watched, 'u' unwatched, '-' neither (nothing is mapped there). */
static char watch_of(size_t page) {
    sp_bits watched, unwatched;
    uint64_t window = AT(region, page) / SP_WINDOW_SIZE;
    unsigned slot = (unsigned)(AT(region, page) % SP_WINDOW_SIZE / PAGE);
    assert_int_equal(sp_pagemap_window(pagemap, SP_PAGEMAP_WATCHED, window, slot, slot + 1, &watched), 0);
    assert_int_equal(sp_pagemap_window(pagemap, SP_PAGEMAP_UNWATCHED, window, slot, slot + 1, &unwatched), 0);
    assert_false(sp_bits_get(&watched, slot) && sp_bits_get(&unwatched, slot));
    return sp_bits_get(&watched, slot) ? 'w' : sp_bits_get(&unwatched, slot) ? 'u' : '-';
}

static void assert_watch(size_t first, size_t last, char want) {
    for (size_t i = first; i < last; i++)
        if (watch_of(i) != want)
            fail_msg("page %zu: %c, not %c", i, watch_of(i), want);
}

/* Before the remap of a batch the pages are in scratch: what tells then must not need them to be there. */
static void holes_of_watched_mappings_are_watched(void **state) {
    char *scratch = pages_new(N);
    size_t moved;
    assert_int_equal(sp_uffd_register(uffd, AT(scratch, 0), N * PAGE, SP_UFFD_MODE_MISSING), 0);
    assert_watch(0, N, 'u');
    watch();
    assert_watch(0, N, 'w'); /* not a page table yet */
    pages_fill(region, N, 1);
    assert_watch(0, N, 'w');
    assert_int_equal(
        sp_uffd_register(uffd, AT(region, 64), 64 * PAGE, SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP), 0);
    assert_watch(0, N, 'w');
    assert_int_equal(sp_uffd_move(uffd, pagemap, AT(scratch, 64), AT(region, 64), 64 * PAGE, &moved), 0);
    assert_watch(0, N, 'w');
    assert_int_equal(sp_uffd_unregister(uffd, AT(region, 64), 64 * PAGE), 0);
    assert_watch(64, 128, 'u');
    assert_watch(128, N, 'w');
    /* Neither protection nor advice changes it. */
    assert_int_equal(sp_protect(AT(region, 0), 8 * PAGE, PROT_NONE), 0);
    assert_int_equal(sp_advise(AT(region, 8), 8 * PAGE, MADV_DONTNEED), 0);
    assert_int_equal(sp_advise(AT(region, 16), 8 * PAGE, MADV_DONTFORK), 0);
    assert_watch(0, 64, 'w');
    pages_free(scratch, N);
}

/* Every way of taking a range away or putting another in its place is seen, but one. */
static void what_was_replaced_is_not_watched(void **state) {
    struct sp_segment store;
    char *away = pages_new(N), *left;
    watch();
    pages_fill(region, N, 1);
    assert_int_equal(sp_map_fresh(AT(region, 0), 8 * PAGE, PROT_READ | PROT_WRITE), 0);
    must(sp_unmap(region + 8 * PAGE, 8 * PAGE), "unmap");
    assert_int_equal(sp_remap(AT(region, 16), 8 * PAGE, AT(away, 16)), 0);
    assert_int_equal(sp_segment_init(&store), 0);
    assert_int_equal(sp_map_store(AT(region, 24), 8 * PAGE, store.fd_shared, 0), 0);
    assert_watch(0, 8, 'u');
    assert_watch(8, 24, '-');
    assert_watch(24, 32, 'u');
    assert_watch(32, N, 'w');
    /* At its new place it is ours no more. */
    sp_bits bits;
    assert_int_equal(sp_pagemap_window(pagemap, SP_PAGEMAP_WATCHED, AT(away, 16) / SP_WINDOW_SIZE, 0,
                                       SP_WINDOW_PAGES, &bits),
                     0);
    assert_false(sp_bits_get(&bits, (unsigned)(AT(away, 16) % SP_WINDOW_SIZE / PAGE)));
    /* MREMAP_DONTUNMAP takes the pages and leaves the mapping: not to be seen. */
    left = mremap(region + 40 * PAGE, 8 * PAGE, 8 * PAGE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);
    assert_ptr_not_equal(left, MAP_FAILED);
    assert_watch(32, N, 'w');
    must(sp_unmap(left, 8 * PAGE), "unmap");
    must(sp_map_fresh(AT(region, 8), 16 * PAGE, PROT_READ | PROT_WRITE), "map");
    sp_segment_deinit(&store);
    pages_free(away, N);
}

/* What is put back does not get into what has replaced the range: UFFDIO_MOVE and UFFDIO_COPY refuse. */
static void nothing_goes_back_into_what_replaced_it(void **state) {
    struct sp_segment store;
    char *scratch = pages_new(N), plain[2 * SP_PAGE_SIZE];
    size_t moved;
    pages_fill(scratch, 4, 1);
    assert_int_equal(sp_uffd_register(uffd, AT(scratch, 0), N * PAGE, SP_UFFD_MODE_MISSING), 0);
    assert_int_equal(sp_uffd_register(uffd, AT(region, 0), N * PAGE, SP_UFFD_MODE_MISSING | SP_UFFD_MODE_WP),
                     0);
    assert_int_equal(sp_map_fresh(AT(region, 0), PAGE, PROT_READ | PROT_WRITE), 0);
    must(sp_unmap(region + PAGE, PAGE), "unmap");
    assert_int_equal(sp_segment_init(&store), 0);
    assert_int_equal(sp_map_store(AT(region, 2), PAGE, store.fd_shared, 0), 0);
    for (size_t i = 0; i < 3; i++) {
        int r = sp_uffd_move(uffd, pagemap, AT(region, i), AT(scratch, i), PAGE, &moved);
        assert_true(r == -EINVAL || r == -ENOENT);
        assert_int_equal(moved, 0);
        char *source = plain + (PAGE - (uintptr_t)plain % PAGE);
        memcpy(source, scratch + i * PAGE, PAGE);
        assert_int_equal(sp_uffd_copy(uffd, AT(region, i), source, PAGE), -ENOENT);
    }
    assert_true(page_is_zero(region) && page_is_zero(region + 2 * PAGE));
    assert_int_equal(sp_uffd_move(uffd, pagemap, AT(region, 3), AT(scratch, 3), PAGE, &moved), 0);
    assert_true(page_is(region + 3 * PAGE, 1, 3));
    must(sp_map_fresh(AT(region, 0), N * PAGE, PROT_READ | PROT_WRITE), "map");
    sp_segment_deinit(&store);
    pages_free(scratch, N);
}

/* More ranges than fit in the buffer on the stack; only the pages asked about. */
static void a_window_of_many_ranges(void **state) {
    sp_bits bits;
    void *window;
    assert_int_equal(sp_map_new(SP_WINDOW_SIZE, SP_WINDOW_SIZE, &window), 0);
    assert_int_equal(sp_uffd_register(uffd, (uintptr_t)window, SP_WINDOW_SIZE, SP_UFFD_MODE_WP), 0);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i += 2)
        must(sp_map_fresh((uintptr_t)window + i * PAGE, PAGE, PROT_READ), "map");
    uint64_t number = (uintptr_t)window / SP_WINDOW_SIZE;
    assert_int_equal(sp_pagemap_window(pagemap, SP_PAGEMAP_WATCHED, number, 0, SP_WINDOW_PAGES, &bits), 0);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        assert_int_equal(sp_bits_get(&bits, i), i % 2);
    assert_int_equal(sp_pagemap_window(pagemap, SP_PAGEMAP_UNWATCHED, number, 10, 500, &bits), 0);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        assert_int_equal(sp_bits_get(&bits, i), i % 2 == 0 && i >= 10 && i < 500);
    assert_int_equal(sp_pagemap_window(-1, SP_PAGEMAP_WATCHED, number, 0, 1, &bits), -EBADF);
    must(sp_unmap(window, SP_WINDOW_SIZE), "unmap");
}

static void huge_pages_are_told_apart(void **state) {
    void *p;
    assert_int_equal(sp_map_new(2 * SP_WINDOW_SIZE, SP_WINDOW_SIZE, &p), 0);
    assert_int_equal((uintptr_t)p % SP_WINDOW_SIZE, 0);
    assert_int_equal(sp_advise((uintptr_t)p, 2 * SP_WINDOW_SIZE, MADV_NOHUGEPAGE), 0);
    memset(p, 1, 2 * SP_WINDOW_SIZE);
    assert_int_equal(sp_advise((uintptr_t)p, SP_WINDOW_SIZE, MADV_HUGEPAGE), 0);
    int r = sp_advise((uintptr_t)p, SP_WINDOW_SIZE, MADV_COLLAPSE);
    if (r < 0) {
        NOT_HERE("no huge page to be had: %s", strerror(-r));
    }
    struct sp_range range;
    size_t n;
    uint64_t next;
    assert_int_equal(sp_pagemap_scan(pagemap, SP_PAGEMAP_HUGE, (uintptr_t)p,
                                     (uintptr_t)p + 2 * SP_WINDOW_SIZE, &range, 1, &n, &next),
                     0);
    assert_int_equal(n, 1);
    assert_int_equal(range.start, (uintptr_t)p);
    assert_int_equal(range.end, (uintptr_t)p + SP_WINDOW_SIZE);
    must(sp_unmap(p, 2 * SP_WINDOW_SIZE), "unmap");
}

static void exclusive_is_for_present_pages(void **state) {
    assert_int_equal(sp_pagemap_exclusive(pagemap, (sp_page){AT(region, 0) / PAGE}), 0);
    region[0] = 1;
    assert_int_equal(sp_pagemap_exclusive(pagemap, (sp_page){AT(region, 0) / PAGE}), 1);
    assert_int_equal(sp_pagemap_exclusive(pagemap, (sp_page){1}), 0);
}

static void a_window_tells_its_exclusive_pages(void **state) {
    struct idler child;
    sp_bits bits;
    void *window;
    assert_int_equal(sp_map_new(SP_WINDOW_SIZE, SP_WINDOW_SIZE, &window), 0);
    assert_int_equal(sp_advise((uintptr_t)window, SP_WINDOW_SIZE, MADV_NOHUGEPAGE), 0);
    page_fill((char *)window + 3 * PAGE, 1, 3);
    page_fill((char *)window + 511 * PAGE, 1, 511);
    assert_int_equal(sp_pagemap_exclusive_window(pagemap, (uintptr_t)window / SP_WINDOW_SIZE, &bits), 0);
    assert_int_equal(sp_bits_count(&bits), 2);
    assert_true(sp_bits_get(&bits, 3) && sp_bits_get(&bits, 511));
    idler_start(&child);
    page_fill((char *)window + 3 * PAGE, 2, 3); /* its own again */
    assert_int_equal(sp_pagemap_exclusive_window(pagemap, (uintptr_t)window / SP_WINDOW_SIZE, &bits), 0);
    idler_end(&child);
    assert_int_equal(sp_bits_count(&bits), 1);
    assert_true(sp_bits_get(&bits, 3));
    must(sp_unmap(window, SP_WINDOW_SIZE), "unmap");
}

static void wrong_questions_are_refused(void **state) {
    struct sp_range r;
    size_t n = 9;
    uint64_t next = 9;
    assert_int_equal(
        sp_pagemap_scan(pagemap, SP_PAGEMAP_PRESENT, AT(region, 0) + 1, AT(region, 1), &r, 1, &n, &next),
        -EINVAL);
    assert_int_equal(sp_pagemap_scan(-1, SP_PAGEMAP_PRESENT, AT(region, 0), AT(region, 1), &r, 1, &n, &next),
                     -EBADF);
    assert_int_equal(
        sp_pagemap_scan(pagemap, SP_PAGEMAP_PRESENT, AT(region, 0), AT(region, 1), &r, 0, &n, &next),
        -EINVAL);
    assert_int_equal(n, 9);
    assert_int_equal(next, 9);
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(reports_written_pages_once),
        TEST(peeking_does_not_arm),
        TEST(system_calls_count_as_writes),
        TEST(holes_are_not_reported_and_written_when_filled),
        TEST(pages_that_were_only_read_are_not_reported),
        TEST(goes_on_where_the_vector_was_full),
        TEST(other_mappings_are_passed_over),
        TEST(unmapped_ranges_are_passed_over),
        TEST(a_huge_sparse_mapping_costs_nothing),
        TEST(broken_pages_are_found),
        TEST(unwatched_and_broken_at_once),
        TEST(armed_and_zapped_looks_broken),
        TEST(holes_of_watched_mappings_are_watched),
        TEST(what_was_replaced_is_not_watched),
        TEST(nothing_goes_back_into_what_replaced_it),
        TEST(a_window_of_many_ranges),
        TEST(huge_pages_are_told_apart),
        TEST(exclusive_is_for_present_pages),
        TEST(a_window_tells_its_exclusive_pages),
        TEST(wrong_questions_are_refused),
    };
    require_uffd();
    return cmocka_run_group_tests(tests, NULL, NULL);
}
