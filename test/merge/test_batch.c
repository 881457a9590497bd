/* SPDX-License-Identifier: MIT */
/*
 * The primitive on its own: what becomes of pages of every kind in one batch, that everything is thawed
 * afterwards (I6), that attributes are carried over (H7), and that a process at its limit of mappings keeps
 * its pages (H4).
 */
#include "batch_rig.h"

#include <liburing.h>
#include <sys/resource.h>

#define STORE_AT 1000 /* store pages begin somewhere inside the segment */

struct rig {
    uint8_t *window;
    struct sp_segment segment;
    void *view;     /* of the whole segment */
    uint8_t *views; /* a window of address space for views of single runs; NULL: there are none */
    struct sp_batch_run runs[64];
    struct sp_batch batch;
};

static void rig_open(struct rig *r) {
    r->views = NULL;
    batch_open(&r->batch, false, &r->segment, &r->view);
    r->window = memory_new(SP_WINDOW_SIZE);
    batch_arm(&r->batch, r->window, SP_WINDOW_SIZE);
    r->batch.base = (uintptr_t)r->window;
    r->batch.runs = r->runs;
}

static void rig_close(struct rig *r) {
    memory_free(r->window, SP_WINDOW_SIZE);
    if (r->views)
        munmap(r->views, SP_WINDOW_SIZE);
    batch_close(&r->batch, &r->segment, r->view);
}

/* A run whose store pages hold content 1 of their slots. */
static void run_add(struct rig *r, unsigned slot, unsigned pages) {
    uint8_t page[SP_PAGE_SIZE] __attribute__((aligned(8)));
    for (unsigned i = slot; i < slot + pages; i++) {
        page_fill(page, 1, i);
        must(sp_segment_write(&r->segment, STORE_AT + 2 * slot + (i - slot), page), "store");
    }
    r->runs[r->batch.n++] = (struct sp_batch_run){
        .slot = slot,
        .pages = pages,
        .expected = (uint8_t *)r->view + (STORE_AT + 2 * slot) * PAGE,
        .fd = r->segment.fd_shared,
        .offset = (STORE_AT + 2 * slot) * PAGE,
    };
}

/* Each run has a view, as long ones have in a pass. */
static void runs_view(struct rig *r) {
    r->views = memory_new(SP_WINDOW_SIZE);
    memory_free(r->views, SP_WINDOW_SIZE);
    for (size_t k = 0; k < r->batch.n; k++) {
        struct sp_batch_run *run = &r->runs[k];
        uint8_t *view = r->views + run->slot * PAGE;
        must(sp_map_view((uintptr_t)view, run->pages * PAGE, run->fd, run->offset), "view");
        must(sp_advise((uintptr_t)view, run->pages * PAGE, MADV_POPULATE_READ), "populate");
        run->expected = view;
        run->view = run->view_moves = true;
    }
}

static void run_add_zeros(struct rig *r, unsigned slot, unsigned pages) {
    r->runs[r->batch.n++] = (struct sp_batch_run){.slot = slot, .pages = pages, .fd = -1};
}

static uint8_t *slot_page(struct rig *r, unsigned slot) {
    return r->window + slot * PAGE;
}

static void assert_outcomes(struct rig *r, unsigned slot, const char *want) {
    static const char letters[] = "-mzckbgr"; /* enum sp_outcome; ?: any that keeps the page */
    for (unsigned i = 0; want[i]; i++) {
        char got = letters[r->batch.outcome[slot + i]];
        if (want[i] != '?' && got != want[i])
            fail_msg("slot %u: %c, not %c", slot + i, got, want[i]);
    }
}

