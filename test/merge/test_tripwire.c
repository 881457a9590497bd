/* SPDX-License-Identifier: MIT */
/*
 * H1's tripwire: mappings of registered memory that are changed by system calls which nobody announces, at
 * every moment that matters. Nothing that the program has put there may be lost, everything that was frozen
 * is thawed, and merging ends in the process, with its reason. And what is announced never trips it.
 *
 * sp_map_*, sp_unmap and sp_remap are raw system calls: used without the engine's lock they are what a
 * program does by inline assembly.
 */
#include "merge_test.h"

#include "merge/batch.h"
#include "merge/state.h"
#include "os/fault.h"

#define RUN   16 /* pages of a run */
#define N     (4 * MIB)
#define PAGES (N / PAGE)

/* ---- ways to change a mapping unseen ---- */

enum way { WAY_ANONYMOUS, WAY_FILE, WAY_UNMAPPED, WAY_MOVED, WAYS };

static uint8_t *moved_to; /* room for what is moved */

/* A private mapping of a file that is no memfd, for whose sake the kernel refuses UNREGISTER. */
static void map_program(uint8_t *p, size_t pages) {
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (fd < 0 || mmap(p, pages * PAGE, PROT_READ, MAP_PRIVATE | MAP_FIXED, fd, 0) != p)
        must(-EIO, "map the program");
    close(fd);
}

static void change(enum way way, uint8_t *p, size_t pages) {
    switch (way) {
    case WAY_ANONYMOUS:
        must(sp_map_fresh((uintptr_t)p, pages * PAGE, PROT_READ | PROT_WRITE), "map over");
        fill(p, pages, 7);
        break;
    case WAY_FILE:
        map_program(p, pages);
        break;
    case WAY_UNMAPPED:
        must(sp_unmap(p, pages * PAGE), "unmap");
        break;
    default:
        must(sp_remap((uintptr_t)p, pages * PAGE, (uintptr_t)moved_to), "move");
        break;
    }
}

/* Whether the program finds there what it has put there. */
static bool change_holds(enum way way, const uint8_t *p, size_t pages) {
    static const uint8_t magic[] = {0x7f, 'E', 'L', 'F'};
    switch (way) {
    case WAY_ANONYMOUS:
        return wrong_pages(p, pages, 7) == 0;
    case WAY_FILE:
        return memcmp(p, magic, sizeof(magic)) == 0;
    default:
        return mappings_between(p, p + pages * PAGE) == 0;
    }
}

/* ---- one batch ---- */

struct rig {
    int uffd;
    uint8_t *window;
    struct sp_segment segment;
    void *view;
    struct sp_batch_run runs[4];
    struct sp_batch batch;
};

/* Runs at 32, 64 and 96 of which the store has all, with a page of the second changed; zeros at 128. */
static void rig_open(struct rig *r) {
    memset(r, 0, sizeof(*r));
    must(sp_uffd_new(-1, &r->uffd), "userfaultfd");
    must(sp_uffd_enable(r->uffd, SP_UFFD_NEEDED), "enable");
    must(sp_pagemap_open(&r->batch.pagemap), "pagemap");
    r->window = memory_new(SP_WINDOW_SIZE);
    fill(r->window, SP_WINDOW_PAGES, 1);
    r->batch.scratch = memory_new(SP_WINDOW_SIZE);
    must(sp_uffd_register(r->uffd, (uintptr_t)r->batch.scratch, SP_WINDOW_SIZE, SP_UFFD_MODE_MISSING),
         "scratch");
    must(sp_uffd_register(r->uffd, (uintptr_t)r->window, SP_WINDOW_SIZE, SP_UFFD_MODE_WP), "arm");
    must(sp_segment_init(&r->segment), "segment");
    must(sp_segment_write_many(&r->segment, 0, r->window, SP_WINDOW_PAGES), "store");
    must(sp_map_file(r->segment.fd_shared, 0, SP_WINDOW_SIZE, false, &r->view), "view");
    for (unsigned k = 0; k < 3; k++)
        r->runs[k] = (struct sp_batch_run){.slot = 32 + 32 * k,
                                           .pages = RUN,
                                           .expected = (uint8_t *)r->view + (32 + 32 * k) * PAGE,
                                           .fd = r->segment.fd_shared,
                                           .offset = (32 + 32 * k) * PAGE};
    r->runs[3] = (struct sp_batch_run){.slot = 128, .pages = RUN, .fd = -1};
    page_fill(r->window + 70 * PAGE, 5, 0);
    memset(r->window + 128 * PAGE, 0, RUN * PAGE);
    r->batch.uffd = r->uffd;
    r->batch.base = (uintptr_t)r->window;
    r->batch.runs = r->runs;
    r->batch.n = 4;
    moved_to = memory_new(SP_WINDOW_SIZE);
}