/* Writes and reads every page: whoever is still frozen sleeps until the watchdog comes (I6). */
static void assert_thawed(struct rig *r) {
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        __atomic_fetch_add((uint64_t *)(void *)slot_page(r, i), 1, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        __atomic_fetch_sub((uint64_t *)(void *)slot_page(r, i), 1, __ATOMIC_SEQ_CST);
}

struct idler {
    pid_t pid;
    int pipe;
};

static struct idler idler_start(void) {
    int p[2];
    struct idler c = {0};
    must(pipe2(p, O_CLOEXEC), "pipe");
    c.pid = fork();
    if (c.pid == 0) {
        char byte;
        close(p[1]);
        _exit(read(p[0], &byte, 1) != 0);
    }
    close(p[0]);
    c.pipe = p[1];
    return c;
}

static void idler_end(struct idler *c) {
    close(c->pipe);
    waitpid(c->pid, NULL, 0);
}

/* One page of every kind, each amid ordinary ones. */
static void test_outcomes(void **state) {
    struct rig r;
    rig_open(&r);
    fill(r.window, SP_WINDOW_PAGES, 1);

    /* A page that a child shares: the only one that is not written again after the fork. */
    struct idler child = idler_start();
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        if (i != 51)
            page_fill(slot_page(&r, i), 1, i);

    run_add(&r, 0, 8);
    run_add_zeros(&r, 10, 4);
    memset(slot_page(&r, 10), 0, 4 * PAGE);
    slot_page(&r, 12)[4095] = 1;
    run_add(&r, 20, 8);
    slot_page(&r, 23)[2000] ^= 1;

    run_add(&r, 30, 4);
    struct io_uring ring;
    assert_int_equal(io_uring_queue_init(4, &ring, 0), 0);
    struct iovec pinned = {slot_page(&r, 31), PAGE};
    assert_int_equal(io_uring_register_buffers(&ring, &pinned, 1), 0);

    run_add(&r, 40, 4);
    must(sp_advise((uintptr_t)slot_page(&r, 41), PAGE, MADV_DONTNEED), "hole");
    run_add(&r, 50, 4);
    run_add(&r, 60, 4);
    assert_int_equal(mlock(slot_page(&r, 61), PAGE), 0);
    run_add(&r, 70, 4);
    assert_int_equal(mprotect(slot_page(&r, 71), PAGE, PROT_NONE), 0);
    run_add(&r, 80, 4);
    bool guards = madvise(slot_page(&r, 81), PAGE, MADV_GUARD_INSTALL) == 0;
    run_add(&r, 511, 1);

    sp_batch_run(&r.batch);

    assert_outcomes(&r, 0, "mmmmmmmm--zzcz----");
    assert_outcomes(&r, 20, "mmmcmmmm--mbmm----");
    assert_outcomes(&r, 40, "mgmm------mbmm----");
    assert_outcomes(&r, 60, "?rmm------?rmm----");
    if (guards)
        assert_outcomes(&r, 80, "mrmm");
    assert_outcomes(&r, 511, "m");
    assert_true(r.batch.frozen_ns > 0);

    assert_int_equal(mprotect(slot_page(&r, 71), PAGE, PROT_READ | PROT_WRITE), 0);
    if (guards)
        assert_int_equal(madvise(slot_page(&r, 81), PAGE, MADV_GUARD_REMOVE), 0);
    assert_false(page_present(slot_page(&r, 10)));
    for (unsigned i = 0; i < 8; i++)
        assert_true(page_is(slot_page(&r, i), 1, i) && page_of_store(slot_page(&r, i)));
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++) {
        if (i == 10 || i == 11 || i == 13 || i == 41 || i == 81) {
            assert_true(page_is_zero(slot_page(&r, i)));
            continue;
        }
        uint8_t want[SP_PAGE_SIZE] __attribute__((aligned(8)));
        page_fill(want, 1, i);
        if (i == 12)
            memset(want, 0, PAGE), want[4095] = 1;
        if (i == 23)
            want[2000] ^= 1;
        assert_memory_equal(slot_page(&r, i), want, PAGE);
    }
    /* The pin still is where the application's data is. */
    int file = memfd_create("in", MFD_CLOEXEC);
    assert_int_equal(write(file, "sixteen bytes...", 16), 16);
    struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);
    io_uring_prep_read_fixed(sqe, file, slot_page(&r, 31) + 64, 16, 0, 0);
    assert_int_equal(io_uring_submit_and_wait(&ring, 1), 1);
    assert_memory_equal(slot_page(&r, 31) + 64, "sixteen bytes...", 16);
    close(file);
    io_uring_queue_exit(&ring);
    assert_thawed(&r);
    idler_end(&child);
    rig_close(&r);
}

/* Nobody else touches the pages: no userfaultfd is needed. */
static void test_quiescent(void **state) {
    struct rig r;
    rig_open(&r);
    fill(r.window, SP_WINDOW_PAGES, 1);
    run_add(&r, 0, 8);
    slot_page(&r, 5)[7] ^= 1;
    run_add_zeros(&r, 20, 3);
    memset(slot_page(&r, 20), 0, 2 * PAGE);
    int uffd = r.batch.uffd;
    r.batch.uffd = -1;
    sp_batch_run(&r.batch);
    r.batch.uffd = uffd;
    assert_outcomes(&r, 0, "mmmmmcmm------------zzc-");
    assert_false(page_present(slot_page(&r, 20)));
    slot_page(&r, 5)[7] ^= 1;
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        assert_true(i == 20 || i == 21 || page_is(slot_page(&r, i), 1, i));
    rig_close(&r);
}

/* What was put back is tracked again, and only what was put back or written looks written. */
static void test_tracking(void **state) {
    struct rig r;
    rig_open(&r);
    fill(r.window, SP_WINDOW_PAGES, 1);
    int pagemap;
    struct sp_range found[64];
    size_t n;
    uint64_t next, base = r.batch.base;
    must(sp_pagemap_open(&pagemap), "pagemap");
    must(sp_pagemap_scan(pagemap, SP_PAGEMAP_WRITTEN, base, base + SP_WINDOW_SIZE, found, 64, &n, &next),
         "scan");
    run_add(&r, 8, 4);
    slot_page(&r, 9)[0] ^= 1;
    sp_batch_run(&r.batch);
    must(sp_pagemap_scan(pagemap, SP_PAGEMAP_WRITTEN, base, base + SP_WINDOW_SIZE, found, 64, &n, &next),
         "scan");
    slot_page(&r, 9)[0] ^= 1;
    slot_page(&r, 100)[0] ^= 0;
    __atomic_store_n(slot_page(&r, 100), *slot_page(&r, 100), __ATOMIC_SEQ_CST);
    must(sp_pagemap_scan(pagemap, SP_PAGEMAP_WRITTEN, base, base + SP_WINDOW_SIZE, found, 64, &n, &next),
         "scan");
    bool nine = false, hundred = false;
    for (size_t i = 0; i < n; i++)
        for (uint64_t a = found[i].start; a < found[i].end; a += PAGE) {
            unsigned slot = (unsigned)((a - base) / PAGE);
            nine |= slot == 9;
            hundred |= slot == 100;
            assert_true(slot == 9 || slot == 100 || (slot >= 8 && slot < 12));
        }
    assert_true(nine && hundred);
    close(pagemap);
    rig_close(&r);
}

/* VmFlags of the mapping that holds `page`. */
static bool has_flag(const void *page, const char *flag) {
    char line[512];
    bool inside = false, has = false;
    FILE *f = fopen("/proc/self/smaps", "re");
    while (f && fgets(line, sizeof(line), f)) {
        unsigned long start, end;
        if (sscanf(line, "%lx-%lx ", &start, &end) == 2)
            inside = (uintptr_t)page >= start && (uintptr_t)page < end;
        else if (inside && !strncmp(line, "VmFlags:", 8))
            has = strstr(line, flag) != NULL;
    }
    if (f)
        fclose(f);
    return has;
}