static void rig_close(struct rig *r) {
    memory_free(r->window, SP_WINDOW_SIZE);
    memory_free(moved_to, SP_WINDOW_SIZE);
    memory_free(r->batch.scratch, SP_WINDOW_SIZE);
    must(sp_unmap(r->view, SP_WINDOW_SIZE), "unmap view");
    sp_segment_deinit(&r->segment);
    close(r->batch.pagemap);
    close(r->uffd);
}

static bool slot_holds(struct rig *r, unsigned slot) {
    const uint8_t *page = r->window + slot * PAGE;
    return slot == 70                        ? page_is(page, 5, 0)
           : slot >= 128 && slot < 128 + RUN ? page_is_zero(page)
                                             : page_is(page, 1, slot);
}

/* All but [first, last) is as it was, and can be written: nothing is frozen any more, holes included. */
static void assert_rest(struct rig *r, unsigned first, unsigned last) {
    for (unsigned slot = 0; slot < SP_WINDOW_PAGES; slot++) {
        if (slot >= first && slot < last)
            continue;
        if (!slot_holds(r, slot))
            fail_msg("slot %u is wrong", slot);
        page_fill(r->window + slot * PAGE, 9, slot);
        must(sp_advise((uintptr_t)r->window + slot * PAGE, PAGE, MADV_DONTNEED), "dontneed");
        r->window[slot * PAGE + 1] = 1;
    }
}

static bool watched(const struct rig *r, unsigned slot) {
    sp_bits bits;
    must(sp_pagemap_window(r->batch.pagemap, SP_PAGEMAP_WATCHED, (uintptr_t)r->window / SP_WINDOW_SIZE, slot,
                           slot + 1, &bits),
         "pagemap");
    return sp_bits_get(&bits, slot);
}

static size_t merged(const struct rig *r) {
    size_t n = 0;
    for (unsigned slot = 0; slot < SP_WINDOW_PAGES; slot++)
        n += r->batch.outcome[slot] == SP_OUTCOME_MERGED;
    return n;
}

/* In none of the batches that a test below disturbs. */
static void test_undisturbed(void **state) {
    struct rig r;
    rig_open(&r);
    sp_batch_run(&r.batch);
    assert_false(r.batch.replaced);
    assert_int_equal(merged(&r), 3 * RUN - 1);
    for (unsigned slot = 0; slot < SP_WINDOW_PAGES; slot++)
        assert_true(slot_holds(&r, slot));
    rig_close(&r);
}

/* Since the last look: seen before anything is touched. */
static void test_before_the_batch(void **state) {
    for (enum way way = 0; way < WAYS; way++) {
        struct rig r;
        rig_open(&r);
        change(way, r.window + 70 * PAGE, 4);
        sp_batch_run(&r.batch);
        assert_true(r.batch.replaced);
        assert_int_equal(merged(&r), 0);
        assert_int_equal(r.batch.frozen_ns, 0);
        assert_int_equal(r.batch.outcome[70], SP_OUTCOME_GONE);
        assert_int_equal(r.batch.outcome[69], SP_OUTCOME_REFUSED);
        assert_true(change_holds(way, r.window + 70 * PAGE, 4));
        if (way == WAY_MOVED)
            assert_true(page_is(moved_to, 5, 0) && page_is(moved_to + PAGE, 1, 71));
        assert_rest(&r, 70, 74);
        rig_close(&r);
    }
}

/* What the hook is to do at which call of the batch. */
static struct {
    struct rig *rig;
    const char *call;
    unsigned nth, seen;
    enum way way;
    unsigned first, pages;
} plan;