/* H7 */
static void test_attributes(void **state) {
    struct rig r;
    rig_open(&r);
    fill(r.window, SP_WINDOW_PAGES, 1);
    run_add(&r, 0, 4);
    run_add(&r, 10, 4);
    run_add(&r, 20, 4);
    r.runs[1].attributes = SP_ATTR_DONTFORK;
    r.runs[2].attributes = SP_ATTR_DONTDUMP;
    sp_batch_run(&r.batch);
    assert_false(has_flag(slot_page(&r, 0), " dc") || has_flag(slot_page(&r, 0), " dd"));
    assert_true(has_flag(slot_page(&r, 10), " dc") && !has_flag(slot_page(&r, 10), " dd"));
    assert_true(has_flag(slot_page(&r, 20), " dd") && !has_flag(slot_page(&r, 20), " dc"));
    rig_close(&r);
}

/* Whether a child finds each page as it should be. */
static int child_reads(void *arg) {
    struct rig *r = arg;
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        CHILD_CHECK(page_is(slot_page(r, i), 1, i));
    return 0;
}

static bool is_mapped(const uint8_t *page) {
    return msync((void *)(uintptr_t)page, PAGE, MS_ASYNC) == 0;
}

/* What was found equal in a view is mapped with its page tables; all else is as without one. */
static void view_becomes_the_mapping(bool quiescent) {
    struct rig r;
    rig_open(&r);
    fill(r.window, SP_WINDOW_PAGES, 1);
    run_add(&r, 0, 90);
    run_add(&r, 90, 90); /* elsewhere in the store */
    run_add(&r, 200, SP_WINDOW_PAGES - 200);
    r.runs[2].attributes = SP_ATTR_DONTDUMP;
    runs_view(&r);
    slot_page(&r, 20)[7] ^= 1; /* twenty are too few to be moved */
    int uffd = r.batch.uffd;
    r.batch.uffd = quiescent ? -1 : uffd;
    sp_batch_run(&r.batch);
    r.batch.uffd = uffd;
    slot_page(&r, 20)[7] ^= 1;
    assert_int_equal(r.batch.errors, 0);
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++) {
        bool merged = i != 20 && (i < 180 || i >= 200), moved = merged && i > 20;
        assert_int_equal(r.batch.outcome[i] == SP_OUTCOME_MERGED, merged);
        assert_int_equal(sp_bits_get(&r.batch.view_moved, i), moved);
        assert_int_equal(is_mapped(r.views + i * PAGE), !moved && (i < 180 || i >= 200));
        assert_true(!moved || page_present(slot_page(&r, i)));
    }
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        assert_true(page_is(slot_page(&r, i), 1, i));
    assert_false(has_flag(slot_page(&r, 100), " dc") || has_flag(slot_page(&r, 100), " dd"));
    assert_true(has_flag(slot_page(&r, 300), " dd"));
    assert_int_equal(in_child(child_reads, &r), 0);
    assert_thawed(&r);
    rig_close(&r);
}

static void test_view(void **state) {
    view_becomes_the_mapping(false);
}

static void test_view_quiescent(void **state) {
    view_becomes_the_mapping(true);
}

struct lowered {
    int limit;
    bool quiescent;
};

/* What unmaps first and asks then for room would have none left. */
static int below_the_limit(void *arg) {
    const struct lowered *l = arg;
    struct rig r;
    rig_open(&r);
    fill(r.window, SP_WINDOW_PAGES, 1);
    run_add(&r, 100, 100);
    runs_view(&r);
    struct rlimit limit;
    CHILD_CHECK(getrlimit(l->limit, &limit) == 0);
    limit.rlim_cur = 1 << 20; /* less than there is */
    CHILD_CHECK(setrlimit(l->limit, &limit) == 0);
    r.batch.uffd = l->quiescent ? -1 : r.batch.uffd;
    sp_batch_run(&r.batch);
    CHILD_CHECK(r.batch.outcome[100] == SP_OUTCOME_MERGED && sp_bits_get(&r.batch.view_moved, 100));
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++)
        CHILD_CHECK(page_is(slot_page(&r, i), 1, i));
    return 0;
}

static void test_view_below_the_limit(void **state) {
    static const int limits[] = {RLIMIT_AS, RLIMIT_DATA};
    for (unsigned i = 0; i < 4; i++) {
        struct lowered l = {limits[i / 2], i % 2};
        assert_int_equal(in_child(below_the_limit, &l), 0);
    }
}

/* ---- H4 ---- */

/*
 * A process that has `slack` mappings left of vm.max_map_count: in a child of its own, so that no setting of
 * the machine need be changed. Neighbouring runs, of which some pages are equal and some not, so that the
 * batch needs more mappings than there are at every one of its steps.
 */
struct limit {
    unsigned slack;
    bool views;
};

static int at_the_limit(void *arg) {
    const struct limit *limit = arg;
    unsigned slack = limit->slack;
    struct rig r;
    rig_open(&r);
    fill(r.window, SP_WINDOW_PAGES, 1);
    run_add(&r, 10, 4);
    run_add(&r, 14, 4); /* touches the one before */
    run_add(&r, 30, 6);
    slot_page(&r, 12)[0] ^= 1;
    slot_page(&r, 16)[0] ^= 1;
    slot_page(&r, 32)[0] ^= 1;
    slot_page(&r, 34)[0] ^= 1;
    if (limit->views)
        runs_view(&r);

    /* Every second page of it has another protection: as many mappings as it has pages. */
    size_t room = 70000;
    uint8_t *filler = mmap(NULL, room * PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHILD_CHECK(filler != MAP_FAILED);
    size_t used = 1;
    while (used < room && mprotect(filler + used * PAGE, PAGE, PROT_NONE) == 0)
        used += 2;
    CHILD_CHECK(used < room);
    for (unsigned i = 0; i < slack; i++) { /* each gives back two */
        used -= 2;
        CHILD_CHECK(mprotect(filler + used * PAGE, PAGE, PROT_READ) == 0);
    }
    sp_batch_run(&r.batch);
    munmap(filler, room * PAGE);

    unsigned merged = 0;
    slot_page(&r, 12)[0] ^= 1;
    slot_page(&r, 16)[0] ^= 1;
    slot_page(&r, 32)[0] ^= 1;
    slot_page(&r, 34)[0] ^= 1;
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++) {
        CHILD_CHECK(page_is(slot_page(&r, i), 1, i));
        merged += r.batch.outcome[i] == SP_OUTCOME_MERGED;
    }
    for (unsigned i = 0; i < SP_WINDOW_PAGES; i++) { /* thawed: writable */
        page_fill(slot_page(&r, i), 2, i);
        CHILD_CHECK(page_is(slot_page(&r, i), 2, i));
    }
    CHILD_CHECK(merged <= 10);
    return 100 + (int)merged;
}

static void mapping_limit(bool views) {
    unsigned seen = 0;
    for (unsigned slack = 0; slack < 8; slack++) {
        struct limit limit = {slack, views};
        int status = in_child(at_the_limit, &limit);
        if (status < 100)
            fail_msg("slack %u: %d", slack, status);
        seen |= 1u << (status - 100);
    }
    assert_true(seen & 1u << 10);    /* with enough of them, all is merged */
    assert_true(seen & ~(1u << 10)); /* and with too few, not */
}

static void test_mapping_limit(void **state) {
    mapping_limit(false);
}

static void test_mapping_limit_view(void **state) {
    mapping_limit(true);
}

int main(void) {
    require_uffd();
    watchdog(100);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_outcomes),
        cmocka_unit_test(test_quiescent),
        cmocka_unit_test(test_tracking),
        cmocka_unit_test(test_attributes),
        cmocka_unit_test(test_view),
        cmocka_unit_test(test_view_quiescent),
        cmocka_unit_test(test_view_below_the_limit),
        cmocka_unit_test(test_mapping_limit),
        cmocka_unit_test(test_mapping_limit_view),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