static int at_the_call(const char *call) {
    if (plan.call && !strcmp(call, plan.call) && ++plan.seen == plan.nth) {
        plan.call = NULL;
        change(plan.way, plan.rig->window + plan.first * PAGE, plan.pages);
    }
    return 0;
}

static void disturb(struct rig *r, const char *call, unsigned nth, enum way way, unsigned first,
                    unsigned pages) {
    plan.rig = r;
    plan.call = call;
    plan.nth = nth;
    plan.seen = 0;
    plan.way = way;
    plan.first = first;
    plan.pages = pages;
    sp_fault_hook = at_the_call;
    sp_batch_run(&r->batch);
    sp_fault_hook = NULL;
    assert_null(plan.call);
}

/* Between freeze and remap: nothing is mapped over it, and what is in scratch for the rest goes back. */
static void test_while_frozen(void **state) {
    static const unsigned places[] = {32, 40, 68, 96, 110, 128};
    for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++)
        for (enum way way = 0; way < WAYS; way++) {
            struct rig r;
            unsigned first = places[i];
            rig_open(&r);
            /* The mapping of a run alone can be moved while it is frozen, and what is in scratch is lost
             * (docs/hazards.md): not here. */
            if (way == WAY_MOVED)
                must(sp_advise((uintptr_t)r.window + first * PAGE, 2 * PAGE, MADV_DONTNEED), "no content");
            disturb(&r, "pagemap_window", 2, way, first, 2);
            assert_true(r.batch.replaced);
            assert_int_equal(merged(&r), 0);
            assert_int_equal(r.batch.outcome[first], SP_OUTCOME_GONE);
            assert_true(change_holds(way, r.window + first * PAGE, 2));
            assert_false(watched(&r, first) || watched(&r, first + 1)); /* left alone */
            assert_rest(&r, first, first + 2);
            rig_close(&r);
        }
}

/* Later: the pages of the second run, which has one that differs, go back or are merged by then. */
static void test_before_the_thaw(void **state) {
    for (enum way way = 0; way < WAYS; way++) {
        struct rig r;
        rig_open(&r);
        for (unsigned slot = 64; slot < 64 + RUN; slot++) /* none of it is merged */
            if (slot != 70)
                must(sp_advise((uintptr_t)r.window + slot * PAGE, PAGE, MADV_DONTNEED), "hole");
        disturb(&r, "uffd_unregister", 1, way, 72, 4);
        assert_int_equal(merged(&r), 2 * RUN);
        assert_true(change_holds(way, r.window + 72 * PAGE, 4));
        assert_true(page_is(r.window + 70 * PAGE, 5, 0));
        for (unsigned slot = 64; slot < 64 + RUN; slot++) /* thawed: holes can be read */
            assert_true((slot >= 72 && slot < 76) || slot == 70 || page_is_zero(r.window + slot * PAGE));
        rig_close(&r);
    }
}

/* Without an answer nothing is touched, and nothing is remapped; and it is no sign of anything. */
static unsigned refuse_nth;

static int refuse_scan(const char *call) {
    return !strcmp(call, "pagemap_window") && refuse_nth && !--refuse_nth ? -ENOMEM : 0;
}

static void test_no_answer(void **state) {
    for (unsigned nth = 1; nth <= 2; nth++) {
        struct rig r;
        rig_open(&r);
        refuse_nth = nth;
        sp_fault_hook = refuse_scan;
        sp_batch_run(&r.batch);
        sp_fault_hook = NULL;
        assert_int_equal(refuse_nth, 0);
        assert_false(r.batch.replaced);
        assert_int_equal(merged(&r), 0);
        assert_rest(&r, 0, 0);
        rig_close(&r);
    }
}

/* ---- the engine ---- */

/* Twins; all of it merged. */
static uint8_t *twins_merged(struct engine_rig *r) {
    uint64_t before = rig_counter(r, SP_COUNTER_pages_merged);
    uint8_t *p = rig_twins(r, N, 1);
    assert_true(rig_until(r, SP_COUNTER_pages_merged, before + PAGES, before + PAGES));
    return p;
}

static void assert_tripped(struct engine_rig *r) {
    for (unsigned i = 0; i < 3000 && sp_engine_state(r->engine) != SP_ENGINE_RAW_CALLS; i++)
        sp_sleep_ns(SECOND_NS / 100);
    assert_int_equal(sp_engine_state(r->engine), SP_ENGINE_RAW_CALLS);
}

/* Memory that is watched, with nothing to do for it: found by the look at its window. */
static void test_watched_memory_replaced(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    rig_add(&r, p, N);
    assert_true(rig_until(&r, SP_COUNTER_pages_unshared, PAGES, PAGES));
    change(WAY_ANONYMOUS, p + 40 * PAGE, 8);
    assert_tripped(&r);
    assert_int_equal(wrong_pages(p + 40 * PAGE, 8, 7) + wrong_pages(p, 40, 1), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* What was found written is unmapped before it is read: the process would die (H22). */
static uint8_t *to_unmap;
static unsigned scans;

static int unmap_before_second_look(const char *call) {
    if (to_unmap && !strcmp(call, "pagemap_scan") && ++scans == 2) {
        must(sp_unmap(to_unmap, N), "unmap");
        to_unmap = NULL;
    }
    return 0;
}

static int unmapped_before_read(void *unused) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    scans = 0;
    to_unmap = p;
    sp_fault_hook = unmap_before_second_look;
    rig_add(&r, p, N);
    CHILD_CHECK(sp_engine_wait_settled(r.engine, 10 * SECOND_NS) == -ECANCELED);
    CHILD_CHECK(sp_engine_state(r.engine) == SP_ENGINE_RAW_CALLS && !to_unmap);
    sp_fault_hook = NULL;
    r.engine = sp_engine_free(r.engine);
    return unused ? 99 : 0;
}

static void test_unmapped_before_read(void **state) {
    assert_int_equal(in_child(unmapped_before_read, NULL), 0);
}

/* Between the answer and the batch. */
static uint8_t *to_replace;

static int replace_before_batch(const char *call) {
    if (to_replace && !strcmp(call, "proc_filtered")) { /* asked right before a batch */
        must(sp_map_fresh((uintptr_t)to_replace, N, PROT_READ | PROT_WRITE), "map over");
        fill(to_replace, PAGES, 7);
        to_replace = NULL;
    }
    return 0;
}

static void test_replaced_before_batch(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = memory_new(N);
    fill(p, PAGES, 1);
    for (size_t i = 0; i < PAGES / 2; i += 2) /* single pages: a window takes many batches */
        memcpy(p + N / 2 + i * PAGE, p + i * PAGE, PAGE);
    to_replace = p;
    sp_fault_hook = replace_before_batch;
    rig_add(&r, p, N);
    assert_tripped(&r);
    sp_fault_hook = NULL;
    assert_null(to_replace);
    assert_int_equal(wrong_pages(p, PAGES, 7), 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_merged), 0);
    assert_int_equal(rig_counter(&r, SP_COUNTER_batches), 1); /* the one that saw it was the last */
    struct sp_merge_result result;
    assert_int_equal(sp_engine_merge(r.engine, (uintptr_t)p, (uintptr_t)p + N, true, &result), -ECANCELED);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* A mapping of the store that has gone without anything in its place. */
static void test_merged_memory_unmapped(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = twins_merged(&r);
    must(sp_unmap(p + 16 * PAGE, 16 * PAGE), "unmap");
    assert_tripped(&r);
    assert_int_equal(wrong_pages(p, 16, 1) + wrong_pages(p + N / 2, PAGES / 2, 1), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/*
 * I8: a mapping of the store goes on living elsewhere, and what is written in its old place is no broken page
 * of it. Its twins are written by and by, so that its references are the last ones.
 */
static void test_merged_memory_moved(void **state) {
    struct engine_rig r;
    struct sp_file_mapping unused;
    int maps;
    must(sp_maps_open(&maps), "maps");
    bool can_ask = sp_maps_file(maps, 0, &unused) != -ENOTTY;
    close(maps);
    if (!can_ask) {
        print_message("# SKIP this kernel cannot be asked about single mappings\n");
        skip();
    }
    rig_init(&r, NULL);
    uint8_t *p = twins_merged(&r), *away = memory_new(N);
    memset(p + N / 2, 3, N / 2);
    assert_true(rig_until(&r, SP_COUNTER_pages_broken, PAGES / 2, PAGES / 2));
    for (size_t at = 0; at < N / 2; at += SP_WINDOW_SIZE) {
        must(sp_remap((uintptr_t)p + at, SP_WINDOW_SIZE, (uintptr_t)away + at), "move");
        must(sp_map_fresh((uintptr_t)p + at, SP_WINDOW_SIZE, PROT_READ | PROT_WRITE), "map");
        fill(p + at, SP_WINDOW_PAGES, 7);
    }
    for (unsigned i = 0; i < 300 && sp_engine_state(r.engine) == SP_ENGINE_RUNNING; i++)
        sp_sleep_ns(SECOND_NS / 100);
    sp_sleep_ns(SECOND_NS / 2); /* what was given back would be punched by now */
    assert_int_equal(wrong_pages(away, PAGES / 2, 1), 0);
    assert_int_equal(wrong_pages(p, SP_WINDOW_PAGES, 7), 0);
    assert_tripped(&r);
    assert_int_equal(rig_counter(&r, SP_COUNTER_pages_punched), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
    memory_free(away, N);
}

/*
 * What is owed when it trips stays owed: a mapping of the store that was moved away unseen, and whose old
 * place was then unmapped as one does, is still in use. All of it happens under the look at the other window.
 */
static struct sp_engine *owing;
static uint8_t *owed, *owed_away;

static int owe_and_trip(const char *call) {
    uint64_t start = (uintptr_t)owed, end = start + SP_WINDOW_SIZE;
    if (!owed || strcmp(call, "pagemap_unwatched") || owing->worker->search_next != end / SP_WINDOW_SIZE + 1)
        return 0;
    must(sp_remap(start, SP_WINDOW_SIZE, (uintptr_t)owed_away), "move");
    sp_engine_remove_locked(owing, start, end, true);
    must(sp_unmap(owed + SP_WINDOW_SIZE, 16 * PAGE), "unmap");
    owed = NULL;
    return 0;
}

static void test_nothing_is_given_back_any_more(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = twins_merged(&r), *away = memory_new(N);
    memset(p + N / 2, 3, N / 2);
    assert_true(rig_until(&r, SP_COUNTER_pages_broken, PAGES / 2, PAGES / 2));
    owing = r.engine;
    owed_away = away;
    owed = p;
    sp_fault_hook = owe_and_trip;
    assert_tripped(&r);
    sp_fault_hook = NULL;
    sp_sleep_ns(SECOND_NS / 2);
    assert_int_equal(wrong_pages(away, PAGES / 2, 1), 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
    memory_free(away, N);
}

/* What it is for is true of its children too. */
static void test_children_stay_stopped(void **state) {
    struct engine_rig r;
    rig_init(&r, NULL);
    uint8_t *p = twins_merged(&r);
    must(sp_unmap(p + 16 * PAGE, 16 * PAGE), "unmap");
    assert_tripped(&r);
    sp_engine_stop(r.engine, SP_ENGINE_SINGLE); /* a reason that children do not share */
    fflush(NULL);
    sp_engine_fork_prepare(r.engine);
    pid_t pid = fork();
    if (pid == 0) {
        sp_engine_fork_child(r.engine);
        sp_sleep_ns(SECOND_NS / 4);
        sp_engine_kick(r.engine);
        sp_sleep_ns(SECOND_NS / 10);
        _exit(sp_engine_state(r.engine) != SP_ENGINE_RAW_CALLS || threads_now() != 1);
    }
    sp_engine_fork_parent(r.engine);
    int status = -1;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

/* ---- what is announced ---- */

/* One call as the application's side makes it, on a random part of the memory; content follows the record. */
static void announced_call(struct engine_rig *r, uint8_t *p, uint8_t *seeds, uint64_t *random) {
    size_t first = random_next(random) % PAGES, n = 1 + random_next(random) % 200;
    if (n > PAGES - first)
        n = PAGES - first;
    uint64_t start = (uintptr_t)p + first * PAGE, end = start + n * PAGE;
    struct sp_engine *e = r->engine;
    int error = 0;
    sp_engine_lock(e);
    switch (random_next(random) % 6) {
    case 0: /* mmap over it, and advised anew */
        must(sp_map_fresh(start, n * PAGE, PROT_READ | PROT_WRITE), "map");
        sp_engine_remove_locked(e, start, end, true);
        error = sp_engine_add_locked(e, start, end, true, NULL);
        memset(seeds + first, 0, n);
        break;
    case 1: /* MADV_DONTNEED */
        error = sp_engine_discard_locked(e, start, end);
        must(sp_advise(start, n * PAGE, MADV_DONTNEED), "dontneed");
        memset(seeds + first, 0, n);
        break;
    case 2: /* mprotect, and back */
        must(sp_protect(start, n * PAGE, PROT_READ), "protect");
        must(sp_engine_protection_locked(e, start, end, PROT_READ), "protect");
        must(sp_protect(start, n * PAGE, PROT_READ | PROT_WRITE), "protect");
        must(sp_engine_protection_locked(e, start, end, PROT_READ | PROT_WRITE), "protect");
        break;
    case 3: /* MADV_UNMERGEABLE and MADV_MERGEABLE */
        error = sp_engine_unmerge_locked(e, start, end);
        sp_engine_remove_locked(e, start, end, false);
        must(sp_engine_add_locked(e, start, end, true, NULL), "add");
        break;
    case 4:
        sp_engine_attributes_locked(e, start, end, SP_ATTR_DONTDUMP, 0);
        must(sp_advise(start, n * PAGE, MADV_DONTDUMP), "dontdump");
        break;
    default:
        error = sp_engine_add_locked(e, (uintptr_t)p, (uintptr_t)p + N, true, NULL);
        break;
    }
    sp_engine_unlock(e);
    must(error, "call");
}

static bool record_holds(const uint8_t *p, const uint8_t *seeds) {
    for (size_t i = 0; i < PAGES; i++)
        if (seeds[i] ? !page_is(p + i * PAGE, seeds[i], i % 64) : !page_is_zero(p + i * PAGE))
            return false;
    return true;
}

static void test_announced_calls_never_trip(void **state) {
    struct engine_rig r;
    static uint8_t seeds[PAGES];
    uint64_t random = 2463534242u, end = sp_now_ns() + 4 * SECOND_NS, calls = 0;
    rig_settings(&r);
    r.settings.v[SP_SETTING_smart_scan] = 0; /* all of it is written all the time */
    rig_begin(&r, NULL);
    uint8_t *p = memory_new(N);
    rig_add(&r, p, N);
    while (sp_now_ns() < end) {
        for (unsigned k = 0; k < 200; k++) {
            size_t i = random_next(&random) % PAGES;
            seeds[i] = (uint8_t)(1 + random_next(&random) % 3);
            page_fill(p + i * PAGE, seeds[i], i % 64);
        }
        announced_call(&r, p, seeds, &random);
        calls++;
        if (calls % 16 == 0) {
            sp_sleep_ns(SECOND_NS / 50); /* for some of it to settle */
            assert_true(record_holds(p, seeds));
        }
    }
    print_message("# %llu calls, %llu pages merged, %llu broken\n", (unsigned long long)calls,
                  (unsigned long long)rig_counter(&r, SP_COUNTER_pages_merged),
                  (unsigned long long)rig_counter(&r, SP_COUNTER_pages_broken));
    assert_int_equal(sp_engine_state(r.engine), SP_ENGINE_RUNNING);
    /* The trees look at everything twice, and here it hardly stays for that long. */
    assert_true(rig_counter(&r, SP_COUNTER_pages_merged) > (test_index() == SP_INDEX_TREE ? 0 : 1000));
    assert_true(record_holds(p, seeds));
    r.engine = sp_engine_free(r.engine);
    memory_free(p, N);
}

int main(void) {
    require_uffd();
    watchdog(150);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_undisturbed),
        cmocka_unit_test(test_before_the_batch),
        cmocka_unit_test(test_while_frozen),
        cmocka_unit_test(test_before_the_thaw),
        cmocka_unit_test(test_no_answer),
        cmocka_unit_test(test_watched_memory_replaced),
        cmocka_unit_test(test_unmapped_before_read),
        cmocka_unit_test(test_replaced_before_batch),
        cmocka_unit_test(test_merged_memory_unmapped),
        cmocka_unit_test(test_merged_memory_moved),
        cmocka_unit_test(test_nothing_is_given_back_any_more),
        cmocka_unit_test(test_children_stay_stopped),
        cmocka_unit_test(test_announced_calls_never_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
